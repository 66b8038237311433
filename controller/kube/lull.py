"""Work that may wait, done in the next lull.

Theory of operation
-------------------
A cold start is a handful of writes that a request waits for, and three times as many that tell people about it:
statuses, Events, a pod's readiness that the gateway has found out by itself. All of them share one event loop and one
API server, so those that may wait have to, and for as long as there is something better to do: one service needs a few
milliseconds, a hundred woken together need the processor for a second, and no fixed delay is right for both.

Whoever does something that a request waits for says `busy()`, or does it `with urgent()` if it takes more than one turn
of the loop. Whoever has something for later hands it to `after()`, or awaits `wait()`. The lull is there when nobody
was busy for two ticks of `TICK` seconds. Ticks are compared by counting,
not by the clock: between two of them the loop has polled, so that work which has arrived but was not looked at yet (a
turn of the loop can last longer than a tick) can't be taken for silence. Then `BATCH` are let go each tick, oldest
first, which leaves the loop to a request that comes in between. What has waited for `LIMIT` seconds goes although
somebody is busy, one each tick: late news still come, and after a hundred services were created a cold start does not
stand behind all that was put off.

The same key twice is one piece of work: what changes several times before the lull is written once. That bounds the
memory as well, by the number of objects.
"""

from __future__ import annotations

import asyncio
import contextlib
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

TICK = 0.010
_QUIET_TICKS = 2
LIMIT = 2.0
BATCH = 8


class Lull:
    """To be made inside the running loop; `close` drops what waits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Hashable, tuple[float, Callable[[], None]]] = {}  # since when; in this order
        self._busy = 0  # how often somebody was
        self._urgent = 0  # how much is under way that somebody waits for
        self._seen = 0  # that, at the last tick
        self._quiet = 0  # ticks in a row without
        self._timer: asyncio.Handle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def busy(self) -> None:
        """Something that a request waits for is being done."""
        self._busy += 1

    @contextlib.contextmanager
    def urgent(self) -> Iterator[None]:
        """Something that a request waits for is under way until the context is left."""
        self._urgent += 1
        try:
            yield
        finally:
            self._urgent -= 1
            self._busy += 1

    def after(self, key: Hashable, act: Callable[[], None]) -> None:
        """Call `act` in the next lull; nothing if that `key` waits already."""
        if key in self._waiting:
            return
        self._waiting[key] = self._loop.time(), act
        if self._timer is None:
            self._seen, self._quiet = self._busy, 0
            self._timer = self._loop.call_later(TICK, self._tick)

    async def wait(self) -> None:
        """Return in the next lull."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self.after(turn, lambda: None if turn.done() else turn.set_result(None))
        try:
            await turn
        finally:
            self._waiting.pop(turn, None)

    def close(self) -> None:
        """Forget what waits: nothing is called any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()

    def _tick(self) -> None:
        self._quiet = self._quiet + 1 if self._busy == self._seen and not self._urgent else 0
        self._seen = self._busy
        now = self._loop.time()
        enough, count = (TICK * _QUIET_TICKS, BATCH) if self._quiet >= _QUIET_TICKS else (LIMIT, 1)
        for key, (since, act) in list(islice(self._waiting.items(), count)):
            if now - since < enough:
                break
            del self._waiting[key]
            act()
        self._timer = self._loop.call_later(TICK, self._tick) if self._waiting else None
