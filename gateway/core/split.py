"""Which of a rule's splits takes a request: exact over 100 points.

Knative's percents are integers that sum to 100. A request draws a point in [0, 100); a split owns as many points as it
has percent, so each integer point belongs to exactly one split and the shares are exact, not approximate. The point
comes from the worker's generator, so this is a function.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Weighted"]

T = TypeVar("T")


class Weighted(Generic[T]):
    """Choices with integer percents that sum to 100. Raises ValueError if they don't."""

    __slots__ = ("_bounds", "choices", "only")

    def __init__(self, choices: Sequence[tuple[T, int]]) -> None:
        if sum(percent for _, percent in choices) != 100 or any(percent <= 0 for _, percent in choices):
            raise ValueError(f"percents must be positive and sum to 100, not {[percent for _, percent in choices]}")
        self.choices = tuple(choice for choice, _ in choices)
        self._bounds = tuple(accumulate(percent for _, percent in choices))
        self.only = self.choices[0] if len(choices) == 1 else None

    def at(self, point: float) -> T:
        """The choice that owns `point`, 0 <= point < 100."""
        return self.choices[bisect_right(self._bounds, point)]
