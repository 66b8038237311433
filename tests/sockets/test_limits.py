"""Each limit at its bound, one below and one above, over real sockets; what is refused never reaches the endpoint."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from gateway.config import Limits
from tests.sockets.gateway import closing

if TYPE_CHECKING:
    from typing import Any

    from tests.sockets.gateway import Gateway

HOST = b"hello.default.localhost"
GET = b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % HOST
POST = b"POST / HTTP/1.1\r\nHost: %b\r\n" % HOST
OK = b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Length: 2\r\n\r\nhi"


class Recorder:
    """An endpoint that notes each head, reads the content after it, and answers OK."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.contents: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            content = b""
            if b"transfer-encoding: chunked" in head:
                while size := int(await reader.readline(), 16):
                    content += (await reader.readexactly(size + 2))[:-2]
                await reader.readline()
            else:
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length: "):
                        content = await reader.readexactly(int(line[16:]))
            self.contents.append(content)
            writer.write(OK)


@pytest.fixture
async def endpoint(gateway: Gateway) -> Recorder:
    recorder = Recorder()
    gateway.route(await gateway.endpoint(recorder))
    return recorder


async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Begins a response at once, and never goes on."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    await reader.read()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def log_of(gateway: Gateway) -> list[dict[str, Any]]:
    gateway.access_log.flush()
    return [json.loads(line) for line in gateway.log.read_bytes().splitlines()]


# --- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gateway_limits", [Limits(), Limits(max_request_line=100)])
@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_request_line(gateway: Gateway, endpoint: Recorder, gateway_limits: Limits, more: int) -> None:
    """414 from one byte more than allowed."""
    target = b"/" + b"a" * (gateway_limits.max_request_line + more - len("GET / HTTP/1.1"))
    answer = await gateway.ask(closing(GET.replace(b"/", target, 1)))
    assert status(answer) == (414 if more > 0 else 200)
    assert len(endpoint.heads) == (more <= 0)
    assert gateway.traffic.limit_refusals["request-line"] == (more > 0)
    if more > 0:
        assert b"longer than %d bytes" % gateway_limits.max_request_line in answer
        assert [(one["status"], one["flag"]) for one in log_of(gateway)] == [(414, "DPE")]


@pytest.mark.parametrize("gateway_limits", [Limits(), Limits(max_field_section=300)])
@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_field_section(gateway: Gateway, endpoint: Recorder, gateway_limits: Limits, more: int) -> None:
    """431 from one byte more than allowed, line ends counted."""
    message = closing(GET)
    section = len(message) - message.index(b"\r\n") - 4
    line = b"\r\nX: " + b"a" * (gateway_limits.max_field_section + more - section - len(b"\r\nX: ")) + b"\r\n\r\n"
    answer = await gateway.ask(message.replace(b"\r\n\r\n", line))
    assert status(answer) == (431 if more > 0 else 200)
    assert len(endpoint.heads) == (more <= 0)
    assert gateway.traffic.limit_refusals["fields"] == (more > 0)


@pytest.mark.parametrize("gateway_limits", [Limits(), Limits(max_fields=5), Limits(max_fields=150)])
@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_number_of_fields(gateway: Gateway, endpoint: Recorder, gateway_limits: Limits, more: int) -> None:
    """431 from one field more than allowed; Host and Connection count."""
    lines = b"X: 1\r\n" * (gateway_limits.max_fields + more - 2)
    answer = await gateway.ask(closing(GET).replace(b"\r\n\r\n", b"\r\n" + lines + b"\r\n"))
    assert status(answer) == (431 if more > 0 else 200)
    assert len(endpoint.heads) == (more <= 0)


@pytest.mark.parametrize(
    "gateway_limits", [Limits(head_timeout=0.05), Limits(head_timeout=0.05, keep_alive_timeout=60)]
)
@pytest.mark.parametrize("before", [b"", GET])
async def test_a_head_that_takes_too_long(gateway: Gateway, endpoint: Recorder, before: bytes) -> None:
    """408; the time counts from the head's first byte: a client that sends a little now and then gets no more of it."""
    reader, writer = await gateway.connect()
    answer = asyncio.ensure_future(reader.read())
    writer.write(before + b"GET / HTTP/1.1\r\nX: ")
    async with asyncio.timeout(5):
        while not answer.done():
            writer.write(b"x")
            await asyncio.sleep(0.005)
    text = answer.result().removeprefix(OK if before else b"")
    assert text.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"connection: close\r\n" in text
    assert gateway.traffic.local_replies["DT"] == 1
    assert gateway.traffic.limit_refusals["head-timeout"] == 1
    assert len(endpoint.heads) == bool(before)
    writer.close()


@pytest.mark.parametrize("gateway_limits", [Limits(head_timeout=5, keep_alive_timeout=0.2)])
async def test_a_head_has_its_own_time(gateway: Gateway, endpoint: Recorder) -> None:
    """However little of the keep-alive time is left when its first byte comes, and however short that is."""
    reader, writer = await gateway.connect()
    writer.write(GET[:10])
    await asyncio.sleep(0.3)  # longer than the connection would have been kept
    writer.write(closing(GET)[10:])
    async with asyncio.timeout(5):
        assert (await reader.read()).endswith(b"hi")
    assert len(endpoint.heads) == 1
    writer.close()


