from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.autoscaler.windows import Noted, Window, slide, smoothing


def written(size: int, values: dict[int, float]) -> Window:
    window = Window(size)
    for second, value in values.items():
        window.record(value, second + 0.5)
    return window


TENS = dict.fromkeys(range(60), 10.0)


@pytest.mark.parametrize(
    ("size", "values", "now", "expected"),
    [
        (60, dict.fromkeys(range(6), 10.0), 5, 10),
        (60, dict.fromkeys(range(6), 10.0), 8, 10),
        (60, {0: 10.0, 4: 10.0}, 4, 4),
        (60, TENS, 69, 10),
        (60, TENS, 118, 10),
        (60, TENS, 119, 0),
        (6, {0: 6.0, 1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0, 5: 0.0}, 5, 1),
        (6, {0: 1.0, 1: 0.0, 2: 1.0}, 2, 0.666667),
        (6, {}, 0, 0),
    ],
)
def test_linear(size: int, values: dict[int, float], now: int, expected: float) -> None:
    """Silence between two writes counts as zeros, after the last it is ignored, after a window it is 0."""
    assert written(size, values).average(now) == expected


@pytest.mark.parametrize(
    ("size", "values", "now", "expected"),
    [
        (60, TENS, 59, 9.999985),
        (60, {**dict.fromkeys(range(59), 0.0), 59: 10.0}, 59, 2.0),
        (6, dict.fromkeys(range(6), 10.0), 5, 9.999),
        (6, {**dict.fromkeys(range(5), 0.0), 5: 10.0}, 5, 7.845565),
        (60, {**dict.fromkeys(range(3), 0.0), **dict.fromkeys(range(3, 60), 10.0)}, 62, 5.119985),
        (60, TENS, 120, 0),
    ],
)
def test_weighted(size: int, values: dict[int, float], now: int, expected: float) -> None:
    """The newest second weighs most; what is missing weighs nothing."""
    assert written(size, values).weighted_average(now) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("buckets", "expected"), [(2, 0.99), (6, 0.784557), (10, 0.601893), (30, 0.264358), (41, 0.201198), (60, 0.2)]
)
def test_smoothing(buckets: int, expected: float) -> None:
    """99.99 % of the weight inside the window, the newest at least a fifth."""
    assert smoothing(buckets) == pytest.approx(expected, abs=1e-6)


def test_the_same_second_sums() -> None:
    """Reports of several gateways add up."""
    window = Window(60)
    window.record(2.0, 10.1)
    window.record(3.0, 10.9)
    assert window.average(10.9) == 5


def test_late_writes() -> None:
    """Inside the window they reach their second, also one before the first; older ones are dropped."""
    window = written(6, {10: 6.0})
    window.record(6.0, 8.0)
    assert window.average(10) == 4
    window.record(100.0, 4.9)
    assert window.average(10) == 4


def test_a_silence_of_the_window_starts_over() -> None:
    """Nothing from before counts, not even as written seconds."""
    assert written(6, {0: 6.0, 6: 3.0}).average(6) == 3


def test_resize_keeps_the_newest() -> None:
    """A smaller window forgets the oldest seconds, a larger one counts from the start of the old one."""
    window = written(6, {second: float(second) for second in range(6)})
    window.resize(3)
    assert window.average(5) == (3 + 4 + 5) / 3
    window.resize(10)
    assert window.average(5) == (3 + 4 + 5) / 3
    window.record(8.0, 6)
    assert window.average(6) == (3 + 4 + 5 + 8) / 4


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 100)), min_size=1, max_size=50), st.integers(1, 20))
def test_an_average_is_between_the_extremes(writes: list[tuple[int, float]], size: int) -> None:
    """The linear average at the last write is the plain mean of the seconds of the window since the first write."""
    window, now, model = Window(size), 0, {}
    for step, value in writes:
        now += min(step, size - 1)
        window.record(value, now)
        model[now] = model.get(now, 0.0) + value
    seconds = range(max(min(model), now - size + 1), now + 1)
    expected = sum(model.get(second, 0.0) for second in seconds) / len(seconds)
    assert window.average(now) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), min_size=1), st.integers(1, 8))
def test_slide_is_the_maximum_of_the_last_slots(steps: list[tuple[int, int]], slots: int) -> None:
    """The same as looking through everything noted."""
    noted: tuple[Noted, ...] = ()
    everything: list[Noted] = []
    slot = 0
    for step, value in steps:
        slot += step
        everything.append(Noted(slot, value))
        noted = slide(noted, slot, value, slots)
        assert noted[0].value == max(entry.value for entry in everything if entry.slot > slot - slots)
        assert len(noted) <= slots
