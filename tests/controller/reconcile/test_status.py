"""What surrounds every reconcile."""

from datetime import UTC, datetime, timedelta

from controller.apis.conditions import ConditionSet, get
from controller.reconcile.status import begin, finish

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RULES = ConditionSet(dependents=("A",))


def obj(generation=1, **status):
    return {"metadata": {"generation": generation}, "status": status}


def stored(generation=1, **fields):
    """An object whose A is True, as a first reconcile at NOW left it."""
    new = obj(generation)
    status = finish(new, RULES.mark_true(begin(RULES, new, NOW), "A", NOW), **fields)
    assert status is not None
    return {**new, "status": status}


def test_new_generation():
    """A generation not seen before makes Ready Unknown, until the reconcile says better."""
    old = stored()
    old["metadata"]["generation"] = 2
    found = begin(RULES, old, NOW)
    ready = get(found, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("Unknown", "NewObservedGenFailure")
    again = get(RULES.mark_true(found, "A", NOW), "Ready")
    assert again is not None
    assert again.is_true


def test_observed_generation_always_advances():
    """Also when nothing else was found out."""
    status = finish(obj(3), begin(RULES, obj(3), NOW))
    assert status is not None
    assert status["observedGeneration"] == 3


def test_unchanged_status_is_not_written():
    """The same verdict later is no new status."""
    old, later = stored(url="http://a"), NOW + timedelta(hours=1)
    found = RULES.mark_unknown(begin(RULES, old, later), "A", "Looking", "", later)
    assert finish(old, RULES.mark_true(found, "A", later), url="http://a") is None


def test_fields():
    """A field that is empty is left out, one that isn't named stays."""
    old = stored(url="http://a", traffic=[{"percent": 100}])
    status = finish(old, begin(RULES, old, NOW), traffic=[])
    assert status is not None
    assert status["url"] == "http://a"
    assert "traffic" not in status
