"""Core Services: the one that collects a Revision's pods, and the placeholders that give a Route's names to DNS.

A Revision's Service `<rev>-private` selects its pods; its EndpointSlices are what the gateways dial. A Route has one
placeholder for each tag (and one for itself), so that `<tag>-<route>.<namespace>` resolves inside the cluster. It
points at the Route's domain until the ingress reports the load balancer it really listens on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.apis import kinds, labels
from controller.apis.meta import (
    JsonObject,
    annotations_of,
    child_name,
    controller_ref,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)
from controller.apis.revision import H2C, USER_PORT_NAME
from controller.reconcile import drift
from controller.reconcile.children.deployment import child_labels

if TYPE_CHECKING:
    from controller.apis.revision import Revision

PORT = 80
_H2C_PROTOCOL = "kubernetes.io/h2c"


def private_service_name(revision_name: str) -> str:
    """Name of the core Service that selects a revision's pods, shortened as `deployment_name`."""
    return child_name(revision_name, "-private")


def private_service(revision: Revision) -> JsonObject:
    """The Service that selects a Revision's pods."""
    port: JsonObject = {"name": "http", "port": PORT, "protocol": "TCP", "targetPort": USER_PORT_NAME}
    if revision.protocol == H2C:
        port |= {"name": "http2", "appProtocol": _H2C_PROTOCOL}
    return _service(
        revision.obj,
        private_service_name(name_of(revision.obj)),
        child_labels(revision.obj),
        {},
        {"type": "ClusterIP", "selector": {labels.REVISION_UID: uid_of(revision.obj)}, "ports": [port]},
    )


def placeholder(route: JsonObject, name: str, target: JsonObject) -> JsonObject:
    """The Service named `name` for one tag of a Route; `target` is its spec, from `external_name` or `mesh`.

    The Route's visibility label is not copied: on a placeholder it is the user's, and makes that one tag private."""
    own = {key: value for key, value in labels_of(route).items() if key != labels.VISIBILITY}
    annotations = {key: value for key, value in annotations_of(route).items() if key != labels.LAST_APPLIED}
    return _service(route, name, {**own, labels.ROUTE: name_of(route)}, annotations, target)


def external_name(host: str) -> JsonObject:
    """A spec that makes the Service's name an alias of `host`."""
    port = {"name": "http2", "port": PORT, "protocol": "TCP", "targetPort": PORT, "appProtocol": _H2C_PROTOCOL}
    return {"type": "ExternalName", "externalName": host, "sessionAffinity": "None", "ports": [port]}


def mesh() -> JsonObject:
    """A spec for a mesh that answers to the name itself; nothing is selected."""
    return {"type": "ClusterIP", "ports": [{"name": "http", "port": PORT, "protocol": "TCP", "targetPort": PORT}]}


def updated(existing: JsonObject, desired: JsonObject) -> JsonObject | None:
    """The Service to write over `existing`, or None if all we want is there. What the server chose (clusterIP) and
    what others labelled stays; a change of type starts the spec afresh, because an alias may have no clusterIP."""
    want, have = desired["metadata"], existing["metadata"]
    if (
        drift.covers(have.get("labels"), want["labels"])
        and drift.covers(have.get("annotations"), want["annotations"])
        and drift.covers(existing["spec"], desired["spec"])
    ):
        return None
    keep = existing["spec"] if existing["spec"].get("type") == desired["spec"]["type"] else {}
    return drift.changed(
        existing,
        labels={**labels_of(existing), **want["labels"]},
        annotations={**annotations_of(existing), **want["annotations"]},
        spec={**keep, **desired["spec"]},
    )


def _service(
    owner: JsonObject, name: str, own_labels: dict[str, str], annotations: dict[str, str], spec: JsonObject
) -> JsonObject:
    return {
        "apiVersion": kinds.CORE_SERVICE.api_version,
        "kind": kinds.CORE_SERVICE.kind,
        "metadata": {
            "name": name,
            "namespace": namespace_of(owner),
            "labels": own_labels,
            "annotations": annotations,
            "ownerReferences": [controller_ref(owner)],
        },
        "spec": spec,
    }
