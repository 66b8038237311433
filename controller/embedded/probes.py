"""Carries out a container's probes: one attempt, its result and the sentence that explains a failure.

On loopback a non-blocking connect is decided when it returns: established, or refused because nobody listens. So an
attempt on a port of this machine asks that first, for some 30 µs instead of the event loop's 200, and goes on with the
connection if it has one. While an application starts, nearly every probe is a refusal, and a hundred starting at once
are probed four thousand times a second.

HTTP is kubelet's: GET, `Connection: close`, `User-Agent: kube-probe/zerogate`, 200–399 passes, a redirect is not
followed, TLS is not verified. A gRPC probe calls grpc.health.v1.Health/Check, and SERVING passes.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.embedded.podphase import POD_IP
from controller.embedded.runtimes import Completed, RuntimeGone, StartError
from gateway.core.onecall import health_call, health_verdict
from gateway.errors import UpstreamProtocolError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from controller.embedded.podphase import Probe

_USER_AGENT = "kube-probe/zerogate"
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[ \r\n]")


@dataclass(frozen=True, slots=True)
class Result:
    passed: bool
    message: str = ""


async def attempt(probe: Probe, run: Callable[[tuple[str, ...], float], Awaitable[Completed]]) -> Result:
    """Probe once within the probe's timeout. `run` executes a command beside the container."""
    if probe.command:
        return await _command(probe, run)
    connection = _dial(probe)
    if isinstance(connection, str):
        return Result(False, connection)
    if probe.path:
        return await _http(probe, connection)
    if probe.service is not None:
        return await _grpc(probe, probe.service, connection)
    if connection is None:
        return await _connect(probe)
    connection.close()
    return Result(True)


def _dial(probe: Probe) -> socket.socket | str | None:
    """A connection to a port of this machine, or why it does not answer; None if that takes waiting."""
    if probe.host != POD_IP:
        return None
    if not probe.port:
        return f"the {probe.kind} probe names no port and the container declares none"
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.setblocking(False)
    code = connection.connect_ex((POD_IP, probe.port))
    if code == errno.EINPROGRESS:
        code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code == 0:
        with suppress(OSError):  # not connected yet
            connection.getpeername()
            return connection
        code = errno.EINPROGRESS
    connection.close()
    if code == errno.EINPROGRESS:
        return None
    if code == errno.ECONNREFUSED:
        return f"nothing listens on port {probe.port} (the process must listen on the port in its PORT variable)"
    return f"port {probe.port}: {os.strerror(code)}"


async def _connect(probe: Probe) -> Result:
    try:
        async with asyncio.timeout(probe.timeout):
            _, writer = await asyncio.open_connection(probe.host, probe.port)
    except (OSError, TimeoutError) as error:
        return Result(False, f"port {probe.port} does not answer: {_reason(error, probe)}")
    writer.transport.abort()
    return Result(True)


async def _http(probe: Probe, connection: socket.socket | None) -> Result:
    url = f"{probe.scheme.lower()}://{probe.host}:{probe.port}{probe.path}"
    try:
        async with asyncio.timeout(probe.timeout):
            status = await _get(probe, connection)
    except (OSError, TimeoutError) as error:
        return Result(False, f"GET {url}: {_reason(error, probe)}")
    if status is None:
        return Result(False, f"GET {url}: the answer is not HTTP/1.1")
    if 200 <= status < 400:
        return Result(True)
    return Result(False, f"GET {url}: HTTP probe failed with statuscode: {status}")


async def _get(probe: Probe, connection: socket.socket | None) -> int | None:
    tls = _unverified() if probe.scheme == "HTTPS" else None
    if connection is None:
        reader, writer = await asyncio.open_connection(probe.host, probe.port, ssl=tls)
    else:
        name = probe.host if tls else None
        reader, writer = await asyncio.open_connection(sock=connection, ssl=tls, server_hostname=name)
    try:
        writer.write(_request(probe))
        match = _STATUS_LINE.match(await _first_line(reader))
        return int(match[1]) if match else None
    finally:
        writer.transport.abort()


async def _grpc(probe: Probe, service: str, connection: socket.socket | None) -> Result:
    where = f"gRPC health check of port {probe.port}"
    try:
        async with asyncio.timeout(probe.timeout):
            verdict = await _health(probe, service, connection)
    except (OSError, TimeoutError) as error:
        return Result(False, f"{where}: {_reason(error, probe)}")
    except UpstreamProtocolError as error:
        return Result(False, f"{where}: the answer is not HTTP/2: {error}")
    return Result(not verdict, verdict and f"{where}: {verdict}")


async def _health(probe: Probe, service: str, connection: socket.socket | None) -> str:
    """ "" if the service is SERVING, else what it is. Raises UpstreamProtocolError for anything but HTTP/2."""
    if connection is None:
        reader, writer = await asyncio.open_connection(probe.host, probe.port)
    else:
        reader, writer = await asyncio.open_connection(sock=connection)
    try:
        call = health_call(f"{probe.host}:{probe.port}", service, _USER_AGENT)
        writer.write(call.begin)
        while not call.done:
            data = await reader.read(65536)
            if not data:
                return "the server closed the connection"
            writer.write(call.feed(data))
        return health_verdict(call)
    finally:
        writer.transport.abort()


async def _first_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:  # longer than the reader's limit of 64 KiB
        return b""


def _request(probe: Probe) -> bytes:
    fields = {"Host": f"{probe.host}:{probe.port}", "User-Agent": _USER_AGENT, "Accept": "*/*"}
    for name, value in probe.headers:
        fields[next((known for known in fields if known.lower() == name.lower()), name)] = value
    lines = [f"GET {probe.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "Connection: close"]
    return "".join(re.sub(r"[\r\n]", "", line) + "\r\n" for line in [*lines, ""]).encode()


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _command(probe: Probe, run: Callable[[tuple[str, ...], float], Awaitable[Completed]]) -> Result:
    try:
        done = await run(probe.command, probe.timeout)
    except TimeoutError:
        return Result(False, f'command "{" ".join(probe.command)}" timed out after {probe.timeout:g}s')
    except (StartError, RuntimeGone) as error:
        return Result(False, str(error))
    return Result(done.code == 0, done.output or f'command "{" ".join(probe.command)}" exited with code {done.code}')


def _reason(error: Exception, probe: Probe) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {probe.timeout:g}s"
    if isinstance(error, ssl.SSLError):  # its errno is not the system's
        return f"no TLS is spoken there ({error.reason or error})"
    with suppress(TypeError, ValueError):
        return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return str(error)
