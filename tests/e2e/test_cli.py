"""`zerogate apply`, `get`, `logs`, `delete` for people without kubectl, and what they say when something is wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.e2e.harness import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.harness import Platform


def one_line(text: str) -> str:
    """What a person has to change is said in one line, without a traceback."""
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text


def test_apply_get_logs_delete(running: Platform) -> None:
    """The life of a service without kubectl, from a folder of manifests; what is printed names the objects."""
    folder = running.folder / "manifests"
    folder.mkdir()
    (folder / "service.yaml").write_text(json.dumps(running.service(name="cli")))
    assert running.zerogate("apply", "-f", str(folder)).stdout == "service.serving.knative.dev/cli applied\n"
    wait_for("Ready", lambda: "True" in running.zerogate("get", "ksvc", "cli").stdout)
    table = running.zerogate("get", "ksvc", "-A").stdout.splitlines()
    assert table[0].split() == ["NAMESPACE", "NAME", "URL", "LATESTCREATED", "LATESTREADY", "READY", "REASON"]
    (row,) = [line.split() for line in table if " cli " in line]
    assert row == ["default", "cli", f"http://cli.default.localhost:{running.port}", "cli-00001", "cli-00001", "True"]
    assert yaml.safe_load(running.zerogate("get", "service", "cli", "-o", "yaml").stdout)["metadata"]["name"] == "cli"
    assert running.zerogate("get", "ksvc", "cli", "-o", "name").stdout == "service.serving.knative.dev/cli\n"
    running.ask("cli", "/logged")
    wait_for("the log", lambda: "served /logged" in running.zerogate("logs", "cli").stdout)
    assert running.zerogate("logs", "cli", "--tail", "1").stdout.count("\n") == 1
    assert running.zerogate("delete", "-f", str(folder)).stdout == "service.serving.knative.dev/cli deleted\n"
    missing = running.zerogate("delete", "ksvc", "cli", check=False)
    assert (missing.returncode, one_line(missing.stderr)) == (1, "service.serving.knative.dev/cli is not there\n")


def test_logs_of_what_never_started(running: Platform) -> None:
    """A pod without a process has no log: said in one line, not a traceback."""
    service = running.service(name="imageless")
    del service["spec"]["template"]["spec"]["containers"][0]["command"]
    running.apply(service)
    wait_for("the pod", lambda: "imageless" in running.zerogate("get", "pods").stdout)
    result = running.zerogate("logs", "imageless", check=False)
    assert result.returncode == 1
    assert "waiting to start" in one_line(result.stderr)
    running.kubectl("delete", "ksvc", "imageless")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("get", "nonsense"), 2, "'nonsense' is not a kind"),
        (("get", "ksvc", "nobody"), 1, '"nobody" not found'),
        (("logs", "nobody"), 1, "no pod of a Service 'nobody'"),
        (("apply", "-f", "/no/such/file.yaml"), 2, "No such file"),
        (("get", "ksvc", "--kubeconfig", "/no/such/file"), 2, "/no/such/file is not there"),
        (("get", "ksvc", "--kubeconfig", "/etc/passwd"), 1, "can't use the kubeconfig /etc/passwd: it is not one"),
        (("delete", "ksvc"), 2, "either KIND NAME"),
    ],
)
def test_mistakes(running: Platform, arguments: tuple[str, ...], status: int, message: str) -> None:
    """Each mistake is one line that names it; 2 is for what was typed, 1 for what the server said."""
    result = running.zerogate(*arguments, check=False)
    assert result.returncode == status
    assert message in one_line(result.stderr)


def test_the_other_namespace(running: Platform, tmp_path: Path) -> None:
    """A manifest that names its namespace is not applied to another one."""
    file = tmp_path / "service.yaml"
    file.write_text(json.dumps(running.service(name="elsewhere")))
    result = running.zerogate("apply", "-n", "other", "-f", str(file), check=False)
    assert result.returncode == 2
    assert "is for namespace default, not other" in one_line(result.stderr)
