from __future__ import annotations

from dataclasses import replace

import pytest

from controller.apis.meta import Key
from controller.autoscaler.collector import Collector, Load
from controller.autoscaler.kpa import DeciderSpec
from gateway.contract import RevisionId, Stat

KEY = Key("default", "hello-00001")
ID = RevisionId(*KEY)
SPEC = DeciderSpec()


@pytest.fixture
def collector() -> Collector:
    collector = Collector()
    collector.track(KEY, SPEC)
    return collector


def report(collector: Collector, now: float, *loads: float, worker: str = "w1") -> list[Key]:
    return collector.on_stats(worker, [Stat(ID, load, load * 10) for load in loads], now)


def run(collector: Collector, start: int, end: int, *loads: float, ready: int = 1) -> None:
    """Reports of one worker, once a second, each looked at."""
    for second in range(start, end):
        report(collector, second, *loads)
        collector.load(KEY, ready=ready, now=second)


def test_without_any_report_there_is_no_data(collector: Collector) -> None:
    """Nobody was heard of: nothing is known."""
    assert collector.load(KEY, ready=1, now=0.0) is None


def test_a_steady_load(collector: Collector) -> None:
    """Both averages are what is reported."""
    run(collector, 0, 61, 5.0)
    assert collector.load(KEY, ready=1, now=60.5) == Load(5.0, 5.0)


def test_workers_add_up(collector: Collector) -> None:
    """Reports of the same second are summed."""
    report(collector, 0.1, 2.0, worker="w1")
    report(collector, 0.9, 3.0, worker="w2")
    assert collector.load(KEY, ready=0, now=1.0) == Load(5.0, 5.0)


def test_a_revision_that_is_not_named_had_no_load(collector: Collector) -> None:
    """While it has replicas the average falls with each empty report, to zero after the window."""
    run(collector, 0, 60, 6.0)
    run(collector, 60, 90)
    assert collector.load(KEY, ready=1, now=89) == Load(3.0, 0.0)
    run(collector, 90, 120)
    assert collector.load(KEY, ready=1, now=119) == Load(0.0, 0.0)


def test_a_cold_revision_is_not_averaged_with_its_idle_past(collector: Collector) -> None:
    """Without replicas silence is left out, so the first requests count in full."""
    run(collector, 0, 200, ready=0)
    report(collector, 200, 50.0)
    assert collector.load(KEY, ready=0, now=200) == Load(50.0, 50.0)


def test_zero_is_known_only_after_a_whole_window(collector: Collector) -> None:
    """A controller that has just started takes nothing away."""
    run(collector, 0, 60)
    assert collector.load(KEY, ready=1, now=59) is None
    run(collector, 60, 61)
    assert collector.load(KEY, ready=1, now=60) == Load(0.0, 0.0)


def test_a_lost_worker_is_no_data_when_it_was_the_only_one(collector: Collector) -> None:
    """Until another connects."""
    run(collector, 0, 61, 5.0)
    collector.on_disconnect("w1", 61)
    assert collector.load(KEY, ready=1, now=61) is None
    report(collector, 62, 5.0, worker="w2")
    assert collector.load(KEY, ready=1, now=62) == Load(5.0, 5.0)


def test_a_lost_workers_numbers_just_stop(collector: Collector) -> None:
    """They leave each average within its window, second by second."""
    for second in range(60):
        report(collector, second, 2.0, worker="w1")
        report(collector, second, 3.0, worker="w2")
    collector.on_disconnect("w2", 60)
    run(collector, 60, 66, 2.0)
    assert collector.load(KEY, ready=1, now=65) == Load(4.7, 2.0)
    run(collector, 66, 120, 2.0)
    assert collector.load(KEY, ready=1, now=119) == Load(2.0, 2.0)


def idle_but(collector: Collector, silent_from: int, end: int) -> None:
    """A worker without requests, each second; another with all of them is heard of until `silent_from`."""
    for second in range(end):
        report(collector, second, worker="w1")
        if second < silent_from:
            report(collector, second + 0.5, 3.0, worker="w2")
        collector.load(KEY, ready=1, now=second + 0.9)


