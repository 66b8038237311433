"""When a request is sent a second time, and when it never is. The endpoints count what reaches them."""

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


def with_content(method: bytes, size: int) -> bytes:
    return b"%b / HTTP/1.1\r\nHost: hello.default.localhost\r\nContent-Length: %d\r\n\r\n%b" % (
        method,
        size,
        bytes(size),
    )


def chunked(method: bytes) -> bytes:
    head = b"%b / HTTP/1.1\r\nHost: hello.default.localhost\r\nTransfer-Encoding: chunked\r\n\r\n" % method
    return head + b"2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n"


class DiesOnReuse:
    """Answers the first request of its first connection, reads the second one's head and `reads` bytes of its content,
    and breaks off. Later connections work."""

    def __init__(self, reads: int = 0, sends: bytes = b"", *, resets: bool = False) -> None:
        self.heads: list[bytes] = []
        self.contents: list[bytes] = []
        self._reads = reads
        self._sends = sends
        self._resets = resets

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_first = not self.heads
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            if is_first and len(self.heads) == 2:
                await reader.readexactly(self._reads)
                writer.write(self._sends)
                if self._resets:
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            length = head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
            if length:
                self.contents.append(await reader.readexactly(int(length)))
            elif b"chunked" in head:
                self.contents.append(await reader.readuntil(b"0\r\nX-Sum: 1\r\n\r\n"))
            writer.write(OK)


async def second_answer(gateway: Gateway, endpoint: DiesOnReuse, message: bytes) -> bytes:
    """The status line of `message`'s answer, sent on a connection to the endpoint that was used before."""
    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(GET)
    assert await client.response(2) == OK
    client.send(message)
    status: bytes = (await client.head()).partition(b"\r\n")[0]
    client.close()
    await gateway.idle()
    return status


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"])
async def test_an_idempotent_request_is_sent_once_more(gateway: Gateway, method: bytes, resets: bool) -> None:
    """Its connection closed before any byte of a response: running twice would be the same as once."""
    endpoint = DiesOnReuse(resets=resets)
    assert await second_answer(gateway, endpoint, GET.replace(b"GET", method)) == b"HTTP/1.1 200 OK"
    assert [head.partition(b" ")[0] for head in endpoint.heads] == [b"GET", method, method]


@pytest.mark.parametrize("message", [GET.replace(b"GET", b"POST"), GET.replace(b"GET", b"PATCH"), chunked(b"POST")])
async def test_any_other_request_is_sent_once(gateway: Gateway, message: bytes) -> None:
    """It may have run (RFC 9110 section 9.2.2), so the client is told."""
    endpoint = DiesOnReuse()
    assert await second_answer(gateway, endpoint, message) == b"HTTP/1.1 502 Bad Gateway"
    assert len(endpoint.heads) == 2


@pytest.mark.parametrize(("message", "read"), [(with_content(b"PUT", 15_000), 15_000), (chunked(b"PUT"), 5)])
async def test_small_content_is_sent_again_whole(gateway: Gateway, message: bytes, read: int) -> None:
    """As it was, trailers included, however much of it had been sent."""
    endpoint = DiesOnReuse(read)
    assert await second_answer(gateway, endpoint, message) == b"HTTP/1.1 200 OK"
    assert len(endpoint.heads) == 3
    assert endpoint.contents == [message.partition(b"\r\n\r\n")[2]]


async def test_large_content_is_not_kept(gateway: Gateway) -> None:
    """What was sent of it and is no longer here can't be sent again."""
    endpoint = DiesOnReuse(50_000)
    assert await second_answer(gateway, endpoint, with_content(b"PUT", 50_000)) == b"HTTP/1.1 502 Bad Gateway"
    assert len(endpoint.heads) == 2


