"""Containers as local processes: starts them through the launcher, files their output, tells how they ended.

Each container is a process group of the launcher's (see `launcher`: fork in under a millisecond, nobody survives us).
This module is its client in the event loop: one Unix socket for requests and reports, and per process two pipes whose
lines go to the container's log.

**Working directory.** A container without `workingDir` starts in the directory in which `zerogate up` was started, and
a relative one is taken from there: `command: [python, app.py]` in a project's folder means that project's file, as a
shell would read it. An image would bring a file system of its own; there is none here.

**Leftovers.** Should the launcher be killed together with the control process, what containers daemonised survives.
So every start is noted in `<data dir>/processes` (pid, start time, marker), and `open` kills whatever of that still
runs: the group of a leader with the noted start time (which tells it from a later process with the same pid), and
whatever carries a noted marker in its environment. Both need /proc; without it the launcher alone must do.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from controller.embedded.datadir import private_opener
from controller.embedded.runtimes import Completed, Exit, Launch, RuntimeGone, StartError, launcher

if TYPE_CHECKING:
    from controller.embedded.logfile import LogWriter

_LENGTH = struct.Struct(">I")
_READ = 64 * 1024
_OUTPUT_LIMIT = 10 * 1024
"""Bytes kept of what a probe or hook writes, as kubelet keeps of an exec probe."""
_JOURNAL_LIMIT = 4096
"""Noted starts after which the journal is written anew with those still running."""
_CLOSE_TIMEOUT = 10.0

Sink = Callable[[str, bytes], None]


class ProcessRuntime:
    """The Runtime of local processes. `data_dir` holds the journal; `working_dir` is where relative paths begin."""

    def __init__(self, data_dir: Path, working_dir: Path) -> None:
        self._journal = _Journal(data_dir / "processes")
        self._working_dir = working_dir
        self._launcher: _LauncherClient | None = None
        self._oom_kills = 0
        self._spawning = asyncio.Lock()

    async def open(self) -> None:
        self._journal.kill_leftovers()
        self._oom_kills = _oom_kills()
        self._launcher = await _LauncherClient.spawn()

    async def close(self) -> None:
        if self._launcher is not None:
            await self._launcher.close()
            self._launcher = None
            self._journal.clear()

    async def start(self, launch: Launch, log: LogWriter, on_exit: Callable[[Exit], None]) -> LocalProcess:
        process = await self._start(launch, lambda stream, data: log.write(stream, data, datetime.now(UTC)), on_exit)
        self._journal.note(process.pid, launch.marker)
        return process

    async def run(self, launch: Launch, timeout: float) -> Completed:
        output = bytearray()
        ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

        def keep(_stream: str, data: bytes) -> None:
            output.extend(data)
            del output[:-_OUTPUT_LIMIT]

        process = await self._start(launch, keep, lambda end: None if ended.done() else ended.set_result(end))
        try:
            end = await asyncio.wait_for(ended, timeout)
        finally:
            process.signal(signal.SIGKILL)
        return Completed(end.code, output.decode(errors="replace").strip())

    async def _start(self, launch: Launch, sink: Sink, on_exit: Callable[[Exit], None]) -> LocalProcess:
        client = await self._client()
        request: dict[str, object] = {
            "argv": launch.argv,
            "env": {**launch.env, launcher.MARKER: launch.marker},
            "cwd": os.path.join(self._working_dir, launch.working_dir),
        }
        return await client.start(
            request, sink, lambda code: on_exit(self._exit(code)), lambda stage, code: _refusal(launch, stage, code)
        )

    async def _client(self) -> _LauncherClient:
        """The launcher; a new one when it has died (its containers went with it: by PR_SET_PDEATHSIG, or now, by the
        journal)."""
        async with self._spawning:
            if self._launcher is None:
                raise RuntimeGone("the process runtime is closed")
            if self._launcher.closed:
                await self._launcher.close()
                self._journal.kill_leftovers()
                self._launcher = await _LauncherClient.spawn()
            return self._launcher

    def _exit(self, status: int) -> Exit:
        if status >= 0:
            return Exit(status)
        out_of_memory = False
        if -status == signal.SIGKILL:
            # Who sent a SIGKILL is not told; that the kernel has killed for memory since the last look is.
            kills = _oom_kills()
            out_of_memory, self._oom_kills = kills > self._oom_kills, kills
        return Exit(128 - status, -status, out_of_memory)


class LocalProcess:
    """A started process: its place at the launcher and the two pipes it writes to."""

    def __init__(self, client: _LauncherClient, ident: int, sink: Sink, on_exit: Callable[[int], None]) -> None:
        self.pid = 0
        self._client = client
        self._ident = ident
        self._sink = sink
        self._on_exit = on_exit
        self._pipes: dict[int, str] = {}

    def signal(self, signum: int) -> None:
        self._client.signal(self._ident, signum)

    def read_from(self, fd: int, stream: str) -> None:
        os.set_blocking(fd, False)
        self._pipes[fd] = stream
        asyncio.get_running_loop().add_reader(fd, self._readable, fd)

    def ended(self, status: int) -> None:
        """Take what is left in the pipes, then report. Someone who escaped with a pipe keeps nobody waiting."""
        for fd in list(self._pipes):
            while self._readable(fd):
                pass
            self._close(fd)
        self._on_exit(status)

    def abandon(self) -> None:
        for fd in list(self._pipes):
            self._close(fd)

    def _readable(self, fd: int) -> bool:
        """Pass one read on; False when there is nothing (left)."""
        try:
            data = os.read(fd, _READ)
        except BlockingIOError:
            return False
        if data:
            self._sink(self._pipes[fd], data)
            return True
        self._close(fd)
        return False

    def _close(self, fd: int) -> None:
        if self._pipes.pop(fd, None) is not None:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)


@dataclass(slots=True)
class _Frame:
    """A request on its way: what is still to be sent, and descriptors that go with its first byte and are closed."""

    data: memoryview
    fds: tuple[int, ...]


class _LauncherClient:
    """The control process's end of the launcher's socket. Requests are sent at once as far as the socket takes them;
    the agent bounds how many starts are under way, and with them what waits here."""

    def __init__(self, channel: socket.socket, process: asyncio.subprocess.Process) -> None:
        self.closed = False
        self._channel = channel
        self._process = process
        self._inbox = bytearray()
        self._outbox: deque[_Frame] = deque()
        self._running: dict[int, LocalProcess] = {}
        self._starting: dict[int, asyncio.Future[dict[str, int | str]]] = {}
        self._last = 0
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(channel.fileno(), self._readable)

    @classmethod
    async def spawn(cls) -> _LauncherClient:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                launcher.__file__,
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        ours.setblocking(False)
        return cls(ours, process)

    async def start(
        self,
        request: dict[str, object],
        sink: Sink,
        on_exit: Callable[[int], None],
        refusal: Callable[[str, int], StartError],
    ) -> LocalProcess:
        out, out_end, err, err_end = _two_pipes()
        self._last += 1
        ident = self._last
        process = self._running[ident] = LocalProcess(self, ident, sink, on_exit)
        reply = self._starting[ident] = self._loop.create_future()
        process.read_from(out, "stdout")
        process.read_from(err, "stderr")
        self._post({**request, "op": "start", "id": ident}, (out_end, err_end))
        try:
            # Shielded: a start under way when its caller is cancelled still has to be taken down.
            answer = await asyncio.shield(reply)
        except asyncio.CancelledError:
            self.signal(ident, signal.SIGKILL)
            raise
        if "pid" not in answer:
            raise refusal(str(answer["stage"]), int(answer["errno"]))
        return process

    def signal(self, ident: int, signum: int) -> None:
        if ident in self._running:
            self._post({"op": "signal", "id": ident, "signal": int(signum)})

    async def close(self) -> None:
        """Let the launcher kill what runs and end; its own end is waited for, so that nothing runs on."""
        self._lost()
        try:
            await asyncio.wait_for(self._process.wait(), _CLOSE_TIMEOUT)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def _post(self, message: dict[str, object], fds: tuple[int, ...] = ()) -> None:
        body = json.dumps(message).encode()
        self._outbox.append(_Frame(memoryview(_LENGTH.pack(len(body)) + body), fds))
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._outbox and not self.closed:
            frame = self._outbox[0]
            try:
                sent = (
                    socket.send_fds(self._channel, [frame.data], frame.fds)
                    if frame.fds
                    else self._channel.send(frame.data)
                )
            except BlockingIOError:
                self._loop.add_writer(self._channel.fileno(), self._flush)
                return
            except OSError:
                self._lost()
                return
            for fd in frame.fds:
                os.close(fd)
            frame.data, frame.fds = frame.data[sent:], ()
            if not frame.data:
                self._outbox.popleft()
        if not self.closed:
            self._loop.remove_writer(self._channel.fileno())

    def _readable(self) -> None:
        try:
            data = self._channel.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        self._inbox += data
        while len(self._inbox) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._inbox)[0]
            if len(self._inbox) < end:
                return
            report = json.loads(self._inbox[_LENGTH.size : end])
            del self._inbox[:end]
            self._take(report)

    def _take(self, report: dict[str, int | str]) -> None:
        ident = int(report["id"])
        if "exit" in report:
            self._running.pop(ident).ended(int(report["exit"]))
            return
        if "pid" in report:
            self._running[ident].pid = int(report["pid"])
        else:
            self._running.pop(ident).abandon()
        self._starting.pop(ident).set_result(report)

    def _lost(self) -> None:
        """The launcher is gone or let go: what it ran is dead or dying by SIGKILL."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._channel.fileno())
        self._loop.remove_writer(self._channel.fileno())
        self._channel.close()
        for frame in self._outbox:
            for fd in frame.fds:
                os.close(fd)
        running, starting = self._running, self._starting
        self._running, self._starting, self._outbox = {}, {}, deque()
        for ident, reply in starting.items():
            running.pop(ident).abandon()
            reply.set_exception(RuntimeGone("the launcher of container processes has ended"))
            reply.exception()  # whoever was cancelled meanwhile does not look at it
        for process in running.values():
            process.ended(-signal.SIGKILL)


