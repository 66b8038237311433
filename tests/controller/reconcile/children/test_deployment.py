"""The rendering of a Revision's Deployment."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.apis import labels, revision
from controller.config import autoscaler, deployment, store
from controller.reconcile.children import deployment as child

CONFIG = store.Config()


def parsed(container=None, spec=None, annotations=None, own_labels=None):
    """A Revision whose serving container has these fields."""
    serving = {"name": "user-container", "image": "app", **(container or {})}
    return revision.parse(
        {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Revision",
            "metadata": {
                "name": "hello-00001",
                "namespace": "default",
                "uid": "42",
                "labels": {labels.CONFIGURATION: "hello", labels.SERVICE: "hello", **(own_labels or {})},
                "annotations": annotations or {},
            },
            "spec": {"containers": [serving], "timeoutSeconds": 60, "containerConcurrency": 7, **(spec or {})},
        }
    )


def rendered(config=CONFIG, **fields):
    return child.deployment(parsed(**fields), config)


def container(**fields):
    (found,) = rendered(container=fields)["spec"]["template"]["spec"]["containers"]
    return found


def test_shape():
    """Name, selector, deadline, strategy and grace period."""
    spec = rendered()["spec"]
    assert rendered()["metadata"]["name"] == "hello-00001-deployment"
    assert spec["selector"] == {"matchLabels": {labels.REVISION_UID: "42"}}
    assert spec["replicas"] == 1
    assert spec["progressDeadlineSeconds"] == 600
    assert spec["revisionHistoryLimit"] == 0
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0}
    pod = spec["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 60
    assert not {"containerConcurrency", "timeoutSeconds"} & pod.keys()


def test_labels():
    """Everything but the routing state, which changes while pods run."""
    meta = rendered(own_labels={labels.ROUTING_STATE: "active", labels.ROUTE: "r"})["metadata"]
    assert meta["labels"][labels.REVISION] == meta["labels"][labels.APP] == "hello-00001"
    assert meta["labels"][labels.REVISION_UID] == "42"
    assert labels.ROUTING_STATE not in meta["labels"]
    assert labels.ROUTE not in meta["labels"]
    assert rendered(own_labels={labels.APP: "mine"})["spec"]["template"]["metadata"]["labels"][labels.APP] == "mine"


def test_annotations():
    """The user's; not those of routing and autoscaling, which may change on a live Revision."""
    given = {"note": "a", labels.ROUTES: "r", labels.ROUTING_STATE_MODIFIED: "t", labels.AUTOSCALING + "target": "1"}
    template = rendered(annotations=given)["spec"]["template"]["metadata"]
    assert template["annotations"] == {"note": "a", labels.DEFAULT_CONTAINER: "user-container"}


def test_environment():
    """The platform's variables come after the user's."""
    env = container(env=[{"name": "A", "value": "1"}])["env"]
    assert [(entry["name"], entry["value"]) for entry in env] == [
        ("A", "1"),
        ("PORT", "8080"),
        ("K_REVISION", "hello-00001"),
        ("K_CONFIGURATION", "hello"),
        ("K_SERVICE", "hello"),
    ]


def test_port():
    """The serving port is called user-port, whatever the user called it."""
    found = container(ports=[{"containerPort": 9000, "name": "h2c"}])
    assert found["ports"] == [{"name": "user-port", "containerPort": 9000, "protocol": "TCP"}]
    assert {"name": "PORT", "value": "9000"} in found["env"]


def test_pre_stop():
    """SIGTERM comes after the gateways stopped sending."""
    assert container()["lifecycle"] == {"preStop": {"sleep": {"seconds": 2}}}
    assert container()["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert container(terminationMessagePolicy="File")["terminationMessagePolicy"] == "File"


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        ({"tcpSocket": {"port": 0}}, {"tcpSocket": {"port": 8080}, "periodSeconds": 1}),
        (
            {"httpGet": {"path": "/h"}, "periodSeconds": 0},
            {"httpGet": {"path": "/h", "port": 8080}, "periodSeconds": 1},
        ),
        ({"httpGet": {"port": "http1"}, "periodSeconds": 5}, {"httpGet": {"port": 8080}, "periodSeconds": 5}),
        ({"tcpSocket": {"port": 9999}}, {"tcpSocket": {"port": 9999}, "periodSeconds": 1}),
        ({"exec": {"command": ["true"]}}, {"exec": {"command": ["true"]}, "periodSeconds": 1}),
    ],
)
def test_readiness(probe, expected):
    """Port 0 or by name is the user port; period 0 asks for as often as a kubelet can."""
    assert container(readinessProbe=probe)["readinessProbe"] == expected


