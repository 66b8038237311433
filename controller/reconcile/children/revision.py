"""The Revision that a Configuration's current generation asks for: a snapshot of its template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.apis import kinds, labels
from controller.apis.meta import (
    JsonObject,
    annotations_of,
    child_name,
    controller_ref,
    format_time,
    generation_of,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)

if TYPE_CHECKING:
    from datetime import datetime

    from controller.apis.configuration import Configuration


def revision_name(configuration: Configuration) -> str:
    """The name the user chose, else `<configuration>-<generation in five digits>`."""
    numbered = child_name(name_of(configuration.obj), f"-{generation_of(configuration.obj):05d}")
    return configuration.revision_name or numbered


def revision(configuration: Configuration, now: datetime) -> JsonObject:
    """The Revision as it is created. It begins `active` if a Route refers to the Configuration already, else
    `pending`. Of the Configuration's own labels only the Service's are passed on."""
    obj = configuration.obj
    meta = configuration.template.get("metadata") or {}
    return {
        "apiVersion": kinds.REVISION.api_version,
        "kind": kinds.REVISION.kind,
        "metadata": {
            "name": revision_name(configuration),
            "namespace": namespace_of(obj),
            "labels": {**(meta.get("labels") or {}), **_labels(obj)},
            "annotations": {**(meta.get("annotations") or {}), **_annotations(obj, now)},
            "ownerReferences": [controller_ref(obj)],
        },
        "spec": configuration.template["spec"],
    }


def _labels(obj: JsonObject) -> dict[str, str]:
    service = {key: labels_of(obj)[key] for key in (labels.SERVICE, labels.SERVICE_UID) if key in labels_of(obj)}
    return {
        **service,
        labels.CONFIGURATION: name_of(obj),
        labels.CONFIGURATION_UID: uid_of(obj),
        labels.CONFIGURATION_GENERATION: str(generation_of(obj)),
        labels.ROUTING_STATE: labels.ACTIVE if annotations_of(obj).get(labels.ROUTES) else labels.PENDING,
    }


def _annotations(obj: JsonObject, now: datetime) -> dict[str, str]:
    routes, modifier = annotations_of(obj).get(labels.ROUTES), annotations_of(obj).get(labels.LAST_MODIFIER)
    return {
        labels.ROUTING_STATE_MODIFIED: format_time(now),
        **({labels.ROUTES: routes} if routes else {}),
        **({labels.CREATOR: modifier} if modifier else {}),
    }
