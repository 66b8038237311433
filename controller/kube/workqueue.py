"""The queue between "something about this key changed" and a worker that reconciles it.

Theory of operation
-------------------
Level-based reconciling needs each key at most once: however many changes arrive, one reconcile that starts after the
last of them sees them all. So `WorkQueue` holds a key at most once (`add` of a waiting key does nothing), never hands a
key to two workers (`add` of a key in hand marks it, and `done` queues it again), hands out in the order of arrival, and
keeps failing keys away for a time that doubles (`add_failed`) until a success (`forget`). These are the rules of
client-go's rate-limiting queue, with its 5 ms base; the cap is 60 s instead of 1000 s, so that a repaired cause shows
within a minute.

`WorkQueue` is pure: `now` (seconds, any steady clock) is an argument. `AsyncWorkQueue` adds the waiting. Its size is
bounded by the number of objects, because a key is held once.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

K = TypeVar("K", bound="Hashable")

BACK_OFF_BASE = 0.005
BACK_OFF_CAP = 60.0
_MAX_DOUBLINGS = 40
"""Far beyond the cap; it keeps 2**n a number of sane size when a key fails for months."""


class WorkQueue(Generic[K]):
    """Keys that wait, keys in hand, keys for later."""

    __slots__ = ("_due", "_failures", "_in_hand", "_later", "_order", "_queue", "_waiting")

    def __init__(self) -> None:
        self._queue: deque[K] = deque()
        self._waiting: set[K] = set()  # in _queue, or in hand and to be queued again
        self._in_hand: set[K] = set()
        self._failures: dict[K, int] = {}
        self._due: dict[K, float] = {}
        self._later: list[tuple[float, int, K]] = []  # heap; an entry is void unless _due names its time
        self._order = 0

    def __len__(self) -> int:
        """How many keys a worker could take now, delayed ones left out."""
        return len(self._queue)

    def add(self, key: K) -> None:
        """The key is to be reconciled as soon as a worker is free."""
        if key in self._waiting:
            return
        self._waiting.add(key)
        if key not in self._in_hand:
            self._queue.append(key)

    def add_at(self, key: K, due: float) -> None:
        """The key is to be reconciled at `due`; of several times the earliest counts."""
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._order += 1
            heapq.heappush(self._later, (due, self._order, key))

    def add_failed(self, key: K, now: float) -> float:
        """The key failed: try again after its back-off, which is returned in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay: float = min(BACK_OFF_CAP, BACK_OFF_BASE * 2 ** min(failures, _MAX_DOUBLINGS))
        self.add_at(key, now + delay)
        return delay

    def forget(self, key: K) -> None:
        """The key succeeded: its next failure starts from the shortest back-off."""
        self._failures.pop(key, None)

    def promote(self, now: float) -> None:
        """Keys whose time has come wait for a worker like any other."""
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)

    def take(self, now: float) -> K | None:
        """The next key, which is in hand until `done`; None when there is none yet."""
        self.promote(now)
        if not self._queue:
            return None
        key = self._queue.popleft()
        self._waiting.discard(key)
        self._in_hand.add(key)
        return key

    def done(self, key: K) -> None:
        """The worker is finished with the key; if it was added meanwhile it queues again."""
        self._in_hand.discard(key)
        if key in self._waiting:
            self._queue.append(key)

    def next_due(self) -> float | None:
        """When the next delayed key becomes takeable."""
        while self._later and self._due.get(self._later[0][2]) != self._later[0][0]:
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else None


class AsyncWorkQueue(Generic[K]):
    """A WorkQueue on the running loop's clock, whose `take` waits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: WorkQueue[K] = WorkQueue()
        self._takers: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.Handle | None = None
        self._armed_for = 0.0  # uvloop's handle for a time that has come already can't say when it was due

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, key: K, after: float = 0.0) -> None:
        """`after` in seconds; 0 hands the key to a free worker at once."""
        if after > 0:
            self._queue.add_at(key, self._loop.time() + after)
            self._arm()
        else:
            self._queue.add(key)
            self._wake()

    def add_failed(self, key: K) -> float:
        """As in `WorkQueue`, by the loop's clock: seconds until the next try."""
        delay = self._queue.add_failed(key, self._loop.time())
        self._arm()
        return delay

    def forget(self, key: K) -> None:
        """The key succeeded: its next failure starts from the shortest back-off."""
        self._queue.forget(key)

    def done(self, key: K) -> None:
        """The worker is finished with the key; one added meanwhile goes to the next taker."""
        self._queue.done(key)
        self._wake()

    async def take(self) -> K:
        """Wait for the next key, which is in hand until `done`. A cancelled taker loses no key."""
        while (key := self._queue.take(self._loop.time())) is None:
            taker: asyncio.Future[None] = self._loop.create_future()
            self._takers.append(taker)
            try:
                await taker
            except asyncio.CancelledError:
                with contextlib.suppress(ValueError):
                    self._takers.remove(taker)
                self._wake()  # if this one was woken for a key, somebody else must take it now
                raise
        return key

    def close(self) -> None:
        """No timer is left behind."""
        if self._timer is not None:
            self._timer.cancel()

    def _wake(self) -> None:
        """One waiting worker looks at the queue, if there is something to find."""
        while self._takers and len(self._queue):
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                return

    def _arm(self) -> None:
        due = self._queue.next_due()
        if due is None or (self._timer is not None and self._armed_for <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._armed_for = self._loop.call_at(due, self._on_due), due

    def _on_due(self) -> None:
        self._timer = None
        self._queue.promote(self._loop.time())
        for _ in range(len(self._queue)):
            self._wake()
        self._arm()  # also when the clock was still short of the due time: uvloop counts whole milliseconds
