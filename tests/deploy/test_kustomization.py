"""What a cluster gets: the kustomization renders, with the oldest kubectl that we promise and a current one."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from gateway.net.tlscontext import CertificateFiles, client_context

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


def _pod(plane: str) -> dict[str, Any]:
    documents = list(yaml.safe_load_all((ROOT / "deploy" / f"{plane}.yaml").read_text()))
    (pod,) = (document["spec"]["template"]["spec"] for document in documents if document["kind"] == "Deployment")
    return dict(pod)


def _container(plane: str) -> dict[str, Any]:
    (container,) = _pod(plane)["containers"]
    return dict(container)


@pytest.mark.parametrize("plane", ["controller", "gateway"])
def test_arguments_exist(plane: str) -> None:
    """Every option in a workload's arguments is one that its command has."""
    command, *options = _container(plane)["args"]
    zerogate = shutil.which("zerogate", path=ROOT / ".venv" / "bin") or "zerogate"
    text = subprocess.run([zerogate, command, "--help"], capture_output=True, text=True, check=True).stdout
    for option in options:
        assert option.partition("=")[0] in text


@pytest.mark.parametrize("plane", ["controller", "gateway"])
def test_files_are_mounted(plane: str) -> None:
    """Each file in a workload's arguments is in a volume; those of Secrets can't be written, and are known by name."""
    mounts = {mount["mountPath"]: mount for mount in _container(plane)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in _pod(plane)["volumes"]}
    secrets = set()
    for option in _container(plane)["args"]:
        path = option.partition("=")[2]
        if path.startswith("/"):
            mount = mounts[os.path.dirname(path)]
            secret = volumes[mount["name"]].get("secret")
            if secret is not None:
                assert mount["readOnly"] is True
                assert (
                    os.path.basename(path) in [item["path"] for item in secret.get("items", [])]
                    or "items" not in secret
                )
                secrets.add(secret["secretName"])
    assert secrets == {"zerogate-feed", "zerogate-feed-tls"}


def test_the_feeds_certificate_as_the_notes_make_it(tmp_path: Path) -> None:
    """What their openssl command makes serves the controller, and gateways believe it under the name they use."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl")
    notes = (ROOT / "deploy" / "kustomization.yaml").read_text().replace("\\\n#", "")
    (command,) = re.findall(r"openssl (req .*)", notes)
    subprocess.run([openssl, *shlex.split(command)], cwd=tmp_path, capture_output=True, check=True)
    (url,) = (option.partition("=")[2] for option in _container("gateway")["args"] if option.startswith("--feed="))
    assert urlsplit(url).scheme == "wss"
    files = CertificateFiles(tmp_path / "tls.crt", tmp_path / "tls.key", ["http/1.1"])
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(tmp_path / "tls.crt").wrap_bio(down, up, server_hostname=urlsplit(url).hostname)
    server = files.front().wrap_bio(up, down, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    client.do_handshake()
    server.do_handshake()
    assert client.version() == "TLSv1.3"
