"""From HTTP to another protocol: what makes a tunnel, what doesn't, and how it ends."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pytest_aiohttp.plugin import AiohttpServer

    from tests.sockets.gateway import Gateway

HOST = "hello.default.localhost"
GET = b"GET / HTTP/1.1\r\nHost: hello.default.localhost\r\n\r\n"
ASK = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: echo, chat/2\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n"


def switching(chosen: bytes = b"echo") -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """An endpoint that switches to `chosen` and echoes until end of file."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH % chosen)
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    return endpoint


# --- the switch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [b"echo", b"CHAT/2", b"chat/2, echo"])
async def test_a_protocol_that_was_asked_for(gateway: Gateway, chosen: bytes) -> None:
    """One of the list, or several in layers, in any case (RFC 9110 section 7.8)."""
    gateway.route(await gateway.endpoint(switching(chosen)))
    client = await gateway.client(ASK)
    assert await client.head() == (
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: %b\r\n\r\n" % chosen
    )
    client.send(b"hello")
    assert await client.exactly(5) == b"hello"
    client.close()


@pytest.mark.parametrize(
    ("request_", "response"),
    [
        (GET, SWITCH % b"echo"),
        (ASK, SWITCH % b"other"),
        (ASK, SWITCH % b"echo, other"),
        (ASK.replace(b"Upgrade: ", b"Upgrade: h2c, "), SWITCH % b"h2c"),
        (ASK, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        (ASK.replace(b"Connection: Upgrade\r\n", b""), SWITCH % b"echo"),
        (ASK.replace(b"HTTP/1.1", b"HTTP/1.0"), SWITCH % b"echo"),
    ],
)
async def test_a_switch_that_nobody_asked_for_is_502(gateway: Gateway, request_: bytes, response: bytes) -> None:
    """No tunnel opens, and the connection that it came on is not used again."""
    closed = asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        try:
            await reader.read()
        finally:
            closed.set()

    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(request_)
    assert (await client.head()).startswith(b"HTTP/1.1 502 ")
    async with asyncio.timeout(5):
        await closed.wait()
    client.close()


async def test_a_switch_in_the_middle_of_the_request_is_502(gateway: Gateway) -> None:
    """The rest of its content would be taken for the new protocol."""
    gateway.route(await gateway.endpoint(switching()))
    client = await gateway.client(ASK[:-2] + b"Content-Length: 10\r\n\r\nhalf")
    assert (await client.head()).startswith(b"HTTP/1.1 502 ")
    client.close()


async def test_an_endpoint_need_not_switch(gateway: Gateway) -> None:
    """200 is an answer like any other; the connection goes on, and so does what the client sends next."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Length: 2\r\n\r\nno")
        await reader.read()

    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(ASK + GET)
    for _ in range(2):
        assert (
            await client.response(2)
            == b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Length: 2\r\n\r\nno"
        )
    client.close()


async def test_upgrade_required_says_to_what(gateway: Gateway) -> None:
    """426 must have an Upgrade field (RFC 9110 section 15.5.22), which no other response keeps."""
    responses = [
        b"HTTP/1.1 426 Upgrade\r\nDate: x\r\nUpgrade: echo\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nUpgrade: echo\r\nConnection: upgrade\r\nDate: today\r\nContent-Length: 0\r\n\r\n",
    ]

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for response in responses:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(response)
        await reader.read()

    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(GET)
    assert await client.head() == (
        b"HTTP/1.1 426 Upgrade\r\nDate: x\r\nContent-Length: 0\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n"
    )
    client.send(GET)
    assert await client.head() == b"HTTP/1.1 200 OK\r\nDate: today\r\nContent-Length: 0\r\n\r\n"
    client.close()


async def test_what_either_side_sends_early_is_kept(gateway: Gateway) -> None:
    """In the same segment as its head, even with the end of file."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH % b"echo" + b"first")
        assert await reader.read() == b"early"
        writer.write(b"last")

    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(ASK + b"early")
    client.half_close()
    answer = (await client.rest()).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    assert answer.partition(b"\r\n\r\n")[2] == b"firstlast"
    client.close()
    await gateway.idle()


# --- the tunnel -------------------------------------------------------------------------------------------------------


async def test_a_tunnel_takes_a_place_until_its_end(gateway: Gateway) -> None:
    """It is a request in flight: the next one waits for its place."""
    gateway.route(await gateway.endpoint(switching()), container_concurrency=1)
    first = await gateway.client(ASK)
    await first.head()
    second = await gateway.client(ASK)
    await until(lambda: gateway.activator.parked == 1)
    assert gateway.exchanges.in_flight == 2
    first.close()
    assert (await second.head()).startswith(b"HTTP/1.1 101 ")
    second.close()
    await gateway.idle()


@pytest.mark.parametrize("slow", ["client", "endpoint"])
async def test_back_pressure_in_a_tunnel(gateway: Gateway, slow: str) -> None:
    """What one side does not read stays with the other, not here."""
    sent, stop = 0, asyncio.Event()

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while not stop.is_set():
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH % b"echo")
        if slow == "endpoint":
            writer.transport.pause_reading()
            await stop.wait()
            writer.transport.abort()
        else:
            await flood(writer)

    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(ASK)
    await client.head()
    (connection,) = gateway.listener.connections
    (upstream,) = [connection._exchange._upstream]
    if slow == "client":
        client.writer.transport.pause_reading()
        await until(lambda: not upstream._reading)
        assert connection._transport.get_write_buffer_size() < 1_000_000
        stop.set()
        client.writer.transport.abort()
    else:
        flooding = asyncio.ensure_future(flood(client.writer))
        await until(lambda: not connection._reading)
        assert upstream._transport.get_write_buffer_size() < 1_000_000
        stop.set()
        with suppress(ConnectionError):
            await flooding
    client.close()
    await gateway.idle()


