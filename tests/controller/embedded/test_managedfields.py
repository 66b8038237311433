from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.apis import kinds
from controller.apis.labels import LAST_APPLIED
from controller.embedded import managedfields
from controller.embedded.managedfields import ApplyConflict, track_update
from controller.embedded.schema import StructuralSchema

if TYPE_CHECKING:
    from controller.apis.kinds import Kind
    from controller.apis.meta import JsonObject

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)


def apply(
    current: JsonObject | None,
    applied: JsonObject,
    manager: str = "alice",
    *,
    force: bool = False,
    kind: Kind = kinds.DEPLOYMENT,
    schema: StructuralSchema | None = None,
    subresource: str = "",
    now: datetime = NOW,
) -> JsonObject:
    return managedfields.apply(
        current, applied, manager=manager, force=force, kind=kind, schema=schema, now=now, subresource=subresource
    )


def update(
    old: JsonObject | None,
    new: JsonObject,
    manager: str = "bob",
    *,
    subresource: str = "",
    kind: Kind = kinds.DEPLOYMENT,
    now: datetime = NOW,
) -> JsonObject:
    return track_update(old, new, manager=manager, subresource=subresource, kind=kind, now=now)


def deployment(**spec: Any) -> JsonObject:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec}


def config(data: JsonObject, **metadata: Any) -> JsonObject:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", **metadata}, "data": data}


def with_containers(*containers: JsonObject) -> JsonObject:
    return deployment(template={"spec": {"containers": list(containers)}})


def fields_of(obj: JsonObject, manager: str, operation: str = "Apply", subresource: str = "") -> Any:
    for entry in obj["metadata"].get("managedFields", ()):
        found = (entry["manager"], entry["operation"], entry.get("subresource", ""))
        if found == (manager, operation, subresource):
            return entry["fieldsV1"]
    return None


def conflict_of(error: pytest.ExceptionInfo[ApplyConflict]) -> list[tuple[str, str]]:
    return [(cause["message"], cause["field"]) for cause in error.value.causes]


# --- updates


def test_a_creation_owns_every_field_of_the_object() -> None:
    """What the server writes and what names the object has no owner; containers that came are members (`.`)."""
    created = update(None, deployment(replicas=1, selector={"matchLabels": {"a": "b"}}, paused=True) | {"status": {}})
    [entry] = created["metadata"]["managedFields"]
    assert entry == {
        "manager": "bob",
        "operation": "Update",
        "apiVersion": "apps/v1",
        "time": "2026-01-02T03:04:05Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": {"f:replicas": {}, "f:selector": {}, "f:paused": {}}, "f:status": {}},
    }


def test_lists_are_tracked_by_key_as_sets_or_as_a_whole() -> None:
    """Containers by name, ports by number and protocol (with its default), finalizers by value, args as one."""
    obj = with_containers({"name": "c", "args": ["1"], "ports": [{"containerPort": 80}]})
    obj["metadata"]["finalizers"] = ["x/y"]
    assert fields_of(update(None, obj), "bob", "Update") == {
        "f:metadata": {"f:finalizers": {".": {}, 'v:"x/y"': {}}},
        "f:spec": {
            "f:template": {
                ".": {},
                "f:spec": {
                    ".": {},
                    "f:containers": {
                        ".": {},
                        'k:{"name":"c"}': {
                            ".": {},
                            "f:name": {},
                            "f:args": {},
                            "f:ports": {
                                ".": {},
                                'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}},
                            },
                        },
                    },
                },
            }
        },
    }


@pytest.mark.parametrize(
    "containers",
    [
        pytest.param([{"image": "x"}], id="no key"),
        pytest.param([{"name": "a"}, {"name": "a"}], id="a key twice"),
        pytest.param(["text"], id="no object"),
    ],
)
def test_items_that_cannot_be_told_apart_make_the_list_atomic(containers: list[Any]) -> None:
    """Validation refuses such a list; tracking must only not fail."""
    created = update(None, deployment(template={"spec": {"containers": containers}}))
    assert fields_of(created, "bob", "Update") == {
        "f:spec": {"f:template": {".": {}, "f:spec": {".": {}, "f:containers": {}}}}
    }


def test_changing_a_field_takes_it_from_its_owner() -> None:
    """The manager that changes a field owns it from then on; the rest stays with the others."""
    created = update(None, deployment(replicas=1, paused=True), "alice")
    scaled = update(created, {**created, "spec": {"replicas": 2, "paused": True}}, "bob", subresource="scale")
    assert fields_of(scaled, "alice", "Update") == {"f:spec": {"f:paused": {}}}
    assert fields_of(scaled, "bob", "Update", "scale") == {"f:spec": {"f:replicas": {}}}


