"""The HorizontalPodAutoscaler that takes the KPA's place for revisions of the HPA class.

What is asked for is Knative's: bounds from min-scale and max-scale, a metric only where a target is annotated (else the
cluster's default for such objects applies), the window as the stabilisation of both directions. Such a revision never
goes to zero.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

from controller.apis import kinds
from controller.apis.annotations import CPU, INT32_MAX, MEMORY
from controller.apis.meta import JsonObject, annotations_of, controller_ref, labels_of, name_of, namespace_of
from controller.reconcile import drift

if TYPE_CHECKING:
    from controller.apis.annotations import AutoscalingAnnotations
    from controller.config.autoscaler import AutoscalerConfig


def horizontal_pod_autoscaler(
    pod_autoscaler: JsonObject, annotated: AutoscalingAnnotations, config: AutoscalerConfig
) -> JsonObject:
    """The HorizontalPodAutoscaler of a PodAutoscaler, named as that."""
    low = config.min_scale if annotated.min_scale is None else annotated.min_scale
    high = config.max_scale if annotated.max_scale is None else annotated.max_scale
    spec: JsonObject = {
        "maxReplicas": high or INT32_MAX,
        "scaleTargetRef": dict(pod_autoscaler["spec"]["scaleTargetRef"]),
    }
    if low > 0:
        spec["minReplicas"] = low
    if annotated.target is not None:
        spec["metrics"] = [_metric(annotated.metric or CPU, annotated.target)]
    if annotated.window is not None:
        rules = {"stabilizationWindowSeconds": int(annotated.window)}
        spec["behavior"] = {"scaleUp": rules, "scaleDown": dict(rules)}
    return {
        "apiVersion": kinds.HORIZONTAL_POD_AUTOSCALER.api_version,
        "kind": kinds.HORIZONTAL_POD_AUTOSCALER.kind,
        "metadata": {
            "name": name_of(pod_autoscaler),
            "namespace": namespace_of(pod_autoscaler),
            "labels": dict(labels_of(pod_autoscaler)),
            "annotations": dict(annotations_of(pod_autoscaler)),
            "ownerReferences": [controller_ref(pod_autoscaler)],
        },
        "spec": spec,
    }


def _metric(name: str, target: float) -> dict[str, Any]:
    if name == CPU:
        return _resource(name, {"type": "Utilization", "averageUtilization": ceil(target)})
    if name == MEMORY:
        return _resource(name, {"type": "AverageValue", "averageValue": f"{target:g}Mi"})
    value = {"type": "AverageValue", "averageValue": str(int(target))}
    return {"type": "Pods", "pods": {"metric": {"name": name}, "target": value}}


def _resource(name: str, target: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Resource", "resource": {"name": name, "target": target}}


def updated(existing: JsonObject, desired: JsonObject) -> JsonObject | None:
    """The object to write over `existing`, or None if it asks for the same. A server fills in metrics and rules that
    nobody asked for; that something is not asked for any more shows in the annotations, of which the spec is made."""
    if drift.covers(existing["spec"], desired["spec"]) and annotations_of(existing) == annotations_of(desired):
        return None
    return drift.changed(existing, annotations=annotations_of(desired), spec=desired["spec"])
