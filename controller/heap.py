"""Python's cyclic garbage collector, in lulls.

Theory of operation
-------------------
Nearly everything in a control process is parsed JSON: long-lived, and free of cycles, so that the collector looks
through it and finds nothing. With Python's default of 700 allocations it took a fifth of the CPU of waking 100 services
at once; with 50,000 it comes once in such a burst, for some 35 ms in which everybody waits. So the automatic collector
is off, and once a second it is asked how much there is to look at; if it is enough, that is done in the next lull. The
generations are Python's, with their thresholds raised.
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from controller.lull import Lull

INTERVAL = 1.0
ALLOCATIONS = 50_000
"""Containers made and not freed since the last collection, after which there is one."""
_MIDDLE, _FULL = 20, 1000
"""Every so many collections look at what has survived one, and at everything."""


async def collect(lull: Lull) -> NoReturn:
    """Until cancelled; Python's own thresholds hold again afterwards."""
    gc.disable()
    gc.freeze()  # modules and the first lists live as long as the process
    count = 0
    try:
        while True:
            await asyncio.sleep(INTERVAL)
            if gc.get_count()[0] >= ALLOCATIONS:
                await lull.wait()
                count += 1
                gc.collect(2 if count % _FULL == 0 else 1 if count % _MIDDLE == 0 else 0)
    finally:
        gc.enable()
