from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.apis.meta import JsonObject


@pytest.fixture
def make_pod_autoscaler() -> Callable[..., JsonObject]:
    """Builds a PodAutoscaler `default/hello-00001`; keyword arguments are autoscaling annotations without prefix."""

    def build(*, limit: int = 0, reachability: str = "Reachable", **annotations: str) -> JsonObject:
        return {
            "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
            "kind": "PodAutoscaler",
            "metadata": {
                "namespace": "default",
                "name": "hello-00001",
                "generation": 1,
                "annotations": {
                    f"autoscaling.knative.dev/{key.replace('_', '-')}": value for key, value in annotations.items()
                },
            },
            "spec": {
                "containerConcurrency": limit,
                "reachability": reachability,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "hello-00001-deployment"},
            },
        }

    return build


@pytest.fixture
def make_slice() -> Callable[..., JsonObject]:
    """Builds an EndpointSlice of the revision's private Service from the readiness of its endpoints."""

    def build(*ready: bool, name: str = "hello-00001-private-a") -> JsonObject:
        return {
            "metadata": {
                "namespace": "default",
                "name": name,
                "labels": {"kubernetes.io/service-name": "hello-00001-private"},
            },
            "endpoints": [
                {"addresses": ["127.0.0.1"], "targetRef": {"name": f"pod-{number}"}, "conditions": {"ready": one}}
                for number, one in enumerate(ready)
            ],
        }

    return build
