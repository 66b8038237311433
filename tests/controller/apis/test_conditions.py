"""Ready follows its dependents; a transition time moves only on change."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from controller.apis.conditions import (
    Condition,
    Conditions,
    ConditionSet,
    find,
    from_status,
    get,
    is_failed,
    is_ready,
    keep_times,
    status_of,
    to_status,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)
RULES = ConditionSet(dependents=("A", "B"))


def later(seconds: int) -> datetime:
    return T0 + timedelta(seconds=seconds)


def ready(conditions: Conditions) -> tuple[str, str, str]:
    found = get(conditions, "Ready")
    assert found is not None
    return found.status, found.reason, found.message


def test_initialise() -> None:
    """Absent conditions begin Unknown."""
    conditions = RULES.initialise((), T0)
    assert [(c.type, c.status) for c in conditions] == [("A", "Unknown"), ("B", "Unknown"), ("Ready", "Unknown")]


def test_initialise_of_a_ready_object() -> None:
    """A dependent that is new to an object that is Ready begins True."""
    conditions = RULES.initialise((Condition("Ready", "True"),), T0)
    assert status_of(conditions, "A") == "True"


def test_ready_when_all_are() -> None:
    """Ready becomes True with the last dependent, without reason or message."""
    conditions = RULES.mark_false(RULES.initialise((), T0), "A", "Broken", "it broke", T0)
    conditions = RULES.mark_true(conditions, "A", T0)
    assert ready(conditions)[0] == "Unknown"
    assert ready(RULES.mark_true(conditions, "B", T0)) == ("True", "", "")


def test_failure_is_copied() -> None:
    """A dependent's failure is Ready's, word for word."""
    conditions = RULES.mark_false(RULES.initialise((), T0), "B", "Broken", "it broke", T0)
    assert ready(conditions) == ("False", "Broken", "it broke")


def test_latest_failure_speaks() -> None:
    """Among several failures the most recent one is shown once Ready is worked out anew."""
    rules = ConditionSet(dependents=("A", "B", "C"))
    conditions = rules.mark_false(rules.initialise((), T0), "B", "Late", "b", later(2))
    conditions = rules.mark_false(conditions, "A", "Early", "a", later(1))
    assert ready(rules.mark_true(conditions, "C", later(3))) == ("False", "Late", "b")


def test_failure_trumps_unknown() -> None:
    """An Unknown dependent does not hide another one's failure."""
    conditions = RULES.mark_false(RULES.initialise((), T0), "A", "Broken", "it broke", T0)
    conditions = RULES.mark_unknown(conditions, "B", "Waiting", "", later(1))
    assert ready(conditions) == ("False", "Broken", "it broke")


def test_unknown_is_copied() -> None:
    """Without a failure Ready says what is being waited for."""
    conditions = RULES.mark_unknown(RULES.initialise((), T0), "A", "Waiting", "for a", T0)
    assert ready(conditions) == ("Unknown", "Waiting", "for a")


def test_information_never_matters() -> None:
    """A type that is no dependent has severity Info and leaves Ready alone."""
    conditions = RULES.mark_true(RULES.mark_true(RULES.initialise((), T0), "A", T0), "B", T0)
    conditions = RULES.mark_false(conditions, "Active", "NoTraffic", "", T0)
    conditions = RULES.mark_unknown(conditions, "Active", "Queued", "", T0)
    active = get(conditions, "Active")
    assert active is not None
    assert active.severity == "Info"
    assert ready(conditions)[0] == "True"


def test_without_dependents() -> None:
    """A kind without dependents sets Ready itself."""
    rules = ConditionSet()
    assert ready(rules.mark_true(rules.initialise((), T0), "Ready", T0))[0] == "True"
    assert ready(rules.mark_false((), "Ready", "No", "no", T0)) == ("False", "No", "no")


def test_time_moves_on_change_only() -> None:
    """The same marking later keeps the time; another reason moves it."""
    conditions = RULES.mark_unknown((), "A", "Waiting", "", T0)
    again = RULES.mark_unknown(conditions, "A", "Waiting", "", later(5))
    assert again == conditions
    changed = get(RULES.mark_unknown(conditions, "A", "Other", "", later(5)), "A")
    assert changed is not None
    assert changed.last_transition_time == later(5)


def test_times_survive_a_detour() -> None:
    """A condition that ends as it was stored keeps the stored time."""
    stored = RULES.mark_true(RULES.initialise((), T0), "A", T0)
    detour = RULES.mark_true(RULES.mark_unknown(stored, "A", "x", "", later(9)), "A", later(9))
    assert keep_times(stored, detour) == stored


marks = st.lists(st.tuples(st.sampled_from("AB"), st.sampled_from(["True", "False", "Unknown"])), max_size=8)


@given(marks)
def test_ready_is_the_worst_dependent(steps: list[tuple[str, str]]) -> None:
    """Whatever the order of markings: Ready is the worst of its dependents, and types are sorted."""
    conditions = RULES.initialise((), T0)
    for second, (type_, status) in enumerate(steps):
        conditions = RULES.mark(conditions, type_, status, status, "", later(second))
    statuses = {status_of(conditions, "A"), status_of(conditions, "B")}
    worst = next(status for status in ("False", "Unknown", "True") if status in statuses)
    assert status_of(conditions, "Ready") == worst
    assert [c.type for c in conditions] == sorted(c.type for c in conditions)
    assert from_status({"conditions": to_status(conditions)}) == conditions


def test_ready_object() -> None:
    """An object is ready or failed only if its latest generation was observed."""

    def obj(observed: int, status: str) -> dict[str, object]:
        conditions = [{"type": "Ready", "status": status}]
        return {"metadata": {"generation": 2}, "status": {"observedGeneration": observed, "conditions": conditions}}

    assert is_ready(obj(2, "True"))
    assert not is_ready(obj(1, "True"))
    assert is_failed(obj(2, "False"))
    assert not is_failed(obj(2, "Unknown"))
    assert not is_ready({"metadata": {"generation": 1}})
    assert find({"metadata": {}}, "Ready") is None
