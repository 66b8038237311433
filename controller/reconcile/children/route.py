"""The Route of a Service."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from controller.apis import kinds, labels
from controller.apis.meta import JsonObject, annotations_of, controller_ref, labels_of, name_of, namespace_of
from controller.apis.route import parse_traffic, serialise_traffic
from controller.reconcile import drift

if TYPE_CHECKING:
    from controller.apis.route import TrafficTarget
    from controller.apis.service import Service


def route(service: Service) -> JsonObject:
    """The Route, named as the Service; a target that names no Revision follows the Service's Configuration."""
    obj = service.obj
    return {
        "apiVersion": kinds.ROUTE.api_version,
        "kind": kinds.ROUTE.kind,
        "metadata": {
            "name": name_of(obj),
            "namespace": namespace_of(obj),
            "labels": {**labels_of(obj), labels.SERVICE: name_of(obj)},
            "annotations": {key: value for key, value in annotations_of(obj).items() if key != labels.LAST_APPLIED},
            "ownerReferences": [controller_ref(obj)],
        },
        "spec": {"traffic": serialise_traffic(tuple(_own(target, name_of(obj)) for target in service.traffic))},
    }


def updated(existing: JsonObject, desired: JsonObject) -> JsonObject | None:
    """The Route to write over `existing`, or None if it says the same."""
    have, want = existing["metadata"], desired["metadata"]
    if (
        parse_traffic(existing["spec"].get("traffic")) == parse_traffic(desired["spec"]["traffic"])
        and drift.same(have.get("labels"), want["labels"])
        and drift.same(have.get("annotations"), want["annotations"])
    ):
        return None
    return drift.changed(existing, labels=want["labels"], annotations=want["annotations"], spec=desired["spec"])


def _own(target: TrafficTarget, configuration: str) -> TrafficTarget:
    return target if target.revision_name else replace(target, configuration_name=configuration)
