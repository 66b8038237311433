"""Exceptions that are our own bugs, in the log: each in full, and no more often than somebody can read.

One wrong line fails for every object and at every event, thousands of times a second, and each time says the same. A
bug is known by who met it, its type, and the line that raised it. The first one is logged at once with its traceback;
after that once a minute with the number of those in between, for as long as it goes on. (The metrics count each.)
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

INTERVAL = 60.0
_LIMIT = 256
"""Bugs remembered; beyond them the one that was logged longest ago is forgotten, and is new when it comes again."""


@dataclass(slots=True)
class _Known:
    logged: float
    since: int = 0


class BugLog:
    """Where one part of the program logs its bugs. `clock` is in seconds."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._known: dict[tuple[str, type[Exception], str], _Known] = {}

    def report(self, who: str, error: Exception, message: str) -> None:
        """Log what `who` raised, unless it was within the last minute."""
        key = (who, type(error), _place(error))
        now = self._clock()
        known = self._known.get(key)
        if known is not None and now - known.logged < INTERVAL:
            known.since += 1
            return
        if known is not None and known.since:
            message += f" (and {known.since} times more since it was logged last, {now - known.logged:.0f} s ago)"
        self._log.error("%s", message, exc_info=error)
        self._known.pop(key, None)
        if len(self._known) >= _LIMIT:
            del self._known[next(iter(self._known))]
        self._known[key] = _Known(now)


def _place(error: Exception) -> str:
    """File and line of the statement that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
