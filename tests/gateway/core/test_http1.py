"""gateway.core.http1: strict heads and bodies, cut anywhere, against h11."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.http1 import (
    MAX_FIELD_SECTION,
    MAX_REQUEST_LINE,
    ChunkedReader,
    LengthReader,
    RequestHead,
    ResponseHead,
    head_limits,
    parse_request,
    parse_response,
    request_body,
    response_body,
    serialise_chunk,
    serialise_last_chunk,
    serialise_response,
)
from gateway.errors import (
    BadRequest,
    ExpectationFailed,
    HeadTooLarge,
    MethodRefused,
    ProtocolError,
    UpstreamProtocolError,
    UriTooLong,
    VersionRefused,
)


def request(*lines: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a.b") -> bytes:
    return b"\r\n".join([line, *([host] if host else []), *lines]) + b"\r\n\r\n"


class Gathered:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.data = b""
        self.trailers: list[bytes] | None = None

    def body(self, data: bytes) -> None:
        assert data
        assert self.trailers is None
        self.data += data

    def end(self, trailers: list[bytes]) -> None:
        assert self.trailers is None
        self.trailers = trailers


VALID = [
    request(),
    request(b"Content-Length: 5"),
    request(b"Transfer-Encoding: chunked"),
    request(b"transfer-encoding: CHUNKED"),
    request(b"X:1"),
    request(b"X:  spaced out \t "),
    request(b"X-Empty:"),
    request(b"X: \xe9t\xe9"),
    request(b"Connection: keep-alive, X-Mine", b"X-Mine: 1"),
    request(line=b"GET /a/b?c=d&e=%20 HTTP/1.1"),
    request(line=b"OPTIONS * HTTP/1.1"),
    request(line=b"GET http://a.b/x HTTP/1.1"),
    request(line=b"GET http://A.B HTTP/1.1"),
    request(line=b"GET / HTTP/1.0", host=b""),
    request(host=b"Host: [::1]:8080"),
    b"\r\n" + request(),
]

# What a proxy must refuse: each would let two servers read one stream in two ways, or is no HTTP at all.
REFUSED = {
    "length and chunked": request(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "chunked and length": request(b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "two equal lengths": request(b"Content-Length: 5", b"Content-Length: 5"),
    "two lengths": request(b"Content-Length: 5", b"content-length: 6"),
    "list of lengths": request(b"Content-Length: 5, 5"),
    "signed length": request(b"Content-Length: +5"),
    "negative length": request(b"Content-Length: -5"),
    "underscored length": request(b"Content-Length: 1_0"),
    "hexadecimal length": request(b"Content-Length: 0x5"),
    "empty length": request(b"Content-Length:"),
    "length in other digits": request("Content-Length: ٣".encode()),
    "length beyond 64 bits": request(b"Content-Length: 99999999999999999999"),
    "gzip, chunked": request(b"Transfer-Encoding: gzip, chunked"),
    "chunked twice": request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "chunked, chunked": request(b"Transfer-Encoding: chunked, chunked"),
    "identity": request(b"Transfer-Encoding: identity"),
    "quoted chunked": request(b'Transfer-Encoding: "chunked"'),
    "xchunked": request(b"Transfer-Encoding: xchunked"),
    "vertical tab before chunked": request(b"Transfer-Encoding: \x0bchunked"),
    "chunked in 1.0": request(b"Transfer-Encoding: chunked", line=b"GET / HTTP/1.0"),
    "obs-fold": request(b"X: 1", b" 2"),
    "obs-fold with tab": request(b"X: 1", b"\t2"),
    "obs-fold first": request(b" Host: c.d", host=b""),
    "space before colon": request(b"Content-Length : 5"),
    "tab before colon": request(b"Transfer-Encoding\t: chunked"),
    "empty name": request(b": 5"),
    "no colon": request(b"Content-Length 5"),
    "name in parentheses": request(b"X(y): 5"),
    "name with umlaut": request("Ü: 5".encode()),
    "bare LF in head": b"GET / HTTP/1.1\nHost: a.b\n\n",
    "bare LF in a value": request(b"X: 1\nContent-Length: 5"),
    "bare CR in a value": request(b"X: 1\rContent-Length: 5"),
    "NUL in a value": request(b"X: 1\x002"),
    "NUL in a name": request(b"X\x00: 1"),
    "DEL in a value": request(b"X: 1\x7f2"),
    "control character in a value": request(b"X: 1\x012"),
    "no Host": request(host=b""),
    "two Hosts": request(b"Host: a.b"),
    "two spellings of Host": request(b"HOST: c.d"),
    "Host list": request(host=b"Host: a.b, c.d"),
    "Host with userinfo": request(host=b"Host: u@a.b"),
    "Host with path": request(host=b"Host: a.b/c"),
    "Host with space": request(host=b"Host: a b"),
    "Host with letters for port": request(host=b"Host: a.b:http"),
    "empty Host": request(host=b"Host:"),
    "a target with a host instead of Host": b"GET http://a.b/ HTTP/1.1\r\n\r\n",
    "Host disagrees with the target": request(line=b"GET http://c.d/ HTTP/1.1"),
    "userinfo in the target": request(line=b"GET http://u@a.b/ HTTP/1.1"),
    "other scheme": request(line=b"GET ftp://a.b/ HTTP/1.1"),
    "no path": request(line=b"GET a.b HTTP/1.1"),
    "asterisk for GET": request(line=b"GET * HTTP/1.1"),
    "fragment": request(line=b"GET /#x HTTP/1.1"),
    "space in the target": request(line=b"GET /a b HTTP/1.1"),
    "two spaces": request(line=b"GET  / HTTP/1.1"),
    "umlaut in the target": request(line="GET /ü HTTP/1.1".encode()),
    "backslash in the target": request(line=b"GET /\\a HTTP/1.1"),
    "quote in the target": request(line=b'GET /" HTTP/1.1'),
    "illegal method": request(line=b"G(T / HTTP/1.1"),
    "lower-case version": request(line=b"GET / http/1.1"),
    "HTTP/0.9": request(line=b"GET /"),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x00\x00\r\n\r\n",
    "CONNECT": request(line=b"CONNECT a.b:443 HTTP/1.1"),
    "TRACE": request(line=b"TRACE / HTTP/1.1"),
    "two empty lines before": b"\r\n\r\n" + request(),
    "illegal Connection": request(b"Connection: a b"),
    "other expectation": request(b"Expect: 200-ok"),
}


@pytest.mark.parametrize("message", REFUSED.values(), ids=REFUSED.keys())
def test_ambiguous_requests_are_refused(message: bytes) -> None:
    """What could be read in two ways, or isn't HTTP, is refused, whole and however it is cut."""
    with pytest.raises(ProtocolError):
        parse_request(message)
    with pytest.raises(ProtocolError):
        fed_bytewise(message)


