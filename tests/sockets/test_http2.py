"""HTTP/2 towards clients, whole path over real sockets. The client is the `h2` library's; what it would never send is
written frame by frame."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import Any

    Gateway = Any  # the class of conftest.py, which importlib mode does not let a test import

HOST = "hello.default.localhost"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class Answer:
    """What one stream has brought so far."""

    def __init__(self) -> None:
        self.status = 0
        self.fields: dict[str, str] = {}
        self.interim: list[int] = []
        self.body = b""
        self.trailers: dict[str, str] | None = None
        self.ended = False
        self.reset: int | None = None


class Client:
    """An HTTP/2 client on one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding="latin-1",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.answers: defaultdict[int, Answer] = defaultdict(Answer)
        self.goaway: h2.events.ConnectionTerminated | None = None
        self.events: list[h2.events.Event] = []
        self.takes = True  # give back the window of what has come
        self.closed = False
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def ask(self, *, method: str = "GET", path: str = "/", end: bool = True, host: str = HOST, **fields: str) -> int:
        """Begin a request; returns its stream."""
        number = self.h2.get_next_available_stream_id()
        lines = [(":method", method), (":scheme", "http"), (":path", path), (":authority", host)]
        lines += [(name.replace("_", "-"), value) for name, value in fields.items()]
        self.h2.send_headers(number, lines, end_stream=end)
        self.flush()
        return number

    def send(self, number: int, data: bytes, *, end: bool = False) -> None:
        self.h2.send_data(number, data, end_stream=end)
        self.flush()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Read until `condition` holds."""
        async with asyncio.timeout(5):
            while not condition():
                data = await self.reader.read(65536)
                if not data:
                    self.closed = True
                    assert condition(), "the gateway closed the connection"
                    return
                for event in self.h2.receive_data(data):
                    self.note(event)
                self.flush()

    def note(self, event: h2.events.Event) -> None:
        self.events.append(event)
        if isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = event
            return
        number = getattr(event, "stream_id", 0)
        answer = self.answers[number]
        if isinstance(event, h2.events.ResponseReceived):
            answer.fields = dict(event.headers)
            answer.status = int(answer.fields[":status"])
        elif isinstance(event, h2.events.InformationalResponseReceived):
            answer.interim.append(int(dict(event.headers)[":status"]))
        elif isinstance(event, h2.events.DataReceived):
            answer.body += event.data
            if self.takes:
                self.h2.acknowledge_received_data(event.flow_controlled_length, number)
        elif isinstance(event, h2.events.TrailersReceived):
            answer.trailers = dict(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            answer.ended = True
        elif isinstance(event, h2.events.StreamReset):
            answer.reset = int(event.error_code)

    async def answer(self, number: int) -> Answer:
        """The whole response on a stream."""
        answer = self.answers[number]
        await self.until(lambda: answer.ended or answer.reset is not None)
        return answer

    async def get(self, **request: Any) -> Answer:
        return await self.answer(self.ask(**request))


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[Client]:
    client = Client(*await gateway.connect())
    yield client
    client.writer.close()


async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)


async def test_a_get_by_prior_knowledge(gateway: Gateway, client: Client) -> None:
    """RFC 9113 section 3.3; the endpoint sees an HTTP/1.1 request like any other."""
    seen = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(OK)

    gateway.route(await gateway.endpoint(endpoint))
    answer = await client.get(path="/a?b", cookie="a=b")
    assert (answer.status, answer.body, answer.fields["content-length"]) == (200, b"hi", "2")
    lines = seen[0].split(b"\r\n")
    assert lines[0] == b"GET /a?b HTTP/1.1"
    assert lines[1] == b"host: hello.default.localhost"
    assert b"x-forwarded-for: 127.0.0.1" in lines
    assert (await client.get(path="/next")).body == b"hi"
    await gateway.idle()


async def test_an_unknown_host(gateway: Gateway, client: Client) -> None:
    """A local reply is a response like any other, and the connection goes on."""
    gateway.route(await gateway.endpoint(answering))
    answer = await client.get(host="nowhere")
    assert answer.status == 404
    assert b"nowhere" in answer.body
    assert (await client.get(host="nowhere", method="HEAD")).body == b""


async def test_the_access_log_says_the_protocol(gateway: Gateway, client: Client) -> None:
    gateway.route(await gateway.endpoint(answering))
    await client.get()
    gateway.access_log.flush()
    line = json.loads(gateway.log.read_text())
    assert (line["protocol"], line["status"], line["bytes"]) == ("HTTP/2", 200, 2)


async def test_content_goes_to_the_endpoint(gateway: Gateway, client: Client) -> None:
    """With Content-Length as it is, without it in chunks."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b"transfer-encoding: chunked" in head:
                content = b"chunked " + await reader.readuntil(b"0\r\n\r\n")
            else:
                content = await reader.readexactly(5)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))

    gateway.route(await gateway.endpoint(endpoint))
    number = client.ask(method="POST", end=False, content_length="5")
    client.send(number, b"12345", end=True)
    assert (await client.answer(number)).body == b"12345"
    number = client.ask(method="POST", end=False)
    client.send(number, b"12")
    client.send(number, b"345", end=True)
    assert (await client.answer(number)).body.startswith(b"chunked ")
