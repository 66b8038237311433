"""Finds out, sooner than Kubernetes says, that an endpoint takes traffic.

Theory of operation
-------------------
A cold request waits for one thing: that the new process listens. The way through the kubelet, the API server and the
EndpointSlice takes far longer than that, so each worker asks the endpoint itself: a TCP connect, a GET with a status
from 200 to 399 where the revision has an HTTP probe, or a gRPC health check that says SERVING. A GET is asked in the
protocol that the requests will come in; where that is yet to be found out, in HTTP/1.1 and HTTP/2 by turns. The first
attempt is made at once, then:

- where the connect is refused at once (a process of this machine that does not listen yet), every millisecond at
  first, and later after a fiftieth of the wait so far, so that the probing adds 1 % to a start. Half of a fixed 10 ms
  was a fifth of the platform's share of a cold start;
- else every 10 ms for 3 s;
- every 100 ms up to 10 s;
- every second from then on, for as long as the endpoint exists. A process that crashes at start costs next to nothing.

The more endpoints are being probed the longer the interval, 0.25 ms for each at least, which bounds one worker at 4,000
attempts a second: a hundred services that start together need the CPU for starting.

A refused connect on the same machine is known from the system call itself, so an attempt is a socket, a `connect` and
a `close` without any task (about 40 µs). Only a connect in progress and an HTTP exchange run as tasks; there are
at most `limit` of these. Attempts that are due wait in a queue, first come first served, and a turn of the loop makes
PER_TURN of them at most: a worker that starts among ten thousand services serves the first before it knows the last.

The result arrives as a callback in the same turn of the loop, which is where waiting requests are sent out.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from gateway.core.onecall import get_call, health_call, health_verdict
from gateway.errors import UpstreamProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from gateway.contract import Endpoint, Probe
    from gateway.core.onecall import OneCall

__all__ = ["PER_TURN", "Prober", "interval"]

PER_TURN = 50
"""Attempts in one turn of the loop: 2 ms."""

_FAST_UNTIL, _MEDIUM_UNTIL = 3.0, 10.0
_FAST, _MEDIUM, _SLOW, _PER_PROBED = 0.010, 0.100, 1.0, 0.00025
_REFUSED_FIRST, _REFUSED_SHARE = 0.001, 0.02

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")
_STATUS_LINE_LIMIT = 8192
_READ_SIZE = 65536
_USER_AGENT = "kube-probe/zerogate"  # applications know the prefix and keep such requests out of their logs


def interval(age: float, probed: int, *, refused: bool) -> float:
    """Seconds to the next attempt for an endpoint probed for `age` seconds, one of `probed` endpoints. `refused`: the
    last attempt was no more than a system call."""
    wanted = _FAST if age < _FAST_UNTIL else _MEDIUM if age < _MEDIUM_UNTIL else _SLOW
    if refused:
        wanted = min(wanted, max(_REFUSED_FIRST, age * _REFUSED_SHARE))
    return max(wanted, probed * _PER_PROBED)


class _Target:
    __slots__ = ("endpoint", "in_http2", "passed", "probe", "since", "task", "timer")

    def __init__(self, endpoint: Endpoint, probe: Probe, passed: Callable[[], None], now: float) -> None:
        self.endpoint = endpoint
        self.probe = probe
        self.passed = passed
        self.in_http2 = probe.protocol == "h2c"
        self.since = now
        self.timer: asyncio.Handle | None = None
        self.task: asyncio.Task[None] | None = None


class Prober:
    """Probes endpoints until they pass or are stopped. To be used from within the running loop only.

    `failures` counts attempts that did not pass.
    """

    def __init__(self, *, limit: int = 128) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._targets: dict[Hashable, _Target] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._due: deque[tuple[Hashable, _Target]] = deque()
        self._has_turn = False
        self.failures = 0

    def __len__(self) -> int:
        return len(self._targets)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._targets

    def start(self, key: Hashable, endpoint: Endpoint, probe: Probe, passed: Callable[[], None]) -> None:
        """Probe until success, then forget the key and call `passed` once. A key that is probed already starts anew.

        `endpoint.host` is an IP address: nothing is resolved here.
        """
        self.stop(key)
        target = self._targets[key] = _Target(endpoint, probe, passed, self._loop.time())
        self._fall_due(key, target)

    def stop(self, key: Hashable) -> None:
        """Stop probing; `passed` will not be called any more."""
        target = self._targets.pop(key, None)
        if target is None:
            return
        if target.timer is not None:
            target.timer.cancel()
        if target.task is not None:
            target.task.cancel()

    async def close(self) -> None:
        """Stop everything and wait until no socket is left."""
        for key in list(self._targets):
            self.stop(key)
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _fall_due(self, key: Hashable, target: _Target) -> None:
        target.timer = None
        self._due.append((key, target))
        self._go_on()

    def _go_on(self) -> None:
        """Have a turn of the loop for what is due, unless the tasks are as many as may be: the end of one goes on."""
        if self._due and not self._has_turn and len(self._tasks) < self._limit:
            self._has_turn = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._has_turn = False
        for _ in range(min(len(self._due), PER_TURN)):
            if len(self._tasks) >= self._limit:
                return
            key, target = self._due.popleft()
            if self._targets.get(key) is target:
                self._attempt(key, target)
        self._go_on()

    def _attempt(self, key: Hashable, target: _Target) -> None:
        try:
            sock, connected = _dial(target.endpoint)
        except OSError:
            self._failed(key, target, refused=True)
            return
        if connected and _is_connect(target.probe):
            sock.close()
            self._passed(key, target)
            return
        task = self._loop.create_task(self._exchange(key, target, sock, connected), name=f"probe {target.endpoint.pod}")
        target.task = task
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        # Here and not in the task: one that is cancelled before its first step would never close it.
        task.add_done_callback(lambda _: sock.close())

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._go_on()

    async def _exchange(self, key: Hashable, target: _Target, sock: socket.socket, connected: bool) -> None:
        passes = False
        with suppress(OSError, TimeoutError, UpstreamProtocolError):
            async with asyncio.timeout(target.probe.timeout):
                if not connected:
                    await self._writable(sock)
                passes = await self._passes(sock, target)
        target.task = None
        if self._targets.get(key) is not target:
            return
        if passes:
            self._passed(key, target)
        else:
            self._failed(key, target, refused=False)

    async def _writable(self, sock: socket.socket) -> None:
        """Wait for the end of a connect in progress; OSError if it failed."""
        event = asyncio.Event()
        self._loop.add_writer(sock.fileno(), event.set)
        try:
            await event.wait()
        finally:
            self._loop.remove_writer(sock.fileno())
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, "connect failed")

    async def _passes(self, sock: socket.socket, target: _Target) -> bool:
        endpoint, probe = target.endpoint, target.probe
        authority = f"{endpoint.host}:{endpoint.port}"
        if probe.grpc_service is not None:
            call = await self._called(sock, health_call(authority, probe.grpc_service, _USER_AGENT))
            return call is not None and not health_verdict(call)
        if probe.path is None:
            return True
        in_http2 = target.in_http2
        if probe.protocol == "detect":
            target.in_http2 = not in_http2
        if not in_http2:
            return await self._get(sock, endpoint, probe)
        call = await self._called(sock, get_call(authority, probe.path, (("user-agent", _USER_AGENT), *probe.fields)))
        return call is not None and call.head is not None and 200 <= call.head.status < 400

    async def _called(self, sock: socket.socket, call: OneCall) -> OneCall | None:
        """The call when it is done; None if the endpoint closes before. Raises UpstreamProtocolError."""
        await self._loop.sock_sendall(sock, call.begin)
        while not call.done:
            data = await self._loop.sock_recv(sock, _READ_SIZE)
            if not data:
                return None
            await self._loop.sock_sendall(sock, call.feed(data))
        return call

    async def _get(self, sock: socket.socket, endpoint: Endpoint, probe: Probe) -> bool:
        """One GET; True for a status that Kubernetes calls a success (200 to 399)."""
        await self._loop.sock_sendall(sock, _request(endpoint, probe))
        received = b""
        while b"\n" not in received and len(received) < _STATUS_LINE_LIMIT:
            data = await self._loop.sock_recv(sock, _STATUS_LINE_LIMIT)
            if not data:
                return False
            received += data
        match = _STATUS_LINE.match(received)
        return match is not None and 200 <= int(match[1]) < 400

    def _passed(self, key: Hashable, target: _Target) -> None:
        del self._targets[key]
        target.passed()

    def _failed(self, key: Hashable, target: _Target, *, refused: bool) -> None:
        self.failures += 1
        delay = interval(self._loop.time() - target.since, len(self._targets), refused=refused)
        target.timer = self._loop.call_later(delay, self._fall_due, key, target)


def _is_connect(probe: Probe) -> bool:
    return probe.path is None and probe.grpc_service is None


def _dial(endpoint: Endpoint) -> tuple[socket.socket, bool]:
    """A non-blocking socket and whether it is connected yet; OSError if the endpoint refused."""
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    socket.inet_pton(family, endpoint.host)  # OSError for a name, which `connect` would look up while the loop stands
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        sock.connect((endpoint.host, endpoint.port))
    except BlockingIOError:
        return sock, False
    except OSError:
        sock.close()
        raise
    return sock, True


def _request(endpoint: Endpoint, probe: Probe) -> bytes:
    fields = {"host": f"{endpoint.host}:{endpoint.port}", "user-agent": _USER_AGENT, **dict(probe.fields)}
    lines = [f"GET {probe.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "connection: close"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
