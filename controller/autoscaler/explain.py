"""Why so many replicas? The autoscaler's decisions in words, and the last hundred of them.

Theory of operation
-------------------
Each decision carries what it was made from (`controller.autoscaler.kpa.Decision`). A `History` keeps the last of them
for one revision; a decision that says the same as the one before only counts up, so that an idle night is one entry
and not forty thousand. Between them stand the scales that the PodAutoscaler's reconciler made of them, which knows
min-scale, max-scale and the waits on the way to zero.

Words are made when somebody asks, with the settings of the time of the decision. A revision under changing load costs
some 25 KB for its hundred entries; an idle one less than 1 KB.

Times are the deciders' clock: monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from controller.apis.annotations import RPS
from controller.autoscaler import kpa

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.apis.meta import JsonObject
    from controller.autoscaler.kpa import DeciderSpec, Decision

__all__ = ["NOTHING_KNOWN", "Explanation", "History", "explain"]

SIZE = 100
NOTHING_KNOWN = "NothingKnown"


class Explanation(NamedTuple):
    """`reason` is one CamelCase word, `text` one sentence with the numbers."""

    reason: str
    text: str


def explain(spec: DeciderSpec, decision: Decision) -> Explanation:
    """What a decision was made from."""
    if decision.desired == kpa.UNDECIDED:
        return Explanation(NOTHING_KNOWN, "No report from a gateway tells the load yet.")
    return Explanation(decision.rule, _sentence(spec, decision) + _bounded(spec, decision))


def _sentence(spec: DeciderSpec, decision: Decision) -> str:
    match decision.rule:
        case kpa.STABLE_WINDOW:
            return _need(spec, decision.stable, spec.stable_window, decision.stable_wish)
        case kpa.PANIC_WINDOW:
            return "Panic: " + _need(spec, decision.panic, spec.panic_window, decision.panic_wish)
        case kpa.PANIC_HELD:
            return (
                f"Panic: the surge wanted {_replicas(decision.desired)}, and nothing is taken away until it has been "
                f"over for {spec.stable_window:g} s"
            )
        case _:
            return (
                f"scale-down-delay keeps for {spec.scale_down_delay:g} s what was wanted before; the load needs "
                f"{_replicas(decision.undelayed)}"
            )


def _need(spec: DeciderSpec, load: float, window: float, wish: int) -> str:
    measure = "requests per second" if spec.metric == RPS else "requests in flight"
    average = f"{load:.4g} {measure} on average over {window:g} s"
    return f"{average}, at {spec.target:.4g} for each replica, need {_replicas(wish)}"


def _bounded(spec: DeciderSpec, decision: Decision) -> str:
    match decision.bound:
        case kpa.SCALE_UP_RATE:
            rule = f"max-scale-up-rate {spec.max_scale_up_rate:g} allows {decision.undelayed}"
        case kpa.SCALE_DOWN_RATE:
            rule = f"max-scale-down-rate {spec.max_scale_down_rate:g} keeps {decision.undelayed}"
        case kpa.ACTIVATION_SCALE:
            rule = f"activation-scale makes it {decision.undelayed}"
        case _:
            return "."
    return f"; {rule} with {decision.ready} ready."


def _replicas(count: int) -> str:
    return "1 replica" if count == 1 else f"{count} replicas"


@dataclass(slots=True)
class _Decided:
    """Equal decisions in a row, from `first` to `last`."""

    first: float
    last: float
    count: int
    spec: DeciderSpec
    decision: Decision


@dataclass(frozen=True, slots=True)
class _Scaled:
    """What the reconciler made of the decision before it."""

    at: float
    scale: int
    explanation: Explanation


class History:
    """The last SIZE decisions and scales of one revision."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: deque[_Decided | _Scaled] = deque(maxlen=SIZE)

    def decided(self, spec: DeciderSpec, decision: Decision, now: float) -> None:
        """Note a decision of the KPA."""
        newest = self._entries[-1] if self._entries else None
        if isinstance(newest, _Decided) and newest.decision == decision and newest.spec is spec:
            newest.last = now
            newest.count += 1
        else:
            self._entries.append(_Decided(now, now, 1, spec, decision))

    def scaled(self, scale: int, explanation: Explanation, now: float) -> None:
        """Note what the reconciler made of it."""
        self._entries.append(_Scaled(now, scale, explanation))

    def describe(self, now: float) -> Iterator[JsonObject]:
        """The entries, oldest first, as JSON objects; ages in seconds before `now`."""
        for entry in self._entries:
            yield _describe_scale(entry, now) if isinstance(entry, _Scaled) else _describe_decision(entry, now)


def _describe_scale(entry: _Scaled, now: float) -> JsonObject:
    reason, text = entry.explanation
    return {
        "kind": "scale",
        "secondsAgo": round(now - entry.at, 1),
        "scale": entry.scale,
        "reason": reason,
        "text": text,
    }


def _describe_decision(entry: _Decided, now: float) -> JsonObject:
    decision = entry.decision
    reason, text = explain(entry.spec, decision)
    return {
        "kind": "decision",
        "secondsAgo": round(now - entry.last, 1),
        "times": entry.count,
        "overSeconds": round(entry.last - entry.first, 1),
        "stable": round(decision.stable, 3),
        "panic": round(decision.panic, 3),
        "ready": decision.ready,
        "panicking": decision.panicking,
        "stableWish": decision.stable_wish,
        "panicWish": decision.panic_wish,
        "undelayed": decision.undelayed,
        "desired": decision.desired,
        "excessBurstCapacity": decision.excess_burst_capacity,
        "reason": reason,
        "bound": decision.bound,
        "text": text,
    }
