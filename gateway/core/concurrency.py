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

__all__ = ["LoadMeter", "RevisionLoad"]


class RevisionLoad:
    """The load of one revision at one worker. `is_known`: the next report has it."""

    __slots__ = ("_announced", "_area", "_arrivals", "_since", "in_flight", "is_known", "revision")

    def __init__(self, revision: RevisionId) -> None:
        self.revision = revision
        self.is_known = False
        self.in_flight = 0
        self._area = 0.0  # request-seconds since `_since`, but for those in flight
        self._arrivals = 0
        self._since = 0.0
        self._announced = 0  # of the next report's numbers, how much was sent at once

    def arrive(self, now: float) -> bool:
        """A request came. True: the revision was idle; LoadMeter is to be told, and (1, 1) to be reported at once."""
        if not self.is_known:
            self.is_known = True
            self._since = now
            self.in_flight = self._arrivals = self._announced = 1
            return True
        self._area -= now - self._since
        self.in_flight += 1
        self._arrivals += 1
        return False

    def depart(self, now: float) -> None:
        """A request that arrived has its answer, or its client left."""
        self._area += now - self._since
        self.in_flight -= 1

    def report(self, now: float) -> Stat:
        """The load since the last report, or since the first arrival. Without any the revision is idle from here on."""
        elapsed = now - self._since
        average = self._area / elapsed + self.in_flight if elapsed > 0 else 0.0
        stat = Stat(self.revision, max(0.0, average - self._announced), self._arrivals - self._announced)
        self.is_known = average != 0 or self.in_flight != 0
        self._area = 0.0
        self._arrivals = self._announced = 0
        self._since = now
        return stat


class LoadMeter:
    """The load of every revision at one worker. Bounded by the number of revisions."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: list[RevisionLoad] = []

    @property
    def in_flight(self) -> int:
        """Requests here now, of all revisions."""
        return sum(load.in_flight for load in self._known)

    def add(self, load: RevisionLoad) -> None:
        """Report it from now on, until it is idle: its `arrive` said that it no longer is."""
        self._known.append(load)

    def report(self, now: float) -> tuple[Stat, ...]:
        """The load since the last report, one Stat per revision that is not idle, or has just become so."""
        stats: dict[RevisionId, Stat] = {}
        for load in self._known:
            stat = load.report(now)
            before = stats.get(load.revision)
            if before is not None:  # a revision that was removed and came back, while requests were in flight
                stat = Stat(
                    load.revision,
                    before.average_concurrency + stat.average_concurrency,
                    before.request_count + stat.request_count,
                )
            stats[load.revision] = stat
        self._known = [load for load in self._known if load.is_known]
        return tuple(stats.values())
