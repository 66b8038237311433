from __future__ import annotations

from random import Random
from statistics import mean, median

import pytest

from controller.simulation.distributions import DistributionError, distribution


def samples(text: str, count: int = 20_000) -> list[float]:
    draw = distribution(text, Random(7))
    return sorted(draw() for _ in range(count))


@pytest.mark.parametrize(("text", "seconds"), [("200ms", 0.2), ("1m30s", 90.0), ("2", 2.0), ("0.5", 0.5), ("0", 0.0)])
def test_a_constant(text: str, seconds: float) -> None:
    """A Go duration, or plain seconds."""
    assert set(samples(text, 3)) == {seconds}


def test_uniform() -> None:
    """Between its ends, evenly."""
    found = samples("uniform:100ms-300ms")
    assert 0.1 <= found[0] < 0.101
    assert 0.299 < found[-1] <= 0.3
    assert mean(found) == pytest.approx(0.2, rel=0.02)


def test_exponential() -> None:
    """By its mean."""
    assert mean(samples("exponential:200ms")) == pytest.approx(0.2, rel=0.03)


def test_lognormal() -> None:
    """By its median and its 99th percentile."""
    found = samples("lognormal:200ms,1s")
    assert median(found) == pytest.approx(0.2, rel=0.03)
    assert found[int(len(found) * 0.99)] == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fast",
        "normal:1s",
        "uniform:1s",
        "uniform:3s-1s",
        "exponential:0s",
        "exponential:",
        "lognormal:0s,1s",
        "-1s",
    ],
)
def test_what_is_no_time(text: str) -> None:
    """Is refused in a sentence with an example."""
    with pytest.raises(DistributionError, match=r"like|above 0"):
        distribution(text, Random())