def fed_bytewise(message: bytes) -> RequestHead | None:
    head = None
    for end in range(1, len(message) + 1):
        head = parse_request(message[:end])
        if head is not None:
            break
    return head


@pytest.mark.parametrize("message", VALID)
def test_a_head_is_the_same_however_it_is_cut(message: bytes) -> None:
    """No head before its last byte; with trailing data the head ends where it ends."""
    whole = parse_request(message)
    assert whole is not None
    assert whole.end == len(message)
    assert all(parse_request(message[:end]) is None for end in range(len(message)))
    trailed = parse_request(message + b"GET /next HTTP/1.1\r\n\r\n\x00\n")
    assert trailed is not None
    assert meaning(trailed) == meaning(whole)


def meaning(head: RequestHead) -> tuple[object, ...]:
    return tuple(getattr(head, name) for name in RequestHead.__slots__)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (request(line=b"GET /" + b"a" * MAX_REQUEST_LINE + b" HTTP/1.1"), UriTooLong),
        (b"GET /" + b"a" * MAX_REQUEST_LINE, UriTooLong),
        (request(b"X: " + b"a" * MAX_FIELD_SECTION), HeadTooLarge),
        (request()[:-2] + b"X: " + b"a" * MAX_FIELD_SECTION, HeadTooLarge),
        (request(*[b"X: 1"] * 100), HeadTooLarge),
        (request(line=b"GET / HTTP/1.2"), VersionRefused),
        (request(line=b"TRACE / HTTP/1.1"), MethodRefused),
        (request(b"Expect: something"), ExpectationFailed),
    ],
)
def test_each_limit_has_its_own_answer(message: bytes, error: type[ProtocolError]) -> None:
    """414 for the line, 431 for the fields, 505 for the version, whether or not the head is complete."""
    with pytest.raises(error):
        parse_request(message)


