"""Where messages begin and end, on both sides of the gateway (RFC 9112 sections 6 to 9)."""

from __future__ import annotations

import asyncio
import http.client
import socket
import struct
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tests.sockets.gateway import Gateway

HOST = b"hello.default.localhost"
GET = b"GET / HTTP/1.1\r\nHost: hello.default.localhost\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\nHost: hello.default.localhost\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Length: 2\r\n\r\nhi"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def answering(*responses: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
    """An endpoint that answers heads with these, in turn, and stays."""
    left = list(responses)

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while left:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(left.pop(0))
        await reader.read()

    return endpoint


def post(*fields: bytes) -> bytes:
    return b"POST" + GET[3:-2] + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


# --- responses --------------------------------------------------------------------------------------------------------


async def test_an_old_client_keeps_its_connection_if_it_asks(gateway: Gateway) -> None:
    """HTTP/1.0 with Connection: keep-alive: both sides say so (RFC 9112 appendix C.2.2)."""
    gateway.route(await gateway.endpoint(answering(OK, OK)))
    client = await gateway.client()
    for _ in range(2):
        client.send(OLD.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"))
        assert b"connection: keep-alive\r\n" in await client.response(2)
    client.close()


async def test_an_old_client_gets_chunked_content_to_the_end_of_the_connection(gateway: Gateway) -> None:
    """Even if it asked to keep the connection: HTTP/1.0 has no chunks, and trailers have no place."""
    gateway.route(
        await gateway.endpoint(
            answering(
                b"HTTP/1.1 200 OK\r\nDate: today\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"3\r\none\r\n3\r\ntwo\r\n0\r\nX-Sum: 1\r\n\r\n"
            )
        )
    )
    client = await gateway.client(OLD.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"))
    assert await client.rest() == b"HTTP/1.1 200 OK\r\nDate: today\r\nconnection: close\r\n\r\nonetwo"
    client.close()


@pytest.mark.parametrize(
    "framing", [b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", b"Content-Length: 9\r\n\r\nhalf", b"\r\nhalf"]
)
@pytest.mark.parametrize("request_", [GET, OLD])
async def test_a_response_cut_short_never_looks_complete(gateway: Gateway, request_: bytes, framing: bytes) -> None:
    """Chunks without the last one, fewer bytes than promised, and a reset, without which the connection's end would be
    read as the content's."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing)
        await seen.wait()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    seen = asyncio.Event()
    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(request_)
    await client.head()
    async with asyncio.timeout(5):
        await client.reader.readuntil(b"half")
    seen.set()
    with pytest.raises(ConnectionResetError):
        await client.rest()
    client.close()


async def test_too_many_bytes_end_the_connection_they_came_on(gateway: Gateway) -> None:
    """The client gets the response's own; the next request goes out on another connection."""
    connections = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await reader.read()

    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client()
    for number in (1, 2):
        client.send(GET)
        assert await client.response(2) == OK
        assert len(connections) == number
    client.close()


async def test_bytes_that_come_late_end_the_idle_connection(gateway: Gateway) -> None:
    """Nobody asked for them, so they are nobody's response."""
    closed = asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await late.wait()
        writer.write(b"HTTP/1.1 200 OK\r\n")
        try:
            await reader.read()
        finally:
            closed.set()

    late = asyncio.Event()
    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(GET)
    assert await client.response(2) == OK
    late.set()
    async with asyncio.timeout(5):
        await closed.wait()
    client.close()


@pytest.mark.parametrize(
    ("method", "response"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
    ],
)
async def test_a_response_whose_content_may_still_come_is_its_connections_last(
    gateway: Gateway, method: bytes, response: bytes
) -> None:
    """An endpoint that sends it all the same, however late, sends it to nobody: else another client would get it."""
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    first = asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK if first.is_set() else response)
        if first.is_set():
            await reader.read()
            return
        first.set()
        await reader.read(1)  # the next request, were it to come here
        writer.write(poison)

    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(GET.replace(b"GET", method))
    assert (await client.head()).startswith(response[:12])
    client.send(GET)
    assert await client.response(2) == OK
    client.close()


@pytest.mark.parametrize(
    ("method", "response"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nDate: today\r\nContent-Length: 0\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nDate: today\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\nDate: today\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("late", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"])
async def test_a_response_without_content_leaves_a_doubt(
    gateway: Gateway, method: bytes, response: bytes, late: bytes
) -> None:
    """Its connection is used again, but not if bytes wait on it that the loop has not seen yet."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    loop = asyncio.get_running_loop()
    gateway.route(listening.getsockname()[1])
    client = await gateway.client(GET.replace(b"GET", method))
    first, _ = await loop.sock_accept(listening)
    await loop.sock_recv(first, 1000)
    await loop.sock_sendall(first, response)
    assert await client.head() == response
    # In one turn of the loop: the bytes come, and the next request begins.
    first.send(late)
    (connection,) = gateway.listener.connections
    connection.data_received(GET)
    second = first if not late else (await loop.sock_accept(listening))[0]
    assert (await loop.sock_recv(second, 1000)).startswith(b"GET / ")
    await loop.sock_sendall(second, OK)
    assert await client.response(2) == OK
    client.close()
    for one in {listening, first, second}:
        one.close()


@pytest.mark.parametrize(("method", "status"), [(b"GET", b"200"), (b"POST", b"502")])
@pytest.mark.parametrize("late", [b"\r\n", b"lo", b"<html>" + OK])
async def test_bytes_that_were_under_way_are_no_answer(
    gateway: Gateway, method: bytes, status: bytes, late: bytes
) -> None:
    """They cross the request: it is sent again under the rule for a connection that closed under it, and that is only
    if running twice is the same as once."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    loop = asyncio.get_running_loop()
    gateway.route(listening.getsockname()[1])
    client = await gateway.client(GET)
    first, _ = await loop.sock_accept(listening)
    await loop.sock_recv(first, 1000)
    await loop.sock_sendall(first, OK)
    assert await client.response(2) == OK
    first.send(late)
    (connection,) = gateway.listener.connections
    connection.data_received(GET.replace(b"GET", method))
    if status == b"200":
        second, _ = await loop.sock_accept(listening)
        await loop.sock_recv(second, 1000)
        await loop.sock_sendall(second, OK)
        second.close()
    assert (await client.head()).startswith(b"HTTP/1.1 " + status)
    client.close()
    first.close()
    listening.close()


async def test_a_connection_with_unsent_bytes_is_not_used_again(gateway: Gateway) -> None:
    """An endpoint that answered without reading the content would not read the next request either."""
    connections = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        go = asyncio.Event()
        waiting.append(go)
        await go.wait()
        writer.write(OK)
        await reader.read()

    waiting: list[asyncio.Event] = []
    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(GET)
    await until(lambda: len(waiting) == 1)
    (connection,) = gateway.listener.connections
    connection._exchange._upstream.pause_writing()  # what the transport does beyond 64 KiB
    waiting[0].set()
    assert await client.response(2) == OK
    client.send(GET)
    await until(lambda: len(waiting) == 2)
    waiting[1].set()
    assert await client.response(2) == OK
    assert len(connections) == 2
    client.close()


@pytest.mark.parametrize("ending", [b"Connection: close\r\n", b""])
async def test_a_response_that_is_never_read_is_given_up(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, ending: bytes
) -> None:
    """It is complete here, and its last bytes wait for the client, but not for ever; whether it was the last or not."""
    monkeypatch.setattr("gateway.net.downstream.FLUSH_TIMEOUT", 0.05)
    monkeypatch.setattr(gateway.listener, "keep_alive_timeout", 0.05)
    size = 60_000  # less than what stops the endpoint, more than these kernel buffers hold
    gateway.route(
        await gateway.endpoint(answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)))
    )
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", gateway.port))
        await until(lambda: len(gateway.listener.connections) == 1)
        (connection,) = gateway.listener.connections
        sock = connection._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        client.send(GET.replace(b"\r\n\r\n", b"\r\n" + ending + b"\r\n"))
        await until(lambda: bool(connection._transport.get_write_buffer_size()))
        await gateway.left()
    await gateway.idle()


# --- interim responses ------------------------------------------------------------------------------------------------


async def test_interim_responses_pass(gateway: Gateway) -> None:
    """103 with its fields, any number before the final response, in one piece with it or alone."""
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
    gateway.route(await gateway.endpoint(answering(early + early + OK)))
    client = await gateway.client(GET)
    assert [await client.head(), await client.head()] == [early, early]
    assert await client.response(2) == OK
    client.close()


async def test_interim_responses_without_end_are_502(gateway: Gateway) -> None:
    """Sixteen are plenty."""
    gateway.route(await gateway.endpoint(answering(CONTINUE * 17)))
    client = await gateway.client(GET)
    for _ in range(16):
        assert await client.head() == CONTINUE
    assert (await client.head()).startswith(b"HTTP/1.1 502 ")
    client.close()


async def test_old_clients_get_no_interim_response(gateway: Gateway) -> None:
    """RFC 9110 section 15.2. Nor does their Expect mean anything (section 10.1.1)."""
    gateway.route(await gateway.endpoint(answering(CONTINUE + OK)))
    client = await gateway.client(OLD)
    assert (await client.rest()).startswith(b"HTTP/1.1 200 OK\r\n")
    client.close()


async def test_continue_end_to_end_with_a_real_client(gateway: Gateway) -> None:
    """http.client sends the content after the endpoint's 100, which passes, and gets the answer to all of it."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"\r\nexpect: 100-continue\r\n" in await reader.readuntil(b"\r\n\r\n")
        writer.write(CONTINUE)
        body = await reader.readexactly(5)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body)
        await reader.read()

    def upload() -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=5)
        connection.putrequest("PUT", "/", skip_host=True)
        for name, value in (("Host", HOST.decode()), ("Expect", "100-continue"), ("Content-Length", "5")):
            connection.putheader(name, value)
        connection.endheaders()
        assert connection.sock.recv(100) == CONTINUE
        connection.send(b"hello")
        with closing(connection), connection.getresponse() as response:
            return response.read()

    gateway.route(await gateway.endpoint(endpoint))
    assert await asyncio.to_thread(upload) == b"hello"


async def test_a_final_answer_instead_of_continue(gateway: Gateway) -> None:
    """The content never comes, or does: either way the connection closes, and nothing of it is taken for a request."""
    gateway.route(await gateway.endpoint(answering(b"HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno")))
    client = await gateway.client(post(b"Content-Length: %d" % len(GET), b"Expect: 100-continue"))
    answer = await client.response(2)
    assert b"connection: close\r\n" in answer
    client.send(GET)
    assert await client.rest() == b""
    client.close()


# --- both directions at once ------------------------------------------------------------------------------------------


async def test_full_duplex(gateway: Gateway) -> None:
    """Each piece of the request is answered before the next is sent; trailers of both end them, and the connection too:
    when its head went out, the response could not know that the request would be complete."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while (line := await reader.readuntil(b"\r\n")) != b"0\r\n":
            writer.write(line + (await reader.readexactly(int(line, 16) + 2)).upper())
        writer.write(b"0\r\n" + (await reader.readuntil(b"\r\n\r\n")))
        await reader.read()

    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(post(b"Transfer-Encoding: chunked"))
    assert b"connection: close\r\n" in await client.head()
    for _ in range(5):
        client.send(b"4\r\nping\r\n")
        assert await client.exactly(9) == b"4\r\nPING\r\n"
    client.send(b"0\r\nX-Last: 1\r\n\r\n")
    assert await client.rest() == b"0\r\nX-Last: 1\r\n\r\n"
    client.close()


async def test_full_duplex_with_back_pressure_both_ways(gateway: Gateway) -> None:
    """32 MiB through an echo whose buffers, and the gateway's, hold far less."""
    size = 32 * 1024 * 1024

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        left = size
        while left:
            piece = await reader.read(1 << 16)
            left -= len(piece)
            writer.write(piece)
            await writer.drain()
        await reader.read()

    async def send() -> None:
        piece = bytes(range(256)) * 256
        for _ in range(size // len(piece)):
            client.send(piece)
            await client.writer.drain()

    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(post(b"Content-Length: %d" % size))
    sending = asyncio.ensure_future(send())
    await client.head()
    received = 0
    async with asyncio.timeout(60):
        while received < size:
            piece = await client.reader.read(1 << 20)
            assert piece[:1] == b"%c" % (received % 256)
            received += len(piece)
        await sending
    assert received == size
    client.close()


async def test_an_early_answer_reaches_a_client_that_still_writes(gateway: Gateway) -> None:
    """The rest of the request is read and dropped for a while: a reset would take the answer away from a client that
    reads only after it has written all."""
    size = 8 * 1024 * 1024

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Much\r\nDate: today\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()

    def upload() -> bytes:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock:
            sock.sendall(post(b"Content-Length: %d" % size))
            sock.sendall(bytes(size))
            answer = b""
            while piece := sock.recv(1000):
                answer += piece
        return answer

    gateway.route(await gateway.endpoint(endpoint))
    for _ in range(5):
        answer = await asyncio.to_thread(upload)
        assert answer.startswith(b"HTTP/1.1 413 Too Much\r\n")
        assert answer.endswith(b"\r\nconnection: close\r\n\r\nno")
    await gateway.idle()


async def test_an_answer_is_found_behind_a_reset(gateway: Gateway) -> None:
    """An endpoint that answers and closes without reading the content has its kernel reset the connection; a write
    meets that before the answer is read, and the answer counts all the same."""
    go = asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        go.set()
        await closed.wait()

    closed = asyncio.Event()
    listening = socket.create_server(("127.0.0.1", 0))
    gateway.route(listening.getsockname()[1])
    client = await gateway.client(post(b"Content-Length: 1000000") + bytes(1000))
    # In one turn of the loop, so that the gateway sees the answer, the reset and more content at once.
    loop = asyncio.get_running_loop()
    listening.setblocking(False)
    connection, _ = await loop.sock_accept(listening)
    with listening, connection:
        await loop.sock_recv(connection, 100)
        (upstream,) = [one._exchange._upstream for one in gateway.listener.connections]
        connection.sendall(b"HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\n\r\nno")
        connection.close()
        upstream.write(bytes(10))
    answer = await client.response(2)
    assert answer.startswith(b"HTTP/1.1 413 Too Much\r\n")
    client.close()


# --- pipelining -------------------------------------------------------------------------------------------------------


async def test_a_slow_first_answer_holds_up_the_others(gateway: Gateway) -> None:
    """They come in the order of the requests, whichever endpoint is faster, and content is told from requests."""
    slow = asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"POST" in head:
                assert await reader.readexactly(len(GET)) == GET
                await slow.wait()
            path = head.split(b" ")[1]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    gateway.route(await gateway.endpoint(endpoint))
    first = post(b"Content-Length: %d" % len(GET)).replace(b" / ", b" /a ") + GET
    client = await gateway.client(first + GET.replace(b" / ", b" /b ") + GET.replace(b" / ", b" /c "))
    await asyncio.sleep(0.01)
    slow.set()
    assert [(await client.response(2))[-2:] for _ in range(3)] == [b"/a", b"/b", b"/c"]
    client.close()


async def test_a_client_that_pipelines_without_reading_is_not_read(gateway: Gateway) -> None:
    """Neither its requests nor its answers pile up here: its own writing stops."""
    gateway.route()
    nowhere = GET.replace(b"hello", b"nowhere")
    message = (nowhere[:-2] + b"X: %b\r\n\r\n" % (b"x" * 1000)) * 10
    client = await gateway.client(nowhere)
    await client.head()
    (connection,) = gateway.listener.connections
    sock = connection._transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
    client.writer.transport.pause_reading()
    async with asyncio.timeout(20):
        while client.writer.transport.get_write_buffer_size() < 300_000:
            client.send(message)
            await asyncio.sleep(0)
    await until(lambda: not connection._reading)
    assert len(connection._buffer) < 400_000
    assert connection._transport.get_write_buffer_size() < 400_000
    client.writer.transport.resume_reading()
    client.send(nowhere.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert (await client.rest()).count(b"HTTP/1.1 404 ") > 1000
    client.close()
