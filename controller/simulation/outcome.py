"""What came of a simulated load, in the numbers by which settings are compared."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.simulation.world import Moment, World

__all__ = ["Outcome", "outcome", "percentile"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`cold` requests came when no pod was ready; `lost` were refused at a full queue or gave up waiting. Waits are
    seconds from arrival to a place at a pod, of those that got one. `pod_seconds` counts pods from their start on."""

    requests: int
    cold: int
    lost: int
    wait_p50: float
    wait_p95: float
    wait_p99: float
    wait_max: float
    pod_seconds: float
    pods_max: int

    @property
    def cold_rate(self) -> float:
        """The part of the requests that met no ready pod, from 0 to 1."""
        return self.cold / self.requests if self.requests else 0.0


def outcome(world: World) -> Outcome:
    """The numbers of a world that has been run."""
    served = sorted(wait for wait in world.waits if isfinite(wait))
    return Outcome(
        requests=len(world.waits),
        cold=world.cold,
        lost=len(world.waits) - len(served),
        wait_p50=percentile(served, 50),
        wait_p95=percentile(served, 95),
        wait_p99=percentile(served, 99),
        wait_max=served[-1] if served else 0.0,
        pod_seconds=_pod_seconds(world.timeline, world.now),
        pods_max=max((moment.replicas for moment in world.timeline), default=0),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of the sorted values that at least `percent` of them do not exceed; 0.0 of none."""
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)] if ordered else 0.0


def _pod_seconds(timeline: Sequence[Moment], end: float) -> float:
    ends = [moment.time for moment in timeline[1:]] + [end]
    return sum(moment.replicas * (until - moment.time) for moment, until in zip(timeline, ends, strict=True))
