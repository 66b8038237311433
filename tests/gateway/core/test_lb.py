from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.lb import first_available, random_choice_2, round_robin


@dataclass
class Load:
    in_flight: int


def loads(*numbers: int) -> list[Load]:
    return [Load(number) for number in numbers]


@pytest.mark.parametrize(
    ("in_flight", "limit", "expected"),
    [((), 1, None), ((0, 0), 1, 0), ((1, 0), 1, 1), ((2, 3, 2), 3, 0), ((3, 3, 2), 3, 2), ((1, 1), 1, None)],
)
def test_first_available(in_flight: tuple[int, ...], limit: int, expected: int | None) -> None:
    """The first place below its limit, in the given order."""
    assert first_available(loads(*in_flight), limit) == expected


@pytest.mark.parametrize(
    ("in_flight", "start", "expected"),
    [((), 0, None), ((0, 0, 0), 1, 1), ((0, 5, 0), 1, 2), ((0, 5, 5), 1, 0), ((5, 5, 5), 2, None), ((0, 0), 7, 1)],
)
def test_round_robin(in_flight: tuple[int, ...], start: int, expected: int | None) -> None:
    """The next place below its limit, full ones skipped, around the end."""
    assert round_robin(loads(*in_flight), 5, start) == expected


@pytest.mark.parametrize(
    ("in_flight", "point", "expected"),
    [((), 0.5, None), ((9,), 0.99, 0), ((3, 1), 0.0, 1), ((3, 1), 0.99, 1), ((2, 2), 0.0, 0), ((2, 2), 0.99, 1)],
)
def test_random_choice_2(in_flight: tuple[int, ...], point: float, expected: int | None) -> None:
    """One target: that one. Two: the lesser, a tie falls by the point."""
    assert random_choice_2(loads(*in_flight), point) == expected


@given(st.lists(st.integers(0, 50), min_size=3, max_size=20), st.floats(0, 1, exclude_max=True))
def test_random_choice_2_never_takes_the_single_most_loaded(in_flight: list[int], point: float) -> None:
    """Of a pair the less loaded is taken, so a place above all others is never chosen."""
    index = random_choice_2(loads(*in_flight), point)
    assert index is not None
    assert in_flight[index] < max(in_flight) or in_flight.count(max(in_flight)) > 1


def test_random_choice_2_is_uniform_over_equal_places() -> None:
    """Equal shares of [0, 1) for equally loaded places."""
    steps = 12_000
    counts = Counter(random_choice_2(loads(0, 0, 0, 0), step / steps) for step in range(steps))
    assert counts == dict.fromkeys(range(4), steps // 4)
