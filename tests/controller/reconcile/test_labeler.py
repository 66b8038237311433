"""Routes leave their names on what they refer to."""

from __future__ import annotations

import pytest

from controller.apis import kinds, labels
from controller.apis.meta import Key, key_of
from controller.reconcile import labeler


@pytest.fixture
def hello(world, make_service):
    """A Service that is Ready."""
    world.create(make_service())
    world.settle()
    return world


def meta(world, kind, name):
    return world.find(kind, name)["metadata"]


def state(world, name):
    found = meta(world, kinds.REVISION, name)
    return found["labels"][labels.ROUTING_STATE], found["annotations"].get(labels.ROUTES)


def test_finalizer_comes_first(world, make_service):
    """Before any name is written, a finalizer makes sure that it will be taken away."""
    world.create(make_service())
    world.settle(cluster=False)
    assert meta(world, kinds.ROUTE, "hello")["finalizers"] == [labels.ROUTE_FINALIZER]


def test_references(hello):
    """What a Route refers to names it, and is active."""
    assert state(hello, "hello-00001") == (labels.ACTIVE, "hello")
    assert meta(hello, kinds.CONFIGURATION, "hello")["annotations"][labels.ROUTES] == "hello"


def test_new_revision_is_active_before_it_gets_traffic(hello, edit):
    """The latest created Revision is active while the old one still serves."""
    edit("hello", image="app:2")
    hello.settle(cluster=False)
    assert state(hello, "hello-00002") == (labels.ACTIVE, "hello")
    assert state(hello, "hello-00001") == (labels.ACTIVE, "hello")


def test_old_references_wait_for_the_route(hello, edit):
    """While the Route is not settled, the old Revision stays active; then it goes to the reserve."""
    before = meta(hello, kinds.REVISION, "hello-00001")["annotations"][labels.ROUTING_STATE_MODIFIED]
    edit("hello", image="app:2")
    hello.settle()
    assert state(hello, "hello-00001") == (labels.RESERVE, None)
    assert meta(hello, kinds.REVISION, "hello-00001")["annotations"][labels.ROUTING_STATE_MODIFIED] != before


def test_pinned_to_another(hello, edit):
    """A new Revision that nothing follows begins active and goes to the reserve."""
    edit("hello", image="app:2", traffic=[{"revisionName": "hello-00001", "percent": 100}])
    hello.settle()
    assert state(hello, "hello-00001") == (labels.ACTIVE, "hello")
    assert state(hello, "hello-00002") == (labels.RESERVE, None)


def test_two_routes(hello):
    """The list is sorted; a Revision is active while any Route refers to it."""
    spec = {"traffic": [{"revisionName": "hello-00001", "percent": 100}]}
    body = {"apiVersion": kinds.ROUTE.api_version, "kind": "Route", "metadata": {"name": "another"}, "spec": spec}
    hello.create(body)
    hello.settle()
    assert state(hello, "hello-00001") == (labels.ACTIVE, "another,hello")
    hello.delete(kinds.ROUTE, "another")
    hello.settle()
    assert state(hello, "hello-00001") == (labels.ACTIVE, "hello")
    assert "another" not in hello.names(kinds.ROUTE)


def test_missing_revision(hello, edit):
    """A target that doesn't exist takes no name off the Service's Configuration: the Service would write it again."""
    edit("hello", traffic=[{"revisionName": "nowhere", "percent": 100}])
    hello.settle()
    assert meta(hello, kinds.CONFIGURATION, "hello")["annotations"][labels.ROUTES] == "hello"


def test_dropped_references_wake_the_route(hello):
    """A Revision that names a Route concerns it, even if the Route no longer refers to it."""
    stray = {"metadata": {"name": "x", "namespace": "default", "annotations": {labels.ROUTES: "gone"}}}
    mapper = labeler.CONTROLLER.watches[kinds.REVISION]
    assert Key("default", "gone") in set(mapper(stray, hello))
    assert set(mapper(hello.find(kinds.REVISION, "hello-00001"), hello)) == {key_of(hello.find(kinds.ROUTE, "hello"))}