def test_removing_a_field_takes_it_from_everybody() -> None:
    """An entry that owns nothing any more goes."""
    created = update(None, config({"a": "1"}), "alice", kind=kinds.CONFIG_MAP)
    added = update(created, {**created, "data": {"a": "1", "b": "2"}}, "bob", kind=kinds.CONFIG_MAP)
    assert fields_of(added, "bob", "Update") == {"f:data": {"f:b": {}}}
    left = update(added, {**added, "data": {"a": "1"}}, "carol", kind=kinds.CONFIG_MAP)
    assert [entry["manager"] for entry in left["metadata"]["managedFields"]] == ["alice"]
    emptied = update(
        left, {name: each for name, each in left.items() if name != "data"}, "carol", kind=kinds.CONFIG_MAP
    )
    assert "managedFields" not in emptied["metadata"]


def test_an_update_that_changes_nothing_leaves_managed_fields_as_they_are() -> None:
    """No new entry, no new time; a client that leaves managedFields out does not lose them."""
    created = update(None, deployment(replicas=1), "alice")
    sent = deployment(replicas=1)
    again = update(created, sent, "bob", now=LATER)
    assert again["metadata"]["managedFields"] == created["metadata"]["managedFields"]
    assert "managedFields" not in sent["metadata"]


def test_the_time_moves_when_the_manager_changes_a_field() -> None:
    """Also when it owned the field before; other entries keep theirs."""
    one = update(update(None, deployment(replicas=1), "alice"), deployment(replicas=1, paused=True), "bob")
    two = update(one, deployment(replicas=1, paused=False), "bob", now=LATER)
    times = {entry["manager"]: entry["time"] for entry in two["metadata"]["managedFields"]}
    assert times == {"alice": "2026-01-02T03:04:05Z", "bob": "2026-01-02T03:05:05Z"}


def test_a_client_may_clear_or_replace_managed_fields() -> None:
    """`[{}]` clears; kubectl replaces entries when it moves from client-side to server-side apply."""
    created = update(None, deployment(replicas=1), "alice")
    cleared = {**created, "metadata": {"name": "d", "managedFields": [{}]}}
    assert "managedFields" not in update(created, cleared)["metadata"]
    entry = {**created["metadata"]["managedFields"][0], "manager": "carol", "operation": "Apply"}
    replaced = {**created, "metadata": {"name": "d", "managedFields": [entry]}}
    assert fields_of(update(created, replaced), "carol") == {"f:spec": {"f:replicas": {}}}


@pytest.mark.parametrize("fields", [{"f:spec": 3}, {"k:x": {}}, {"k:3": {}}, {"v:x": {}}, {"nonsense": {}}])
def test_managed_fields_that_can_not_be_read_are_ignored(fields: JsonObject) -> None:
    """What is stored stays; a later conflict must not stumble over them."""
    created = update(None, deployment(replicas=1), "alice")
    broken = {**created["metadata"]["managedFields"][0], "fieldsV1": fields}
    replaced = {**created, "metadata": {"name": "d", "managedFields": [broken]}}
    assert update(created, replaced)["metadata"]["managedFields"] == created["metadata"]["managedFields"]


def test_many_updating_managers_become_one_entry() -> None:
    """The list is bounded: beyond ten, the oldest updates are merged into `ancient-changes`, and nothing is lost."""
    obj = config({}, uid="1")
    for number in range(25):
        new = {**obj, "data": {**obj["data"], f"k{number}": "v"}}
        obj = update(obj, new, f"m{number}", kind=kinds.CONFIG_MAP, now=NOW + timedelta(seconds=number))
    entries = obj["metadata"]["managedFields"]
    assert len(entries) == managedfields.MAX_UPDATE_ENTRIES
    assert entries[0]["manager"] == "ancient-changes"
    owned = {name for entry in entries for name in entry["fieldsV1"]["f:data"]}
    assert owned == {f"f:k{number}" for number in range(25)}


def test_neither_object_is_changed() -> None:
    """Entries are shared with the stored object, so they must never change in place."""
    old = update(None, with_containers({"name": "c", "image": "x"}), "alice")
    new = {**old, **with_containers({"name": "c", "image": "y"}, {"name": "d"})}
    kept = copy.deepcopy((old, new))
    update(old, new, "bob")
    assert (old, new) == kept


