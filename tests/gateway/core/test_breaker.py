from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.core.breaker import Breaker


def test_queue_limit() -> None:
    """One runs, ten wait, the twelfth is refused; a release admits exactly one waiter."""
    breaker: Breaker[int] = Breaker(capacity=1, queue_limit=10)
    assert breaker.try_admit()
    assert not breaker.try_admit()
    assert all(breaker.enqueue(waiter) for waiter in range(10))
    assert not breaker.enqueue(10)
    assert breaker.release() == [0]


def test_capacity_zero_blocks_until_it_is_raised() -> None:
    """With no capacity everybody waits; a raise releases min(new capacity, waiters)."""
    breaker: Breaker[int] = Breaker(capacity=0, queue_limit=10)
    assert not breaker.try_admit()
    assert all(breaker.enqueue(waiter) for waiter in range(5))
    assert breaker.resize(3) == [0, 1, 2]
    assert breaker.resize(100) == [3, 4]


def test_capacity_below_what_is_in_flight_lets_it_finish() -> None:
    """After a reduction nobody is admitted until enough have finished."""
    breaker: Breaker[int] = Breaker(capacity=3, queue_limit=10)
    assert all(breaker.try_admit() for _ in range(3))
    assert breaker.resize(1) == []
    assert breaker.enqueue(0)
    assert breaker.release() == []
    assert breaker.release() == []
    assert breaker.release() == [0]


def test_clear_hands_back_the_queue_in_order() -> None:
    """Whoever waited is returned, oldest first, and holds no place."""
    breaker: Breaker[int] = Breaker(capacity=0, queue_limit=3)
    for waiter in (2, 0, 1):
        breaker.enqueue(waiter)
    assert breaker.clear() == [2, 0, 1]
    assert (breaker.waiting, breaker.in_flight) == (0, 0)


class BreakerLaws(RuleBasedStateMachine):
    """FIFO; no admission at or above capacity; nobody waits beside a free place; who cancels leaves the queue."""

    LIMIT = 4

    def __init__(self) -> None:
        super().__init__()
        self.breaker: Breaker[int] = Breaker(capacity=2, queue_limit=self.LIMIT)
        self.capacity = 2
        self.in_flight = 0
        self.queue: list[int] = []
        self.next_waiter = 0

    def woken(self, waiters: list[int]) -> None:
        assert waiters == self.queue[: len(waiters)]
        del self.queue[: len(waiters)]
        self.in_flight += len(waiters)
        if waiters:
            assert self.in_flight <= self.capacity

    @rule()
    def admit(self) -> None:
        admitted = self.breaker.try_admit()
        assert admitted == (self.in_flight < self.capacity)
        if admitted:
            self.in_flight += 1
            return
        accepted = self.breaker.enqueue(self.next_waiter)
        assert accepted == (len(self.queue) < self.LIMIT)
        if accepted:
            self.queue.append(self.next_waiter)
        self.next_waiter += 1

    @precondition(lambda self: self.in_flight > 0)
    @rule()
    def release(self) -> None:
        self.in_flight -= 1
        self.woken(self.breaker.release())

    @rule(capacity=st.integers(0, 6))
    def resize(self, capacity: int) -> None:
        self.capacity = capacity
        self.woken(self.breaker.resize(capacity))

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.queue))
        assert self.breaker.cancel(waiter)
        assert not self.breaker.cancel(waiter)
        self.queue.remove(waiter)

    @invariant()
    def counts_agree(self) -> None:
        assert (self.breaker.in_flight, self.breaker.waiting) == (self.in_flight, len(self.queue))

    @invariant()
    def nobody_waits_beside_a_free_place(self) -> None:
        assert not self.queue or self.in_flight >= self.capacity


TestBreakerLaws = BreakerLaws.TestCase
