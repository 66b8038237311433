"""Configurations make Revisions, and say which are the latest."""

from __future__ import annotations

import copy

import pytest

from controller.apis import kinds, labels
from controller.apis.meta import Key
from controller.reconcile import configuration


@pytest.fixture
def alone(world, make_service):
    """A Configuration without a Service or Route, reconciled once."""
    template = make_service()["spec"]["template"]
    template["metadata"] = {"labels": {"tier": "gold"}, "annotations": {"note": "a"}}
    meta = {"name": "hello", "namespace": "default", "labels": {"own": "1"}}
    meta["annotations"] = {labels.LAST_MODIFIER: "ada", "own": "1"}
    api_version = kinds.CONFIGURATION.api_version
    world.create({"apiVersion": api_version, "kind": "Configuration", "metadata": meta, "spec": {"template": template}})
    step(world)
    return world


def step(world):
    return world.reconcile(configuration.CONTROLLER, "hello")


def verdict(world, name, status, message=""):
    """What a Revision says of itself."""
    found = {"type": "Ready", "status": status, "message": message}
    world.set_status(kinds.REVISION, Key("default", name), {"observedGeneration": 1, "conditions": [found]})


def change(world, image=None, name=None):
    """A new generation of the Configuration."""
    obj = copy.deepcopy(world.find(kinds.CONFIGURATION, "hello"))
    if image:
        obj["spec"]["template"]["spec"]["containers"][0]["image"] = image
    if name:
        obj["spec"]["template"]["metadata"]["name"] = name
    world.update(obj)
    step(world)


def status(world):
    found = world.find(kinds.CONFIGURATION, "hello")["status"]
    return found.get("latestCreatedRevisionName"), found.get("latestReadyRevisionName")


def ready(world):
    return world.condition(kinds.CONFIGURATION, "hello")


def test_snapshot(alone):
    """The Revision carries the template, its origin and its maker; not the Configuration's own metadata."""
    revision = alone.find(kinds.REVISION, "hello-00001")
    meta, uid = revision["metadata"], alone.find(kinds.CONFIGURATION, "hello")["metadata"]["uid"]
    assert meta["labels"] == {
        "tier": "gold",
        labels.CONFIGURATION: "hello",
        labels.CONFIGURATION_UID: uid,
        labels.CONFIGURATION_GENERATION: "1",
        labels.ROUTING_STATE: labels.PENDING,
    }
    assert meta["annotations"]["note"] == "a"
    assert meta["annotations"][labels.CREATOR] == "ada"
    assert "own" not in meta["annotations"]
    assert revision["spec"] == alone.find(kinds.CONFIGURATION, "hello")["spec"]["template"]["spec"]


def test_waits_for_its_revision(alone):
    """Created and not yet ready."""
    assert status(alone) == ("hello-00001", None)
    assert ready(alone)[0] == "Unknown"


def test_first_ready(alone):
    """The first ready Revision makes the Configuration Ready, and says so once."""
    verdict(alone, "hello-00001", "True")
    plan = step(alone)
    assert status(alone) == ("hello-00001", "hello-00001")
    assert ready(alone) == ("True", "", "")
    assert [event.reason for event in plan.events] == ["LatestReadyUpdate", "ConfigurationReady"]
    assert not step(alone).events


def test_failure(alone):
    """A failed Revision fails the Configuration with its message, told as an event once."""
    verdict(alone, "hello-00001", "False", "Container failed with: boom")
    plan = step(alone)
    message = 'Revision "hello-00001" failed with message: Container failed with: boom.'
    assert ready(alone) == ("False", "RevisionFailed", message)
    assert [event.reason for event in plan.events] == ["LatestCreatedFailed"]
    assert not step(alone).events


def test_latest_ready_fails_later(alone):
    """The Revision that serves may fail later; it stays the latest ready one, and recovers."""
    verdict(alone, "hello-00001", "True")
    step(alone)
    verdict(alone, "hello-00001", "False", "gone")
    assert [event.reason for event in step(alone).events] == ["LatestReadyFailed"]
    assert status(alone) == ("hello-00001", "hello-00001")
    verdict(alone, "hello-00001", "True")
    step(alone)
    assert ready(alone)[0] == "True"


def test_metadata_makes_no_revision(alone):
    """A label on the Configuration is no new generation."""
    obj = copy.deepcopy(alone.find(kinds.CONFIGURATION, "hello"))
    obj["metadata"]["labels"]["more"] = "1"
    alone.update(obj)
    step(alone)
    assert alone.names(kinds.REVISION) == ["hello-00001"]


