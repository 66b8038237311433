import asyncio

import pytest

from controller.lull import LAST, STARTED, TICK, Lull
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
    for number in range(10):
        lull.after(number, lambda number=number: done.append(number))
    lull.after(0, lambda: done.append("again"))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not done
    busy.cancel()
    await until(lambda: not len(lull))
    assert done == list(range(10))


async def test_who_comes_into_a_lull_stops_it(lull):
    """One piece of work at a time: somebody who is busy again has nothing more before him."""
    done = []
    for number in range(10_000):
        lull.after(number, lambda number=number: done.append(number))
    await until(lambda: done)
    with lull.urgent():
        before = len(done)
        await asyncio.sleep(5 * TICK)
        assert len(done) == before
    await until(lambda: len(done) > before)
    lull.close()


async def test_programs_that_start_take_the_processors(monkeypatch):
    """As many as there are leave no lull. One fewer does, in which only what stands first goes at once: the rest may
    change until they have started."""
    monkeypatch.setattr("controller.lull.SETTLED", 60)
    lull, done = Lull(processors=2), []
    with lull.starting():
        with lull.starting():
            lull.after("ready", lambda: done.append("ready"))
            lull.after("runs", lambda: done.append("runs"), STARTED)
            lull.after("told", lambda: done.append("told"), LAST)
            await asyncio.sleep(5 * TICK)
            assert not done
        await until(lambda: done)
        await asyncio.sleep(5 * TICK)
        assert done == ["ready"]
    await until(lambda: not len(lull))
    assert done == ["ready", "runs", "told"]
    with lull.starting():
        monkeypatch.setattr("controller.lull.SETTLED", 0.01)
        await lull.wait()


async def test_work_that_waited_long_goes_although_somebody_is_busy(lull, busy, monkeypatch):
    """The wait is bounded."""
    monkeypatch.setattr("controller.lull.LIMIT", 0.02)
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


async def test_what_is_told_from_others_comes_after_them(lull):
    """By rank, whoever came first; a lower one that comes meanwhile goes before."""
    done = []
    lull.after("last", lambda: done.append("last"), 2)
    lull.after("next", lambda: done.append("next"), 1)

    def first():
        done.append("first")
        lull.after("first again", lambda: done.append("first again"))

    lull.after("first", first)
    await until(lambda: not len(lull))
    assert done == ["first", "first again", "next", "last"]


async def test_a_rank_that_waited_long_goes_before_lower_ones(lull, busy, monkeypatch):
    """News without end about the lowest rank do not keep the others for ever."""
    monkeypatch.setattr("controller.lull.LIMIT", 0.02)
    done = []
    lull.after("old", lambda: done.append("old"), 5)
    await asyncio.sleep(TICK)
    for number in range(3):
        lull.after(number, lambda number=number: done.append(number))
    await until(lambda: done)
    assert done[0] == "old"
