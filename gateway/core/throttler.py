"""One revision's endpoints as capacity, and who gets a place at which of them.

Theory of operation
-------------------
Each endpoint is a `Place`: open (its probe passed) or closed, with its requests in flight. A revision with a limit
(`container_concurrency` > 0) has that many slots per open place; without a limit any open place means unlimited
capacity. A `Breaker` decides whether a request gets in or waits, a policy of `core.lb` decides where it goes.

The breaker's capacity is always `in flight + free slots of open places`. That one formula covers what the product
`endpoints × limit` does not: requests that still run on an endpoint that went away, or that failed its probe, occupy
nothing that somebody else could use, and nobody may wait beside a free slot because of them.

An endpoint is the same one as long as host, port and pod are; it keeps its count through an update. One that leaves
gets no new request at once, and its count is kept until the last request has finished, so that an endpoint that comes
back meanwhile is not filled above its limit.

Where another worker deals out the places of a revision with a limit (`core.ownership`), the throttler is held back: it
is the queue of those who wait and counts what is at each place, but has no capacity of its own. `returned` is told of
each request that is over, in the branch of `release` that an open place within its limit does not come through.

A draining endpoint is kept closed for new requests whatever its probe says, which is remembered (`is_held`): taken into
service again it is open at once. When the last request at one is over, `on_drained` is told; an endpoint that is open
pays nothing for that.

Everything that can free a slot returns the waiters to wake with the place each got; the slots are already counted.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from gateway.contract import Endpoint
from gateway.core.breaker import UNLIMITED, Breaker
from gateway.core.lb import FIRST_AVAILABLE_LIMIT, first_available, random_choice_2, round_robin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["Place", "PlaceId", "Throttler"]

T = TypeVar("T", bound=Hashable)


class PlaceId(NamedTuple):
    """What makes an endpoint the same one over updates: everything but Kubernetes' opinion of it."""

    host: str
    port: int
    pod: str


class Place:
    """One endpoint as seen by the throttler. `endpoint` is the newest description of it, `address` is host:port for
    logs. `is_open`: it gets new requests; `is_held`: it would, if it were not draining. `opened_at`: since when, for
    who opens it to set."""

    __slots__ = ("address", "endpoint", "id", "in_flight", "is_held", "is_open", "opened_at")

    def __init__(self, endpoint: Endpoint) -> None:
        self.id = PlaceId(endpoint.host, endpoint.port, endpoint.pod)
        self.address = f"{endpoint.host}:{endpoint.port}".encode()
        self.endpoint = endpoint
        self.in_flight = 0
        self.is_open = False
        self.is_held = False
        self.opened_at = 0.0

    def __repr__(self) -> str:
        return f"<Place {self.id.host}:{self.id.port} {'open' if self.is_open else 'closed'}, {self.in_flight}>"

    def obey(self) -> None:
        """Close or open as the endpoint's draining says."""
        if self.endpoint.draining:
            self.is_held = self.is_held or self.is_open
            self.is_open = False
        elif self.is_held:
            self.is_held, self.is_open = False, True

    def shut(self) -> None:
        """No new request until its next probe has passed."""
        self.is_open = self.is_held = False


def _nobody_asks() -> None:
    pass


Woken = list[tuple[T, Place]]


