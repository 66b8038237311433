"""gateway.core.poolplan: which connection to reuse, which to close."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.poolplan import IDLE_LIMIT, PER_ENDPOINT, PoolPlan


def test_last_in_first_out_per_endpoint() -> None:
    """The youngest is the least likely to be closed; endpoints don't share."""
    plan: PoolPlan[str, int] = PoolPlan()
    assert all(plan.give("a", number, 0.0) for number in (1, 2, 3))
    assert plan.give("b", 4, 0.0)
    assert [plan.take("a"), plan.take("a"), plan.take("a"), plan.take("a")] == [3, 2, 1, None]
    assert plan.take("b") == 4
    assert plan.size == 0


def test_the_old_expire() -> None:
    """After IDLE_LIMIT, oldest first; the rest stays."""
    plan: PoolPlan[str, int] = PoolPlan()
    plan.give("a", 1, 0.0)
    plan.give("a", 2, 1.0)
    assert plan.expire(IDLE_LIMIT - 0.1) == []
    assert plan.expire(IDLE_LIMIT) == [1]
    assert plan.expire(IDLE_LIMIT + 1.0) == [2]
    assert plan.size == 0


def test_no_more_than_the_bound() -> None:
    """Beyond it a connection is not kept."""
    plan: PoolPlan[str, int] = PoolPlan()
    assert all(plan.give("a", number, 0.0) for number in range(PER_ENDPOINT))
    assert not plan.give("a", PER_ENDPOINT, 0.0)
    assert len(plan.clear()) == PER_ENDPOINT


operations = st.lists(st.tuples(st.sampled_from(["give", "take", "forget", "expire"]), st.integers(0, 3)), max_size=40)


@given(operations)
def test_size_is_the_number_of_idle_connections(steps: list[tuple[str, int]]) -> None:
    """A connection is in the plan once or not at all, and never handed out twice."""
    plan: PoolPlan[int, int] = PoolPlan()
    idle: dict[int, set[int]] = {}
    for number, (kind, key) in enumerate(steps):
        held = idle.setdefault(key, set())
        if kind == "give":
            assert plan.give(key, number, float(number))
            held.add(number)
        elif kind == "take":
            taken = plan.take(key)
            assert (taken is None) == (not held)
            held.discard(taken if taken is not None else -1)
        elif kind == "forget" and held:
            plan.forget(key, held.pop())
        elif kind == "expire":
            for gone in plan.expire(float(number)):
                assert any(gone in one and not one.discard(gone) for one in idle.values())
        assert plan.size == sum(map(len, idle.values()))
