"""A revision's three clocks: `timeoutSeconds`, `responseStartTimeoutSeconds`, `idleTimeoutSeconds`.

No test asserts how long something took, only what came first.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.polling import until

if TYPE_CHECKING:
    from tests.sockets.gateway import Gateway

GET = b"GET / HTTP/1.1\r\nHost: hello.default.localhost\r\n\r\n"
POST = b"POST" + GET[3:-2] + b"Content-Length: 1000000\r\n\r\n"
UPGRADE = GET[:-2] + b"Connection: upgrade\r\nUpgrade: echo\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Length: 2\r\n\r\nhi"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
SHORT = 0.05
LONG = 30.0


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Reads and says nothing."""
    while await reader.read(65536):
        pass


async def test_the_clocks_start_at_dispatch(gateway: Gateway) -> None:
    """A cold start does not eat a request's time: it waits longer for its endpoint than it may take there."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.read()

    limits = {"response_start_timeout": SHORT, "idle_timeout": SHORT}
    gateway.route(timeout=LONG, **limits)
    client = await gateway.client(GET)
    await until(lambda: gateway.activator.parked == 1)
    await asyncio.sleep(2 * SHORT)
    gateway.route(await gateway.endpoint(endpoint), timeout=LONG, **limits)
    assert (await client.response(2)).endswith(b"\r\n\r\nhi")
    client.close()


@pytest.mark.parametrize("limits", [{"timeout": SHORT}, {"response_start_timeout": SHORT}])
async def test_an_upload_does_not_stop_the_clocks_of_the_answer(gateway: Gateway, limits: dict[str, float]) -> None:
    """504 while the client still sends, and it gets to read it."""
    gateway.route(await gateway.endpoint(silent), **{"timeout": LONG, **limits})
    client = await gateway.client(POST)
    head = asyncio.ensure_future(client.head())
    async with asyncio.timeout(5):
        while not head.done():
            client.send(b"x")
            await asyncio.sleep(SHORT / 10)
    assert head.result().startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")
    assert b"connection: close\r\n" in head.result()
    client.close()


@pytest.mark.parametrize("direction", ["up", "down", "interim"])
async def test_a_byte_either_way_is_activity(gateway: Gateway, direction: str) -> None:
    """A slow upload, a slow download and interim responses go on for several idle time-outs."""
    pieces = 15

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if direction == "up":
            await reader.readexactly(pieces)
        if direction == "down":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % pieces)
        for _ in range(pieces) if direction != "up" else ():
            await asyncio.sleep(SHORT)
            writer.write(b"x" if direction == "down" else b"HTTP/1.1 103 Early Hints\r\n\r\n")
        if direction != "down":
            writer.write(OK)
        await reader.read()

    gateway.route(await gateway.endpoint(endpoint), timeout=LONG, idle_timeout=6 * SHORT)
    client = await gateway.client(POST.replace(b"1000000", b"%d" % pieces) if direction == "up" else GET)
    for _ in range(pieces) if direction == "up" else ():
        client.send(b"x")
        await asyncio.sleep(SHORT)
    for _ in range(pieces) if direction == "interim" else ():
        assert (await client.head()).startswith(b"HTTP/1.1 103")
    content = (await client.response(pieces if direction == "down" else 2)).partition(b"\r\n\r\n")[2]
    assert content == (b"x" * pieces if direction == "down" else b"hi")
    client.close()


async def test_an_upgrade_ends_the_clock_of_the_response_start(gateway: Gateway) -> None:
    """A tunnel has started, however long it stays quiet."""
    quiet = asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH)
        await quiet.wait()
        writer.write(b"late")
        await reader.read()

    gateway.route(await gateway.endpoint(endpoint), timeout=LONG, response_start_timeout=SHORT)
    client = await gateway.client(UPGRADE)
    await client.head()
    await asyncio.sleep(2 * SHORT)
    quiet.set()
    assert await client.exactly(4) == b"late"
    client.close()


@pytest.mark.parametrize("limits", [{"timeout": SHORT}, {"idle_timeout": SHORT}])
async def test_a_tunnel_ends_by_the_other_clocks(gateway: Gateway, limits: dict[str, float]) -> None:
    """Total and idle, with a reset; the place is free and the endpoint learns of it."""
    ended = asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH)
        try:
            await reader.read()
        finally:
            ended.set()

    gateway.route(await gateway.endpoint(endpoint), **{"timeout": LONG, **limits})
    client = await gateway.client(UPGRADE)
    await client.head()
    with pytest.raises(ConnectionResetError):
        await client.rest()
    async with asyncio.timeout(5):
        await ended.wait()
    await gateway.idle()
    client.close()


@pytest.mark.parametrize("sender", ["client", "endpoint"])
async def test_a_tunnel_with_traffic_one_way_is_not_idle(gateway: Gateway, sender: str) -> None:
    """Whichever way."""
    pieces = 15

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH)
        for _ in range(pieces):
            if sender == "client":
                await reader.readexactly(1)
            else:
                await asyncio.sleep(SHORT)
                writer.write(b"x")
        writer.write(b"end")
        await reader.read()

    gateway.route(await gateway.endpoint(endpoint), timeout=LONG, idle_timeout=6 * SHORT)
    client = await gateway.client(UPGRADE)
    await client.head()
    for _ in range(pieces) if sender == "client" else ():
        client.send(b"x")
        await asyncio.sleep(SHORT)
    async with asyncio.timeout(5):
        assert (await client.reader.readuntil(b"end")).strip(b"x") == b"end"
    client.close()


async def test_a_client_that_does_not_read_runs_into_the_clock(gateway: Gateway) -> None:
    """Back-pressure stops the endpoint, not the time: the connection is broken off and the endpoint released."""
    released = asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
                await writer.drain()
        finally:
            released.set()

    gateway.route(await gateway.endpoint(endpoint), timeout=0.3)
    client = await gateway.client(GET)
    await client.head()
    client.writer.transport.pause_reading()
    async with asyncio.timeout(10):
        await released.wait()
    await gateway.idle()
    client.writer.transport.abort()


async def test_many_requests_leave_one_timer(gateway: Gateway) -> None:
    """Requests with short clocks and connections with long ones share it; none is left when the connection is gone."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)

    gateway.route(await gateway.endpoint(endpoint), timeout=1.0, response_start_timeout=0.5, idle_timeout=0.2)
    client = await gateway.client()
    for _ in range(100):
        client.send(GET)
        assert await client.response(2) == OK
    (connection,) = gateway.listener.connections
    timer = connection._timer
    await asyncio.sleep(0.25)  # the first deadline: long met, and nobody's any more
    client.send(GET)
    assert await client.response(2) == OK
    client.close()
    await gateway.left()
    assert timer is not connection._timer
    assert connection._timer is None
