"""The order in which Kubernetes takes replicas away."""

from __future__ import annotations

import pytest

from controller.apis import pods

T0, T1 = "2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z"


def pod(name="p", *, node="n", phase="Running", ready=T0, cost=None, restarts=0, created=T0):
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": ready}] if ready else []
    return {
        "metadata": {
            "name": name,
            "creationTimestamp": created,
            "annotations": {} if cost is None else {pods.DELETION_COST: cost},
        },
        "spec": {"nodeName": node},
        "status": {"phase": phase, "conditions": conditions, "containerStatuses": [{"restartCount": restarts}]},
    }


def test_each_rule_breaks_the_ties_of_those_before_it():
    """As in the ReplicaSet controller; a rule that comes first outweighs all that follow."""
    order = [
        pod("unassigned", node="", phase="Pending", ready=None),
        pod("pending", phase="Pending", ready=None),
        pod("unready", ready=None, cost="9"),
        pod("cheap", cost="-5"),
        pod("just-ready", ready=T1, restarts=0, created=T0),
        pod("restarted", restarts=3, created=T0),
        pod("young", created=T1),
        pod("a-old"),
        pod("b-old"),
        pod("dear", cost="7", ready=T1),
    ]
    assert sorted([*order[4:], *order[:4]], key=pods.deletion_rank) == order


@pytest.mark.parametrize(
    ("text", "cost"),
    [("5", 5), ("-2147483648", pods.FIRST_TO_GO), ("", 0), ("cheap", 0), ("²", 0), ("--5", 0), ("1.5", 0)],
)
def test_the_cost_of_a_deletion(text, cost):
    """A whole number; anything else counts as none."""
    assert pods.deletion_cost(pod(cost=text)) == cost


@pytest.mark.parametrize(
    ("phase", "deleting", "counts"), [("Running", False, True), ("Failed", False, False), ("Running", True, False)]
)
def test_what_counts_as_a_replica(phase, deleting, counts):
    """What has not ended and is not ending."""
    one = pod(phase=phase)
    if deleting:
        one["metadata"]["deletionTimestamp"] = T0
    assert pods.is_active(one) is counts