def test_liveness_and_startup():
    """A liveness probe always goes to the user port; a startup probe keeps a port it names by number."""
    found = container(livenessProbe={"tcpSocket": {"port": 1}}, startupProbe={"tcpSocket": {"port": 1}})
    assert found["livenessProbe"] == {"tcpSocket": {"port": 8080}}
    assert found["startupProbe"] == {"tcpSocket": {"port": 1}}


def test_sidecars():
    """A container beside the serving one gets the K_ variables, but no PORT, and keeps its own probes."""
    serving = {"name": "main", "image": "app", "ports": [{"containerPort": 8080}]}
    sidecar = {"name": "side", "image": "b", "readinessProbe": {"tcpSocket": {"port": 1}}}
    init = {"name": "init", "image": "c"}
    spec = {"containers": [sidecar, serving], "initContainers": [init]}
    template = rendered(spec=spec)["spec"]["template"]
    side, main = template["spec"]["containers"]
    names = [entry["name"] for entry in side["env"]]
    assert names == ["K_REVISION", "K_CONFIGURATION", "K_SERVICE"]
    assert side["readinessProbe"] == {"tcpSocket": {"port": 1}}
    assert "lifecycle" not in side
    assert main["ports"][0]["name"] == "user-port"
    assert [entry["name"] for entry in template["spec"]["initContainers"][0]["env"]] == names
    assert template["metadata"]["annotations"][labels.DEFAULT_CONTAINER] == "main"


@pytest.mark.parametrize(("annotated", "expected"), [("5", 5), ("0", 1), ("many", 1), (None, 1)])
def test_initial_scale(annotated, expected):
    """Annotated; zero only where it is allowed; nonsense counts as absent."""
    annotations = {labels.AUTOSCALING + "initial-scale": annotated} if annotated else {}
    assert rendered(annotations=annotations)["spec"]["replicas"] == expected


def test_zero_initial_scale():
    """Zero where config-autoscaler allows it."""
    config = replace(CONFIG, autoscaler=autoscaler.parse({"allow-zero-initial-scale": "true", "initial-scale": "0"}))
    assert rendered(config)["spec"]["replicas"] == 0


@pytest.mark.parametrize(("annotated", "expected"), [("90s", 90), ("2m", 120), ("soon", 600)])
def test_progress_deadline(annotated, expected):
    """Annotated in Go's durations; nonsense counts as absent."""
    spec = rendered(annotations={labels.PROGRESS_DEADLINE: annotated})["spec"]
    assert spec["progressDeadlineSeconds"] == expected


def test_affinity():
    """Spread over nodes, unless the user or the operator says otherwise."""
    assert "affinity" in rendered()["spec"]["template"]["spec"]
    config = replace(CONFIG, deployment=deployment.parse({"default-affinity-type": "none"}))
    assert "affinity" not in rendered(config)["spec"]["template"]["spec"]
    mine = {"nodeAffinity": {}}
    assert rendered(spec={"affinity": mine})["spec"]["template"]["spec"]["affinity"] == mine


def test_runtime_class():
    """From config-deployment, by the Revision's labels."""
    config = replace(CONFIG, deployment=deployment.parse({"runtime-class-name": "kata: {selector: {team: a}}"}))
    assert rendered(config, own_labels={"team": "a"})["spec"]["template"]["spec"]["runtimeClassName"] == "kata"
    assert "runtimeClassName" not in rendered(config)["spec"]["template"]["spec"]


def test_hash():
    """The hash tells renderings apart, but not scales; without a difference nothing is written."""
    one, scaled = rendered(), rendered(annotations={labels.AUTOSCALING + "initial-scale": "3"})
    other = rendered(container={"image": "other"})
    assert child.updated(one, scaled) is None
    assert child.updated(one, other) is not None
    assert len(one["metadata"]["labels"][labels.DEPLOYMENT_HASH]) == 16
