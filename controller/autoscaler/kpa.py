"""The Knative Pod Autoscaler's arithmetic: how many replicas a revision's load asks for.

Theory of operation
-------------------
Two averages of the same load go in, one over the stable window (60 s) and one over the panic window (6 s). Divided by
the target per replica they give two wishes, each bounded by how fast the scale may change from what is ready now. The
stable wish rules, until the panic wish is twice what is ready: then the larger one rules and the scale does not fall
any more, until the surge has been inside the stable average for a whole stable window. scale-down-delay holds the
largest wish of its period.

Each rule is Knative's (pkg/autoscaler/scaling/autoscaler.go), with its corners: the panic test takes the wish before
its bounds; the down rate does not hold a revision that no route reaches; the burst capacity counts real ready replicas
(maybe none) and the full target, not the utilised one. A new decider with more than one ready replica starts in panic,
so that a restarted controller never takes away what it has not yet seen the load of.

The excess burst capacity says how many requests the ready replicas could take on top of the present ones beyond
target-burst-capacity. In Knative its sign puts the activator on the path or off, and as many activators as the load may
need; our gateways are always on it, so both are computed and shown.

`decide` is a function: state in, state out, `now` an argument. A decision carries all it was made from and the rule
that made it, so that `controller.autoscaler.explain` can put it into words later. Bounds (min-scale, max-scale) and the
way to zero are the PodAutoscaler reconciler's (`controller.reconcile.podautoscaler`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, floor
from typing import TYPE_CHECKING, NamedTuple

from controller.apis.annotations import CONCURRENCY, LINEAR, RPS
from controller.autoscaler.windows import Noted, slide

if TYPE_CHECKING:
    from controller.apis.annotations import AutoscalingAnnotations
    from controller.config.autoscaler import AutoscalerConfig

__all__ = [
    "ACTIVATION_SCALE",
    "PANIC_HELD",
    "PANIC_WINDOW",
    "SCALE_DOWN_DELAY",
    "SCALE_DOWN_RATE",
    "SCALE_UP_RATE",
    "STABLE_WINDOW",
    "TICK",
    "UNDECIDED",
    "DeciderSpec",
    "DeciderState",
    "Decision",
    "activators",
    "decide",
    "decider_spec",
    "first_decision",
    "new_state",
    "panic_window",
]

TICK = 2.0
"""Seconds between two decisions about a revision, and the slot of scale-down-delay."""

UNDECIDED = -1
"""`desired` of a revision about which nothing is known yet."""

# What decided: one of the averages, what a panic has wanted so far, or the delay before less is wanted.
STABLE_WINDOW, PANIC_WINDOW, PANIC_HELD = "StableWindow", "PanicWindow", "PanicHeld"
SCALE_DOWN_DELAY = "ScaleDownDelay"
# What bounded the deciding average's wish.
SCALE_UP_RATE, SCALE_DOWN_RATE, ACTIVATION_SCALE = "ScaleUpRate", "ScaleDownRate", "ActivationScale"

_TARGET_MIN = 0.01
_ACTIVATORS_MIN = 2
_RPS_UTILISATION = 0.70


@dataclass(frozen=True, slots=True)
class DeciderSpec:
    """One revision's settings. `total` is what one replica should take (requests in flight or per second), `target`
    the utilised part of it that scaling aims at; `panic_threshold` and the rates are factors, times seconds;
    `target_burst_capacity` -1 is unlimited; `activation_scale` 1 and less is none."""

    metric: str = CONCURRENCY
    algorithm: str = LINEAR
    total: float = 100.0
    target: float = 70.0
    target_burst_capacity: float = 211.0
    activator_capacity: float = 100.0
    initial_scale: int = 1
    activation_scale: int = 1
    stable_window: float = 60.0
    panic_window: float = 6.0
    panic_threshold: float = 2.0
    max_scale_up_rate: float = 1000.0
    max_scale_down_rate: float = 2.0
    scale_down_delay: float = 0.0
    reachable: bool = True


@dataclass(frozen=True, slots=True)
class DeciderState:
    """What one decision remembers for the next. `panic_since` is the last time the threshold was reached, None out of
    panic; `panic_pods` the most that was wanted since."""

    panic_since: float | None = None
    panic_pods: int = 0
    delayed: tuple[Noted, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """`desired` replicas before min-scale, max-scale and the way to zero; UNDECIDED while nothing is known.

    The rest is what it was decided from: the averages, the replicas that were ready, those that the averages ask for
    before any bound (`stable_wish`, `panic_wish`), what decided (`rule`, "" before the first decision) and what bounded
    it (`bound`, "" for nothing). `undelayed` is what would be desired without scale-down-delay."""

    desired: int
    excess_burst_capacity: int
    panicking: bool = False
    stable: float = 0.0
    panic: float = 0.0
    ready: int = 0
    stable_wish: int = 0
    panic_wish: int = 0
    undelayed: int = 0
    rule: str = ""
    bound: str = ""


def panic_window(stable_window: float, percentage: float) -> float:
    """Whole seconds, at least one."""
    return max(1.0, float(round(stable_window * percentage / 100.0)))


def decider_spec(
    annotated: AutoscalingAnnotations, config: AutoscalerConfig, *, container_concurrency: int, reachable: bool
) -> DeciderSpec:
    """A revision's settings: what is annotated before what is configured."""
    metric = annotated.metric or CONCURRENCY
    total, utilisation = _target(annotated, config, container_concurrency)
    stable = _either(annotated.window, config.stable_window)
    return DeciderSpec(
        metric=metric,
        algorithm=annotated.metric_aggregation_algorithm or LINEAR,
        total=total,
        target=max(_TARGET_MIN, total * utilisation),
        target_burst_capacity=_either(annotated.target_burst_capacity, config.target_burst_capacity),
        activator_capacity=config.activator_capacity,
        initial_scale=config.initial_scale if annotated.initial_scale is None else annotated.initial_scale,
        activation_scale=annotated.activation_scale or 1,
        stable_window=stable,
        panic_window=panic_window(stable, _either(annotated.panic_window_percentage, config.panic_window_percentage)),
        panic_threshold=_either(annotated.panic_threshold_percentage, config.panic_threshold_percentage) / 100.0,
        max_scale_up_rate=config.max_scale_up_rate,
        max_scale_down_rate=config.max_scale_down_rate,
        scale_down_delay=_either(annotated.scale_down_delay, config.scale_down_delay),
        reachable=reachable,
    )