def test_a_value_that_becomes_another_type_leaves_no_owner_of_its_former_members() -> None:
    """Only in parts without a schema: there a map can become a text."""
    kind = kinds.Kind("example.com", "v1", "Thing", "things")
    meta = {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}}
    created = update(None, {**meta, "spec": {"x": {"a": 1}}}, "alice", kind=kind)
    changed = update(created, {**created, "spec": {"x": "text"}}, "bob", kind=kind)
    assert [entry["manager"] for entry in changed["metadata"]["managedFields"]] == ["bob"]


# --- applies


def test_an_apply_creates_and_owns_what_it_names() -> None:
    """Maps and lists as such are not claimed, keyed items are."""
    obj = apply(None, with_containers({"name": "c", "image": "x"}))
    assert fields_of(obj, "alice") == {
        "f:spec": {
            "f:template": {"f:spec": {"f:containers": {'k:{"name":"c"}': {".": {}, "f:name": {}, "f:image": {}}}}}
        }
    }


def test_applying_the_same_again_changes_nothing() -> None:
    """The very object comes back: no write, no new resourceVersion."""
    obj = apply(None, deployment(replicas=1))
    assert apply(obj, deployment(replicas=1), now=LATER) is obj


def test_two_appliers_see_each_others_conflicts() -> None:
    """The message names the owner and the field; nothing is changed."""
    obj = apply(None, deployment(replicas=1, paused=True), "alice")
    with pytest.raises(ApplyConflict) as error:
        apply(obj, deployment(replicas=2, paused=False), "bob")
    assert conflict_of(error) == [
        ('conflict with "alice"', ".spec.paused"),
        ('conflict with "alice"', ".spec.replicas"),
    ]
    assert str(error.value) == 'conflict with "alice": .spec.paused, conflict with "alice": .spec.replicas'


def test_a_conflict_with_an_update_names_the_version() -> None:
    """kubectl explains its own client-side applies by this sentence."""
    obj = update(None, deployment(replicas=1), "kubectl-client-side-apply")
    with pytest.raises(ApplyConflict) as error:
        apply(obj, deployment(replicas=2))
    assert conflict_of(error) == [('conflict with "kubectl-client-side-apply" using apps/v1', ".spec.replicas")]
    assert error.value.causes[0]["reason"] == "FieldManagerConflict"


def test_a_conflict_in_a_list_names_the_item() -> None:
    """Items are named by their keys, set items by their value."""
    ports = [{"containerPort": 80, "protocol": "TCP", "name": "a"}]
    obj = apply(None, with_containers({"name": "c", "ports": ports}))
    ports = [{"containerPort": 80, "protocol": "TCP", "name": "b"}]
    with pytest.raises(ApplyConflict) as error:
        apply(obj, with_containers({"name": "c", "ports": ports}), "bob")
    path = '.spec.template.spec.containers[name="c"].ports[containerPort=80,protocol="TCP"].name'
    assert conflict_of(error) == [('conflict with "alice"', path)]


def test_force_takes_the_field() -> None:
    """The former owner loses what was in conflict and keeps the rest."""
    obj = apply(None, deployment(replicas=1, paused=True), "alice")
    forced = apply(obj, deployment(replicas=2), "bob", force=True)
    assert forced["spec"] == {"replicas": 2, "paused": True}
    assert fields_of(forced, "alice") == {"f:spec": {"f:paused": {}}}
    assert fields_of(forced, "bob") == {"f:spec": {"f:replicas": {}}}


def test_the_same_value_is_shared() -> None:
    """Two managers that agree own a field together; it stays until both let go."""
    obj = apply(apply(None, deployment(replicas=1)), deployment(replicas=1, paused=True), "bob")
    assert fields_of(obj, "alice") == {"f:spec": {"f:replicas": {}}}
    without_alice = apply(obj, {**deployment(), "spec": {"minReadySeconds": 1}}, "alice")
    assert without_alice["spec"] == {"replicas": 1, "paused": True, "minReadySeconds": 1}
    without_both = apply(without_alice, deployment(paused=True), "bob")
    assert without_both["spec"] == {"paused": True, "minReadySeconds": 1}