def test_intermediate_revision(alone):
    """While the newest isn't ready, the newest ready one between serves; it never goes back to an older one."""
    for image in ("app:2", "app:3"):
        change(alone, image)
    verdict(alone, "hello-00002", "True")
    step(alone)
    assert status(alone) == ("hello-00003", "hello-00002")
    verdict(alone, "hello-00001", "True")
    step(alone)
    assert status(alone) == ("hello-00003", "hello-00002")
    assert ready(alone)[0] == "Unknown"
    verdict(alone, "hello-00003", "True")
    step(alone)
    assert status(alone) == ("hello-00003", "hello-00003")


def test_roll_back_by_name(alone):
    """Naming an older Revision with its own spec makes it the latest again; its generation label stays."""
    change(alone, "app:blue", "hello-blue")
    verdict(alone, "hello-blue", "True")
    step(alone)
    change(alone, "app:green", "hello-green")
    verdict(alone, "hello-green", "True")
    step(alone)
    change(alone, "app:blue", "hello-blue")
    assert status(alone) == ("hello-blue", "hello-blue")
    assert ready(alone)[0] == "True"
    assert alone.find(kinds.REVISION, "hello-blue")["metadata"]["labels"][labels.CONFIGURATION_GENERATION] == "2"


@pytest.mark.parametrize("owned", [True, False])
def test_name_taken(alone, owned):
    """A chosen name that is taken fails the Configuration, without an error that is tried again."""
    if owned:
        change(alone, "app:blue", "hello-blue")
        change(alone, "app:green", "hello-green")
    else:
        meta = {"name": "hello-blue", "namespace": "default"}
        foreign = {"apiVersion": kinds.REVISION.api_version, "kind": "Revision", "metadata": meta, "spec": {}}
        alone.create(foreign)
    change(alone, "app:other", "hello-blue")
    status_, reason, message = ready(alone)
    assert (status_, reason) == ("False", "RevisionFailed")
    assert message.endswith('"hello-blue" already exists.')
    assert not step(alone).error


def test_latest_ready_deleted(alone):
    """Deleting the Revision that serves is told, until the next one is ready."""
    verdict(alone, "hello-00001", "True")
    step(alone)
    change(alone, "app:2")
    alone.delete(kinds.REVISION, "hello-00001")
    step(alone)
    assert ready(alone)[:2] == ("False", "RevisionDeleted")
    verdict(alone, "hello-00002", "True")
    step(alone)
    assert ready(alone)[0] == "True"


def test_current_revision_deleted(alone):
    """The current generation's Revision is made again if it was deleted."""
    verdict(alone, "hello-00001", "True")
    step(alone)
    alone.delete(kinds.REVISION, "hello-00001")
    step(alone)
    step(alone)
    assert alone.names(kinds.REVISION) == ["hello-00001"]
    verdict(alone, "hello-00001", "True")
    step(alone)
    assert ready(alone)[0] == "True"


def test_routed_from_the_start(alone):
    """A Configuration that Routes refer to already makes active Revisions that name these Routes."""
    obj = copy.deepcopy(alone.find(kinds.CONFIGURATION, "hello"))
    obj["metadata"]["annotations"][labels.ROUTES] = "a,b"
    alone.update(obj)
    change(alone, "app:2")
    meta = alone.find(kinds.REVISION, "hello-00002")["metadata"]
    assert meta["labels"][labels.ROUTING_STATE] == labels.ACTIVE
    assert meta["annotations"][labels.ROUTES] == "a,b"


def test_says_what_is_awaited(alone):
    """While the Revision isn't ready, its own words are passed on."""
    verdict(alone, "hello-00001", "Unknown", "nothing listens on port 8080")
    step(alone)
    message = 'Revision "hello-00001" is not yet ready: nothing listens on port 8080'
    assert ready(alone) == ("Unknown", "", message)


def test_a_name_that_becomes_free(alone):
    """A Revision wakes its owner, and the Configuration whose chosen name it may be holding."""
    mapper = configuration.CONTROLLER.watches[kinds.REVISION]
    foreign = {"metadata": {"name": "hello-b-2", "namespace": "default"}}
    assert set(mapper(foreign, alone)) == {Key("default", "hello")}
    assert set(mapper({"metadata": {"name": "other-b", "namespace": "default"}}, alone)) == set()
