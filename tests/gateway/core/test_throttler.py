from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.contract import Endpoint
from gateway.core.throttler import Place, PlaceId, Throttler


def endpoint(number: int) -> Endpoint:
    return Endpoint("127.0.0.1", 20000 + number, f"pod-{number}")


def opened(limit: int, count: int, queue_limit: int = 100) -> Throttler[int]:
    throttler: Throttler[int] = Throttler(container_concurrency=limit, queue_limit=queue_limit)
    throttler.update([endpoint(number) for number in range(count)], limit)
    for place in throttler.places:
        throttler.open(place)
    return throttler


def take(throttler: Throttler[int], count: int) -> list[Place]:
    places = [throttler.try_acquire(0.0) for _ in range(count)]
    assert None not in places
    return [place for place in places if place is not None]


@pytest.mark.parametrize(("limit", "count", "capacity"), [(10, 3, 30), (1, 1, 1), (10, 0, 0), (0, 0, 0)])
def test_capacity_is_limit_times_open_endpoints(limit: int, count: int, capacity: int) -> None:
    """Exactly `capacity` requests get a place."""
    throttler = opened(limit, count)
    assert throttler.capacity == capacity
    take(throttler, capacity)
    assert throttler.try_acquire(0.0) is None


def test_no_limit_means_any_open_endpoint_takes_everything() -> None:
    """Without a limit nothing waits as soon as one endpoint is open."""
    throttler = opened(0, 1)
    take(throttler, 5000)
    assert throttler.in_flight == 5000


def test_unprobed_endpoints_have_no_capacity() -> None:
    """An endpoint counts from the moment it is opened; whoever waits is dispatched then, oldest first."""
    throttler: Throttler[int] = Throttler(container_concurrency=2, queue_limit=10)
    throttler.update([endpoint(0)], 2)
    assert throttler.try_acquire(0.0) is None
    for waiter in range(3):
        assert throttler.enqueue(waiter, 0.0)
    [place] = throttler.places
    assert throttler.open(place) == [(0, place), (1, place)]
    assert throttler.waiting == 1
    assert throttler.release(place) == [(2, place)]


def test_surviving_endpoints_keep_their_count() -> None:
    """An update with the same endpoint, whatever Kubernetes says of it, leaves its requests counted."""
    throttler = opened(1, 1)
    [place] = take(throttler, 1)
    throttler.update([Endpoint("127.0.0.1", 20000, "pod-0", ready=True)], 1)
    assert place.endpoint.ready
    assert throttler.try_acquire(0.0) is None
    throttler.release(place)
    assert throttler.try_acquire(0.0) is place


def test_a_leaving_endpoint_gets_no_new_request() -> None:
    """Its requests finish, and free nothing for anybody else."""
    throttler = opened(1, 2)
    first, _second = take(throttler, 2)
    throttler.update([endpoint(1)], 1)
    throttler.enqueue(7, 0.0)
    assert throttler.release(first) == []
    assert throttler.waiting == 1


def test_nobody_waits_beside_a_free_slot_because_of_a_leaving_endpoint() -> None:
    """A request still running on a removed endpoint does not count against the endpoints that stay."""
    throttler = opened(1, 2)
    [first] = take(throttler, 1)
    throttler.update([endpoint(1)], 1)
    assert throttler.try_acquire(0.0) not in (None, first)


def test_an_endpoint_that_comes_back_is_not_overfilled() -> None:
    """Requests from before it left still count when it returns."""
    throttler = opened(1, 1)
    [place] = take(throttler, 1)
    throttler.update([], 1)
    throttler.update([endpoint(0)], 1)
    assert throttler.open(place) == []
    assert throttler.try_acquire(0.0) is None


def drained(number: int) -> Endpoint:
    return replace(endpoint(number), draining=True)


def test_a_draining_endpoint_gets_no_new_request_and_comes_back_open() -> None:
    """What it has it finishes, freeing nothing for anybody else; taken into service again it serves those who wait."""
    throttler = opened(2, 1)
    [place] = take(throttler, 1)
    throttler.update([drained(0)], 2)
    assert throttler.capacity == 0
    assert throttler.try_acquire(0.0) is None
    assert throttler.enqueue(7, 0.0)
    assert throttler.release(place) == []
    assert throttler.update([endpoint(0)], 2) == [(7, place)]


@pytest.mark.parametrize("fails", [False, True])
def test_a_probe_says_what_a_draining_endpoint_will_be(fails: bool) -> None:
    """One that passes meanwhile opens at the end of the drain; after a failed connect it has to pass anew."""
    throttler: Throttler[int] = Throttler(container_concurrency=1, queue_limit=9)
    throttler.update([drained(0)], 1)
    [place] = throttler.places
    assert throttler.open(place) == []
    if fails:
        throttler.close(place)
    throttler.update([endpoint(0)], 1)
    assert throttler.capacity == (0 if fails else 1)


def test_the_end_of_the_last_request_at_a_draining_endpoint_is_told() -> None:
    """Once, when it is over; never for an endpoint that is in service."""
    told: list[int] = []
    throttler: Throttler[int] = Throttler(
        container_concurrency=0, queue_limit=9, on_drained=lambda: told.append(first.in_flight)
    )
    throttler.update([endpoint(0), endpoint(1)], 0)
    for place in throttler.places:
        throttler.open(place)
    [first, second] = throttler.places
    held = [throttler.try_acquire(0.0) for _ in range(3)]
    assert held == [first, second, first]
    throttler.update([drained(0), endpoint(1)], 0)
    throttler.release(first)
    throttler.release(second)
    assert told == []
    throttler.release(first)
    assert told == [0]


