"""gateway.core.split: exact over 100 points."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.split import Weighted

cuts = st.lists(st.integers(1, 99), max_size=6, unique=True).map(sorted)


@given(cuts)
def test_each_choice_owns_as_many_points_as_it_has_percent(bounds: list[int]) -> None:
    """Over the 100 integer points the shares are exact, whatever the percents."""
    edges = [0, *bounds, 100]
    percents = [after - before for before, after in pairwise(edges)]
    weighted = Weighted(list(enumerate(percents)))
    assert Counter(weighted.at(point) for point in range(100)) == Counter(dict(enumerate(percents)))
    assert weighted.at(99.999) == len(percents) - 1


def test_ten_thousand_requests_are_within_the_binomial_bounds() -> None:
    """90/10 over uniform points: four standard deviations of Binomial(10000, 0.1) are 120."""
    weighted, random = Weighted([("old", 90), ("new", 10)]), Random(1)
    counts = Counter(weighted.at(random.random() * 100) for _ in range(10_000))
    assert abs(counts["new"] - 1000) <= 120


def test_a_single_choice_needs_no_point() -> None:
    """`only` is the choice of a rule without a split."""
    assert Weighted([("all", 100)]).only == "all"
    assert Weighted([("a", 50), ("b", 50)]).only is None


@pytest.mark.parametrize("percents", [[99], [50, 51], [100, 0], [], [150, -50]])
def test_percents_must_be_positive_and_sum_to_100(percents: list[int]) -> None:
    """A rule that would lose requests is no rule."""
    with pytest.raises(ValueError, match="sum to 100"):
        Weighted(list(enumerate(percents)))
