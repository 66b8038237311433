"""The PodAutoscaler of a Revision, and what of it is kept in sync.

Autoscaling annotations may be changed on a live Revision; they reach the autoscaler through here, additions and
removals alike. The class and the metric are the exception: admission writes them where the Revision has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.apis import kinds, labels
from controller.apis.meta import JsonObject, annotations_of, controller_ref, name_of, namespace_of
from controller.reconcile import drift
from controller.reconcile.children.deployment import child_labels, deployment_name

if TYPE_CHECKING:
    from controller.apis.revision import Revision

_NOT_FOR_AUTOSCALER = {labels.LAST_PINNED, labels.NO_GC, labels.ROUTING_STATE_MODIFIED, labels.ROUTES}
_DEFAULTED = {labels.AUTOSCALING + "class", labels.AUTOSCALING + "metric"}


def pod_autoscaler(revision: Revision, reachability: str) -> JsonObject:
    """The PodAutoscaler as it is created. `reachability` is "", "Reachable" or "Unreachable"."""
    return {
        "apiVersion": kinds.POD_AUTOSCALER.api_version,
        "kind": kinds.POD_AUTOSCALER.kind,
        "metadata": {
            "name": name_of(revision.obj),
            "namespace": namespace_of(revision.obj),
            "labels": child_labels(revision.obj),
            "annotations": {
                key: value for key, value in annotations_of(revision.obj).items() if key not in _NOT_FOR_AUTOSCALER
            },
            "ownerReferences": [controller_ref(revision.obj)],
        },
        "spec": {
            "containerConcurrency": revision.container_concurrency,
            "protocolType": revision.protocol,
            "reachability": reachability,
            "scaleTargetRef": {
                "apiVersion": kinds.DEPLOYMENT.api_version,
                "kind": kinds.DEPLOYMENT.kind,
                "name": deployment_name(name_of(revision.obj)),
            },
        },
    }


def updated(existing: JsonObject, desired: JsonObject) -> JsonObject | None:
    """The PodAutoscaler to write over `existing`, or None if it says the same."""
    have, want = annotations_of(existing), annotations_of(desired)
    kept = {key: value for key, value in have.items() if key in _DEFAULTED or not _is_of_autoscaling(key)}
    merged = {**kept, **want}
    if drift.same(existing["spec"], desired["spec"]) and have == merged:
        return None
    return drift.changed(existing, annotations=merged, spec=desired["spec"])


def _is_of_autoscaling(key: str) -> bool:
    return key.startswith(labels.AUTOSCALING) or key == labels.AUTOSCALING_PAUSED
