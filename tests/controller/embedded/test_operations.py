"""The write path against whatever a client may send, and deletions, without HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.apis.meta import Key, format_time
from controller.config.store import Config
from controller.embedded.admission import Admission
from controller.embedded.operations import EVENTS, Operations, WriteOptions
from controller.embedded.ports import PortAllocator
from controller.embedded.resources import DefinitionError, ResourceId, registry
from controller.embedded.status import ApiError
from controller.embedded.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OPTIONS = WriteOptions(user="tester", manager="test")
SEEDS: dict[tuple[str, str, str], dict[str, Any]] = {
    ("", "v1", "pods"): {"spec": {"containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 80}]}]}},
    ("", "v1", "services"): {"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}},
    ("", "v1", "configmaps"): {"data": {"a": "b"}},
    ("", "v1", "secrets"): {"data": {"a": "Yg=="}, "stringData": {"c": "d"}},
    ("", "v1", "events"): {"involvedObject": {"kind": "Pod", "namespace": "default"}},
    ("apps", "v1", "deployments"): {
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}},
        }
    },
    ("discovery.k8s.io", "v1", "endpointslices"): {"addressType": "IPv4", "endpoints": [], "ports": [{"port": 1}]},
    ("serving.knative.dev", "v1", "services"): {
        "spec": {
            "template": {"metadata": {"annotations": {}}, "spec": {"containers": [{"image": "x", "env": []}]}},
            "traffic": [{"latestRevision": True, "percent": 100, "tag": "t"}],
        }
    },
}
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    folder = Path(__file__).parents[3] / "deploy" / "crds"
    crds = [yaml.safe_load(path.read_bytes()) for path in sorted(folder.glob("*.yaml"))]
    store = Store(tmp_path_factory.mktemp("operations"), history=100)
    made = Operations(store, registry(crds), Admission(Config, PortAllocator()), lambda: NOW)
    made.bootstrap(crds, "tester")
    yield made
    store.close()


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(inner, (*path, step))


def _mutated(value: Any, path: tuple[Any, ...], junk: Any) -> Any:
    if not path:
        return junk
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _mutated(copy[path[0]], path[1:], junk)
    return copy


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_body_is_stored_or_refused(operations: Operations, data: st.DataObject) -> None:
    """A valid object with junk anywhere in it is created, patched or applied, or refused with an ApiError that can be
    sent: no other exception, whatever the kind."""
    place = data.draw(st.sampled_from(sorted(SEEDS)))
    resource = operations.registry.by_path(*place)
    assert resource is not None
    seed = {"metadata": {"name": "x", "labels": {"l": "v"}, "annotations": {"k": "v"}}, **SEEDS[place]}
    where = data.draw(st.sampled_from([path for path in _places(seed) if path]))
    body = orjson.loads(orjson.dumps(_mutated(seed, where, data.draw(JUNK))))  # what the server parsed is its own
    way = data.draw(st.sampled_from(["create", "patch", "apply", "status"]))
    key = Key("default", "x")
    if operations.store.get(resource.id, key) is not None:
        operations.store.remove(resource.id, key)
    if way != "create":
        operations.create(resource, "default", orjson.loads(orjson.dumps(seed)), OPTIONS)
    try:
        if way == "create":
            operations.create(resource, "default", body, OPTIONS)
        elif way == "apply":
            operations.apply(resource, key, body, OPTIONS)
        else:
            subresource = "status" if way == "status" and "status" in resource.subresources else ""
            operations.patch(resource, key, "application/merge-patch+json", body, OPTIONS, subresource)
    except ApiError as error:
        orjson.dumps(error.status())


@pytest.mark.parametrize(
    ("plural", "fields", "complaint"),
    [
        ("configmaps", {"data": {"a b": "x"}}, 'data[a b]: Invalid value: "a b": a valid config key'),
        ("configmaps", {"data": {"a": "ü" * 524_289}}, "data: Too long: must have at most 1048576 bytes"),
        ("configmaps", {"data": {"a": "ü" * 524_288}}, ""),
        ("secrets", {"data": {"a/b": "eA=="}}, 'data[a/b]: Invalid value: "a/b": a valid config key'),
        ("secrets", {"data": {"a": "eHh4" * 349_526}}, "data: Too long: must have at most 1048576 bytes"),
    ],
)
def test_data_that_no_cluster_takes(operations: Operations, plural: str, fields: Any, complaint: str) -> None:
    """Is refused here too, so that nobody finds out later."""
    resource = operations.registry.by_path("", "v1", plural)
    assert resource is not None
    body = {"metadata": {"generateName": "c"}, **fields}
    if not complaint:
        operations.create(resource, "default", body, OPTIONS)
        return
    with pytest.raises(ApiError) as refused:
        operations.create(resource, "default", body, OPTIONS)
    assert complaint in refused.value.message


POD = SEEDS["", "v1", "pods"]
OTHER_POD = {"spec": {"containers": [{"name": "c", "image": "y", "ports": [{"containerPort": 80}]}]}}


@pytest.mark.parametrize(
    ("path", "before", "change", "complaint"),
    [
        (("", "v1", "pods"), POD, {"spec": OTHER_POD["spec"]}, "spec: Forbidden: a pod's spec can't be changed"),
        (("", "v1", "pods"), POD, {"metadata": {"labels": {"a": "b"}}}, ""),
        (("", "v1", "configmaps"), {"data": {"a": "b"}}, {"data": {"a": "c"}, "immutable": True}, ""),
        (("", "v1", "configmaps"), {"data": {"a": "b"}, "immutable": True}, {"data": {"a": "c"}}, "data: Forbidden"),
        (("", "v1", "configmaps"), {"immutable": True}, {"immutable": False}, "immutable: Forbidden: field is immut"),
        (("", "v1", "configmaps"), {"immutable": True}, {"metadata": {"labels": {"a": "b"}}}, ""),
        (("", "v1", "secrets"), {"data": {"a": "Yg=="}, "immutable": True}, {"data": {}}, "data: Forbidden"),
        (("", "v1", "secrets"), {"type": "Opaque"}, {"type": "other"}, 'type: Invalid value: "other": field is immut'),
    ],
)
def test_what_may_not_change(operations: Operations, path: Any, before: Any, change: Any, complaint: str) -> None:
    """A change that nothing would come of, or that was promised not to happen, is refused with its field."""
    resource = operations.registry.by_path(*path)
    assert resource is not None
    made = operations.create(resource, "default", {**before, "metadata": {"generateName": "c"}}, OPTIONS).stored
    body = {**orjson.loads(made.body), **change}
    body["metadata"] = {**orjson.loads(made.body)["metadata"], **change.get("metadata", {})}
    if not complaint:
        operations.update(resource, made.key, body, OPTIONS)
        return
    with pytest.raises(ApiError) as refused:
        operations.update(resource, made.key, body, OPTIONS)
    assert refused.value.code == 422
    assert complaint in str(refused.value)


def test_a_deployments_selector_stays(operations: Operations) -> None:
    """The pods of the old selector would be nobody's, so it can't move even together with the template's labels."""
    resource = operations.registry.by_path("apps", "v1", "deployments")
    assert resource is not None
    seed = SEEDS["apps", "v1", "deployments"]
    made = operations.create(resource, "default", {**seed, "metadata": {"generateName": "d"}}, OPTIONS).stored
    body = orjson.loads(made.body)
    body["spec"]["selector"] = {"matchLabels": {"a": "c"}}
    body["spec"]["template"]["metadata"]["labels"] = {"a": "c"}
    with pytest.raises(ApiError, match=r"spec\.selector: Invalid value: .* field is immutable"):
        operations.update(resource, made.key, body, OPTIONS)


