"""gateway.core.bodies: where content ends, cut anywhere; chunks by both twins."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.bodies import (
    ChunkedReader,
    LengthReader,
    UntilCloseReader,
    serialise_chunk,
    serialise_last_chunk,
)
from gateway.core.heads import head_limits
from gateway.core.http1 import COMPILED, PYTHON, parse_request, request_body
from gateway.errors import BadRequest, ProtocolError, UpstreamProtocolError

if TYPE_CHECKING:
    from gateway.core.bodies import BodyReader
    from gateway.core.http1 import Codec


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


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(bounds)]


def read(reader: BodyReader, pieces: list[bytes]) -> tuple[bytes, list[bytes] | None, bytes | None]:
    """Content, trailers and what follows; None for what has not come yet."""
    sink, rest = Gathered(), None
    for piece in pieces:
        rest = reader.feed(piece, sink) if rest is None else rest + piece
    return sink.data, sink.trailers, rest


@given(st.binary(min_size=1, max_size=50), st.lists(st.integers(0, 100), max_size=8))
def test_length_reader(content: bytes, places: list[int]) -> None:
    """Exactly so many bytes; what follows comes back."""
    assert read(LengthReader(len(content)), cut(content + b"next", places)) == (content, [], b"next")


def test_until_close_reader() -> None:
    """Everything is content; only the connection's owner knows the end."""
    assert read(UntilCloseReader(), [b"a", b"b"]) == (b"ab", None, None)


@given(
    st.lists(st.binary(min_size=1, max_size=20), max_size=80),
    st.sampled_from([[], [b"X-Sum: 1"], [b"X-Sum: 1", b"Y: 2"]]),
    st.lists(st.integers(0, 2000), max_size=10),
)
def test_chunked_round_trip(codec: Codec, pieces: list[bytes], trailers: list[bytes], places: list[int]) -> None:
    """What the serialisers write, the reader reads, cut anywhere, with the next message left alone."""
    message = b"".join(map(serialise_chunk, pieces)) + serialise_last_chunk(trailers) + b"GET"
    reader = ChunkedReader(BadRequest, codec.unchunk)
    assert read(reader, cut(message, places)) == (b"".join(pieces), trailers, b"GET")


