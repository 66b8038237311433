"""gateway.core.heads and its twin in C: strict heads, cut anywhere, against h11 and one against the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.heads import (
    DEFAULT_LIMITS,
    MAX_FIELD_SECTION,
    MAX_REQUEST_LINE,
    HeadLimits,
    RequestHead,
    ResponseHead,
    head_limits,
    is_worth_a_look,
    parse_request_slowly,
    parse_response_slowly,
    serialise_response,
)
from gateway.core.http1 import COMPILED, PYTHON
from gateway.errors import (
    ExpectationFailed,
    HeadTooLarge,
    MethodRefused,
    ProtocolError,
    UpstreamProtocolError,
    UriTooLong,
    VersionRefused,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.core.http1 import Codec

needs_both = pytest.mark.skipif(COMPILED is None, reason="the compiled codec was not built")


def request(*lines: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a.b") -> bytes:
    return b"\r\n".join([line, *([host] if host else []), *lines]) + b"\r\n\r\n"


VALID = [
    request(),
    request(b"Content-Length: 5"),
    request(b"Transfer-Encoding: chunked"),
    request(b"transfer-encoding: CHUNKED"),
    request(b"X:1"),
    request(b"X:  spaced out \t "),
    request(b"X-Empty:"),
    request(b"X: \xe9t\xe9"),
    request(b"X: " + bytes((*range(32, 127), 9, *range(128, 256), 33))),
    request(b"!#$%&'*+-.^_`|~09azAZ: 1"),
    request(b"Content-Length: 0"),
    request(b"Content-Length: 000000000000000005"),
    request(b"Content-Length: 999999999999999999"),
    request(b"Connection: keep-alive, X-Mine", b"X-Mine: 1"),
    request(b"Connection: keep-alive", b"User-Agent: me", b"X-Request-Id: 7", b"TE: trailers", b"Expect: 100-continue"),
    request(b"Connection: ,close, ,"),
    request(line=b"GET /a/b?c=d&e=%20 HTTP/1.1"),
    request(line=b"OPTIONS * HTTP/1.1"),
    request(line=b"OPTIONS http://a.b HTTP/1.1"),
    request(line=b"M-SEARCH! / HTTP/1.1"),
    request(line=b"GET /[]{}|^`?[]{}|^` HTTP/1.1"),
    request(line=b"GET http://a.b?x HTTP/1.1"),
    request(line=b"GET HTTPS://a.b/x HTTP/1.1"),
    request(line=b"GET http://a.b/x HTTP/1.1"),
    request(line=b"GET http://A.B HTTP/1.1"),
    request(line=b"GET / HTTP/1.0", host=b""),
    request(line=b"GET http://a.b/ HTTP/1.0", host=b""),
    request(b"Connection: keep-alive", line=b"GET / HTTP/1.0"),
    request(host=b"Host: [::1]:8080"),
    request(host=b"Host: _a-b.c.:80"),
    request(host=b"hOST:a.b"),
    b"\r\n" + request(),
]

# What a proxy must refuse: each would let two servers read one stream in two ways, or is no HTTP at all.
REFUSED = {
    "length and chunked": request(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "chunked and length": request(b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "two equal lengths": request(b"Content-Length: 5", b"Content-Length: 5"),
    "two lengths": request(b"Content-Length: 5", b"content-length: 6"),
    "list of lengths": request(b"Content-Length: 5, 5"),
    "lengths in words": request(b"Content-Length: five"),
    "length with a space in it": request(b"Content-Length: 5 5"),
    "length with a point": request(b"Content-Length: 5.0"),
    "signed length": request(b"Content-Length: +5"),
    "negative length": request(b"Content-Length: -5"),
    "underscored length": request(b"Content-Length: 1_0"),
    "hexadecimal length": request(b"Content-Length: 0x5"),
    "empty length": request(b"Content-Length:"),
    "length in other digits": request("Content-Length: ٣".encode()),
    "length beyond 64 bits": request(b"Content-Length: 99999999999999999999"),
    "length that wraps to 5": request(b"Content-Length: 18446744073709551621"),
    "gzip, chunked": request(b"Transfer-Encoding: gzip, chunked"),
    "chunked twice": request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "chunked, chunked": request(b"Transfer-Encoding: chunked, chunked"),
    "identity": request(b"Transfer-Encoding: identity"),
    "quoted chunked": request(b'Transfer-Encoding: "chunked"'),
    "xchunked": request(b"Transfer-Encoding: xchunked"),
    "chunked with a parameter": request(b"Transfer-Encoding: chunked;x=1"),
    "chunked, then nothing": request(b"Transfer-Encoding: chunked,"),
    "no encoding": request(b"Transfer-Encoding:"),
    "chunked and then identity": request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
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
    "name with a space in it": request(b"X Y: 5"),
    "name with control character": request(b"X\x01: 5"),
    "name with slash": request(b"X/Y: 5"),
    "space before the first name": request(b" X: 5", host=b""),
    "bare LF in head": b"GET / HTTP/1.1\nHost: a.b\n\n",
    "bare LF in a value": request(b"X: 1\nContent-Length: 5"),
    "bare LF after the line": b"GET / HTTP/1.1\nHost: a.b\r\n\r\n",
    "bare LF at the end": b"GET / HTTP/1.1\r\nHost: a.b\r\n\n",
    "CR CR LF": b"GET / HTTP/1.1\r\r\nHost: a.b\r\n\r\n",
    "bare CR in the target": request(line=b"GET /\ra HTTP/1.1"),
    "NUL in the target": request(line=b"GET /\x00a HTTP/1.1"),
    "escape in a value": request(b"X: \x1b[2J"),
    "control character in Host": request(host=b"Host: a\x01b"),
    "bare CR in a value": request(b"X: 1\rContent-Length: 5"),
    "NUL in a value": request(b"X: 1\x002"),
    "NUL in a name": request(b"X\x00: 1"),
    "DEL in a value": request(b"X: 1\x7f2"),
    "control character in a value": request(b"X: 1\x012"),
    "no Host": request(host=b""),
    "two Hosts": request(b"Host: a.b"),
    "two Hosts in 1.0": request(b"Host: a.b", line=b"GET / HTTP/1.0"),
    "two Hosts and an absolute target": request(b"Host: a.b", line=b"GET http://a.b/ HTTP/1.1"),
    "two spellings of Host": request(b"HOST: c.d"),
    "Host list": request(host=b"Host: a.b, c.d"),
    "Host with userinfo": request(host=b"Host: u@a.b"),
    "Host with path": request(host=b"Host: a.b/c"),
    "Host with space": request(host=b"Host: a b"),
    "Host with letters for port": request(host=b"Host: a.b:http"),
    "empty Host": request(host=b"Host:"),
    "Host with percent": request(host=b"Host: a%2eb"),
    "Host with long port": request(host=b"Host: a.b:123456"),
    "Host that begins with a point": request(host=b"Host: .a"),
    "Host with an open bracket": request(host=b"Host: [::1"),
    "Host with a name in brackets": request(host=b"Host: [a.x]"),
    "Host with empty brackets": request(host=b"Host: []"),
    "Host with a scheme": request(host=b"Host: http://a.b"),
    "a target with a host instead of Host": b"GET http://a.b/ HTTP/1.1\r\n\r\n",
    "Host disagrees with the target": request(line=b"GET http://c.d/ HTTP/1.1"),
    "Host's port disagrees with the target": request(line=b"GET http://a.b:81/ HTTP/1.1"),
    "Host disagrees with the target in 1.0": request(line=b"GET http://c.d/ HTTP/1.0"),
    "empty authority": request(line=b"GET http:///x HTTP/1.1"),
    "userinfo in the target": request(line=b"GET http://u@a.b/ HTTP/1.1"),
    "userinfo with password": request(line=b"GET http://u:p@a.b/ HTTP/1.1", host=b"Host: u:p@a.b"),
    "empty userinfo": request(line=b"GET http://@a.b/ HTTP/1.1"),
    "other scheme": request(line=b"GET ftp://a.b/ HTTP/1.1"),
    "no path": request(line=b"GET a.b HTTP/1.1"),
    "asterisk for GET": request(line=b"GET * HTTP/1.1"),
    "fragment": request(line=b"GET /#x HTTP/1.1"),
    "fragment in an absolute target": request(line=b"GET http://a.b/#x HTTP/1.1"),
    "angle bracket in the target": request(line=b"GET /<a> HTTP/1.1"),
    "DEL in the target": request(line=b"GET /\x7f HTTP/1.1"),
    "tab in the target": request(line=b"GET /\t HTTP/1.1"),
    "asterisk and more": request(line=b"OPTIONS *a HTTP/1.1"),
    "no target": request(line=b"GET HTTP/1.1"),
    "tab for a space": request(line=b"GET\t/ HTTP/1.1"),
    "space before the method": request(line=b" GET / HTTP/1.1"),
    "space after the version": request(line=b"GET / HTTP/1.1 "),
    "space in the target": request(line=b"GET /a b HTTP/1.1"),
    "two spaces": request(line=b"GET  / HTTP/1.1"),
    "umlaut in the target": request(line="GET /ü HTTP/1.1".encode()),
    "backslash in the target": request(line=b"GET /\\a HTTP/1.1"),
    "quote in the target": request(line=b'GET /" HTTP/1.1'),
    "illegal method": request(line=b"G(T / HTTP/1.1"),
    "method with umlaut": request(line="GÜT / HTTP/1.1".encode()),
    "method with colon": request(line=b"GET: / HTTP/1.1"),
    "no method": request(line=b"/ HTTP/1.1"),
    "lower-case version": request(line=b"GET / http/1.1"),
    "mixed-case version": request(line=b"GET / Http/1.1"),
    "HTTP/1.2": request(line=b"GET / HTTP/1.2"),
    "HTTP/2.0": request(line=b"GET / HTTP/2.0"),
    "HTTP/3.0": request(line=b"GET / HTTP/3.0"),
    "HTTP/0.9 by name": request(line=b"GET / HTTP/0.9"),
    "HTTP/1": request(line=b"GET / HTTP/1"),
    "HTTP/2": request(line=b"GET / HTTP/2"),
    "HTTP/1.10": request(line=b"GET / HTTP/1.10"),
    "HTTP/01.1": request(line=b"GET / HTTP/01.1"),
    "HTTP/1,1": request(line=b"GET / HTTP/1,1"),
    "another protocol": request(line=b"GET / ICAP/1.0"),
    "HTTP/0.9": request(line=b"GET /"),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x00\x00\r\n\r\n",
    "CONNECT": request(line=b"CONNECT a.b:443 HTTP/1.1"),
    "CONNECT with a path": request(line=b"CONNECT / HTTP/1.1"),
    "TRACE": request(line=b"TRACE / HTTP/1.1"),
    "TRACE of an absolute target": request(line=b"TRACE http://a.b/ HTTP/1.1"),
    "two empty lines before": b"\r\n\r\n" + request(),
    "illegal Connection": request(b"Connection: a b"),
    "other expectation": request(b"Expect: 200-ok"),
}


@pytest.mark.parametrize("message", REFUSED.values(), ids=REFUSED.keys())
def test_ambiguous_requests_are_refused(codec: Codec, message: bytes) -> None:
    """What could be read in two ways, or isn't HTTP, is refused: whole, byte by byte and with more behind it."""
    with pytest.raises(ProtocolError):
        codec.parse_request(message)
    with pytest.raises(ProtocolError):
        codec.parse_request(message + request())
    with pytest.raises(ProtocolError):
        [codec.parse_request(message[:end]) for end in range(1, len(message) + 1)]