@pytest.mark.parametrize("gateway_limits", [Limits(keep_alive_timeout=0.05)])
@pytest.mark.parametrize("before", [b"", GET])
@pytest.mark.usefixtures("endpoint")
async def test_an_idle_connection_is_closed(gateway: Gateway, before: bytes) -> None:
    """Without a word, before the first request as after it."""
    assert await gateway.ask(before) == (OK if before else b"")
    assert not +gateway.traffic.limit_refusals


# --- content ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gateway_limits", [Limits(max_body=1000)])
@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_content_of_known_length(gateway: Gateway, endpoint: Recorder, more: int) -> None:
    """413 before anything goes to the endpoint, and before the content has come."""
    head = closing(POST + b"Content-Length: %d\r\n\r\n" % (1000 + more))
    answer = await gateway.ask(head + b"x" * (0 if more > 0 else 1000 + more))
    assert status(answer) == (413 if more > 0 else 200)
    assert len(endpoint.heads) == (more <= 0)
    if more > 0:
        assert b"connection: close\r\n" in answer
        assert b"larger than the 1000 bytes" in answer
        (line,) = log_of(gateway)
        assert (line["status"], line["flag"], line["method"], line["path"]) == (413, "DPE", "POST", "/")
        assert gateway.traffic.limit_refusals["body"] == 1


@pytest.mark.parametrize("gateway_limits", [Limits(max_body=1000)])
@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("piece", [7, 1001])
async def test_content_in_chunks(gateway: Gateway, endpoint: Recorder, more: int, piece: int) -> None:
    """Counted as it comes; the endpoint never gets to see the end of content that is too large."""
    content = b"x" * (1000 + more)
    pieces = [content[start : start + piece] for start in range(0, len(content), piece)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces) + b"0\r\n\r\n"
    answer = await gateway.ask(closing(POST + b"Transfer-Encoding: chunked\r\n\r\n"), chunks)
    assert status(answer) == (413 if more > 0 else 200)
    assert endpoint.contents == ([] if more > 0 else [content])
    await gateway.idle()


@pytest.mark.parametrize("gateway_limits", [Limits(max_body=1000)])
async def test_content_that_grows_too_large_after_the_response_began(gateway: Gateway) -> None:
    """Then only a reset can say so."""

    gateway.route(await gateway.endpoint(early))
    reader, writer = await gateway.connect()
    writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    async with asyncio.timeout(5):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"1000\r\n" + b"x" * 4096)
        with pytest.raises(ConnectionResetError):
            await reader.read()
    writer.close()
    await gateway.idle()


SLOW = Limits(min_body_rate=1000, body_rate_window=0.1)


async def dribble(writer: asyncio.StreamWriter, rate: float, until: asyncio.Future[bytes]) -> None:
    """One byte `rate` times a second, until there is an answer."""
    async with asyncio.timeout(5):
        while not until.done():
            writer.write(b"x")
            await asyncio.sleep(1 / rate)


