"""Hands out leases on endpoints, and parks the requests of cold or full revisions until there is one.

Theory of operation
-------------------
The warm path is `try_acquire`: synchronous, no task, no future. When it says None the request waits in `acquire`, in a
queue bounded per revision and per worker (`queue_limit`, `worker_queue_limit`; at either bound QueueFull), for at most
the queue time-out (QueueTimeout): the revision's own, else the gateway's, else the one for the revision's requests. A
waiter is a future; `core.throttler` says whose turn it is and where the request goes. A client that leaves cancels its
`acquire`, and the place in the queue is free.

Where the controller says that a revision's pods can't start (a command that is not there, a crash at each start), those
who wait are told so at once (RevisionFailed), and who comes after them too, for as long as no endpoint serves. Their
requests count as load all the same, so the controller goes on trying.

An endpoint has capacity when this worker's own probe of it passed; the requests that wait for it are sent out in that
same callback. Its capacity goes when it leaves the snapshot, when Kubernetes withdraws its readiness, or when a
connect to it fails (`Lease.fail`); in the last two cases it is probed again. Where the gateway can't run the
revision's probe (`Revision.probe` None), Kubernetes' readiness decides alone, and a failed connect closes the endpoint
until it takes connections again.

An endpoint that the controller drains gets no new request. What is in flight at the endpoints of a revision that is
`shrinking` is to be reported (`on_in_flight`) when an update changes it and when a draining endpoint has become idle. A
request that finds draining endpoints only calls for one of them (`on_stranded`): having it back takes milliseconds.

Between deciding and acting there is no `await`; whatever ends a wait (a place, a time-out, a removed revision, a
cancel) finds every count right. A waiter that was given a place and cancelled in the same turn hands it on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from functools import partial
from random import random
from time import perf_counter
from typing import TYPE_CHECKING

from gateway.activator.prober import Prober
from gateway.contract import Probe
from gateway.core.throttler import Place, Throttler
from gateway.errors import GatewayError, NoRevision, QueueFull, QueueTimeout, RevisionFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from gateway.contract import Endpoint, Revision, RevisionId, Snapshot, Update
    from gateway.core.throttler import Woken

__all__ = ["Activator", "Counters", "Lease"]

_Waiter = asyncio.Future[Place | GatewayError]


def _nobody_asks(_revision: RevisionId) -> None:
    pass


@dataclass(slots=True)
class Counters:
    """Totals since the start. `cold_starts` counts how often a revision without an open endpoint got a waiter."""

    parked: int = 0
    queue_full: int = 0
    timeouts: int = 0
    cold_starts: int = 0


class _Unit:
    """One revision at this worker. `leases` has those of the places that have had a request since the last update."""

    __slots__ = ("leases", "revision", "throttler")

    def __init__(self, revision: Revision, queue_limit: int, on_drained: Callable[[], None]) -> None:
        self.revision = revision
        self.throttler: Throttler[_Waiter] = Throttler(
            container_concurrency=revision.container_concurrency, queue_limit=queue_limit, on_drained=on_drained
        )
        self.leases: dict[Place, Lease] = {}

    @property
    def is_stranded(self) -> bool:
        """There would be an endpoint, but for a drain."""
        return self.throttler.capacity == 0 and any(place.is_held for place in self.throttler.places)


class Lease:
    """The right to send one request to `endpoint`, each time that it is handed out; `address` is the endpoint's for
    logs. All requests at an endpoint share one object: making it cost as much as choosing the endpoint."""

    __slots__ = ("_activator", "_place", "_unit", "address", "endpoint")

    def __init__(self, activator: Activator, unit: _Unit, place: Place) -> None:
        self._activator = activator
        self._unit = unit
        self._place = place
        self.address = place.address
        self.endpoint: Endpoint = place.endpoint

    @property
    def opened_at(self) -> float:
        """When the endpoint began to take requests, on perf_counter's clock."""
        return self._place.opened_at

    def release(self) -> None:
        """The request is over: give its slot to whoever waits for it. To be called exactly once for each request."""
        unit = self._unit
        woken = unit.throttler.release(self._place)
        if woken:
            _dispatch(unit, woken)

    def fail(self) -> None:
        """The endpoint refused the connection: nobody else is sent there until a probe passes. Does not release."""
        self._activator._suspect(self._unit, self._place)


