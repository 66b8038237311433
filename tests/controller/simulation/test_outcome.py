from __future__ import annotations

import pytest

from controller.simulation.outcome import outcome, percentile
from controller.simulation.world import Arrival, Settings, World


def test_a_request_that_meets_no_pod_is_cold_and_waits_for_one() -> None:
    """And pods are paid for from their start to their end."""
    world = World(Settings({"initial-scale": "1"}), cold_start=lambda: 2.0)
    world.run(400, [Arrival(200.0, 1.0), Arrival(201.0, 1.0), Arrival(210.0, 1.0)])
    result = outcome(world)
    assert (result.requests, result.cold, result.lost, result.pods_max) == (3, 2, 0, 1)
    assert result.cold_rate == pytest.approx(2 / 3)
    assert (result.wait_p50, result.wait_max) == (1.0, 2.0)
    first_life, second_life = 65, 73  # from the start of the world, and from the first request, until idle long enough
    assert result.pod_seconds == pytest.approx(first_life + second_life, abs=6)


def test_requests_that_find_a_full_queue_or_wait_too_long_are_lost() -> None:
    """Neither is counted as having waited."""
    settings = Settings({"max-scale": "1"}, container_concurrency=1, queue_limit=2, timeout=5.0)
    world = World(settings, cold_start=lambda: 0.0)
    world.run(100, [Arrival(10.0 + number / 10, 20.0) for number in range(5)])
    result = outcome(world)
    assert (result.requests, result.lost, world.refused, world.unfinished) == (5, 4, 2, 0)
    assert result.wait_max == 0.0


def test_nothing_came() -> None:
    """All is zero but the pods."""
    world = World(Settings(), cold_start=lambda: 1.0)
    world.run(10)
    result = outcome(world)
    assert (result.requests, result.cold_rate, result.wait_p99, result.pod_seconds) == (0, 0.0, 0.0, 10.0)


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 2), (51, 3), (75, 3), (76, 4), (100, 4)])
def test_percentile(percent: float, expected: int) -> None:
    """The smallest value that so many do not exceed."""
    assert percentile([1, 2, 3, 4], percent) == expected
