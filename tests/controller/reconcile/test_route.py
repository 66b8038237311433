"""A Route's plan: KIngress, placeholders and status, as golden files and for what they can't show."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from controller.apis import kinds, labels
from controller.apis.meta import Key, key_of
from controller.config import store
from controller.reconcile import route

GOLDEN = Path(__file__).parents[2] / "golden" / "route"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.in.yaml")), ids=lambda path: path.name.removesuffix(".in.yaml"))
def test_golden(path, world, request):
    """The plan for the objects of `<case>.in.yaml` is `<case>.out.yaml`."""
    config = store.Config()
    for obj in yaml.safe_load_all(path.read_text()):
        if obj["kind"] == "ConfigMap":
            config = store.update(config, obj["metadata"]["name"], obj["data"])
        else:
            place(world, obj)
    seen = route.observe(world, Key("default", "hello"))
    assert seen is not None
    text = yaml.safe_dump(shown(route.reconcile(seen, config, NOW)), sort_keys=False, width=120)
    expected = path.with_name(path.name.replace(".in.", ".out."))
    if request.config.getoption("--update-golden"):
        expected.write_text(text)
    assert text == expected.read_text()


def place(world, obj):
    """Puts an object into the world as it is, with a uid made of its kind and name."""
    meta = {"namespace": "default", "generation": 1, "uid": f"{obj['kind']}-{obj['metadata']['name']}"}
    kind = next(kind for kind in (*kinds.KNATIVE_KINDS, kinds.CORE_SERVICE) if of(obj, kind))
    world.put(kind, {**obj, "metadata": {**meta, **obj["metadata"]}})


def of(obj, kind):
    return (obj["apiVersion"], obj["kind"]) == (kind.api_version, kind.kind)


def shown(plan):
    """A plan as YAML shows it; the owner is the same everywhere and left out, shared lists are written out."""

    def plain(value):
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items() if name != "ownerReferences"}
        return [plain(part) for part in value] if isinstance(value, list | tuple) else value

    parts = {
        "create": list(plan.create),
        "update": list(plan.update),
        "delete": [f"{deletion.kind.kind} {deletion.key}" for deletion in plan.delete],
        "status": plan.status,
        "events": [f"{event.type} {event.reason}: {event.message}" for event in plan.events],
        "error": plan.error,
    }
    return plain({name: part for name, part in parts.items() if part})


@pytest.fixture
def hello(world, make_service):
    """A Service that is Ready."""
    world.create(make_service())
    world.settle()
    return world


def condition(world, type_="Ready"):
    return world.condition(kinds.ROUTE, "hello", type_)


def test_ready_follows_the_ingress(hello):
    """IngressReady is the KIngress' Ready, reason and message included."""
    ingress = hello.find(kinds.INGRESS, "hello")
    failed = {"type": "Ready", "status": "False", "reason": "NoGateway", "message": "gone"}
    hello.set_status(kinds.INGRESS, key_of(ingress), {"observedGeneration": 1, "conditions": [failed]})
    hello.reconcile(route.CONTROLLER, "hello")
    assert condition(hello) == ("False", "NoGateway", "gone")


def test_ingress_of_another_generation(hello, edit):
    """A KIngress that was just rewritten is not ready, whatever its status says."""
    edit("hello", image="app:2")
    hello.settle(cluster=False)
    hello.play()
    for _ in range(4):
        hello.settle(cluster=False)
    assert condition(hello, "IngressReady")[:2] == ("Unknown", "IngressNotConfigured")


def test_ingress_without_a_verdict(hello):
    """An ingress that has not said anything is awaited."""
    hello.set_status(kinds.INGRESS, Key("default", "hello"), {"observedGeneration": 1})
    hello.reconcile(route.CONTROLLER, "hello")
    assert condition(hello, "IngressReady")[:2] == ("Unknown", "Uninitialized")


def test_foreign_ingress(world, make_service):
    """A KIngress of somebody else is left alone, and said so."""
    place(
        world, {"apiVersion": kinds.INGRESS.api_version, "kind": "Ingress", "metadata": {"name": "hello"}, "spec": {}}
    )
    world.create(make_service())
    world.settle()
    assert condition(world, "IngressReady")[:2] == ("False", "NotOwned")
    assert world.find(kinds.INGRESS, "hello")["spec"] == {}


def test_foreign_placeholder(world, make_service):
    """A core Service of somebody else under the Route's name is left alone, and named."""
    place(world, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hello"}, "spec": {"ports": []}})
    world.create(make_service())
    world.settle()
    status, reason, message = condition(world, "IngressReady")
    assert (status, reason) == ("False", "NotOwned")
    assert '"hello"' in message
    assert world.find(kinds.CORE_SERVICE, "hello")["spec"] == {"ports": []}


def test_bad_target_keeps_traffic(hello, edit):
    """A missing target changes nothing but the condition; traffic goes on as before."""
    before = hello.find(kinds.INGRESS, "hello")
    edit("hello", traffic=[{"revisionName": "nowhere", "percent": 100}])
    hello.settle()
    assert condition(hello, "AllTrafficAssigned")[:2] == ("False", "RevisionMissing")
    assert hello.find(kinds.INGRESS, "hello")["spec"] == before["spec"]
    assert hello.find(kinds.ROUTE, "hello")["status"]["traffic"][0]["revisionName"] == "hello-00001"


def test_missing_target_appears(hello, make_service, edit):
    """A Revision that a Route waits for wakes the Route when it appears."""
    edit("hello", traffic=[{"revisionName": "hello-later", "percent": 100}])
    hello.settle()
    later = {**hello.find(kinds.REVISION, "hello-00001"), "metadata": {"name": "hello-later", "namespace": "default"}}
    assert list(route.CONTROLLER.watches[kinds.REVISION](later, hello)) == [Key("default", "hello")]


def test_host_too_long(world, make_service):
    """A tag whose host has no valid DNS label is an error in the configuration of names."""
    obj = make_service()
    obj["spec"]["traffic"].append({"latestRevision": True, "percent": 0, "tag": "t" * 60})
    world.create(obj)
    world.settle()
    status, reason, message = condition(world, "AllTrafficAssigned")
    assert (status, reason) == ("False", "ErrorConfig")
    assert "tag-template" in message
    assert world.names(kinds.INGRESS) == []


def test_unknown_http_option(hello):
    """An annotation nobody understands is an error, not ignored."""
    obj = hello.find(kinds.SERVICE, "hello")
    hello.update({**obj, "metadata": {**obj["metadata"], "annotations": {labels.HTTP_OPTION: "maybe"}}})
    hello.settle()
    assert any('"maybe"' in error for error in hello.errors)


def test_unchanged_spec_is_not_written(hello):
    """A pass that finds everything in place writes nothing; gateways keep their table."""
    version = hello.find(kinds.INGRESS, "hello")["metadata"]["resourceVersion"]
    hello.settle()
    assert hello.find(kinds.INGRESS, "hello")["metadata"]["resourceVersion"] == version
