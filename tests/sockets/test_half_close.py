"""A client that sends no more: it left, or it still waits for its answer."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from tests.polling import until

if TYPE_CHECKING:
    from tests.sockets.gateway import Gateway

GET = b"GET / HTTP/1.1\r\nHost: hello.default.localhost\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Length: 2\r\n\r\nhi"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Slow:
    """An endpoint that answers each request with OK when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.asked.set()
                gone = asyncio.ensure_future(reader.read(1))
                answer = asyncio.ensure_future(self.answer.wait())
                await asyncio.wait((gone, answer), return_when=asyncio.FIRST_COMPLETED)
                answer.cancel()
                if gone.done():
                    return
                gone.cancel()
                writer.write(OK)
        finally:
            self.left.set()


async def test_a_client_that_half_closes_gets_its_answer(gateway: Gateway) -> None:
    """An interim response finds out that it is there; after the answer the connection closes."""
    endpoint = Slow()
    gateway.route(await gateway.endpoint(endpoint), container_concurrency=1)
    client = await gateway.client(GET)
    await endpoint.asked.wait()
    client.half_close()
    assert await client.head() == CONTINUE
    endpoint.answer.set()
    assert await client.rest() == OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    await gateway.left()
    client.close()


async def test_a_client_that_closes_frees_its_place_at_once(gateway: Gateway) -> None:
    """Its kernel answers the interim response with a reset; the endpoint learns of it."""
    endpoint = Slow()
    gateway.route(await gateway.endpoint(endpoint), container_concurrency=1)
    client = await gateway.client(GET)
    await endpoint.asked.wait()
    client.close()
    async with asyncio.timeout(5):
        await endpoint.left.wait()
    await gateway.left()
    gateway.access_log.flush()
    assert b'"flag":"DC"' in gateway.log.read_bytes()


async def test_end_of_file_while_the_request_waits_is_leaving(gateway: Gateway) -> None:
    """There is no endpoint: nobody is kept in a queue on the mere chance that it still listens."""
    gateway.route()
    client = await gateway.client(GET)
    await until_parked(gateway)
    client.half_close()
    assert await client.rest() == b""
    await gateway.idle()
    client.close()


@pytest.mark.parametrize("leaves", ["close", "reset"])
async def test_leaving_behind_content_that_is_not_read(gateway: Gateway, leaves: str) -> None:
    """A waiting request's content is read up to a limit only; the end behind it is noticed all the same."""
    gateway.route()
    client = await gateway.client(b"POST" + GET[3:-2] + b"Content-Length: 1000000\r\n\r\n" + bytes(100_000))
    await until(lambda: [one._reading for one in gateway.listener.connections] == [False])
    if leaves == "close":
        client.half_close()
    else:
        sock = client.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.transport.abort()
    await gateway.left()
    await gateway.idle()
    client.close()


async def test_an_upload_that_waited_is_read_on(gateway: Gateway) -> None:
    """And its client may then half-close like any other."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(500_000)
        complete.set()
        await half_closed.wait()
        writer.write(OK)

    complete, half_closed = asyncio.Event(), asyncio.Event()
    gateway.route()
    client = await gateway.client(b"POST" + GET[3:-2] + b"Content-Length: 500000\r\n\r\n" + bytes(500_000))
    await until(lambda: [one._reading for one in gateway.listener.connections] == [False])
    gateway.route(await gateway.endpoint(endpoint))
    async with asyncio.timeout(5):
        await complete.wait()
    client.half_close()
    assert await client.head() == CONTINUE
    half_closed.set()
    assert (await client.rest()).endswith(b"hi")
    client.close()


MANY = 1500  # more than are read ahead


@pytest.mark.parametrize("leaves", ["close", "reset"])
async def test_leaving_behind_requests_that_are_not_read(gateway: Gateway, leaves: str) -> None:
    """Pipelined requests are read ahead up to a limit only; the end behind them is noticed all the same."""
    gateway.route()
    client = await gateway.client(GET)
    await until_parked(gateway)
    client.send(GET * MANY)
    await until(lambda: [one._reading for one in gateway.listener.connections] == [False])
    if leaves == "close":
        client.close()
    else:
        sock = client.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.transport.abort()
    await gateway.idle()
    await gateway.left()


async def test_half_close_behind_requests_that_are_not_read(gateway: Gateway) -> None:
    """Who waits for all its answers gets them."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            await answer.wait()
            writer.write(OK)

    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(GET)
    await asked.wait()
    client.send(GET * MANY)
    client.half_close()
    await until(lambda: [one._reading for one in gateway.listener.connections] == [False])
    assert await client.head() == CONTINUE
    answer.set()
    answers = await client.rest()
    assert answers.replace(CONTINUE, b"").count(b"HTTP/1.1 200 OK") == MANY + 1
    client.close()


