"""Core Services of Revisions and Routes."""

from __future__ import annotations

import pytest

from controller.apis import labels, revision
from controller.reconcile.children.services import (
    external_name,
    mesh,
    placeholder,
    private_service,
    private_service_name,
    updated,
)


def parsed(port=None):
    container = {"image": "app", **({"ports": [port]} if port else {})}
    meta = {"name": "hello-00001", "namespace": "default", "uid": "42"}
    body = {"apiVersion": "serving.knative.dev/v1", "kind": "Revision", "metadata": meta}
    return revision.parse({**body, "spec": {"containers": [container]}})


def route(**own):
    meta = {"name": "hello", "namespace": "default", "uid": "1", **own}
    return {"apiVersion": "serving.knative.dev/v1", "kind": "Route", "metadata": meta}


@pytest.mark.parametrize(
    ("port", "name"), [(None, "http"), ({"containerPort": 1}, "http"), ({"name": "h2c", "containerPort": 1}, "http2")]
)
def test_private_service(port, name):
    """It selects the Revision's pods by uid and finds their port by name."""
    found = private_service(parsed(port))
    assert found["metadata"]["name"] == private_service_name("hello-00001") == "hello-00001-private"
    assert found["spec"]["selector"] == {labels.REVISION_UID: "42"}
    (entry,) = found["spec"]["ports"]
    assert (entry["name"], entry["port"], entry["targetPort"]) == (name, 80, "user-port")


def test_placeholder_visibility():
    """The Route's visibility stays with the Route; on a placeholder the label is the user's."""
    obj = route(labels={labels.VISIBILITY: labels.CLUSTER_LOCAL, "team": "a"})
    found = placeholder(obj, "blue-hello", external_name("x"))
    assert found["metadata"]["labels"] == {"team": "a", labels.ROUTE: "hello"}


def test_update_keeps_what_others_wrote():
    """A label of the user's and the server's clusterIP survive; nothing to change is no update."""
    want = placeholder(route(), "hello", mesh())
    meta = {**want["metadata"], "labels": {**want["metadata"]["labels"], labels.VISIBILITY: "cluster-local"}}
    have = {**want, "metadata": meta, "spec": {**want["spec"], "clusterIP": "10.0.0.1"}}
    assert updated(have, want) is None
    changed = updated(have, placeholder(route(annotations={"a": "1"}), "hello", mesh()))
    assert changed is not None
    assert changed["metadata"]["labels"][labels.VISIBILITY] == "cluster-local"
    assert changed["spec"]["clusterIP"] == "10.0.0.1"


def test_change_of_type():
    """A Service that becomes an alias loses its clusterIP."""
    want = placeholder(route(), "hello", external_name("gateway"))
    have = {**want, "spec": {**mesh(), "clusterIP": "10.0.0.1"}}
    changed = updated(have, want)
    assert changed is not None
    assert changed["spec"] == external_name("gateway")
