"""HTTP/2 to the endpoints, over real sockets; the endpoint is the h2 library's, told what to do by each test."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.settings import SettingCodes, Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    Gateway = Any  # the class of conftest.py, which importlib mode does not let a test import
    Answer = Callable[["Server", "Request"], Awaitable[None]]

HOST = b"hello.default.localhost"
GET = b"GET /a?b HTTP/1.1\r\nHost: hello.default.localhost\r\nConnection: close\r\n\r\n"


class Request:
    """A request as the endpoint sees it. `done` is set at its end, or when it is reset (with `reset_code`)."""

    def __init__(self, stream: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.stream = stream
        self.headers = headers
        self.fields = dict(headers)
        self.body = b""
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
        elif isinstance(event, StreamEnded):
            request.done.set()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def head(self, request: Request, *fields: tuple[bytes, bytes], end: bool = False) -> None:
        self.h2.send_headers(request.stream, [(b":status", b"200"), *fields], end_stream=end)
        self.flush()

    async def send(self, request: Request, data: bytes, *, end: bool = False) -> None:
        """Content, as fast as the windows allow."""
        while data:
            self.window.clear()
            size = min(self.h2.local_flow_control_window(request.stream), self.h2.max_outbound_frame_size, len(data))
            if not size:
                await self.window.wait()
                continue
            self.h2.send_data(request.stream, data[:size])
            data = data[size:]
            self.flush()
            await self.writer.drain()
        if end:
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
        self.connections: list[Server] = []
        self.port = 0

    async def start(self) -> None:
        async def handled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            server = Server(self._answer, self._settings, reader, writer)
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


async def ask(gateway: Gateway, message: bytes) -> bytes:
    """Send on a connection of its own and read until the gateway closes it."""
    reader, writer = await gateway.connect()
    writer.write(message)
    async with asyncio.timeout(5):
        answer: bytes = await reader.read()
    writer.close()
    return answer


async def test_a_request_in_the_words_of_http2(gateway: Gateway) -> None:
    """Pseudo-header fields from line and Host; nothing about the client's connection; names in lower case."""
    endpoint = await h2c(gateway)
    fields = b"X-Own: 1\r\nTE: gzip\r\nCookie: a=b\r\nKeep-Alive: 5\r\n"
    answer = await ask(gateway, GET[:-2] + fields + b"\r\n")
    assert answer == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi"
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
        await server.send(request, request.body[::-1])
        server.h2.send_headers(request.stream, [(b"x-back", b"2"), (b"content-length", b"9")], end_stream=True)
        server.flush()

    endpoint = await h2c(gateway, answer)
    head = b"POST / HTTP/1.1\r\nHost: %b\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" % HOST
    reply = await ask(gateway, head + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")
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
    asked = [ask(gateway, GET.replace(b"/a?b", b"/%d" % number)) for number in range(50)]
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
    answers = await asyncio.gather(*(ask(gateway, GET) for _ in range(5)))
    assert all(text.endswith(b"hi") for text in answers)
    assert sorted(len(server.requests) for server in endpoint.connections) == [1, 2, 2]
