"""Averages over a sliding window of one-second buckets, and the largest value of the last few slots.

Theory of operation
-------------------
A `Window` is a ring of one bucket per second. What is recorded in the same second is summed: several gateways report
the same revision, and their loads add up. A write at a later second empties the buckets it skips; after a silence of
the whole window it starts over; a write that comes late is added to its own second if that is still inside.

Two averages are Knative's (pkg/autoscaler/aggregation). Both read silence in the same way: between two writes it
counts as zeros, after the last write it is not counted at all, until after a whole window the average is 0.

- `average` (linear): the mean of the buckets still inside, over the seconds written so far, to six decimals.
- `weighted_average`: the newest second weighs `m`, each one before by the factor `1 - m` less. `m` is chosen so that a
  full window holds 99.99 % of the weight, and is at least 0.2. It is not normalised.

`slide` is the memory of scale-down-delay: the largest of the values noted in the last slots, as a value to be kept.
All times are float seconds of one monotonic clock.
"""

from __future__ import annotations

from math import ceil, floor
from typing import NamedTuple

__all__ = ["Noted", "Window", "slide", "smoothing"]

_PRECISION = 6
_LEFT_OVER = 0.0001
_SMOOTHING_MIN = 0.2


def smoothing(buckets: int) -> float:
    """The weight of the newest of `buckets` seconds."""
    kept: float = _LEFT_OVER ** (1.0 / buckets)
    return max(1.0 - kept, _SMOOTHING_MIN)


class Window:
    """`ceil(length)` buckets of a second each."""

    __slots__ = ("_buckets", "_first", "_last")

    def __init__(self, length: float) -> None:
        self._buckets = [0.0] * ceil(length)
        self._first: int | None = None  # the second of the first write that still counts
        self._last = 0

    def __len__(self) -> int:
        return len(self._buckets)

    def record(self, value: float, now: float) -> None:
        """Add `value` to the bucket of `now`; ignored when that is a whole window before the last write."""
        second = floor(now)
        size = len(self._buckets)
        if self._first is None or second - self._last >= size:
            self._buckets = [0.0] * size
            self._first = self._last = second
        elif second <= self._last - size:
            return
        for skipped in range(self._last + 1, second + 1):
            self._buckets[skipped % size] = 0.0
        self._first = min(self._first, second)
        self._last = max(self._last, second)
        self._buckets[second % size] += value

    def average(self, now: float) -> float:
        """The linear average at `now`."""
        if self._first is None:
            return 0.0
        size = len(self._buckets)
        written = min(self._last - self._first + 1, size - max(0, floor(now) - self._last))
        if written <= 0:
            return 0.0
        # What was never written holds zeros, so only the newest `written` buckets count: one or two pieces of the ring.
        # An hour's window is asked every two seconds for each revision, and at a cold start.
        end = self._last % size + 1
        total = sum(self._buckets[max(0, end - written) : end])
        if written > end:
            total += sum(self._buckets[size - (written - end) :])
        return round(total / written, _PRECISION)

    def weighted_average(self, now: float) -> float:
        """The weighted-exponential average at `now`."""
        m = smoothing(len(self._buckets))
        weight = m * (1.0 - m) ** max(0, floor(now) - self._last)
        total = 0.0
        for value in self._inside(now):
            total += value * weight
            weight *= 1.0 - m
        return total

    def resize(self, length: float) -> None:
        """Change the number of buckets and keep the newest values. A larger window counts what it can't know (the
        time before the old window) as not written yet."""
        old, size = self._buckets, ceil(length)
        if size == len(old):
            return
        self._buckets = [0.0] * size
        if self._first is None:
            return
        for age in range(min(size, len(old))):
            self._buckets[(self._last - age) % size] = old[(self._last - age) % len(old)]
        self._first = self._last - (len(old) - 1)

    def _inside(self, now: float) -> list[float]:
        """The buckets that are inside the window at `now`, newest first."""
        size = len(self._buckets)
        gap = max(0, floor(now) - self._last)
        return [self._buckets[(self._last - age) % size] for age in range(size - gap)]


class Noted(NamedTuple):
    """A value that was the largest of its time slot."""

    slot: int
    value: int


def slide(noted: tuple[Noted, ...], slot: int, value: int, slots: int) -> tuple[Noted, ...]:
    """Note `value` in `slot` and forget what is `slots` or more before it. The first entry is the largest value left.

    Only values that may still become the largest are kept, so the entries fall from first to last.
    """
    kept = tuple(entry for entry in noted if entry.value > value and entry.slot > slot - slots)
    if kept and kept[-1].slot == slot:
        return kept  # the larger value of the same slot lasts as long
    return (*kept, Noted(slot, value))
