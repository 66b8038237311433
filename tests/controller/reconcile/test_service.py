"""A Service becomes a Configuration and a Route, and says how they are."""

from __future__ import annotations

import copy

from controller.apis import kinds, labels
from controller.apis.meta import key_of
from controller.reconcile import service


def latest(percent=100, **more):
    return {"latestRevision": True, "percent": percent, **more}


def pinned(name, percent, **more):
    return {"revisionName": name, "latestRevision": False, "percent": percent, **more}


def settled(world, make_service, **metadata):
    obj = make_service()
    obj["metadata"].update(metadata)
    world.create(obj)
    world.settle()


def test_first_deployment(world, make_service):
    """From nothing to Ready: children, revision, URL and traffic."""
    settled(world, make_service)
    status = world.find(kinds.SERVICE, "hello")["status"]
    assert world.condition(kinds.SERVICE, "hello") == ("True", "", "")
    assert status["url"] == "http://hello.default.example.com"
    assert status["address"] == {"url": "http://hello.default.svc.cluster.local"}
    assert status["latestCreatedRevisionName"] == status["latestReadyRevisionName"] == "hello-00001"
    assert status["traffic"] == [{"revisionName": "hello-00001", "latestRevision": True, "percent": 100}]
    assert status["observedGeneration"] == 1
    assert not world.errors


def test_events(world, make_service):
    """Each child is announced once, on the object that made it."""
    settled(world, make_service)
    messages = [event.message for event in world.events]
    assert 'Created Configuration "hello"' in messages
    assert 'Created Route "hello"' in messages
    assert 'Created Revision "hello-00001"' in messages
    assert 'LatestReadyRevisionName updated to "hello-00001"' in messages
    assert len(messages) == len(set(messages))


def test_update_makes_a_revision(world, make_service, edit):
    """A new template is a new Revision, which gets the traffic once it is ready."""
    settled(world, make_service)
    edit("hello", image="app:2")
    world.settle()
    assert world.names(kinds.REVISION) == ["hello-00001", "hello-00002"]
    assert world.find(kinds.SERVICE, "hello")["status"]["traffic"][0]["revisionName"] == "hello-00002"
    assert world.find(kinds.REVISION, "hello-00002")["metadata"]["labels"][labels.ROUTING_STATE] == labels.ACTIVE
    assert world.find(kinds.REVISION, "hello-00001")["metadata"]["labels"][labels.ROUTING_STATE] == labels.RESERVE


def test_split_and_rollback(world, make_service, edit):
    """90/10 with a tag, then all back to the old Revision by name."""
    settled(world, make_service)
    edit("hello", image="app:2", traffic=[pinned("hello-00001", 90), latest(10, tag="next")])
    world.settle()
    traffic = world.find(kinds.SERVICE, "hello")["status"]["traffic"]
    assert [(target["revisionName"], target["percent"]) for target in traffic] == [
        ("hello-00001", 90),
        ("hello-00002", 10),
    ]
    assert traffic[1]["url"] == "http://next-hello.default.example.com"
    assert "next-hello" in world.names(kinds.CORE_SERVICE)
    edit("hello", traffic=[pinned("hello-00001", 100)])
    world.settle()
    assert world.condition(kinds.SERVICE, "hello")[0] == "True"
    assert "next-hello" not in world.names(kinds.CORE_SERVICE)


def test_labels_and_annotations_follow(world, make_service):
    """Labels and annotations reach Configuration and Route, not the Revision; what is removed is removed there."""
    settled(world, make_service, labels={"team": "a"}, annotations={"note": "b", labels.LAST_APPLIED: "{}"})
    for kind in (kinds.CONFIGURATION, kinds.ROUTE):
        meta = world.find(kind, "hello")["metadata"]
        assert meta["labels"]["team"] == "a"
        assert meta["labels"][labels.SERVICE] == "hello"
        assert meta["annotations"]["note"] == "b"
        assert labels.LAST_APPLIED not in meta["annotations"]
    assert "team" not in world.find(kinds.REVISION, "hello-00001")["metadata"]["labels"]
    obj = copy.deepcopy(world.find(kinds.SERVICE, "hello"))
    obj["metadata"].update(labels={}, annotations={})
    world.update(obj)
    world.settle()
    for kind in (kinds.CONFIGURATION, kinds.ROUTE):
        assert "team" not in world.find(kind, "hello")["metadata"]["labels"]
        assert "note" not in world.find(kind, "hello")["metadata"].get("annotations", {})
    assert world.names(kinds.REVISION) == ["hello-00001"]


def test_labels_alone_leave_ready_alone(world, make_service):
    """A label makes no new generation of a child, so nothing is out of date while it is passed on."""
    settled(world, make_service)
    obj = copy.deepcopy(world.find(kinds.SERVICE, "hello"))
    obj["metadata"]["labels"] = {"team": "a"}
    world.update(obj)
    for _ in range(4):
        world.pass_over()
        assert world.condition(kinds.SERVICE, "hello") == ("True", "", "")
    assert world.find(kinds.INGRESS, "hello")["metadata"]["labels"]["team"] == "a"


def test_drift_is_reverted(world, make_service):
    """A Route edited by hand goes back to what the Service says."""
    settled(world, make_service)
    obj = copy.deepcopy(world.find(kinds.ROUTE, "hello"))
    obj["spec"]["traffic"] = []
    world.update(obj)
    world.settle()
    assert world.find(kinds.ROUTE, "hello")["spec"]["traffic"][0]["configurationName"] == "hello"


