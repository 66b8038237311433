"""The Configuration of a Service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.apis import kinds, labels
from controller.apis.meta import (
    JsonObject,
    annotations_of,
    controller_ref,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)
from controller.apis.references import routes_of
from controller.reconcile import drift

if TYPE_CHECKING:
    from controller.apis.service import Service

_NOT_COPIED = {labels.LAST_APPLIED, labels.ROLLOUT_DURATION, labels.ROLLOUT_DURATION_LEGACY}


def configuration(service: Service, routes: frozenset[str] = frozenset()) -> JsonObject:
    """The Configuration, named as the Service. `routes` are the Routes that refer to it already; the Service's own
    Route is among them from the start, so that a new Revision begins as `active`."""
    obj = service.obj
    copied = {key: value for key, value in annotations_of(obj).items() if key not in _NOT_COPIED}
    return {
        "apiVersion": kinds.CONFIGURATION.api_version,
        "kind": kinds.CONFIGURATION.kind,
        "metadata": {
            "name": name_of(obj),
            "namespace": namespace_of(obj),
            "labels": {**labels_of(obj), labels.SERVICE: name_of(obj), labels.SERVICE_UID: uid_of(obj)},
            "annotations": {**copied, labels.ROUTES: ",".join(sorted({*routes, name_of(obj)}))},
            "ownerReferences": [controller_ref(obj)],
        },
        "spec": {"template": service.template},
    }


def updated(existing: JsonObject, service: Service) -> JsonObject | None:
    """The Configuration to write over `existing`, or None if it says the same. What the Service no longer has is
    taken away."""
    desired = configuration(service, routes_of(existing))
    have, want = existing["metadata"], desired["metadata"]
    if (
        drift.same(existing["spec"], desired["spec"])
        and drift.same(have.get("labels"), want["labels"])
        and drift.same(have.get("annotations"), want["annotations"])
    ):
        return None
    return drift.changed(existing, labels=want["labels"], annotations=want["annotations"], spec=desired["spec"])
