"""Programs that run for the length of a benchmark: each pinned to one core, stopped at the end, its CPU time read
from /proc."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ROOT",
    "Processes",
    "children",
    "cpu_seconds",
    "free_port",
    "program",
    "python_module",
    "resident_bytes",
    "two_cores",
    "wait_until",
]

ROOT = Path(__file__).resolve().parents[2]
_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"


def two_cores() -> tuple[int, int]:
    """One for what is measured, one for the rest: the first and the last that this process may use. Where there is only
    one it is both, which is good for nothing but a test."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


def program(name: str) -> str | None:
    """The path of a program, in the system's own folders as well; None where it is not installed."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SYSTEM_FOLDERS}")


def python_module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Processes:
    """What was started, and ends with the `with` block."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, core: int, command: list[str], *, log: Path, environment: dict[str, str] | None = None) -> int:
        """Runs a command on a core and returns its process id; what it prints is appended to `log`."""
        output = self._stack.enter_context(log.open("ab"))
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'load'}", **(environment or {})},
        )
        self._stack.callback(_stop, process)
        return process.pid


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_seconds(pids: tuple[int, ...]) -> float:
    """User and system time of the processes so far, in steps of a clock tick (10 ms)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def wait_until(condition: Callable[[], bool], seconds: float = 15) -> bool:
    """Asks until it is so, or the time is over; returns whether it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
