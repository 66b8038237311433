"""The parent of the workers: starts them, replaces them, hands over to a new image of itself.

Theory of operation
-------------------
Each worker has a seat: its listening sockets, which stay open here whatever happens to the process in the seat. A
worker that dies is started again, after 0.1 s doubling to 5 s while it keeps dying young; meanwhile connections wait
in the sockets' queues.

**A worker is replaced** in three steps. Its successor starts on the same sockets, and accepts from its first snapshot
on; when it says that it is ready, the old one is told to drain: it stops accepting, which loses nothing, as the socket
is not closed; it answers what it has, saying `Connection: close`, and ends. A successor that is not ready within
SUCCESSION_WAIT is ended instead, and the old worker goes on. One seat at a time, so that the machine never carries more
than one worker too many that starts.

**The whole gateway is replaced** by execve(2): the process begins anew, as the program that is installed now, with the
command line it was started with, keeping its process id, so that a service manager, a container or a shell goes on
watching the right one. The listening sockets and the workers are left to it (`Handover`); the workers are its children
as before and serve all the while. It takes them over as if it had started them, and then replaces each as above.
Before, the new program is asked whether it could start (`--check`); if not, all stays as it was.

Signals, with nginx's meanings:
  SIGTERM, SIGINT  stop: /readyz fails, nothing new is let in, the workers drain, exit status 0
  SIGUSR1          open the access log anew, for logrotate
  SIGHUP           the same, and replace the workers: files they read at their start are read anew
  SIGUSR2          replace the whole gateway: a new version takes over

`kill -9` of a worker loses the requests it had in hand, and no other. `kill -9` of the parent takes the workers along.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from gateway.net.admin import Admin, ask_worker
from gateway.worker import Assignment, serialise_assignment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.config import GatewayConfig
    from gateway.listeners import Listeners

__all__ = ["Handover", "Supervisor"]

SUCCESSION_WAIT = 60.0
"""Seconds that a successor has to get ready."""

_BACKOFF_FIRST, _BACKOFF_LIMIT = 0.1, 5.0
_LIVED_LONG = 10.0
_KILL_AFTER = 5.0  # beyond the drain's grace period
_LAST_ARRIVALS = 0.2  # for handshakes that had begun when the sockets were closed to new ones: a round trip
_READY_POLL = 0.02
_REAP_POLL = 0.05
_HANDOVER = "ZEROGATE_GATEWAY_HANDOVER"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)

_log = logging.getLogger(__name__)


# --- from image to image ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LeftWorker:
    """A worker as the next image finds it. `stdin` and `channel` are descriptors."""

    index: int
    pid: int
    stdin: int
    channel: int
    is_leaving: bool


@dataclass(frozen=True, slots=True)
class Handover:
    """What one image of the parent leaves to the next, all of it open descriptors and children: the listening sockets
    by role and address, and the workers."""

    listeners: Mapping[tuple[str, str], list[list[int]]]
    workers: list[LeftWorker]

    @classmethod
    def received(cls) -> Handover:
        """What the last image of this very process left; nothing if this is the first."""
        text = os.environ.pop(_HANDOVER, None)
        body = {} if text is None else orjson.loads(text)
        if body.get("pid") != os.getpid():
            return cls({}, [])
        return cls(
            {(role, address): descriptors for role, address, descriptors in body["listeners"]},
            [LeftWorker(*worker) for worker in body["workers"]],
        )

    def execute(self) -> None:
        """Become the next image. Does not return."""
        for descriptors in self.listeners.values():
            for each in descriptors:
                for one in each:
                    os.set_inheritable(one, True)
        for worker in self.workers:
            os.set_inheritable(worker.stdin, True)
            os.set_inheritable(worker.channel, True)
        body = {
            "pid": os.getpid(),
            "listeners": [[*key, descriptors] for key, descriptors in self.listeners.items()],
            "workers": [[one.index, one.pid, one.stdin, one.channel, one.is_leaving] for one in self.workers],
        }
        sys.stdout.flush()
        os.execve(sys.executable, _command_line(), {**os.environ, _HANDOVER: orjson.dumps(body).decode()})


def _command_line(*more: str) -> list[str]:
    return [sys.executable, *sys.orig_argv[1:], *more]


# --- one worker -------------------------------------------------------------------------------------------------------


class WorkerProcess:
    """A worker, started by this image of the parent or by the last. `channel` is where it is asked for its status,
    `ended` gets its exit status (negative: the signal that ended it)."""

    def __init__(self, pid: int, stdin: int, channel: socket.socket) -> None:
        self.pid = pid
        self.stdin = stdin  # stays open: its end tells the worker that this process is gone
        self.channel = channel
        self.is_leaving = False
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = loop.create_future()
        self._watch = loop.create_task(self._reap(), name=f"worker process {pid}")

    @classmethod
    def start(
        cls, config: GatewayConfig, index: int, sockets: Mapping[str, list[socket.socket]], *, succeeds: bool
    ) -> WorkerProcess:
        """Start a worker on these sockets. One that succeeds another accepts nothing before it knows the routes. Raises
        OSError."""
        descriptors = {role: [sock.fileno() for sock in each] for role, each in sockets.items()}
        with ExitStack() as ours, ExitStack() as theirs:
            channel, its_channel = socket.socketpair()
            ours.callback(channel.close)
            theirs.callback(its_channel.close)
            reading, stdin = os.pipe()
            theirs.callback(os.close, reading)
            ours.callback(os.close, stdin)
            assignment = Assignment(
                config,
                index,
                external=descriptors["external"],
                cluster_local=descriptors["cluster_local"],
                tls=descriptors.get("tls", []),
                status_channel=its_channel.fileno(),
                succeeds=succeeds,
            )
            process = subprocess.Popen(
                (sys.executable, "-m", "gateway.worker"),
                stdin=reading,
                pass_fds=[*(one for each in descriptors.values() for one in each), its_channel.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
            process.returncode = 0  # forgotten: it is waited for by its number, as those are that the last image left
            # While our own end for reading is open: a worker that ends at once must not make this fail.
            os.write(stdin, serialise_assignment(assignment))
            channel.setblocking(False)
            ours.pop_all()
        return cls(process.pid, stdin, channel)

    @classmethod
    def adopt(cls, left: LeftWorker) -> WorkerProcess:
        """A worker that the last image left."""
        os.set_inheritable(left.stdin, False)
        channel = socket.socket(fileno=left.channel)
        channel.setblocking(False)
        channel.set_inheritable(False)
        return cls(left.pid, left.stdin, channel)

    def leave(self, index: int) -> LeftWorker:
        """To the next image. Nothing is watched here any more."""
        self._watch.cancel()
        return LeftWorker(index, self.pid, self.stdin, self.channel.detach(), self.is_leaving)

    async def _reap(self) -> None:
        if hasattr(os, "pidfd_open"):
            descriptor = os.pidfd_open(self.pid)
            exited = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(descriptor, exited.set)
            try:
                await exited.wait()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)
        while (status := self._exit_status()) is None:  # noqa: ASYNC110 - where there are no pidfds
            await asyncio.sleep(_REAP_POLL)
        os.close(self.stdin)
        self.channel.close()
        self.ended.set_result(status)

    def _exit_status(self) -> int | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def signal(self, number: int) -> None:
        """Send it a signal, if it lives."""
        if not self.ended.done():
            os.kill(self.pid, number)

    async def is_ready(self) -> bool:
        """Whether it says so."""
        status = None if self.ended.done() else await ask_worker(self.channel)
        return status is not None and not status.reason

    async def stop(self, patience: float) -> None:
        """Have it drain, and kill it if it takes longer than `patience` seconds."""
        self.is_leaving = True
        self.signal(signal.SIGTERM)
        await asyncio.wait((self.ended,), timeout=patience)
        self.signal(signal.SIGKILL)
        await asyncio.wait((self.ended,))


class Seat:
    """One worker's place: keeps a process in it."""

    def __init__(
        self, config: GatewayConfig, index: int, sockets: Mapping[str, list[socket.socket]], turn: asyncio.Lock
    ) -> None:
        self.index = index
        self._config = config
        self._sockets = sockets
        self._turn = turn
        self._patience = config.drain_grace + _KILL_AFTER
        self._current: WorkerProcess | None = None
        self._successor: WorkerProcess | None = None
        self._leaving: dict[WorkerProcess, asyncio.Task[None]] = {}
        self._wanted = asyncio.Event()  # a successor

    @property
    def channel(self) -> socket.socket | None:
        """Where the worker is asked for its status; None while there is none."""
        return None if self._current is None or self._current.ended.done() else self._current.channel

    def adopt(self, left: LeftWorker) -> None:
        """Take over a worker of the last image, to be replaced; or to be watched while it goes."""
        worker = WorkerProcess.adopt(left)
        if left.is_leaving or self._current is not None:
            self._retire(worker)
        else:
            self._current = worker
            self._wanted.set()

    def replace(self) -> None:
        """Put a successor in the worker's place, when it is ready."""
        self._wanted.set()

    async def keep(self) -> None:
        """Keep a worker here until cancelled."""
        loop = asyncio.get_running_loop()
        delay = _BACKOFF_FIRST
        while True:
            worker = self._current
            if worker is None:
                worker = self._current = self._try_start(succeeds=False)
            started = loop.time()
            if worker is None or await self._ends(worker):
                delay = _BACKOFF_FIRST if loop.time() - started > _LIVED_LONG else min(delay * 2, _BACKOFF_LIMIT)
                if worker is not None:
                    _log.error("worker %d ended with status %d; starting it again", self.index, worker.ended.result())
                await asyncio.sleep(delay)
                self._current = None
            else:
                async with self._turn:
                    self._wanted.clear()
                    await self._succeed(worker)

    def _try_start(self, *, succeeds: bool) -> WorkerProcess | None:
        """A new worker; None if the system has no room for one, which is logged."""
        try:
            return WorkerProcess.start(self._config, self.index, self._sockets, succeeds=succeeds)
        except OSError as error:
            _log.error("worker %d can't be started: %s", self.index, error)
            return None

    async def _ends(self, worker: WorkerProcess) -> bool:
        """Wait until the worker has ended or is to be replaced; which of them."""
        wanted = asyncio.get_running_loop().create_task(self._wanted.wait(), name="succession wanted")
        try:
            await asyncio.wait((worker.ended, wanted), return_when=asyncio.FIRST_COMPLETED)
        finally:
            wanted.cancel()
        return worker.ended.done()

    async def _succeed(self, worker: WorkerProcess) -> None:
        successor = self._try_start(succeeds=True)
        if successor is None:
            return
        self._successor = successor
        if await self._gets_ready(successor):
            self._current, self._successor = successor, None
            if not worker.ended.done():
                self._retire(worker)
        else:
            self._successor = None
            if successor.ended.done():
                status = successor.ended.result()
                _log.error("worker %d goes on: its successor ended with status %d", self.index, status)
            else:
                _log.error("worker %d goes on: its successor was not ready within %g s", self.index, SUCCESSION_WAIT)
                await successor.stop(0.0)

    async def _gets_ready(self, successor: WorkerProcess) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SUCCESSION_WAIT
        while not successor.ended.done() and loop.time() < deadline:
            if await successor.is_ready():
                return True
            await asyncio.sleep(_READY_POLL)
        return False

    def _retire(self, worker: WorkerProcess) -> None:
        task = asyncio.get_running_loop().create_task(worker.stop(self._patience), name=f"worker {self.index} leaves")
        self._leaving[worker] = task
        task.add_done_callback(lambda _: self._leaving.pop(worker, None))

    def signal(self, number: int) -> None:
        """To the worker, and those that are going."""
        for worker in self._everybody():
            worker.signal(number)

    async def stop(self) -> None:
        """Have all workers of this seat drain, within the grace period."""
        await asyncio.gather(*(worker.stop(self._patience) for worker in self._everybody()))

    def leave(self) -> list[LeftWorker]:
        """All workers of this seat, to the next image. `keep` has been cancelled, with no succession under way."""
        for task in self._leaving.values():
            task.cancel()
        return [worker.leave(self.index) for worker in self._everybody()]

    def _everybody(self) -> list[WorkerProcess]:
        workers = (self._current, self._successor, *self._leaving)
        return [worker for worker in workers if worker is not None and not worker.ended.done()]


