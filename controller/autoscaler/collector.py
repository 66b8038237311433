"""What the gateways report about each revision, as two averages.

Theory of operation
-------------------
Each gateway worker sends Stats every second, an empty one when nothing happened, and a poke at once for the first
request of an idle revision. For each revision there is a pair of windows, stable and panic, of its metric (requests in
flight, or per second); reports that arrive in the same second are summed over the workers.

*What silence means.* A worker names only revisions with load, so a revision it does not name had none: zero. But that
is known only while workers are heard of. Therefore:

- No worker is connected, or none was heard of for longer than the stable window: there is no data, and `load` says
  None. No data never means zero.
- Time in which no worker was heard of does not exist: the windows run on a clock that stands still from a second after
  the last report until the next one. After a restart of the only gateway, or a pause of the network, the averages go on
  from what they were, instead of sinking as if there had been no requests.
- An average of zero is given out only after the revision was watched for a whole stable window. A controller that
  restarted a second ago has seen no request, but that is no reason to take the last replica away.
- Nor is it given out while somebody may have more to say: a worker that is connected and has missed a report (it is
  stopped, or its network stands), or, for GATHERING seconds after a start, an interruption or the end of a connection,
  one that is on its way back. It may be the only one that has requests. A worker that stays silent is disconnected by
  the feed's pings.
- With ready replicas, each second that nobody mentioned is written as a zero; without, it is left out, so that the
  first requests of a cold revision are not averaged with the idle minute before. (Knative gets the same from scraping
  the replicas, which report zeros while they exist.)

A worker that is lost, which is when its connection ends, takes its numbers along: they just stop, and are out of the
averages a window later.

The clock is an argument: float seconds, monotonic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from controller.apis.annotations import RPS, WEIGHTED_EXPONENTIAL
from controller.apis.meta import Key
from controller.autoscaler.windows import Window
from gateway.contract import GATHERING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from controller.autoscaler.kpa import DeciderSpec
    from gateway.contract import Stat

__all__ = ["Collector", "Load"]

_PERIOD = 1.0  # of the gateways' reports
# A worker whose report is half a period late has missed one: the second without it is unknown, not idle.
_INTERRUPTION = 1.5


class Load(NamedTuple):
    """The averages over the stable and over the panic window."""

    stable: float
    panic: float


class _Watched:
    """One revision. `since`: the moment, on the windows' clock, from which it has been watched without a break."""

    __slots__ = ("panic", "since", "spec", "stable")

    def __init__(self, spec: DeciderSpec) -> None:
        self.spec = spec
        self.stable = Window(spec.stable_window)
        self.panic = Window(spec.panic_window)
        self.since: float | None = None

    def record(self, value: float, now: float) -> None:
        self.stable.record(value, now)
        self.panic.record(value, now)

    def load(self, now: float) -> Load:
        if self.spec.algorithm == WEIGHTED_EXPONENTIAL:
            return Load(self.stable.weighted_average(now), self.panic.weighted_average(now))
        return Load(self.stable.average(now), self.panic.average(now))


class Collector:
    """The load of every tracked revision. Bounded by the number of revisions and their windows (an hour at most)."""

    def __init__(self) -> None:
        self._watched: dict[Key, _Watched] = {}
        self._workers: dict[str, float] = {}  # those connected, and when each was heard of last
        self._quietest = 0.0  # the earliest of these times
        self._heard: float | None = None
        self._stood_still = 0.0
        self._gathered = 0.0  # when everybody is back

    def track(self, key: Key, spec: DeciderSpec) -> None:
        """Watch a revision, or change how. Another metric starts over; another window keeps what it can."""
        watched = self._watched.get(key)
        if watched is None or watched.spec.metric != spec.metric:
            self._watched[key] = _Watched(spec)
            return
        watched.spec = spec
        watched.stable.resize(spec.stable_window)
        watched.panic.resize(spec.panic_window)

    def forget(self, key: Key) -> None:
        """Track the revision no more; reports that still name it are dropped."""
        self._watched.pop(key, None)

    def on_stats(self, worker: str, stats: Iterable[Stat], now: float) -> list[Key]:
        """Take a report; returns the tracked revisions that have requests in flight by it."""
        self._hear(worker, now)
        moment = now - self._stood_still
        busy = []
        for stat in stats:
            key = Key(*stat.revision)
            watched = self._watched.get(key)
            if watched is None:
                continue  # no PodAutoscaler yet: while requests wait, the next second's report names it again
            watched.record(stat.request_count if watched.spec.metric == RPS else stat.average_concurrency, moment)
            if stat.average_concurrency:
                busy.append(key)
        return busy

    def on_disconnect(self, worker: str, now: float) -> None:
        """A worker's connection has ended."""
        self._gathered = now + GATHERING
        self._workers.pop(worker, None)
        self._quietest = min(self._workers.values(), default=0.0)

    def load(self, key: Key, *, ready: int, now: float) -> Load | None:
        """The averages of a tracked revision with `ready` replicas; None where there is no data (see above)."""
        watched = self._watched[key]
        if self._heard is None or not self._workers or now - self._heard > watched.spec.stable_window:
            return None
        moment = self._heard - self._stood_still
        if watched.since is None:
            watched.since = moment
        if ready > 0:
            watched.record(0.0, moment)
        load = watched.load(moment)
        if load.stable == 0 and (moment - watched.since < watched.spec.stable_window or self._may_lack(now)):
            return None
        return load

    def _may_lack(self, now: float) -> bool:
        """Whether the requests of some worker may not be in the averages."""
        return now < self._gathered or now - self._quietest > _INTERRUPTION

    def _hear(self, worker: str, now: float) -> None:
        self._workers[worker] = now
        self._quietest = min(self._workers.values())
        if self._heard is None or now - self._heard > _INTERRUPTION:
            self._gathered = now + GATHERING
            if self._heard is not None:
                self._stood_still += now - self._heard - _PERIOD
        self._heard = now
