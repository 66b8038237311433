"""A whole platform: the installed `zerogate up`, in its own process, on free ports, with a fresh data directory."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

ZEROGATE = str(Path(sys.executable).parent / "zerogate")
APP = Path(__file__).with_name("app.py")
REQUIRE_PEERS = os.environ.get("ZEROGATE_REQUIRE_PEERS") == "1"


def peer(variable: str, *names: str) -> str:
    """The path of a program the tests talk to. Where it is missing its tests are skipped, and fail in CI."""
    candidates = [os.environ.get(variable, ""), *(shutil.which(name) or "" for name in names)]
    for candidate in candidates:
        if candidate and Path(candidate).exists():
            return candidate
    message = f"{' or '.join(names)} is not on this machine (or set {variable})"
    if REQUIRE_PEERS:
        pytest.fail(message)
    pytest.skip(message)


def wait_for(what: str, check: Callable[[], T | None], seconds: float = 30.0) -> T:
    """The first true value of `check`; fails with `what` when none came in time."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (value := check()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what}; last seen: {value!r}")
        pause.wait(0.02)
    return value


def wait_for_equal(get: Callable[[], T], expected: T, seconds: float = 30.0) -> None:
    """Until `get` gives `expected`; fails with what it gave last."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while (value := get()) != expected and time.monotonic() < deadline:
        pause.wait(0.1)
    assert value == expected, f"within {seconds} s it was {value!r}, not {expected!r}"


def free_ports(count: int) -> int:
    """The first of `count` consecutive free ports, below the range that outgoing connections and replicas use."""
    for base in range(10000 + os.getpid() % 900 * 10, 20000 - count, count):
        with contextlib.ExitStack() as sockets:
            try:
                for port in range(base, base + count):
                    probe = sockets.enter_context(socket.socket())
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    pytest.fail("no free ports")


class Answer:
    """An HTTP response, read whole."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.fields = {name.lower(): value for name, value in response.getheaders()}
        self.text = response.read().decode()

    def __repr__(self) -> str:
        return f"<{self.status} {self.text[:200]!r}>"


def request(
    port: int,
    host: str,
    path: str = "/",
    method: str = "GET",
    body: bytes | None = None,
    fields: dict[str, str] | None = None,
    timeout: float = 30.0,
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request(method, path, body=body, headers={"Host": host, **(fields or {})})
        return Answer(connection.getresponse())


class Platform:
    """One `zerogate up`, and what a user does with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.port = free_ports(6)
        self.kubeconfig = self.data_dir / "kubeconfig"
        self.output: list[str] = []
        self.process: subprocess.Popen[str] | None = None

    def start(self, *arguments: str, wait: bool = True) -> None:
        self.process = subprocess.Popen(
            [ZEROGATE, "up", "--data-dir", str(self.data_dir), "--port", str(self.port), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
        )
        self.output = []
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()
        if wait:
            wait_for("`zerogate up` to say that it is up", self._is_up, 60)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self.output.append(line)

    def _is_up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            self._reader.join(5)
            pytest.fail(f"`zerogate up` ended with {self.process.returncode}:\n{''.join(self.output)}")
        return any("Ctrl-C" in line for line in self.output)

    def stop(self) -> int:
        """Ctrl-C, and its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
                pytest.fail(f"`zerogate up` did not stop:\n{''.join(self.output)}")
        self._reader.join(5)
        return self.process.returncode

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._reader.join(5)

    # --- the command line ---

    def run(self, *command: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.folder,
            check=False,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig), "ZEROGATE_KUBECONFIG": str(self.kubeconfig)},
        )
        if check and result.returncode:
            pytest.fail(f"{' '.join(command)}: {result.returncode}\n{result.stdout}{result.stderr}")
        return result

    def zerogate(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run(ZEROGATE, *arguments, **options)

    def kubectl(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run(peer("ZEROGATE_KUBECTL", "kubectl"), *arguments, **options)

    def get(self, *arguments: str) -> Any:
        """An object, or a list's items, as kubectl sees them."""
        value = json.loads(self.kubectl("get", *arguments, "-o", "json").stdout)
        return value["items"] if value["kind"] == "List" else value

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def wait_ready(self, name: str, kind: str = "ksvc") -> None:
        self.kubectl("wait", f"{kind}/{name}", "--for=condition=Ready", "--timeout=30s")

    # --- traffic ---

    def host(self, name: str) -> str:
        return f"{name}.default.localhost"

    def ask(self, name: str, path: str = "/", **options: Any) -> Answer:
        return request(self.port, self.host(name), path, **options)

    def ask_local(self, host: str, path: str = "/", **options: Any) -> Answer:
        """A request to the cluster-local listener, under a whole host name."""
        return request(self.port + 1, host, path, **options)

    def metrics(self) -> str:
        """The gateway's /metrics."""
        return request(self.port + 2, "localhost", "/metrics").text

    def in_flight(self) -> float:
        lines = [line for line in self.metrics().splitlines() if line.startswith("zerogate_gateway_in_flight")]
        return sum(float(line.split()[-1]) for line in lines)

    # --- processes ---

    def processes(self) -> list[int]:
        """Every living process of this platform: all that name its data directory or the test application."""
        return self._processes_with(str(self.data_dir).encode()) + self.processes_of_application()

    def processes_of_application(self) -> list[int]:
        return self._processes_with(str(APP).encode() + b"\0" + str(self.folder).encode())

    def _processes_with(self, mark: bytes) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    command = (entry / "cmdline").read_bytes()
                    if mark in command and "zombie" not in (entry / "status").read_text():
                        found.append(int(entry.name))
        return found

    def service(self, name: str = "hello", target: str = "one", **spec: Any) -> dict[str, Any]:
        """A Service that runs the test application; `annotations` and `traffic` as in the API."""
        annotations = spec.pop("annotations", {})
        traffic = spec.pop("traffic", None)
        container = {
            "image": "app",
            # The folder is there to be found by `processes`; the application ignores it.
            "command": [sys.executable, "-S", str(APP), str(self.folder)],
            "env": [{"name": "TARGET", "value": target}],
            **spec.pop("container", {}),
        }
        body: dict[str, Any] = {
            "template": {
                "metadata": {"annotations": {f"autoscaling.knative.dev/{key}": v for key, v in annotations.items()}},
                "spec": {"containers": [container], **spec},
            }
        }
        if traffic:
            body["traffic"] = traffic
        return {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": body,
        }
