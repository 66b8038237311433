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

A revision with a limit belongs to one of the workers (`core.ownership`). At the others its throttler gives out nothing,
so a request for it waits here, as it would for a full revision, and is asked for at the owner at the same time.

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
from gateway.core.ownership import Ledger
from gateway.core.throttler import Place, Throttler
from gateway.errors import GatewayError, NoRevision, QueueFull, QueueTimeout, RevisionFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.contract import Endpoint, Revision, RevisionId, Snapshot, Update
    from gateway.core.ownership import Borrower
    from gateway.core.peers import Message
    from gateway.core.throttler import Woken

__all__ = ["Activator", "Counters", "Lease"]

_Waiter = asyncio.Future[Place | GatewayError]


_REFUSALS = {error.__name__: error for error in (NoRevision, QueueFull, RevisionFailed)}
"""What another worker may refuse a place with."""


def _nobody_asks(_revision: RevisionId) -> None:
    pass


def _nobody_is_there(_peer: str, _message: Message) -> None:
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
        self.throttler: Throttler[_Waiter | Borrower] = Throttler(
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
            self._activator.dispatch(unit, woken)

    def fail(self) -> None:
        """The endpoint refused the connection: nobody else is sent there until a probe passes. Does not release."""
        self._activator.failed(self._unit, self._place)


class Activator:
    """All revisions of one worker. To be made and used within the running loop.

    `queue_timeout` in seconds, for revisions that name none of their own; None means their request time-out.
    `on_in_flight(revision)`: what `in_flight(revision)` says is news. `on_stranded(revision)`: a request waits there
    because all endpoints are draining. `shrinking` are the revisions that `in_flight` knows. `worker` is this worker's
    name among the others, to whom it says things by `send(name, message)`.
    """

    def __init__(
        self,
        *,
        queue_limit: int = 10_000,
        worker_queue_limit: int = 20_000,
        queue_timeout: float | None = None,
        on_in_flight: Callable[[RevisionId], None] = _nobody_asks,
        on_stranded: Callable[[RevisionId], None] = _nobody_asks,
        worker: str = "",
        send: Callable[[str, Message], None] = _nobody_is_there,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_in_flight = on_in_flight
        self._on_stranded = on_stranded
        self._send = send
        self.ledger: Ledger[_Waiter] = Ledger(
            worker, self, queue_limit=queue_limit, worker_queue_limit=worker_queue_limit
        )
        """Which revisions with a limit are this worker's to deal out. What other workers say is for it."""
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
        outcome: Place | GatewayError | None = unit.throttler.try_acquire(random())
        if outcome is None:
            outcome = await self._wait(unit)
        if isinstance(outcome, GatewayError):
            try:
                raise outcome
            finally:
                # The error knows this frame by its traceback. Did the frame know the error, they and the whole request
                # would stay until the garbage collector looks, which in a worker may be many thousand requests later.
                del outcome
        return unit.leases.get(outcome) or self._lease(unit, outcome)

    def dispatch(self, unit: _Unit, woken: Woken[_Waiter | Borrower]) -> None:
        """Tell waiters of their places."""
        self.ledger.dispatch(unit.revision.id, unit.throttler, woken)

    def failed(self, unit: _Unit, place: Place) -> None:
        """A place took no connection."""
        self._suspect(unit, place)
        if not unit.throttler.deals:
            self.ledger.failed(unit.revision.id, place)

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

    async def _wait(self, unit: _Unit) -> Place | GatewayError:
        waiter: _Waiter = self._loop.create_future()
        self._park(unit, waiter)
        timeout = unit.revision.queue_timeout or self._queue_timeout or unit.revision.timeout
        timer = self._loop.call_later(timeout, self._expire, unit, waiter, timeout)
        try:
            return await waiter
        except asyncio.CancelledError:
            if not self._cancel(unit, waiter):
                self._hand_on(unit, waiter)
            raise
        finally:
            timer.cancel()
            self.parked -= 1

    def _park(self, unit: _Unit, waiter: _Waiter) -> None:
        throttler = unit.throttler
        is_cold = throttler.capacity == 0 and throttler.waiting == 0
        if unit.revision.failure and throttler.capacity == 0:
            raise _failed(unit.revision)
        if self.parked >= self._worker_queue_limit:
            self.counters.queue_full += 1
            raise QueueFull(f"{self.parked} requests wait at this gateway worker, which is as many as may")
        if not throttler.enqueue(waiter, random(), self.ledger.others_waiting(unit.revision.id)):
            self.counters.queue_full += 1
            raise QueueFull(
                f"{throttler.waiting} requests wait for revision {unit.revision.id}, which is as many as may"
            )
        self.ledger.asked(unit.revision.id, waiter)
        self.parked += 1
        self.counters.parked += 1
        self.counters.cold_starts += is_cold
        if is_cold and unit.is_stranded:
            self._on_stranded(unit.revision.id)

    def _expire(self, unit: _Unit, waiter: _Waiter, timeout: float) -> None:
        if self._cancel(unit, waiter) and not waiter.done():
            self.counters.timeouts += 1
            waiter.set_result(
                QueueTimeout(f"no endpoint of revision {unit.revision.id} took the request within {timeout:g} s")
            )

    def _cancel(self, unit: _Unit, waiter: _Waiter) -> bool:
        return self.ledger.cancel(unit.revision.id, unit.throttler, waiter)

    def _hand_on(self, unit: _Unit, waiter: _Waiter) -> None:
        """The waiter left in the same turn in which it got its place."""
        if waiter.done() and not waiter.cancelled():
            outcome = waiter.result()
            if isinstance(outcome, Place):
                self.dispatch(unit, unit.throttler.release(outcome))

    def _turn_away(self, unit: _Unit, error: GatewayError) -> None:
        key = unit.revision.id
        for waiter in self.ledger.clear(key, unit.throttler, type(error).__name__, str(error)):
            if not waiter.done():
                waiter.set_result(error)

    # --- what the ledger does -----------------------------------------------------------------------------------------

    def send(self, peer: str, message: Message) -> None:
        """See `gateway.core.ownership.Sink`, as of the next three."""
        self._send(peer, message)

    def wake(self, waiter: _Waiter, place: Place) -> bool:
        if waiter.done():
            return False
        if not place.is_open:  # the owner's probe has passed, ours is still to come
            place.opened_at = perf_counter()
        waiter.set_result(place)
        return True

    def refuse(self, waiter: _Waiter, reason: str, text: str) -> None:
        error = _REFUSALS.get(reason, QueueFull)
        self.counters.queue_full += error is QueueFull
        if not waiter.done():
            waiter.set_result(error(text))

    def suspect(self, revision: RevisionId, place: Place) -> None:
        unit = self._units.get(revision)
        if unit is not None:
            self._suspect(unit, place)

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
        held = [place for place in before if place.is_held]
        self.dispatch(unit, throttler.update(revision.endpoints, revision.container_concurrency))
        for place in held:
            if place.is_open:  # it drains no more
                place.opened_at = perf_counter()
        for place in throttler.places:
            self._judge(unit, place, was_ready=before.pop(place, False))
        for gone in before:
            self._prober.stop(gone)
        self._share(unit)
        if revision.failure and throttler.capacity == 0:
            self._turn_away(unit, _failed(revision))
        self._tell(unit)

    def _share(self, unit: _Unit) -> None:
        """A limit holds over all workers; without one each deals out by itself."""
        key = unit.revision.id
        is_limited = unit.revision.container_concurrency > 0
        if is_limited and key not in self.ledger:
            self.ledger.add(key, unit.throttler)
        elif not is_limited and key in self.ledger:
            self.ledger.remove(key)
            self.dispatch(unit, unit.throttler.deal())

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
            self._open(unit, place)
        else:
            self._probe(unit, place)

    def _open(self, unit: _Unit, place: Place) -> None:
        place.opened_at = perf_counter()
        self.dispatch(unit, unit.throttler.open(place))

    def _suspect(self, unit: _Unit, place: Place) -> None:
        if self._units.get(unit.revision.id) is unit and (place.is_open or place.is_held):
            unit.throttler.close(place)
            self._probe(unit, place)

    def _probe(self, unit: _Unit, place: Place) -> None:
        def passed() -> None:
            self._open(unit, place)

        self._prober.start(place, place.endpoint, unit.revision.probe or Probe(), passed)

    def _remove(self, key: RevisionId) -> None:
        unit = self._units.pop(key, None)
        if unit is None:
            return
        self.shrinking.discard(key)
        for place in unit.throttler.places:
            self._prober.stop(place)
        unit.throttler.update((), unit.revision.container_concurrency)
        self._turn_away(unit, _no_revision(key))
        self._removed[key] = unit
        for empty in [key for key, unit in self._removed.items() if not unit.throttler.in_flight]:
            del self._removed[empty]
            self.ledger.remove(empty)


def _failed(revision: Revision) -> RevisionFailed:
    return RevisionFailed(f"revision {revision.id} can't start: {revision.failure}")


def _no_revision(key: RevisionId) -> NoRevision:
    return NoRevision(f"revision {key} does not exist here (any more)")