def test_defaults_added_since_are_no_change(operations: Operations) -> None:
    """An object stored by a version with fewer defaults can still be labelled."""
    resource = operations.registry.by_path("", "v1", "pods")
    assert resource is not None
    made = operations.create(resource, "default", {**POD, "metadata": {"generateName": "p"}}, OPTIONS).stored
    former = orjson.loads(made.body)
    del former["spec"]["nodeName"]
    operations.store.put(resource.id, made.key, former)
    labels = {"metadata": {"labels": {"a": "b"}}}
    operations.patch(resource, made.key, "application/merge-patch+json", labels, OPTIONS)
    assert operations.get(resource, made.key).obj["metadata"]["labels"] == {"a": "b"}


LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with"
    " an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is"
    " '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
C = {"name": "c", "image": "x"}


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"containers": [{**C, "name": "../../x"}]}, f'containers[0].name: Invalid value: "../../x": {LABEL_RULE}'),
        ({"containers": [{**C, "name": "A_b"}]}, f'containers[0].name: Invalid value: "A_b": {LABEL_RULE}'),
        (
            {"containers": [{**C, "name": "a" * 64}]},
            f'containers[0].name: Invalid value: "{"a" * 64}": must be no more than 63 characters',
        ),
        ({"containers": [C], "initContainers": [C]}, 'initContainers[0].name: Duplicate value: "c"'),
        ({"containers": [C], "initContainers": [{"image": "x"}]}, "initContainers[0].name: Required value"),
        (
            {"containers": [C], "initContainers": [{**C, "name": ".."}]},
            f'initContainers[0].name: Invalid value: "..": {LABEL_RULE}',
        ),
        (
            {"containers": "x"},
            'containers: Invalid value: "string": {path}.containers in body must be of type array: "string"',
        ),
        (
            {"containers": ["x"]},
            'containers[0]: Invalid value: "string": {path}.containers[0] in body must be of type object: "string"',
        ),
    ],
)
def test_containers_have_labels_for_names(operations: Operations, spec: Any, complaint: str) -> None:
    """A name becomes a folder of the container's log, so nothing but a DNS label is one; in a Deployment's template as
    in a Pod, for init containers as for others. A wrong type is named by its field."""
    pods = operations.registry.by_path("", "v1", "pods")
    deployments = operations.registry.by_path("apps", "v1", "deployments")
    assert pods is not None
    assert deployments is not None
    seed = SEEDS["apps", "v1", "deployments"]
    template = {**seed["spec"]["template"], "spec": spec}
    deployment = {**seed, "spec": {**seed["spec"], "template": template}}
    for resource, body, path in (
        (pods, {"spec": spec}, "spec"),
        (deployments, deployment, "spec.template.spec"),
    ):
        named = orjson.loads(orjson.dumps({**body, "metadata": {"name": "named"}}))
        with pytest.raises(ApiError) as refused:
            operations.create(resource, "default", named, OPTIONS)
        assert refused.value.code == 422
        assert f"{path}.{complaint.replace('{path}', path)}" in str(refused.value)


