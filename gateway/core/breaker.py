"""Admission to a resource of limited capacity, with a bounded first-in-first-out queue.

Theory of operation
-------------------
A breaker counts places. A place is taken by `try_admit`, or, when none is free, waited for by `enqueue`; it is given
back by `release`. Every operation that can free a place returns the waiters that now have one, oldest first; their
places are counted already, so that nobody can slip in between the decision and the wake-up. What a waiter *is* stays
the caller's business (a future in the gateway, an integer in the tests), which keeps this free of any event loop.

Two laws hold after each operation: admitted places never grow beyond the capacity, and nobody waits beside a free
place. The capacity may fall below what is in flight: then those requests finish, and nobody is admitted until enough
have. Knative's breaker counts running and queued requests in one total (pkg/queue/breaker.go); with the activator's
practically infinite maximum that total never sheds load, so here the queue has a limit of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["UNLIMITED", "Breaker"]

T = TypeVar("T", bound=Hashable)

UNLIMITED = 2**29
"""The capacity that stands for "no limit". With what is in flight it stays below 2**30, up to which CPython compares
integers without a call."""


class Breaker(Generic[T]):
    """`capacity` places and a queue of at most `queue_limit` waiters, which must be hashable and distinct."""

    __slots__ = ("_queue", "_queue_limit", "capacity", "in_flight")

    def __init__(self, *, capacity: int, queue_limit: int) -> None:
        self.capacity = capacity
        """Places there are now, taken ones included; UNLIMITED for no limit. Changed by `resize` only."""
        self.in_flight = 0
        """Places taken, those of woken waiters included."""
        # Ordered by arrival; a mapping because a client that leaves must free its place without a scan of the queue.
        self._queue: OrderedDict[T, None] = OrderedDict()
        self._queue_limit = queue_limit

    def __repr__(self) -> str:
        return f"<Breaker {self.in_flight}/{self.capacity}, {len(self._queue)}/{self._queue_limit} waiting>"

    @property
    def waiting(self) -> int:
        """Waiters in the queue."""
        return len(self._queue)

    def try_admit(self) -> bool:
        """Take a free place. By the second law nobody waits when one is free, so this never overtakes the queue."""
        if self.in_flight >= self.capacity:
            return False
        self.in_flight += 1
        return True

    @property
    def waiters(self) -> list[T]:
        """Who is in the queue, oldest first."""
        return list(self._queue)

    def enqueue(self, waiter: T, others: int = 0) -> bool:
        """Wait for a place; False when the queue is full, of which `others` have a bound of their own and don't count.
        Only to be called after `try_admit` said no."""
        if len(self._queue) - others >= self._queue_limit:
            return False
        self._queue[waiter] = None
        return True

    def cancel(self, waiter: T) -> bool:
        """Leave the queue; False when the waiter is not in it (any more)."""
        if waiter not in self._queue:
            return False
        del self._queue[waiter]
        return True

    def release(self) -> list[T]:
        """Give a place back; returns the waiters that now have one."""
        self.in_flight -= 1
        return self._admit() if self._queue else []

    def resize(self, capacity: int) -> list[T]:
        """Change the number of places; returns the waiters that now have one."""
        self.capacity = capacity
        return self._admit()

    def clear(self) -> list[T]:
        """Empty the queue; returns who waited, oldest first. They have no place."""
        left = list(self._queue)
        self._queue.clear()
        return left

    def _admit(self) -> list[T]:
        woken: list[T] = []
        while self._queue and self.in_flight < self.capacity:
            woken.append(self._queue.popitem(last=False)[0])
            self.in_flight += 1
        return woken
