from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.apis import kinds
from controller.embedded import patch
from controller.embedded.patch import JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, PatchError, apply_patch

if TYPE_CHECKING:
    from controller.apis.meta import JsonObject

scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4)
)
objects = st.dictionaries(st.sampled_from("abcd"), values, max_size=4)


def without_nulls(value: Any) -> Any:
    """Maps without null members: a merge patch can't say null."""
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return value


def difference(old: Any, new: Any) -> Any:
    """The merge patch that makes `new` of `old`."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    found: JsonObject = dict.fromkeys(old.keys() - new.keys())
    for name, each in new.items():
        if name not in old:
            found[name] = each
        elif old[name] != each or type(old[name]) is not type(each):
            found[name] = difference(old[name], each)
    return found


# --- RFC 7386


@pytest.mark.parametrize(
    ("target", "body", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({"a": "foo"}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": 1}, {"a": {"b": [None]}}, {"a": {"b": [None]}}),
    ],
)
def test_merge_patches_follow_the_table_of_rfc_7386(target: JsonObject, body: JsonObject, result: JsonObject) -> None:
    """RFC 7386, appendix A."""
    assert apply_patch(MERGE_PATCH, target, body, kinds.SERVICE) == result


@given(objects.map(without_nulls), objects.map(without_nulls))
def test_merging_the_difference_gives_the_new_object(old: JsonObject, new: JsonObject) -> None:
    """A merge patch of the difference between two objects turns one into the other."""
    assert apply_patch(MERGE_PATCH, old, difference(old, new), kinds.SERVICE) == new


@given(objects, objects, st.sampled_from((MERGE_PATCH, STRATEGIC_MERGE_PATCH)))
def test_merging_twice_is_merging_once_and_changes_no_input(
    old: JsonObject, body: JsonObject, content_type: str
) -> None:
    """Merge patches are idempotent; what is handed in stays as it was."""
    kept, sent = copy.deepcopy(old), copy.deepcopy(body)
    once = apply_patch(content_type, old, body, kinds.POD)
    assert apply_patch(content_type, once, body, kinds.POD) == once
    assert (old, body) == (kept, sent)


def test_untouched_parts_are_shared() -> None:
    """A patch costs what it changes: the rest of the object is not copied."""
    pod = {"spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Pending"}}
    patched = apply_patch(MERGE_PATCH, pod, {"status": {"phase": "Running"}}, kinds.POD)
    assert patched["spec"] is pod["spec"]
    assert patched["status"] == {"phase": "Running"}


# --- RFC 6902


def test_a_json_patch_is_applied_to_a_copy() -> None:
    """add, replace, remove, move, copy and test work; the input stays."""
    service = {"metadata": {"labels": {"a": "b"}}, "spec": {"traffic": [{"percent": 100}]}}
    kept = copy.deepcopy(service)
    body: list[JsonObject] = [
        {"op": "test", "path": "/metadata/labels/a", "value": "b"},
        {"op": "add", "path": "/metadata/labels/x~1y", "value": "z"},
        {"op": "replace", "path": "/spec/traffic/0/percent", "value": 90},
        {"op": "copy", "from": "/spec/traffic/0", "path": "/spec/traffic/-"},
        {"op": "remove", "path": "/metadata/labels/a"},
    ]
    assert apply_patch(JSON_PATCH, service, body, kinds.SERVICE) == {
        "metadata": {"labels": {"x/y": "z"}},
        "spec": {"traffic": [{"percent": 90}, {"percent": 90}]},
    }
    assert service == kept


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"op": "add"}, "must be a list of operations"),
        ([1], "operation 0 of the JSON patch must be an object"),
        ([{"path": "/a"}], "needs a text as 'op'"),
        ([{"op": "remove", "path": 3}], "needs a text as 'path'"),
        ([{"op": "copy", "path": "/a"}], "needs a text as 'from'"),
        ([{"op": "explode", "path": "/a"}], "does not apply"),
        ([{"op": "add", "path": "/a"}], "does not apply"),
        ([{"op": "remove", "path": "/nowhere"}], "does not apply"),
        ([{"op": "test", "path": "/a", "value": 2}], "does not apply: /a is not what it tests for$"),
        ([{"op": "add", "path": "/b", "value": 1}, {"op": "remove", "path": "/c"}], "operation 1 .* does not apply"),
        ([{"op": "copy", "from": "/nowhere", "path": "/b"}], "does not apply"),
        ([{"op": "add", "path": "", "value": []}], "something else than an object"),
        ([{"op": "test", "path": "/a", "value": 1}] * 10_001, "may have 10000 operations"),
    ],
)
def test_a_json_patch_that_does_not_apply_says_why(body: Any, complaint: str) -> None:
    """Every refusal is a PatchError with one sentence."""
    with pytest.raises(PatchError, match=complaint):
        apply_patch(JSON_PATCH, {"a": 1}, body, kinds.SERVICE)


def test_copies_of_copies_are_bounded() -> None:
    """Doubling by `copy` ends at the limit, not with the memory."""
    body = [{"op": "copy", "from": "/a", "path": "/a/-"}] * 40
    with pytest.raises(PatchError, match="copies more than"):
        apply_patch(JSON_PATCH, {"a": ["x" * 100]}, body, kinds.SERVICE)


@pytest.mark.parametrize(
    ("content_type", "body", "complaint"),
    [
        ("text/plain", {}, "no kind of patch"),
        (MERGE_PATCH, [], "must be an object"),
        (STRATEGIC_MERGE_PATCH, [], "must be an object"),
    ],
)
def test_other_bodies_and_media_types_are_refused(content_type: str, body: Any, complaint: str) -> None:
    """A merge patch is an object, and there are three media types."""
    with pytest.raises(PatchError, match=complaint):
        apply_patch(content_type, {}, body, kinds.SERVICE)


def test_a_bottomless_patch_is_refused() -> None:
    """Nesting beyond what Python can follow is a refusal, not a crash."""
    deep: JsonObject = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(PatchError, match="nested too deeply"):
        apply_patch(MERGE_PATCH, {}, deep, kinds.POD)
    while deep:
        deep = deep["a"]


# --- strategic merge patch


def strategic(current: JsonObject, body: JsonObject, kind: kinds.Kind = kinds.POD) -> JsonObject:
    return apply_patch(STRATEGIC_MERGE_PATCH, current, body, kind)


def pod(*containers: JsonObject, **spec: Any) -> JsonObject:
    return {"spec": {"containers": list(containers), **spec}}


A, B, C = ({"name": name, "image": name} for name in "abc")


@pytest.mark.parametrize(
    ("current", "body", "result"),
    [
        pytest.param(pod(A, B), pod({"name": "b", "image": "x"}), pod(A, {**B, "image": "x"}), id="merge by key"),
        pytest.param(pod(A), pod(B), pod(A, B), id="append"),
        pytest.param(pod(A, B), pod({"$patch": "delete", "name": "a"}), pod(B), id="delete an item"),
        pytest.param(pod(A, B), pod({"$patch": "replace"}, C), pod(C), id="replace a list"),
        pytest.param(
            {"spec": {"nodeSelector": {"a": "b"}, "hostname": "h"}},
            {"spec": {"$patch": "replace", "hostname": "i"}},
            {"spec": {"hostname": "i"}},
            id="replace a map",
        ),
        pytest.param(
            {"metadata": {"labels": {"a": "b"}}}, {"metadata": {"labels": {"$patch": "delete"}}},
            {"metadata": {"labels": {}}}, id="delete a map's members",
        ),
        pytest.param({"metadata": {"labels": {"a": "b"}}}, {"metadata": {"labels": None}}, {"metadata": {}}, id="null"),
        pytest.param(
            pod({"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}),
            pod({"name": "a", "env": [{"name": "Y", "value": "3"}]}),
            pod({"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "3"}]}),
            id="lists within list items",
        ),
        pytest.param(
            pod({"name": "a", "ports": [{"containerPort": 80, "name": "x"}], "args": ["1"]}),
            pod({"name": "a", "ports": [{"containerPort": 80, "name": "y"}], "args": ["2"]}),
            pod({"name": "a", "ports": [{"containerPort": 80, "name": "y"}], "args": ["2"]}),
            id="ports by number, args as a whole",
        ),
        pytest.param(
            pod(tolerations=[{"key": "a"}]), pod(tolerations=[{"key": "b"}]),
            pod(tolerations=[{"key": "b"}]), id="tolerations are atomic",
        ),
        pytest.param(
            pod(volumes=[{"name": "v", "emptyDir": {}}]),
            pod(volumes=[{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]),
            pod(volumes=[{"name": "v", "hostPath": {"path": "/"}}]),
            id="retain keys",
        ),
        pytest.param(
            {"metadata": {"finalizers": ["a", "b"]}},
            {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c", "b"]}},
            {"metadata": {"finalizers": ["b", "c"]}},
            id="sets",
        ),
        pytest.param(
            {"metadata": {"finalizers": ["a", "b"]}},
            {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}},
            {"metadata": {"finalizers": ["b"]}},
            id="deletion from a set alone",
        ),
        pytest.param(
            {"metadata": {"ownerReferences": [{"uid": "1", "name": "a"}]}},
            {"metadata": {"ownerReferences": [{"uid": "2", "name": "b"}]}},
            {"metadata": {"ownerReferences": [{"uid": "1", "name": "a"}, {"uid": "2", "name": "b"}]}},
            id="owners by uid",
        ),
        pytest.param(
            {"status": {"conditions": [{"type": "Ready", "status": "False"}]}},
            {"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "New", "status": "True"}]}},
            {"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "New", "status": "True"}]}},
            id="conditions by type",
        ),
        pytest.param(
            pod(A), {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [B]}},
            pod(B, A), id="order with a new item",
        ),
        pytest.param(
            pod(A, B), {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}},
            pod(B, A), id="order alone",
        ),
        pytest.param(
            pod(A, B, C), {"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]}},
            pod(B, C, A), id="an item the client does not know stays before those it preceded",
        ),
        pytest.param(
            pod(A, B),
            {
                "spec": {
                    "$setElementOrder/containers": [{"name": "b"}],
                    "containers": [{"$patch": "delete", "name": "a"}, {"name": "b", "image": "x"}],
                }
            },
            pod({"name": "b", "image": "x"}),
            id="what kubectl apply sends when a container goes",
        ),
        pytest.param(
            {"metadata": {}}, {"metadata": {"labels": {"a": None, "b": "c"}}}, {"metadata": {"labels": {"b": "c"}}},
            id="nulls of a new map are dropped",
        ),
    ],
)  # fmt: skip
def test_strategic_merge_patches(current: JsonObject, body: JsonObject, result: JsonObject) -> None:
    """The rules of strategicpatch, one row each."""
    assert strategic(current, body) == result


@pytest.mark.parametrize(
    ("kind", "body", "complaint"),
    [
        (kinds.POD, {"spec": {"$patch": "explode"}}, r"\.spec: \$patch must be merge, replace or delete"),
        (kinds.POD, pod({"image": "x"}), r"\.spec\.containers: .* merge key 'name'"),
        (kinds.POD, pod({"$patch": "merge", "name": "a"}), "must be replace or delete"),
        (kinds.POD, {"spec": {"$retainKeys": "x"}}, "must be a list of names"),
        (kinds.POD, {"spec": {"$retainKeys": ["a"], "hostname": "b"}}, "sets hostname, which"),
        (kinds.POD, {"spec": {"$setElementOrder/containers": "x", "containers": [A]}}, "must be a list"),
        (kinds.POD, {"spec": {"$setElementOrder/containers": [], "containers": [A]}}, "does not name all items"),
        (kinds.CORE_SERVICE, {"spec": {"ports": [{"name": "x"}]}}, "merge key 'port'"),
    ],
)
def test_a_strategic_patch_that_makes_no_sense_says_why(kind: kinds.Kind, body: JsonObject, complaint: str) -> None:
    """The message names the field."""
    with pytest.raises(PatchError, match=complaint):
        strategic({}, body, kind)


def test_a_kind_without_a_schema_merges_maps_and_replaces_lists() -> None:
    """The scale subresource is no stored kind; a strategic patch of it is a merge patch."""
    scale = {"spec": {"replicas": 1}, "list": [1]}
    kind = kinds.Kind("autoscaling", "v1", "Scale", "scales")
    assert strategic(scale, {"spec": {"replicas": 2}, "list": [2]}, kind) == {"spec": {"replicas": 2}, "list": [2]}


@given(
    st.lists(st.sampled_from("abcdef"), unique=True),
    st.lists(st.sampled_from("abcdef"), unique=True),
)
def test_an_ordered_patch_puts_its_items_in_its_order_and_loses_none(old: list[str], order: list[str]) -> None:
    """$setElementOrder sorts what it names and keeps the order among the others."""
    body = {
        "spec": {
            "$setElementOrder/containers": [{"name": n} for n in order],
            "containers": [{"name": n} for n in order],
        }
    }
    result = [each["name"] for each in strategic(pod(*({"name": n} for n in old)), body)["spec"]["containers"]]
    assert sorted(result) == sorted({*old, *order})
    assert [name for name in result if name in order] == order
    assert [name for name in result if name not in order] == [name for name in old if name not in order]


def test_the_merge_helper_takes_any_json() -> None:
    """A patch that is no object replaces what was there."""
    assert patch.merge({"a": 1}, [1]) == [1]
