from __future__ import annotations

import contextlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from controller.apis.meta import Key
from controller.autoscaler.explain import Explanation
from controller.autoscaler.ticker import Deciders
from controller.cli import main
from controller.config.store import Config
from gateway.contract import RevisionId, Stat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATH = "/explain/default/hello-00001"


@contextlib.contextmanager
def serving(answers: dict[str, bytes]) -> Iterator[int]:
    """An admin port, in a thread: the command runs a loop of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path)
            self.send_response(200 if found is not None else 404)
            self.end_headers()
            self.wfile.write(found if found is not None else b"the autoscaler has no such revision\n")

        def log_message(self, *_arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def account() -> bytes:
    """What a real decider tells after a burst and a scale."""
    now = 1000.0
    deciders = Deciders(config=Config, enqueue=lambda _key: None, clock=lambda: now)
    obj = {
        "metadata": {"namespace": "default", "name": "hello-00001", "annotations": {}},
        "spec": {"scaleTargetRef": {"name": "hello-00001-deployment"}, "reachability": "Reachable"},
    }
    deciders.on_pod_autoscaler(None, obj)
    deciders.on_stats("w1", [Stat(RevisionId("default", "hello-00001"), 500.0, 500.0)])
    deciders.tick()
    why = Explanation("MaxScale", "At most 3, by max-scale; the load asks for 8.")
    condition = {"type": "ScaleExplained", "status": "True", "reason": why.reason, "message": why.text}
    deciders.on_pod_autoscaler(obj, {**obj, "status": {"desiredScale": 3, "conditions": [condition]}})
    found = deciders.account(Key("default", "hello-00001"))
    assert found is not None
    draining = [{"pod": "a", "seconds": 3.2, "inFlight": 2}, {"pod": "b", "seconds": 0.0, "inFlight": None}]
    return json.dumps({**found, "draining": draining}).encode()


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["explain", *arguments], prog_name="zerogate")
    return result.exit_code, result.output


def test_a_table_says_why(account: bytes, tmp_path: Path) -> None:
    """The state, the settings, what drains, then a line for each decision and for each scale made of them."""
    with serving({PATH: account}) as port:
        (tmp_path / "admin-port").write_text(str(port))
        status, text = run("hello-00001", "--kubeconfig", str(tmp_path / "kubeconfig"))
    assert status == 0
    lines = text.splitlines()
    assert lines[0].startswith("default/hello-00001: 3 desired, 0 ready, mode Proxy")
    assert "concurrency: 70 for each replica (of 100)" in lines[1]
    assert lines[2:4] == ["a drains for 3s, requests in hand: 2", "b drains for 0s, requests in hand: unknown yet"]
    assert lines[5].split() == ["AGO", "STABLE", "PANIC", "READY", "WISH", "SCALE", "REASON"]
    assert "500 requests in flight on average over 60 s" in text
    assert lines[-1].split()[1:4] == ["->", "3", "MaxScale"]
    assert lines[-1].endswith("At most 3, by max-scale; the load asks for 8.")


def test_json_is_the_account_itself(account: bytes) -> None:
    """For programs."""
    with serving({PATH: account}) as port:
        status, text = run("hello-00001", "-o", "json", "--admin", f"http://127.0.0.1:{port}")
    assert (status, json.loads(text)) == (0, json.loads(account))


def test_what_goes_wrong_is_one_line(tmp_path: Path) -> None:
    """No platform, no such revision, nobody at that address."""
    assert run("hello-00001", "--kubeconfig", str(tmp_path / "kubeconfig"))[0] == 2
    with serving({}) as port:
        status, text = run("nobody", "--admin", f"http://127.0.0.1:{port}")
    assert (status, text) == (1, "Error: the autoscaler has no such revision\n")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        status, text = run("nobody", "--admin", f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert status == 1
    assert text.startswith("Error: no controller answers at http://127.0.0.1:")
    assert len(text.splitlines()) == 1