async def test_end_of_file_from_http_1_0_is_leaving(gateway: Gateway) -> None:
    """It has no interim responses, so there is no way to ask."""
    endpoint = Slow()
    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(GET.replace(b"1.1", b"1.0"))
    await endpoint.asked.wait()
    client.half_close()
    assert await client.rest() == b""
    async with asyncio.timeout(5):
        await endpoint.left.wait()
    client.close()


async def test_end_of_file_in_the_middle_of_a_request_is_leaving(gateway: Gateway) -> None:
    """An incomplete request has no answer (RFC 9112 section 8), and the endpoint must not take it for complete."""
    endpoint = Slow()
    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(b"POST" + GET[3:-2] + b"Content-Length: 5\r\n\r\nhal")
    await endpoint.asked.wait()
    client.half_close()
    assert await client.rest() == b""
    async with asyncio.timeout(5):
        await endpoint.left.wait()
    await gateway.idle()
    client.close()


async def test_pipelined_requests_before_the_end_are_all_answered(gateway: Gateway) -> None:
    """In order, and the connection closes after the last; half a request after them changes nothing."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
            await asyncio.sleep(0)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    gateway.route(await gateway.endpoint(endpoint))
    requests = [GET.replace(b"/ ", b"/%d " % number, 1) for number in range(20)]
    requests.insert(10, GET.replace(b"hello", b"nowhere"))
    client = await gateway.client(b"".join(requests) + b"GET /half")
    client.half_close()
    answer = (await client.rest()).replace(CONTINUE, b"")
    assert answer.count(b"HTTP/1.1 200") == 20
    places = [answer.index(b"\r\n\r\n/%d" % number) for number in range(20)]
    assert places == sorted(places)
    assert places[9] < answer.index(b"HTTP/1.1 404") < places[10]
    await gateway.left()
    client.close()


async def test_a_response_under_way_is_completed_for_a_half_closed_client(gateway: Gateway) -> None:
    """Nothing is put between its pieces."""
    more = asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
        await more.wait()
        writer.write(b"lf")

    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(GET)
    assert (await client.response(2)).endswith(b"ha")
    client.half_close()
    await until(lambda: all(one._eof for one in gateway.listener.connections))
    more.set()
    assert await client.rest() == b"lf"
    client.close()


async def test_a_client_that_leaves_during_a_response_is_noticed_when_more_comes(gateway: Gateway) -> None:
    """The first piece meets a reset, and the reset is enough: nobody waits for a second one."""
    more, left = asyncio.Event(), asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await more.wait()
        writer.write(b"1\r\nb\r\n")
        try:
            await reader.read()
        finally:
            left.set()

    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(GET)
    await client.response(6)
    client.close()
    more.set()
    async with asyncio.timeout(5):
        await left.wait()
    await gateway.left()


async def test_a_silent_response_finds_out_too(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be sent, the kernel's probes meet the reset."""
    monkeypatch.setattr("gateway.net.halfclose.KEEP_ALIVE_PROBES", 1)

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await reader.read()

    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(GET)
    await client.response(6)
    # Its kernel forgets the connection after a second, instead of a minute.
    client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)
    client.close()
    await gateway.left()
    await gateway.idle()


async def until_parked(gateway: Gateway) -> None:
    await until(lambda: gateway.activator.parked > 0)
