from __future__ import annotations

from dataclasses import replace
from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.apis.annotations import AutoscalingAnnotations
from controller.autoscaler.kpa import (
    UNDECIDED,
    DeciderSpec,
    DeciderState,
    activators,
    decide,
    decider_spec,
    first_decision,
    new_state,
    panic_window,
)
from controller.config.autoscaler import AutoscalerConfig

DEFAULT = DeciderSpec()
CALM = DeciderState()
CC10 = replace(DEFAULT, total=10, target=7, target_burst_capacity=200)
CC1 = replace(DEFAULT, total=1, target=0.7, target_burst_capacity=7)


@pytest.mark.parametrize(
    ("ready", "stable", "panic", "spec", "panics", "desired", "excess"),
    [
        pytest.param(0, 1, 1, DEFAULT, False, 1, -212, id="A from zero"),
        pytest.param(1, 50, 50, DEFAULT, False, 1, -161, id="B"),
        pytest.param(1, 30, 200, DEFAULT, True, 3, -311, id="C"),
        pytest.param(4, 400, 400, DEFAULT, False, 6, -211, id="D"),
        pytest.param(10, 70, 35, DEFAULT, False, 5, 754, id="E down rate"),
        pytest.param(10, 0, 0, replace(DEFAULT, reachable=False), False, 0, 789, id="F unreachable"),
        pytest.param(
            2, 3, 3, replace(DEFAULT, total=1, target=1, max_scale_up_rate=1.1, target_burst_capacity=0),
            False, 3, 0, id="G up rate",
        ),
        pytest.param(3, 21, 60, CC10, True, 9, -230, id="H"),
        pytest.param(0, 1, 1, replace(DEFAULT, activation_scale=5), False, 5, -212, id="I activation scale"),
        pytest.param(5, 100, 100, DEFAULT, False, 2, 189, id="J"),
        pytest.param(10, 500, 600, DEFAULT, False, 8, 189, id="K"),
        pytest.param(2, 1.5, 3, CC1, True, 5, -8, id="L"),
        pytest.param(2, 1.5, 3, replace(CC1, target_burst_capacity=-1), True, 5, -1, id="M"),
        pytest.param(0, 1000, 1000, replace(DEFAULT, max_scale_up_rate=5), True, 5, -1211, id="up rate from zero"),
        pytest.param(0, 0, 0, replace(DEFAULT, activation_scale=5), False, 0, -211, id="no activation without load"),
    ],
)  # fmt: skip
def test_worked_examples(
    ready: int, stable: float, panic: float, spec: DeciderSpec, panics: bool, desired: int, excess: int
) -> None:
    """One decision from a calm state."""
    decision, state = decide(spec, CALM, stable=stable, panic=panic, ready=ready, now=100.0)
    assert (decision.desired, decision.excess_burst_capacity, decision.panicking) == (desired, excess, panics)
    assert (state.panic_since is not None) == panics


@pytest.mark.parametrize(
    ("annotated", "limit", "total", "target"),
    [
        (AutoscalingAnnotations(), 0, 100, 70),
        (AutoscalingAnnotations(), 10, 10, 7),
        (AutoscalingAnnotations(target=20), 10, 10, 7),
        (AutoscalingAnnotations(target=5, target_utilization_percentage=100), 0, 5, 5),
        (AutoscalingAnnotations(metric="rps"), 0, 200, 140),
        (AutoscalingAnnotations(metric="rps", target=50), 10, 50, 35),
        (AutoscalingAnnotations(), 1, 1, 0.7),
        (AutoscalingAnnotations(target=0.01, target_utilization_percentage=1), 0, 0.01, 0.01),
    ],
)
def test_targets(annotated: AutoscalingAnnotations, limit: int, total: float, target: float) -> None:
    """What one replica should take, and the utilised part of it that scaling divides by."""
    spec = decider_spec(annotated, AutoscalerConfig(), container_concurrency=limit, reachable=True)
    assert (spec.total, spec.target) == (pytest.approx(total), pytest.approx(target))


def test_annotations_win_over_the_config() -> None:
    """And without any the config's values hold."""
    config = AutoscalerConfig(stable_window=30, panic_threshold_percentage=300, scale_down_delay=10)
    spec = decider_spec(AutoscalingAnnotations(), config, container_concurrency=0, reachable=False)
    assert (spec.stable_window, spec.panic_window, spec.panic_threshold) == (30, 3, 3.0)
    assert (spec.scale_down_delay, spec.activation_scale, spec.initial_scale, spec.reachable) == (10, 1, 1, False)
    annotated = AutoscalingAnnotations(
        window=10, panic_window_percentage=50, target_burst_capacity=0, scale_down_delay=0, initial_scale=0
    )
    spec = decider_spec(annotated, config, container_concurrency=0, reachable=True)
    assert (spec.stable_window, spec.panic_window, spec.target_burst_capacity) == (10, 5, 0)
    assert (spec.scale_down_delay, spec.initial_scale) == (0, 0)


@pytest.mark.parametrize(("stable", "percentage", "expected"), [(60, 10, 6), (6, 10, 1), (6, 1, 1), (100, 15, 15)])
def test_panic_window(stable: float, percentage: float, expected: float) -> None:
    """Rounded to whole seconds, at least one."""
    assert panic_window(stable, percentage) == expected


@pytest.mark.parametrize(("capacity", "initial", "expected"), [(-1, 1, -1), (0, 1, 0), (211, 1, -111), (211, 3, 89)])
def test_first_decision(capacity: float, initial: int, expected: int) -> None:
    """Nothing is desired before the first data; the burst capacity is that of the initial scale."""
    spec = replace(DEFAULT, target_burst_capacity=capacity, initial_scale=initial)
    assert first_decision(spec, 0).desired == UNDECIDED
    assert first_decision(spec, 0).excess_burst_capacity == expected