@pytest.mark.parametrize("fields", [1, 3, 99, 100, 101, 200])
def test_a_number_of_fields(fields: int) -> None:
    """As many as the limit says, whether below or above what one expression takes; not one more."""
    limits = head_limits(fields=fields)
    assert parse_request(request(*[b"X: 1"] * (fields - 1)), 0, limits) is not None
    with pytest.raises(HeadTooLarge, match=f"more than {fields} fields"):
        parse_request(request(*[b"X: 1"] * fields), 0, limits)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_request_line_and_a_field_section_at_their_bounds(more: int) -> None:
    """Counted without the line's end and with the fields' ends, however the head is cut."""
    line, section = 40 + more, 100 + more
    limits = head_limits(40, 100)
    long_line = request(line=b"GET /" + b"a" * (line - len(b"GET / HTTP/1.1")) + b" HTTP/1.1")
    long_field = request(b"X: " + b"a" * (section - len(b"Host: a.b\r\nX: \r\n")))
    for message, error in ((long_line, UriTooLong), (long_field, HeadTooLarge)):
        if more > 0:
            with pytest.raises(error):
                parse_request(message, 0, limits)
            with pytest.raises(error):
                parse_request(message.replace(b"a.b", b"a .b"), 0, limits)  # on the slow path
        else:
            assert parse_request(message, 0, limits) is not None
            assert all(parse_request(message[:end], 0, limits) is None for end in range(1, len(message)))


def test_hop_by_hop_fields_and_knatives_own_are_dropped() -> None:
    """RFC 9110 section 7.6.1, and names by which a client could pose as a part of Knative."""
    head = parse_request(
        request(
            b"Connection: close, X-Mine, x-request-id",
            b"X-Mine: 1",
            b"X-Request-Id: 7",
            b"Keep-Alive: timeout=5",
            b"TE: trailers",
            b"Proxy-Authorization: Basic x",
            b"Knative-Serving-Revision: other",
            b"K-Proxy-Request: activator",
            b"Accept: */*",
            b"Knative-Serving-Tag: blue",
        )
    )
    assert head is not None
    assert head.fields == b"\r\nAccept: */*\r\nKnative-Serving-Tag: blue\r\n"
    assert not head.keep_alive
    assert head.request_id == b""


def test_connection_cannot_have_framing_dropped() -> None:
    """`Connection: content-length` is an attack, not an option."""
    head = parse_request(request(b"Connection: content-length", b"Content-Length: 5"))
    assert head is not None
    assert b"Content-Length: 5" in head.fields


def test_a_line_that_begins_like_another_survives_its_removal() -> None:
    """Lines are removed whole: one that is a prefix of another does not tear it."""
    head = parse_request(request(b"X-Connection: close", b"Connection: close", b"X: Connection: close"))
    assert head is not None
    assert head.fields == b"\r\nX-Connection: close\r\nX: Connection: close\r\n"