@pytest.mark.parametrize("message", REFUSED.values(), ids=REFUSED.keys())
def test_no_part_of_what_is_refused_is_taken_for_a_head(codec: Codec, message: bytes) -> None:
    """However it is cut: the parts give no head, whether or not they show the fault yet."""
    for end in range(1, len(message)):
        try:
            assert codec.parse_request(message[:end]) is None
        except ProtocolError:
            return


@pytest.mark.parametrize("message", VALID)
def test_a_head_is_the_same_however_it_is_cut(codec: Codec, message: bytes) -> None:
    """No head before its last byte; with data before and after it, it begins and ends where it does."""
    whole = codec.parse_request(message)
    assert whole is not None
    assert whole.end == len(message)
    assert all(codec.parse_request(message[:end]) is None for end in range(len(message)))
    assert said(codec.parse_request(message + b"GET /next HTTP/1.1\r\n\r\n\x00\n")) == said(whole)
    later = codec.parse_request(b"\x00\n\r" + message + b"\x00", 3)
    assert said(later) == said(whole)
    assert later is not None
    assert later.end == 3 + len(message)


def said(head: RequestHead | ResponseHead | None, *, but: tuple[str, ...] = ("end",)) -> dict[str, object]:
    assert head is not None
    return {name: getattr(head, name) for name in type(head).__slots__ if name not in but}


