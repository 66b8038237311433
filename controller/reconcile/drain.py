"""Which replicas go when there are too many, and when they may: scale-down without loss.

Theory of operation
-------------------
A pod that is told to stop in the middle of a request may cut it off, and one that is told to stop while a gateway is
about to send it another fails that one. So a replica goes in three steps, each of which can be taken back until the
last:

1. It is chosen. Kubernetes prefers the pods that are not ready and those with the least deletion cost; among equals
   those with the fewest requests in flight go, then the youngest. The gateways are asked for the numbers first, for
   ASK_PATIENCE at most, unless all replicas go.
2. It drains: the gateways send nothing new there. It has finished when every connected gateway worker has acknowledged
   that and told of no request in flight. It is waited for as long as a request may take (the revision's time-out).
3. It is marked with the least deletion cost there is, and the Deployment's replicas are lowered by as many as have
   finished, short of one that Kubernetes would take sooner and that has not (it is not ready, and has requests). Marks
   and replicas are two plans: what Kubernetes deletes is decided when it sees the number, and by then the mark is
   written.

Load that comes back takes the draining replicas into service again, which is one message to the gateways and no start
of a pod. A replica that dies meanwhile counts as one that has gone.

`step` is a function of what there is now. What drains is the gateways' table (`controller.dataplane.drains`), in
memory: after a restart of the controller the drain begins again, with the marked pods first; a pod that is to stay
after all loses its mark. While the Deployment's replicas are lowered already and Kubernetes has not deleted the pods
yet, they go on draining.

Without a gateway worker nobody can tell anything. After ALONE seconds without one the replicas go all the same; that is
twice the longest pause between a worker's attempts to connect.

Pods that others delete (`kubectl delete pod`, an eviction, a scale set by hand, the deletion of a Revision) have not
drained. They are left out of the gateways' tables from the moment that they are going, and their preStop hook gives
that the time to arrive.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TYPE_CHECKING

from controller.apis import pods as pods_api
from controller.apis.meta import name_of
from controller.apis.pods import FIRST_TO_GO
from gateway.contract import RECONNECT_LIMIT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from controller.apis.meta import JsonObject
    from controller.apis.pods import Standing

__all__ = ["ALONE", "ASK_PATIENCE", "NOTHING", "Progress", "Step", "step"]

ASK_PATIENCE = 1.0
ALONE = 2 * RECONNECT_LIMIT


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a drain has come. `draining`: the pods that the gateways were told of, and for how many seconds they have
    drained. `loads`: the requests in flight by pod, None while they are not known. `quiet`: the draining pods that have
    finished. `asked`: seconds since the gateways were told last. `alone`: seconds without any gateway worker, None
    while there is one. `is_shrinking` says whether there is a drain at all."""

    is_shrinking: bool = False
    draining: Mapping[str, float] = field(default_factory=dict)
    loads: Mapping[str, int] | None = None
    quiet: frozenset[str] = frozenset()
    asked: float = 0.0
    alone: float | None = None


NOTHING = Progress()


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done next. `draining`: the pods that the gateways are to drain, None if the revision does not
    shrink (with no pods in it, the gateways are only asked for their numbers). `marked`: pods that get the least
    deletion cost, `cleared`: pods that lose it. `replicas`: what the Deployment is to ask for, None to leave it.
    `after`: seconds until time alone changes something. `busy`: how many draining pods are known to have requests."""

    draining: frozenset[str] | None = None
    marked: tuple[JsonObject, ...] = ()
    cleared: tuple[JsonObject, ...] = ()
    replicas: int | None = None
    after: float | None = None
    busy: int = 0


def step(wanted: int | None, replicas: int, pods: Sequence[JsonObject], progress: Progress, *, timeout: float) -> Step:
    """The next step from `replicas`, which the Deployment asks for, to `wanted`. `pods` are those it has, ending ones
    too; `timeout` is how long a request may take. With `wanted` None all stays as it is."""
    if wanted is None:
        return Step(draining=frozenset(progress.draining) if progress.is_shrinking else None)
    active = [pod for pod in pods if pods_api.is_active(pod)]
    if wanted >= replicas:
        return _kept(wanted, replicas, active, progress)
    excess = len(active) - wanted
    if excess <= 0:
        return Step(replicas=wanted)
    patience = _patience(progress, excess < len(active))
    if patience > 0:
        return Step(draining=frozenset(progress.draining), after=patience)
    chosen = _first_to_go(active, excess, progress)
    return _lowered(wanted, replicas, active, chosen, progress, timeout)


def _kept(wanted: int, replicas: int, active: list[JsonObject], progress: Progress) -> Step:
    """Nothing goes that has not been chosen before. What has, goes on draining while there are more pods than the
    Deployment asks for: Kubernetes is about to delete them."""
    chosen = [pod for pod in active if name_of(pod) in progress.draining or _is_marked(pod)]
    doomed = frozenset(map(name_of, _first_to_go(chosen, max(0, len(active) - wanted), progress)))
    return Step(
        draining=doomed or None,
        cleared=tuple(pod for pod in active if _is_marked(pod) and name_of(pod) not in doomed),
        replicas=None if wanted == replicas else wanted,
    )


def _is_marked(pod: JsonObject) -> bool:
    return pods_api.deletion_cost(pod) == FIRST_TO_GO


def _patience(progress: Progress, matters: bool) -> float:
    """Seconds to wait for the numbers that the choice depends on, if it depends on any."""
    if not matters or progress.loads is not None:
        return 0.0
    if progress.alone is not None:
        return ALONE - progress.alone
    return ASK_PATIENCE - progress.asked if progress.is_shrinking else ASK_PATIENCE


def _first_to_go(pods: Sequence[JsonObject], count: int, progress: Progress) -> list[JsonObject]:
    loads = progress.loads or {}

    def rank(pod: JsonObject) -> tuple[Standing, bool, int, float, str]:
        name = name_of(pod)
        return (
            pods_api.standing(pod),
            name not in progress.draining,
            loads.get(name, 0),
            -pods_api.created(pod),
            name,
        )

    return sorted(pods, key=rank)[:count]


def _lowered(
    wanted: int,
    replicas: int,
    active: list[JsonObject],
    chosen: list[JsonObject],
    progress: Progress,
    timeout: float,
) -> Step:
    draining = frozenset(map(name_of, chosen))
    waits = {name_of(pod): _wait(name_of(pod), progress, timeout) for pod in chosen}
    gone = {name for name, wait in waits.items() if wait <= 0}
    loads = progress.loads or {}
    left = Step(
        draining=draining,
        after=min((wait for wait in waits.values() if wait > 0), default=None),
        busy=sum(bool(loads.get(name)) for name in draining),
    )
    if len(active) - len(gone) >= replicas:
        return left
    marked = tuple(pod for pod in chosen if name_of(pod) in gone and not _is_marked(pod))
    cleared = tuple(pod for pod in active if name_of(pod) not in gone and _is_marked(pod))
    if marked or cleared:
        return replace(left, marked=marked, cleared=cleared, after=0.0)
    first = takewhile(lambda pod: name_of(pod) in gone, sorted(active, key=pods_api.deletion_rank))
    lowered = max(wanted, len(active) - len(list(first)))
    return replace(left, replicas=lowered) if lowered < replicas else left


def _wait(name: str, progress: Progress, timeout: float) -> float:
    """Seconds until a chosen pod may go without a further word from the gateways."""
    if name not in progress.draining:
        return timeout  # its drain begins with this step
    if name in progress.quiet:
        return 0.0
    left = timeout - progress.draining[name]
    return left if progress.alone is None else min(left, ALONE - progress.alone)
