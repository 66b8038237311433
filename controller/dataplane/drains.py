"""What drains: the memory of every scale-down that is under way, and what the gateways say of it.

Theory of operation
-------------------
`controller.reconcile.drain` decides which pods are to go; a plan that says so is carried out here. The revision is
compiled anew (`draining`), which tells the gateways to send nothing there and to report what they have. Their reports
(`contract.InFlight`) hold for the version that each had acknowledged by then, so a pod has finished when every
connected worker has reported, at the version that made it draining or a later one, and named no request there. Each
answer that changes something has the PodAutoscaler reconciled at once.

Whoever may have requests in flight counts: the connected workers, and those that lost their connection and are about to
be back (`FeedServer.carriers`). What such a one said before it left still holds, since it goes on with the state that
it acknowledged. A worker whose process has ended counts no longer. After a restart of the controller nobody has
finished before all workers had the time to come back.

A revision that no gateway has been told of (no route leads to it and it has no endpoint) has finished everywhere.

Bounded by the revisions that are scaled down at a time, and by their pods and the gateway workers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from controller.apis.meta import Key
from controller.reconcile.drain import NOTHING, Progress
from gateway.contract import RevisionId

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from controller.apis.meta import JsonObject
    from controller.reconcile.plan import Plan
    from gateway.contract import Snapshot

__all__ = ["Drains"]


@dataclass(frozen=True, slots=True)
class _Report:
    """What a worker said was in flight, by pod, and which version it had acknowledged by then."""

    version: int
    loads: Mapping[str, int]


_Answer = tuple[bool, frozenset[str]]
"""Whether the loads are known, and which pods have finished."""

_NO_ANSWER: _Answer = (False, frozenset())


@dataclass(slots=True)
class _Drain:
    """One revision's. `since`: the moment at which each pod was to drain; `changed`: the moment of the last change of
    that. `told` is the version that last changed the revision at the gateways; `is_published` whether that holds all of
    this, and `is_known` whether they know the revision at all. `answer` is what the reconciler was last called for."""

    since: dict[str, float]
    changed: float
    told: int | None = None
    is_published: bool = False
    is_known: bool = True
    reports: dict[str, _Report] = field(default_factory=dict)
    answer: _Answer = _NO_ANSWER


class Drains:
    """`carriers` names the gateway workers that may have requests in flight, None while they are not all known.
    `enqueue` has a PodAutoscaler reconciled, `publish` has the gateways told of a revision anew. `clock` is
    monotonic."""

    def __init__(
        self,
        *,
        carriers: Callable[[], Collection[str] | None],
        enqueue: Callable[[Key], None],
        publish: Callable[[RevisionId], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._carriers = carriers
        self._enqueue = enqueue
        self._publish = publish
        self._clock = clock
        self._drains: dict[RevisionId, _Drain] = {}
        self._alone_since = clock()

    # --- what the PodAutoscaler's controller asks and tells -----------------------------------------------------------

    def progress(self, key: Key) -> Progress:
        """How far the drain of a revision's replicas has come."""
        drain = self._drains.get(RevisionId(*key))
        if drain is None:
            return NOTHING
        now = self._clock()
        loads = self._loads(drain)
        return Progress(
            is_shrinking=True,
            draining={pod: now - since for pod, since in drain.since.items()},
            loads=loads,
            quiet=_quiet(drain, loads),
            asked=now - drain.changed,
            alone=now - self._alone_since if self._is_alone() else None,
        )

    def carry_out(self, key: Key, plan: Plan) -> None:
        """Drain what the plan says, and nothing else."""
        revision, drain = RevisionId(*key), self._drains.get(RevisionId(*key))
        if plan.draining is None:
            if drain is not None:
                del self._drains[revision]
                self._publish(revision)
            return
        if drain is not None and drain.since.keys() == plan.draining:
            return
        now = self._clock()
        if drain is None:
            drain = self._drains[revision] = _Drain({}, now)
        drain.since = {pod: drain.since.get(pod, now) for pod in plan.draining}
        drain.changed, drain.is_published, drain.answer = now, False, _NO_ANSWER
        self._publish(revision)

    def on_pod_autoscaler(self, old: JsonObject | None, new: JsonObject | None) -> None:
        """A PodAutoscaler that was removed (`new` None) drains nothing."""
        if new is None and old is not None:
            meta = old["metadata"]
            self._drains.pop(RevisionId(meta["namespace"], meta["name"]), None)

    # --- what the data plane asks and tells ---------------------------------------------------------------------------

    def draining(self, revision: RevisionId) -> Collection[str] | None:
        """The pods that are to get no new request; None for a revision that does not shrink."""
        drain = self._drains.get(revision)
        return None if drain is None else drain.since.keys()

    def on_published(self, compiled: Iterable[RevisionId], told: Collection[RevisionId], snapshot: Snapshot) -> None:
        """These revisions were compiled, and of `told` something was new to the gateways, which led to `snapshot`."""
        for revision in {*compiled, *told}:
            drain = self._drains.get(revision)
            if drain is not None:
                drain.is_published, drain.is_known = True, revision in snapshot.revisions
                if drain.told is None or revision in told:
                    drain.told = snapshot.version
                self._consider(revision, drain)

    def on_in_flight(self, worker: str, version: int, loads: Mapping[RevisionId, Mapping[str, int]]) -> None:
        """A worker that has acknowledged `version` tells what is in flight."""
        for revision, load in loads.items():
            drain = self._drains.get(revision)
            if drain is not None:
                drain.reports[worker] = _Report(version, load)
                self._consider(revision, drain)

    def on_carriers(self) -> None:
        """Who may have requests in flight has changed, but for somebody new."""
        carriers, is_alone = self._carriers(), self._is_alone()
        if is_alone:
            self._alone_since = self._clock()
        for revision, drain in list(self._drains.items()):
            if carriers is not None:
                drain.reports = {name: report for name, report in drain.reports.items() if name in carriers}
            self._consider(revision, drain, anyway=is_alone)

    def _is_alone(self) -> bool:
        carriers = self._carriers()
        return carriers is not None and not carriers

    def describe(self, key: Key) -> list[JsonObject]:
        """The pods of a revision that drain, for people."""
        progress = self.progress(key)
        loads = progress.loads or {}
        return [
            {
                "pod": pod,
                "seconds": round(seconds, 1),
                "inFlight": None if progress.loads is None else loads.get(pod, 0),
            }
            for pod, seconds in sorted(progress.draining.items())
        ]

    def counts(self) -> dict[Key, int]:
        """How many pods drain, by revision."""
        return {Key(*revision): len(drain.since) for revision, drain in self._drains.items()}

    def _consider(self, revision: RevisionId, drain: _Drain, *, anyway: bool = False) -> None:
        loads = self._loads(drain)
        answer = (loads is not None, _quiet(drain, loads))
        if answer != drain.answer or anyway:
            drain.answer = answer
            self._enqueue(Key(*revision))

    def _loads(self, drain: _Drain) -> Mapping[str, int] | None:
        """The requests in flight by pod; None while somebody has not told them for what drains now."""
        if drain.told is None or not drain.is_published:
            return None
        if not drain.is_known:
            return {}
        total: dict[str, int] = {}
        carriers = self._carriers()
        if not carriers:
            return None
        for carrier in carriers:
            report = drain.reports.get(carrier)
            if report is None or report.version < drain.told:
                return None
            for pod, count in report.loads.items():
                total[pod] = total.get(pod, 0) + count
        return total


def _quiet(drain: _Drain, loads: Mapping[str, int] | None) -> frozenset[str]:
    return frozenset() if loads is None else frozenset(pod for pod in drain.since if not loads.get(pod))
