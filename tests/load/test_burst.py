"""The ideal that load/burst.py measures against."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LOAD = Path(__file__).parents[2] / "load"


@pytest.fixture(scope="module")
def burst() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(LOAD))  # benchmarks import each other
        return runpy.run_path(str(LOAD / "burst.py"))


@pytest.fixture(scope="module")
def earliest(burst: dict[str, Any]) -> Callable[..., float]:
    found: Callable[..., float] = burst["earliest"]
    return found


@pytest.mark.parametrize(
    ("ready", "jobs", "places", "end"),
    [
        ((0.5,), 1, 10, 0.7),
        ((0.5,), 10, 10, 0.7),
        ((0.5,), 11, 10, 0.9),
        ((0.5,), 1000, 10, 20.5),
        ((0.0, 0.0), 40, 10, 0.4),
        ((0.0, 0.3), 40, 10, 0.6),  # 10 by 0.2, 20 by 0.4, 30 by 0.5, 40 by 0.6
        ((0.0, 9.0), 20, 10, 0.4),  # nobody waits for a pod that comes too late
        ((1.0, *(3.0,) * 9), 1000, 10, 4.8),  # 100 by the first pod until the others are there, then 100 in 0.2 s
    ],
)
def test_the_earliest_end(
    earliest: Callable[..., float], ready: tuple[float, ...], jobs: int, places: int, end: float
) -> None:
    """Jobs of 0.2 s on places that come and are free one after the other."""
    assert earliest(ready, jobs, places, 0.2) == pytest.approx(end)


@given(ready=st.lists(st.floats(0, 5), min_size=1, max_size=8), jobs=st.integers(1, 200), places=st.integers(1, 10))
def test_the_earliest_end_is_the_first_moment_with_enough_done(
    earliest: Callable[..., float], ready: list[float], jobs: int, places: int
) -> None:
    """Counted the other way around: whole jobs that fit between each pod's start and that moment, and just before."""
    end = earliest(ready, jobs, places, 0.25)

    def done(until: float) -> int:
        return sum(places * max(0, int((until - moment) / 0.25 + 1e-9)) for moment in ready)

    assert done(end) >= jobs > done(end - 1e-6)


def test_the_autoscaler_knows_the_burst_at_once(burst: dict[str, Any]) -> None:
    """1,000 requests by 70 % of ten each; no more than max-scale."""
    assert burst["pods_at_once"](1000, 10, 0) == 143
    assert burst["pods_at_once"](1000, 10, 20) == 20
