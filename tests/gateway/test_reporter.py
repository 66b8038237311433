from __future__ import annotations

import asyncio
from time import perf_counter

import pytest

from gateway import reporter as module
from gateway.contract import RevisionId, Stat, Stats
from gateway.core.concurrency import RevisionLoad
from gateway.reporter import Reporter

ID = RevisionId("default", "hello-00001")


def test_a_first_request_is_poked_at_once() -> None:
    """(1, 1) for the first request of an idle revision, nothing for the next."""
    pokes: list[Stat] = []
    reporter = Reporter(poke=pokes.append, report=pytest.fail)
    load = RevisionLoad(ID)
    for now in (0.0, 0.1):
        if load.arrive(now):
            reporter.announce(load)
    assert pokes == [Stat(ID, 1.0, 1.0)]


async def test_reports_go_out_each_period_also_when_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without traffic is heard of; one with a waiting request says so each time."""
    monkeypatch.setattr(module, "REPORT_PERIOD", 0.01)
    reports: asyncio.Queue[Stats] = asyncio.Queue()
    reporter = Reporter(poke=lambda _: None, report=reports.put_nowait)
    task = asyncio.get_running_loop().create_task(reporter.run())
    assert await asyncio.wait_for(reports.get(), 5) == Stats(())
    load = RevisionLoad(ID)
    load.arrive(perf_counter())
    reporter.announce(load)
    await asyncio.wait_for(reports.get(), 5)
    [stat] = (await asyncio.wait_for(reports.get(), 5)).stats
    assert stat == Stat(ID, pytest.approx(1.0), 0)
    load.depart(perf_counter())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
