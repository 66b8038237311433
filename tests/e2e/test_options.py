"""The options of `zerogate up`."""

from __future__ import annotations

import json
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.e2e.harness import APP, ZEROGATE, request, wait_for

if TYPE_CHECKING:
    from tests.e2e.harness import Platform


def test_files_domain_and_images(stopped_platform: Platform) -> None:
    """-f applies at the start, --domain names the hosts, --image says what an image without a command means."""
    platform = stopped_platform
    service = platform.service()
    container = service["spec"]["template"]["spec"]["containers"][0]
    container["image"] = "team/app:1"
    del container["command"]
    file = platform.folder / "service.json"
    file.write_text(json.dumps(service))
    command = shlex.join([sys.executable, "-S", str(APP), str(platform.folder)])
    platform.start("-f", str(file), "--domain", "example.test", "--image", f"team/app:1={command}")
    printed = "".join(platform.output)
    assert f"http://hello.default.example.test:{platform.port}  Ready" in printed
    assert f"curl -H 'Host: hello.default.example.test' http://127.0.0.1:{platform.port}" in printed
    assert request(platform.port, "hello.default.example.test").text == "one"
    assert platform.ask("hello").status == 404, "the default domain is not served as well"
    assert platform.stop() == 0
    platform.start("--image", f"team/app:1={command}")
    assert "hello.default.localhost" in "".join(platform.output), "what was applied before is listed"
    wait_for("the new domain", lambda: platform.ask("hello").text == "one")


def test_what_it_says_can_be_typed(stopped_platform: Platform) -> None:
    """The lines to try work as they are printed, wherever the data directory is."""
    platform = stopped_platform
    platform.data_dir = platform.folder / "it's my data"
    file = platform.folder / "service.json"
    file.write_text(json.dumps(platform.service()))
    platform.start("-f", str(file))
    lines = [line.strip() for line in platform.output]
    [command] = [line for line in lines if line.startswith("zerogate get")]
    shown = platform.run("sh", "-c", command.replace("zerogate", shlex.quote(ZEROGATE), 1)).stdout
    assert shown.splitlines()[1].startswith("hello ")


def test_several_workers(stopped_platform: Platform) -> None:
    """Two workers share the port, know the same services, and their numbers add up on one /metrics."""
    platform = stopped_platform
    platform.start("--workers", "2")
    platform.apply(platform.service())
    platform.wait_ready("hello")
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: platform.ask("hello").text, range(200)))
    assert answers == ["one"] * 200
    metrics = platform.metrics().splitlines()
    assert "zerogate_gateway_workers 2.0" in metrics
    counted = [line for line in metrics if line.startswith("zerogate_gateway_requests_total{") and '"2xx"' in line]
    assert sum(float(line.split()[-1]) for line in counted) == 200


def test_a_slow_start_is_waited_for(stopped_platform: Platform) -> None:
    """Several requests at once for a service at zero all wait for its one replica and are answered."""
    platform = stopped_platform
    platform.start()
    platform.kubectl(
        *("patch", "configmap", "config-autoscaler", "-n", "knative-serving", "--type", "merge"),
        *("-p", json.dumps({"data": {"allow-zero-initial-scale": "true"}})),
    )
    slow = ["sh", "-c", f"sleep 2; exec {shlex.join([sys.executable, '-S', str(APP), str(platform.folder)])}"]
    platform.apply(platform.service(annotations={"initial-scale": "0"}, container={"command": slow}))
    platform.wait_ready("hello")
    with ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(lambda _: platform.ask("hello").status, range(20)))
    assert answers == [200] * 20
