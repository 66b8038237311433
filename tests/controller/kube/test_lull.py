import asyncio

import pytest

from controller.kube.lull import BATCH, TICK, Lull
from tests.polling import until


@pytest.fixture
async def lull():
    return Lull()


@pytest.fixture
async def busy(lull):
    """A task that is busy every millisecond; `cancel` it to have a lull."""

    async def work():
        while True:
            lull.busy()
            await asyncio.sleep(0.001)

    task = asyncio.ensure_future(work())
    yield task
    task.cancel()


async def test_work_waits_while_somebody_is_busy_and_then_comes_in_order(lull, busy):
    """Nothing is let go before the lull; then the oldest first, each key once, as it was handed over first."""
    done = []
    for number in range(3 * BATCH):
        lull.after(number, lambda number=number: done.append(number))
    lull.after(0, lambda: done.append("again"))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not done
    busy.cancel()
    await until(lambda: len(done) >= BATCH)
    assert len(done) < 3 * BATCH
    await until(lambda: not len(lull))
    assert done == list(range(3 * BATCH))


async def test_work_that_waited_long_goes_although_somebody_is_busy(lull, busy, monkeypatch):
    """The wait is bounded."""
    monkeypatch.setattr("controller.kube.lull.LIMIT", 0.02)
    async with asyncio.timeout(10):
        await lull.wait()
    assert not busy.done()


async def test_one_that_waits_can_leave(lull):
    """A cancelled wait leaves nothing behind, and a closed Lull drops what waits."""
    waiting = asyncio.ensure_future(lull.wait())
    await until(lambda: len(lull))
    waiting.cancel()
    await until(waiting.cancelled)
    assert not len(lull)
    lull.after("x", lambda: pytest.fail("dropped"))
    lull.close()
    assert not len(lull)
    await lull.wait()


async def test_there_is_no_lull_while_something_urgent_is_under_way(lull):
    """Nobody says `busy` while an answer is waited for; what is urgent holds the lull off until it is over."""
    done = []
    with lull.urgent():
        lull.after("x", lambda: done.append("x"))
        await asyncio.sleep(5 * TICK)
        assert not done
    await until(lambda: done)