def outcome(
    parse: Callable[..., RequestHead | ResponseHead | None], *args: object
) -> dict[str, object] | tuple[type[ProtocolError], str] | None:
    """All that a parser said: the head, that it is incomplete, or what is wrong with it."""
    try:
        head = parse(*args)
    except ProtocolError as error:
        return type(error), str(error)
    return None if head is None else said(head, but=())


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (request(line=b"GET /" + b"a" * MAX_REQUEST_LINE + b" HTTP/1.1"), UriTooLong),
        (b"GET /" + b"a" * (MAX_REQUEST_LINE + 3), UriTooLong),
        (request(b"X: " + b"a" * MAX_FIELD_SECTION), HeadTooLarge),
        (request()[:-2] + b"X: " + b"a" * MAX_FIELD_SECTION, HeadTooLarge),
        (request(*[b"X: 1"] * 100), HeadTooLarge),
        (request(*[b"X: 1"] * 101)[:-4], HeadTooLarge),
        (request(line=b"GET / HTTP/1.2"), VersionRefused),
        (request(line=b"GET / HTTP/2.0"), VersionRefused),
        (request(line=b"TRACE / HTTP/1.1"), MethodRefused),
        (request(line=b"CONNECT a.b:443 HTTP/1.1"), MethodRefused),
        (request(b"Expect: something"), ExpectationFailed),
    ],
)
def test_each_refusal_has_its_own_answer(codec: Codec, message: bytes, error: type[ProtocolError]) -> None:
    """414 for the line, 431 for the fields, 505 for the version; limits whether or not the head is complete."""
    with pytest.raises(error):
        codec.parse_request(message)


