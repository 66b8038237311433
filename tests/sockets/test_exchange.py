"""The whole request path over real sockets, with peers that misbehave."""

from __future__ import annotations

import asyncio
import json
import socket
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import pytest

from gateway.contract import RevisionId, RouteRule, Split
from tests.sockets.gateway import closing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sockets.gateway import Gateway

    Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

HOST = b"hello.default.localhost"
GET = b"GET / HTTP/1.1\r\nHost: hello.default.localhost\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Length: 2\r\n\r\nhi"


async def head_of(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(5):
        return await reader.readuntil(b"\r\n\r\n")


async def response_of(reader: asyncio.StreamReader, size: int) -> bytes:
    head = await head_of(reader)
    async with asyncio.timeout(5):
        return head + await reader.readexactly(size)


async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers every request without content with OK."""
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)


async def test_a_request_reaches_its_endpoint_with_what_a_proxy_adds(gateway: Gateway) -> None:
    """Host is kept, who asked is told, hop-by-hop fields stay here, the rule's fields win over the client's."""
    seen = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)

    fields = (("knative-serving-revision", "hello-00001"), ("x-set", "ours"))
    rule = RouteRule("hello.default.localhost", (Split(RevisionId("default", "hello-00001"), 100, fields),))
    gateway.route(await gateway.endpoint(endpoint), rule=rule)
    fields_sent = b"X-Set: theirs\r\nKnative-Serving-Revision: other\r\nTE: trailers\r\nX-Forwarded-For: 1.2.3.4\r\n"
    answer = await gateway.ask(closing(b"GET /a?b HTTP/1.1\r\nHost: %b:80\r\n%b\r\n" % (HOST, fields_sent)))
    assert answer == OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    lines = seen[0].lower().split(b"\r\n")
    assert lines[0] == b"get /a?b http/1.1"
    assert lines[1] == b"host: hello.default.localhost:80"
    assert b"x-set: ours" in lines
    assert b"x-set: theirs" not in lines
    assert lines.count(b"knative-serving-revision: hello-00001") == 1
    assert b"knative-serving-revision: other" not in lines
    assert b"x-forwarded-for: 1.2.3.4, 127.0.0.1" in lines
    assert b"x-forwarded-proto: http" in lines
    assert b'forwarded: for=1.2.3.4;host="hello.default.localhost:80";proto=http, for=127.0.0.1' in lines
    assert any(line.startswith(b"x-request-id: ") for line in lines)
    assert b"te: trailers" in lines
    assert [line for line in lines if line.startswith(b"connection:")] == [b"connection: te"]


async def test_connections_are_reused_on_both_sides(gateway: Gateway) -> None:
    """Keep-alive: three requests of one client take one connection to the endpoint."""
    connections = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await answering(reader, writer)

    gateway.route(await gateway.endpoint(endpoint))
    reader, writer = await gateway.connect()
    for _ in range(3):
        writer.write(GET)
        assert (await response_of(reader, 2)).endswith(b"hi")
    writer.close()
    assert len(connections) == 1


async def test_pipelined_requests_are_answered_in_order(gateway: Gateway) -> None:
    """RFC 9112 section 9.3.2; a local reply among them keeps its place."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    gateway.route(await gateway.endpoint(endpoint))
    requests = [b"GET /%d HTTP/1.1\r\nHost: %b\r\n\r\n" % (number, HOST) for number in range(5)]
    requests.insert(2, b"GET /no HTTP/1.1\r\nHost: nowhere\r\n\r\n")
    answer = await gateway.ask(b"".join(requests) + closing(b"GET /last HTTP/1.1\r\nHost: %b\r\n\r\n" % HOST))
    places = [answer.index(b"\r\n\r\n" + path) for path in (b"/0", b"/1", b"No service", b"/2", b"/3", b"/4", b"/last")]
    assert places == sorted(places)


async def test_unknown_host(gateway: Gateway) -> None:
    """404 with a body that names the host; the connection stays."""
    gateway.route()
    reader, writer = await gateway.connect()
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\nHost: nowhere.example\r\n\r\n")
        head = await head_of(reader)
        assert head.startswith(b"HTTP/1.1 404 Not Found\r\n")
        assert b"nowhere.example" in await reader.readline()
    writer.close()


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (GET[:-2] + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET, b"400"),
        (GET[:-2] + b"X : 1\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 9000, b"414"),
        (GET[:-2] + b"X: 1\r\n" * 101 + b"\r\n", b"431"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", b"501"),
        (GET.replace(b"1.1", b"3.0"), b"505"),
    ],
)
async def test_refused_requests_never_reach_an_endpoint(gateway: Gateway, message: bytes, status: bytes) -> None:
    """The right status, a reason in the body, and the end of the connection."""
    connections = []

    async def endpoint(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    gateway.route(await gateway.endpoint(endpoint))
    answer = await gateway.ask(message)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.count(b"content-type: ") == 1
    assert b"connection: close\r\n" in answer
    assert not connections


async def test_content_both_ways_in_chunks_with_trailers(gateway: Gateway) -> None:
    """Chunked content is decoded and framed anew on both sides; trailers pass."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"\r\ntransfer-encoding: chunked\r\n" in head
        body = await reader.readuntil(b"X-Sum: 1\r\n\r\n")
        assert body == b"8\r\nhelloyou\r\n0\r\nX-Sum: 1\r\n\r\n"  # chunks that came together leave together
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;a=b\r\nback\r\n0\r\nX-Back: 2\r\n\r\n")

    gateway.route(await gateway.endpoint(endpoint))
    head = closing(b"POST / HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % HOST)
    answer = await gateway.ask(head + b"5\r\nhello\r\n3;x\r\nyou\r\n0\r\nX-Sum: 1\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n4\r\nback\r\n0\r\nX-Back: 2\r\n\r\n")
    assert b"transfer-encoding: chunked\r\n" in answer


async def test_trailers_are_announced_to_those_who_get_them(gateway: Gateway) -> None:
    """Trailer goes to the endpoint and to a client of HTTP/1.1; one of 1.0 gets neither it nor trailers."""
    heads = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nDate: today\r\nTransfer-Encoding: chunked\r\nTrailer: X-Back\r\n\r\n")
        writer.write(b"4\r\nback\r\n0\r\nX-Back: 2\r\n\r\n")

    gateway.route(await gateway.endpoint(endpoint))
    head = b"POST / HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Host\r\n\r\n" % HOST
    answer = await gateway.ask(closing(head + b"0\r\nX-Sum: 1\r\n\r\n"))
    assert b"\r\ntrailer: X-Sum\r\n" in heads[0]
    assert b"\r\ntrailer: X-Back\r\n" in answer
    assert answer.endswith(b"0\r\nX-Back: 2\r\n\r\n")
    answer = await gateway.ask(GET.replace(b"1.1", b"1.0"))
    assert answer == b"HTTP/1.1 200 OK\r\nDate: today\r\nconnection: close\r\n\r\nback"
    assert b"trailer" not in heads[1]


@pytest.mark.parametrize("framing", [b"Content-Length: 2\r\n\r\nhi", b"\r\nhi"])
async def test_a_response_without_date_gets_one(gateway: Gateway, framing: bytes) -> None:
    """RFC 9110 section 6.6.1, from whoever passes it on; the gateway's own have one too, and no interim one does."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n" + framing)

    gateway.route(await gateway.endpoint(endpoint))
    interim, _, answer = (await gateway.ask(closing(GET))).partition(b"\r\n\r\n")
    assert interim == b"HTTP/1.1 103 Early Hints"
    for head in (answer, await gateway.ask(closing(GET.replace(HOST, b"nowhere")))):
        (date,) = [line for line in head.split(b"\r\n") if line.startswith(b"date: ")]
        moment = parsedate_to_datetime(date[6:].decode())
        assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("method", "forwards", "sent"),
    [
        (b"OPTIONS", b"2", b"1"),
        (b"OPTIONS", b"00", None),
        (b"OPTIONS", b"many", b"many"),
        (b"GET", b"0", b"0"),
    ],
)
async def test_max_forwards(gateway: Gateway, method: bytes, forwards: bytes, sent: bytes | None) -> None:
    """OPTIONS goes so many hops further and is answered by the last (RFC 9110 section 7.6.2)."""
    heads = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)

    gateway.route(await gateway.endpoint(endpoint))
    request = closing(GET.replace(b"GET", method)[:-2] + b"Max-Forwards: %b\r\n\r\n" % forwards)
    assert (await gateway.ask(request)).startswith(b"HTTP/1.1 200 OK\r\n")
    assert [b"\r\nmax-forwards: %b\r\n" % (sent or b"") in head for head in heads] == ([] if sent is None else [True])