# --- all of them ------------------------------------------------------------------------------------------------------


class Supervisor:
    """To be made within the running loop."""

    def __init__(self, config: GatewayConfig, listeners: Listeners, handover: Handover) -> None:
        self._config = config
        self._listeners = listeners
        self._turn = asyncio.Lock()
        self._seats = [Seat(config, index, listeners.of(index), self._turn) for index in range(config.workers)]
        self._admin = Admin(lambda: [seat.channel for seat in self._seats])
        self._stop = asyncio.Event()
        self._upgrade: asyncio.Task[None] | None = None
        self._upgraded = asyncio.Event()
        for left in handover.workers:
            self._seats[min(left.index, config.workers - 1)].adopt(left)

    async def run(self) -> Handover | None:
        """Until a signal ends it: None after a drain, or what to leave to the next image of this process."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGUSR1, self._forward_reopen)
        loop.add_signal_handler(signal.SIGHUP, self._replace_workers)
        loop.add_signal_handler(signal.SIGUSR2, self._ask_for_upgrade)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)  # the last image held them back
        runner = web.AppRunner(self._admin.application(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        for sock in self._listeners.admin:
            # A copy, as the site closes its socket at the end, which the next image still needs.
            await web.SockSite(runner, sock.dup()).start()
        async with asyncio.TaskGroup() as group:
            keepers = [group.create_task(seat.keep(), name=f"worker {seat.index}") for seat in self._seats]
            ends = [group.create_task(event.wait(), name="end") for event in (self._stop, self._upgraded)]
            await asyncio.wait((*keepers, *ends), return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                await self._let_nothing_in()
            for task in (*keepers, *ends):
                task.cancel()
        if self._stop.is_set():
            await asyncio.gather(*(seat.stop() for seat in self._seats))
            await runner.cleanup()
            return None
        await runner.cleanup()
        return self._leave()

    async def _let_nothing_in(self) -> None:
        self._admin.draining = True
        self._listeners.refuse()
        await asyncio.sleep(_LAST_ARRIVALS)
        self._listeners.close()

    def _forward_reopen(self) -> None:
        for seat in self._seats:
            seat.signal(signal.SIGUSR1)

    def _replace_workers(self) -> None:
        self._forward_reopen()
        for seat in self._seats:
            seat.replace()

    def _ask_for_upgrade(self) -> None:
        if self._upgrade is None or self._upgrade.done():
            self._upgrade = asyncio.get_running_loop().create_task(self._try_upgrade(), name="upgrade")

    async def _try_upgrade(self) -> None:
        """Ask the program that is installed now whether it can start; if so, let `run` come to its end."""
        checking = await asyncio.create_subprocess_exec(
            *_command_line("--check"), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
        )
        status = await checking.wait()
        if status:
            _log.error("not replaced: the new gateway could not start (status %d, its message is above)", status)
            return
        # A succession under way comes to its end first. Never given back, so that none begins any more.
        await self._turn.acquire()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._upgraded.set()

    def _leave(self) -> Handover:
        descriptors = self._listeners.descriptors()
        addresses = self._listeners.addresses
        return Handover(
            {(role, str(addresses[role])): each for role, each in descriptors.items()},
            [left for seat in self._seats for left in seat.leave()],
        )