@pytest.mark.parametrize("fields", [1, 3, 99, 100, 101, 200])
def test_a_number_of_fields(codec: Codec, fields: int) -> None:
    """As many as the limit says, whether below or above what one expression takes; not one more. Those of a head that
    is not complete count as well."""
    limits = head_limits(fields=fields)
    assert codec.parse_request(request(*[b"X: 1"] * (fields - 1)), 0, limits) is not None
    assert codec.parse_request(request(*[b"X: 1"] * (fields - 1))[:-1], 0, limits) is None
    for message in (request(*[b"X: 1"] * fields), request(*[b"X: 1"] * (fields + 1))[:-4]):
        with pytest.raises(HeadTooLarge, match=f"more than {fields} fields"):
            codec.parse_request(message, 0, limits)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_request_line_and_a_field_section_at_their_bounds(codec: Codec, more: int) -> None:
    """Counted without the line's end and with the fields' ends, however the head is cut."""
    line, section = 40 + more, 100 + more
    limits = head_limits(40, 100)
    long_line = request(line=b"GET /" + b"a" * (line - len(b"GET / HTTP/1.1")) + b" HTTP/1.1")
    long_field = request(b"X: " + b"a" * (section - len(b"Host: a.b\r\nX: \r\n")))
    for message, error in ((long_line, UriTooLong), (long_field, HeadTooLarge)):
        if more > 0:
            with pytest.raises(error):
                codec.parse_request(message, 0, limits)
            with pytest.raises(error):
                codec.parse_request(message.replace(b"a.b", b"a .b"), 0, limits)  # on the slow path
        else:
            assert codec.parse_request(message, 0, limits) is not None
            assert all(codec.parse_request(message[:end], 0, limits) is None for end in range(1, len(message)))


def test_more_than_the_usual_limits(codec: Codec) -> None:
    """Limits can be larger than they usually are as well."""
    message = request(*[b"X: " + b"a" * 1000] * 200, line=b"GET /" + b"a" * 20_000 + b" HTTP/1.1")
    head = codec.parse_request(message, 0, head_limits(100_000, 300_000, 1000))
    assert head is not None
    assert head.fields.count(b"\r\n") == 201


def test_hop_by_hop_fields_and_knatives_own_are_dropped(codec: Codec) -> None:
    """RFC 9110 section 7.6.1, and names by which a client could pose as a part of Knative."""
    head = codec.parse_request(
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
    assert head.others == {b"te": b"trailers"}  # of which `fields` passes on what holds beyond this hop


@pytest.mark.parametrize(
    ("lines", "request_id"),
    [
        ((b"X-Request-Id: 1", b"X-Request-Id: 2"), b"1"),
        ((b"X-Request-Id:", b"x-request-id: 2", b"X-Request-Id: 3"), b"2"),
        ((b"X_Request_Id: 1", b"X-Request_Id: 2"), b""),
        ((b"X-Request-Id:",), b""),
    ],
)
def test_a_request_has_one_id(codec: Codec, lines: tuple[bytes, ...], request_id: bytes) -> None:
    """The first that says something; no line of them goes on as it is."""
    head = codec.parse_request(request(*lines, b"Accept: */*"))
    assert head is not None
    assert (head.request_id, head.fields) == (request_id, b"\r\nAccept: */*\r\n")
    assert head.field(b"x-request-id") == (request_id or None)


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        (
            (b"Transfer-Encoding: chunked", b"Trailer: X-Sum, Set-Cookie", b"trailer: Other"),
            b"\r\ntrailer: X-Sum, Other\r\n",
        ),
        ((b"Transfer-Encoding: chunked", b"Trailer: Set-Cookie, a b"), b"\r\n"),
        ((b"Transfer-Encoding: chunked", b"Trailer: X-Sum", b"Connection: trailer"), b"\r\n"),
        ((b"Content-Length: 5", b"Trailer: X-Sum"), b"\r\nContent-Length: 5\r\n"),
        ((b"Trailer: X-Sum",), b"\r\n"),
    ],
)
def test_a_response_announces_the_trailers_that_may_come(codec: Codec, lines: tuple[bytes, ...], fields: bytes) -> None:
    """Behind chunks, and of fields that mean something there (RFC 9110 sections 6.5.1 and 6.6.2)."""
    head = codec.parse_response(response(*lines))
    assert head is not None
    assert head.fields == fields


