"""`zerogate up --tls-port`: services over TLS, with curl."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import free_ports, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.authority import Authority
    from tests.e2e.harness import Platform


pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def set_network(platform: Platform, **data: str) -> None:
    body = {"data": {key.replace("_", "-"): value for key, value in data.items()}}
    platform.kubectl(
        *("patch", "configmap", "config-network", "-n", "knative-serving", "--type", "merge", "-p", json.dumps(body))
    )


def test_the_platforms_own_certificate(stopped_platform: Platform) -> None:
    """The line that is printed works as it stands; a service in another namespace is covered too; `Redirected` sends
    plain HTTP there, and URLs are https where config-network says so."""
    platform = stopped_platform
    port = free_ports(7) + 6
    file = platform.folder / "service.json"
    file.write_text(json.dumps(platform.service()))
    platform.start("-f", str(file), "--tls-port", str(port))
    printed = "".join(platform.output)
    line = re.search(rf"curl --cacert (\S+) https://hello\.default\.localhost:{port}", printed)
    assert line, printed
    assert platform.run("curl", "-sS", *line.group().split()[1:]).stdout == "one"

    platform.kubectl("create", "namespace", "team")
    other = platform.service("other")
    other["metadata"]["namespace"] = "team"
    platform.apply(other)
    platform.kubectl("wait", "ksvc/other", "-n", "team", "--for=condition=Ready", "--timeout=30s")
    curl = ("curl", "-sS", "--cacert", line.group(1))
    assert platform.run(*curl, f"https://other.team.localhost:{port}").stdout == "one"

    set_network(platform, http_protocol="Redirected", default_external_scheme="https")
    wait_for("a redirect", lambda: platform.ask("hello", "/a?b").status == 301)
    answer = platform.ask("hello", "/a?b")
    assert answer.fields["location"] == f"https://hello.default.localhost:{port}/a?b"
    assert platform.ask("hello", "/.well-known/acme-challenge/x").status == 200
    assert platform.run(*curl, "-L", f"http://hello.default.localhost:{platform.port}").stdout == "one"
    url = f"https://hello.default.localhost:{port}"
    wait_for("the URL", lambda: platform.get("ksvc", "hello")["status"]["url"] == url)


def test_a_certificate_from_files(stopped_platform: Platform, authority: Authority, tmp_path: Path) -> None:
    """It is read again when the files change."""
    platform = stopped_platform
    port = free_ports(7) + 6
    paths = tmp_path / "tls.crt", tmp_path / "tls.key"
    (tmp_path / "ca.pem").write_text(authority.pem)

    def write(*names: str) -> None:
        for path, text in zip(paths, authority.issue(*names), strict=True):
            path.write_text(text)

    write("other.test")
    platform.start("--tls-port", str(port), "--tls-certificate", str(paths[0]), "--tls-key", str(paths[1]))
    platform.apply(platform.service())
    platform.wait_ready("hello")
    curl = ("curl", "-sS", "--cacert", str(tmp_path / "ca.pem"), f"https://hello.default.localhost:{port}")
    assert platform.run(*curl, check=False).returncode == 60, "the certificate is not for that host"
    write("*.default.localhost")
    assert platform.run(*curl).stdout == "one"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tls-certificate", "tls.crt"), "come together"),
        (("--tls-certificate", "tls.crt", "--tls-key", "tls.key"), "needs a port"),
        (("--tls-port", "{port}"), "for services already"),
        (("--tls-port", "{free}", "--tls-certificate", "tls.crt", "--tls-key", "tls.key"), "no certificate chain"),
    ],
)
def test_mistakes_are_one_line(stopped_platform: Platform, arguments: tuple[str, ...], message: str) -> None:
    """Exit status 2 and what would be right."""
    platform = stopped_platform
    for name in ("tls.crt", "tls.key"):
        (platform.folder / name).write_text("nonsense")
    ports = {"port": str(platform.port), "free": str(platform.port + 5)}
    platform.start(*(argument.format(**ports) for argument in arguments), wait=False)
    assert platform.process is not None
    assert platform.process.wait(30) == 2
    wait_for("its message", lambda: message in "".join(platform.output))
