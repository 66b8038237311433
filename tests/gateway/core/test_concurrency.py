from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract import RevisionId, Stat
from gateway.core.concurrency import LoadMeter, RevisionLoad

REVISION = RevisionId("default", "hello-00001")


class Meter(LoadMeter):
    """With one revision, whose first request is announced as a worker does it."""

    def __init__(self) -> None:
        super().__init__()
        self.load = RevisionLoad(REVISION)

    def arrive(self, now: float) -> bool:
        is_first = self.load.arrive(now)
        if is_first:
            self.add(self.load)
        return is_first

    def depart(self, now: float) -> None:
        self.load.depart(now)


def warm(meter: Meter, now: float) -> None:
    """Leave an entry behind whose first request was reported and has gone."""
    meter.arrive(now - 0.5)
    meter.depart(now - 0.4)
    meter.report(now)


@pytest.mark.parametrize(
    ("spans", "average", "count"),
    [
        (((0.2, 0.7),), 0.5, 1),
        (((0.0, 1.0), (0.5, 1.0)), 1.5, 2),
        (((0.0, 5.0),), 1.0, 1),
        ((), 0.0, 0),
    ],
)
def test_average_and_count_over_a_second(spans: tuple[tuple[float, float], ...], average: float, count: int) -> None:
    """Requests weigh by the time they were in flight, and count in the second of their arrival."""
    meter = Meter()
    warm(meter, 0.0)
    events = [(start, meter.arrive) for start, _ in spans] + [(end, meter.depart) for _, end in spans if end <= 1]
    for now, event in sorted(events, key=lambda pair: pair[0]):
        event(now)
    [stat] = meter.report(1.0)
    assert stat == Stat(REVISION, pytest.approx(average), count)


def test_a_long_request_counts_once() -> None:
    """It adds 1.0 to every second's average, and one arrival to the first."""
    meter = Meter()
    warm(meter, 0.0)
    meter.arrive(0.0)
    assert [meter.report(float(now)) for now in (1, 2, 3)] == [
        (Stat(REVISION, 1.0, 1),),
        (Stat(REVISION, 1.0, 0),),
        (Stat(REVISION, 1.0, 0),),
    ]


def test_first_request_is_announced_and_taken_off_the_next_report() -> None:
    """A first request at 0.3 that stays: (1, 1) at once, then (0, 0) at 1.0, then (1, 0)."""
    meter = Meter()
    assert meter.arrive(0.3)
    assert Stat(REVISION, 0.0, 0) in meter.report(1.0)
    assert Stat(REVISION, 1.0, 0) in meter.report(2.0)


def test_only_the_first_is_announced() -> None:
    """Further requests while the entry lives are no news, even after a pause shorter than a report."""
    meter = Meter()
    assert meter.arrive(0.1)
    assert not meter.arrive(0.2)
    meter.depart(0.3)
    meter.depart(0.3)
    meter.report(1.0)
    assert not meter.arrive(1.5)


def test_an_idle_revision_is_reported_once_with_zero_and_forgotten() -> None:
    """After the zero the next request is a first one again."""
    meter = Meter()
    meter.arrive(0.1)
    meter.depart(0.2)
    meter.report(1.0)
    assert meter.report(2.0) == (Stat(REVISION, 0.0, 0),)
    assert meter.report(3.0) == ()
    assert meter.arrive(3.5)


def test_a_revision_that_came_back_is_told_once() -> None:
    """Removed while a request was in flight and made again, it is counted anew; the sum of both is what it carries."""
    meter, again = Meter(), RevisionLoad(REVISION)
    warm(meter, 0.0)
    meter.arrive(0.0)
    assert again.arrive(0.5)
    meter.add(again)
    meter.report(1.0)
    assert meter.report(2.0) == (Stat(REVISION, 2.0, 0),)
    assert meter.in_flight == 2


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 2000)), min_size=1, max_size=30),
)
def test_reports_sum_to_the_time_spent(requests: list[tuple[int, int]]) -> None:
    """Over whole seconds the averages sum to the request-seconds spent, and the counts to the requests."""
    meter = Meter()
    warm(meter, 0.0)
    marks = [(start, 1) for start, _ in requests] + [(start + length, 2) for start, length in requests]
    marks += [(second * 1000, 0) for second in range(1, 7)]
    total = count = 0.0
    for millis, kind in sorted(marks):
        if kind == 0:
            for stat in meter.report(millis / 1000):
                total += stat.average_concurrency
                count += stat.request_count
        elif kind == 1 and meter.arrive(millis / 1000):
            total, count = total + 1, count + 1
        elif kind == 2:
            meter.depart(millis / 1000)
    # A first request after a pause is announced as a whole second of load; at most that much is taken off again.
    spent = sum(length for _, length in requests) / 1000
    assert count == len(requests)
    assert total >= spent - 1e-6
