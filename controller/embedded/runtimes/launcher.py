"""The small process that forks, watches and reaps every container process of one `zerogate up`.

Why a process of its own:

* **Speed.** Forking the control process copies its page tables (hundreds of MiB of store, caches and Python) and may
  not run Python code safely between fork and exec. This one stays near 10 MiB and has one thread, so fork + exec costs
  under a millisecond, and the child may do what `posix_spawn` can't: setsid, chdir, PR_SET_PDEATHSIG.
* **No orphans.** It holds one end of a socket whose other end is in the control process. However that one ends, `kill
  -9` included, the socket closes and everything started here is killed. On Linux it is also the *subreaper*: what a
  container daemonised becomes its child when the parent goes, and is found and killed too. Should this process itself
  be killed, PR_SET_PDEATHSIG ends the containers' first processes.
* **Exact signals.** Only the one who reaps a process knows that its pid still means that process.

A container process leads its own session and process group. As a container ends with its first process, so here: when
the leader is gone, its group is killed, at once after a crash; while it is being stopped, the group's other members
may use up the grace period (`sh -c app` dies of SIGTERM before `app` has drained). `exit` is reported when the group
is empty or killed.

The wire is a Unix stream socket: frames of a 4-byte big-endian length and JSON. Requests: `{"op": "start", "id",
"argv", "env", "cwd"}` with two file descriptors (stdout, stderr) beside the first byte; `{"op": "signal", "id",
"signal"}`. Reports: `{"id", "pid"}`, `{"id", "errno", "stage"}` (stage "fork", "chdir" or "exec"), `{"id", "exit"}`
(0–255, or minus the signal).

Standard library only, and few modules of it: this file is run as a script under `python -I -S`.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import signal
import socket
import struct
import sys
from contextlib import suppress

TYPE_CHECKING = False  # the typing module would add a third to this process's memory
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Request = dict[str, Any]

_LENGTH = struct.Struct(">I")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LINUX = sys.platform == "linux"
_LINGER_TICK = 0.02
"""Seconds between looks at a stopped container's group whose leader is gone."""
MARKER = "ZEROGATE_CONTAINER"
"""The environment variable by which a daemonised process is told to which container it belonged."""


def _load_prctl() -> Callable[..., int] | None:
    if not _LINUX:
        return None
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = [ctypes.c_int, *(ctypes.c_ulong,) * 4]
    return prctl


_prctl = _load_prctl()


class Container:
    """One started process: `leader` is its pid and its group's id."""

    __slots__ = ("ident", "leader", "marker", "status", "stopping")

    def __init__(self, ident: int, leader: int, marker: str) -> None:
        self.ident = ident
        self.leader = leader
        self.marker = marker
        self.stopping = False
        self.status: int | None = None