def test_an_absolute_target_is_sent_on_as_a_path(codec: Codec) -> None:
    """RFC 9112 section 3.2: origin-form, or the asterisk where OPTIONS had no path; Host is what the target said."""
    for line, target, host in (
        (b"GET http://a.b/x?y HTTP/1.1", b"/x?y", b"Host: a.b"),
        (b"GET http://a.b HTTP/1.1", b"/", b"Host: a.b"),
        (b"GET http://A.B?x HTTP/1.1", b"/?x", b"Host: a.b"),
        (b"OPTIONS http://a.b HTTP/1.1", b"*", b"Host: a.b"),
        (b"OPTIONS http://a.b/ HTTP/1.1", b"/", b"Host: a.b"),
        (b"GET http://a.b/ HTTP/1.0", b"/", b""),
    ):
        head = codec.parse_request(request(line=line, host=host))
        assert head is not None
        assert (head.target, head.host) == (target, b"a.b")


def test_connection_cannot_have_framing_dropped(codec: Codec) -> None:
    """`Connection: content-length` is an attack, not an option."""
    head = codec.parse_request(request(b"Connection: content-length", b"Content-Length: 5"))
    assert head is not None
    assert b"Content-Length: 5" in head.fields


def test_a_line_that_begins_like_another_survives_its_removal(codec: Codec) -> None:
    """Lines are removed whole: one that is a prefix of another does not tear it."""
    head = codec.parse_request(request(b"X-Connection: close", b"Connection: close", b"X: Connection: close"))
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
def test_persistence(codec: Codec, lines: tuple[bytes, ...], version: bytes, kept: bool) -> None:
    """RFC 9112 section 9.3."""
    head = codec.parse_request(request(*lines, line=b"GET / HTTP/" + version))
    assert head is not None
    assert head.keep_alive is kept