async def test_two_request_ids_are_one(gateway: Gateway) -> None:
    """The endpoint sees the one that the access log names."""
    heads = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)

    gateway.route(await gateway.endpoint(endpoint))
    await gateway.ask(closing(GET[:-2] + b"X-Request-Id: one\r\nX-Request-Id: two\r\n\r\n"))
    await gateway.idle()
    gateway.access_log.flush()
    assert heads[0].lower().count(b"x-request-id") == 1
    assert b"\r\nx-request-id: one\r\n" in heads[0]
    assert json.loads(gateway.log.read_bytes())["requestId"] == "one"


async def test_a_request_that_goes_in_circles_is_answered(gateway: Gateway) -> None:
    """A service that is a proxy to itself: Via tells how often it has come by, and the last time it gets 508."""
    passed = [GET]

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)

    gateway.route(await gateway.endpoint(endpoint))
    while (answer := await gateway.ask(closing(passed[-1]))).startswith(b"HTTP/1.1 200 OK\r\n"):
        assert len(passed) < 20
    assert answer.startswith(b"HTTP/1.1 508 Loop Detected\r\n")
    assert len(passed) == 1 + 16


async def test_content_of_known_length_in_many_pieces(gateway: Gateway) -> None:
    """A body that arrives before there is a connection, and one that arrives after, are both complete."""
    size = 300_000

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(size)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body)
        await writer.drain()

    gateway.route(await gateway.endpoint(endpoint))
    body = bytes(range(256)) * (size // 256 + 1)
    head = closing(b"POST / HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n" % (HOST, size))
    answer = await gateway.ask(head + body[:size])
    assert answer.partition(b"\r\n\r\n")[2] == body[:size]


@pytest.mark.parametrize(
    ("method", "response", "expected"),
    [
        (
            b"HEAD",
            b"HTTP/1.1 200 OK\r\nDate: today\r\nContent-Length: 5\r\n\r\n",
            b"Date: today\r\nContent-Length: 5\r\n",
        ),
        (b"GET", b"HTTP/1.1 204 No Content\r\nDate: today\r\n\r\n", b"Date: today\r\n"),
        (b"GET", b'HTTP/1.1 304 Not Modified\r\nDATE: x\r\nETag: "x"\r\n\r\n', b'DATE: x\r\nETag: "x"\r\n'),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\ndate:\r\n\r\n", b"Content-Length: 0\r\ndate: \r\n"),
    ],
)
async def test_responses_without_content(gateway: Gateway, method: bytes, response: bytes, expected: bytes) -> None:
    """RFC 9112 section 6.3: these end with their head, whatever it says, and the connection goes on."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(response)

    gateway.route(await gateway.endpoint(endpoint))
    reader, writer = await gateway.connect()
    for _ in range(2):
        writer.write(GET.replace(b"GET", method))
        head = await head_of(reader)
        assert head == response.partition(b"\r\n")[0] + b"\r\n" + expected + b"\r\n"
    writer.close()


async def test_a_response_that_ends_with_its_connection(gateway: Gateway) -> None:
    """Chunked for HTTP/1.1, closed for HTTP/1.0."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")

    gateway.route(await gateway.endpoint(endpoint))
    new = await gateway.ask(closing(GET))
    assert b"9\r\nall of it\r\n0\r\n\r\n" in new
    old = await gateway.ask(b"GET / HTTP/1.0\r\nHost: %b\r\n\r\n" % HOST)
    assert old.endswith(b"connection: close\r\n\r\nall of it")


