"""Clients and endpoints that would have the gateway's memory grow, in one process with it."""

from __future__ import annotations

import asyncio
import resource
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from gateway.config import Limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.sockets.gateway import Gateway

GET = b"GET / HTTP/1.1\r\nHost: hello.default.localhost\r\n\r\n"


async def still(value: Callable[[], int]) -> int:
    """What `value` comes to when it has been the same over many turns of the loop, which moves all the bytes here."""
    before, turns = -1, 0
    async with asyncio.timeout(20):
        while turns < 500:
            turns = turns + 1 if value() == before else 0
            before = value()
            await asyncio.sleep(0)
    return before


def kept(gateway: Gateway) -> int:
    """Bytes that the connections to clients keep: to be sent, and not yet taken up."""
    return sum(one._transport.get_write_buffer_size() + len(one._buffer) for one in gateway.listener.connections)


@pytest.fixture
async def silent(gateway: Gateway) -> AsyncIterator[socket.socket]:
    """A client that reads nothing by itself, and for which the kernel keeps little."""
    gateway.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", gateway.port))
        yield client


@pytest.mark.parametrize("host", [b"hello.default.localhost", b"nowhere"])
async def test_a_client_that_asks_and_asks_and_does_not_read(
    gateway: Gateway, silent: socket.socket, host: bytes
) -> None:
    """Neither its requests nor the answers pile up, whether those come from an endpoint or from here."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)

    gateway.route(await gateway.endpoint(endpoint))
    requests = GET.replace(b"hello.default.localhost", host) * 1000
    with suppress(BlockingIOError):
        for _ in range(1000):
            silent.send(requests)
            await asyncio.sleep(0)
    await still(lambda: kept(gateway))
    assert 0 < kept(gateway) < 1024 * 1024
    (connection,) = gateway.listener.connections
    assert not connection._transport.is_reading()


async def test_a_head_that_comes_in_many_pieces_is_whole(gateway: Gateway) -> None:
    """Byte by byte as well as at once."""
    gateway.route()
    request = GET.replace(b"hello", b"nowhere")
    reader, writer = await gateway.connect()
    for position in range(len(request)):
        writer.write(request[position : position + 1])
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
    writer.close()


@pytest.mark.parametrize("gateway_limits", [Limits(keep_alive_timeout=0.1)])
@pytest.mark.parametrize("connection", [b"keep-alive", b"close"])
async def test_a_client_that_never_reads_its_response(
    gateway: Gateway, silent: socket.socket, connection: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its time, like an idle one; then its connection and what was kept for it go."""
    monkeypatch.setattr("gateway.net.downstream.FLUSH_TIMEOUT", 0.1)

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + b"x" * 50_000)

    gateway.route(await gateway.endpoint(endpoint))
    await asyncio.get_running_loop().sock_sendall(silent, GET[:-2] + b"Connection: " + connection + b"\r\n\r\n")
    await gateway.answered(1)
    assert kept(gateway) > 0
    await gateway.left()


async def test_an_endpoint_that_talks_and_talks_before_its_response(gateway: Gateway) -> None:
    """Interim responses have an end, and a client that does not read them gets no more of them."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        while not writer.transport.is_closing():
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </%b>\r\n\r\n" % (b"x" * 8000))
            await writer.drain()

    gateway.route(await gateway.endpoint(endpoint))
    reader, writer = await gateway.connect()
    writer.write(GET)
    async with asyncio.timeout(5):
        for _ in range(16):
            assert b" 103 " in await reader.readuntil(b"\r\n\r\n")
        assert b" 502 " in await reader.readuntil(b"\r\n\r\n")
    writer.close()


@pytest.mark.parametrize(
    ("content", "most"),
    [
        (b"1\r\nx\r\n" * 200_000, 64 * 1024),
        (b"0\r\n" + b"X: %b\r\n" % (b"x" * 8000) * 1000, 64 * 1024),
        (b"0\r\n" + b"X:\r\n" * 200_000, 64 * 1024),
        (b"1;" + b"x" * 1_000_000, 64 * 1024),
    ],
)
async def test_chunked_content_that_would_pile_up(gateway: Gateway, content: bytes, most: int) -> None:
    """For an endpoint that does not read: chunks, trailers and extensions without end."""
    gone = asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await gone.wait()

    gateway.route(await gateway.endpoint(endpoint))
    _, writer = await gateway.connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: hello.default.localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + content)
    await still(writer.transport.get_write_buffer_size)
    found = kept(gateway)
    gone.set()
    writer.transport.abort()
    await gateway.left()
    assert found <= most


async def test_no_file_left_is_not_the_endpoints_fault(gateway: Gateway) -> None:
    """503, and the endpoint is asked again as soon as there is one."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    gateway.route(await gateway.endpoint(endpoint))
    reader, writer = await gateway.connect()
    await gateway.left(but=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        writer.write(GET)
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
            text = await reader.readuntil(b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert head.startswith(b"HTTP/1.1 503 ")
    assert text == b"This gateway can open no more connections: Too many open files.\n"
    writer.write(GET)
    async with asyncio.timeout(5):
        assert (await reader.readuntil(b"hi")).startswith(b"HTTP/1.1 200 ")
    writer.close()