@pytest.mark.parametrize("gateway_limits", [SLOW])
@pytest.mark.parametrize("first", [b"", b"x" * 10])
async def test_content_that_comes_too_slowly(gateway: Gateway, first: bytes) -> None:
    """408, and the endpoint's place is free."""
    asked = asyncio.Event()

    async def waiting(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        assert len(await reader.read()) < 1000

    gateway.route(await gateway.endpoint(waiting))
    reader, writer = await gateway.connect()
    answer = asyncio.ensure_future(reader.read())
    writer.write(POST + b"Content-Length: 1000\r\n\r\n" + first)
    await dribble(writer, 200, answer)
    assert status(answer.result()) == 408
    assert b"less than 1000 bytes per second" in answer.result()
    assert asked.is_set()
    writer.close()
    await gateway.idle()
    (line,) = log_of(gateway)
    assert (line["status"], line["flag"]) == (408, "DT")
    assert gateway.traffic.limit_refusals["body-rate"] == 1


@pytest.mark.parametrize("gateway_limits", [SLOW])
async def test_content_that_comes_too_slowly_after_the_response_began(gateway: Gateway) -> None:
    """A reset, once neither side has anything to say for a window."""

    gateway.route(await gateway.endpoint(early))
    reader, writer = await gateway.connect()
    writer.write(POST + b"Content-Length: 1000\r\n\r\nx")
    async with asyncio.timeout(5):
        await reader.readuntil(b"\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await reader.read()
    writer.close()


@pytest.mark.parametrize("gateway_limits", [SLOW])
async def test_a_client_is_not_to_blame_for_a_talking_server(gateway: Gateway) -> None:
    """As long as the endpoint sends, a client may think."""

    async def talking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n")
        for _ in range(15):
            writer.write(b"x")
            await asyncio.sleep(0.02)
        await reader.readexactly(1000)
        writer.write(b"x")

    gateway.route(await gateway.endpoint(talking))
    reader, writer = await gateway.connect()
    writer.write(POST + b"Content-Length: 1000\r\n\r\n")
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        assert status(head) == 200
        assert await reader.readexactly(15) == b"x" * 15
        writer.write(b"x" * 1000)
        assert await reader.readexactly(1) == b"x"
    writer.close()
    await gateway.idle()
    assert not +gateway.traffic.limit_refusals


@pytest.mark.parametrize("gateway_limits", [SLOW])
async def test_a_client_is_not_to_blame_for_a_wait_for_100_continue(gateway: Gateway) -> None:
    """It sends when it is told to; from then on its time counts."""
    told = asyncio.Event()

    async def patient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.3)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        told.set()
        await reader.read()

    gateway.route(await gateway.endpoint(patient))
    reader, writer = await gateway.connect()
    writer.write(POST + b"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
    async with asyncio.timeout(5):
        assert status(await reader.readuntil(b"\r\n\r\n")) == 100
        assert told.is_set()
        assert status(await reader.read()) == 408
    writer.close()


@pytest.mark.parametrize("gateway_limits", [SLOW])
async def test_a_client_is_not_to_blame_for_a_slow_endpoint(gateway: Gateway) -> None:
    """While the endpoint does not read, no more is read from the client either."""
    go_on = asyncio.Event()
    size = 32 * 1024 * 1024

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go_on.wait()
        await reader.readexactly(size)
        writer.write(OK)

    gateway.route(await gateway.endpoint(slow))
    reader, writer = await gateway.connect()
    writer.write(POST + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
    await asyncio.sleep(0.5)  # five windows without a byte
    go_on.set()
    async with asyncio.timeout(20):
        assert await reader.readexactly(len(OK)) == OK
    writer.close()


@pytest.mark.parametrize("gateway_limits", [SLOW])
async def test_a_tunnel_may_be_silent(gateway: Gateway) -> None:
    """The rate is of a request's content."""

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        writer.write(await reader.readexactly(2))

    gateway.route(await gateway.endpoint(tunnel))
    reader, writer = await gateway.connect()
    writer.write(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(0.3)
    writer.write(b"hi")
    async with asyncio.timeout(5):
        assert await reader.read() == b"hi"
    writer.close()


# --- connections ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gateway_limits", "code", "words"),
    [
        (Limits(max_connections=2), 503, b"all the 2 connections"),
        (Limits(max_connections_per_client=2), 429, b"all the 2 connections"),
    ],
)
async def test_a_connection_too_many(gateway: Gateway, endpoint: Recorder, code: int, words: bytes) -> None:
    """It is told why, even if it asks at once; the others stay, and their places are free when they go."""
    kept = [await gateway.connect() for _ in range(2)]
    for reader, writer in kept:
        writer.write(GET)
        async with asyncio.timeout(5):
            assert await reader.readexactly(len(OK)) == OK
    for message in (b"", GET):
        refusal = await gateway.ask(message)
        assert status(refusal) == code
        assert b"connection: close\r\n" in refusal
        assert words in refusal
    limit = "connections" if code == 503 else "connections-per-client"
    assert gateway.traffic.limit_refusals[limit] == 2
    assert len(endpoint.heads) == 2
    for _, writer in kept:
        writer.close()
    await gateway.left()
    assert (await gateway.ask(closing(GET))).endswith(b"hi")
    assert {(one["status"], one["flag"]) for one in log_of(gateway)} == {
        (200, "-"),
        (code, {503: "DO", 429: "RL"}[code]),
    }


async def last_words(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
    """What is said to a client before its connection ends, cleanly or not."""
    reader, writer = connection
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("gateway_limits", [Limits(max_connections=1), Limits(max_connections_per_client=1)])
async def test_many_connections_too_many(gateway: Gateway) -> None:
    """Only some are told, for each takes a place until it has read why; the others are cut off."""
    gateway.route()
    connections = [await gateway.connect() for _ in range(60)]
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*map(last_words, connections[1:]))
    assert 0 < sum(map(bool, answers)) <= 16
    await gateway.left(but=1)
    connections[0][1].close()
    await gateway.left()
    assert len(gateway.listener.clients) == 0


@pytest.mark.parametrize("gateway_limits", [Limits(max_requests_per_connection=3)])
@pytest.mark.parametrize("pipelined", [False, True])
async def test_requests_per_connection(gateway: Gateway, endpoint: Recorder, pipelined: bool) -> None:
    """The last response says that it is, and what comes after it is not answered."""
    reader, writer = await gateway.connect()
    if pipelined:
        writer.write(GET * 5)
    for _ in range(2):
        if not pipelined:
            writer.write(GET)
        async with asyncio.timeout(5):
            assert await reader.readexactly(len(OK)) == OK
    if not pipelined:
        writer.write(GET)
    async with asyncio.timeout(5):
        assert await reader.read() == OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    writer.close()
    await gateway.idle()
    assert len(endpoint.heads) == 3