def test_upgrade_counts_only_as_connection_says_and_never_for_h2c(codec: Codec) -> None:
    """RFC 9110 section 7.8; h2c by upgrade is obsolete."""
    asks = codec.parse_request(request(b"Connection: Upgrade", b"Upgrade: websocket"))
    hints = codec.parse_request(request(b"Upgrade: websocket"))
    h2c = codec.parse_request(
        request(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAA")
    )
    assert asks is not None
    assert hints is not None
    assert h2c is not None
    assert asks.upgrade == b"websocket"
    assert hints.upgrade is None
    assert h2c.upgrade is None
    assert h2c.fields == b"\r\n"


@pytest.mark.parametrize(
    ("lines", "asked"),
    [
        ((b"Upgrade: websocket, h2c",), b"websocket"),
        ((b"Upgrade: ,h2c",), None),
        ((b"Upgrade: chat/2", b"Upgrade: H2C"), b"chat/2"),
        ((b"Upgrade: HTTP/2.0,\tirc/6.9",), b"irc/6.9"),
        ((b'Upgrade: a b, "x", /1, a/, web/so/cket, ok',), b"ok"),
        ((b"Upgrade:",), None),
    ],
)
def test_an_upgrade_is_to_protocols_that_may_be_asked_for(
    codec: Codec, lines: tuple[bytes, ...], asked: bytes | None
) -> None:
    """Not to another HTTP, in whichever place of the list, and not to what is no protocol's name."""
    head = codec.parse_request(request(b"Connection: Upgrade", *lines))
    assert head is not None
    assert head.upgrade == asked


# --- responses --------------------------------------------------------------------------------------------------------

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: x\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\r\n"


def test_a_response_head(codec: Codec) -> None:
    """Status, framing and persistence are read; hop-by-hop fields are dropped; the rest is sent on."""
    head = codec.parse_response(RESPONSE + b"hi")
    assert head is not None
    assert (head.status, head.reason, head.content_length, head.keep_alive) == (200, b"OK", 2, True)
    assert head.end == len(RESPONSE)
    assert serialise_response(head, b"connection: close\r\n") == (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: x\r\nconnection: close\r\n\r\n"
    )
    assert all(codec.parse_response(RESPONSE[:end]) is None for end in range(len(RESPONSE)))


VALID_RESPONSES = [
    RESPONSE,
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 \r\n\r\n",
    b"HTTP/1.1 200\r\nX: 1\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 599 \xe9t\xe9\tx \r\nX:  spaced \r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n",
]


def response(*lines: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([line, *lines]) + b"\r\n\r\n"


REFUSED_RESPONSES = {
    "HTTP/2": response(line=b"HTTP/2 200 OK"),
    "HTTP/2.0": response(line=b"HTTP/2.0 200 OK"),
    "HTTP/1.2": response(line=b"HTTP/1.2 200 OK"),
    "HTTP/0.9": response(line=b"<html>"),
    "lower-case version": response(line=b"http/1.1 200 OK"),
    "status beyond 5xx": response(line=b"HTTP/1.1 999 No"),
    "status 0xx": response(line=b"HTTP/1.1 099 No"),
    "status of two digits": response(line=b"HTTP/1.1 20 OK"),
    "status of four digits": response(line=b"HTTP/1.1 2000 OK"),
    "signed status": response(line=b"HTTP/1.1 +20 OK"),
    "two spaces": response(line=b"HTTP/1.1  200 OK"),
    "control character in the reason": response(line=b"HTTP/1.1 200 O\x01K"),
    "NUL in the reason": response(line=b"HTTP/1.1 200 O\x00K"),
    "bare CR in the reason": response(line=b"HTTP/1.1 200 O\rK"),
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 1\n\n",
    "bare LF at the end": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\n",
    "bare LF in a value": response(b"X: 1\nSet-Cookie: a=b"),
    "bare CR in a value": response(b"X: 1\rSet-Cookie: a=b"),
    "NUL in a value": response(b"X: 1\x00"),
    "escape in a value": response(b"X: \x1b"),
    "two equal lengths": response(b"Content-Length: 1", b"Content-Length: 1"),
    "two lengths": response(b"Content-Length: 1", b"content-length: 2"),
    "list of lengths": response(b"Content-Length: 1, 1"),
    "signed length": response(b"Content-Length: +1"),
    "empty length": response(b"Content-Length:"),
    "length beyond 64 bits": response(b"Content-Length: 18446744073709551621"),
    "length and chunked": response(b"Content-Length: 1", b"Transfer-Encoding: chunked"),
    "chunked and length": response(b"Transfer-Encoding: chunked", b"Content-Length: 1"),
    "gzip, chunked": response(b"Transfer-Encoding: gzip, chunked"),
    "chunked twice": response(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "identity": response(b"Transfer-Encoding: identity"),
    "chunked in 1.0": response(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK"),
    "space before colon": response(b"X : 1"),
    "empty name": response(b": 1"),
    "no colon": response(b"X 1"),
    "illegal name": response(b"X(y): 1"),
    "obs-fold": response(b"X: 1", b" 2"),
    "obs-fold first": response(b" X: 1"),
    "illegal Connection": response(b"Connection: a b"),
    "not HTTP": b"hello\r\n\r\n",
    "not HTTP at all": b"-ERR unknown command\r\n",
    "too many fields": response(*[b"X: 1"] * 101),
    "endless fields": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 50_000,
    "endless reason": b"HTTP/1.1 200 " + b"a" * 50_000,
}


@pytest.mark.parametrize("message", REFUSED_RESPONSES.values(), ids=REFUSED_RESPONSES.keys())
def test_malformed_responses(codec: Codec, message: bytes) -> None:
    """A response is held to the same rules, whole, in parts and with more behind it; it becomes a 502."""
    with pytest.raises(UpstreamProtocolError):
        codec.parse_response(message)
    with pytest.raises(UpstreamProtocolError):
        codec.parse_response(message + RESPONSE)
    for end in range(1, len(message), 1 if len(message) < 1000 else 997):
        try:
            assert codec.parse_response(message[:end]) is None
        except UpstreamProtocolError:
            return


@pytest.mark.parametrize("message", VALID_RESPONSES)
def test_a_response_head_is_the_same_however_it_is_cut(codec: Codec, message: bytes) -> None:
    """As with requests."""
    whole = codec.parse_response(message)
    assert whole is not None
    assert whole.end == len(message)
    assert all(codec.parse_response(message[:end]) is None for end in range(len(message)))
    assert said(codec.parse_response(message + b"\x00\n")) == said(whole)
    assert said(codec.parse_response(b"\x00\n\r" + message, 3)) == said(whole)


def test_no_length_with_204(codec: Codec) -> None:
    """RFC 9110 section 8.6: a server must not send one, so we don't."""
    head = codec.parse_response(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nX: 1\r\n\r\n")
    assert head is not None
    assert head.fields == b"\r\nX: 1\r\n"
    assert head.keep_alive


@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_a_204_that_announces_content(codec: Codec, framing: bytes) -> None:
    """Its connection is not kept: should that content come, it would be taken for the next response."""
    head = codec.parse_response(b"HTTP/1.1 204 No Content\r\n%b\r\n\r\n" % framing)
    assert head is not None
    assert head.fields == b"\r\n"
    assert not head.keep_alive


def test_status_line_without_prepared_reason() -> None:
    """The endpoint's reason phrase is passed on."""
    head = ResponseHead(299, b"Fine", True, b"\r\n", 0)
    assert serialise_response(head, b"") == b"HTTP/1.1 299 Fine\r\n\r\n"


def test_a_head_in_pieces_of_a_byte_is_not_looked_at_for_each() -> None:
    """Nor is it forgotten: what is too long is found out."""
    looks = [size for size in range(1, 40_000) if is_worth_a_look(size - 1, size)]
    assert looks == [8193, *range(12_288, 40_000, 4096)]
    assert is_worth_a_look(10, 9000)
    assert [size for size in range(1, 9000) if is_worth_a_look(size - 1, size, head_limits(fields=1))] == [
        7,
        4096,
        8192,
    ]


# --- the fuzzers ------------------------------------------------------------------------------------------------------

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


requests = st.builds(mutated, st.sampled_from(VALID + list(REFUSED.values())), mutations)
responses = st.builds(
    mutated,
    st.sampled_from(VALID_RESPONSES + [one for one in REFUSED_RESPONSES.values() if len(one) < 1000]),
    mutations,
)


@given(requests)
def test_what_is_accepted_h11_accepts_with_the_same_meaning(codec: Codec, message: bytes) -> None:
    """Only ProtocolError comes out, and an accepted head says the same to an independent parser."""
    try:
        head = codec.parse_request(message)
    except ProtocolError:
        return
    if head is None:
        return
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(message[: head.end].removeprefix(b"\r\n"))
    event = peer.next_event()
    assert isinstance(event, h11.Request)
    assert event.method == head.method
    assert event.target.endswith(head.target) or event.target.lower().startswith(b"http")
    theirs = dict(event.headers)
    assert theirs.get(b"host", head.host) == head.host
    assert head.chunked == (b"transfer-encoding" in theirs)
    assert head.content_length == (int(theirs[b"content-length"]) if b"content-length" in theirs else None)
    assert is_part(head.fields, list(event.headers))


@given(responses)
def test_what_is_accepted_h11_accepts_as_a_response(codec: Codec, message: bytes) -> None:
    """As with requests."""
    try:
        head = codec.parse_response(message)
    except UpstreamProtocolError:
        return
    if head is None:
        return
    peer = h11.Connection(h11.CLIENT)
    upgrade = [("Connection", "upgrade"), ("Upgrade", "websocket")]
    peer.send(h11.Request(method="GET", target="/", headers=[("Host", "a.b"), *upgrade]))
    peer.send(h11.EndOfMessage())
    peer.receive_data(message[: head.end])
    event = peer.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    assert event.status_code == head.status
    assert event.reason == head.reason
    theirs = dict(event.headers)
    assert head.chunked == (b"transfer-encoding" in theirs)
    if head.status >= 200 and head.status != 204:
        assert head.content_length == (int(theirs[b"content-length"]) if b"content-length" in theirs else None)
    assert is_part(head.fields, list(event.headers))


def is_part(fields: bytes, theirs: list[tuple[bytes, bytes]]) -> bool:
    """Whether a section's lines are among an independent parser's fields, in the same order."""
    left = iter(theirs)
    lines = [line.partition(b": ") for line in fields[2:-2].split(b"\r\n")] if fields != b"\r\n" else []
    return all((name.lower(), value) in left for name, _, value in lines)


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
    b"x-request-id: 8",
    b"TE: trailers",
    b"Trailer: X-Sum, Host",
    b"Via: 1.1 other",
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
    b"Trailer: X-Sum, Set-Cookie",
    b"trailer: Other",
    b"Date: today",
    b"DATE: today",
    b"Connection: date",
    *ORDINARY,
]
USUAL = [b"Accept", b"Cookie", b"X-Request-Id", b"User-Agent", b"Keep-Alive", b"Via", b"K-Proxy-Request", b"ETag"]

ordinary = st.one_of(
    st.sampled_from(ORDINARY),
    st.builds(b"%b: %b".__mod__, st.tuples(st.sampled_from(USUAL), st.sampled_from([b"1", b"a b", b"\x80\tz", b""]))),
)


def sections(lines: list[bytes], most: int) -> st.SearchStrategy[list[bytes]]:
    """Field lines in any order: some that mean something, among up to `most` others."""
    return st.lists(st.sampled_from(lines), max_size=8).flatmap(
        lambda some: st.lists(ordinary, max_size=most).flatmap(lambda others: st.permutations(some + others))
    )


@given(sections(REQUEST_LINES, 95))
@example([b"Host: a.b", *[b"Keep-Alive: 1"] * 40])
@example([b"Host: a.b", *[b"X-Forwarded-For: 1"] * 40])
@example([b"Host: a.b", b"T: 1", b"User-Agent: one", *[b"T: 1"] * 98])
def test_every_path_reads_a_request_alike(codec: Codec, lines: list[bytes]) -> None:
    """Wherever the usual fields are and however many others: the fast paths say what the slow one says, and find the
    same fault."""
    message = request(*lines, host=b"")
    assert outcome(codec.parse_request, message) == outcome(parse_request_slowly, message)


@given(st.sampled_from([b"101", b"200", b"204", b"304"]), sections(RESPONSE_LINES, 95))
def test_every_path_reads_a_response_alike(codec: Codec, status: bytes, lines: list[bytes]) -> None:
    """As with requests."""
    message = response(*lines, line=b"HTTP/1.1 " + status + b" Fine")
    assert outcome(codec.parse_response, message) == outcome(parse_response_slowly, message)


some_limits = st.sampled_from([DEFAULT_LIMITS, head_limits(20, 40, 3), head_limits(10_000, 40_000, 200)])


@needs_both
@given(requests, st.integers(0, 3), some_limits)
def test_the_twins_read_every_request_alike(message: bytes, start: int, limits: HeadLimits) -> None:
    """Whatever it is and wherever it is cut: the same head, or the same error."""
    assert COMPILED is not None
    for end in range(start, len(message) + 1):
        args = (message[:end], start, limits)
        assert outcome(COMPILED.parse_request, *args) == outcome(PYTHON.parse_request, *args)


@needs_both
@given(responses, st.integers(0, 3), some_limits)
def test_the_twins_read_every_response_alike(message: bytes, start: int, limits: HeadLimits) -> None:
    """As with requests."""
    assert COMPILED is not None
    for end in range(start, len(message) + 1):
        args = (message[:end], start, limits)
        assert outcome(COMPILED.parse_response, *args) == outcome(PYTHON.parse_response, *args)


@pytest.mark.parametrize("lines", [b"", b"Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("request_id", [b"", b"0af7"])
def test_a_request_is_put_together(codec: Codec, lines: bytes, request_id: bytes) -> None:
    """Host first, then the lines in the order given, and framing as the head has it."""
    head = codec.parse_request(b"PUT /a?b HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n%b\r\n" % lines)
    assert head is not None
    written = codec.serialise_request(head, b"y", head.fields, b"about: 1\r\n", b"added: 2\r\n", request_id)
    identity = b"x-request-id: 0af7\r\n" if request_id else b""
    framing = b"transfer-encoding: chunked\r\n" if lines else b""
    assert written == (
        b"PUT /a?b HTTP/1.1\r\nhost: y\r\nAccept: */*\r\nabout: 1\r\nadded: 2\r\n" + identity + framing + b"\r\n"
    )


def test_a_response_is_put_together(codec: Codec) -> None:
    """Status line, fields, what is said of framing, and what of `data` is content; it is within `data`."""
    head = codec.parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    assert head is not None
    line = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
    assert codec.serialise_response(head, b"a: b\r\n") == line + b"a: b\r\n\r\n"
    assert codec.serialise_response(head, b"", b"hi") == line + b"\r\nhi"
    assert codec.serialise_response(head, b"", b"HEADhi", 4) == line + b"\r\nhi"
    assert codec.serialise_response(head, b"", b"HEAD", 4) == line + b"\r\n"
    values: tuple[Any, ...] = (head, b"", b"hi", 0)
    for index in range(len(values)):
        with pytest.raises((TypeError, AttributeError)):
            codec.serialise_response(*values[:index], object(), *values[index + 1 :])


@pytest.mark.parametrize("start", [-1, 3])
def test_content_within_its_data(start: int) -> None:
    """Nothing outside is read."""
    if COMPILED is None:
        pytest.skip("the compiled codec was not built")
    head = COMPILED.parse_response(b"HTTP/1.1 200 OK\r\n\r\n")
    assert head is not None
    with pytest.raises(ValueError, match="outside"):
        COMPILED.serialise_response(head, b"", b"hi", start)


def test_a_request_is_put_together_of_bytes(codec: Codec) -> None:
    """A wrong argument is an error, and nothing worse."""
    head = codec.parse_request(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    values: tuple[Any, ...] = (head, b"", b"", b"", b"", b"")
    for index in range(len(values)):
        with pytest.raises((TypeError, AttributeError)):
            codec.serialise_request(*values[:index], object(), *values[index + 1 :])
