"""What becomes of connections and requests when a worker leaves."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from tests.polling import until

if TYPE_CHECKING:
    from tests.sockets.gateway import Gateway

GET = b"GET / HTTP/1.1\r\nHost: hello.default.localhost\r\n\r\n"
UPGRADE = GET[:-2] + b"Connection: upgrade\r\nUpgrade: echo\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Length: 2\r\n\r\nhi"
LAST = OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
LONG = 30.0


class Endpoint:
    """Answers with OK once it may."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            self.asked.set()
            await self.may_answer.wait()
            writer.write(OK)


async def test_the_response_in_hand_is_the_last(gateway: Gateway) -> None:
    """It says so, and the connection closes after it."""
    endpoint = Endpoint()
    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(GET)
    await endpoint.asked.wait()
    gateway.listener.drain(LONG)
    endpoint.may_answer.set()
    assert await client.rest() == LAST
    client.close()


@pytest.mark.parametrize("before", [b"", GET])
async def test_an_idle_connection_may_ask_once_more(gateway: Gateway, before: bytes) -> None:
    """Its request may be on the way when the drain begins; a new connection's first one as well."""
    endpoint = Endpoint()
    endpoint.may_answer.set()
    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(before)
    if before:
        assert await client.response(2) == OK
    await until(lambda: len(gateway.listener.connections) == 1)
    gateway.listener.drain(LONG)
    client.send(GET)
    assert await client.rest() == LAST
    client.close()


async def test_an_idle_connection_that_stays_idle_is_closed(gateway: Gateway) -> None:
    """After the lull, without a word."""
    client = await gateway.client()
    await until(lambda: len(gateway.listener.connections) == 1)
    gateway.listener.drain(0.01)
    assert await client.rest() == b""
    client.close()


async def test_half_a_head_is_waited_for(gateway: Gateway) -> None:
    """It is a request on its way, whatever the lull."""
    endpoint = Endpoint()
    endpoint.may_answer.set()
    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(GET[:20])
    await until(lambda: any(one._buffer for one in gateway.listener.connections))
    gateway.listener.drain(0.0)
    await asyncio.sleep(0.01)
    client.send(GET[20:])
    assert await client.rest() == LAST
    client.close()


async def test_pipelined_requests_behind_the_one_in_hand_are_not_begun(gateway: Gateway) -> None:
    """The client was told that the response is the last; it knows which were not answered (RFC 9112 section 9.6)."""
    endpoint = Endpoint()
    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(GET + GET)
    await endpoint.asked.wait()
    gateway.listener.drain(LONG)
    endpoint.may_answer.set()
    assert await client.rest() == LAST
    client.close()


async def test_what_outlives_the_grace_period(gateway: Gateway) -> None:
    """A request without an answer yet is told, a response and a tunnel are reset, an idle connection is closed; each
    has its line in the access log."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"upgrade" in head:
            writer.write(SWITCH)
        elif b"/half" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await reader.read()

    gateway.route(await gateway.endpoint(endpoint))
    clients = [await gateway.client(message) for message in (GET, GET.replace(b"/ ", b"/half "), UPGRADE, b"")]
    waiting, half, tunnel, idle = clients
    await half.response(4)
    await tunnel.head()
    await until(lambda: gateway.exchanges.in_flight == 3)
    gateway.listener.drain(LONG)
    gateway.listener.break_off()
    assert (await waiting.rest()).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    for client in (half, tunnel):
        with pytest.raises(ConnectionResetError):
            await client.rest()
    assert await idle.rest() == b""
    await gateway.left()
    gateway.access_log.flush()
    lines = [json.loads(line) for line in gateway.log.read_bytes().splitlines()]
    assert sorted((line["status"], line["flag"]) for line in lines) == [(101, "DR"), (200, "DR"), (503, "DR")]
    for client in clients:
        client.close()
