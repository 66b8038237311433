"""The typed views of API objects."""

from __future__ import annotations

import pytest

from controller.apis import configuration, podautoscaler, revision, route, service
from controller.apis.route import TrafficTarget, parse_traffic, serialise_traffic


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"percent": 10}, TrafficTarget(percent=10, latest_revision=True)),
        ({"revisionName": "a"}, TrafficTarget(revision_name="a")),
        (
            {"configurationName": "c", "tag": "t", "percent": None},
            TrafficTarget(configuration_name="c", tag="t", latest_revision=True),
        ),
    ],
)
def test_traffic(item, expected):
    """A target that pins nothing is latest; a missing percent is 0. Written out, it reads the same."""
    assert parse_traffic([item]) == (expected,)
    assert parse_traffic(serialise_traffic((expected,))) == (expected,)


def test_service_without_traffic():
    """Everything to the latest."""
    found = service.parse({"metadata": {}, "spec": {"template": {"spec": {}}}})
    assert found.traffic == (TrafficTarget(percent=100, latest_revision=True),)


def test_route_status():
    """URL, address and assignment come from the status."""
    status = {"url": "u", "address": {"url": "a"}, "traffic": [{"revisionName": "r", "percent": 100}]}
    found = route.parse({"metadata": {}, "spec": {}, "status": status})
    assert (found.url, found.address_url, found.traffic) == ("u", "a", ())
    assert found.assigned == (TrafficTarget(revision_name="r", percent=100),)


def test_configuration_name():
    """The name of the next Revision, if the user chose it."""
    body = {"metadata": {}, "spec": {"template": {"metadata": {"name": "a-b"}, "spec": {}}}}
    assert configuration.parse(body).revision_name == "a-b"
    assert configuration.parse({"metadata": {}, "spec": {"template": {"spec": {}}}}).revision_name == ""


def test_revision_defaults():
    """Without a word: port 8080, HTTP/1.1, no limit, 300 s."""
    found = revision.parse({"metadata": {}, "spec": {"containers": [{"image": "a"}]}})
    assert (found.port, found.protocol, found.container_concurrency, found.timeout_seconds) == (8080, "http1", 0, 300)
    assert (found.response_start_timeout_seconds, found.idle_timeout_seconds, found.readiness_probe) == (None,) * 3


def test_revision_serving_container():
    """The container with a port serves; its name tells the protocol."""
    serving = {"ports": [{"name": "h2c", "containerPort": 9000}], "startupProbe": {}, "readinessProbe": {"exec": {}}}
    spec = {"containers": [{"image": "a"}, serving], "timeoutSeconds": 5, "nodeSelector": {"a": "b"}}
    found = revision.parse({"metadata": {}, "spec": spec})
    assert (found.serving_container, found.port, found.protocol) == (1, 9000, "h2c")
    assert found.readiness_probe == {"exec": {}}
    assert not found.has_startup_probe
    assert found.pod_spec == {"containers": spec["containers"], "nodeSelector": {"a": "b"}}


def test_pod_autoscaler():
    """Spec and status, with and without the latter."""
    spec = {"scaleTargetRef": {"name": "d"}, "reachability": "Unreachable", "containerConcurrency": 3}
    bare = podautoscaler.parse({"metadata": {}, "spec": spec})
    assert (bare.deployment, bare.container_concurrency, bare.is_unreachable, bare.is_initialized) == (
        "d",
        3,
        True,
        False,
    )
    status = {"desiredScale": 0, "conditions": [{"type": "ScaleTargetInitialized", "status": "True"}]}
    full = podautoscaler.parse({"metadata": {}, "spec": spec, "status": status})
    assert (full.desired_scale, full.actual_scale, full.is_initialized) == (0, None, True)