async def test_content_that_was_not_sent_yet_goes_out_on_the_new_connection(gateway: Gateway) -> None:
    """The client waits with it for `100 Continue`."""
    endpoint = DiesOnReuse()
    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(GET)
    assert await client.response(2) == OK
    client.send(with_content(b"PUT", 3).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")[:-3])
    await until(lambda: len(endpoint.heads) == 3)
    client.send(b"abc")
    assert await client.response(2) == OK
    assert endpoint.contents == [b"abc"]
    client.close()


async def test_a_request_whose_response_had_begun_is_not_sent_again(gateway: Gateway) -> None:
    """One byte, or an interim response, is enough: the endpoint was at work."""
    for sends in (b"H", b"HTTP/1.1 100 Continue\r\n\r\n"):
        endpoint = DiesOnReuse(sends=sends)
        assert await second_answer(gateway, endpoint, GET) in (b"HTTP/1.1 502 Bad Gateway", b"HTTP/1.1 100 Continue")
        assert len(endpoint.heads) == 2


async def test_it_is_sent_again_once(gateway: Gateway) -> None:
    """An endpoint that takes connections and never answers gets two, not many."""
    heads = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        if len(heads) == 1:
            writer.write(OK)
            heads.append(await reader.readuntil(b"\r\n\r\n"))

    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client(GET)
    assert await client.response(2) == OK
    client.send(GET)
    assert (await client.head()).startswith(b"HTTP/1.1 502 ")
    assert len(heads) == 3
    client.close()


@pytest.mark.parametrize("request_", [with_content(b"POST", 2), GET.replace(b"GET", b"POST")], ids=["content", "none"])
async def test_a_closed_connection_is_not_used_for_what_is_sent_once(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, request_: bytes
) -> None:
    """Even where the loop has not seen yet that the endpoint closed it: a POST would be lost."""
    monkeypatch.setattr("gateway.net.upstream._FRESH", -1.0)
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    loop = asyncio.get_running_loop()
    gateway.route(listening.getsockname()[1])
    client = await gateway.client(GET)
    first, _ = await loop.sock_accept(listening)
    await loop.sock_recv(first, 1000)
    await loop.sock_sendall(first, OK)
    assert await client.response(2) == OK
    # In one turn of the loop: the endpoint closes, and the request begins.
    first.close()
    (connection,) = gateway.listener.connections
    connection.data_received(request_)
    second, _ = await loop.sock_accept(listening)
    with listening, second:
        assert (await loop.sock_recv(second, 1000)).startswith(b"POST / ")
        await loop.sock_sendall(second, OK)
        assert await client.response(2) == OK
    client.close()


class Queue:
    """An endpoint whose kernel takes one connection, and nobody accepts it until the test does."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.listening.setblocking(False)
        self.port: int = self.listening.getsockname()[1]

    async def accept(self) -> socket.socket:
        connection, _ = await asyncio.get_running_loop().sock_accept(self.listening)
        return connection

    async def answer(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        assert (await loop.sock_recv(connection, 1000)).startswith(b"GET / ")
        await loop.sock_sendall(connection, OK)


async def test_a_burst_of_connects_takes_turns(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """While as many are under way to one endpoint as may, a request waits for a connection that becomes free, however
    long the others' take, or for its turn."""
    monkeypatch.setattr("gateway.net.pool.DIALS", 1)
    endpoint = Queue()
    gateway.route(endpoint.port)
    first = await gateway.client(GET)
    await until(lambda: gateway.pools.open == 1)
    stuck = await gateway.client(GET)  # the endpoint's queue is full
    await until(lambda: gateway.exchanges.in_flight == 2)
    others = [await gateway.client(GET) for _ in range(3)]
    await until(lambda: gateway.exchanges.in_flight == 5)
    others[1].close()  # who leaves takes no turn
    await until(lambda: gateway.exchanges.in_flight == 4)
    connection = await endpoint.accept()
    for client in (first, others[0], others[2]):
        await endpoint.answer(connection)
        assert await client.response(2) == OK
    second = await endpoint.accept()  # its kernel asked again
    await endpoint.answer(second)
    assert await stuck.response(2) == OK
    assert gateway.pools.open == 2
    for one in (first, stuck, *others):
        one.close()
    for one in (connection, second, endpoint.listening):
        one.close()


async def test_an_endpoint_that_takes_no_connection_in_time(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 for who dials and for who waits for a turn, and nobody keeps one."""
    monkeypatch.setattr("gateway.net.pool.DIALS", 1)
    monkeypatch.setattr("gateway.exchange.MAX_DIALS", 1)
    endpoint = Queue()
    gateway.route(endpoint.port)
    clients = [await gateway.client(GET)]
    await until(lambda: gateway.pools.open == 1)
    monkeypatch.setattr("gateway.net.pool.CONNECT_TIMEOUT", 0.05)
    clients += [await gateway.client(GET) for _ in range(3)]
    for client in clients[1:]:
        assert (await client.head()).startswith(b"HTTP/1.1 503 ")
    assert not gateway.pools.http1._dials
    for client in clients:
        client.close()
    await gateway.idle()
    endpoint.listening.close()


async def test_content_is_sent_again_after_bytes_that_were_under_way(gateway: Gateway) -> None:
    """All of it, though some had gone out before the connection turned out to be of no use."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    loop = asyncio.get_running_loop()
    gateway.route(listening.getsockname()[1])
    client = await gateway.client(GET)
    first, _ = await loop.sock_accept(listening)
    await loop.sock_recv(first, 1000)
    await loop.sock_sendall(first, OK)
    assert await client.response(2) == OK
    first.send(b"stray")
    (connection,) = gateway.listener.connections
    connection.data_received(with_content(b"PUT", 6)[:-3])
    second, _ = await loop.sock_accept(listening)
    client.send(bytes(3))
    received = b""
    while len(received.partition(b"\r\n\r\n")[2]) < 6:
        received += await loop.sock_recv(second, 1000)
    await loop.sock_sendall(second, OK)
    assert await client.response(2) == OK
    client.close()
    for one in (listening, first, second):
        one.close()
