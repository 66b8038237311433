"""What a client of HTTP/2 may not do, frame by frame, and how each limit answers. Honest clients notice nothing."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from gateway.config import Limits
from gateway.net import downstream2, stream2
from tests.polling import until
from tests.sockets.http2 import (
    ACK,
    CANCEL,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GET,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    Client,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.sockets.gateway import Gateway

OK = b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Length: 2\r\n\r\nhi"


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[Client]:
    """A client of a gateway whose endpoint answers all but /never."""
    gateway.route(await gateway.endpoint(answering))
    client = Client(*await gateway.connect())
    yield client
    client.writer.close()


async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reader._limit = 2**20  # type: ignore[attr-defined] # the largest head
    while b"/never" not in await reader.readuntil(b"\r\n\r\n"):
        writer.write(OK)
    await reader.read()


def with_path(path: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, path if name == b":path" else value) for name, value in GET]


# --- connection errors ------------------------------------------------------------------------------------------------

INT = (1).to_bytes(4, "big")
WRONG: dict[str, tuple[int, Callable[[Client], None]]] = {
    "a frame that is too large": (FRAME_SIZE_ERROR, lambda c: c.raw(DATA, 0, 1, bytes(16385))),
    "SETTINGS on a stream": (PROTOCOL_ERROR, lambda c: c.raw(SETTINGS, 0, 1)),
    "a setting cut short": (FRAME_SIZE_ERROR, lambda c: c.raw(SETTINGS, 0, 0, bytes(5))),
    "an acknowledgement with content": (FRAME_SIZE_ERROR, lambda c: c.raw(SETTINGS, ACK, 0, bytes(6))),
    "a window setting out of range": (FLOW_CONTROL_ERROR, lambda c: c.raw(SETTINGS, 0, 0, b"\0\4\x80\0\0\0")),
    "PING on a stream": (PROTOCOL_ERROR, lambda c: c.raw(PING, 0, 1, bytes(8))),
    "PING of another size": (FRAME_SIZE_ERROR, lambda c: c.raw(PING, 0, 0, bytes(7))),
    "PUSH_PROMISE": (PROTOCOL_ERROR, lambda c: c.raw(PUSH_PROMISE, END_HEADERS, 1, bytes(4))),
    "DATA on no stream": (PROTOCOL_ERROR, lambda c: c.raw(DATA, 0, 0, b"x")),
    "DATA on an idle stream": (PROTOCOL_ERROR, lambda c: c.raw(DATA, 0, 1, b"x")),
    "RST_STREAM on an idle stream": (PROTOCOL_ERROR, lambda c: c.raw(RST_STREAM, 0, 1, INT)),
    "WINDOW_UPDATE on an idle stream": (PROTOCOL_ERROR, lambda c: c.raw(WINDOW_UPDATE, 0, 1, INT)),
    "WINDOW_UPDATE by nothing": (PROTOCOL_ERROR, lambda c: c.raw(WINDOW_UPDATE, 0, 0, bytes(4))),
    "a connection's window too large": (FLOW_CONTROL_ERROR, lambda c: c.raw(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")),
    "a stream of even number": (PROTOCOL_ERROR, lambda c: c.raw_fields(2, *GET)),
    "a header block that is nonsense": (
        COMPRESSION_ERROR,
        lambda c: c.raw(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff"),
    ),
    "a header block cut short": (COMPRESSION_ERROR, lambda c: c.raw(HEADERS, END_HEADERS, 1, b"\x40")),
    "CONTINUATION of nothing": (PROTOCOL_ERROR, lambda c: c.raw(CONTINUATION, END_HEADERS, 1)),
    "padding longer than its frame": (PROTOCOL_ERROR, lambda c: c.raw(HEADERS, END_HEADERS | 8, 1, b"\x05abc")),
    "an interrupted header block": (
        PROTOCOL_ERROR,
        lambda c: (c.raw(HEADERS, 0, 1), c.raw(PING, 0, 0, bytes(8)))[0],
    ),
}


@pytest.mark.parametrize("what", WRONG)
async def test_a_broken_protocol_ends_the_connection(gateway: Gateway, client: Client, what: str) -> None:
    """GOAWAY with the code that RFC 9113 names, then the connection closes."""
    code, act = WRONG[what]
    act(client)
    assert await client.sent_away() == code
    await gateway.left()
    assert sum(gateway.traffic.http2_faults.values()) == 1


@pytest.mark.parametrize("start", [b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)])
async def test_a_wrong_preface(gateway: Gateway, client: Client, start: bytes) -> None:
    """The rest of the preface, then SETTINGS (RFC 9113 section 3.4)."""
    reader, writer = await gateway.connect()
    writer.write(start)
    answer = await reader.read()
    writer.close()
    assert b"\x07\0\0\0\0\0" in answer  # GOAWAY


async def test_a_stream_is_not_opened_twice(client: Client) -> None:
    """Numbers only go up (RFC 9113 section 5.1.1)."""
    client.raw_fields(5, *GET)
    await client.until(lambda: client.answers[5].ended)
    client.raw_fields(3, *GET)
    assert await client.sent_away() == STREAM_CLOSED


async def test_frames_that_mean_nothing_are_ignored(client: Client) -> None:
    """PRIORITY, unknown frames, flags and settings (RFC 9113 sections 4.1, 5.5)."""
    client.raw(PRIORITY, 0, 9, bytes(5))
    client.raw(200, 255, 7, b"anything")
    client.raw(SETTINGS, 0, 0, b"\xff\0\0\0\0\0")
    client.raw(PING, 0x80, 0, b"payload!")
    assert (await client.get()).status == 200


# --- stream errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    [(b"connection", b"close"), (b"X", b"y"), (b"x", b"a\r\nb: c"), (b"x", b"\0"), (b"te", b"gzip"), (b":path", b"/")],
)
async def test_a_malformed_request_is_told_why_and_reset(
    gateway: Gateway, client: Client, field: tuple[bytes, bytes]
) -> None:
    """A 400, and PROTOCOL_ERROR behind it (RFC 9113 section 8.1.1); the connection and its table go on."""
    client.raw_fields(1, *GET, field)
    assert await client.reset_of(1) == PROTOCOL_ERROR
    assert client.answers[1].status == 400
    client.raw_fields(3, *GET)
    await client.until(lambda: client.answers[3].ended)
    assert client.answers[3].status == 200


async def test_content_and_its_length_must_agree(gateway: Gateway, client: Client) -> None:
    """More or less DATA than Content-Length says, or none at all (RFC 9113 section 8.1.1)."""
    post = [(b":method", b"POST"), *GET[1:], (b"content-length", b"3")]
    client.raw_fields(1, *post, end=True)
    client.raw_fields(3, *post, end=False)
    client.raw(DATA, END_STREAM, 3, b"ab")
    client.raw_fields(5, *post, end=False)
    client.raw(DATA, 0, 5, b"abcd")
    for number in (1, 3, 5):
        assert await client.reset_of(number) == PROTOCOL_ERROR
        assert client.answers[number].status == 400
    await gateway.idle()


async def test_data_behind_the_end(client: Client) -> None:
    """A stream that is half closed takes no more (RFC 9113 section 5.1)."""
    client.raw_fields(1, *with_path(b"/never"))
    client.raw(DATA, 0, 1, b"more")
    assert await client.reset_of(1) == STREAM_CLOSED


async def test_more_content_than_the_window(client: Client) -> None:
    """A stream's own window costs the stream; DATA for streams that are gone counts for the connection's."""
    client.raw_fields(1, *[(b":method", b"POST"), *with_path(b"/never")[1:]], end=False)
    for _ in range(13):
        client.raw(DATA, 0, 1, bytes(16384))
    assert await client.reset_of(1) == FLOW_CONTROL_ERROR
    client.next = 3
    assert (await client.get()).status == 200


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_streams_beyond_the_limit_are_refused(gateway: Gateway, client: Client) -> None:
    """REFUSED_STREAM: they were not looked at and may be sent again (RFC 9113 section 5.1.2)."""
    for _ in range(downstream2.MAX_STREAMS):
        client.ask(path="/never")
    assert await client.reset_of(client.ask()) == REFUSED_STREAM
    assert gateway.exchanges.in_flight == downstream2.MAX_STREAMS


async def test_rapid_reset(gateway: Gateway, client: Client) -> None:
    """CVE-2023-44487: who opens streams and resets them is sent away after a burst, and nothing is left behind."""
    for number in range(1, 4 * downstream2.RESET_BURST, 2):
        client.raw_fields(number, *GET)
        client.raw(RST_STREAM, 0, number, bytes((0, 0, 0, CANCEL)))
    assert await client.sent_away() == ENHANCE_YOUR_CALM
    assert gateway.traffic.http2_faults == {"ENHANCE_YOUR_CALM": 1}
    await gateway.idle()


async def test_resets_that_the_client_provokes_count_too(client: Client) -> None:
    """CVE-2025-8671: a server made to reset streams is as busy as one whose client does."""
    for number in range(1, 4 * downstream2.RESET_BURST, 2):
        client.raw_fields(number, *with_path(b"/never"))
        client.raw(WINDOW_UPDATE, 0, number, bytes(4))
    assert await client.sent_away() == ENHANCE_YOUR_CALM


FLOODS: dict[str, Callable[[Client], None]] = {
    "PING": lambda c: c.raw(PING, 0, 0, bytes(8)),
    "SETTINGS": lambda c: c.raw(SETTINGS, 0, 0),
    "PRIORITY": lambda c: c.raw(PRIORITY, 0, 1, bytes(5)),
    "unknown frames": lambda c: c.raw(99, 0, 0),
    "empty DATA": lambda c: c.raw(DATA, 0, 1),
    "WINDOW_UPDATE": lambda c: c.raw(WINDOW_UPDATE, 0, 1, INT),
    "padding only": lambda c: c.raw(DATA, 8, 1, b"\x01\0"),
}


@pytest.mark.parametrize("what", FLOODS)
async def test_a_flood_of_frames_that_carry_nothing(client: Client, what: str) -> None:
    """Each is cheap to send and costs an answer or a look; after a burst the client is sent away."""
    client.raw_fields(1, *[(b":method", b"POST"), *with_path(b"/never")[1:]], end=False)
    for _ in range(downstream2.IDLE_BURST + 300):
        FLOODS[what](client)
    assert await client.sent_away() == ENHANCE_YOUR_CALM


async def test_a_flood_of_continuation(client: Client) -> None:
    """CVE-2024-27316: a block that does not end is given up early, however small its pieces."""
    client.raw(HEADERS, 0, 1)
    for _ in range(50):
        client.raw(CONTINUATION, 0, 1, b"")
    assert await client.sent_away() == ENHANCE_YOUR_CALM


async def test_a_field_list_that_is_too_large(client: Client) -> None:
    """431 for its stream; one far larger, as a few bytes can mean (an HPACK bomb), ends the connection."""
    client.raw_fields(1, *GET, *[(b"x-%d" % number, bytes(b"a" * 1000)) for number in range(12)])
    assert (await client.answer(1)).status == 200
    fields = [(b"y-%d" % number, b"b" * 4000) for number in range(10)]
    block = client.encoder.encode([*GET, *fields])
    pieces = [block[start : start + 16384] for start in range(0, len(block), 16384)]
    client.raw(HEADERS, END_STREAM, 3, pieces[0])
    for piece in pieces[1:]:
        client.raw(CONTINUATION, END_HEADERS if piece is pieces[-1] else 0, 3, piece)
    assert (await client.answer(3)).status == 431
    client.next = 5
    assert (await client.get()).status == 200
    bomb = client.encoder.encode([(b"z", b"c" * 4000)])
    client.raw(HEADERS, END_HEADERS | END_STREAM, 9, bomb + b"\xbe" * 8000)
    assert await client.sent_away() == ENHANCE_YOUR_CALM


@pytest.mark.parametrize("gateway_limits", [Limits(max_field_section=300_000)])
async def test_field_lists_may_be_as_large_as_is_configured(gateway: Gateway, client: Client) -> None:
    """Also where they take many CONTINUATION frames."""
    block = client.encoder.encode([*GET, *[(b"x-%d" % number, b"a" * 3000) for number in range(80)]], huffman=False)
    pieces = [block[start : start + 16384] for start in range(0, len(block), 16384)]
    assert len(pieces) > 12
    client.raw(HEADERS, END_STREAM, 1, pieces[0])
    for piece in pieces[1:]:
        client.raw(CONTINUATION, END_HEADERS if piece is pieces[-1] else 0, 1, piece)
    assert (await client.answer(1)).status == 200


async def test_a_request_line_that_is_too_long(client: Client) -> None:
    """414, as over HTTP/1.1."""
    assert (await client.get(path="/" + "a" * 9000)).status == 414


@pytest.mark.parametrize("gateway_limits", [Limits(max_body=10)])
async def test_content_that_is_too_large(client: Client) -> None:
    """413, whether it is announced or comes in pieces."""
    assert (await client.answer(client.ask(method="POST", end=False, content_length="11"))).status == 413
    number = client.ask(method="POST", end=False, path="/never")
    client.send(number, bytes(10))
    client.send(number, bytes(1))
    assert (await client.answer(number)).status == 413


@pytest.mark.parametrize("gateway_limits", [Limits(min_body_rate=1000, body_rate_window=0.05)])
async def test_content_that_comes_too_slowly(client: Client) -> None:
    """408; other streams of the connection go on."""
    number = client.ask(method="POST", end=False, path="/never")
    answer = await client.answer(number)
    assert answer.status == 408
    assert (await client.get()).status == 200


@pytest.mark.parametrize("gateway_limits", [Limits(min_body_rate=1000, body_rate_window=0.05)])
async def test_a_grpc_stream_may_be_silent(client: Client) -> None:
    """Where another request would have had its 408 already, it waits on."""
    stream = client.ask(method="POST", end=False, path="/never", content_type="application/grpc+proto")
    other = client.ask(method="POST", end=False, path="/never")
    assert (await client.answer(other)).status == 408
    later = client.ask(method="POST", end=False, path="/never")
    assert (await client.answer(later)).status == 408
    assert not client.answers[stream].ended
    assert client.answers[stream].reset is None


@pytest.mark.parametrize("gateway_limits", [Limits(max_requests_per_connection=2)])
async def test_requests_beyond_those_of_a_connection(client: Client) -> None:
    """After the last one the connection drains."""
    await client.get()
    await client.get()
    assert await client.sent_away() == 0


@pytest.mark.parametrize("gateway_limits", [Limits(keep_alive_timeout=0.05)])
async def test_an_idle_connection_is_closed(client: Client) -> None:
    """With a GOAWAY that says it is no error."""
    await client.get()
    await client.until(lambda: client.closed)
    assert client.goaways == [(1, 0)]


@pytest.mark.parametrize("gateway_limits", [Limits(head_timeout=0.05)])
@pytest.mark.parametrize("start", [b"PRI * HTTP/2.0\r\n\r\nSM", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
async def test_a_greeting_that_does_not_come(gateway: Gateway, start: bytes) -> None:
    """Nor a connection that only says hello holds its place."""
    reader, writer = await gateway.connect()
    writer.write(start)
    await gateway.left()
    writer.close()
    assert await reader.read()


@pytest.mark.parametrize("gateway_limits", [Limits(head_timeout=0.05)])
async def test_a_header_block_that_is_not_completed(gateway: Gateway, client: Client) -> None:
    """It has the time that a head has."""
    await client.get()
    client.raw(HEADERS, 0, 3)
    await gateway.left()


# --- clients that do not read -----------------------------------------------------------------------------------------


async def test_a_client_that_grants_no_window(
    gateway: Gateway, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its responses wait, a read of the endpoint each, until SEND_TIMEOUT resets them; and no place is held."""
    monkeypatch.setattr(stream2, "SEND_TIMEOUT", 0.1)
    client.set(INITIAL_WINDOW_SIZE, 0)
    numbers = [client.ask() for _ in range(20)]
    for number in numbers:
        answer = await client.answer(number)
        assert (answer.status, answer.body, answer.reset) == (200, b"", CANCEL)
    await gateway.idle()