@pytest.mark.parametrize("window", [6.0, 60.0])
def test_a_connected_worker_that_is_silent_may_have_requests(collector: Collector, window: float) -> None:
    """The average is not known to be zero until that worker says so, or its connection has ended and it is not back in
    time."""
    collector.track(KEY, replace(SPEC, stable_window=window))
    idle_but(collector, 60, 180)
    assert collector.load(KEY, ready=1, now=180) is None
    report(collector, 180, worker="w1")
    report(collector, 180, worker="w2")
    assert collector.load(KEY, ready=1, now=180) == Load(0.0, 0.0)
    collector.on_disconnect("w2", 180.5)
    for second in range(181, 189):
        report(collector, second, worker="w1")
        assert collector.load(KEY, ready=1, now=second) is None
    report(collector, 189, worker="w1")
    assert collector.load(KEY, ready=1, now=189) == Load(0.0, 0.0)


def test_a_silent_workers_load_counts_when_it_is_back(collector: Collector) -> None:
    """It had requests all the time, and was never taken for idle."""
    collector.track(KEY, replace(SPEC, stable_window=6.0))
    idle_but(collector, 60, 75)
    assert collector.load(KEY, ready=1, now=75) is None
    report(collector, 75, worker="w1")
    report(collector, 75, 3.0, worker="w2")
    load = collector.load(KEY, ready=1, now=75)
    assert load is not None
    assert load.stable > 0


@pytest.mark.parametrize("interruption", [None, 30])
def test_zero_waits_for_workers_on_their_way_back(collector: Collector, interruption: int | None) -> None:
    """After a start, or when nobody was heard of for a while, the idle ones may be the first to return."""
    collector.track(KEY, replace(SPEC, stable_window=6.0))
    start = 0
    if interruption is not None:
        run(collector, 0, 100)
        start = 100 + interruption
    run(collector, start, start + 7)
    assert collector.load(KEY, ready=1, now=start + 7) is None
    run(collector, start + 7, start + 9)
    assert collector.load(KEY, ready=1, now=start + 8) == Load(0.0, 0.0)


def test_silent_workers_are_no_data_after_a_window(collector: Collector) -> None:
    """A connection may be dead before it is closed; until then the last averages hold."""
    run(collector, 0, 61, 5.0)
    assert collector.load(KEY, ready=1, now=119) == Load(5.0, 5.0)
    assert collector.load(KEY, ready=1, now=120.5) is None


@pytest.mark.parametrize("silence", [4, 30, 500])
def test_time_in_which_nobody_was_heard_of_does_not_exist(collector: Collector, silence: int) -> None:
    """After an interruption of any length the averages go on from where they were."""
    run(collector, 0, 61, 5.0)
    collector.on_disconnect("w1", 60)
    report(collector, 60 + silence, 5.0, worker="w2")
    assert collector.load(KEY, ready=1, now=60 + silence) == Load(5.0, 5.0)


def test_an_interruption_brings_zero_no_nearer(collector: Collector) -> None:
    """The window must have been watched, not just passed."""
    run(collector, 0, 30)
    run(collector, 530, 550)
    assert collector.load(KEY, ready=1, now=549) is None


def test_requests_per_second(collector: Collector) -> None:
    """The other metric counts arrivals; changing to it starts over."""
    report(collector, 0.0, 5.0)
    collector.track(KEY, replace(SPEC, metric="rps"))
    report(collector, 1.0, 5.0)
    assert collector.load(KEY, ready=0, now=1.0) == Load(50.0, 50.0)


def test_weighted_average(collector: Collector) -> None:
    """The other algorithm, at once."""
    run(collector, 0, 60, 10.0)
    collector.track(KEY, replace(SPEC, algorithm="weighted-exponential"))
    assert collector.load(KEY, ready=1, now=59) == Load(pytest.approx(9.999985), pytest.approx(9.999))


def test_busy_revisions_are_named(collector: Collector) -> None:
    """Those with requests in flight, tracked ones only."""
    assert report(collector, 0.0, 1.0) == [KEY]
    assert report(collector, 1.0, 0.0) == []
    collector.forget(KEY)
    assert report(collector, 2.0, 1.0) == []
