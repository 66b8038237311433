"""Probes against real peers: what passes, and the sentence when it does not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from dataclasses import replace
from datetime import UTC, datetime

import grpc
import pytest

from controller.embedded import probes
from controller.embedded.credentials import load_or_create
from controller.embedded.podphase import Probe
from controller.embedded.runtimes import Completed, StartError

HTTP = Probe("readiness", path="/ready", timeout=0.2)
OK = b"HTTP/1.1 200 OK\r\n\r\n"


async def never(argv, timeout):
    raise AssertionError("no command is run")


@contextlib.asynccontextmanager
async def peer(answer: bytes | None, tls: ssl.SSLContext | None = None):
    """A server that answers everything with `answer` (None: nothing at all) → (port, list of requests)."""
    requests, served = [], []

    async def serve(reader, writer):
        served.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            if answer is not None:
                writer.write(answer)
                await writer.drain()
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1], requests
        await asyncio.gather(*served)


@pytest.mark.parametrize(
    ("status", "passed"), [(b"200 OK", True), (b"302 Found", True), (b"399", True), (b"404 No", False), (b"503", False)]
)
async def test_two_and_three_hundreds_pass(status, passed):
    """200 to 399 pass; other statuses fail, with URL and status in the message."""
    async with peer(b"HTTP/1.1 " + status + b"\r\n\r\n") as (port, _):
        result = await probes.attempt(replace(HTTP, port=port), never)
    assert result.passed is passed
    if not passed:
        code = status[:3].decode()
        assert result.message == f"GET http://127.0.0.1:{port}/ready: HTTP probe failed with statuscode: {code}"


async def test_the_request_is_kubelets_with_the_users_fields():
    """A Host the user gives replaces ours; nobody can smuggle a field in with a line break."""
    headers = (("host", "a.example"), ("X-A", "1\r\nX-B: 2"))
    async with peer(OK) as (port, requests):
        await probes.attempt(replace(HTTP, port=port, headers=headers), never)
    lines = requests[0].decode().split("\r\n")
    assert lines[0] == "GET /ready HTTP/1.1"
    assert "Host: a.example" in lines
    assert "X-A: 1X-B: 2" in lines
    assert "Connection: close" in lines


async def test_https_without_tls_is_told():
    """OpenSSL's error numbers are not the system's."""

    async def plain(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        result = await probes.attempt(replace(HTTP, port=port, scheme="HTTPS", timeout=5), never)
    assert not result.passed
    assert result.message.startswith(f"GET https://127.0.0.1:{port}/ready: no TLS is spoken there")


async def test_https_is_not_verified(tmp_path):
    """As in Kubernetes, a probe takes any certificate."""
    credentials = load_or_create(tmp_path, datetime.now(UTC))
    async with peer(OK, credentials.server_context()) as (port, _):
        result = await probes.attempt(replace(HTTP, port=port, scheme="HTTPS", timeout=5), never)
    assert result.passed


async def test_an_answer_that_is_not_http():
    """A peer with another protocol fails the probe, and the message says so."""
    async with peer(b"220 smtp ready\r\n") as (port, _):
        result = await probes.attempt(replace(HTTP, port=port), never)
    assert result.message == f"GET http://127.0.0.1:{port}/ready: the answer is not HTTP/1.1"


async def test_silence_ends_with_the_timeout():
    """A peer that says nothing fails the probe after its seconds."""
    async with peer(None) as (port, _):
        result = await probes.attempt(replace(HTTP, port=port), never)
    assert result.message == f"GET http://127.0.0.1:{port}/ready: no answer within 0.2s"


async def test_a_listening_port_passes_a_tcp_probe():
    """A connection is all that a TCP probe asks for."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert (await probes.attempt(Probe("readiness", port=port), never)).passed


@pytest.mark.parametrize("probe", [HTTP, Probe("readiness")])
async def test_a_port_nobody_listens_on_is_named(probe):
    """The commonest mistake, another port than PORT, is in the message."""
    with socket.socket() as holder:  # bound, not listening: nobody else can
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        result = await probes.attempt(replace(probe, port=port), never)
    assert not result.passed
    assert result.message.startswith(f"nothing listens on port {port} (the process must listen on the port in its PORT")


async def test_a_probe_without_a_port_says_so():
    """Nothing is dialled where neither probe nor container names a port."""
    result = await probes.attempt(Probe("liveness"), never)
    assert result.message == "the liveness probe names no port and the container declares none"


@pytest.mark.parametrize(
    ("outcome", "passed", "message"),
    [
        (Completed(0, "fine"), True, "fine"),
        (Completed(1, "not yet"), False, "not yet"),
        (Completed(2, ""), False, 'command "check it" exited with code 2'),
        (TimeoutError(), False, 'command "check it" timed out after 1s'),
        (StartError("exec: no"), False, "exec: no"),
    ],
)
async def test_a_command_passes_with_exit_code_zero(outcome, passed, message):
    """Else the message is its output, or why there is none."""

    async def run(argv, timeout):
        assert (argv, timeout) == (("check", "it"), 1.0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    result = await probes.attempt(Probe("readiness", command=("check", "it")), run)
    assert (result.passed, result.message) == (passed, message)


async def test_refused_probes_leave_no_descriptor_open():
    """A probe that fails for hours must not use up the process's files."""
    before = len(os.listdir("/dev/fd"))
    for _ in range(50):
        await probes.attempt(replace(HTTP, port=1), never)
    assert len(os.listdir("/dev/fd")) == before


@contextlib.asynccontextmanager
async def health_server(states: dict[str, bytes]):
    """A gRPC server with the states of services (as messages) → port."""

    async def check(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        name = request[2:].decode()
        if name not in states:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return states[name]

    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(None)


async def test_grpc_probes():
    """SERVING passes; any other state, an unknown service and a server without the health service each say why."""
    async with health_server({"": b"\x08\x01", "down": b"\x08\x02"}) as port:
        probe = Probe("readiness", port=port, service="", timeout=5.0)
        assert (await probes.attempt(probe, never)).passed
        down = await probes.attempt(replace(probe, service="down"), never)
        assert down == probes.Result(False, f"gRPC health check of port {port}: the service is NOT_SERVING")
        missing = await probes.attempt(replace(probe, service="x" * 200), never)
        assert missing.message.endswith("grpc-status is 5 unknown service")


async def test_a_grpc_probe_of_a_server_that_speaks_http1():
    """The sentence names what came instead."""
    async with peer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as (port, _):
        result = await probes.attempt(Probe("readiness", port=port, service="", timeout=5.0), never)
    assert not result.passed
    assert f"gRPC health check of port {port}: the answer is not HTTP/2" in result.message