def test_events_expire_after_their_last_sight(operations: Operations) -> None:
    """Events older than the limit go, newer ones stay."""
    resource = operations.registry.by_id(EVENTS)
    for name, age in (("old", 61), ("new", 59)):
        seen = format_time(NOW - timedelta(minutes=age))
        event = {"metadata": {"name": name}, "involvedObject": {}, "lastTimestamp": seen}
        operations.create(resource, "default", event, OPTIONS)
    operations.expire_events(timedelta(hours=1))
    assert operations.store.get(EVENTS, Key("default", "old")) is None
    assert operations.store.get(EVENTS, Key("default", "new")) is not None


def test_a_namespace_keeps_so_many_events(operations: Operations, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those last seen longest ago go, whenever they were made; other namespaces are not counted."""
    monkeypatch.setattr("controller.embedded.operations.EVENTS_LIMIT", 20)
    resource = operations.registry.by_id(EVENTS)
    for number in range(50):
        seen = format_time(NOW - timedelta(minutes=number))
        event = {"metadata": {"name": f"bounded-{number}"}, "involvedObject": {}, "lastTimestamp": seen}
        operations.create(resource, "knative-serving", event, OPTIONS)
        assert operations.store.count(EVENTS, "knative-serving") <= 22
    kept = {stored.key.name for stored in operations.store.find(EVENTS, "knative-serving")}
    assert {f"bounded-{number}" for number in range(19)} <= kept


def test_a_definition_that_cant_be_served_is_named(widget_crd: dict[str, Any]) -> None:
    """Several served versions would need conversion; a missing field is named."""
    version = widget_crd["spec"]["versions"][0]
    two = {**widget_crd, "spec": {**widget_crd["spec"], "versions": [version, {**version, "name": "v2"}]}}
    with pytest.raises(DefinitionError, match=r"widgets\.example\.dev: spec\.versions: exactly one version"):
        registry([two])
    with pytest.raises(DefinitionError, match=r"widgets\.example\.dev: missing field 'spec'"):
        registry([{"metadata": widget_crd["metadata"]}])


def test_the_write_ahead_log_stays_small(tmp_path: Path) -> None:
    """With checkpoints whenever the store wants one, the files don't grow with the number of writes."""
    store = Store(tmp_path, history=20)
    for number in range(6000):
        store.put(
            ResourceId("", "things"), Key("n", "x"), {"metadata": {"name": "x"}, "value": number, "pad": "y" * 2000}
        )
        if store.wants_checkpoint():
            assert store.checkpoint()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 16 * 1024 * 1024
    store.close()
