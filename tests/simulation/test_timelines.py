"""Whole stories against timelines that were looked at, and laws over any story."""

from __future__ import annotations

from itertools import pairwise
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.simulation.world import KEY

if TYPE_CHECKING:
    from controller.autoscaler.kpa import Decision

GOLDEN = Path(__file__).parents[1] / "golden" / "simulation"


class Load(NamedTuple):
    """Requests from `start` to `end`, evenly, `seconds` of work each."""

    start: float
    end: float
    per_second: float
    seconds: float

    def arrivals(self, make_arrival) -> list:
        count = round((self.end - self.start) * self.per_second)
        return [make_arrival(self.start + number / self.per_second, self.seconds) for number in range(count)]


def play(world, arrivals: list, until: float, silent: tuple[float, float] | None = None) -> None:
    """Run the world; what its gateway says in the time `silent` is lost."""
    before = 0.0
    for end in (*(silent or ()), until):
        world.run(end, [arrival for arrival in arrivals if before <= arrival.time < end])
        world.reporting = silent is None or end != silent[0]
        before = end


STORIES = {
    # One request wakes a revision that its initial replica has left; a minute later it is at zero again.
    "one-request": {"cold_start": 1.0, "minutes": 5, "loads": [Load(100, 101, 1, 0.5)]},
    # 100 requests a second of half a second each on ten at a time: panic, overshoot, back to what is needed, to zero.
    "surge": {"cold_start": 2.0, "limit": 10, "minutes": 12, "loads": [Load(200, 400, 100, 0.5)]},
    # The same with every brake on: activation scale, ceiling, delay, retention.
    "bounded": {
        "cold_start": 2.0,
        "limit": 10,
        "minutes": 12,
        "loads": [Load(200, 400, 100, 0.5)],
        "annotations": {
            "activation-scale": "4",
            "max-scale": "8",
            "scale-down-delay": "30s",
            "scale-to-zero-pod-retention-period": "1m",
        },
    },
    # A thousand at once: one pod by the poke, then what the first second of them asks for, averaged with the poke's;
    # panic holds that for a minute, and halves lead to zero.
    "burst-from-zero": {"cold_start": 0.5, "limit": 10, "minutes": 5, "loads": [Load(101, 101.01, 100_000, 0.2)]},
    # Five requests a second more every half minute, of a second each: a pod after the other. One pod more is twice as
    # many as one, which panics; the average of the whole window has caught up when that ends, but for a moment.
    "steady-ramp": {
        "cold_start": 1.0,
        "limit": 10,
        "minutes": 8,
        "loads": [Load(70 + 30 * step, 340, 5, 1.0) for step in range(9)],
    },
    # Ten times the load for twenty seconds: panic holds what it wanted for a minute after, then two steps down.
    "panic-in-and-out": {
        "cold_start": 1.0,
        "limit": 10,
        "minutes": 6,
        "loads": [Load(10, 340, 20, 0.5), Load(120, 140, 180, 0.5)],
    },
    # Load ends: a pod less every ten seconds as the average falls, none three seconds after the window is empty.
    "idle-to-zero": {"cold_start": 1.0, "limit": 10, "minutes": 5, "loads": [Load(0, 150, 100, 0.4)]},
    # Two minutes without a word of the gateway, in which the load ends: nothing is taken away for not being heard of,
    # and zero comes a window after the gateway is heard of again.
    "missing-stats": {
        "cold_start": 1.0,
        "limit": 10,
        "minutes": 8,
        "loads": [Load(0, 250, 40, 0.5)],
        "silent": (200.5, 330.5),
    },
    # Two waves twenty seconds apart, with a delay that is longer: the second finds the pods of the first, and each step
    # down after it takes half a minute.
    "scale-down-delay": {
        "cold_start": 1.0,
        "limit": 1,
        "minutes": 5,
        "loads": [Load(20, 60, 4, 1.0), Load(80, 110, 4, 1.0)],
        "annotations": {"scale-down-delay": "30s", "window": "6s"},
    },
    # Who is woken gets three pods where one would do, and has them until the average says otherwise.
    "activation-scale": {
        "cold_start": 1.0,
        "limit": 10,
        "minutes": 5,
        "loads": [Load(100, 110, 1, 0.5)],
        "annotations": {"activation-scale": "3"},
    },
}


