"""The real kubectl against the API server: what people type, and what they read back."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING

import pytest
import yaml

from controller.embedded.resources import ResourceId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from .conftest import Api

    Run = Callable[..., Awaitable[str]]

pytestmark = pytest.mark.slow

WIDGET = (
    "apiVersion: example.dev/v1\nkind: Widget\nmetadata: {name: w}\nspec: {size: 1, parts: [{name: a, count: 1}]}\n"
)
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec: {containers: [{name: c, image: x}]}
"""
POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: x}]}\n"


@pytest.fixture
def kubectl(api: Api, kubectl_binary: str, tmp_path: Path) -> Run:
    """Runs kubectl with `stdin`; returns what it printed, and asserts on its exit status (0, or not with `fails`)."""
    api.credentials.write_kubeconfig(api.url)

    async def run(*arguments: str, stdin: str = "", fails: bool = False, **environment: str) -> str:
        process = await asyncio.create_subprocess_exec(
            kubectl_binary,
            *arguments,
            env={
                "KUBECONFIG": str(api.credentials.kubeconfig),
                "HOME": str(tmp_path),
                "PATH": os.environ["PATH"],
                **environment,
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await process.communicate(stdin.encode()))[0].decode()
        assert (process.returncode != 0) is fails, output
        return output

    return run


async def _watchers_are(api: Api, count: int) -> bool:
    return len(api.store.subscriptions(ResourceId("example.dev", "widgets"))) == count


def _rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


async def test_apply_get_and_edit(api: Api, kubectl: Run) -> None:
    """apply creates, configures and leaves unchanged; get prints the CRD's columns; edit, label and patch change."""
    assert "widget.example.dev/w created" in await kubectl("apply", "-f", "-", stdin=WIDGET)
    assert "unchanged" in await kubectl("apply", "-f", "-", stdin=WIDGET)
    assert "configured" in await kubectl("apply", "-f", "-", stdin=WIDGET.replace("size: 1", "size: 2"))
    header, row = _rows(await kubectl("get", "wd"))
    assert (header[:3], row[:2]) == (["NAME", "SIZE", "READY"], ["w", "2"])
    assert (await kubectl("get", "widgets", "-A", "-o", "name")).strip() == "widget.example.dev/w"
    assert yaml.safe_load(await kubectl("get", "wd", "w", "-o", "yaml"))["spec"]["colour"] == "grey"
    await kubectl("edit", "widget", "w", KUBE_EDITOR="sed -i s/grey/blue/")
    await kubectl("label", "widget", "w", "tier=gold")
    await kubectl("annotate", "widget", "w", "example.dev/note=hello")
    await kubectl("patch", "widget", "w", "--type=merge", "-p", '{"spec":{"size":7}}')
    await kubectl("patch", "widget", "w", "--type=json", "-p", '[{"op":"add","path":"/spec/parts/0/count","value":9}]')
    final = await api.ok("GET", "/apis/example.dev/v1/namespaces/default/widgets/w")
    assert final["spec"] == {"size": 7, "colour": "blue", "parts": [{"name": "a", "count": 9}]}
    assert final["metadata"]["labels"] == {"tier": "gold"}
    assert "w" in await kubectl("get", "wd", "-l", "tier=gold", "--field-selector", "metadata.name=w", "-o", "wide")
    described = await kubectl("describe", "widget", "w")
    assert "Colour:  blue" in described
    assert described.split("Events:")[1].strip() == "<none>"


async def test_strategic_patch_scale_and_rollout_of_built_in_kinds(api: Api, kubectl: Run) -> None:
    """Lists merge by key in `kubectl patch` and a second `apply`; `scale` uses the subresource."""
    await kubectl("apply", "-f", "-", stdin=DEPLOYMENT)
    side = '{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"y"}]}}}}'
    await kubectl("patch", "deployment", "d", "-p", side)
    await kubectl("apply", "-f", "-", stdin=DEPLOYMENT.replace("image: x", "image: z"))
    await kubectl("scale", "deploy/d", "--replicas=3")
    spec = (await api.ok("GET", "/apis/apps/v1/namespaces/default/deployments/d"))["spec"]
    images = {each["name"]: each["image"] for each in spec["template"]["spec"]["containers"]}
    assert (images, spec["replicas"]) == ({"c": "z", "side": "y"}, 3)
    await kubectl("set", "image", "deploy/d", "c=w")
    assert _rows(await kubectl("get", "deploy"))[1][:2] == ["d", "0/3"]
    assert "RollingUpdate" in await kubectl("describe", "deployment", "d")


async def test_mistakes_are_refused_with_the_field(kubectl: Run) -> None:
    """An unknown field, a wrong type, a bad value, a missing kind: none is stored, each is named."""
    assert "weight" in await kubectl(
        "apply", "-f", "-", stdin=WIDGET.replace("size: 1", "size: 1, weight: 2"), fails=True
    )
    assert "size" in await kubectl("apply", "-f", "-", stdin=WIDGET.replace("size: 1", "size: big"), fails=True)
    assert "spec.size" in await kubectl("apply", "-f", "-", stdin=WIDGET.replace("size: 1", "size: -1"), fails=True)
    assert "imag" in await kubectl("apply", "-f", "-", stdin=DEPLOYMENT.replace("image:", "imag:"), fails=True)
    assert "Gadget" in await kubectl("apply", "-f", "-", stdin=WIDGET.replace("Widget", "Gadget"), fails=True)
    assert '"none" not found' in await kubectl("apply", "-n", "none", "-f", "-", stdin=WIDGET, fails=True)
    assert "No resources found" in await kubectl("get", "widgets,deployments")


async def test_server_side_apply_and_dry_run(api: Api, kubectl: Run) -> None:
    """A second manager's change of the same field is a conflict that names the first; --force-conflicts takes it."""
    apply = ("apply", "--server-side", "-f", "-")
    await kubectl(*apply, "--field-manager=one", stdin=WIDGET)
    other = WIDGET.replace("size: 1", "size: 5")
    refused = await kubectl(*apply, "--field-manager=two", stdin=other, fails=True)
    assert 'conflict with "one"' in refused
    assert ".spec.size" in refused
    await kubectl(*apply, "--field-manager=two", "--force-conflicts", stdin=other)
    await kubectl("apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", "-", stdin=WIDGET)
    await kubectl("delete", "widget", "w", "--dry-run=server")
    assert "server dry run" in await kubectl("create", "--dry-run=server", "-f", "-", stdin=POD)
    assert (await api.ok("GET", "/apis/example.dev/v1/namespaces/default/widgets/w"))["spec"]["size"] == 5
    assert "NotFound" in await kubectl("get", "pod", "p", fails=True)


async def test_what_is_there_to_use(kubectl: Run) -> None:
    """api-resources, api-versions, explain, version, auth can-i, get crd, get all."""
    resources = await kubectl("api-resources")
    for name in ("widgets", "wd", "deployments", "endpointslices", "leases"):
        assert name in resources
    assert "example.dev/v1" in await kubectl("api-versions")
    explained = await kubectl("explain", "widget.spec")
    assert "How big it is." in explained
    assert "containers" in await kubectl("explain", "pod.spec")
    assert "zerogate" in await kubectl("version")
    assert (await kubectl("auth", "can-i", "create", "pods")).strip() == "yes"
    assert "widgets.example.dev" in await kubectl("get", "crd")
    await kubectl("apply", "-f", "-", stdin=WIDGET)
    assert "widget.example.dev/w" in await kubectl("get", "all", "-o", "name")


async def test_wait_and_watch(api: Api, kubectl: Run) -> None:
    """`wait` returns when the condition comes, or the object goes; `get -w` prints each change."""
    path = "/apis/example.dev/v1/namespaces/default/widgets/w"
    await kubectl("apply", "-f", "-", stdin=WIDGET)
    waiting = asyncio.ensure_future(kubectl("wait", "--for=condition=Ready", "widget/w", "--timeout=20s"))
    watching = asyncio.ensure_future(kubectl("get", "wd", "-w", "--request-timeout=3s"))

    await api.until(partial(_watchers_are, api, 2))
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    await api.ok("PATCH", f"{path}/status", ready, "application/merge-patch+json")
    assert "condition met" in await waiting
    rows = _rows(await watching)
    assert rows[1][:2] == ["w", "1"]
    assert rows[2][:3] == ["w", "1", "True"]
    deleted = asyncio.ensure_future(kubectl("wait", "--for=delete", "widget/w", "--timeout=20s"))
    await api.until(partial(_watchers_are, api, 1))
    await kubectl("delete", "widget", "w")
    await deleted


@pytest.mark.parametrize("cascade", ["background", "foreground", "orphan"])
async def test_delete_with_each_propagation(api: Api, kubectl: Run, cascade: str) -> None:
    """Dependents go with the owner, before it, or stay."""
    await kubectl("apply", "-f", "-", stdin=WIDGET)
    owner = await api.ok("GET", "/apis/example.dev/v1/namespaces/default/widgets/w")
    ref = {"apiVersion": owner["apiVersion"], "kind": "Widget", "name": "w", "uid": owner["metadata"]["uid"]}
    child = {"metadata": {"name": "child", "ownerReferences": [ref | {"blockOwnerDeletion": True}]}}
    await api.ok("POST", "/api/v1/namespaces/default/configmaps", child)
    assert "deleted" in await kubectl("delete", "widget", "w", f"--cascade={cascade}")

    async def child_is_as_expected() -> bool:
        code, body = await api("GET", "/api/v1/namespaces/default/configmaps/child")
        if cascade == "orphan":
            return code == 200 and "ownerReferences" not in body["metadata"]
        return code == 404

    await api.until(child_is_as_expected)


async def test_pods_logs_events_and_namespaces(api: Api, kubectl: Run) -> None:
    """logs, get events, create namespace, delete pod --force, describe pod with its events."""
    await kubectl("create", "namespace", "temp")
    await kubectl("apply", "-n", "temp", "-f", "-", stdin=POD)
    assert await kubectl("logs", "-n", "temp", "p") == "one\ntwo\n"
    assert await kubectl("logs", "-n", "temp", "p", "--tail=1") == "two\n"
    pod = await api.ok("GET", "/api/v1/namespaces/temp/pods/p")
    event = {
        "metadata": {"generateName": "p-"},
        "involvedObject": {"kind": "Pod", "namespace": "temp", "name": "p", "uid": pod["metadata"]["uid"]},
        "reason": "Pulled",
        "message": "nothing to pull",
        "type": "Normal",
        "source": {"component": "agent"},
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:00:00Z",
        "count": 1,
    }
    await api.ok("POST", "/api/v1/namespaces/temp/events", event)
    assert "nothing to pull" in await kubectl("get", "events", "-n", "temp")
    assert "nothing to pull" in await kubectl("describe", "pod", "-n", "temp", "p")
    assert _rows(await kubectl("get", "pods", "-n", "temp", "-o", "wide"))[1][:3] == ["p", "0/1", "Pending"]
    await kubectl("delete", "pod", "-n", "temp", "p", "--force", "--grace-period=0")
    await kubectl("create", "configmap", "-n", "temp", "m", "--from-literal=a=b")
    await kubectl("create", "secret", "generic", "-n", "temp", "s", "--from-literal=a=b")
    await kubectl("delete", "namespace", "temp")
    assert "NotFound" in await kubectl("get", "namespace", "temp", fails=True)


async def test_create_by_command(api: Api, kubectl: Run) -> None:
    """`kubectl create KIND …` and `run` work; kubectl 1.32 sends some of them as protobuf."""
    await kubectl("create", "deployment", "d", "--image=x", "--replicas=0", "--port=8080")
    await kubectl("create", "service", "clusterip", "s", "--tcp=80:8080")
    await kubectl("create", "configmap", "m", "--from-literal=a=b")
    await kubectl("create", "secret", "generic", "k", "--from-literal=a=b")
    await kubectl("create", "serviceaccount", "robot")
    await kubectl("run", "p", "--image=x", "--env=A=b")
    await kubectl("expose", "deployment", "d", "--port=80", "--target-port=http")
    deployment = (await api.ok("GET", "/apis/apps/v1/namespaces/default/deployments/d"))["spec"]
    assert (deployment["replicas"], deployment["selector"]) == (0, {"matchLabels": {"app": "d"}})
    assert deployment["template"]["spec"]["containers"][0]["ports"] == [{"containerPort": 8080, "protocol": "TCP"}]
    (port,) = (await api.ok("GET", "/api/v1/namespaces/default/services/s"))["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (80, 8080)
    assert (await api.ok("GET", "/api/v1/namespaces/default/secrets/k"))["data"] == {"a": "Yg=="}
    assert (await api.ok("GET", "/api/v1/namespaces/default/configmaps/m"))["data"] == {"a": "b"}
