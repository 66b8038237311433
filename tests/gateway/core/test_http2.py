"""What field lists mean, and which have no meaning: from clients first, then to and from endpoints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.http1 import parse_request, parse_response
from gateway.core.http2 import (
    request_fields,
    request_text,
    request_trailers,
    response_fields,
    response_head,
    response_trailers,
    trailer_fields,
)
from gateway.errors import BadRequest, MethodRefused, ProtocolError, UpstreamProtocolError

GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/a?b=c"), (b":authority", b"a.example")]


def text(*fields: tuple[bytes, bytes], start: list[tuple[bytes, bytes]] = GET, ended: bool = True) -> bytes:
    return request_text([(*field, False) for field in [*start, *fields]], ended=ended)


def but(name: bytes, value: bytes | None) -> list[tuple[bytes, bytes]]:
    """GET with another value of one pseudo-field, or without it."""
    return [(known, value if known == name else old) for known, old in GET if known != name or value is not None]  # type: ignore[misc]


def test_a_request_is_written_as_an_http1_head() -> None:
    """Host first, then the fields as they are."""
    expected = b"GET /a?b=c HTTP/1.1\r\nhost: a.example\r\naccept: */*\r\nx-a: b: c\r\n\r\n"
    assert text((b"accept", b"*/*"), (b"x-a", b"b: c")) == expected
    assert parse_request(expected) is not None


def test_content_without_a_length_is_chunked() -> None:
    """Nobody knows yet how much it will be."""
    assert b"\r\ntransfer-encoding: chunked\r\n" in text(ended=False)
    assert b"transfer-encoding" not in text((b"content-length", b"3"), ended=False)
    assert b"transfer-encoding" not in text()


def test_cookie_crumbs_are_joined() -> None:
    """RFC 9113 section 8.2.3: HTTP/1.1 has one Cookie line."""
    assert b"\r\ncookie: a=b; c=d; e=f\r\n" in text((b"cookie", b"a=b"), (b"x", b"y"), (b"cookie", b"c=d; e=f"))


def test_host_stands_in_for_authority_and_must_agree_with_it() -> None:
    """RFC 9113 section 8.3.1."""
    assert b"\r\nhost: b.example\r\n" in text((b"host", b"b.example"), start=but(b":authority", None))
    assert text((b"host", b"A.example")).count(b"a.example") == 1
    with pytest.raises(BadRequest, match="different hosts"):
        text((b"host", b"b.example"))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ([(b"connection", b"close")], "belongs to an HTTP/1.1 connection"),
        ([(b"transfer-encoding", b"chunked")], "belongs to an HTTP/1.1 connection"),
        ([(b"upgrade", b"h2c")], "belongs to an HTTP/1.1 connection"),
        ([(b"keep-alive", b"1")], "belongs to an HTTP/1.1 connection"),
        ([(b"proxy-connection", b"close")], "belongs to an HTTP/1.1 connection"),
        ([(b"te", b"gzip")], "TE"),
        ([(b"te", b"trailers"), (b"te", b"gzip")], "TE"),
        ([(b"Accept", b"x")], "upper-case"),
        ([(b"", b"x")], "empty"),
        ([(b"a b", b"x")], "characters"),
        ([(b"a: b\r\nc", b"x")], "characters"),
        ([(b":status", b"200")], "pseudo-field"),
        ([(b":protocol", b"websocket")], "pseudo-field"),
        ([(b"x", b"y"), (b":path", b"/")], "pseudo-field"),
        ([(b":path", b"/")], "twice"),
        ([(b"host", b"a.example"), (b"host", b"a.example")], "more than one Host"),
        ([(b"x", b"a\r\nb: c")], "CR or LF"),
        ([(b"x", b"a\nb")], "CR or LF"),
        ([(b"x", b"a\rb")], "CR or LF"),
        ([(b"x", b" a")], "white space"),
        ([(b"x", b"a\t")], "white space"),
        ([(b"cookie", b"a\r\nb: c")], "CR or LF"),
        ([(b"content-length", b"1\r\nx: y")], "CR or LF"),
    ],
)
def test_a_malformed_field_is_refused(fields: list[tuple[bytes, bytes]], why: str) -> None:
    """RFC 9113 section 8.2: such a request is malformed."""
    with pytest.raises(BadRequest, match=why):
        text(*fields)


@pytest.mark.parametrize("value", [b"a\x00b", b"a\x7f", b"\x01"])
def test_the_codec_refuses_other_control_characters(value: bytes) -> None:
    """One place decides what a value is: the HTTP/1.1 codec."""
    with pytest.raises(BadRequest):
        parse_request(text((b"x", value)))


@pytest.mark.parametrize(
    "start",
    [
        but(b":method", None),
        but(b":method", b""),
        but(b":scheme", None),
        but(b":scheme", b"ftp"),
        but(b":path", None),
        but(b":path", b""),
        but(b":path", b"a"),
        but(b":path", b"http://b.example/"),
        but(b":path", b"/ HTTP/1.1\r\nx: y"),
        but(b":path", b"/a b"),
        but(b":method", b"GET /x HTTP/1.1\r\nx: y\r\n\r\nGET"),
        but(b":method", b"GET /"),
        but(b":authority", b"a.example\r\nx: y"),
        but(b":authority", b" a.example"),
    ],
)
def test_a_malformed_start_is_refused(start: list[tuple[bytes, bytes]]) -> None:
    """RFC 9113 section 8.3.1; nothing in a pseudo-field can pose as more of the head."""
    with pytest.raises(BadRequest):
        text(start=start)


@pytest.mark.parametrize(
    "start",
    [but(b":path", b"*"), but(b":authority", b"user@a.example"), but(b":authority", b""), but(b":path", b"/\\")],
)
def test_the_codec_refuses_what_it_refuses_in_http1(start: list[tuple[bytes, bytes]]) -> None:
    """Path, authority and method have one meaning over both versions."""
    with pytest.raises(ProtocolError):
        parse_request(text(start=start))


def test_connect_is_refused() -> None:
    """With its own pseudo-fields, and extended (RFC 8441) as well."""
    for fields in ([(b":method", b"CONNECT"), (b":authority", b"a:1")], but(b":method", b"CONNECT")):
        with pytest.raises(MethodRefused):
            text(start=fields)


names = st.one_of(
    st.sampled_from([b"x", b"te", b"cookie", b"host", b":path", b"content-length"]), st.binary(max_size=6)
)
values = st.one_of(st.binary(max_size=12), st.sampled_from([b"", b"a", b"\r\n\r\n", b"a\r\nhost: b"]))


@given(st.lists(st.tuples(names, values), max_size=5), st.booleans())
def test_no_field_becomes_two(fields: list[tuple[bytes, bytes]], ended: bool) -> None:
    """Whatever the fields hold, the head has no lines but one for each, or is refused."""
    try:
        head = text(*fields, ended=ended)
    except ProtocolError:
        return
    assert head.endswith(b"\r\n\r\n")
    assert head.count(b"\r\n\r\n") == 1
    lines = head[:-4].split(b"\r\n")
    assert len(lines) <= len(fields) + 3  # the request line, Host, the framing
    assert not any(control in line for line in lines for control in (b"\r", b"\n"))


def test_trailers_are_lines_without_those_that_mean_nothing_there() -> None:
    """RFC 9110 section 6.5.1; the rules for fields are the same as before content."""
    fields = [(b"x-sum", b"1", False), (b"content-length", b"3", False), (b"empty", b"", False)]
    assert request_trailers(fields) == [b"x-sum: 1", b"empty: "]


@pytest.mark.parametrize("field", [(b":path", b"/"), (b"X", b"y"), (b"x", b"a\r\nb: c"), (b"x", b"a\x00")])
def test_malformed_trailers_are_refused(field: tuple[bytes, bytes]) -> None:
    """Pseudo-fields have no place in them (RFC 9113 section 8.1)."""
    with pytest.raises(BadRequest):
        request_trailers([(*field, False)])


def test_a_response_is_a_list_of_lower_case_fields() -> None:
    """Connection-specific fields are gone already; what a guesser would like to know is marked."""
    head = parse_response(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nSet-Cookie: a=b\r\nX: \r\n\r\n"
    )
    assert head is not None
    assert response_fields(head) == [
        (b":status", b"200", False),
        (b"content-type", b"text/plain", False),
        (b"set-cookie", b"a=b", True),
        (b"x", b"", False),
    ]


# --- endpoints ---


def test_a_request_in_the_words_of_http2() -> None:
    """Pseudo-header fields first; names in lower case; nothing about the connection; secrets and one-offs marked."""
    text = (
        b"POST /a?b HTTP/1.1\r\nhost: h:80\r\nX-A: 1: 2\r\nAuthorization: s\r\nContent-Length: 5\r\nConnection: te\r\n"
        b"TE: trailers\r\ntransfer-encoding: chunked\r\nX-Empty: \r\n\r\n"
    )
    assert request_fields(text) == [
        (b":method", b"POST", False),
        (b":scheme", b"http", False),
        (b":authority", b"h:80", False),
        (b":path", b"/a?b", True),
        (b"x-a", b"1: 2", False),
        (b"authorization", b"s", True),
        (b"content-length", b"5", True),
        (b"te", b"trailers", False),
        (b"x-empty", b"", False),
    ]


def test_a_request_without_host() -> None:
    """HTTP/1.0 may leave it out; an empty :authority would mean nothing."""
    names = [name for name, _, _ in request_fields(b"GET / HTTP/1.1\r\nhost: \r\n\r\n")]
    assert names == [b":method", b":scheme", b":path"]


def test_a_response_as_http1_would_have_said_it() -> None:
    """With the usual reason, its length noted, and what is for clients only kept."""
    head = response_head([(b":status", b"404", False), (b"content-length", b"7", False), (b"x", b"", False)])
    assert (head.status, head.reason, head.content_length) == (404, b"Not Found", 7)
    assert head.fields == b"\r\ncontent-length: 7\r\nx: \r\n"
    assert response_head([(b":status", b"299", False)]).reason == b""


def test_trailers() -> None:
    """Fields that mean nothing there are dropped; malformed ones are refused."""
    lines = response_trailers([(b"grpc-status", b"0", False), (b"content-length", b"1", False)])
    assert lines == [b"grpc-status: 0"]
    assert trailer_fields([b"X-Sum: 1"]) == [(b"x-sum", b"1", False)]
    with pytest.raises(UpstreamProtocolError):
        response_trailers([(b":status", b"200", False)])


def test_what_is_kept_of_fields_is_bounded_and_changes_nothing() -> None:
    """The same list again for the same head, however many others came between; a refused field stays refused."""
    texts = [
        b"GET / HTTP/1.1\r\nhost: h\r\nx-%d: %d\r\nconnection: te\r\n\r\n" % (number, number) for number in range(5000)
    ]
    first = [request_fields(text) for text in texts]
    assert [request_fields(text) for text in texts] == first
    assert first[7] == [
        (b":method", b"GET", False),
        (b":scheme", b"http", False),
        (b":authority", b"h", False),
        (b":path", b"/", False),
        (b"x-7", b"7", False),
    ]
    for _ in range(2):
        with pytest.raises(UpstreamProtocolError):
            response_head([(b":status", b"200", False), (b"x", b" 1", False)])