def test_what_is_no_longer_applied_is_removed() -> None:
    """Fields, whole items with what the server added to them, and set items go when nobody else owns them."""
    applied = with_containers({"name": "a", "image": "x"}, {"name": "b", "image": "y"})
    applied["metadata"] |= {"labels": {"l": "1", "m": "2"}, "finalizers": ["f/1", "f/2"]}
    obj = apply(None, applied)
    obj["spec"]["template"]["spec"]["containers"][1]["terminationMessagePath"] = "/dev/null"  # a default
    applied = with_containers({"name": "a"})
    applied["metadata"] |= {"labels": {"m": "2"}, "finalizers": ["f/2"]}
    left = apply(obj, applied)
    assert left["spec"]["template"]["spec"]["containers"] == [{"name": "a"}]
    assert left["metadata"]["labels"] == {"m": "2"}
    assert left["metadata"]["finalizers"] == ["f/2"]
    bare = apply(left, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}})
    assert "spec" not in bare
    assert bare["metadata"].keys() == {"name"}


def test_an_item_that_somebody_else_uses_stays() -> None:
    """Only the fields of the item that nobody owns go."""
    obj = apply(None, with_containers({"name": "c", "image": "x", "workingDir": "/"}))
    obj = apply(obj, with_containers({"name": "c", "image": "x"}), "bob")
    left = apply(obj, deployment(paused=True), "alice")
    assert left["spec"] == {"template": {"spec": {"containers": [{"name": "c", "image": "x"}]}}, "paused": True}


def test_lists_merge_by_key_in_the_appliers_order() -> None:
    """Items of others keep their place relative to the ones the applier names."""
    obj = apply(None, with_containers({"name": "a"}, {"name": "b"}, {"name": "c"}))
    merged = apply(obj, with_containers({"name": "c"}, {"name": "a", "image": "x"}, {"name": "d"}), "bob")
    names = [each["name"] for each in merged["spec"]["template"]["spec"]["containers"]]
    assert names == ["b", "c", "a", "d"]


def test_an_atomic_part_has_one_owner() -> None:
    """A selector is replaced as a whole, and conflicts as a whole."""
    obj = apply(None, deployment(selector={"matchLabels": {"a": "1"}}))
    with pytest.raises(ApplyConflict) as error:
        apply(obj, deployment(selector={"matchLabels": {"b": "2"}}), "bob")
    assert conflict_of(error) == [('conflict with "alice"', ".spec.selector")]
    forced = apply(obj, deployment(selector={"matchLabels": {"b": "2"}}), "bob", force=True)
    assert forced["spec"]["selector"] == {"matchLabels": {"b": "2"}}