@pytest.mark.parametrize(
    ("message", "content", "trailers"),
    [
        (b"1\r\na\r\n0\r\n\r\n", b"a", []),
        (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789", []),
        (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789", []),
        (b"000000000000001\r\na\r\n000\r\n\r\n", b"a", []),
        (b'1;name=value\r\na\r\n1;name="quoted"\r\nb\r\n0;last\r\n\r\n', b"ab", []),
        (b"2;\ttab\r\n\r\n\r\n0\r\n\r\n", b"\r\n", []),
        (b"0\r\nX: 1\r\nY:2\r\nZ:\r\n\r\n", b"", [b"X: 1", b"Y: 2", b"Z: "]),
        (b"0\r\nX:  1 \t\r\n\r\n", b"", [b"X: 1"]),
    ],
)
def test_chunks(codec: Codec, message: bytes, content: bytes, trailers: list[bytes]) -> None:
    """RFC 9112 section 7.1, whole, byte by byte and cut in two at every place; extensions are ignored."""
    expected = content, trailers, b"next"
    message += b"next"
    assert read(ChunkedReader(BadRequest, codec.unchunk), [message]) == expected
    assert read(ChunkedReader(BadRequest, codec.unchunk), [bytes((byte,)) for byte in message]) == expected
    for place in range(len(message)):
        assert read(ChunkedReader(BadRequest, codec.unchunk), cut(message, [place])) == expected


MALFORMED = {
    "no digit": b"g\r\n",
    "negative": b"-1\r\n",
    "signed": b"+1\r\na\r\n",
    "prefixed": b"0x1\r\na\r\n",
    "underscored": b"1_0\r\n",
    "space before": b" 1\r\na\r\n",
    "space after": b"1 \r\na\r\n",
    "tab after": b"1\t\r\na\r\n",
    "space before the extension": b"1 ;x\r\na\r\n",
    "no size": b"\r\n",
    "no size but an extension": b";x\r\n",
    "bare LF": b"1\na\n0\n\n",
    "bare CR": b"1\ra\r\n0\r\n\r\n",
    "more data than said": b"1\r\nab\r\n0\r\n\r\n",
    "less data than said": b"3\r\nab\r\n0\r\n\r\n",
    "data that end in LF": b"1\r\na\n0\r\n\r\n",
    "data that end in CR": b"1\r\na\r0\r\n\r\n",
    "NUL in an extension": b"1;x=\x00\r\na\r\n",
    "DEL in an extension": b"1;x=\x7f\r\na\r\n",
    "escape in an extension": b"1;x=\x1b\r\na\r\n",
    "LF in an extension": b"1;x\n\r\na\r\n",
    "CR in an extension": b"1;x\ry\r\na\r\n",
    "LF in a quoted extension": b'1;x="\n"\r\na\r\n',
    "extension of the last chunk with NUL": b"0;\x00\r\n\r\n",
    "size beyond 60 bits": b"1000000000000000\r\n",
    "size beyond 64 bits": b"ffffffffffffffffff\r\n",
    "size that wraps to 1": b"10000000000000001\r\na\r\n0\r\n\r\n",
    "endless size": b"0" * 2000,
    "endless extension": b"1;" + b"x" * 2000,
    "trailer with space before colon": b"0\r\nX : 1\r\n\r\n",
    "trailer without colon": b"0\r\nX 1\r\n\r\n",
    "trailer without name": b"0\r\n: 1\r\n\r\n",
    "trailer with LF": b"0\r\nX: 1\n\r\n",
    "trailer with CR": b"0\r\nX: 1\ry\r\n\r\n",
    "trailer with NUL": b"0\r\nX: \x00\r\n\r\n",
    "trailer with escape": b"0\r\nX: \x1b\r\n\r\n",
    "trailer with obs-fold": b"0\r\nX: 1\r\n 2\r\n\r\n",
    "trailer with obs-fold first": b"0\r\n X: 1\r\n\r\n",
    "too many trailers": b"0\r\n" + b"X: 1\r\n" * 101 + b"\r\n",
    "too large trailers": b"0\r\nX: " + b"a" * 33_000 + b"\r\n\r\n",
    "endless trailers": b"0\r\nX: " + b"a" * 33_000,
}


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_chunks(codec: Codec, message: bytes) -> None:
    """Chunk sizes are hexadecimal digits and nothing else, lines end in CR LF, trailers are fields: whole and however
    the content is cut."""
    with pytest.raises(BadRequest):
        read(ChunkedReader(BadRequest, codec.unchunk), [message])
    step = 1 if len(message) < 3000 else 1000
    with pytest.raises(BadRequest):
        read(ChunkedReader(BadRequest, codec.unchunk), [message[at : at + step] for at in range(0, len(message), step)])


def test_trailers_have_the_limits_of_a_head(codec: Codec) -> None:
    """At the limit they are taken, above it refused, wherever they are cut."""
    limits = head_limits(field_section=100, fields=3)
    for lines, allowed in (([b"X: 1"] * 3, True), ([b"X: 1"] * 4, False), ([b"X: " + b"a" * 97], True)):
        message = b"0\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"
        for place in range(len(message)):
            reader = ChunkedReader(BadRequest, codec.unchunk, limits)
            try:
                assert read(reader, cut(message, [place])) == (b"", lines, b"")
                assert allowed
            except BadRequest:
                assert not allowed


@pytest.mark.parametrize(
    "name",
    [b"Content-Length", b"Host", b"Transfer-Encoding", b"Authorization", b"Set-Cookie", b"Content-Type", b"Location"],
)
def test_trailers_that_would_mean_something_in_a_head_are_dropped(codec: Codec, name: bytes) -> None:
    """RFC 9110 section 6.5.1."""
    message = b"0\r\n%b: 5\r\nX-Sum: 1\r\n\r\n" % name
    assert read(ChunkedReader(BadRequest, codec.unchunk), [message]) == (b"", [b"X-Sum: 1"], b"")


def test_trailers_that_connection_names_are_dropped() -> None:
    """RFC 9110 section 7.6.1: fields for one hop, wherever they are."""
    head = parse_request(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: x-own\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert head is not None
    reader = request_body(head)
    assert reader is not None
    assert read(reader, [b"0\r\nX-Own: 5\r\nX-Sum: 1\r\n\r\n"]) == (b"", [b"X-Sum: 1"], b"")


framing = st.one_of(
    st.sampled_from(
        [
            b"1\r\na\r\n",
            b"5\r\nhello\r\n",
            b"0\r\n\r\n",
            b"0\r\n",
            b"1;x\r\nb\r\n",
            b"\r\n",
            b"X: 1\r\n",
            b"a",
            b"\r",
            b"\n",
        ]
    ),
    st.binary(max_size=6),
)
streams = st.lists(framing, max_size=12).map(b"".join)


@given(streams, st.lists(st.integers(0, 100), max_size=6))
def test_what_is_accepted_h11_accepts_with_the_same_content(codec: Codec, data: bytes, places: list[int]) -> None:
    """Only the error that was asked for comes out, cut anywhere; what is complete says the same to an independent
    parser."""
    reader, sink, rest = ChunkedReader(UpstreamProtocolError, codec.unchunk), Gathered(), None
    with suppress(UpstreamProtocolError):
        for piece in cut(data, places):
            rest = reader.feed(piece, sink) if rest is None else rest + piece
    if sink.trailers is None:
        return
    assert rest is not None
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data[: len(data) - len(rest)]
    )
    peer.next_event()
    content = b""
    while isinstance(event := peer.next_event(), h11.Data):
        content += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert content == sink.data
    theirs = list(event.headers)
    for line in sink.trailers:
        name, _, value = line.partition(b": ")
        assert (name.lower(), value) in theirs


@pytest.mark.skipif(COMPILED is None, reason="the compiled codec was not built")
@given(streams, st.integers(0, 80), st.integers(-2, 12))
def test_the_twins_take_chunks_apart_alike(data: bytes, position: int, remaining: int) -> None:
    """Of up to 64 chunks at once; of more, the compiled one leaves the rest for the next call."""
    assert COMPILED is not None
    position = min(position, len(data))
    assert COMPILED.unchunk(data, position, remaining) == PYTHON.unchunk(data, position, remaining)


def test_errors_are_those_of_the_side(codec: Codec) -> None:
    """The reader of a response raises what becomes a 502."""
    error: type[ProtocolError]
    for error in (BadRequest, UpstreamProtocolError):
        with pytest.raises(error, match="malformed chunk size"):
            ChunkedReader(error, codec.unchunk).feed(b"z\r\n", Gathered())
