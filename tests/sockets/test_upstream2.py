"""HTTP/2 to the endpoints, over real sockets; the endpoint is the h2 library's, told what to do by each test."""

from __future__ import annotations

import asyncio
import functools
import random
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.settings import SettingCodes, Settings
from hpack import Encoder

from gateway.core.frames import (
    data_frame,
    goaway_frame,
    headers_frames,
    ping_frame,
    reset_frame,
    settings_frame,
    window_frame,
)
from gateway.net.upstream2 import SILENCE, Upstream2
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.sockets.gateway import Gateway

    Answer = Callable[["Server", "Request"], Awaitable[None]]

HOST = b"hello.default.localhost"
GET = b"GET /a?b HTTP/1.1\r\nHost: hello.default.localhost\r\nConnection: close\r\n\r\n"


class Request:
    """A request as the endpoint sees it. `done` is set at its end, or when it is reset (with `reset_code`)."""

    def __init__(self, stream: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.stream = stream
        self.headers = headers
        self.fields = dict(headers)
        self.body = bytearray()
        self.trailers: list[tuple[bytes, bytes]] = []
        self.reset_code: int | None = None
        self.done = asyncio.Event()


class Server:
    """One connection of an h2 endpoint; `answer` is called for each request at its head."""

    def __init__(
        self, answer: Answer, settings: dict[int, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._answer = answer
        self._reader = reader
        self.writer = writer
        config = H2Configuration(client_side=False, header_encoding=None, validate_outbound_headers=False)
        self.h2 = H2Connection(config)
        self.h2.local_settings = Settings(client=False, initial_values={**self.h2.local_settings, **settings})
        self.requests: dict[int, Request] = {}
        self.acknowledges = True
        self.events: list[Event] = []
        self.window = asyncio.Event()

    async def run(self) -> None:
        self.h2.initiate_connection()
        self.flush()
        async with asyncio.TaskGroup() as group:
            while data := await self._reader.read(65536):
                for event in self.h2.receive_data(data):
                    self.events.append(event)
                    if isinstance(event, RequestReceived):
                        request = self.requests[event.stream_id] = Request(event.stream_id, list(event.headers))
                        group.create_task(self._answer(self, request))
                    self._note(event)
                self.flush()
        self.writer.close()

    def _note(self, event: Event) -> None:
        if isinstance(event, WindowUpdated):
            self.window.set()
        request = self.requests.get(getattr(event, "stream_id", 0) or 0)
        if request is None:
            return
        if isinstance(event, DataReceived):
            request.body += event.data
            if self.acknowledges:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, TrailersReceived):
            request.trailers = list(event.headers)
        elif isinstance(event, StreamReset):
            request.reset_code = event.error_code
            request.done.set()
            self.window.set()
        elif isinstance(event, StreamEnded):
            request.done.set()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def head(self, request: Request, *fields: tuple[bytes, bytes], end: bool = False) -> None:
        self.h2.send_headers(request.stream, [(b":status", b"200"), *fields], end_stream=end)
        self.flush()

    def raw(self, request: Request, *fields: tuple[bytes, bytes], end: bool = False) -> None:
        """A header block that the library would not send."""
        self.flush()
        block = self.h2.encoder.encode(fields)
        self.writer.write(headers_frames(request.stream, block, end=end))

    async def send(self, request: Request, data: bytes, *, end: bool = False) -> None:
        """Content, as fast as the windows allow, until the stream is reset."""
        while data and request.reset_code is None:
            self.window.clear()
            size = min(self.h2.local_flow_control_window(request.stream), self.h2.max_outbound_frame_size, len(data))
            if not size:
                await self.window.wait()
                continue
            self.h2.send_data(request.stream, data[:size])
            data = data[size:]
            self.flush()
            await self.writer.drain()
        if end and request.reset_code is None:
            self.h2.end_stream(request.stream)
            self.flush()


async def hello(server: Server, request: Request) -> None:
    await request.done.wait()
    server.head(request, (b"content-length", b"2"))
    server.h2.send_data(request.stream, b"hi", end_stream=True)
    server.flush()


class Endpoint:
    """An endpoint and its connections so far."""

    def __init__(self, gateway: Gateway, answer: Answer, settings: dict[int, int]) -> None:
        self._gateway = gateway
        self._answer = answer
        self._settings = settings
        self.acknowledges = True
        self.connections: list[Server] = []
        self.port = 0

    async def start(self) -> None:
        async def handled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            server = Server(self._answer, self._settings, reader, writer)
            server.acknowledges = self.acknowledges
            self.connections.append(server)
            await server.run()

        self.port = await self._gateway.endpoint(handled)

    @property
    def requests(self) -> list[Request]:
        return [request for server in self.connections for request in server.requests.values()]


async def h2c(gateway: Gateway, answer: Answer = hello, **settings: int) -> Endpoint:
    """Route HOST to an endpoint of that kind."""
    endpoint = Endpoint(gateway, answer, {SettingCodes[name]: value for name, value in settings.items()})
    await endpoint.start()
    gateway.route(endpoint.port, protocol="h2c")
    return endpoint


async def test_a_request_in_the_words_of_http2(gateway: Gateway) -> None:
    """Pseudo-header fields from line and Host; nothing about the client's connection; names in lower case."""
    endpoint = await h2c(gateway)
    fields = b"X-Own: 1\r\nTE: gzip\r\nCookie: a=b\r\nKeep-Alive: 5\r\n"
    answer = await gateway.ask(GET[:-2] + fields + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n")
    assert answer.endswith(b"\r\nconnection: close\r\n\r\nhi")
    headers = endpoint.requests[0].headers
    assert headers[:4] == [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", HOST),
        (b":path", b"/a?b"),
    ]
    names = [name for name, _ in headers]
    assert {b"x-own", b"cookie", b"x-forwarded-for", b"x-request-id", b"forwarded"} <= set(names)
    assert not {b"host", b"connection", b"keep-alive", b"te", b"transfer-encoding"} & set(names)


async def test_content_both_ways_with_trailers(gateway: Gateway) -> None:
    """Chunked on the client's side, DATA and trailers on the endpoint's."""

    async def answer(server: Server, request: Request) -> None:
        await request.done.wait()
        server.head(request, (b"trailer", b"x-back"))
        await server.send(request, bytes(request.body[::-1]))
        server.h2.send_headers(request.stream, [(b"x-back", b"2"), (b"content-length", b"9")], end_stream=True)
        server.flush()

    endpoint = await h2c(gateway, answer)
    head = b"POST / HTTP/1.1\r\nHost: %b\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" % HOST
    reply = await gateway.ask(head + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")
    assert reply.endswith(b"\r\n\r\n5\r\nolleh\r\n0\r\nx-back: 2\r\n\r\n")
    assert endpoint.requests[0].trailers == [(b"x-sum", b"1")]


async def test_streams_share_a_connection(gateway: Gateway) -> None:
    """Fifty requests at once, one connection; each gets its own answer."""
    arrived: list[Request] = []
    everybody = asyncio.Event()

    async def answer(server: Server, request: Request) -> None:
        arrived.append(request)
        if len(arrived) == 50:
            everybody.set()
        await everybody.wait()
        server.head(request, end=False)
        await server.send(request, request.fields[b":path"], end=True)

    endpoint = await h2c(gateway, answer)
    asked = [gateway.ask(GET.replace(b"/a?b", b"/%d" % number)) for number in range(50)]
    answers = await asyncio.gather(*asked)
    for number, text in enumerate(answers):
        assert b"\r\n\r\n%x\r\n/%d\r\n0\r\n\r\n" % (len(b"/%d" % number), number) in text
    assert len(endpoint.connections) == 1


async def test_a_connection_that_is_full(gateway: Gateway) -> None:
    """MAX_CONCURRENT_STREAMS is kept to; what does not fit goes on another connection."""
    arrived: list[Request] = []
    everybody = asyncio.Event()

    async def answer(server: Server, request: Request) -> None:
        arrived.append(request)
        if len(arrived) == 5:
            everybody.set()
        await everybody.wait()
        await hello(server, request)

    endpoint = await h2c(gateway, answer, MAX_CONCURRENT_STREAMS=2)
    answers = await asyncio.gather(*(gateway.ask(GET) for _ in range(5)))
    assert all(text.endswith(b"hi") for text in answers)
    assert sorted(len(server.requests) for server in endpoint.connections) == [1, 2, 2]


STATUS = (b":status", b"200")


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ((b"x", b"1"),),
        ((b":status", b"20"),),
        ((b":status", b"600"),),
        ((b":status", b"101"),),
        (STATUS, STATUS),
        (STATUS, (b":path", b"/")),
        ((b"x", b"1"), STATUS),
        (STATUS, (b"X-Upper", b"1")),
        (STATUS, (b"", b"1")),
        (STATUS, (b"x y", b"1")),
        (STATUS, (b"x", b"1\r\nset-cookie: a=b")),
        (STATUS, (b"x", b"1\x00")),
        (STATUS, (b"x", b" 1")),
        (STATUS, (b"x", b"1\t")),
        (STATUS, (b"connection", b"x")),
        (STATUS, (b"transfer-encoding", b"chunked")),
        (STATUS, (b"upgrade", b"x")),
        (STATUS, (b"keep-alive", b"5")),
        (STATUS, (b"te", b"trailers")),
        (STATUS, (b"content-length", b"1"), (b"content-length", b"1")),
        (STATUS, (b"content-length", b"+1")),
        (STATUS, *[(b"x", b"1")] * 101),
    ],
)
async def test_malformed_responses_are_502(gateway: Gateway, fields: tuple[tuple[bytes, bytes], ...]) -> None:
    """RFC 9113 section 8: the stream is reset with PROTOCOL_ERROR, the connection's others go on."""
    release = asyncio.Event()

    async def answer(server: Server, request: Request) -> None:
        if request.fields[b":path"] == b"/good":
            await release.wait()
            server.raw(request, STATUS, end=True)
        else:
            server.raw(request, *fields)

    endpoint = await h2c(gateway, answer)
    good = asyncio.ensure_future(gateway.ask(GET.replace(b"/a?b", b"/good")))
    answered = await gateway.ask(GET)
    assert answered.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert gateway.traffic.local_replies["UPE"] == 1
    release.set()
    assert (await good).startswith(b"HTTP/1.1 200 OK\r\n")
    assert len(endpoint.connections) == 1
    bad = next(request for request in endpoint.requests if request.fields[b":path"] != b"/good")
    await until(lambda: bad.reset_code == 1)


@pytest.mark.parametrize(
    ("length", "pieces"), [(b"5", [b"four"]), (b"3", [b"four"]), (b"3", [b"fo", b"ur"]), (b"0", [b"x"])]
)
async def test_content_that_is_not_as_long_as_announced(gateway: Gateway, length: bytes, pieces: list[bytes]) -> None:
    """RFC 9113 section 8.1.1: never passed on as if it were whole."""

    async def answer(server: Server, request: Request) -> None:
        server.raw(request, STATUS, (b"content-length", length))
        for piece in pieces:
            server.writer.write(data_frame(request.stream, piece, end=piece is pieces[-1]))

    await h2c(gateway, answer)
    reader, writer = await gateway.connect()
    writer.write(GET)
    text = b""
    try:
        text = await reader.read()
    except ConnectionResetError:
        return
    finally:
        writer.close()
    head, _, body = text.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502 ") or (length != b"0" and len(body) < int(length))


@pytest.mark.parametrize(
    ("method", "fields", "expected"),
    [
        (b"HEAD", (STATUS, (b"content-length", b"5")), b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n"),
        (b"GET", ((b":status", b"204"),), b"HTTP/1.1 204 No Content\r\n"),
        (
            b"GET",
            ((b":status", b"304"), (b"content-length", b"5")),
            b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n",
        ),
        (b"GET", ((b":status", b"299"), (b"content-length", b"0")), b"HTTP/1.1 299 \r\ncontent-length: 0\r\n"),
    ],
)
@pytest.mark.parametrize("separately", [False, True])
async def test_responses_without_content(
    gateway: Gateway, method: bytes, fields: tuple[tuple[bytes, bytes], ...], expected: bytes, separately: bool
) -> None:
    """Whether the end comes with the head or in an empty DATA frame."""

    async def answer(server: Server, request: Request) -> None:
        server.raw(request, *fields, end=not separately)
        if separately:
            server.writer.write(data_frame(request.stream, b"", end=True))

    await h2c(gateway, answer)
    answer = await gateway.ask(GET.replace(b"GET", method, 1))
    assert answer.startswith(expected)
    assert answer.endswith(b"\r\nconnection: close\r\n\r\n")


async def test_interim_responses_pass(gateway: Gateway) -> None:
    """103 before the final head (RFC 8297); without end they are 502."""

    async def answer(server: Server, request: Request) -> None:
        for _ in range(20 if b"endless" in request.fields[b":path"] else 2):
            server.raw(request, (b":status", b"103"), (b"link", b"</a>"))
        server.raw(request, STATUS, end=True)

    await h2c(gateway, answer)
    text = await gateway.ask(GET)
    assert text.startswith(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 2 + b"HTTP/1.1 200 OK\r\n")
    text = await gateway.ask(GET.replace(b"/a?b", b"/endless"))
    assert b"HTTP/1.1 502 Bad Gateway\r\n" in text


async def test_a_stream_that_the_endpoint_resets(gateway: Gateway) -> None:
    """502 with the flag UR before the head, a reset after it; the connection stays."""

    async def answer(server: Server, request: Request) -> None:
        if request.fields[b":path"] == b"/late":
            server.head(request)
            server.h2.send_data(request.stream, b"half")
        if request.fields[b":path"] != b"/good":
            server.h2.reset_stream(request.stream, 2)
            server.flush()
        else:
            await hello(server, request)

    endpoint = await h2c(gateway, answer)
    text = await gateway.ask(GET)
    assert text.startswith(b"HTTP/1.1 502 ")
    assert b"INTERNAL_ERROR" in text
    assert gateway.traffic.local_replies["UR"] == 1
    with suppress(ConnectionResetError):
        assert not (await gateway.ask(GET.replace(b"/a?b", b"/late"))).endswith(b"0\r\n\r\n")
    assert (await gateway.ask(GET.replace(b"/a?b", b"/good"))).endswith(b"hi")
    assert len(endpoint.connections) == 1


async def test_refused_streams_are_sent_again(gateway: Gateway) -> None:
    """REFUSED_STREAM: nothing ran, so a request of any method is sent once more, with its content."""
    refusals = [0]

    async def answer(server: Server, request: Request) -> None:
        if refusals[0]:
            refusals[0] -= 1
            server.h2.reset_stream(request.stream, 7)
            server.flush()
        else:
            await hello(server, request)

    endpoint = await h2c(gateway, answer)
    refusals[0] = 1
    assert (await gateway.ask(GET.replace(b"GET", b"POST"))).endswith(b"hi")
    refusals[0] = 1
    text = await gateway.ask(GET.replace(b"GET", b"POST")[:-2] + b"Content-Length: 1\r\n\r\nx")
    assert text.endswith(b"hi")
    assert endpoint.requests[-1].body == b"x"
    refusals[0] = 2
    assert (await gateway.ask(GET)).startswith(b"HTTP/1.1 503 ")


async def test_goaway_lets_what_runs_finish(gateway: Gateway) -> None:
    """Streams up to the last one finish there, later ones are sent again elsewhere, the connection closes then."""
    slow = asyncio.Event()

    async def answer(server: Server, request: Request) -> None:
        if server is endpoint.connections[0]:
            if request.stream == 1:
                await slow.wait()
            else:
                server.h2.close_connection(last_stream_id=1)
                server.flush()
                server.h2.state_machine.state = ConnectionState.SERVER_OPEN  # it goes on, which the library thinks odd
                return
        await hello(server, request)

    endpoint = await h2c(gateway, answer)
    first = asyncio.ensure_future(gateway.ask(GET.replace(b"/a?b", b"/first")))
    await until(lambda: len(endpoint.requests) == 1)
    assert (await gateway.ask(GET)).endswith(b"hi")
    assert len(endpoint.connections) == 2
    slow.set()
    assert (await first).endswith(b"hi")
    await until(lambda: gateway.pools.open == 1)


async def test_a_lost_connection_fails_what_was_on_it(gateway: Gateway) -> None:
    """502 for those in flight (a first stream is not sent again); the next request finds a new connection."""
    count = [0]

    async def answer(server: Server, request: Request) -> None:
        count[0] += 1
        if count[0] == 3:
            server.writer.transport.abort()
        elif count[0] > 3:
            await hello(server, request)

    await h2c(gateway, answer)
    texts = await asyncio.gather(*(gateway.ask(GET.replace(b"GET", b"POST")) for _ in range(3)))
    assert all(text.startswith(b"HTTP/1.1 502 ") for text in texts)
    assert gateway.traffic.local_replies["UC"] == 3
    assert (await gateway.ask(GET)).endswith(b"hi")


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        window_frame(0, 0),
        window_frame(0, 2**31 - 1),
        window_frame(999, 1),
        window_frame(2, 1),
        settings_frame([(4, 2**31 - 1)]) + window_frame(1, 1) + settings_frame([(4, 2**31)]),
        data_frame(0, b"", end=False),
        data_frame(999, b"", end=False),
        headers_frames(1, b"\x00", end=True),
    ],
)
async def test_a_connection_that_breaks_http2(gateway: Gateway, nonsense: bytes) -> None:
    """502 for all on it, GOAWAY, and never used again."""

    async def answer(server: Server, request: Request) -> None:
        if server is endpoint.connections[0]:
            server.writer.write(nonsense)
        else:
            await hello(server, request)

    endpoint = await h2c(gateway, answer)
    assert (await gateway.ask(GET)).startswith(b"HTTP/1.1 502 ")
    assert gateway.traffic.local_replies["UPE"] == 1
    assert (await gateway.ask(GET)).endswith(b"hi")
    await until(lambda: any(isinstance(event, ConnectionTerminated) for event in endpoint.connections[0].events))


async def test_a_client_that_leaves(gateway: Gateway) -> None:
    """The endpoint learns of it (CANCEL), and the connection stays."""
    endpoint = await h2c(gateway, ignore)
    _, writer = await gateway.connect()
    writer.write(GET)
    await until(lambda: len(endpoint.requests) == 1)
    writer.close()
    await until(lambda: endpoint.requests[0].reset_code == 8)
    await gateway.idle()
    assert gateway.pools.open == 1


async def test_malformed_content_is_never_a_complete_request(gateway: Gateway) -> None:
    """A bad chunk behind good ones: 400 for the client, CANCEL for the endpoint that has them."""
    endpoint = await h2c(gateway, ignore)
    client = await gateway.client(
        GET.replace(b"GET", b"POST")[:-2] + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    )
    await until(lambda: [request.body for request in endpoint.requests] == [b"hello"])
    client.send(b"x\r\n0\r\n\r\n")
    assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
    (request,) = endpoint.requests
    await until(lambda: request.reset_code == 8)
    assert not any(isinstance(event, StreamEnded) for event in endpoint.connections[0].events)
    client.close()


async def ignore(_server: Server, _request: Request) -> None:
    pass


async def test_an_answer_before_the_request_is_complete(gateway: Gateway) -> None:
    """The client gets it; what the endpoint will not see the end of is reset with NO_ERROR."""

    async def answer(server: Server, request: Request) -> None:
        server.head(request, (b"content-length", b"2"))
        await server.send(request, b"no", end=True)

    endpoint = await h2c(gateway, answer)
    text = await gateway.ask(GET.replace(b"GET", b"POST")[:-2] + b"Content-Length: 10\r\n\r\n12345")
    assert text.startswith(b"HTTP/1.1 200 OK\r\n")
    assert text.endswith(b"no")
    await until(lambda: endpoint.requests[0].reset_code == 0)


async def test_an_endpoint_that_takes_no_content(gateway: Gateway) -> None:
    """Its window closes, its client is not read any more, other streams go on; when it opens all arrives, in order."""
    size = 20_000_000

    async def answer(server: Server, request: Request) -> None:
        if request.fields[b":method"] == b"GET":
            server.acknowledges = True
            await hello(server, request)
            return
        await request.done.wait()
        server.head(request, (b"x-size", b"%d" % len(request.body)), end=True)

    endpoint = await h2c(gateway, answer)
    assert (await gateway.ask(GET)).endswith(b"hi")
    server = endpoint.connections[0]
    server.acknowledges = False
    reader, writer = await gateway.connect()
    writer.write(GET.replace(b"GET", b"POST")[:-2] + b"Content-Length: %d\r\n\r\n" % size)
    writer.write(bytes(range(250)) * (size // 250))
    await until(lambda: len(endpoint.requests) == 2)
    upload = endpoint.requests[1]
    await until(lambda: len(upload.body) == 65535)
    assert writer.transport.get_write_buffer_size() > 0  # the gateway has stopped reading
    server.h2.increment_flow_control_window(100_000_000)
    server.flush()
    assert (await gateway.ask(GET)).endswith(b"hi")
    assert len(upload.body) == 65535
    server.h2.increment_flow_control_window(size, upload.stream)
    server.flush()
    text = await reader.read()
    writer.close()
    assert b"x-size: %d\r\n" % size in text
    assert upload.body == bytes(range(250)) * (size // 250)


@pytest.mark.parametrize("overruns", [False, True])
async def test_a_client_that_does_not_read(gateway: Gateway, overruns: bool) -> None:
    """Its stream's window stays closed, so the endpoint stops, or is stopped; other streams on the connection go on."""
    sent = [0]

    async def answer(server: Server, request: Request) -> None:
        if request.fields[b":path"] != b"/big":
            await hello(server, request)
            return
        server.head(request, (b"content-length", b"20000000"))
        for _ in range(2000):
            await server.send(request, bytes(10_000))
            sent[0] += 10_000
        await server.send(request, b"", end=True)

    endpoint = await h2c(gateway, answer)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", gateway.port))
        await loop.sock_sendall(client, GET.replace(b"/a?b", b"/big"))
        before = -1
        while before != sent[0]:
            before = sent[0]
            for _ in range(20):
                assert (await gateway.ask(GET)).endswith(b"hi")
        assert 0 < sent[0] < 10_000_000
        if overruns:
            big = next(request for request in endpoint.requests if request.fields[b":path"] == b"/big")
            endpoint.connections[0].writer.write(data_frame(big.stream, b"x", end=False))
            await until(lambda: big.reset_code == 3)  # FLOW_CONTROL_ERROR
            assert (await gateway.ask(GET)).endswith(b"hi")
            return
        received = 0
        while received < 20_000_000:
            received += len(await loop.sock_recv(client, 1 << 20))
    assert sent[0] == 20_000_000


async def test_an_endpoint_that_speaks_http1_only(gateway: Gateway) -> None:
    """One clear sentence instead of a riddle."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(24)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    gateway.route(await gateway.endpoint(answer), protocol="h2c")
    text = await gateway.ask(GET)
    assert text.startswith(b"HTTP/1.1 502 ")
    assert b"does not speak HTTP/2, though its port is named h2c" in text


async def test_an_endpoint_that_closes_before_its_greeting(gateway: Gateway) -> None:
    """Nothing was sent on that connection, so the request goes to another endpoint."""

    async def closing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        pass

    endpoint = await h2c(gateway)
    gateway.route(await gateway.endpoint(closing), endpoint.port, protocol="h2c")
    for _ in range(10):
        assert (await gateway.ask(GET)).endswith(b"hi")


async def test_an_upgrade_goes_out_in_http1(gateway: Gateway) -> None:
    """HTTP/2 has no word for it, and servers that speak both take it."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"GET /a?b HTTP/1.1\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        writer.write(await reader.readexactly(4))

    gateway.route(await gateway.endpoint(endpoint), protocol="h2c")
    reader, writer = await gateway.connect()
    writer.write(b"GET /a?b HTTP/1.1\r\nHost: %b\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nping" % HOST)
    assert (await reader.read()).endswith(b"ping")
    writer.close()


@pytest.mark.parametrize("kind", ["h2c", "http1", "silent", "closing"])
async def test_a_port_without_a_name_is_asked(gateway: Gateway, kind: str) -> None:
    """autodetect-http2: HTTP/2 for whoever greets in it, HTTP/1.1 for who answers otherwise or not at all; once."""
    prefaces = [0]

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if head.startswith(b"PRI "):
                prefaces[0] += 1
                if kind == "silent":
                    await reader.read()
                elif kind == "closing":
                    return
                writer.write(b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Length: 0\r\n\r\n")
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    port = (await h2c(gateway)).port if kind == "h2c" else await gateway.endpoint(plain)
    gateway.route(port, protocol="detect")
    for _ in range(3):
        assert (await gateway.ask(GET)).endswith(b"hi")
    assert prefaces[0] == (kind != "h2c")


async def test_concurrency_counts_streams(gateway: Gateway) -> None:
    """containerConcurrency holds for requests, however many fit on a connection."""
    running: list[Request] = []
    release = asyncio.Event()

    async def answer(server: Server, request: Request) -> None:
        running.append(request)
        await release.wait()
        await hello(server, request)

    endpoint = Endpoint(gateway, answer, {})
    await endpoint.start()
    gateway.route(endpoint.port, protocol="h2c", container_concurrency=2)
    asked = [asyncio.ensure_future(gateway.ask(GET)) for _ in range(5)]
    await until(lambda: gateway.activator.parked == 3 and len(running) == 2)
    release.set()
    assert all(text.endswith(b"hi") for text in await asyncio.gather(*asked))


async def test_content_that_was_early_for_an_endpoint_that_is_slow(gateway: Gateway) -> None:
    """What does not go out keeps the client waiting, from the first connection on."""

    async def answer(server: Server, request: Request) -> None:
        await request.done.wait()
        server.head(request, (b"x-size", b"%d" % len(request.body)), end=True)

    size = 20_000_000
    endpoint = await h2c(gateway, answer)
    endpoint.acknowledges = False
    reader, writer = await gateway.connect()
    writer.write(GET.replace(b"GET", b"POST")[:-2] + b"Content-Length: %d\r\n\r\n" % size + bytes(size))
    await until(lambda: bool(endpoint.requests) and len(endpoint.requests[0].body) == 65535)
    assert (await gateway.ask(b"GET / HTTP/1.1\r\nHost: nowhere\r\nConnection: close\r\n\r\n")).startswith(
        b"HTTP/1.1 404 "
    )
    assert writer.transport.get_write_buffer_size() > size // 4
    server = endpoint.connections[0]
    server.acknowledges = True
    server.h2.increment_flow_control_window(size)
    server.h2.increment_flow_control_window(size, 1)
    server.flush()
    assert b"x-size: %d\r\n" % size in await reader.read()
    writer.close()


async def test_a_server_that_takes_fewer_streams_than_before(gateway: Gateway) -> None:
    """A lower MAX_CONCURRENT_STREAMS holds for the next stream; none at all is as good as no server."""
    release = asyncio.Event()

    async def answer(server: Server, request: Request) -> None:
        await release.wait()
        await hello(server, request)

    endpoint = await h2c(gateway, answer)
    asked = [asyncio.ensure_future(gateway.ask(GET)) for _ in range(3)]
    await until(lambda: len(endpoint.requests) == 3)
    endpoint.connections[0].writer.write(settings_frame([(3, 2)]))
    await until(
        lambda: len([1 for one in endpoint.connections[0].events if isinstance(one, SettingsAcknowledged)]) == 2
    )
    asked.append(asyncio.ensure_future(gateway.ask(GET)))
    await until(lambda: len(endpoint.requests) == 4)
    assert len(endpoint.connections) == 2
    release.set()
    assert all(text.endswith(b"hi") for text in await asyncio.gather(*asked))
    none = await h2c(gateway, MAX_CONCURRENT_STREAMS=0)
    text = await gateway.ask(GET)
    assert text.startswith(b"HTTP/1.1 503 ")
    assert b"takes no streams" in text
    assert not none.requests


@pytest.mark.parametrize("question", [settings_frame([]), b"\0\0\x08\x06\0\0\0\0\0abcdefgh"])
async def test_an_endpoint_that_asks_and_asks(gateway: Gateway, question: bytes) -> None:
    """SETTINGS and PING want answers, which cost more than the questions: there is a budget for them."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(settings_frame([]))
        await reader.readuntil(b"SM\r\n\r\n")
        while len(await reader.read(65536)) < 60:  # until there is a request
            pass
        writer.write(question * 1100)
        await reader.read(65536)

    gateway.route(await gateway.endpoint(endpoint), protocol="h2c")
    text = await gateway.ask(GET)
    assert text.startswith(b"HTTP/1.1 502 ")
    assert gateway.traffic.local_replies["UPE"] == 1


async def test_dials_are_shared(gateway: Gateway) -> None:
    """Whoever leaves while a connection is made does not take it from the others."""
    greet = asyncio.Event()
    connections: list[asyncio.StreamWriter] = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await greet.wait()
        await Server(hello, {}, reader, writer).run()

    gateway.route(await gateway.endpoint(endpoint), protocol="h2c")
    _, leaving = await gateway.connect()
    leaving.write(GET)
    await until(lambda: len(connections) == 1)
    asked = [asyncio.ensure_future(gateway.ask(GET)) for _ in range(3)]
    await until(lambda: gateway.exchanges.in_flight == 4)
    leaving.transport.abort()
    await until(lambda: gateway.exchanges.in_flight == 3)
    greet.set()
    assert all(text.endswith(b"hi") for text in await asyncio.gather(*asked))
    assert len(connections) == 1


class Owned:
    """An Owner that only looks on, and a connection of its own."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def opened(self, _upstream: Upstream2) -> None:
        self.told.append("opened")

    def retired(self, _upstream: Upstream2) -> None:
        self.told.append("retired")

    def lost(self, _upstream: Upstream2) -> None:
        self.told.append("lost")


async def test_a_peer_that_vanished_is_found_by_ping(gateway: Gateway) -> None:
    """One PING after SILENCE; no answer in as long again ends the connection, an answer is good for PING_INTERVAL."""
    frames = bytearray()
    answers = asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(settings_frame([]))
        while data := await reader.read(65536):
            frames.extend(data)
            if answers.is_set() and ping_frame(b"zerogate", acknowledges=False) in data:
                writer.write(ping_frame(b"zerogate", acknowledges=True))

    port = await gateway.endpoint(endpoint)
    owner = Owned()
    loop = asyncio.get_running_loop()
    _, upstream = await loop.create_connection(lambda: Upstream2(("a", 1), owner), "127.0.0.1", port)
    await upstream.greeted
    pings = functools.partial(frames.count, ping_frame(b"zerogate", acknowledges=False))
    now = loop.time()
    for passed in range(100):
        upstream.check(now + passed)
    await asyncio.sleep(0)
    assert not pings()  # nobody waits for anything
    upstream.open()
    answers.set()
    for passed in range(200):
        upstream.check(now + 100 + passed)
        if passed == SILENCE + 1:
            await until(lambda: pings() == 1)
            await until(lambda: upstream.heard)
    assert owner.told == ["opened"]
    answers.clear()
    for passed in range(400):
        upstream.check(now + 300 + passed)
    assert owner.told == ["opened", "retired"]
    await until(lambda: owner.told == ["opened", "retired", "lost"])


async def test_stream_numbers_run_out(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9113 section 5.1.1: then another connection takes over, and the old one closes."""
    monkeypatch.setattr("gateway.net.upstream2.LAST_STREAM", 5)
    endpoint = await h2c(gateway)
    for _ in range(7):
        assert (await gateway.ask(GET)).endswith(b"hi")
    assert [list(server.requests) for server in endpoint.connections] == [[1, 3, 5], [1, 3, 5], [1]]
    await until(lambda: gateway.pools.open == 1)


def any_frame(chance: random.Random) -> bytes:
    """A frame that may mean something, or not, or break HTTP/2."""
    stream = chance.choice([1, 1, 1, 3, 5, 2, 0])
    status = (b":status", chance.choice([b"200", b"204", b"304", b"103", b"500"]))
    more = chance.choice([(), ((b"content-length", b"5"),), ((b"x", b"y"),)])
    end = chance.random() < 0.4
    kinds: list[Callable[[], bytes]] = [
        lambda: headers_frames(stream, Encoder().encode([status, *more]), end=end),
        lambda: headers_frames(stream, Encoder().encode([(b"grpc-status", b"0")]), end=end),
        lambda: headers_frames(stream, chance.randbytes(5), end=end),
        lambda: data_frame(stream, chance.choice([b"", b"hello", b"he", bytes(16384)]), end=end),
        lambda: reset_frame(stream, chance.choice([0, 2, 7, 8, 99])),
        lambda: window_frame(chance.choice([0, stream]), chance.choice([0, 1, 65536, 2**31 - 1])),
        lambda: settings_frame([(chance.choice([1, 3, 4, 5, 99]), chance.choice([0, 1, 16384, 2**31 - 1]))]),
        lambda: ping_frame(b"12345678", acknowledges=end),
        lambda: goaway_frame(chance.choice([0, 1, 99]), chance.choice([0, 2])),
        lambda: chance.randbytes(chance.randrange(1, 30)),
    ]
    return chance.choice(kinds)()


@pytest.mark.parametrize("seed", range(4))
async def test_random_frames_from_the_endpoint(gateway: Gateway, seed: int) -> None:
    """Whatever comes: an answer or a reset, no error of our own, nothing left behind (the fixture looks)."""
    chance = random.Random(seed)

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(settings_frame([]))
        await reader.readuntil(b"SM\r\n\r\n")
        while len(await reader.read(65536)) < 60:  # until there is a request
            pass
        for _ in range(chance.randrange(1, 30)):
            if writer.transport.is_closing():
                return
            writer.write(any_frame(chance))
            if chance.random() < 0.3:
                await asyncio.sleep(0)

    gateway.route(await gateway.endpoint(endpoint), protocol="h2c")
    content = b"Content-Length: 100000\r\n\r\n" + bytes(100_000)
    for _ in range(20):
        with suppress(ConnectionError):
            message = chance.choice([GET, GET.replace(b"GET", b"HEAD"), GET.replace(b"GET", b"POST")[:-2] + content])
            assert (await gateway.ask(message))[:9] in (b"HTTP/1.1 ", b"")
    assert not gateway.traffic.unexpected_errors