class Activator:
    """All revisions of one worker. To be made and used within the running loop.

    `queue_timeout` in seconds, for revisions that name none of their own; None means their request time-out.
    `on_in_flight(revision)`: what `in_flight(revision)` says is news. `on_stranded(revision)`: a request waits there
    because all endpoints are draining. `shrinking` are the revisions that `in_flight` knows.
    """

    def __init__(
        self,
        *,
        queue_limit: int = 10_000,
        worker_queue_limit: int = 20_000,
        queue_timeout: float | None = None,
        on_in_flight: Callable[[RevisionId], None] = _nobody_asks,
        on_stranded: Callable[[RevisionId], None] = _nobody_asks,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_in_flight = on_in_flight
        self._on_stranded = on_stranded
        self.shrinking: set[RevisionId] = set()
        self._units: dict[RevisionId, _Unit] = {}
        # Removed with requests in flight: these count, should the revision come back while they run.
        self._removed: dict[RevisionId, _Unit] = {}
        self._queue_limit = queue_limit
        self._worker_queue_limit = worker_queue_limit
        self._queue_timeout = queue_timeout
        self._prober = Prober()
        self.counters = Counters()
        self.parked = 0

    @property
    def probe_failures(self) -> int:
        """Probes that did not pass, since the start."""
        return self._prober.failures

    def waiting(self) -> list[tuple[RevisionId, int]]:
        """The revisions that requests wait for, and how many."""
        return [(key, unit.throttler.waiting) for key, unit in self._units.items() if unit.throttler.waiting]

    def in_flight(self, revision: RevisionId) -> Mapping[str, int] | None:
        """The requests at each pod of a revision that is shrinking, idle ones left out; None for any other revision."""
        if revision not in self.shrinking:
            return None
        counts: Counter[str] = Counter()
        for place in self._units[revision].throttler.places:
            if place.in_flight:
                counts[place.id.pod] += place.in_flight
        return counts

    def try_acquire(self, revision: RevisionId) -> Lease | None:
        """A lease if one is to be had at once; None if not, and for a revision this worker does not know."""
        unit = self._units.get(revision)
        if unit is None:
            return None
        place = unit.throttler.try_acquire(random())
        return None if place is None else unit.leases.get(place) or self._lease(unit, place)

    def _lease(self, unit: _Unit, place: Place) -> Lease:
        lease = unit.leases[place] = Lease(self, unit, place)
        return lease

    def is_cold(self, revision: RevisionId) -> bool:
        """Whether the revision has no open endpoint here, so that a request would wait for one to come."""
        unit = self._units.get(revision)
        return unit is not None and unit.throttler.capacity == 0

    async def acquire(self, revision: RevisionId) -> Lease:
        """A lease, after waiting for it if need be. Cancelling gives up the place in the queue.

        Raises NoRevision (unknown, or removed meanwhile), QueueFull, QueueTimeout, RevisionFailed.
        """
        unit = self._units.get(revision)
        if unit is None:
            raise _no_revision(revision)
        place = unit.throttler.try_acquire(random())
        if place is None:
            place = await self._wait(unit)
        return unit.leases.get(place) or self._lease(unit, place)

    def apply(self, update: Update, snapshot: Snapshot) -> None:
        """Take over the revisions an update changed; `snapshot` is the state it led to."""
        for key in update.revisions:
            revision = snapshot.revisions.get(key)
            if revision is None:
                self._remove(key)
            else:
                self._set(revision)

    async def close(self) -> None:
        """Stop probing and let every waiter go with NoRevision."""
        for key in list(self._units):
            self._remove(key)
        await self._prober.close()

    # --- waiting ------------------------------------------------------------------------------------------------------

    async def _wait(self, unit: _Unit) -> Place:
        waiter: _Waiter = self._loop.create_future()
        self._park(unit, waiter)
        timeout = unit.revision.queue_timeout or self._queue_timeout or unit.revision.timeout
        timer = self._loop.call_later(timeout, self._expire, unit, waiter, timeout)
        try:
            outcome = await waiter
        except asyncio.CancelledError:
            if not unit.throttler.cancel(waiter):
                _hand_on(unit, waiter)
            raise
        finally:
            timer.cancel()
            self.parked -= 1
        if isinstance(outcome, GatewayError):
            raise outcome
        return outcome

    def _park(self, unit: _Unit, waiter: _Waiter) -> None:
        throttler = unit.throttler
        is_cold = throttler.capacity == 0 and throttler.waiting == 0
        if unit.revision.failure and throttler.capacity == 0:
            raise _failed(unit.revision)
        if self.parked >= self._worker_queue_limit:
            self.counters.queue_full += 1
            raise QueueFull(f"{self.parked} requests wait at this gateway worker, which is as many as may")
        if not throttler.enqueue(waiter, random()):
            self.counters.queue_full += 1
            raise QueueFull(
                f"{throttler.waiting} requests wait for revision {unit.revision.id}, which is as many as may"
            )
        self.parked += 1
        self.counters.parked += 1
        self.counters.cold_starts += is_cold
        if is_cold and unit.is_stranded:
            self._on_stranded(unit.revision.id)

    def _expire(self, unit: _Unit, waiter: _Waiter, timeout: float) -> None:
        if unit.throttler.cancel(waiter) and not waiter.done():
            self.counters.timeouts += 1
            waiter.set_result(
                QueueTimeout(f"no endpoint of revision {unit.revision.id} took the request within {timeout:g} s")
            )

    # --- revisions and endpoints --------------------------------------------------------------------------------------

    def _set(self, revision: Revision) -> None:
        unit = self._units.get(revision.id)
        if unit is None:
            on_drained = partial(self._on_in_flight, revision.id)
            unit = self._removed.pop(revision.id, None) or _Unit(revision, self._queue_limit, on_drained)
            self._units[revision.id] = unit
        unit.revision = revision
        unit.leases = {}
        throttler = unit.throttler
        before = {place: place.endpoint.ready for place in throttler.places}
        _dispatch(unit, throttler.update(revision.endpoints, revision.container_concurrency))
        for place in throttler.places:
            self._judge(unit, place, was_ready=before.pop(place, False))
        for gone in before:
            self._prober.stop(gone)
        if revision.failure and throttler.capacity == 0:
            _turn_away(throttler.clear(), _failed(revision))
        self._tell(unit)

    def _tell(self, unit: _Unit) -> None:
        """What an update of a revision means for its drain."""
        key = unit.revision.id
        if not unit.revision.shrinking:
            self.shrinking.discard(key)
            return
        self.shrinking.add(key)
        self._on_in_flight(key)
        if unit.throttler.waiting and unit.is_stranded:
            self._on_stranded(key)

    def _judge(self, unit: _Unit, place: Place, *, was_ready: bool) -> None:
        """Open, close or probe a place after an update."""
        is_ready = place.endpoint.ready
        if unit.revision.probe is None and not is_ready:
            self._prober.stop(place)
            unit.throttler.close(place)
        elif was_ready and not is_ready:
            self._suspect(unit, place)
        elif place.is_open or place.is_held or place in self._prober:
            return
        elif unit.revision.probe is None:
            _open(unit, place)
        else:
            self._probe(unit, place)

    def _suspect(self, unit: _Unit, place: Place) -> None:
        if self._units.get(unit.revision.id) is unit and (place.is_open or place.is_held):
            unit.throttler.close(place)
            self._probe(unit, place)

    def _probe(self, unit: _Unit, place: Place) -> None:
        def passed() -> None:
            _open(unit, place)

        self._prober.start(place, place.endpoint, unit.revision.probe or Probe(), passed)

    def _remove(self, key: RevisionId) -> None:
        unit = self._units.pop(key, None)
        if unit is None:
            return
        self.shrinking.discard(key)
        for place in unit.throttler.places:
            self._prober.stop(place)
        unit.throttler.update((), unit.revision.container_concurrency)
        _turn_away(unit.throttler.clear(), _no_revision(key))
        self._removed[key] = unit
        self._removed = {key: unit for key, unit in self._removed.items() if unit.throttler.in_flight}


def _turn_away(waiters: Iterable[_Waiter], error: GatewayError) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(error)


def _open(unit: _Unit, place: Place) -> None:
    place.opened_at = perf_counter()
    _dispatch(unit, unit.throttler.open(place))


def _dispatch(unit: _Unit, woken: Woken[_Waiter]) -> None:
    """Tell the waiters of their places; a place whose waiter was cancelled meanwhile goes to the next."""
    pending = list(reversed(woken))
    while pending:
        waiter, place = pending.pop()
        if waiter.done():
            pending.extend(reversed(unit.throttler.release(place)))
        else:
            waiter.set_result(place)


def _hand_on(unit: _Unit, waiter: _Waiter) -> None:
    """The waiter left in the same turn in which it got its place."""
    if waiter.done() and not waiter.cancelled():
        outcome = waiter.result()
        if isinstance(outcome, Place):
            _dispatch(unit, unit.throttler.release(outcome))


def _failed(revision: Revision) -> RevisionFailed:
    return RevisionFailed(f"revision {revision.id} can't start: {revision.failure}")


def _no_revision(key: RevisionId) -> NoRevision:
    return NoRevision(f"revision {key} does not exist here (any more)")
