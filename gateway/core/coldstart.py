"""Where the time of a cold start went: the phases of a request's wait, for its response and for a histogram.

Theory of operation
-------------------
A request that finds its revision without an open endpoint waits from its arrival until it is sent to one. That time is
cut at the moments that ended its parts:

- decide: until the autoscaler decided to scale the revision up from zero;
- create: until the pod was there;
- start: until the pod's containers ran;
- ready: until this worker's probe of the endpoint passed (or it was told of Kubernetes' readiness, where that decides);
- dispatch: until the request had its connection and was sent.

Arrival, probe and dispatch are read from this process' monotonic clock. The other three are `contract.Milestones`, read
from the controller's wall clock and compared with this machine's: exact where both are on one machine, as good as the
two clocks agree where they are not. The controller takes its own time stamps and not those of Kubernetes, which know
whole seconds only: a pod is created when the controller hears of it, and has started when it hears that its containers
run, some milliseconds, for a kubelet up to a second, after the fact. (On one machine the node agent says when it
started the process, and the endpoint is told then.)

A moment that is not known, or that can't be true because it is later than one that came after it (a clock that is
ahead, a pod that no decision of the autoscaler's has made), is left out: its phase is missing, and its time is part of
the phase that follows. One that is earlier than the request, because somebody else's request was first, leaves the
request's own phase with 0; a clock that is behind by more than the phase lasted looks the same. So no part is ever
negative, and the parts, in whole microseconds, add up to the wait exactly.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.core.traffic import Family

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.contract import Milestones

__all__ = ["BOUNDS", "FIELD_NAME", "PHASES", "ColdStarts", "Phase", "phases", "response_lines"]

PHASES: Final = ("decide", "create", "start", "ready", "dispatch")

BOUNDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
"""Seconds: from a decision on the same machine to an image that has to be pulled. A request waits no longer than its
time-out, 300 s unless somebody set it higher."""

FIELD_NAME: Final = b"x-zerogate-cold-start"


class Phase(NamedTuple):
    """One part of a wait."""

    name: str
    microseconds: int


def phases(
    arrived: float, milestones: Milestones, opened: float, dispatched: float, *, offset: float
) -> tuple[Phase, ...]:
    """The parts of a wait in the order of time; their sum is `dispatched - arrived` in whole microseconds. `milestones`
    are on the wall clock, which is `offset` seconds ahead of the clock of the others; `opened` is when the endpoint
    began to take requests."""
    whole = max(0, _microseconds(dispatched - arrived))
    latest = min(whole, max(0, _microseconds(opened - arrived)))
    ends = [("dispatch", whole), ("ready", latest)]
    decided, created, started = milestones
    for name, moment in (("start", started), ("create", created), ("decide", decided)):
        if moment is None:
            continue
        end = _microseconds(moment - offset - arrived)
        if end <= latest:
            latest = max(0, end)
            ends.append((name, latest))
    parts = []
    before = 0
    for name, end in reversed(ends):
        parts.append(Phase(name, end - before))
        before = end
    return tuple(parts)


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)


def response_lines(parts: Sequence[Phase]) -> bytes:
    """What a response says of the wait, as complete field lines: each phase in Server-Timing (W3C), which is a list and
    so stands beside the application's own, and the whole in `X-Zerogate-Cold-Start`. Both in milliseconds, the unit of
    Server-Timing."""
    metrics = ", ".join(f"{name};dur={_milliseconds(part)}" for name, part in parts)
    whole = _milliseconds(sum(part for _, part in parts))
    return b"server-timing: %b\r\n%b: %b\r\n" % (metrics.encode(), FIELD_NAME, whole.encode())


def _milliseconds(microseconds: int) -> str:
    return f"{microseconds // 1000}.{microseconds % 1000:03d}"


class ColdStarts:
    """What the requests of one worker have waited for cold starts, by phase. Not by revision: 100 samples for each of
    ten thousand services would be more than a scrape can carry; the response fields tell of one service."""

    __slots__ = ("_buckets", "_seconds")

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._buckets = {name: [0] * (len(BOUNDS) + 1) for name in PHASES}

    def observe(self, parts: Sequence[Phase]) -> None:
        """A request has waited."""
        for name, microseconds in parts:
            seconds = microseconds / 1e6
            self._seconds[name] += seconds
            self._buckets[name][bisect_left(BOUNDS, seconds)] += 1

    def family(self) -> Family:
        """The histogram, with every phase from the start, so that the first cold start is a change."""
        samples: dict[tuple[str, ...], tuple[float, ...]] = {
            (name,): (self._seconds[name], *buckets) for name, buckets in self._buckets.items()
        }
        return Family(
            "zerogate_gateway_cold_start_duration_seconds",
            "histogram",
            "What requests waited for a cold start, by phase.",
            ("phase",),
            samples,
            BOUNDS,
        )
