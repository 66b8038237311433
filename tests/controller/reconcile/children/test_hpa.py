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


def resource(name: str, **target: Any) -> dict[str, Any]:
    return {"metrics": [{"type": "Resource", "resource": {"name": name, "target": target}}]}


def of_pods(name: str, **target: Any) -> dict[str, Any]:
    return {"metrics": [{"type": "Pods", "pods": {"metric": {"name": name}, "target": target}}]}


RULES = {"stabilizationWindowSeconds": 90}


@pytest.mark.parametrize(
    ("annotated", "expected"),
    [
        ({}, {}),
        ({"min_scale": "2", "max_scale": "5"}, {"minReplicas": 2, "maxReplicas": 5}),
        ({"min_scale": "0"}, {}),
        ({"target": "72.5"}, resource("cpu", type="Utilization", averageUtilization=73)),
        ({"metric": "memory", "target": "200"}, resource("memory", type="AverageValue", averageValue="200Mi")),
        ({"metric": "queue", "target": "30.9"}, of_pods("queue", type="AverageValue", averageValue="30")),
        ({"metric": "memory"}, {}),
        ({"window": "90s"}, {"behavior": {"scaleUp": RULES, "scaleDown": RULES}}),
    ],
)
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