def test_foreign_configuration(world, make_service):
    """A Configuration of somebody else is left alone, and named."""
    spec = {"template": make_service()["spec"]["template"]}
    world.create(
        {"apiVersion": "serving.knative.dev/v1", "kind": "Configuration", "metadata": {"name": "hello"}, "spec": spec}
    )
    world.create(make_service())
    plan = world.reconcile(service.CONTROLLER, "hello")
    message = 'There is an existing Configuration "hello" that we do not own.'
    assert world.condition(kinds.SERVICE, "hello") == ("False", "NotOwned", message)
    assert plan.error
    assert plan.create == plan.update == ()


def test_foreign_route(world, make_service):
    """A Route of somebody else fails RoutesReady; the Configuration is still made."""
    world.create(
        {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Route",
            "metadata": {"name": "hello"},
            "spec": {"traffic": []},
        }
    )
    world.create(make_service())
    world.reconcile(service.CONTROLLER, "hello")
    assert world.condition(kinds.SERVICE, "hello", "RoutesReady")[:2] == ("False", "NotOwned")
    assert world.names(kinds.CONFIGURATION) == ["hello"]


def test_out_of_date_children(world, make_service):
    """Until a child has observed its generation, its old verdict does not count."""
    world.create(make_service())
    world.reconcile(service.CONTROLLER, "hello")
    assert world.condition(kinds.SERVICE, "hello", "ConfigurationsReady")[:2] == ("Unknown", "OutOfDate")
    assert world.condition(kinds.SERVICE, "hello", "RoutesReady")[:2] == ("Unknown", "OutOfDate")


def test_named_revision_waits_for_the_configuration(world, make_service):
    """With a chosen name, the Route is not touched before the Configuration has seen the name."""
    world.create(make_service(name="hello"))
    obj = copy.deepcopy(world.find(kinds.SERVICE, "hello"))
    obj["spec"]["template"]["metadata"]["name"] = "hello-blue"
    world.update(obj)
    world.reconcile(service.CONTROLLER, "hello")
    assert world.names(kinds.ROUTE) == []
    world.settle()
    assert world.names(kinds.REVISION) == ["hello-blue"]
    assert world.condition(kinds.SERVICE, "hello")[0] == "True"


def test_named_revision_of_another_spec(world, make_service, edit):
    """A chosen name that is taken by other contents fails; traffic stays where it was."""
    settled(world, make_service)
    edit("hello", template_name="hello-blue")
    world.settle()
    edit("hello", template_name="hello-green", image="app:2")
    world.settle()
    edit("hello", template_name="hello-blue", image="app:3")
    world.settle()
    assert world.condition(kinds.SERVICE, "hello", "RoutesReady")[:2] == ("False", "RevisionNameTaken")
    assert world.condition(kinds.CONFIGURATION, "hello")[:2] == ("False", "RevisionFailed")
    assert world.find(kinds.ROUTE, "hello")["status"]["traffic"][0]["revisionName"] == "hello-green"


def test_roll_back_by_name(world, make_service, edit):
    """Naming an earlier Revision with its own spec uses it again."""
    settled(world, make_service)
    for name, image in (("hello-blue", "app:2"), ("hello-green", "app:3"), ("hello-blue", "app:2")):
        edit("hello", template_name=name, image=image)
        world.settle()
    assert world.names(kinds.REVISION) == ["hello-00001", "hello-blue", "hello-green"]
    assert world.find(kinds.SERVICE, "hello")["status"]["latestReadyRevisionName"] == "hello-blue"
    assert world.condition(kinds.SERVICE, "hello")[0] == "True"


def test_traffic_not_migrated(world, make_service):
    """A Route that is Ready but sends traffic elsewhere keeps the Service waiting."""
    settled(world, make_service)
    obj = world.find(kinds.ROUTE, "hello")
    traffic = [{"revisionName": "hello-00000", "latestRevision": True, "percent": 100}]
    world.set_status(kinds.ROUTE, key_of(obj), {**obj["status"], "traffic": traffic})
    world.reconcile(service.CONTROLLER, "hello")
    assert world.condition(kinds.SERVICE, "hello", "RoutesReady")[:2] == ("Unknown", "TrafficNotMigrated")


def test_failure_is_passed_up(world, make_service):
    """A Revision's failure is readable on the Service."""
    world.create(make_service())
    world.settle(cluster=False)
    deployment = world.find(kinds.DEPLOYMENT, "hello-00001-deployment")
    failed = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "too slow"}
    world.set_status(kinds.DEPLOYMENT, key_of(deployment), {"conditions": [failed]})
    world.settle(cluster=False)
    expected = ("False", "RevisionFailed", 'Revision "hello-00001" failed with message: too slow.')
    assert world.condition(kinds.SERVICE, "hello", "ConfigurationsReady") == expected
    assert world.condition(kinds.ROUTE, "hello")[:2] == ("False", "RevisionMissing")


def test_deletion(world, make_service):
    """Nothing of a deleted Service is left, finalizers included."""
    settled(world, make_service)
    world.delete(kinds.SERVICE, "hello")
    world.settle()
    left = [kind.kind for kind in (*kinds.KNATIVE_KINDS, *kinds.BUILT_IN_KINDS) if world.names(kind)]
    assert left == []
