"""How often something that costs the sender nothing may happen: a bucket of tokens. Pure."""

from __future__ import annotations

__all__ = ["Budget"]


class Budget:
    """`burst` times at once, `rate` times a second in the long run. `now` is seconds on any one clock."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: int, rate: float, now: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = float(burst)
        self._at = now

    def spend(self, now: float, amount: int = 1) -> bool:
        """Once more, or `amount` times. False if that is too often."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - amount
        self._at = now
        return self._left >= 0
