"""Load-balancing policies: which of a revision's places takes the next request.

Knative's activator chooses by container concurrency (pkg/activator/net/lb_policy.go), and so do we:

- no limit (0): the less loaded of two random ones, which is nearly as even as asking all and needs no order;
- 1 to 3: the first with a free slot in a fixed order, so that few pods are kept busy and the others can go;
- above 3: round robin over those with a free slot.

Policies are plain functions of loads and of a number that stands for chance or for history; they return an index, or
None when nothing is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FIRST_AVAILABLE_LIMIT", "Loaded", "first_available", "random_choice_2", "round_robin"]

FIRST_AVAILABLE_LIMIT = 3
"""The largest container concurrency that is filled in order."""


class Loaded(Protocol):
    """Something with a number of requests in flight."""

    @property
    def in_flight(self) -> int: ...


def first_available(places: Sequence[Loaded], limit: int) -> int | None:
    """The first place with fewer than `limit` in flight."""
    for index, place in enumerate(places):
        if place.in_flight < limit:
            return index
    return None


def round_robin(places: Sequence[Loaded], limit: int, start: int) -> int | None:
    """The first place with fewer than `limit` in flight, looking from `start` on and around."""
    count = len(places)
    for step in range(count):
        index = (start + step) % count
        if places[index].in_flight < limit:
            return index
    return None


def random_choice_2(places: Sequence[Loaded], point: float) -> int | None:
    """The less loaded of the ordered pair that `point` in [0, 1) names; the first of the pair on a tie.

    The n·(n-1) ordered pairs of distinct places have equal shares of [0, 1), so a uniform point makes a uniform pair.
    """
    count = len(places)
    if count <= 1:
        return 0 if count else None
    first, other = divmod(int(point * count * (count - 1)), count - 1)
    second = other + (other >= first)
    return second if places[second].in_flight < places[first].in_flight else first