def test_first_available_for_small_limits_round_robin_for_large() -> None:
    """Limits up to 3 fill endpoints in order, larger ones go around."""
    assert [place.id.port for place in take(opened(2, 3), 4)] == [20000, 20000, 20001, 20001]
    assert [place.id.port for place in take(opened(4, 3), 4)] == [20000, 20001, 20002, 20000]


def test_round_robin_passes_over_the_full_ones_and_comes_back_to_them() -> None:
    """An endpoint whose slots are taken has no turn; with a free one it has its next."""
    throttler = opened(4, 3)
    first, second, third = sorted(throttler.places, key=lambda place: place.id)
    held = take(throttler, 12)
    assert [held.count(place) for place in (first, second, third)] == [4, 4, 4]
    throttler.release(second)
    throttler.release(third)
    throttler.release(third)
    assert take(throttler, 3) == [second, third, third]


def test_one_that_is_held_back_gives_nothing_out() -> None:
    """It counts what is at its places and tells of what is over; who waits is served when it deals again."""
    throttler = opened(2, 1)
    [place] = take(throttler, 1)
    returned: list[Place] = []
    throttler.hold_back(returned.append)
    assert not throttler.deals
    assert throttler.try_acquire(0.0) is None
    assert throttler.enqueue(1, 0.0)
    assert throttler.release(place) == []
    assert returned == [place]
    assert throttler.deal() == [(1, place)]
    assert throttler.release(place) == []
    assert returned == [place]


def test_requests_that_others_have_at_a_place_count() -> None:
    """A place that is known elsewhere only counts until it is empty, and is not of the revision."""
    throttler = opened(2, 1)
    [place] = throttler.places
    other = PlaceId("127.0.0.1", 1, "other")
    assert throttler.shift({place.id: 2, other: 1}) == []
    assert throttler.used == {place.id: 2, other: 1}
    assert throttler.try_acquire(0.0) is None
    assert throttler.enqueue(1, 0.0)
    assert throttler.shift({place.id: -1, other: -1}) == [(1, place)]
    assert (throttler.used, throttler.places) == ({place.id: 2}, [place])


def test_waiters_with_a_bound_of_their_own_take_no_room() -> None:
    """The queue is full when those that count are as many as may wait."""
    throttler = opened(1, 0, queue_limit=1)
    assert throttler.enqueue(1, 0.0)
    assert not throttler.enqueue(2, 0.0)
    assert throttler.enqueue(2, 0.0, others=1)
    assert throttler.waiters == [1, 2]


class ThrottlerLaws(RuleBasedStateMachine):
    """No open endpoint above its limit through an admission; nobody waits beside a free slot; first in, first out; each
    goes where the policy of the limit says."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 2
        self.throttler: Throttler[int] = Throttler(container_concurrency=2, queue_limit=5)
        self.held: list[Place] = []
        self.queue: list[int] = []
        self.next_waiter = 0

    def woken(self, pairs: list[tuple[int, Place]]) -> None:
        assert [waiter for waiter, _ in pairs] == self.queue[: len(pairs)]
        del self.queue[: len(pairs)]
        for _, place in pairs:
            self.got(place)

    def got(self, place: Place) -> None:
        self.held.append(place)
        assert place.is_open
        assert not place.endpoint.draining
        assert self.limit == 0 or self.held.count(place) <= self.limit
        others = [one for one in self.throttler.places if one.is_open and one is not place]
        if self.limit == 0:
            before = self.held.count(place) - 1
            assert not others or any(self.held.count(one) >= before for one in others)
        elif self.limit <= 3:
            assert all(self.held.count(one) >= self.limit for one in others if one.id < place.id)

    @rule(point=st.floats(0, 1, exclude_max=True))
    def request(self, point: float) -> None:
        place = self.throttler.try_acquire(point)
        if place is not None:
            assert not self.queue
            self.got(place)
        elif self.throttler.enqueue(self.next_waiter, point):
            self.queue.append(self.next_waiter)
        else:
            assert len(self.queue) == 5
        self.next_waiter += 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        place = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.woken(self.throttler.release(place))

    @rule(
        numbers=st.dictionaries(st.integers(0, 3), st.booleans()),
        limit=st.sampled_from([0, 1, 3, 4, 5]),
    )
    def update(self, numbers: dict[int, bool], limit: int) -> None:
        self.limit = limit
        self.woken(
            self.throttler.update(
                [replace(endpoint(number), draining=draining) for number, draining in numbers.items()], limit
            )
        )

    @precondition(lambda self: self.throttler.places)
    @rule(data=st.data(), is_open=st.booleans())
    def probe(self, data: st.DataObject, is_open: bool) -> None:
        place = data.draw(st.sampled_from(self.throttler.places))
        if is_open:
            self.woken(self.throttler.open(place))
        else:
            self.throttler.close(place)

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.queue))
        assert self.throttler.cancel(waiter)
        self.queue.remove(waiter)

    @invariant()
    def counts_agree(self) -> None:
        assert self.throttler.in_flight == len(self.held)
        for place in self.throttler.places:
            assert place.in_flight == self.held.count(place)

    @invariant()
    def nobody_waits_beside_a_free_slot(self) -> None:
        free = [
            place
            for place in self.throttler.places
            if (place.is_open or (place.is_held and not place.endpoint.draining))
            and (self.limit == 0 or place.in_flight < self.limit)
        ]
        assert not (self.queue and free)


TestThrottlerLaws = ThrottlerLaws.TestCase
