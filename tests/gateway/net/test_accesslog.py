"""The access log's file: who may read it, how large it gets, and several workers that share it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import stat
import sys
from typing import TYPE_CHECKING

import pytest

from gateway.core.http1 import RequestHead
from gateway.core.traffic import WorkerTraffic
from gateway.net.accesslog import MAX_WAITING, AccessLog, open_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LIMIT = 10_000

WORKER = """
import asyncio, sys, time
from gateway.core.http1 import RequestHead
from gateway.core.traffic import WorkerTraffic
from gateway.net.accesslog import AccessLog

async def main(path, name):
    log = AccessLog(path, WorkerTraffic(), max_bytes=200_000)
    for number in range(400):
        for _ in range(20):
            head = RequestHead(b"GET", b"/%d" % number, True, b"", 0)
            head.host = name
            log.add(0.0, 0.0, head, 200, 0, b"", b"", "", b"", b"", b"HTTP/1.1")
        log.flush()
        time.sleep(0.001)  # as fast as it goes, whoever rotates would be overtaken whenever it has no core
    log.close()

asyncio.run(main(sys.argv[1], sys.argv[2].encode()))
"""


def write(log: AccessLog, target: bytes) -> None:
    add(log, target)
    log.flush()


def add(log: AccessLog, target: bytes) -> None:
    head = RequestHead(b"GET", target, True, b"", 0)
    head.host = b"host"
    log.add(0.0, 0.0, head, 200, 0, b"", b"", "", b"", b"", b"HTTP/1.1")


def paths(file: Path) -> list[str]:
    return [json.loads(line)["path"] for line in file.read_text().splitlines()]


@pytest.fixture
async def opened() -> Iterator[Callable[..., AccessLog]]:
    logs: list[AccessLog] = []

    def make(path: Path, limit: int = LIMIT) -> AccessLog:
        logs.append(AccessLog(str(path), WorkerTraffic(), max_bytes=limit))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


async def test_the_file_is_the_owners(tmp_path: Path, opened: Callable[..., AccessLog]) -> None:
    """Targets and agents are nobody else's business."""
    path = tmp_path / "access.log"
    opened(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_symbolic_link_is_refused(tmp_path: Path, opened: Callable[..., AccessLog]) -> None:
    """Whoever may make one could have us write to any file of ours."""
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "access.log").symlink_to(target)
    with pytest.raises(OSError, match="it is a symbolic link"):
        open_log(str(tmp_path / "access.log"))
    with pytest.raises(OSError, match="it is a symbolic link"):
        opened(tmp_path / "access.log")
    assert target.read_text() == "mine"


async def test_a_full_file_is_put_aside_once(tmp_path: Path, opened: Callable[..., AccessLog]) -> None:
    """It becomes `.1`; another worker goes over to the new file and does not put that aside in turn."""
    path = tmp_path / "access.log"
    one, other = opened(path), opened(path)
    write(one, b"/" + b"x" * 9_700)
    write(one, b"/one")
    write(other, b"/other")
    assert [len(target) for target in paths(tmp_path / "access.log.1")] == [9_701]
    assert paths(path) == ["/one", "/other"]


async def test_a_new_file_can_be_read_by_those_who_could_read_the_old(
    tmp_path: Path, opened: Callable[..., AccessLog]
) -> None:
    """A log shipper of another user does not lose its access at the first rotation."""
    path = tmp_path / "access.log"
    log = opened(path)
    path.chmod(0o640)
    write(log, b"/" + b"x" * 9_700)
    write(log, b"/next")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_while_another_rotates_the_old_file_takes_the_batch(
    tmp_path: Path, opened: Callable[..., AccessLog]
) -> None:
    """Nothing waits and nothing is lost; the next batch is in the new file."""
    path = tmp_path / "access.log"
    log = opened(path)
    write(log, b"/" + b"x" * 9_700)
    with path.open("rb") as rotating:
        fcntl.flock(rotating, fcntl.LOCK_EX)
        write(log, b"/meanwhile")
    assert paths(path)[1:] == ["/meanwhile"]
    write(log, b"/later")
    assert paths(path) == ["/later"]
    assert paths(tmp_path / "access.log.1")[1:] == ["/meanwhile"]


async def test_who_else_rotates_needs_no_signal(tmp_path: Path, opened: Callable[..., AccessLog]) -> None:
    """A file that was moved or removed is followed by a new one under the name."""
    path = tmp_path / "access.log"
    log = opened(path)
    write(log, b"/a")
    path.rename(tmp_path / "elsewhere")
    write(log, b"/b")
    assert paths(path) == ["/b"]
    path.unlink()
    write(log, b"/c")
    assert paths(path) == ["/c"]


async def test_where_nothing_can_be_renamed_the_file_grows(tmp_path: Path, opened: Callable[..., AccessLog]) -> None:
    """Rotation is then the business of whoever made the file; no line is lost, and nobody's lock is kept."""
    path = tmp_path / "access.log"
    log = opened(path)
    aside = tmp_path / "access.log.1"
    aside.mkdir()
    write(log, b"/" + b"x" * 9_700)
    write(log, b"/more")
    assert paths(path)[1:] == ["/more"]
    aside.rmdir()
    write(opened(path), b"/room")
    assert paths(path) == ["/room"]


async def test_a_device_is_not_rotated(opened: Callable[..., AccessLog]) -> None:
    """/dev/null takes what comes."""
    log = opened("/dev/null", 1)
    write(log, b"/a")
    write(log, b"/b")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.slow
async def test_processes_share_a_file_of_bounded_size(tmp_path: Path) -> None:
    """Three workers write eleven times what two files hold: no more than two files' worth is left, the one put aside
    is a full one, every line is whole, and the last that was written is there."""
    path = tmp_path / "access.log"
    workers = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, str(path), f"w{number}")
        for number in range(3)
    ]
    async with asyncio.timeout(60):
        assert [await worker.wait() for worker in workers] == [0, 0, 0]
    aside = tmp_path / "access.log.1"
    assert sorted(os.listdir(tmp_path)) == ["access.log", "access.log.1"]
    batch = 20 * 280
    assert path.stat().st_size <= 300_000  # what others write while one rotates, maybe not running, comes on top
    assert 200_000 - batch <= aside.stat().st_size <= 300_000
    assert "/399" in paths(aside) + paths(path)


async def test_what_waits_for_a_stuck_pipe_has_a_bound(tmp_path: Path) -> None:
    """In bytes, however long the lines are; beyond it entries are dropped and counted."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    traffic = WorkerTraffic()
    log = AccessLog(str(pipe), traffic)
    for _ in range(4000):
        add(log, b"/" + b"x" * 8000)
    assert 1000 < traffic.log_dropped < 4000
    assert log._waiting + len(log._unwritten) < 2 * MAX_WAITING + 10_000
    os.close(reader)
    log.close()
