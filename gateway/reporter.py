"""Tells the autoscaler what each revision carries: every second, and at once when an idle one gets a request.

Theory of operation
-------------------
A request's whole stay at this worker counts, the time in the activator's queue included: a request that waits is what a
revision at zero needs a pod for. The arithmetic is `core.concurrency`; here are the clock and the rhythm.

A first request is announced at once (the poke that starts a cold revision). While requests wait, each second's Stats
show them again, so a poke that met a controller without knowledge of the revision is repeated by itself. Stats are sent
when there is nothing to tell as well: silence of an idle revision means zero only because its gateway is heard of.

Requests are shorter than the millisecond of `loop.time()`, so the averages are taken on `perf_counter`.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, NoReturn

from gateway.contract import Stat, Stats
from gateway.core.concurrency import LoadMeter

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.core.concurrency import RevisionLoad

__all__ = ["REPORT_PERIOD", "Reporter"]

REPORT_PERIOD = 1.0


class Reporter:
    """The load of one worker. `poke` and `report` take what is to be sent and must not block."""

    __slots__ = ("_meter", "_poke", "_report")

    def __init__(self, *, poke: Callable[[Stat], None], report: Callable[[Stats], None]) -> None:
        self._meter = LoadMeter()
        self._poke = poke
        self._report = report

    @property
    def in_flight(self) -> int:
        """Requests here now, of all revisions."""
        return self._meter.in_flight

    def announce(self, load: RevisionLoad) -> None:
        """An idle revision has a request: say so at once, and report it each second until it is idle again."""
        self._meter.add(load)
        self._poke(Stat(load.revision, 1.0, 1.0))

    async def run(self) -> NoReturn:
        """Report every second, until cancelled. A late turn is not made up for: the averages know how long it was."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + REPORT_PERIOD, loop.time())
            await asyncio.sleep(due - loop.time())
            self._report(Stats(self._meter.report(perf_counter())))
