"""How an object comes to be and changes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from controller.embedded import objects
from controller.embedded.resources import BUILT_IN, Resource
from controller.embedded.status import ApiError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _resource(plural: str) -> Resource:
    return next(each for each in BUILT_IN if each.kind.plural == plural)


def _deployment() -> dict[str, Any]:
    meta = {"name": "d", "namespace": "n", "uid": "u", "resourceVersion": "5", "generation": 2}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {"replicas": 1},
        "status": {"a": 1},
    }


def test_an_update_keeps_what_the_server_owns() -> None:
    """uid, generation and status are the old's, also where the client leaves them out or sends others."""
    old = _deployment()
    new: dict[str, Any] = {"metadata": {"name": "d", "generation": 9}, "spec": {"replicas": 2}, "status": {"a": 2}}
    objects.prepare_update(_resource("deployments"), old, new)
    assert (new["metadata"]["uid"], new["metadata"]["generation"], new["status"]) == ("u", 2, {"a": 1})
    objects.count_generation(_resource("deployments"), old, new)
    assert new["metadata"]["generation"] == 3


def test_another_incarnation_is_a_conflict() -> None:
    """A uid or resourceVersion that isn't the stored one is 409."""
    for field, value in (("uid", "other"), ("resourceVersion", "4")):
        with pytest.raises(ApiError) as refused:
            objects.prepare_update(_resource("deployments"), _deployment(), {"metadata": {"name": "d", field: value}})
        assert refused.value.code == 409


def test_sameness_ignores_bookkeeping() -> None:
    """managedFields count only for an apply, and their times never."""
    a, b = _deployment(), _deployment()
    a["metadata"]["managedFields"] = [{"manager": "m", "time": "1"}]
    b["metadata"] |= {"managedFields": [{"manager": "m", "time": "2"}], "resourceVersion": "6"}
    assert objects.is_same(a, b, managed_fields=True)
    b["metadata"]["managedFields"][0]["manager"] = "other"
    assert objects.is_same(a, b, managed_fields=False)
    assert not objects.is_same(a, b, managed_fields=True)


def test_a_generated_name_leaves_room_for_its_suffix() -> None:
    """A long generateName is cut, so that the name stays a label (63 characters)."""
    obj: dict[str, Any] = {"metadata": {"generateName": "x" * 80}}
    objects.prepare_create(_resource("configmaps"), obj, suffix="abcde", uid="u", now=NOW)
    assert obj["metadata"]["name"] == "x" * 58 + "abcde"


@pytest.mark.parametrize(
    ("meta", "finished"),
    [
        ({}, False),
        ({"deletionTimestamp": "t"}, True),
        ({"deletionTimestamp": "t", "finalizers": ["f"]}, False),
        ({"deletionTimestamp": "t", "deletionGracePeriodSeconds": 30}, False),
        ({"deletionTimestamp": "t", "deletionGracePeriodSeconds": 0}, True),
    ],
)
def test_a_deletion_is_finished_when_nothing_holds_it(meta: dict[str, Any], finished: bool) -> None:
    """Finalizers and a grace period hold an object that is being deleted."""
    assert objects.is_finished({"apiVersion": "v1", "kind": "Pod", "metadata": meta}) is finished
