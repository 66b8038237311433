from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.budget import Budget


def test_a_burst_then_the_rate() -> None:
    """So many at once, the next when the rate has brought one back."""
    budget = Budget(2, 10.0, now=5.0)
    assert [budget.spend(5.0) for _ in range(3)] == [True, True, False]
    assert not budget.spend(5.1)
    assert budget.spend(5.4)


def test_saving_up_ends_at_the_burst() -> None:
    """A long silence is worth no more than a new start."""
    budget = Budget(2, 10.0, now=0.0)
    assert [budget.spend(1000.0) for _ in range(3)] == [True, True, False]


def test_several_at_once() -> None:
    """They count as that many."""
    budget = Budget(5, 1.0, now=0.0)
    assert budget.spend(0.0, 5)
    assert not budget.spend(0.0, 5)


@given(st.lists(st.floats(0.0, 1.0), max_size=50))
def test_never_more_than_burst_and_rate_allow(pauses: list[float]) -> None:
    """However they are spread: the burst, and the rate for the time that has passed."""
    budget, now, spent = Budget(3, 2.0, now=0.0), 0.0, 0
    for pause in pauses:
        now += pause
        spent += budget.spend(now)
    assert spent <= 3 + 2.0 * now + 1e-6
