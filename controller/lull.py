"""Work that may wait, done in the next lull.

Theory of operation
-------------------
A cold start is a handful of writes that a request waits for, and three times as many that tell people about it:
statuses, Events, a pod's readiness that the gateway has found out by itself. All of them share one event loop and one
API server, so those that may wait have to, and for as long as there is something better to do: one service needs a few
milliseconds, a hundred woken together need the processor for a second, and no fixed delay is right for both.

Whoever does something that a request waits for says `busy()`, or does it `with urgent()` if it takes more than one turn
of the loop. Whoever has something for later hands it to `after()`, or awaits `wait()`. The lull is there when nobody
was busy for two ticks of `TICK` seconds, and a processor is free: `starting()` counts the programs that need one. Ticks
are compared by counting, not by the clock: between two of them the loop has polled, so that work which has arrived but
was not looked at yet (a turn of the loop can last longer than a tick) can't be taken for silence.

Then what waits is let go one by one, `DRIP` seconds apart, the time that one takes: a request that comes in between
stops it and finds one piece of work before it, not a batch. (Eight at once were 10 ms on a cold start that followed
another.) What has waited for `LIMIT` seconds goes although somebody is busy, one each `PACE` seconds: late news still
come, and after a hundred services were created a cold start does not stand behind all that was put off.

The same key twice is one piece of work: what changes several times before the lull is written once. That bounds the
memory as well, by the number of objects. For the same reason

- what is told from something else that waits comes after it, by its `rank`: a higher one is let go when there is no
  lower one, and `PACE` after the last of those. Else a pod's status would follow the statuses of its Deployment,
  PodAutoscaler and Revision, and make all three be written once more.
- while programs start, all but the first rank waits for `SETTLED` seconds at least: most are ready by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

TICK = 0.004
DRIP = 0.002
PACE = 0.010
SETTLED = 0.1
LIMIT = 2.0
FIRST, STARTED, TOLD, LAST = 0, 1, 2, 100
"""Ranks: what is told from nothing else that waits; that something runs and is not ready yet; from here on what is told
from others, in its order; what nothing is told from."""
_QUIET_TICKS = 2


class Lull:
    """To be made inside the running loop; `close` drops what waits. `processors` are those of the machine."""

    def __init__(self, processors: int | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        # By rank; in each the oldest first, and since when it waits. No rank is empty.
        self._waiting: dict[int, dict[Hashable, tuple[float, Callable[[], None]]]] = {}
        self._processors = processors or os.cpu_count() or 1
        self._busy = 0  # how often somebody was
        self._urgent = 0  # how much is under way that somebody waits for
        self._starting = 0
        self._seen = 0  # how often somebody had been busy at the last tick
        self._quiet = 0  # ticks in a row without
        self._let_go_last = FIRST, self._loop.time()  # the rank, and when
        self._timer: asyncio.Handle | None = None

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def starting_now(self) -> int:
        """How many programs are starting."""
        return self._starting

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

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """A program needs a processor until the context is left."""
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1

    def after(self, key: Hashable, act: Callable[[], None], rank: int = FIRST) -> None:
        """Call `act` in the next lull; nothing if that `key` waits in that `rank` already."""
        waiting = self._waiting.setdefault(rank, {})
        if key in waiting:
            return
        waiting[key] = self._loop.time(), act
        if self._timer is None:
            self._seen, self._quiet = self._busy, 0
            self._timer = self._loop.call_later(TICK, self._tick)

    async def wait(self) -> None:
        """Return in the next lull, as the last."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self.after(turn, lambda: None if turn.done() else turn.set_result(None), LAST)
        try:
            await turn
        finally:
            self._forget(LAST, turn)

    def close(self) -> None:
        """Forget what waits: nothing is called any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()

    def _tick(self) -> None:
        silent = self._busy == self._seen and not self._urgent and self._starting < self._processors
        self._quiet = self._quiet + 1 if silent else 0
        self._seen = self._busy
        pause = self._go_on(self._loop.time()) if self._waiting else TICK
        self._timer = self._loop.call_later(pause, self._tick) if self._waiting else None

    def _go_on(self, now: float) -> float:
        """Let one go if it may; seconds until the next may."""
        is_quiet = self._quiet >= _QUIET_TICKS
        oldest = min(self._waiting, key=self._since)
        if now - self._since(oldest) >= LIMIT:
            self._let_go(oldest, now)
            return DRIP if is_quiet else PACE
        lowest = min(self._waiting)
        if is_quiet and self._is_ripe(lowest, now):
            self._let_go(lowest, now)
            return DRIP
        return TICK

    def _is_ripe(self, rank: int, now: float) -> bool:
        last, when = self._let_go_last
        if rank > last and now - when < PACE:
            return False
        return rank == FIRST or not self._starting or now - self._since(rank) >= SETTLED

    def _since(self, rank: int) -> float:
        """Since when the oldest of a rank waits."""
        return next(iter(self._waiting[rank].values()))[0]

    def _let_go(self, rank: int, now: float) -> None:
        key, (_, act) = next(iter(self._waiting[rank].items()))
        self._forget(rank, key)
        self._let_go_last = rank, now
        act()

    def _forget(self, rank: int, key: Hashable) -> None:
        waiting = self._waiting.get(rank, {})
        waiting.pop(key, None)
        if not waiting:
            self._waiting.pop(rank, None)
