"""What each revision carries: time-weighted requests in flight and arrivals, as the autoscaler wants them.

Theory of operation
-------------------
For each revision with traffic the integral of its requests in flight over time is kept. It is the sum of all stays, so
an arrival takes its time off and a departure adds its own, both counted from the last report; whoever is still here at
the next one stayed until then. A report divides it by the time since the last report (since the first arrival, for a
new entry) and starts anew. Waiting requests are in flight too: they are what a revision at zero needs a pod for.

The first request of a revision without an entry is news that must not wait for the next report: `arrive` returns True
and the caller sends (1 concurrent, 1 request) at once. That much is taken off the next report, so that a sum over the
reports of one second never counts it twice. A revision without any load in a whole report is reported once with 0
(that is how the autoscaler learns of it) and then forgotten, unless a request is in flight; the next request is a
first one again. Knative's activator does the same (pkg/activator/handler/concurrency_reporter.go).

Times are float seconds of any monotonic clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.contract import Stat

if TYPE_CHECKING:
    from gateway.contract import RevisionId

__all__ = ["LoadMeter"]


class _Entry:
    __slots__ = ("announced", "area", "arrivals", "in_flight", "since")

    def __init__(self, now: float) -> None:
        self.in_flight = 0
        self.area = 0.0  # request-seconds since `since`, but for those in flight
        self.arrivals = 0
        self.since = now
        self.announced = 1  # of the next report's numbers, how much was sent at once

    def average(self, now: float) -> float:
        elapsed = now - self.since
        return self.area / elapsed + self.in_flight if elapsed > 0 else 0.0

    def restart(self, now: float) -> None:
        self.area = 0.0
        self.arrivals = 0
        self.announced = 0
        self.since = now


class LoadMeter:
    """The load of every revision at one worker. Bounded by the number of revisions."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[RevisionId, _Entry] = {}

    def arrive(self, revision: RevisionId, now: float) -> bool:
        """A request came. True: the revision was idle, and (1, 1) is to be reported at once."""
        entry = self._entries.get(revision)
        if entry is None:
            entry = self._entries[revision] = _Entry(now)
            entry.in_flight = entry.arrivals = 1
            return True
        entry.area -= now - entry.since
        entry.in_flight += 1
        entry.arrivals += 1
        return False

    def depart(self, revision: RevisionId, now: float) -> None:
        """A request that arrived has its answer, or its client left."""
        entry = self._entries[revision]
        entry.area += now - entry.since
        entry.in_flight -= 1

    def report(self, now: float) -> tuple[Stat, ...]:
        """The load since the last report, one Stat per revision with an entry."""
        stats: list[Stat] = []
        for revision, entry in list(self._entries.items()):
            average = entry.average(now)
            stats.append(Stat(revision, max(0.0, average - entry.announced), entry.arrivals - entry.announced))
            if average == 0 and entry.in_flight == 0:
                del self._entries[revision]
            else:
                entry.restart(now)
        return tuple(stats)