def _target(annotated: AutoscalingAnnotations, config: AutoscalerConfig, limit: int) -> tuple[float, float]:
    """What one replica should take at most, and the part of it to aim at."""
    if annotated.metric == RPS:
        total, utilisation = config.requests_per_second_target_default, _RPS_UTILISATION
        limit = 0  # the container's concurrency says nothing about requests per second
    else:
        total = limit or config.container_concurrency_target_default
        utilisation = config.container_concurrency_target_percentage / 100.0
    if annotated.target is not None:
        total = min(annotated.target, limit) if limit else annotated.target
    if annotated.target_utilization_percentage is not None:
        utilisation = annotated.target_utilization_percentage / 100.0
    return float(total), utilisation


def _either(annotated: float | None, configured: float) -> float:
    return configured if annotated is None else annotated


def activators(spec: DeciderSpec, ready: int) -> int:
    """How many activators Knative would put in front of so many ready replicas: two at least, and enough to hold what
    the replicas take and the burst beyond it, at activator-capacity requests each."""
    if spec.target_burst_capacity == 0:
        return _ACTIVATORS_MIN
    held = ready * spec.total + max(spec.target_burst_capacity, 0.0)
    return max(_ACTIVATORS_MIN, ceil(held / spec.activator_capacity))


def new_state(ready: int, now: float) -> DeciderState:
    """The state of a decider that knows no load yet."""
    return DeciderState(panic_since=now, panic_pods=ready) if ready > 1 else DeciderState()


def first_decision(spec: DeciderSpec, ready: int) -> Decision:
    """What a decider says before its first data: nothing, and a guess at the burst capacity of the initial scale."""
    if spec.target_burst_capacity in (-1.0, 0.0):
        excess = int(spec.target_burst_capacity)
    else:
        excess = int(spec.initial_scale * spec.total - spec.target_burst_capacity)
    return Decision(UNDECIDED, excess, ready=ready)


def decide(
    spec: DeciderSpec, state: DeciderState, *, stable: float, panic: float, ready: int, now: float
) -> tuple[Decision, DeciderState]:
    """How many replicas the averages ask for, with `ready` of them ready, and the state for the next decision."""
    base = max(1, ready)
    calm, surge = _wish(spec, stable, base), _wish(spec, panic, base)
    over = surge.raw / base >= spec.panic_threshold
    state = _advance_panic(spec, state, over=over, now=now)

    desired, rule, bound = calm.replicas, STABLE_WINDOW, calm.bound
    panicking = state.panic_since is not None
    if panicking:
        if surge.replicas > desired:
            desired, rule, bound = surge.replicas, PANIC_WINDOW, surge.bound
        if state.panic_pods > desired:
            desired, rule, bound = state.panic_pods, PANIC_HELD, ""
        elif desired > state.panic_pods:
            state = replace(state, panic_pods=desired)

    undelayed = desired
    slots = ceil(spec.scale_down_delay / TICK)
    if slots and spec.reachable:
        state = replace(state, delayed=slide(state.delayed, floor(now / TICK), desired, slots))
        if state.delayed[0].value > desired:
            desired, rule, bound = state.delayed[0].value, SCALE_DOWN_DELAY, ""
    capacity = _excess_burst_capacity(spec, ready, panic)
    wishes = (calm.raw, surge.raw, undelayed)
    return Decision(desired, capacity, panicking, stable, panic, ready, *wishes, rule, bound), state


class _Wish(NamedTuple):
    """The replicas for one average, before and after the bounds of one step, and the bound that made the difference."""

    raw: int
    replicas: int
    bound: str


def _wish(spec: DeciderSpec, load: float, base: int) -> _Wish:
    """The replicas for `load`, inside the bounds of one step from `base`."""
    raw = ceil(load / spec.target)
    most = ceil(spec.max_scale_up_rate * base)
    least = floor(base / spec.max_scale_down_rate) if spec.reachable else 0
    wish, bound = raw, ""
    if least > raw:
        wish, bound = least, SCALE_DOWN_RATE
    if wish > most:
        wish, bound = most, SCALE_UP_RATE
    if raw > 0 and spec.activation_scale > max(1, wish):
        wish, bound = spec.activation_scale, ACTIVATION_SCALE
    return _Wish(raw, wish, bound)


def _advance_panic(spec: DeciderSpec, state: DeciderState, *, over: bool, now: float) -> DeciderState:
    if over:
        return replace(state, panic_since=now)  # entering, or extending
    if state.panic_since is not None and state.panic_since + spec.stable_window < now:
        return replace(state, panic_since=None, panic_pods=0)  # the surge is inside the stable average by now
    return state


def _excess_burst_capacity(spec: DeciderSpec, ready: int, panic: float) -> int:
    if spec.target_burst_capacity == 0:
        return 0
    if spec.target_burst_capacity < 0:
        return -1
    return floor(ready * spec.total - spec.target_burst_capacity - panic)
