"""Knative's defaulting and validation where the API server asks for them, with the CRDs of deploy/."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from controller.apis.meta import Key
from controller.config.store import Config
from controller.embedded import podphase
from controller.embedded.admission import Admission
from controller.embedded.operations import Operations, WriteOptions
from controller.embedded.patch import MERGE_PATCH
from controller.embedded.ports import HIGH, LOW, PortAllocator
from controller.embedded.resources import Registry, registry
from controller.embedded.status import ApiError

if TYPE_CHECKING:
    from controller.embedded.store import Store

CRDS = [
    yaml.safe_load(path.read_bytes()) for path in sorted((Path(__file__).parents[3] / "deploy" / "crds").glob("*.yaml"))
]
OPTIONS = WriteOptions(user="tester", manager="test", field_validation="Strict")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def served() -> Registry:
    return registry(CRDS)


@pytest.fixture
def operations(store: Store, served: Registry) -> Operations:
    made = Operations(store, served, Admission(Config, PortAllocator()), lambda: NOW)
    made.bootstrap(CRDS, "tester")
    return made


def _service(**spec: Any) -> dict[str, Any]:
    template = {"spec": {"containers": [{"image": "x"}]}}
    return {"metadata": {"name": "hello"}, "spec": {"template": template, **spec}}


def _create(operations: Operations, obj: dict[str, Any]) -> dict[str, Any]:
    resource = operations.registry.by_path("serving.knative.dev", "v1", "services")
    assert resource is not None
    return operations.create(resource, "default", obj, OPTIONS).stored.obj


def test_a_service_is_stored_with_knatives_defaults(operations: Operations) -> None:
    """The defaulting webhook's work: creator, timeout, traffic to the latest revision."""
    made = _create(operations, _service())
    assert made["metadata"]["annotations"]["serving.knative.dev/creator"] == "tester"
    assert made["spec"]["template"]["spec"]["timeoutSeconds"] == 300
    assert made["spec"]["traffic"] == [{"latestRevision": True, "percent": 100}]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"traffic": [{"latestRevision": True, "percent": 99}]}, "Traffic targets sum to 99, want 100: spec.traffic"),
        ({"template": {"spec": {"containers": []}}}, "spec.template.spec.containers"),
        ({"templat": {}}, 'strict decoding error: unknown field "spec.templat"'),
    ],
)
def test_what_knative_refuses_is_refused_in_its_words(operations: Operations, spec: Any, text: str) -> None:
    """400 with the field, as kubectl shows a webhook's denial; nothing is stored."""
    with pytest.raises(ApiError) as refused:
        _create(operations, _service(**spec))
    assert refused.value.code == 400
    assert text in refused.value.message
    if "strict" not in text:
        webhook = 'admission webhook "validation.webhook.serving.knative.dev" denied the request: validation failed: '
        assert refused.value.message.startswith(webhook)


def test_a_bad_config_map_is_refused(operations: Operations) -> None:
    """The control plane's ConfigMaps are parsed before they are stored; others are not looked at."""
    resource = operations.registry.by_path("", "v1", "configmaps")
    assert resource is not None
    bad = {"metadata": {"name": "config-autoscaler"}, "data": {"stable-window": "soon"}}
    with pytest.raises(ApiError, match=r'webhook "config\.webhook\.serving\.knative\.dev" denied .*stable-window'):
        operations.create(resource, "knative-serving", bad, OPTIONS)
    operations.create(resource, "default", {**bad, "metadata": {"name": "config-autoscaler"}}, OPTIONS)


def test_every_definition_of_deploy_is_served(served: Registry) -> None:
    """Knative's kinds, short names and categories come from the files."""
    service = served.by_kind("serving.knative.dev/v1", "Service")
    assert service is not None
    assert set(service.short_names) == {"ksvc", "kservice"}
    assert {"all", "knative", "serving"} <= set(service.categories)
    assert {each.kind.plural for each in served if each.is_custom} == {
        "services",
        "configurations",
        "revisions",
        "routes",
        "podautoscalers",
        "ingresses",
    }


def test_a_new_pod_gets_its_ports_here(operations: Operations) -> None:
    """One on this machine for the first port of each container, whatever the client says; later writes keep it."""
    resource = operations.registry.by_path("", "v1", "pods")
    assert resource is not None
    ports = [{"containerPort": 8080}, {"containerPort": 9090}]
    annotations = {podphase.HOST_PORTS: '{"8080": 22}', "mine": "kept"}
    containers = [{"name": "a", "image": "x", "ports": ports}, {"name": "b", "image": "x"}]
    pod = {"metadata": {"name": "p", "annotations": annotations}, "spec": {"containers": containers}}
    made = operations.create(resource, "default", pod, OPTIONS).stored.obj
    told = podphase.host_ports(made)
    assert list(told) == [8080]
    assert LOW <= told[8080] <= HIGH
    assert made["metadata"]["annotations"]["mine"] == "kept"
    patched = operations.patch(
        resource, Key("default", "p"), MERGE_PATCH, {"metadata": {"labels": {"a": "b"}}}, OPTIONS
    )
    assert podphase.host_ports(patched.stored.obj) == told
