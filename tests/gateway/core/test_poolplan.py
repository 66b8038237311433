"""gateway.core.poolplan: which connection to reuse, which to close."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.poolplan import IDLE_LIMIT, IDLE_PER_ENDPOINT, PER_ENDPOINT, PoolPlan, SharedPlan


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
    assert all(plan.give("a", number, 0.0) for number in range(IDLE_PER_ENDPOINT))
    assert not plan.give("a", IDLE_PER_ENDPOINT, 0.0)
    assert len(plan.clear()) == IDLE_PER_ENDPOINT


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


class Connection:
    def __init__(self, *, has_room: bool = True, is_idle: bool = True, idle_since: float = 0.0) -> None:
        self.has_room = has_room
        self.is_idle = is_idle
        self.idle_since = idle_since


def test_shared_connections_are_filled_in_order() -> None:
    """The first with room, so that the others grow idle; none when all are full."""
    plan: SharedPlan[str, Connection] = SharedPlan()
    assert plan.take("a") is None
    full, first, second = Connection(has_room=False), Connection(), Connection()
    for connection in (full, first, second):
        plan.add("a", connection)
    assert plan.take("a") is first
    assert plan.take("b") is None
    plan.forget("a", first)
    assert plan.take("a") is second
    plan.forget("a", second)
    plan.forget("a", second)
    assert plan.take("a") is None
    assert plan.everything() == [full]


def test_idle_shared_connections_expire() -> None:
    """After IDLE_LIMIT without a stream; one in use never does."""
    plan: SharedPlan[str, Connection] = SharedPlan()
    old, young, busy = Connection(), Connection(idle_since=1.0), Connection(is_idle=False)
    for connection in (old, young, busy):
        plan.add("a", connection)
    assert plan.expired(IDLE_LIMIT) == [old]


def test_shared_connections_are_bounded_for_an_endpoint() -> None:
    """PER_ENDPOINT of them; another endpoint has its own."""
    plan: SharedPlan[str, Connection] = SharedPlan()
    for _ in range(PER_ENDPOINT):
        assert not plan.is_full("a")
        plan.add("a", Connection(has_room=False))
    assert plan.is_full("a")
    assert not plan.is_full("b")
