"""Whole stories against timelines that were looked at, and laws over any story."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

GOLDEN = Path(__file__).parents[1] / "golden" / "simulation"


def steady(make_arrival, start: float, end: float, per_second: float, seconds: float) -> list:
    count = round((end - start) * per_second)
    return [make_arrival(start + number / per_second, seconds) for number in range(count)]


STORIES = {
    # One request wakes a revision that its initial replica has left; a minute later it is at zero again.
    "one-request": {"cold_start": 1.0, "minutes": 5, "loads": [(100, 101, 1, 0.5)]},
    # 100 requests a second of half a second each on ten at a time: panic, overshoot, back to what is needed, to zero.
    "surge": {"cold_start": 2.0, "limit": 10, "minutes": 12, "loads": [(200, 400, 100, 0.5)]},
    # The same with every brake on: activation scale, ceiling, delay, retention.
    "bounded": {
        "cold_start": 2.0,
        "limit": 10,
        "minutes": 12,
        "loads": [(200, 400, 100, 0.5)],
        "annotations": {
            "activation-scale": "4",
            "max-scale": "8",
            "scale-down-delay": "30s",
            "scale-to-zero-pod-retention-period": "1m",
        },
    },
}


@pytest.mark.parametrize("name", STORIES)
def test_golden(name: str, make_world, make_arrival, request: pytest.FixtureRequest) -> None:
    """The timeline is the one that was reviewed."""
    story = dict(STORIES[name])
    minutes, loads = story.pop("minutes"), story.pop("loads")
    world = make_world(**story)
    world.run(minutes * 60, [arrival for load in loads for arrival in steady(make_arrival, *load)])
    text = "".join(
        f"- {{at: {at}, desired: {desired}, replicas: {replicas}, ready: {ready}, panic: {str(panic).lower()}}}\n"
        for at, desired, replicas, ready, panic in world.timeline
    )
    path = GOLDEN / f"{name}.out.yaml"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("end", [101.5, 113.3, 120.0])
def test_zero_comes_62_to_65_seconds_after_the_last_request(make_world, make_arrival, end: float) -> None:
    """With the defaults, wherever it falls between two ticks."""
    world = make_world()
    world.run(300, [make_arrival(80.0, 1.0), make_arrival(end - 0.5, 0.5)])
    last = world.timeline[-1]
    assert last.replicas == 0
    assert 60 <= last.time - end <= 66


def test_a_restarted_controller_changes_nothing(make_world, make_arrival) -> None:
    """Under steady load the scale is the same before and after."""
    world = make_world(limit=10, cold_start=1.0)
    arrivals = steady(make_arrival, 10, 400, 100, 0.5)
    world.run(250, arrivals)
    before = world.timeline[-1].replicas
    assert before > 1
    fresh = make_world(limit=10, cold_start=0.0, replicas=before)
    fresh.run(120, steady(make_arrival, 0, 120, 100, 0.5))
    assert {moment.replicas for moment in fresh.timeline} == {before}


@settings(max_examples=25)
@given(data=st.data())
def test_laws(data: st.DataObject, request: pytest.FixtureRequest) -> None:
    """Every request is served; zero replicas only when nothing was in flight for the whole window; never down in
    panic; no change faster than the rates allow."""
    make_world, make_arrival = request.getfixturevalue("make_world"), request.getfixturevalue("make_arrival")
    tenths = st.integers(0, 3000)
    starts = sorted(data.draw(st.lists(st.tuples(tenths, st.integers(1, 300)), max_size=60), label="arrivals"))
    arrivals = [make_arrival(start / 10, length / 10) for start, length in starts]
    world = make_world(
        limit=data.draw(st.sampled_from([0, 1, 10]), label="limit"),
        cold_start=data.draw(st.sampled_from([0.0, 0.5, 20.0]), label="cold start"),
    )
    world.run(900, arrivals)

    assert world.unfinished == 0
    assert world.timeline[-1].replicas == 0
    spans = [
        (arrival.time, arrival.time + wait + arrival.seconds)
        for arrival, wait in zip(arrivals, world.waits, strict=True)
    ]
    for before, after in zip(world.timeline, world.timeline[1:], strict=False):
        if after.replicas == 0 and before.replicas > 0:
            assert not any(begin < after.time and end > after.time - 58 for begin, end in spans)
        if before.panicking and after.panicking:
            assert after.desired >= before.desired
        if before.desired > 0 and after.desired > before.desired:
            assert after.desired <= ceil(1000 * max(1, before.ready, after.ready))
