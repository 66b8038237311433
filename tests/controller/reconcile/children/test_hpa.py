from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from controller.apis.annotations import parse_autoscaling
from controller.config.autoscaler import AutoscalerConfig
from controller.config.store import Config
from controller.reconcile.children.hpa import horizontal_pod_autoscaler, updated

if TYPE_CHECKING:
    from controller.apis.meta import JsonObject

A = "autoscaling.knative.dev/"


def hpa(config: AutoscalerConfig | None = None, **annotated: str) -> JsonObject:
    """The HorizontalPodAutoscaler of a PodAutoscaler with these annotations."""
    texts = {A + "class": "hpa.autoscaling.knative.dev", **{A + k.replace("_", "-"): v for k, v in annotated.items()}}
    obj = {
        "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
        "kind": "PodAutoscaler",
        "metadata": {
            "namespace": "default",
            "name": "hello-00001",
            "uid": "u",
            "annotations": texts,
            "labels": {"app": "a"},
        },
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "hello-00001-deployment"}},
    }
    whole = Config(autoscaler=config or AutoscalerConfig())
    return horizontal_pod_autoscaler(obj, parse_autoscaling(texts, whole), whole.autoscaler)


@pytest.mark.parametrize(
    ("annotated", "expected"),
    [
        ({}, {"maxReplicas": 2**31 - 1}),
        ({"min_scale": "2", "max_scale": "5"}, {"minReplicas": 2, "maxReplicas": 5}),
        ({"min_scale": "0"}, {"maxReplicas": 2**31 - 1}),
        (
            {"target": "72.5"},
            {"metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 73}}}]},
        ),
        (
            {"metric": "memory", "target": "200"},
            {"metrics": [{"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "200Mi"}}}]},
        ),
        (
            {"metric": "queue_length", "target": "30.9"},
            {"metrics": [{"type": "Pods", "pods": {"metric": {"name": "queue_length"}, "target": {"type": "AverageValue", "averageValue": "30"}}}]},
        ),
        ({"metric": "memory"}, {"maxReplicas": 2**31 - 1}),
        (
            {"window": "90s"},
            {"behavior": {"scaleUp": {"stabilizationWindowSeconds": 90}, "scaleDown": {"stabilizationWindowSeconds": 90}}},
        ),
    ],
)  # fmt: skip
def test_what_is_annotated_becomes_its_spec(annotated: dict[str, str], expected: dict[str, Any]) -> None:
    """Bounds, one metric if there is a target, and the window; nothing else."""
    spec = hpa(**annotated)["spec"]
    always = {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "hello-00001-deployment"}}
    assert spec == {"maxReplicas": 2**31 - 1, **always, **expected}


def test_defaults_of_the_configuration() -> None:
    """Hold where nothing is annotated."""
    spec = hpa(AutoscalerConfig(min_scale=1, max_scale=9))["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (1, 9)


def test_it_belongs_to_the_pod_autoscaler() -> None:
    """Its name, labels and owner."""
    meta = hpa()["metadata"]
    assert (meta["namespace"], meta["name"], meta["labels"]) == ("default", "hello-00001", {"app": "a"})
    assert (meta["ownerReferences"][0]["kind"], meta["ownerReferences"][0]["controller"]) == ("PodAutoscaler", True)


def test_what_a_server_fills_in_is_no_change() -> None:
    """But a bound that is asked for no more, or another one, is."""
    stored = hpa(max_scale="5")
    stored["spec"] |= {"minReplicas": 1, "metrics": [{"type": "Resource", "resource": {"name": "cpu"}}]}
    assert updated(stored, hpa(max_scale="5")) is None
    changed = updated(stored, hpa(max_scale="6"))
    assert changed is not None
    assert changed["spec"]["maxReplicas"] == 6
    assert updated(hpa(min_scale="3"), hpa()) is not None