@pytest.mark.parametrize("name", STORIES)
def test_golden(name: str, make_world, make_arrival, request: pytest.FixtureRequest) -> None:
    """The timeline is the one that was reviewed."""
    story = dict(STORIES[name])
    minutes, loads, silent = story.pop("minutes"), story.pop("loads"), story.pop("silent", None)
    world = make_world(**story)
    arrivals = sorted(arrival for load in loads for arrival in load.arrivals(make_arrival))
    play(world, arrivals, minutes * 60, silent)
    assert world.unfinished == 0
    text = "".join(
        f"- {{at: {round(one.time, 3)}, desired: {one.desired}, replicas: {one.replicas}, ready: {one.ready}, "
        f"panic: {str(one.panicking).lower()}}}\n"
        for one in world.timeline
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
    world.run(250, Load(10, 400, 100, 0.5).arrivals(make_arrival))
    before = world.timeline[-1].replicas
    assert before > 1
    fresh = make_world(limit=10, cold_start=0.0, replicas=before)
    fresh.run(120, Load(0, 120, 100, 0.5).arrivals(make_arrival))
    assert {moment.replicas for moment in fresh.timeline} == {before}


# --- laws over the whole loop -----------------------------------------------------------------------------------------


@st.composite
def requests(draw: st.DrawFn) -> list[tuple[float, float]]:
    """Starts and lengths in seconds: lone ones, and crowds that begin together."""
    tenths = st.integers(0, 3000)
    lone = draw(st.lists(st.tuples(tenths, st.integers(1, 300)), max_size=40), label="lone")
    crowds = draw(st.lists(st.tuples(tenths, st.integers(1, 50), st.integers(2, 200)), max_size=4), label="crowds")
    crowded = [(start, length) for start, length, count in crowds for _ in range(count)]
    return sorted((start / 10, length / 10) for start, length in lone + crowded)


LIMITS = st.sampled_from([0, 1, 10])
COLD_STARTS = st.sampled_from([0.0, 0.5, 20.0])


@settings(max_examples=25, deadline=None)
@given(
    found=requests(),
    limit=LIMITS,
    cold_start=COLD_STARTS,
    window=st.sampled_from([6, 20, 60]),
    retention=st.sampled_from([0, 45]),
)
def test_zero_only_after_a_whole_idle_window_and_the_grace(
    found: list[tuple[float, float]],
    limit: int,
    cold_start: float,
    window: int,
    retention: int,
    request: pytest.FixtureRequest,
) -> None:
    """Every request is served. The last replica goes when nothing was in flight for the stable window, and for the
    retention period or the grace after that; and then it does go."""
    make_world, make_arrival = request.getfixturevalue("make_world"), request.getfixturevalue("make_arrival")
    annotations = {"window": f"{window}s", "scale-to-zero-pod-retention-period": f"{retention}s"}
    world = make_world(limit=limit, cold_start=cold_start, annotations=annotations)
    arrivals = [make_arrival(*one) for one in found]
    world.run(1500, arrivals)
    assert world.unfinished == 0
    assert world.timeline[-1].replicas == 0
    spans = [(one.time, one.time + wait + one.seconds) for one, wait in zip(arrivals, world.waits, strict=True)]
    # Averages are of whole seconds, so a request counts from the beginning of the one it came in to the end of the one
    # it left in: the window may begin a second before the request's end.
    idle = window - 1 + max(retention, 3)
    for before, after in pairwise(world.timeline):
        if after.replicas == 0 and before.replicas > 0:
            assert not any(begin < after.time and end > after.time - idle for begin, end in spans)
    last = max((end for _, end in spans), default=0.0)
    halves = 2 * max(moment.replicas for moment in world.timeline).bit_length()  # a tick for each step down
    assert world.timeline[-1].time <= last + cold_start + 2 * window + halves + max(retention, 3) + 5


def decisions(world, arrivals: list, until: int) -> list[Decision]:
    """Each decision about the revision, in order. Between two ticks there is one poke at most that changes anything."""
    found: list[Decision] = []
    for half in range(2 * until):
        world.run((half + 1) / 2, [one for one in arrivals if half / 2 <= one.time < (half + 1) / 2])
        decision = world.deciders.decision(KEY)
        assert decision is not None
        if not found or decision is not found[-1]:
            found.append(decision)
    return found


@settings(max_examples=25, deadline=None)
@given(
    found=requests(),
    limit=LIMITS,
    cold_start=COLD_STARTS,
    up=st.sampled_from([1.5, 2.0, 10.0]),
    down=st.sampled_from([1.1, 2.0, 10.0]),
    low=st.sampled_from([0, 2]),
    high=st.sampled_from([0, 2, 5]),
)
def test_inside_the_bounds(
    found: list[tuple[float, float]],
    limit: int,
    cold_start: float,
    up: float,
    down: float,
    low: int,
    high: int,
    request: pytest.FixtureRequest,
) -> None:
    """One step up is at most the up-rate times what is ready, one step down leaves at least what is ready by the
    down-rate; the replicas are between min-scale and max-scale; in panic less is never wanted, and what is wanted
    stays."""
    make_world, make_arrival = request.getfixturevalue("make_world"), request.getfixturevalue("make_arrival")
    world = make_world(
        limit=limit,
        cold_start=cold_start,
        annotations={"min-scale": str(low), "max-scale": str(high)},
        configured={"max-scale-up-rate": str(up), "max-scale-down-rate": str(down)},
    )
    for before, after in pairwise(decisions(world, [make_arrival(*one) for one in found], 500)):
        base = max(1, after.ready)
        assert after.desired >= floor(base / down)
        if after.desired > before.desired:
            assert after.desired <= ceil(up * base)
        if before.panicking and after.panicking:
            assert after.desired >= before.desired
    assert all(low <= moment.replicas for moment in world.timeline[1:] if low)
    assert all(moment.replicas <= high for moment in world.timeline if high)
    for moment, after in pairwise(world.timeline):
        if moment.panicking and after.panicking:  # what drained before the panic, and is not wanted again, may go
            assert after.replicas >= min(moment.replicas, after.desired)


def replicas_at(world, seconds: range) -> list[int]:
    """At each of the seconds."""
    found, line = [], 0
    for second in seconds:
        while line + 1 < len(world.timeline) and world.timeline[line + 1].time <= second:
            line += 1
        found.append(world.timeline[line].replicas)
    return found


@settings(max_examples=25, deadline=None)
@given(
    rates=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    tenths=st.integers(1, 30),
    limit=LIMITS,
    start=st.integers(0, 100),
)
def test_monotone_in_load(
    rates: tuple[int, int], tenths: int, limit: int, start: int, request: pytest.FixtureRequest
) -> None:
    """More requests a second of the same kind never have fewer replicas once the scale has settled. (Not at each moment
    before that: what panics counts by what is ready, so a little less load may panic where a little more, which had a
    replica more already, does not. A single decision is monotone: tests/controller/autoscaler/test_kpa.py.)"""
    make_world, make_arrival = request.getfixturevalue("make_world"), request.getfixturevalue("make_arrival")
    settled = range(start + 170, start + 190)
    counts = []
    for rate in sorted(rates):
        world = make_world(limit=limit)
        world.run(settled[-1] + 1, Load(start, start + 190, rate, tenths / 10).arrivals(make_arrival))
        counts.append(replicas_at(world, settled))
    fewer, more = counts
    assert all(few <= many for few, many in zip(fewer, more, strict=True)), (fewer, more)