class Launcher:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._pid = os.getpid()
        self._null = os.open(os.devnull, os.O_RDWR)
        self._inbox = bytearray()
        self._fds: list[int] = []
        self._by_ident: dict[int, Container] = {}
        self._by_leader: dict[int, Container] = {}
        self._lingering: dict[int, Container] = {}

    def run(self) -> None:
        """Serve until the control process is gone, then kill everything."""
        woken, wake = socket.socketpair()
        woken.setblocking(False)
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        selector = selectors.DefaultSelector()
        selector.register(self._channel, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        try:
            while True:
                ready = {key.fileobj for key, _ in selector.select(_LINGER_TICK if self._lingering else None)}
                if woken in ready:
                    woken.recv(4096)
                    self._reap()
                self._look_at_lingering()
                if self._channel in ready and not self._receive():
                    return
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            self._kill_all()

    def _receive(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._channel, 262144, 64)
        for fd in fds:
            os.set_inheritable(fd, False)
        self._fds += fds
        self._inbox += data
        while len(self._inbox) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._inbox)[0]
            if len(self._inbox) < end:
                break
            request = json.loads(self._inbox[_LENGTH.size : end])
            del self._inbox[:end]
            if request["op"] == "start":
                self._start(request)
            else:
                self._signal(request["id"], request["signal"])
        return bool(data)

    def _report(self, message: dict[str, object]) -> None:
        body = json.dumps(message).encode()
        # Blocking: the control process reads its end in its event loop, and nothing here is more urgent.
        self._channel.sendall(_LENGTH.pack(len(body)) + body)

    def _start(self, request: Request) -> None:
        out, err = self._fds.pop(0), self._fds.pop(0)
        failure, report = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:  # no more processes: this start fails, what runs lives on
            os.close(failure)
            self._report({"id": request["id"], "errno": error.errno, "stage": "fork"})
            return
        finally:
            # The child has copies; here nobody may keep a pipe open that a container has closed.
            if os.getpid() == self._pid:
                for fd in (out, err, report):
                    os.close(fd)
        if pid == 0:
            self._become(request, out, err, report)
        # EOF here means that exec closed the pipe: the program runs.
        reason = os.read(failure, 64)
        os.close(failure)
        if reason:
            os.waitpid(pid, 0)
            stage, code = reason.decode().split()
            self._report({"id": request["id"], "errno": int(code), "stage": stage})
            return
        container = Container(request["id"], pid, request["env"].get(MARKER, ""))
        self._by_ident[container.ident] = self._by_leader[pid] = container
        self._report({"id": container.ident, "pid": pid})

    def _become(self, request: Request, out: int, err: int, report: int) -> None:
        """The child: turn into the program, or say why not. Never returns."""
        stage = "exec"
        try:
            os.setsid()
            if _prctl is not None:
                _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != self._pid:  # it died before prctl took hold
                    os._exit(1)
            for signum in (
                signal.SIGCHLD,
                signal.SIGPIPE,
                signal.SIGINT,
                signal.SIGTERM,
                signal.SIGHUP,
                signal.SIGXFSZ,
            ):
                signal.signal(signum, signal.SIG_DFL)
            os.dup2(self._null, 0)
            os.dup2(out, 1)
            os.dup2(err, 2)
            stage = "chdir"
            os.chdir(request["cwd"])
            stage = "exec"
            _execute(request["argv"], request["env"])
        except OSError as error:
            os.write(report, f"{stage} {error.errno}".encode())
        except ValueError:  # a NUL in an argument or a variable
            os.write(report, f"{stage} {errno.EINVAL}".encode())
        finally:
            os._exit(127)

    def _signal(self, ident: int, signum: int) -> None:
        container = self._by_ident.get(ident)
        if container is None:
            return  # it ended while the request was on its way
        container.stopping = True
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(container.leader, signum)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            container = self._by_leader.pop(pid, None)
            if container is None:
                continue
            container.status = os.waitstatus_to_exitcode(status)
            if container.stopping and _group_exists(pid):
                self._lingering[pid] = container
            else:
                self._finish(container)
        self._kill_strays()

    def _look_at_lingering(self) -> None:
        for leader in [leader for leader in self._lingering if not _group_exists(leader)]:
            self._finish(self._lingering.pop(leader))
            self._kill_strays()

    def _finish(self, container: Container) -> None:
        # The kernel keeps a pid from being given away while a group bears it, so this can only hit our group.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(container.leader, signal.SIGKILL)
        del self._by_ident[container.ident]
        self._report({"id": container.ident, "exit": container.status})

    def _kill_strays(self) -> None:
        """End what left its container's group and outlived the container (it is our child by now)."""
        markers = {container.marker for container in self._by_ident.values()}
        for pid in _children():
            if pid in self._by_leader:
                continue
            marker = marker_of(pid)
            if marker and marker not in markers:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    def _kill_all(self) -> None:
        for container in self._by_ident.values():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(container.leader, signal.SIGKILL)
        # Each death can make us the parent of more; without children left, nothing of ours is left.
        while True:
            for pid in _children():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return


def _execute(argv: list[str], env: dict[str, str]) -> None:
    """execve of `argv[0]`, looked for along the PATH of `env` when it has no slash. Raises the OSError of the last try;
    a program found but not executable wins over one not found, as in a shell."""
    if "/" in argv[0]:
        os.execve(argv[0], argv, env)
    refusal: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for folder in env.get("PATH", os.defpath).split(":"):
        try:
            os.execve(f"{folder or '.'}/{argv[0]}", argv, env)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            refusal = error
    raise refusal


def _group_exists(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _children() -> list[int]:
    """This process's children; nothing where the kernel has no such list."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as listing:
            return [int(pid) for pid in listing.read().split()]
    except OSError:
        return []


def marker_of(pid: int) -> str:
    """To which container a process belongs, "" if to none or if it can't be told."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environ = file.read()
    except OSError:
        return ""
    start = MARKER.encode() + b"="
    return next((entry[len(start) :].decode() for entry in environ.split(b"\0") if entry.startswith(start)), "")


def main() -> None:
    # Ctrl-C and a closing terminal are for the control process, which then stops us in good order.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    if _prctl is not None:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # Containers get three descriptors: not our channel, nor what we inherited ourselves.
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # the listing's own is closed by now
            if int(name) > 2:
                os.set_inheritable(int(name), False)
    Launcher(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
