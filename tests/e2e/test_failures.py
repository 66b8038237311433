"""Services that can't start say why, in their conditions, within seconds."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.harness import wait_for

if TYPE_CHECKING:
    from tests.e2e.harness import Platform


def condition(obj: dict[str, Any], kind: str = "Ready") -> dict[str, Any]:
    conditions = obj.get("status", {}).get("conditions", [])
    return next((entry for entry in conditions if entry["type"] == kind), {})


@pytest.mark.parametrize(
    ("container", "reason", "message"),
    [
        ({"command": ["/no/such/command"]}, "", "/no/such/command"),
        ({"command": ["sh", "-c", "echo broken on purpose >&2; exit 3"]}, "ExitCode3", "broken on purpose"),
        ({"command": None, "image": "registry.example.com/team/app:1"}, "", "--image registry.example.com/team/app:1="),
    ],
    ids=["command not found", "crash at start", "image without a command"],
)
def test_a_service_that_cannot_start_says_why(
    platform: Platform, container: dict[str, Any], reason: str, message: str
) -> None:
    """The revision's condition names the cause, and the service's Ready repeats it."""
    service = platform.service(container=container)
    if container["command"] is None:
        del service["spec"]["template"]["spec"]["containers"][0]["command"]
    platform.apply(service)
    failed = wait_for(
        "Ready to be False", lambda: (c := condition(platform.get("ksvc", "hello"))).get("status") == "False" and c, 20
    )
    assert failed["reason"] == "RevisionFailed"
    assert message in failed["message"]
    revision = condition(platform.get("rev", "hello-00001"))
    assert message in revision["message"]
    assert reason in revision["reason"]


def test_a_request_does_not_wait_for_what_cannot_start(platform: Platform) -> None:
    """A revision at zero whose process crashes: the request that wakes it is told why within seconds, not after its
    time-out; and when the application is repaired, the same revision serves."""
    platform.kubectl(
        *("patch", "configmap", "config-autoscaler", "-n", "knative-serving", "--type", "merge"),
        *("-p", json.dumps({"data": {"allow-zero-initial-scale": "true"}})),
    )
    repaired = platform.folder / "repaired"
    application = shlex.join(platform.service()["spec"]["template"]["spec"]["containers"][0]["command"])
    command = ["sh", "-c", f"test -e {repaired} || {{ echo no database >&2; exit 3; }}; exec {application}"]
    platform.apply(platform.service(annotations={"initial-scale": "0"}, container={"command": command}))
    platform.wait_ready("hello")
    refused = platform.ask("hello")
    assert (refused.status, refused.fields["retry-after"]) == (503, "10")
    assert "hello-00001 can't start" in refused.text
    assert "no database" in refused.text
    repaired.touch()
    wait_for("the repaired application", lambda: platform.ask("hello").text == "one", 40)


def test_an_application_that_never_listens(platform: Platform) -> None:
    """Within seconds Ready names the port that nothing listens on; past the progress deadline it is False."""
    service = platform.service(container={"command": ["sleep", "1000"]})
    service["spec"]["template"]["metadata"]["annotations"]["serving.knative.dev/progress-deadline"] = "10s"
    platform.apply(service)

    def ready() -> dict[str, Any]:
        return condition(platform.get("ksvc", "hello"))

    told = wait_for("Ready to name the port", lambda: (c := ready()) and "port" in c.get("message", "") and c, 8)
    assert told["status"] == "Unknown"
    failed = wait_for("Ready to be False", lambda: (c := ready()).get("status") == "False" and c, 30)
    assert "port" in failed["message"]


def test_a_service_recovers(platform: Platform) -> None:
    """A good revision after a bad one becomes Ready, and a bad one after a good one takes no traffic from it."""
    platform.apply(platform.service(container={"command": ["/no/such/command"]}))
    wait_for("Ready to be False", lambda: condition(platform.get("ksvc", "hello")).get("status") == "False")
    platform.apply(platform.service(target="good"))
    platform.wait_ready("hello")
    wait_for("the good revision to answer", lambda: platform.ask("hello").text == "good")
    platform.apply(platform.service(container={"command": ["/no/such/command"]}))
    wait_for("Ready to be False", lambda: condition(platform.get("ksvc", "hello")).get("status") == "False")
    assert platform.ask("hello").text == "good"


BAD_SERVICES = {
    "traffic sums to 99": (
        {"traffic": [{"latestRevision": True, "percent": 99}]},
        "Traffic targets sum to 99, want 100: spec.traffic",
    ),
    "duplicate tag": (
        {
            "traffic": [
                {"latestRevision": True, "percent": 50, "tag": "x"},
                {"latestRevision": True, "percent": 50, "tag": "x"},
            ]
        },
        'Multiple definitions for "x"',
    ),
}


@pytest.mark.parametrize(("spec", "message"), BAD_SERVICES.values(), ids=list(BAD_SERVICES))
def test_bad_traffic_is_refused(platform: Platform, spec: dict[str, Any], message: str) -> None:
    """The refusal names the field, and nothing is stored."""
    service = platform.service()
    service["spec"].update(spec)
    result = platform.kubectl("apply", "-f", "-", stdin=json.dumps(service), check=False)
    assert result.returncode == 1
    assert message in result.stderr
    assert platform.get("ksvc") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", "not YAML"),
        ("apiVersion: serving.knative.dev/v1\nkind: Serivce\nmetadata: {name: a}\n", "Serivce"),
        (
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: hello}\n"
            "spec: {template: {spec: {containers: [{image: a}], containerConcurency: 1}}}\n",
            "spec.template.spec.containerConcurency",
        ),
        (
            f"apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{name: {'a' * 64}}}\n"
            "spec: {template: {spec: {containers: [{image: a}]}}}\n",
            "metadata.name",
        ),
    ],
    ids=["not YAML", "wrong kind", "unknown field", "name too long"],
)
def test_bad_files_are_refused(platform: Platform, text: str, message: str) -> None:
    """Both clients name what is wrong, in one line, and fail."""
    file = platform.folder / "bad.yaml"
    file.write_text(text)
    result = platform.zerogate("apply", "-f", str(file), check=False)
    assert result.returncode in (1, 2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert platform.kubectl("apply", "-f", str(file), check=False).returncode != 0
    assert platform.get("ksvc") == []