def _two_pipes() -> tuple[int, int, int, int]:
    """Raises StartError when the process has no descriptors left."""
    try:
        first = os.pipe()
        try:
            return *first, *os.pipe()
        except OSError:
            os.close(first[0])
            os.close(first[1])
            raise
    except OSError as error:
        raise StartError(f"no pipe for the output: {error.strerror} (raise the limit with ulimit -n)") from error


class _Journal:
    """Which processes were started, on disk: one line `pid start-time marker` each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = 0

    def note(self, pid: int, marker: str) -> None:
        if self._lines >= _JOURNAL_LIMIT:
            self._compact()
        with open(self._path, "a", encoding="ascii", opener=private_opener) as file:
            file.write(f"{pid} {_start_time(pid)} {marker}\n")
        self._lines += 1

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)
        self._lines = 0

    def kill_leftovers(self) -> None:
        noted = self._read()
        if noted:
            markers = {marker for _, marker in noted.values()}
            for pid in _processes():
                leader = _group_of(pid)
                known = leader in noted and _start_time(leader) == noted[leader][0]
                if known or launcher.marker_of(pid) in markers:
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)
        self.clear()

    def _compact(self) -> None:
        alive = {pid: entry for pid, entry in self._read().items() if _start_time(pid) == entry[0]}
        fresh = self._path.with_suffix(".new")
        with open(fresh, "w", encoding="ascii", opener=private_opener) as file:
            file.writelines(f"{pid} {began} {marker}\n" for pid, (began, marker) in alive.items())
        fresh.replace(self._path)
        self._lines = len(alive)

    def _read(self) -> dict[int, tuple[str, str]]:
        """pid → (start time, marker); a line cut off by a crash is none, nor is anything else."""
        try:
            lines = self._path.read_text("ascii", errors="replace").splitlines(keepends=True)
        except FileNotFoundError:
            return {}
        entries = (line.split() for line in lines if line.endswith("\n"))
        return {int(entry[0]): (entry[1], entry[2]) for entry in entries if len(entry) == 3 and entry[0].isdigit()}


def _refusal(launch: Launch, stage: str, code: int) -> StartError:
    reason = os.strerror(code)
    if stage == "chdir":
        return StartError(f'workingDir "{launch.working_dir}": {reason}')
    if stage == "fork":
        return StartError(f"no process could be made: {reason} (raise the limit with ulimit -u)")
    program = launch.argv[0]
    if "/" not in program and code == 2:
        return StartError(f'exec: "{program}": executable file not found in $PATH')
    return StartError(f'exec: "{program}": {reason}')


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except FileNotFoundError:
        return []


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command name, which may hold anything; [] if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return []
    return text[text.rindex(b")") + 2 :].decode("ascii").split()


def _group_of(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[2]) if fields else 0


def _start_time(pid: int) -> str:
    """Clock ticks from boot to the start of the process, with the boot's id; "" if unknown."""
    fields = _stat(pid)
    return f"{_boot_id()}:{fields[19]}" if fields else ""


@cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _oom_kills() -> int:
    try:
        match = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text("ascii"), re.MULTILINE)
    except OSError:
        return 0
    return int(match[1]) if match else 0
