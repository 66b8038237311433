"""What the node agent needs of a container runtime, in one Protocol.

A runtime starts the processes of containers and reports their ends; it decides nothing about pods. `process` is the one
there is: containers as local processes, without images, namespaces or mounts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from controller.embedded.logfile import LogWriter


@dataclass(frozen=True, slots=True)
class Launch:
    """One process to start. `marker` is unique to the container's life; `env` is the whole environment."""

    marker: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    working_dir: str


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: `code` is 0–255, or 128 + `signal` as shells count; `signal` is 0 for a normal exit.
    `out_of_memory` says that the kernel killed it for want of memory."""

    code: int
    signal: int = 0
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ran beside a container (a probe, a preStop hook): `output` is the end of what it wrote."""

    code: int
    output: str


class StartError(Exception):
    """The program could not be started; the text is the operating system's reason in one sentence."""


class RuntimeGone(Exception):
    """The runtime has been closed, or its launcher has died and a new one is not up yet."""


class Process(Protocol):
    """A running container process and whatever it started."""

    @property
    def pid(self) -> int:
        """Its process id, which is its process group's too."""

    def signal(self, signum: int) -> None:
        """Send a signal to the whole process group; nothing happens once it has ended."""
        ...


class Runtime(Protocol):
    """What runs a pod's containers on this machine."""

    async def open(self) -> None:
        """Kill what a former life left behind and get ready to start processes."""
        ...

    async def start(self, launch: Launch, log: LogWriter, on_exit: Callable[[Exit], None]) -> Process:
        """Start a process whose output goes to `log`; `on_exit` is called once, in the event loop, after the last
        output. Raises StartError, RuntimeGone."""
        ...

    async def run(self, launch: Launch, timeout: float) -> Completed:
        """Run a command to its end; killed after `timeout` seconds. Raises StartError, RuntimeGone, TimeoutError."""
        ...

    async def close(self) -> None:
        """Kill every process still running and release what the runtime holds."""
        ...