@pytest.mark.parametrize(
    ("ready", "total", "burst", "expected"),
    [
        (0, 100, 211, 3),
        (1, 100, 211, 4),
        (5, 100, 211, 8),
        (10, 100, 211, 13),
        (3, 10, 200, 3),
        (50, 1, -1, 2),
        (500, 1, -1, 5),
        (500, 100, 0, 2),
    ],
)
def test_activators(ready: int, total: float, burst: float, expected: int) -> None:
    """Knative's numbers."""
    assert activators(replace(DEFAULT, total=total, target_burst_capacity=burst), ready) == expected


def test_panic_ends_a_stable_window_after_the_last_time_over() -> None:
    """The first tick later than that; until then the scale does not fall."""
    _, state = decide(DEFAULT, CALM, stable=30, panic=200, ready=1, now=0.0)
    for now in range(2, 62, 2):
        decision, state = decide(DEFAULT, state, stable=10, panic=10, ready=3, now=float(now))
        assert (decision.desired, decision.panicking) == (3, True)
    decision, state = decide(DEFAULT, state, stable=10, panic=10, ready=3, now=62.0)
    assert (decision.desired, decision.panicking) == (1, False)
    assert state == CALM


def test_panic_is_extended_while_over() -> None:
    """Each time over the threshold counts anew."""
    _, state = decide(DEFAULT, CALM, stable=30, panic=200, ready=1, now=0.0)
    _, state = decide(DEFAULT, state, stable=30, panic=200, ready=1, now=50.0)
    decision, _ = decide(DEFAULT, state, stable=10, panic=10, ready=3, now=110.0)
    assert decision.panicking


def test_a_new_decider_never_takes_away_what_it_does_not_know() -> None:
    """With more than one replica it starts in panic at the present scale."""
    assert new_state(1, 0.0) == CALM
    state = new_state(7, 0.0)
    decision, _ = decide(DEFAULT, state, stable=0, panic=0, ready=7, now=2.0)
    assert decision.desired == 7


@pytest.mark.parametrize(("delay", "slots"), [(30.0, 15), (5.0, 3), (0.0, 1)])
def test_scale_down_delay(delay: float, slots: int) -> None:
    """The largest wish of the last ceil(delay / 2 s) slots holds; an increase passes at once."""
    spec = replace(DEFAULT, scale_down_delay=delay)
    _, state = decide(spec, CALM, stable=700, panic=700, ready=10, now=0.0)
    desired = []
    for slot in range(1, 20):
        decision, state = decide(spec, state, stable=350, panic=350, ready=10, now=slot * 2.0)
        desired.append(decision.desired)
    assert desired == [10] * (slots - 1) + [5] * (20 - slots)
    decision, _ = decide(spec, state, stable=840, panic=840, ready=10, now=40.0)
    assert decision.desired == 12


def test_scale_down_delay_does_not_hold_the_unreachable() -> None:
    """What no route reaches goes down at once."""
    spec = replace(DEFAULT, scale_down_delay=60)
    _, state = decide(spec, CALM, stable=700, panic=700, ready=10, now=0.0)
    decision, _ = decide(replace(spec, reachable=False), state, stable=0, panic=0, ready=10, now=2.0)
    assert decision.desired == 0


LOADS = st.floats(0, 1e5)
SPECS = st.builds(
    DeciderSpec,
    total=st.just(10.0),
    target=st.floats(0.1, 10),
    activation_scale=st.sampled_from([1, 1, 3]),
    max_scale_up_rate=st.floats(1.1, 1000),
    max_scale_down_rate=st.floats(1.1, 10),
    scale_down_delay=st.sampled_from([0.0, 0.0, 6.0]),
    reachable=st.booleans(),
)
TICKS = st.lists(st.tuples(LOADS, LOADS, st.integers(0, 100)), min_size=1, max_size=40)


@given(SPECS, LOADS, LOADS, LOADS, LOADS, st.integers(0, 500))
def test_monotone_in_load(
    spec: DeciderSpec, stable: float, panic: float, more: float, other: float, ready: int
) -> None:
    """More load never asks for fewer replicas."""
    less, _ = decide(spec, CALM, stable=stable, panic=panic, ready=ready, now=0.0)
    greater, _ = decide(spec, CALM, stable=stable + more, panic=panic + other, ready=ready, now=0.0)
    assert greater.desired >= less.desired


@given(SPECS, LOADS, LOADS, st.integers(0, 500))
def test_inside_the_rate_bounds(spec: DeciderSpec, stable: float, panic: float, ready: int) -> None:
    """One step up or down from what is ready, the activation scale apart."""
    decision, _ = decide(spec, CALM, stable=stable, panic=panic, ready=ready, now=0.0)
    base = max(1, ready)
    assert decision.desired <= max(ceil(base * spec.max_scale_up_rate), spec.activation_scale)
    if spec.reachable:
        assert decision.desired >= floor(base / spec.max_scale_down_rate)


@given(SPECS, TICKS)
def test_never_down_in_panic(spec: DeciderSpec, ticks: list[tuple[float, float, int]]) -> None:
    """While it panics, each decision is at least the one before. (What scale-down-delay held from before the panic
    may run out.)"""
    spec = replace(spec, scale_down_delay=0)
    state, before = CALM, 0
    for number, (stable, panic, ready) in enumerate(ticks):
        decision, state = decide(spec, state, stable=stable, panic=panic, ready=ready, now=number * 2.0)
        if decision.panicking and before:
            assert decision.desired >= before
        before = decision.desired if decision.panicking else 0