async def test_pending_content_is_bounded(gateway: Gateway, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where clients leave too much lying, new streams of those that do are refused; of others they are not."""
    monkeypatch.setattr(downstream2, "MAX_PENDING", 10)
    monkeypatch.setattr(downstream2, "WORKER_PENDING", 10)
    client.set(INITIAL_WINDOW_SIZE, 0)
    numbers = [client.ask() for _ in range(8)]
    for number in numbers:
        await client.until(lambda number=number: client.answers[number].status != 0)
    refused = await client.get()
    assert refused.reset == REFUSED_STREAM
    assert gateway.traffic.http2_pending == 16
    other = Client(*await gateway.connect())
    assert (await other.get()).body == b"hi"
    other.writer.close()
    client.set(INITIAL_WINDOW_SIZE, 65535)
    for number in numbers:
        assert (await client.answer(number)).body == b"hi"
    assert (await client.get()).body == b"hi"


async def test_output_to_a_client_that_does_not_read_is_bounded(
    gateway: Gateway, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond MAX_OUTPUT the client's frames are not read either, so that its own writing comes to a stop."""
    monkeypatch.setattr(downstream2, "MAX_OUTPUT", 80 * 1024)  # a quarter of the real one: the test is shorter
    await client.get()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    (connection,) = gateway.listener.connections
    # Answers without content need no window: an unknown host's, to a gRPC caller.
    block = b"\x83\x86\x84\x00\x04host\x07nowhere\x0f\x10\x10application/grpc"
    # The kernel would hold megabytes.
    connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    async def ask() -> None:
        while True:
            for _ in range(100):
                client.raw(HEADERS, END_HEADERS | END_STREAM, client.next, block)
                client.next += 2
            await client.writer.drain()

    asking = asyncio.ensure_future(ask())
    await until(lambda: not connection._reading)
    asking.cancel()
    assert connection._transport.get_write_buffer_size() < 2 * downstream2.MAX_OUTPUT
    client.writer.transport.abort()
    await gateway.left()


async def test_a_client_that_does_not_read_is_cut_off(
    gateway: Gateway, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SEND_TIMEOUT without room in the transport the connection is of no use."""
    monkeypatch.setattr(downstream2, "SEND_TIMEOUT", 0.1)

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    gateway.route(await gateway.endpoint(endless))
    client.set(INITIAL_WINDOW_SIZE, 2**31 - 1)
    client.grant(0, 2**30)
    client.raw_fields(1, *GET)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await gateway.left()
    await gateway.idle()