async def test_a_fresh_connection_that_dies_is_502(gateway: Gateway) -> None:
    """The request may have run, so it is not sent again."""
    seen = []

    async def endpoint(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))

    gateway.route(await gateway.endpoint(endpoint))
    answer = await gateway.ask(closing(GET))
    assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert len(seen) == 1


@pytest.mark.parametrize(("method", "status"), [(b"GET", b"200"), (b"POST", b"502")])
async def test_a_reused_connection_that_dies(gateway: Gateway, method: bytes, status: bytes) -> None:
    """An idempotent request without content is sent once more, on a new connection; any other is 502."""
    connections = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        if len(connections) == 1:
            await reader.readuntil(b"\r\n\r\n")  # takes the second request, and dies
            return
        await reader.read()

    gateway.route(await gateway.endpoint(endpoint))
    reader, writer = await gateway.connect()
    writer.write(GET)
    await response_of(reader, 2)
    writer.write(GET.replace(b"GET", method))
    assert (await head_of(reader)).startswith(b"HTTP/1.1 " + status)
    writer.close()


async def test_a_response_cut_short_is_a_reset(gateway: Gateway) -> None:
    """Never a clean end: the client must not take half for the whole."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await writer.drain()

    gateway.route(await gateway.endpoint(endpoint))
    reader, writer = await gateway.connect()
    writer.write(GET)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await response_of(reader, 10)
    writer.close()


@pytest.mark.parametrize(
    "response",
    [
        b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nhi",
        b"Transfer-Encoding: chunked\r\n\r\n2;\x01\r\nhi\r\n0\r\n\r\n",
    ],
)
async def test_a_malformed_response_is_502(gateway: Gateway, response: bytes) -> None:
    """And that connection is never used again. The head may have been fine, as long as nothing of it has left."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + response)
        await reader.read()

    gateway.route(await gateway.endpoint(endpoint))
    assert (await gateway.ask(closing(GET))).startswith(b"HTTP/1.1 502 ")
    assert gateway.traffic.local_replies["UPE"] == 1


