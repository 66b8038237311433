"""Traffic targets become Revisions, or one reason why not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.apis import labels
from controller.apis.route import TrafficTarget
from controller.reconcile.traffic import Assignment, BadTarget, Share, resolve


def revision(status="True", service="s"):
    return {
        "metadata": {"name": "r", "labels": {labels.SERVICE: service}},
        "status": {"conditions": [{"type": "Ready", "status": status}]},
    }


def configuration(latest="", status="Unknown"):
    body = {"conditions": [{"type": "Ready", "status": status}]}
    return {"metadata": {"name": "c"}, "status": {**body, **({"latestReadyRevisionName": latest} if latest else {})}}


def pin(name, percent=100, tag=""):
    return TrafficTarget(revision_name=name, percent=percent, tag=tag)


def follow(percent=100, tag=""):
    return TrafficTarget(configuration_name="c", percent=percent, tag=tag, latest_revision=True)


REVISIONS = {"a": revision(), "b": revision()}


def test_knatives_example():
    """40 % to a, the rest to the latest, which is b; a again at 0 % under a tag."""
    targets = (pin("a", 40, "blue"), follow(60, "green"), pin("a", 0, "old"))
    found = resolve(targets, {"c": configuration("b")}, REVISIONS)
    assert isinstance(found, Assignment)
    assert [(t.tag, t.revision_name, t.percent, t.latest_revision) for t in found.targets] == [
        ("blue", "a", 40, False),
        ("green", "b", 60, True),
        ("old", "a", 0, False),
    ]
    assert found.groups == {
        "": (Share("a", 40), Share("b", 60)),
        "blue": (Share("a", 100),),
        "green": (Share("b", 100),),
        "old": (Share("a", 100),),
    }
    assert list(found.groups) == ["", "blue", "green", "old"]


def test_same_revision_twice():
    """Pinned and latest may be one Revision: two entries are reported, one share gets all."""
    found = resolve((pin("a", 30), follow(70)), {"c": configuration("a")}, REVISIONS)
    assert isinstance(found, Assignment)
    assert [target.percent for target in found.targets] == [30, 70]
    assert found.groups[""] == (Share("a", 100),)


@pytest.mark.parametrize(
    ("target", "configurations", "revisions", "expected"),
    [
        (pin("x"), {}, {}, ("False", "RevisionMissing", 'Revision "x" referenced in traffic not found.')),
        (pin("x"), {}, {"x": revision("Unknown")}, ("Unknown", "RevisionMissing", 'Revision "x" is not yet ready.')),
        (pin("x"), {}, {"x": revision("False")}, ("False", "RevisionMissing", 'Revision "x" failed to become ready.')),
        (
            follow(),
            {"c": configuration()},
            {},
            ("Unknown", "RevisionMissing", 'Configuration "c" is waiting for a Revision to become ready.'),
        ),
        (
            follow(),
            {"c": configuration(status="False")},
            {},
            ("False", "RevisionMissing", 'Configuration "c" does not have any ready Revision.'),
        ),
        (
            follow(),
            {},
            {},
            ("False", "ConfigurationMissing", 'Configuration "c" referenced in traffic not found.'),
        ),
        (
            follow(),
            {"c": configuration("gone")},
            {},
            ("False", "RevisionMissing", 'Revision "gone" referenced in traffic not found.'),
        ),
        (
            pin("x"),
            {},
            {"x": revision(service="other")},
            ("False", "RevisionNotOwned", 'Revision "x" is not owned by Service "s".'),
        ),
    ],
)
def test_bad_targets(target, configurations, revisions, expected):
    """What is wrong with a target, in words a user sees."""
    assert resolve((target,), configurations, revisions, "s") == BadTarget(*expected)


def test_failure_outranks_waiting():
    """Of several bad targets the definite failure is told, wherever it stands."""
    found = resolve((pin("later", 50), pin("nowhere", 50)), {}, {"later": revision("Unknown")})
    assert isinstance(found, BadTarget)
    assert found.status == "False"


def test_latest_ready_may_be_unready_now():
    """A target that follows a Configuration goes to its latest ready Revision even if that has trouble just now."""
    found = resolve((follow(),), {"c": configuration("x")}, {"x": revision("False")})
    assert isinstance(found, Assignment)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 100)), min_size=1, max_size=5))
def test_shares_sum_to_all(pairs):
    """Whatever the split, the default group's shares sum to what the targets sum to, or to 100 for one Revision."""
    found = resolve([pin(name, percent) for name, percent in pairs], {}, REVISIONS)
    assert isinstance(found, Assignment)
    total = sum(share.percent for share in found.groups[""])
    assert total == (100 if len({name for name, _ in pairs}) == 1 else sum(percent for _, percent in pairs))
