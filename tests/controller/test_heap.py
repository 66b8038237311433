import asyncio
import contextlib
import gc

from controller import heap
from controller.lull import Lull
from tests.polling import until


async def test_garbage_waits_for_a_lull_and_goes(monkeypatch):
    """While something urgent is under way nothing is collected, after it, it is; Python takes over again in the end."""
    monkeypatch.setattr(heap, "INTERVAL", 0.001)
    monkeypatch.setattr(heap, "ALLOCATIONS", 1)
    runs = []
    lull = Lull()
    gc.callbacks.append(note := lambda phase, _: runs.append(phase))
    try:
        with lull.urgent():
            task = asyncio.ensure_future(heap.collect(lull))
            await until(lambda: not gc.isenabled())
            runs.clear()
            await until(lambda: len(lull))
            assert not runs
        await until(lambda: "stop" in runs)
    finally:
        gc.callbacks.remove(note)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert gc.isenabled()
