"""Faults in mid-traffic: what was acknowledged is kept, traffic resumes by itself, no process is orphaned."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.callers import Callers
from tests.e2e.harness import wait_for

if TYPE_CHECKING:
    from tests.e2e.harness import Platform


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gateway_pid(platform: Platform) -> int:
    """The gateway's parent process: the child of `zerogate up` that runs the gateway package."""
    assert platform.process is not None
    for pid in children(platform.process.pid):
        if b"gateway" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError("no gateway")


def test_kill_of_everything(stopped_platform: Platform) -> None:
    """`kill -9` of `zerogate up` in mid-traffic takes every process along; the next start serves what was there."""
    platform = stopped_platform
    platform.start()
    platform.apply(platform.service(target="kept"))
    platform.wait_ready("hello")
    before = platform.get("ksvc", "hello")
    with Callers(platform) as callers:
        wait_for("traffic", lambda: callers.answered > 50)
        platform.kill()
        wait_for("every process to be gone", lambda: not platform.processes(), 15)
    platform.start()
    wait_for("traffic to resume", lambda: platform.ask("hello").text == "kept")
    after = platform.get("ksvc", "hello")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["spec"] == before["spec"]
    assert platform.stop() == 0
    assert not platform.processes()


def test_kill_of_the_gateway(platform: Platform) -> None:
    """A killed gateway is started again by itself and serves at once; its controllers never notice."""
    platform.apply(platform.service())
    platform.wait_ready("hello")
    pods = platform.get("pods")
    with Callers(platform) as callers:
        wait_for("traffic", lambda: callers.answered > 50)
        os.kill(gateway_pid(platform), signal.SIGKILL)
        wait_for("a failure", lambda: callers.failures)
        seen = callers.answered
        wait_for("traffic to resume", lambda: callers.answered > seen + 50)
    assert [pod["metadata"]["uid"] for pod in platform.get("pods")] == [pod["metadata"]["uid"] for pod in pods]


def test_kill_of_a_gateway_worker(platform: Platform) -> None:
    """A killed worker's successor serves from its first snapshot on: connections break, but nobody is told that the
    service does not exist, and a request that comes in between is answered."""
    platform.apply(platform.service())
    platform.wait_ready("hello")
    with Callers(platform) as callers:
        for _ in range(3):
            wait_for("traffic", lambda seen=callers.answered: callers.answered > seen + 50)
            (worker,) = children(gateway_pid(platform))
            os.kill(worker, signal.SIGKILL)
        seen = callers.answered
        wait_for("traffic to resume", lambda: callers.answered > seen + 50)
    assert not [failure for failure in callers.failures if failure.startswith("<")], "an answer, and not 200"
    assert len(callers.failures) <= 3 * 4, "one request in flight per caller"


def test_kill_of_a_replica(platform: Platform) -> None:
    """A killed replica is started again, and only what it had in hand may fail."""
    platform.apply(platform.service())
    platform.wait_ready("hello")
    pid = int(platform.ask("hello", "/pid").text)
    with Callers(platform) as callers:
        wait_for("traffic", lambda: callers.answered > 50)
        os.kill(pid, signal.SIGKILL)
        seen = callers.answered
        wait_for("traffic to resume", lambda: callers.answered > seen + 50)
    assert len(callers.failures) <= 4, "one request in flight per caller"
    assert int(platform.ask("hello", "/pid").text) != pid
    (pod,) = platform.get("pods")
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 1


def test_ctrl_c_stops_everything(stopped_platform: Platform) -> None:
    """Ctrl-C lets the request in hand finish, then every process is gone and the exit status is 0."""
    platform = stopped_platform
    platform.start()
    platform.apply(platform.service())
    platform.wait_ready("hello")
    answers: list[str] = []
    caller = threading.Thread(target=lambda: answers.append(platform.ask("hello", "/sleep?seconds=1").text))
    caller.start()
    wait_for("the request to be in hand", lambda: platform.in_flight() == 1)
    assert platform.stop() == 0
    caller.join(10)
    assert answers == ["slept"]
    assert not platform.processes()


def test_two_on_one_data_directory(platform: Platform) -> None:
    """The second one says whose directory it is and what to do, with exit status 2; so with a port in use."""
    taken = platform.zerogate(
        "up", "--data-dir", str(platform.data_dir), "--port", str(platform.port + 100), check=False
    )
    assert taken.returncode == 2
    assert str(platform.data_dir) in taken.stderr
    assert taken.stderr.count("\n") == 1
    port = platform.zerogate(
        "up", "--data-dir", str(platform.folder / "other"), "--port", str(platform.port), check=False
    )
    assert port.returncode == 2
    assert str(platform.port) in port.stderr
    assert "--port" in port.stderr
    assert port.stderr.count("\n") == 1


def test_bad_file_at_start(stopped_platform: Platform) -> None:
    """A bad file is found before anything is started."""
    bad = stopped_platform.folder / "bad.yaml"
    bad.write_text("kind: [")
    result = stopped_platform.zerogate("up", "--data-dir", str(stopped_platform.data_dir), "-f", str(bad), check=False)
    assert result.returncode == 2
    assert "bad.yaml, line 1" in result.stderr
    assert not stopped_platform.data_dir.exists()