def test_null_removes_a_field() -> None:
    """A null in a configuration means absent; null metadata that the server writes is ignored."""
    obj = apply(None, deployment(replicas=1))
    obj["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    applied = deployment(replicas=None)
    applied["metadata"]["creationTimestamp"] = None
    left = apply(obj, applied)
    assert left["spec"] == {}
    assert left["metadata"]["creationTimestamp"] == "2026-01-01T00:00:00Z"


def test_the_status_is_out_of_reach_of_an_apply_to_the_object() -> None:
    """And the rest is out of reach of an apply to the status."""
    obj = {**apply(None, deployment(replicas=1)), "status": {"replicas": 1}}
    same = apply(obj, {**deployment(replicas=1), "status": {"replicas": 7}})
    assert same["status"] == {"replicas": 1}
    status = apply(obj, {**deployment(replicas=9), "status": {"replicas": 7}}, "bob", subresource="status")
    assert (status["spec"], status["status"]) == ({"replicas": 1}, {"replicas": 7})
    assert fields_of(status, "bob", subresource="status") == {"f:status": {"f:replicas": {}}}


def test_an_object_nobody_tracked_belongs_to_before_first_apply() -> None:
    """So that an apply does not silently take what somebody wrote earlier."""
    with pytest.raises(ApplyConflict) as error:
        apply(deployment(replicas=1), deployment(replicas=2))
    assert conflict_of(error) == [('conflict with "before-first-apply" using apps/v1', ".spec.replicas")]


@pytest.mark.parametrize(
    ("last_applied", "allowed"),
    [
        (orjson.dumps(deployment(replicas=1)).decode(), True),
        (orjson.dumps(deployment(replicas=7)).decode(), False),
        (orjson.dumps(deployment(paused=True)).decode(), False),
        ("[]", False),
        ("{", False),
    ],
)
def test_kubectl_may_take_over_its_own_client_side_applies(last_applied: str, allowed: bool) -> None:
    """Fields that are still as its last-applied-configuration has them are no conflict for the manager `kubectl`."""
    obj = deployment(replicas=1)
    obj["metadata"]["annotations"] = {LAST_APPLIED: last_applied}
    obj = update(None, obj, "kubectl-client-side-apply")
    if allowed:
        assert apply(obj, deployment(replicas=2), "kubectl")["spec"] == {"replicas": 2}
    else:
        with pytest.raises(ApplyConflict):
            apply(obj, deployment(replicas=2), "kubectl")
    with pytest.raises(ApplyConflict):
        apply(obj, deployment(replicas=2), "somebody")


def test_a_custom_resources_lists_follow_its_schema() -> None:
    """x-kubernetes-list-type says whether items have keys, and x-kubernetes-map-type what is atomic."""
    item = {"type": "object", "properties": {"id": {"type": "string"}, "n": {"type": "integer"}}}
    source = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {
                    "keyed": {
                        "type": "array",
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["id"],
                        "items": item,
                    },
                    "whole": {"type": "array", "items": item},
                    "atom": {"type": "object", "x-kubernetes-map-type": "atomic"},
                },
            }
        },
    }
    schema = StructuralSchema.from_crd({"schema": {"openAPIV3Schema": source}})
    kind = kinds.Kind("example.com", "v1", "Thing", "things")
    meta = {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}}
    spec = {"keyed": [{"id": "a", "n": 1}], "whole": [{"id": "a"}], "atom": {"x": {"y": 1}}}
    obj = apply(None, {**meta, "spec": spec}, kind=kind, schema=schema)
    assert fields_of(obj, "alice") == {
        "f:spec": {
            "f:keyed": {'k:{"id":"a"}': {".": {}, "f:id": {}, "f:n": {}}},
            "f:whole": {},
            "f:atom": {},
        }
    }
    merged = apply(obj, {**meta, "spec": {"keyed": [{"id": "b"}]}}, "bob", kind=kind, schema=schema)
    assert merged["spec"]["keyed"] == [{"id": "a", "n": 1}, {"id": "b"}]


# --- laws

names = st.sampled_from("abcd")
data = st.dictionaries(names, st.sampled_from("123"), max_size=4)


@given(data, data)
def test_applying_twice_is_applying_once(before: JsonObject, wanted: JsonObject) -> None:
    """Apply is idempotent, whatever was there."""
    obj = update(None, config(before), kind=kinds.CONFIG_MAP)
    once = apply(obj, config(wanted), force=True, kind=kinds.CONFIG_MAP)
    assert apply(once, config(wanted), force=True, kind=kinds.CONFIG_MAP) is once
    assert wanted.items() <= once["data"].items()


@given(data, data, data, data)
def test_managers_of_disjoint_fields_never_conflict(
    a1: JsonObject, b1: JsonObject, a2: JsonObject, b2: JsonObject
) -> None:
    """Each owns its fields only, and gets exactly what it asks for, at any order of changes."""
    mine, theirs = ({f"x{k}": v for k, v in each.items()} for each in (a1, a2))
    obj = apply(None, config(mine), "alice", kind=kinds.CONFIG_MAP)
    obj = apply(obj, config(b1), "bob", kind=kinds.CONFIG_MAP)
    obj = apply(obj, config(theirs), "alice", kind=kinds.CONFIG_MAP)
    obj = apply(obj, config(b2), "bob", kind=kinds.CONFIG_MAP)
    assert obj.get("data", {}) == {**theirs, **b2}


@given(st.lists(st.tuples(st.sampled_from(("alice", "bob", "carol")), st.booleans(), data), max_size=8))
def test_what_is_owned_exists_and_every_field_has_an_owner(steps: list[tuple[str, bool, JsonObject]]) -> None:
    """Through any sequence of applies and updates, the union of all entries is exactly the object's fields."""
    obj = update(None, config({}), kind=kinds.CONFIG_MAP)
    for manager, is_apply, wanted in steps:
        if is_apply:
            obj = apply(obj, config(wanted), manager, force=True, kind=kinds.CONFIG_MAP)
        else:
            new = {**obj, "data": wanted}
            obj = update(obj, new, manager, kind=kinds.CONFIG_MAP)
        owned: set[str] = set()
        for entry in obj["metadata"].get("managedFields", ()):
            owned |= {step for step in entry["fieldsV1"].get("f:data", ()) if step != "."}
        assert owned == {f"f:{name}" for name in obj.get("data", {})}