class Throttler(Generic[T]):
    """The places of one revision. `point` arguments are numbers in [0, 1) that stand for chance. `on_drained` is called
    when a draining place has no request any more."""

    __slots__ = (
        "_breaker",
        "_leaving",
        "_limit",
        "_most",
        "_next",
        "_on_drained",
        "_only",
        "_open",
        "_places",
        "_points",
        "_returned",
    )

    def __init__(
        self, *, container_concurrency: int, queue_limit: int, on_drained: Callable[[], None] = _nobody_asks
    ) -> None:
        self._on_drained = on_drained
        self._limit = container_concurrency
        self._most = container_concurrency  # at a place whose release frees a slot here
        self._returned: Callable[[Place], None] | None = None  # to be told of releases, while held back
        self._breaker: Breaker[T] = Breaker(capacity=0, queue_limit=queue_limit)
        self._places: dict[PlaceId, Place] = {}
        self._leaving: dict[PlaceId, Place] = {}
        self._open: list[Place] = []  # in the fixed order of their ids, which `first_available` fills
        self._only: Place | None = None  # the open place, if there is one only and no limit: nothing to choose
        self._points: dict[T, float] = {}
        self._next = 0

    def __repr__(self) -> str:
        return f"<Throttler {self._breaker!r} {list(self._places.values())!r}>"

    @property
    def waiting(self) -> int:
        """Requests parked for this revision."""
        return self._breaker.waiting

    @property
    def waiters(self) -> list[T]:
        """Who waits, oldest first."""
        return self._breaker.waiters

    @property
    def deals(self) -> bool:
        """Whether places are given out here."""
        return self._returned is None

    @property
    def used(self) -> dict[PlaceId, int]:
        """The requests at each place that has any, those that left included."""
        places = (*self._places.values(), *self._leaving.values())
        return {place.id: place.in_flight for place in places if place.in_flight}

    @property
    def in_flight(self) -> int:
        """Requests at all places, those that left included."""
        return self._breaker.in_flight

    @property
    def capacity(self) -> int:
        """Slots of the open places together."""
        if self._limit == 0:
            return UNLIMITED if self._open else 0
        return self._limit * len(self._open)

    @property
    def places(self) -> Sequence[Place]:
        """The present places, open or not."""
        return list(self._places.values())

    def try_acquire(self, point: float) -> Place | None:
        """A place for one request, its slot taken; None when every slot is."""
        breaker = self._breaker  # its `try_admit`, written out: every request comes this way
        if breaker.in_flight >= breaker.capacity:
            return None
        breaker.in_flight += 1
        place = self._only or self._choose(point)
        place.in_flight += 1
        return place

    def enqueue(self, waiter: T, point: float, others: int = 0) -> bool:
        """Wait for a place; False when the queue is full, of which `others` don't count. Only to be called after
        `try_acquire` said None."""
        if not self._breaker.enqueue(waiter, others):
            return False
        self._points[waiter] = point
        return True

    def cancel(self, waiter: T) -> bool:
        """Leave the queue; False when the waiter is not in it (any more)."""
        if not self._breaker.cancel(waiter):
            return False
        del self._points[waiter]
        return True

    def release(self, place: Place) -> Woken[T]:
        """Give a slot back."""
        if not place.is_open or (self._limit and place.in_flight > self._most):
            # The slot is not free for anybody: it goes instead of being handed on.
            self._breaker.resize(self._breaker.capacity - 1)
            place.in_flight -= 1
            if not place.in_flight:
                self._emptied(place)
            if self._returned is not None:
                self._returned(place)
        else:
            place.in_flight -= 1
        breaker = self._breaker
        if breaker.in_flight < breaker.capacity:  # then nobody waits: the breaker's second law
            breaker.in_flight -= 1
            return []
        woken = breaker.release()
        return self._placed(woken) if woken else []

    def _emptied(self, place: Place) -> None:
        self._leaving.pop(place.id, None)
        if place.endpoint.draining:
            self._on_drained()

    def update(self, endpoints: Iterable[Endpoint], container_concurrency: int) -> Woken[T]:
        """Replace the set of endpoints and the limit. One listed twice counts once; new ones start closed."""
        old = self._places
        self._limit = container_concurrency
        self._most = container_concurrency if self.deals else 0
        self._places = {}
        for endpoint in endpoints:
            place_id = PlaceId(endpoint.host, endpoint.port, endpoint.pod)
            if place_id in self._places:
                continue
            place = old.pop(place_id, None) or self._leaving.pop(place_id, None) or Place(endpoint)
            place.endpoint = endpoint
            place.obey()
            self._places[place_id] = place
        for place in old.values():
            place.shut()
            if place.in_flight:
                self._leaving[place.id] = place
        return self._recount()

    def open(self, place: Place) -> Woken[T]:
        """The place takes traffic from now on, if it is still one of this revision's; a draining one when it no longer
        is."""
        if self._places.get(place.id) is not place or place.is_open:
            return []
        place.is_open = True
        place.obey()
        return self._recount() if place.is_open else []

    def close(self, place: Place) -> None:
        """The place gets no new request until it is opened again."""
        was_open = place.is_open
        place.shut()
        if was_open:
            self._recount()

    def clear(self) -> list[T]:
        """Empty the queue; returns who waited, oldest first. They have no place."""
        self._points.clear()
        return self._breaker.clear()

    def hold_back(self, returned: Callable[[Place], None]) -> None:
        """Give out no place until `deal`, and tell `returned` of each request that is over meanwhile. For a revision
        with a limit."""
        self._returned = returned
        self._most = 0
        self._recount()

    def deal(self) -> Woken[T]:
        """Give out places again."""
        self._returned = None
        self._most = self._limit
        return self._recount()

    def place(self, place_id: PlaceId) -> Place:
        """The place that is called so. One that is not of the revision is new and closed: it may be known elsewhere
        sooner than here."""
        known = self._places.get(place_id) or self._leaving.get(place_id)
        return known or Place(Endpoint(*place_id, ready=True))

    def shift(self, changes: Mapping[PlaceId, int]) -> Woken[T]:
        """So many requests more, or fewer, are at these places; nobody here began or ended them."""
        for place_id, change in changes.items():
            if not change:
                continue
            place = self.place(place_id)
            place.in_flight += change
            self._breaker.in_flight += change
            if not place.in_flight:
                self._emptied(place)
            elif place_id not in self._places:
                self._leaving[place_id] = place
        return self._recount()

    def _recount(self) -> Woken[T]:
        self._open = sorted((place for place in self._places.values() if place.is_open), key=lambda place: place.id)
        self._only = None
        if self._limit == 0:
            free = UNLIMITED if self._open else 0
            if len(self._open) == 1:
                self._only = self._open[0]
        elif self._returned is not None:
            free = 0
        else:
            free = sum(max(0, self._limit - place.in_flight) for place in self._open)
        return self._placed(self._breaker.resize(self._breaker.in_flight + free))

    def _placed(self, woken: list[T]) -> Woken[T]:
        placed: Woken[T] = []
        for waiter in woken:
            place = self._choose(self._points.pop(waiter))
            place.in_flight += 1
            placed.append((waiter, place))
        return placed

    def _choose(self, point: float) -> Place:
        places = self._open
        if self._limit == 0:
            index = random_choice_2(places, point)
        elif self._limit <= FIRST_AVAILABLE_LIMIT:
            index = first_available(places, self._limit)
        else:
            index = round_robin(places, self._limit, self._next)
        if index is None:
            raise AssertionError(f"the breaker admitted a request that no place takes: {self!r}")
        self._next = index + 1
        return places[index]