async def test_refused_connections_are_tried_elsewhere(gateway: Gateway) -> None:
    """A request that never left goes to another endpoint; the client sees nothing of it."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        gateway.route(closed.getsockname()[1], await gateway.endpoint(answering))
        for _ in range(8):
            assert (await gateway.ask(closing(GET))).endswith(b"hi")


@pytest.mark.parametrize("limits", [{"timeout": 0.05}, {"response_start_timeout": 0.05}, {"idle_timeout": 0.05}])
async def test_time_outs_before_the_head_are_504(gateway: Gateway, limits: dict[str, float]) -> None:
    """Each of the revision's three clocks."""

    async def endpoint(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    gateway.route(await gateway.endpoint(endpoint), **limits)
    assert (await gateway.ask(closing(GET))).startswith(b"HTTP/1.1 504 ")
    await gateway.idle()


@pytest.mark.parametrize("limits", [{"timeout": 0.05}, {"idle_timeout": 0.05}])
async def test_time_outs_after_the_head_are_resets(gateway: Gateway, limits: dict[str, float]) -> None:
    """The status is out; only the connection can still say that something went wrong."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await reader.read()

    gateway.route(await gateway.endpoint(endpoint), **limits)
    reader, writer = await gateway.connect()
    writer.write(GET)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await response_of(reader, 10)
    writer.close()


async def test_a_client_that_leaves_frees_its_place_at_once(gateway: Gateway) -> None:
    """The endpoint sees the end of the request, the slot goes to the next one."""
    arrived, left = asyncio.Event(), asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        try:
            await reader.read()
        finally:
            left.set()

    gateway.route(await gateway.endpoint(endpoint), container_concurrency=1)
    _, writer = await gateway.connect()
    writer.write(GET)
    async with asyncio.timeout(5):
        await arrived.wait()
        writer.close()
        await left.wait()
    await gateway.idle()


async def test_a_cold_request_waits_for_its_endpoint(gateway: Gateway) -> None:
    """It goes out when an endpoint appears, its content included."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\nbody")
        writer.write(OK)

    gateway.route()
    reader, writer = await gateway.connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: %b\r\nContent-Length: 4\r\n\r\nbody" % HOST)
    async with asyncio.timeout(5):
        while not gateway.activator.parked:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    gateway.route(await gateway.endpoint(endpoint))
    assert (await response_of(reader, 2)).endswith(b"hi")
    writer.close()


async def test_a_waiting_client_that_leaves_frees_its_place(gateway: Gateway) -> None:
    """Nobody waits for a client that is gone."""
    gateway.route()
    _, writer = await gateway.connect()
    writer.write(GET)
    async with asyncio.timeout(5):
        while not gateway.activator.parked:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        writer.close()
    await gateway.idle()


async def test_continue_passes_end_to_end(gateway: Gateway) -> None:
    """The endpoint decides whether it wants the content."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"expect: 100-continue" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await reader.readexactly(4)
        writer.write(OK)

    gateway.route(await gateway.endpoint(endpoint))
    reader, writer = await gateway.connect()
    writer.write(b"PUT / HTTP/1.1\r\nHost: %b\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n" % HOST)
    assert await head_of(reader) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"body")
    assert (await response_of(reader, 2)).endswith(b"hi")
    writer.close()


async def test_an_answer_before_the_request_is_complete(gateway: Gateway) -> None:
    """The client gets it, with `Connection: close`, for the rest of its request is not wanted."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\n\r\nno")
        await reader.read()

    gateway.route(await gateway.endpoint(endpoint))
    reader, writer = await gateway.connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: %b\r\nContent-Length: 1000000\r\n\r\nbegin" % HOST)
    answer = await response_of(reader, 2)
    assert answer.startswith(b"HTTP/1.1 413 Too Much\r\n")
    assert b"connection: close\r\n" in answer
    writer.write(b"more")
    assert await reader.read() == b""
    writer.close()


