from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.frames import (
    MAX_FRAME,
    SETTINGS_ACK,
    ConnectionFault,
    ErrorCode,
    FieldEncoder,
    FrameReader,
    Setting,
    data_frame,
    error_name,
    goaway_frame,
    headers_frames,
    ping_frame,
    reset_frame,
    settings_frame,
    window_frame,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.core.frames import Field

GREETING = settings_frame([])


class Calls:
    """A FrameSink that notes what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def data(self, stream: int, data: bytes, size: int, end: bool) -> None:
        self.seen.append(("data", stream, data, size, end))

    def headers(self, stream: int, fields: Sequence[Field], end: bool) -> None:
        self.seen.append(("headers", stream, [(field[0], field[1]) for field in fields], end))

    def reset(self, stream: int, code: int) -> None:
        self.seen.append(("reset", stream, code))

    def settings(self, values: Iterable[tuple[int, int]]) -> None:
        self.seen.append(("settings", list(values)))

    def settings_acknowledged(self) -> None:
        self.seen.append(("settings_acknowledged",))

    def ping(self, payload: bytes) -> None:
        self.seen.append(("ping", payload))

    def pong(self, payload: bytes) -> None:
        self.seen.append(("pong", payload))

    def goaway(self, last: int, code: int) -> None:
        self.seen.append(("goaway", last, code))

    def window(self, stream: int, increment: int) -> None:
        self.seen.append(("window", stream, increment))


def read(*pieces: bytes, max_fields: int = 32768) -> list[tuple[Any, ...]]:
    reader, calls = FrameReader(max_fields), Calls()
    for piece in pieces:
        reader.feed(piece, calls)
    return calls.seen


def frame(cls: type[Frame], stream: int, flags: Iterable[str] = (), **values: Any) -> bytes:
    """The bytes of a frame as hyperframe makes them."""
    made = cls(stream, flags=tuple(flags), **values)
    serialised: bytes = made.serialize()
    return serialised


BLOCK = Encoder().encode([(b":status", b"200"), (b"x-a", b"b")])
FIELDS = [(b":status", b"200"), (b"x-a", b"b")]
EVERYTHING = [
    (frame(SettingsFrame, 0, settings={3: 100, 99: 7}), ("settings", [(3, 100), (99, 7)])),
    (frame(SettingsFrame, 0, ["ACK"]), ("settings_acknowledged",)),
    (frame(HeadersFrame, 1, ["END_HEADERS"], data=BLOCK), ("headers", 1, FIELDS, False)),
    (frame(DataFrame, 1, data=b"hello"), ("data", 1, b"hello", 5, False)),
    (frame(DataFrame, 1, ["PADDED"], data=b"hi", pad_length=9), ("data", 1, b"hi", 12, False)),
    (frame(DataFrame, 1, ["END_STREAM"]), ("data", 1, b"", 0, True)),
    (frame(PriorityFrame, 1), None),
    (frame(RstStreamFrame, 3, error_code=8), ("reset", 3, 8)),
    (frame(PingFrame, 0, opaque_data=b"12345678"), ("ping", b"12345678")),
    (frame(PingFrame, 0, ["ACK"], opaque_data=b"12345678"), ("pong", b"12345678")),
    (frame(WindowUpdateFrame, 0, window_increment=9), ("window", 0, 9)),
    (frame(WindowUpdateFrame, 5, window_increment=2**31 - 1), ("window", 5, 2**31 - 1)),
    (b"\x00\x00\x01\x2a\xff\x00\x00\x00\x01!", None),  # a type nobody knows
    (frame(GoAwayFrame, 0, last_stream_id=7, error_code=1, additional_data=b"why"), ("goaway", 7, 1)),
]


@given(st.lists(st.integers(1, 600), max_size=8))
def test_frames_mean_the_same_however_they_are_cut(cuts: list[int]) -> None:
    """Every kind of frame, as another implementation writes it, in pieces of any size."""
    whole = b"".join(text for text, _ in EVERYTHING)
    pieces, start = [], 0
    for cut in cuts:
        pieces.append(whole[start : start + cut])
        start += cut
    expected = [call for _, call in EVERYTHING if call is not None]
    assert read(*pieces, whole[start:]) == expected
    assert read(*(bytes([byte]) for byte in whole)) == expected


def test_header_blocks_with_padding_priority_and_continuation() -> None:
    """RFC 9113 sections 6.2 and 6.10."""
    padded = frame(HeadersFrame, 1, ["END_HEADERS", "PADDED", "PRIORITY"], data=BLOCK, pad_length=3)
    first = frame(HeadersFrame, 3, ["END_STREAM"], data=BLOCK[:2])
    rest = frame(ContinuationFrame, 3, ["END_HEADERS"], data=BLOCK[2:])
    assert read(GREETING, padded, first, rest)[1:] == [("headers", 1, FIELDS, False), ("headers", 3, FIELDS, True)]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ErrorCode.FRAME_SIZE_ERROR),
        (frame(PingFrame, 0), ErrorCode.PROTOCOL_ERROR),
        (SETTINGS_ACK, ErrorCode.PROTOCOL_ERROR),
        (GREETING + b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", ErrorCode.FRAME_SIZE_ERROR),
        (GREETING + frame(DataFrame, 1)[:5] + b"\0\0\0\0", ErrorCode.PROTOCOL_ERROR),
        (GREETING + b"\x00\x00\x01\x00\x08\x00\x00\x00\x01\x01", ErrorCode.PROTOCOL_ERROR),
        (GREETING + b"\x00\x00\x00\x00\x08\x00\x00\x00\x01", ErrorCode.PROTOCOL_ERROR),
        (GREETING + b"\x00\x00\x04\x01\x24\x00\x00\x00\x01abcd", ErrorCode.FRAME_SIZE_ERROR),
        (GREETING + frame(ContinuationFrame, 1), ErrorCode.PROTOCOL_ERROR),
        (GREETING + frame(HeadersFrame, 1) + frame(PingFrame, 0), ErrorCode.PROTOCOL_ERROR),
        (GREETING + frame(HeadersFrame, 1) + frame(ContinuationFrame, 3), ErrorCode.PROTOCOL_ERROR),
        (GREETING + frame(HeadersFrame, 1) + frame(ContinuationFrame, 1) * 9, ErrorCode.ENHANCE_YOUR_CALM),
        (GREETING + frame(PushPromiseFrame, 1, promised_stream_id=2), ErrorCode.PROTOCOL_ERROR),
        (GREETING + b"\x00\x00\x05\x04\x00\x00\x00\x00\x00abcde", ErrorCode.FRAME_SIZE_ERROR),
        (GREETING + b"\x00\x00\x06\x04\x01\x00\x00\x00\x00abcdef", ErrorCode.FRAME_SIZE_ERROR),
        (GREETING + b"\x00\x00\x00\x04\x00\x00\x00\x00\x01", ErrorCode.PROTOCOL_ERROR),
        (GREETING + settings_frame([(Setting.ENABLE_PUSH, 2)]), ErrorCode.PROTOCOL_ERROR),
        (GREETING + settings_frame([(Setting.INITIAL_WINDOW_SIZE, 2**31)]), ErrorCode.FLOW_CONTROL_ERROR),
        (GREETING + settings_frame([(Setting.MAX_FRAME_SIZE, 16383)]), ErrorCode.PROTOCOL_ERROR),
        (GREETING + b"\x00\x00\x07\x06\x00\x00\x00\x00\x00abcdefg", ErrorCode.FRAME_SIZE_ERROR),
        (GREETING + b"\x00\x00\x08\x06\x00\x00\x00\x00\x01abcdefgh", ErrorCode.PROTOCOL_ERROR),
        (GREETING + b"\x00\x00\x07\x07\x00\x00\x00\x00\x00abcdefg", ErrorCode.FRAME_SIZE_ERROR),
        (GREETING + b"\x00\x00\x03\x03\x00\x00\x00\x00\x01abc", ErrorCode.FRAME_SIZE_ERROR),
        (GREETING + b"\x00\x00\x04\x03\x00\x00\x00\x00\x00abcd", ErrorCode.PROTOCOL_ERROR),
        (GREETING + b"\x00\x00\x03\x02\x00\x00\x00\x00\x01abc", ErrorCode.FRAME_SIZE_ERROR),
        (GREETING + b"\x00\x00\x03\x08\x00\x00\x00\x00\x01abc", ErrorCode.FRAME_SIZE_ERROR),
        (GREETING + window_frame(0, 0), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_frames_that_end_a_connection(message: bytes, code: ErrorCode) -> None:
    """RFC 9113 sections 4 to 6: each fault with its error code."""
    with pytest.raises(ConnectionFault) as raised:
        read(message)
    assert raised.value.code == code


def block(data: bytes) -> bytes:
    return GREETING + headers_frames(1, data, end=True)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",  # makes jh2's decoder panic
        b"\x40\x02te",  # so does this
        b"\x41",
        b"\x83\x44\x06/x.Y",
        b"\xbe",  # an index that nobody filled
        b"\x80",
        b"\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x00\x7f\xff\xff\xff\xff\xff\x01",
        b"\x88\x20",  # a resize after a field
        b"\x3f\xe1\xff\x03",  # a table larger than ours
    ],
)
def test_malformed_header_blocks(data: bytes) -> None:
    """RFC 7541: COMPRESSION_ERROR, and never anything but a ConnectionFault."""
    with pytest.raises(ConnectionFault) as raised:
        read(block(data))
    assert raised.value.code == ErrorCode.COMPRESSION_ERROR


def literal(name: bytes, value: bytes, *, indexed: bool) -> bytes:
    """A field whose strings are these bytes in Huffman code, or what is said to be."""
    return b"".join(
        (b"\x40" if indexed else b"\x10", b"%c" % (0x80 | len(name)), name, b"%c" % (0x80 | len(value)), value)
    )


coded = st.builds(literal, st.binary(min_size=1, max_size=4), st.binary(max_size=4), indexed=st.booleans())


@given(st.one_of(st.binary(max_size=40), st.lists(st.one_of(coded, st.just(b"\x82\x84"))).map(b"".join)))
@example(b"\x40\x01a\x81\x00")
@example(b"\x82\xbe\x84\x40\x81\x1f\x81\x07")
@example(b"\x82\x84\x40\x81\x1f\x81\x06")
def test_any_bytes_as_a_header_block(data: bytes) -> None:
    """What we take, another decoder takes with the same meaning; what we refuse is a ConnectionFault."""
    try:
        calls = read(block(data))
    except ConnectionFault:
        return
    assert calls[1][2] == [tuple(field) for field in Decoder().decode(data, raw=True)]


def test_the_bits_that_fill_up_a_huffman_code_are_ones() -> None:
    """RFC 7541 section 5.2."""
    for last in range(8):
        data = block(b"\x82\x40\x01a\x81" + bytes([last]))  # five bits of zeros are a 0
        if last == 7:
            assert read(data)[1][2] == [(b":method", b"GET"), (b"a", b"0")]
        else:
            with pytest.raises(ConnectionFault) as raised:
                read(data)
            assert raised.value.code == ErrorCode.COMPRESSION_ERROR


def test_a_field_list_is_bounded_while_it_is_decoded() -> None:
    """One byte can stand for 4 KiB; the bound is on what comes out."""
    encoder = FieldEncoder()
    big = encoder.encode([(b"a", b"x" * 4000, False)])
    assert len(read(block(big))) == 2
    with pytest.raises(ConnectionFault) as raised:
        read(block(big + b"\xbe" * 10_000))
    assert raised.value.code == ErrorCode.ENHANCE_YOUR_CALM


FIELD = st.tuples(st.sampled_from([b"a", b"content-type", b":path"]), st.binary(max_size=20), st.booleans())


@given(st.lists(st.lists(FIELD, max_size=6), max_size=4), st.sampled_from([None, 0, 64, 2**20]))
def test_field_lists_are_encoded_as_another_decoder_reads_them(lists: list[list[Field]], table: int | None) -> None:
    """Over several blocks, with tables of any size."""
    encoder, decoder = FieldEncoder(), Decoder()
    if table is not None:
        encoder.resize(table)
        decoder.max_allowed_table_size = min(table, 4096)
    for fields in lists:
        decoded = decoder.decode(encoder.encode(fields), raw=True)
        assert [tuple(field) for field in decoded] == [field[:2] for field in fields]


A, B, GET = (b"a", b"1" * 40), (b"b", b"2" * 40), (b":method", b"GET")
few_lists = st.lists(st.sampled_from([[A], [B], [A, B], [GET], [A, GET]]), min_size=5, max_size=12)
few_sizes = st.lists(st.sampled_from([0, 80, 160]), max_size=3)


@given(few_lists, few_sizes)
def test_blocks_that_come_again_are_read_as_what_they_mean_now(
    lists: list[list[tuple[bytes, bytes]]], sizes: list[int]
) -> None:
    """A list that is kept for its block is given up with any change of the table: a field more, one less, a resize."""
    encoder = Encoder()
    sink = Calls()
    reader = FrameReader(32768)
    reader.feed(GREETING, sink)
    for number, fields in enumerate(lists):
        if number < len(sizes):
            encoder.header_table_size = sizes[number]
        reader.feed(headers_frames(1, encoder.encode(fields), end=True), sink)
        assert sink.seen[-1] == ("headers", 1, fields, True)


@given(few_lists, few_sizes)
def test_blocks_that_are_sent_again_mean_the_same(lists: list[list[tuple[bytes, bytes]]], sizes: list[int]) -> None:
    """A block that is kept for its list is given up with any change of the table."""
    encoder, decoder = FieldEncoder(), Decoder()
    for number, fields in enumerate(lists):
        if number < len(sizes):
            encoder.resize(sizes[number])
            decoder.max_allowed_table_size = sizes[number]
        key = tuple(fields)
        block = encoder.kept.get(key) or encoder.encode([(*field, False) for field in fields], key)
        assert decoder.decode(block, raw=True) == fields


def test_what_is_written_is_what_another_implementation_reads() -> None:
    """A large header block goes on in CONTINUATION frames."""
    for ours, expected in [
        (data_frame(3, b"x", end=True), frame(DataFrame, 3, ["END_STREAM"], data=b"x")),
        (reset_frame(3, ErrorCode.CANCEL), frame(RstStreamFrame, 3, error_code=8)),
        (settings_frame([(Setting.ENABLE_PUSH, 0)]), frame(SettingsFrame, 0, settings={2: 0})),
        (SETTINGS_ACK, frame(SettingsFrame, 0, ["ACK"])),
        (ping_frame(b"12345678", acknowledges=True), frame(PingFrame, 0, ["ACK"], opaque_data=b"12345678")),
        (goaway_frame(1, 2, b"x"), frame(GoAwayFrame, 0, last_stream_id=1, error_code=2, additional_data=b"x")),
        (window_frame(1, 5), frame(WindowUpdateFrame, 1, window_increment=5)),
        (headers_frames(1, b"xyz", end=True), frame(HeadersFrame, 1, ["END_STREAM", "END_HEADERS"], data=b"xyz")),
    ]:
        assert ours == expected
    large = headers_frames(1, bytes(2 * MAX_FRAME + 1), end=False)
    kinds = []
    while large:
        made, length = Frame.parse_frame_header(memoryview(large[:9]))
        made.parse_body(memoryview(large[9 : 9 + length]))
        kinds.append((type(made), sorted(made.flags), length))
        large = large[9 + length :]
    assert kinds == [
        (HeadersFrame, [], MAX_FRAME),
        (ContinuationFrame, [], MAX_FRAME),
        (ContinuationFrame, ["END_HEADERS"], 1),
    ]


def test_a_sink_can_stop_the_reader() -> None:
    """Nothing is handed on after that."""
    reader, calls = FrameReader(100), Calls()
    calls.settings = lambda _: setattr(reader, "stopped", True)  # type: ignore[method-assign]
    reader.feed(GREETING + frame(PingFrame, 0), calls)
    assert calls.seen == []


def test_error_names() -> None:
    """RFC 9113 section 7; codes beyond are numbers."""
    assert error_name(7) == "REFUSED_STREAM"
    assert error_name(99) == "error 99"