async def test_a_reset_on_one_side_ends_the_other(gateway: Gateway) -> None:
    """After what was said before it."""
    ended = asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH % b"echo" + b"bye")
        try:
            if await reader.read(1):
                reset(writer)
            else:
                ended.set()
        except ConnectionResetError:
            ended.set()

    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(ASK)
    await client.head()
    assert await client.exactly(3) == b"bye"
    client.send(b"x")
    assert await client.rest() == b""
    client.close()
    client = await gateway.client(ASK)
    await client.head()
    reset(client.writer)
    async with asyncio.timeout(5):
        await ended.wait()
    await gateway.idle()


# --- WebSocket --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def websockets(gateway: Gateway, aiohttp_server: AiohttpServer) -> list[int | None]:
    """An aiohttp server behind the gateway that echoes; the close codes it was given."""
    codes: list[int | None] = []

    async def echo(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(protocols=("chat",), heartbeat=0.2)
        await websocket.prepare(request)
        try:
            async for message in websocket:
                if message.data == "close":
                    await websocket.close(code=4001, message=b"as you wish")
                elif isinstance(message.data, str):
                    await websocket.send_str(message.data)
                else:
                    await websocket.send_bytes(message.data)
        finally:  # aiohttp's test server cancels a handler whose client left
            codes.append(websocket.close_code)
        return websocket

    application = web.Application()
    application.router.add_get("/", echo)
    server = await aiohttp_server(application)
    gateway.route(server.port)
    return codes


async def test_websocket_with_real_peers(gateway: Gateway, websockets: list[int | None]) -> None:
    """Messages of all sizes, pings, the chosen subprotocol, and the close code of either side."""
    url = f"http://127.0.0.1:{gateway.port}/"
    async with aiohttp.ClientSession(headers={"Host": HOST}) as session:
        async with session.ws_connect(url, protocols=("chat",)) as websocket:
            assert websocket.protocol == "chat"
            for size in (0, 1, 125, 126, 65_536, 1_000_000):
                await websocket.send_bytes(bytes(size))
                assert await websocket.receive_bytes() == bytes(size)
            await websocket.ping()
            await websocket.send_str("x")
            assert await websocket.receive_str() == "x"
            await websocket.close(code=4002)
        await gateway.idle()
        assert websockets == [4002]
        async with session.ws_connect(url) as websocket:
            await websocket.send_str("close")
            message = await websocket.receive()
            assert (message.type, message.data, message.extra) == (aiohttp.WSMsgType.CLOSE, 4001, "as you wish")
        await gateway.idle()


async def test_a_websocket_client_that_is_killed_frees_its_place(
    gateway: Gateway, websockets: list[int | None]
) -> None:
    """The server hears of it without waiting for its own heartbeat."""
    async with aiohttp.ClientSession(headers={"Host": HOST}) as session:
        websocket = await session.ws_connect(f"http://127.0.0.1:{gateway.port}/")
        connection = websocket._response.connection
        assert connection is not None
        assert connection.transport is not None
        connection.transport.abort()
        await gateway.idle()
        await until(lambda: len(websockets) == 1)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