@pytest.mark.parametrize(
    ("lines", "version", "kept"),
    [
        ((), b"1.1", True),
        ((b"Connection: close",), b"1.1", False),
        ((b"Connection: close", b"Connection: keep-alive"), b"1.1", False),
        ((), b"1.0", False),
        ((b"Connection: Keep-Alive",), b"1.0", True),
    ],
)
def test_persistence(lines: tuple[bytes, ...], version: bytes, kept: bool) -> None:
    """RFC 9112 section 9.3."""
    head = parse_request(request(*lines, line=b"GET / HTTP/" + version))
    assert head is not None
    assert head.keep_alive is kept


def test_upgrade_counts_only_as_connection_says_and_never_for_h2c() -> None:
    """RFC 9110 section 7.8; h2c by upgrade is obsolete."""
    asks = parse_request(request(b"Connection: Upgrade", b"Upgrade: websocket"))
    hints = parse_request(request(b"Upgrade: websocket"))
    h2c = parse_request(request(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAA"))
    assert asks is not None
    assert hints is not None
    assert h2c is not None
    assert asks.upgrade == b"websocket"
    assert hints.upgrade is None
    assert h2c.upgrade is None
    assert h2c.fields == b"\r\n"


mutations = st.lists(
    st.tuples(st.sampled_from(["set", "insert", "delete"]), st.integers(0, 10_000), st.binary(min_size=1, max_size=3)),
    max_size=4,
)


def mutated(message: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for kind, where, data in changes:
        at = where % (len(message) + 1)
        tail = message[at:] if kind == "insert" else message[at + len(data) :]
        message = message[:at] + (b"" if kind == "delete" else data) + tail
    return message


@given(st.sampled_from(VALID + list(REFUSED.values())), mutations)
def test_what_is_accepted_h11_accepts_with_the_same_meaning(
    message: bytes, changes: list[tuple[str, int, bytes]]
) -> None:
    """Only ProtocolError comes out, and an accepted head says the same to an independent parser."""
    message = mutated(message, changes)
    try:
        head = parse_request(message)
    except ProtocolError:
        return
    if head is None:
        return
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(message[: head.end].removeprefix(b"\r\n"))
    event = peer.next_event()
    assert isinstance(event, h11.Request)
    assert event.method == head.method
    assert event.target.endswith(head.target) or event.target.startswith(b"http")
    theirs = dict(event.headers)
    assert theirs.get(b"host", head.host) == head.host
    assert head.chunked == (b"transfer-encoding" in theirs)
    assert head.content_length == (int(theirs[b"content-length"]) if b"content-length" in theirs else None)
    for line in head.fields[2:-2].split(b"\r\n") if head.fields != b"\r\n" else []:
        name, _, value = line.partition(b": ")
        assert (name.lower(), value) in list(event.headers)


# --- responses --------------------------------------------------------------------------------------------------------

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: x\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\r\n"


def test_a_response_head() -> None:
    """Status, framing and persistence are read; hop-by-hop fields are dropped; the rest is sent on."""
    head = parse_response(RESPONSE + b"hi")
    assert head is not None
    assert (head.status, head.reason, head.content_length, head.keep_alive) == (200, b"OK", 2, True)
    assert head.end == len(RESPONSE)
    assert serialise_response(head, b"connection: close\r\n") == (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: x\r\nconnection: close\r\n\r\n"
    )
    assert all(parse_response(RESPONSE[:end]) is None for end in range(len(RESPONSE)))


@pytest.mark.parametrize(
    "message",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 999 No\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 1\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\n\r\n",
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 50_000,
    ],
)
def test_malformed_responses(message: bytes) -> None:
    """A response is held to the same rules; it becomes a 502."""
    with pytest.raises(UpstreamProtocolError):
        parse_response(message)


@pytest.mark.parametrize(
    ("status", "method", "lines", "kind"),
    [
        (200, b"GET", b"Content-Length: 3\r\n", "LengthReader"),
        (200, b"GET", b"Content-Length: 0\r\n", "NoneType"),
        (200, b"HEAD", b"Content-Length: 3\r\n", "NoneType"),
        (204, b"GET", b"Content-Length: 3\r\n", "NoneType"),
        (304, b"GET", b"Content-Length: 3\r\n", "NoneType"),
        (200, b"GET", b"Transfer-Encoding: chunked\r\n", "ChunkedReader"),
        (200, b"GET", b"", "UntilCloseReader"),
    ],
)
def test_response_framing(status: int, method: bytes, lines: bytes, kind: str) -> None:
    """RFC 9112 section 6.3."""
    head = parse_response(b"HTTP/1.1 %d \r\n%b\r\n" % (status, lines))
    assert head is not None
    assert type(response_body(head, method)).__name__ == kind


def test_no_length_with_204() -> None:
    """RFC 9110 section 8.6: a server must not send one, so we don't."""
    head = parse_response(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nX: 1\r\n\r\n")
    assert head is not None
    assert head.fields == b"\r\nX: 1\r\n"


def test_status_line_without_prepared_reason() -> None:
    """The endpoint's reason phrase is passed on."""
    head = ResponseHead(299, b"Fine", True, b"\r\n", 0)
    assert serialise_response(head, b"") == b"HTTP/1.1 299 Fine\r\n\r\n"


# --- bodies -----------------------------------------------------------------------------------------------------------


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(bounds)]


@given(st.binary(min_size=1, max_size=50), st.lists(st.integers(0, 100), max_size=8))
def test_length_reader(content: bytes, places: list[int]) -> None:
    """Exactly so many bytes; what follows comes back."""
    sink, reader, rest = Gathered(), LengthReader(len(content)), None
    for piece in cut(content + b"next", places):
        rest = reader.feed(piece, sink) if rest is None else rest + piece
    assert (sink.data, sink.trailers, rest) == (content, [], b"next")


@given(
    st.lists(st.binary(min_size=1, max_size=20), max_size=5),
    st.sampled_from([[], [b"X-Sum: 1"], [b"X-Sum: 1", b"Y: 2"]]),
    st.lists(st.integers(0, 200), max_size=10),
)
def test_chunked_round_trip(pieces: list[bytes], trailers: list[bytes], places: list[int]) -> None:
    """What the serialisers write, the reader reads, cut anywhere, with the next message left alone."""
    message = b"".join(map(serialise_chunk, pieces)) + serialise_last_chunk(trailers) + b"GET"
    sink, reader, rest = Gathered(), ChunkedReader(BadRequest), None
    for piece in cut(message, places):
        rest = reader.feed(piece, sink) if rest is None else rest + piece
    assert (sink.data, sink.trailers, rest) == (b"".join(pieces), trailers, b"GET")


@pytest.mark.parametrize(
    "message",
    [
        b"g\r\n",
        b"-1\r\n",
        b"+1\r\na\r\n",
        b"0x1\r\na\r\n",
        b"1_0\r\n",
        b" 1\r\na\r\n",
        b"1 \r\na\r\n",
        b"\r\n",
        b"1\na\n0\n\n",
        b"1\r\nab\r\n0\r\n\r\n",
        b"1\r\na\n0\r\n\r\n",
        b"1;x=\x00\r\na\r\n",
        b"1;x\n\r\na\r\n",
        b"1111111111111111111\r\n",
        b"1;" + b"x" * 2000,
        b"0\r\nX : 1\r\n\r\n",
        b"0\r\nX: 1\n\r\n",
        b"0\r\n X: 1\r\n\r\n",
    ],
)
def test_malformed_chunks(message: bytes) -> None:
    """Chunk sizes are hexadecimal digits and nothing else; lines end in CR LF."""
    with pytest.raises(BadRequest):
        ChunkedReader(BadRequest).feed(message, Gathered())
    reader, sink = ChunkedReader(BadRequest), Gathered()
    with pytest.raises(BadRequest):
        [reader.feed(bytes((byte,)), sink) for byte in message]


def test_trailers_that_mean_framing_are_dropped() -> None:
    """RFC 9110 section 6.5.1."""
    sink = Gathered()
    ChunkedReader(BadRequest).feed(b"0\r\nContent-Length: 5\r\nHost: x\r\nX-Sum: 1\r\n\r\n", sink)
    assert sink.trailers == [b"X-Sum: 1"]


@given(st.binary(max_size=200))
def test_chunked_reader_raises_only_its_error(data: bytes) -> None:
    """Whatever comes, ProtocolError or nothing."""
    with suppress(UpstreamProtocolError):
        ChunkedReader(UpstreamProtocolError).feed(data, Gathered())


def test_request_body() -> None:
    """RFC 9112 section 6.3: no framing field, no content; a length of 0 neither."""
    for lines, kind in (
        ((), type(None)),
        ((b"Content-Length: 0",), type(None)),
        ((b"Content-Length: 1",), LengthReader),
        ((b"Transfer-Encoding: chunked",), ChunkedReader),
    ):
        head = parse_request(request(*lines))
        assert head is not None
        assert isinstance(request_body(head), kind)


ORDINARY = [b"Accept: */*", b"Cookie: a=b", b"X-Mine: 1", b"Priority: u=1", b"Content-Type: text/plain", b"T: 1"]
REQUEST_LINES = [
    b"Host: a.b",
    b"host: a.b:80",
    b"Host: a/b",
    b"User-Agent: one",
    b"user-agent: two",
    b"Connection: keep-alive",
    b"Connection: close",
    b"connection: X-Mine",
    b"Content-Length: 5",
    b"Transfer-Encoding: chunked",
    b"X-Forwarded-For: 1.2.3.4",
    b"X-Request-Id: 7",
    b"TE: trailers",
    b"Expect: 100-continue",
    *ORDINARY,
]
RESPONSE_LINES = [
    b"Content-Length: 5",
    b"content-length: 6",
    b"Transfer-Encoding: chunked",
    b"Connection: keep-alive",
    b"Connection: close",
    b"Keep-Alive: timeout=5",
    b"Upgrade: websocket",
    *ORDINARY,
]


def said(head: RequestHead | ResponseHead | None) -> dict[str, object]:
    assert head is not None
    return {name: getattr(head, name) for name in type(head).__slots__ if name not in ("end", "line")}


@given(st.lists(st.sampled_from(REQUEST_LINES), max_size=8), st.lists(st.sampled_from(ORDINARY), max_size=95))
def test_both_paths_read_a_request_alike(lines: list[bytes], more: list[bytes]) -> None:
    """Wherever the usual fields are and however many others: an empty line before the head, which only the slow path
    takes, changes neither what it says nor what is wrong with it."""
    message = request(*lines, *more, *lines[:2], host=b"")
    try:
        expected = said(parse_request(b"\r\n" + message))
    except ProtocolError as error:
        with pytest.raises(type(error), match=f"^{error}$".replace("(", r"\(").replace(")", r"\)")):
            parse_request(message)
    else:
        assert said(parse_request(message)) == expected


@given(
    st.sampled_from([b"101", b"200", b"204", b"304"]),
    st.lists(st.sampled_from(RESPONSE_LINES), max_size=6),
    st.lists(st.sampled_from(ORDINARY), max_size=95),
)
def test_both_paths_read_a_response_alike(status: bytes, lines: list[bytes], more: list[bytes]) -> None:
    """As with requests; here it is the reason phrase left out, with its space, that only the slow path takes."""
    fields = b"".join(line + b"\r\n" for line in [b"", *lines, *more, *lines[:2], b""])
    try:
        expected = said(parse_response(b"HTTP/1.1 " + status + fields))
    except ProtocolError as error:
        with pytest.raises(type(error), match=f"^{error}$"):
            parse_response(b"HTTP/1.1 " + status + b" " + fields)
    else:
        head = parse_response(b"HTTP/1.1 " + status + b" " + fields)
        assert said(head) == expected
        assert head is not None
        assert serialise_response(head, b"").startswith(b"HTTP/1.1 " + status + b" \r\n")
