"""What a cluster gets: the kustomization renders, with the oldest kubectl that we promise and a current one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("variable", ["ZEROGATE_KUBECTL", "ZEROGATE_KUBECTL_120"])
def test_kustomization_renders(variable: str) -> None:
    """CRDs, settings, rights and both planes come out, and each workload's service account is among them."""
    kubectl = os.environ.get(variable) or (shutil.which("kubectl") if variable == "ZEROGATE_KUBECTL" else None)
    if kubectl is None:
        if os.environ.get("ZEROGATE_REQUIRE_PEERS") == "1" and variable == "ZEROGATE_KUBECTL_120":
            pytest.fail(f"{variable} is not set")
        pytest.skip(f"no kubectl for {variable}")
    rendered = subprocess.run([kubectl, "kustomize", ROOT / "deploy"], capture_output=True, text=True, check=True)
    objects = list(yaml.safe_load_all(rendered.stdout))
    names = {(obj["kind"], obj["metadata"]["name"]) for obj in objects}
    for plural in ("services", "routes", "configurations", "revisions"):
        assert ("CustomResourceDefinition", f"{plural}.serving.knative.dev") in names
    assert ("ConfigMap", "config-autoscaler") in names
    deployments = [obj for obj in objects if obj["kind"] == "Deployment"]
    assert {obj["metadata"]["name"] for obj in deployments} == {"zerogate-controller", "zerogate-gateway"}
    for deployment in deployments:
        pod = deployment["spec"]["template"]["spec"]
        assert ("ServiceAccount", pod["serviceAccountName"]) in names
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("plane", ["controller", "gateway"])
def test_arguments_exist(plane: str) -> None:
    """Every option in a workload's arguments is one that its command has."""
    documents = list(yaml.safe_load_all((ROOT / "deploy" / f"{plane}.yaml").read_text()))
    (arguments,) = (
        container["args"]
        for document in documents
        if document["kind"] == "Deployment"
        for container in document["spec"]["template"]["spec"]["containers"]
    )
    command, *options = arguments
    zerogate = shutil.which("zerogate", path=ROOT / ".venv" / "bin") or "zerogate"
    text = subprocess.run([zerogate, command, "--help"], capture_output=True, text=True, check=True).stdout
    for option in options:
        assert option.partition("=")[0] in text