async def test_malformed_content_is_refused(gateway: Gateway) -> None:
    """A bad chunk after a good head: 400, and the endpoint does not see a complete request."""
    complete = []

    async def endpoint(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        complete.append(await reader.readuntil(b"0\r\n\r\n"))

    gateway.route(await gateway.endpoint(endpoint))
    head = b"POST / HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % HOST
    assert (await gateway.ask(head + b"5\r\nhello\r\nx\r\n0\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
    assert not complete


async def test_an_upgrade_becomes_a_tunnel(gateway: Gateway) -> None:
    """Bytes both ways, half-close passed on, the request in flight until the end."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"connection: upgrade\r\nupgrade: websocket\r\n" in head
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst")
        while data := await reader.read(100):
            writer.write(data.upper())
        writer.write(b"bye")

    gateway.route(await gateway.endpoint(endpoint))
    reader, writer = await gateway.connect()
    writer.write(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
    head = await head_of(reader)
    assert head == b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    assert await reader.readexactly(5) == b"first"
    assert await reader.readexactly(5) == b"EARLY"
    assert gateway.exchanges.in_flight == 1
    writer.write_eof()
    assert await reader.read() == b"bye"
    writer.close()
    await gateway.idle()


async def _stands_still(value: Callable[[], int]) -> None:
    """Until `value` stays the same over many turns of the loop: both peers and the gateway run on it, and each turn
    moves what loopback has for one of them."""
    before, turns = -1, 0
    async with asyncio.timeout(20):
        while turns < 1000:
            turns = turns + 1 if value() == before else 0
            before = value()
            await asyncio.sleep(0)


async def test_a_slow_reader_stops_the_endpoint(gateway: Gateway) -> None:
    """What a client does not read stays with the endpoint, not in the gateway's memory."""
    size = 64 * 1024 * 1024
    sent = 0

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    gateway.route(await gateway.endpoint(endpoint))
    reader, writer = await gateway.connect()
    writer.write(GET)
    await head_of(reader)
    await _stands_still(lambda: sent)  # the kernel's buffers take some megabytes
    assert sent < size // 2
    received = 0
    while received < size:
        received += len(await reader.read(1 << 20))
    assert received == size
    writer.close()


async def test_the_access_log_has_a_line_for_each_request(gateway: Gateway) -> None:
    """One JSON object a line, refused requests too, whatever the client sent."""
    gateway.route(await gateway.endpoint(answering))
    agent = b'User-Agent: a"b\\c\xe9\r\n'
    await gateway.ask(closing(GET[:-2] + agent + b"\r\n"))
    await gateway.ask(b"nonsense\r\n\r\n")
    await gateway.idle()
    gateway.access_log.flush()
    good, bad = [json.loads(line) for line in gateway.log.read_bytes().splitlines()]
    assert (good["status"], good["method"], good["bytes"], good["userAgent"]) == (200, "GET", 2, 'a"b\\cé')
    assert good["revision"] == "default/hello-00001"
    assert good["time"].endswith("Z")
    assert (bad["status"], bad["flag"]) == (400, "DPE")


async def test_a_network_probe_is_answered_here(gateway: Gateway) -> None:
    """Knative's ingress prober: the hash is echoed, no endpoint is asked."""
    gateway.route()
    answer = await gateway.ask(closing(GET[:-2] + b"K-Network-Probe: probe\r\nK-Network-Hash: abc\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"k-network-hash: abc\r\n" in answer
    without = await gateway.ask(closing(GET[:-2] + b"K-Network-Probe: probe\r\n\r\n"))
    assert without.startswith(b"HTTP/1.1 400 ")


async def test_content_that_a_response_must_not_have_is_not_passed_on(gateway: Gateway) -> None:
    """To HEAD and in a 304, Content-Length tells of another response; what follows all the same ends the connection."""
    responses = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nhi",
    ]
    connections = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(responses.pop(0))
        await reader.read()

    gateway.route(await gateway.endpoint(endpoint))
    reader, writer = await gateway.connect()
    writer.write(GET.replace(b"GET", b"HEAD"))
    assert (await head_of(reader)).startswith(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n")
    writer.write(GET)
    assert (await head_of(reader)).startswith(b"HTTP/1.1 304 ")
    writer.write(GET.replace(HOST, b"nowhere"))
    assert (await head_of(reader)).startswith(b"HTTP/1.1 404 ")
    assert len(connections) == 2
    writer.close()
