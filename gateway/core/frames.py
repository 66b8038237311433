"""HTTP/2 frames in and out, and their header blocks (RFC 9113 sections 4 to 6, RFC 7541). Pure; for either side.

Theory of operation
-------------------
`FrameReader.feed` cuts bytes into frames, checks what a frame alone can get wrong, decodes header blocks, and calls a
`FrameSink`; the functions below it make the bytes of frames. What a stream may do, and who owes whom how much window,
is its owner's business (`net.downstream2` towards clients, `net.upstream2` towards endpoints).

Why not a library's whole connection: `h2` and `jh2` keep a state machine and make an event object for each frame.
What is hard to get right is HPACK, and that is jh2's: compiled, 3 µs to encode and 1.6 µs to decode nine fields, where
the pure `hpack` takes 26 and 22. Measured on one gRPC unary exchange, client's side: a connection of h2 150 µs, of jh2
90 µs, this module 6.5 µs.

jh2's decoder panics (a BaseException, and a backtrace on standard error) on a literal that ends before its string
begins, which one byte from a peer can be. So `_check_block` walks a block first; it also refuses what RFC 7541 section
4.2 does and jh2 does not, a table size update after a field. Nothing else made it panic in 180,000 mutated blocks.
jh2 also takes a Huffman string whose last byte is not filled up with ones, which section 5.2 calls an error; how many
bits that are follows from the decoded string, so it is looked at afterwards (`_check_padding`, 0.3 µs for a path).

A peer sends the same few blocks again and again, most of them nothing but indices into the table. A block that leaves
the table as it is means the same until another changes it; so those that came twice, MAX_KEPT at most, are kept with
their lists, and likewise those of our own.

Bounds: a frame is at most MAX_FRAME, the size every peer must accept and the only one we announce; a header block
MAX_BLOCK bytes in MAX_CONTINUATIONS frames, or `max_fields` if that is more, in as many more as it fills; a decoded
field list `max_fields` bytes, counted as RFC 9113 section 6.5.2 does. One frame at most is kept between two calls of
`feed`.
"""

from __future__ import annotations

import re
from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol

from jh2.connection import Decoder, Encoder, HPACKError, OversizedHeaderListError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

__all__ = [
    "DEFAULT_WINDOW",
    "MAX_FRAME",
    "MAX_WINDOW",
    "PREFACE",
    "SETTINGS_ACK",
    "ConnectionFault",
    "ErrorCode",
    "Field",
    "FieldEncoder",
    "FieldList",
    "FrameReader",
    "FrameSink",
    "Setting",
    "data_frame",
    "error_name",
    "goaway_frame",
    "headers_frames",
    "ping_frame",
    "reset_frame",
    "settings_frame",
    "window_frame",
]

Field = tuple[bytes, bytes, bool]
"""Name, value, and whether the value is sensitive: then no table of either side keeps it."""

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_FRAME: Final = 16_384
MAX_WINDOW: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65_535
MAX_BLOCK: Final = 64 * 1024
MAX_CONTINUATIONS: Final = 8
_TABLE_SIZE: Final = 4096
MAX_KEPT: Final = 16
MAX_KEPT_SIZE: Final = 512

_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _PUSH_PROMISE, _PING, _GOAWAY, _WINDOW, _CONTINUATION = range(10)
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_HAS_PRIORITY = 0x20


class Setting(IntEnum):
    """RFC 9113 section 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """RFC 9113 section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def error_name(code: int) -> str:
    """An error code as RFC 9113 section 7 calls it."""
    return ErrorCode(code).name if code in _ERROR_CODES else f"error {code}"


_ERROR_CODES = frozenset(ErrorCode)


class FieldList(list[Field]):
    """A decoded block, not to be changed: it comes again with the next block of the same bytes. `meaning` is for its
    owner, who need not find out the same again then."""

    __slots__ = ("meaning",)

    def __init__(self, fields: Iterable[Field] = ()) -> None:
        super().__init__(fields)
        self.meaning: object = None


class ConnectionFault(Exception):
    """The peer broke HTTP/2 in a way that ends the connection; `code` is for the GOAWAY, the text for people."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class FrameSink(Protocol):
    """The owner of a connection. Any of these may raise ConnectionFault, and any may stop the reader."""

    def data(self, stream: int, data: bytes, size: int, end: bool) -> None:
        """DATA; `size` is what counts against the windows (padding included), `end` is END_STREAM."""

    def headers(self, stream: int, fields: FieldList, end: bool) -> None:
        """A header block, complete. Names and values are as they came, and may be anything."""

    def reset(self, stream: int, code: int) -> None:
        """RST_STREAM."""

    def settings(self, values: Iterable[tuple[int, int]]) -> None:
        """SETTINGS, in range, to be acknowledged."""

    def settings_acknowledged(self) -> None:
        """SETTINGS with ACK."""

    def ping(self, payload: bytes) -> None:
        """PING, to be answered with the same payload."""

    def pong(self, payload: bytes) -> None:
        """PING with ACK."""

    def goaway(self, last: int, code: int) -> None:
        """GOAWAY: streams above `last` were and will be ignored."""

    def window(self, stream: int, increment: int) -> None:
        """WINDOW_UPDATE, for the connection where `stream` is 0. An increment of 0 is a fault of the stream."""


# --- reading ----------------------------------------------------------------------------------------------------------

_HEAD = Struct(">HBBBL")  # length in two parts, type, flags, stream
_SETTING = Struct(">HL")
_LONG = Struct(">L")
_LONG_PAIR = Struct(">LL")


class FrameReader:
    """One direction of a connection, after the preface. `max_fields` bounds a decoded field list in bytes."""

    __slots__ = (
        "_block",
        "_buffer",
        "_continuations",
        "_decoder",
        "_end",
        "_greeted",
        "_kept",
        "_max_block",
        "_max_continuations",
        "_once",
        "_open",
        "ignored",
        "stopped",
    )

    def __init__(self, max_fields: int) -> None:
        # Compression hardly makes anything longer.
        self._max_block = max(MAX_BLOCK, max_fields)
        self._max_continuations = MAX_CONTINUATIONS + (self._max_block - MAX_BLOCK) // MAX_FRAME
        self._buffer = b""
        self._decoder = Decoder(max_fields)
        self._kept: dict[bytes, FieldList] = {}
        self._once: set[bytes] = set()
        self._block = b""
        self._open = 0  # the stream of a header block that is not complete
        self._end = False
        self._continuations = 0
        self._greeted = False
        self.ignored = 0
        """Frames that meant nothing, to be counted by an owner who wants an end of them."""
        self.stopped = False

    @property
    def in_block(self) -> bool:
        """Whether a header block has begun and is not complete."""
        return bool(self._open)

    def feed(self, data: bytes, sink: FrameSink) -> None:
        """Hand on the frames that are complete. Raises ConnectionFault. Once `stopped` is set nothing more is."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        position = 0
        available = len(data)
        head = _HEAD.unpack_from
        while available - position >= 9 and not self.stopped:
            high, low, kind, flags, stream = head(data, position)
            start = position + 9
            length = high << 8 | low
            if length > MAX_FRAME:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR, f"A frame has {length} bytes; {MAX_FRAME} are allowed."
                )
            if not self._greeted:
                self._check_greeting(kind, flags)
            position = start + length
            if position > available:
                position = start - 9
                break
            stream &= MAX_WINDOW  # the first bit is reserved, and ignored
            if self._open and (kind != _CONTINUATION or stream != self._open):
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR, "Another frame came between the frames of a header block."
                )
            if kind == _DATA:
                self._read_data(data[start:position], flags, stream, sink)
            elif kind == _HEADERS:
                self._read_headers(data[start:position], flags, stream, sink)
            elif kind <= _CONTINUATION:
                _READ[kind](self, data[start:position], flags, stream, sink)
            else:
                self.ignored += 1  # of an unknown type (RFC 9113 section 5.5)
        if position < available:
            self._buffer = data[position:]

    def _check_greeting(self, kind: int, flags: int) -> None:
        if kind != _SETTINGS or flags & _ACK:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "The first frame is not SETTINGS.")
        self._greeted = True

    def _read_data(self, payload: bytes, flags: int, stream: int, sink: FrameSink) -> None:
        if not stream:
            raise _misplaced("DATA", stream)
        size = len(payload)
        if flags & _PADDED:
            payload = _unpadded(payload)
        sink.data(stream, payload, size, bool(flags & _END_STREAM))

    def _read_headers(self, payload: bytes, flags: int, stream: int, sink: FrameSink) -> None:
        if not stream:
            raise _misplaced("HEADERS", stream)
        if flags & _PADDED:
            payload = _unpadded(payload)
        if flags & _HAS_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "A HEADERS frame is too short for its priority.")
            payload = payload[5:]
        end = bool(flags & _END_STREAM)
        if flags & _END_HEADERS:
            sink.headers(stream, self._decoded(payload), end)
            return
        self._block = payload
        self._open = stream
        self._end = end
        self._continuations = 0

    def _read_continuation(self, payload: bytes, flags: int, stream: int, sink: FrameSink) -> None:
        if not self._open:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "A CONTINUATION frame continues nothing.")
        self._continuations += 1
        self._block += payload
        if self._continuations > self._max_continuations or len(self._block) > self._max_block:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "A header block goes on for too long.")
        if flags & _END_HEADERS:
            block, self._block = self._block, b""
            self._open = 0
            sink.headers(stream, self._decoded(block), self._end)

    def _decoded(self, block: bytes) -> FieldList:
        kept = self._kept.get(block)
        if kept is not None:
            return kept
        codes: list[tuple[int, int, int]] = []
        changes = _check_block(block, codes)
        try:
            fields = FieldList(self._decoder.decode(block, True))
        except OversizedHeaderListError:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "The fields take too many bytes.") from None
        except HPACKError:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "A header block is malformed.") from None
        if codes:
            _check_padding(fields, codes)
        if changes:
            self._kept.clear()
        elif len(block) <= MAX_KEPT_SIZE:
            if block in self._once:
                if len(self._kept) >= MAX_KEPT:
                    self._kept.clear()
                self._kept[block] = fields
            elif len(self._once) < MAX_KEPT:
                self._once.add(block)
            else:
                self._once = {block}
        return fields

    def _read_priority(self, payload: bytes, _flags: int, stream: int, _sink: FrameSink) -> None:
        """Obsolete (RFC 9113 section 5.3.2), so only looked at."""
        if not stream:
            raise _misplaced("PRIORITY", stream)
        if len(payload) != 5:
            raise _missized("PRIORITY")
        self.ignored += 1

    def _read_reset(self, payload: bytes, _flags: int, stream: int, sink: FrameSink) -> None:
        if not stream:
            raise _misplaced("RST_STREAM", stream)
        if len(payload) != 4:
            raise _missized("RST_STREAM")
        sink.reset(stream, _LONG.unpack(payload)[0])

    def _read_settings(self, payload: bytes, flags: int, stream: int, sink: FrameSink) -> None:
        if stream:
            raise _misplaced("SETTINGS", stream)
        if flags & _ACK:
            if payload:
                raise _missized("SETTINGS")
            sink.settings_acknowledged()
            return
        if len(payload) % 6:
            raise _missized("SETTINGS")
        values = list(_SETTING.iter_unpack(payload))
        for name, value in values:
            _check_setting(name, value)
        sink.settings(values)

    def _read_push_promise(self, _payload: bytes, _flags: int, _stream: int, _sink: FrameSink) -> None:
        # A client can't push, and an endpoint was told not to (RFC 9113 section 8.4).
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "A PUSH_PROMISE came where none is allowed.")

    def _read_ping(self, payload: bytes, flags: int, stream: int, sink: FrameSink) -> None:
        if stream:
            raise _misplaced("PING", stream)
        if len(payload) != 8:
            raise _missized("PING")
        if flags & _ACK:
            sink.pong(payload)
        else:
            sink.ping(payload)

    def _read_goaway(self, payload: bytes, _flags: int, stream: int, sink: FrameSink) -> None:
        if stream:
            raise _misplaced("GOAWAY", stream)
        if len(payload) < 8:
            raise _missized("GOAWAY")
        last, code = _LONG_PAIR.unpack_from(payload)
        sink.goaway(last & MAX_WINDOW, code)

    def _read_window(self, payload: bytes, _flags: int, stream: int, sink: FrameSink) -> None:
        if len(payload) != 4:
            raise _missized("WINDOW_UPDATE")
        increment = _LONG.unpack(payload)[0] & MAX_WINDOW
        if not stream and not increment:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "A WINDOW_UPDATE of the connection adds nothing.")
        sink.window(stream, increment)


_READ = (
    FrameReader._read_data,
    FrameReader._read_headers,
    FrameReader._read_priority,
    FrameReader._read_reset,
    FrameReader._read_settings,
    FrameReader._read_push_promise,
    FrameReader._read_ping,
    FrameReader._read_goaway,
    FrameReader._read_window,
    FrameReader._read_continuation,
)


def _misplaced(name: str, stream: int) -> ConnectionFault:
    where = "on a stream" if stream else "on no stream"
    return ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"A {name} frame came {where}.")


def _missized(name: str) -> ConnectionFault:
    return ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"A {name} frame has the wrong size.")


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "A frame has more padding than it has bytes.")
    return payload[1 : len(payload) - payload[0]]


def _check_setting(name: int, value: int) -> None:
    """RFC 9113 section 6.5.2."""
    if name == Setting.ENABLE_PUSH and value > 1:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "The setting ENABLE_PUSH is neither 0 nor 1.")
    if name == Setting.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
        raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "The setting INITIAL_WINDOW_SIZE is too large.")
    if name == Setting.MAX_FRAME_SIZE and not MAX_FRAME <= value < 2**24:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "The setting MAX_FRAME_SIZE is out of range.")


# By a field's first byte: how many bits of it begin an integer, and how many strings may follow (RFC 7541 section 6).
_PREFIX = tuple(0x7F if byte & 0x80 else 0x3F if byte & 0x40 else 0x1F if byte & 0x20 else 0x0F for byte in range(256))


def _check_block(block: bytes, codes: list[tuple[int, int, int]]) -> bool:
    """Walk a header block without decoding it; see the module. Raises ConnectionFault if it is cut short, or resizes
    the table anywhere but at its beginning. Returns whether it changes the table. `codes` gets each string in Huffman
    code: the number of its field, 0 for a name or 1 for a value, and its last byte."""
    number = position = _after_indexed(block, 0)
    may_resize = position == 0
    changes = False
    size = len(block)
    try:
        while position < size:
            first = block[position]
            prefix = _PREFIX[first]
            index = first & prefix
            position += 1
            if index == prefix:
                position = _after_integer(block, position)
            if first & 0x80:
                may_resize = False
                start = position
                position = _after_indexed(block, position)
                number += 1 + position - start
                continue
            if first >= 0x20:  # a literal for the table, or another size of it
                changes = True
                if first < 0x40:
                    if not may_resize:
                        raise ConnectionFault(
                            ErrorCode.COMPRESSION_ERROR, "A header block resizes its table after a field."
                        )
                    continue
            may_resize = False
            if not index:
                coded = block[position] & 0x80
                position = _after_string(block, position)
                if coded:
                    codes.append((number, 0, block[position - 1]))
            coded = block[position] & 0x80
            position = _after_string(block, position)
            if coded:
                codes.append((number, 1, block[position - 1]))
            number += 1
    except IndexError:
        position = size + 1
    if position > size:
        raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "A header block is cut short.")
    return changes


def _check_padding(fields: FieldList, codes: list[tuple[int, int, int]]) -> None:
    """Raises ConnectionFault if the bits that fill up a string's last byte are not all ones."""
    for number, part, last in codes:
        text = fields[number][part]
        padding = -sum(text.translate(_CODE_LENGTHS)) & 7  # type: ignore[union-attr]  # a name or a value: no bool
        if (last + 1) & ((1 << padding) - 1):
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "A Huffman code is filled up with other bits than ones.")


# Bits of each byte's code, RFC 7541 appendix B.
_CODE_LENGTHS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b0806060605050506"
    "06060606060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e060f05060506050606"
    "060507070606060506070605050607070707070f0b0e0d1c14161414161616171617171717171817181816171817171717151617"
    "1617171816151416161717151716161815161717151516151716171714161616171616171a1a1413161716191a1a1a1b1b1a1819"
    "13151a1b1b1a1b1815151a1a1c1b1b1b14181415161515171616191918181a171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a"
)

_INDEXED = re.compile(rb"[\x80-\xfe]*+")
"""Fields that both tables have, of one byte each: nearly all, in most blocks."""


def _after_indexed(block: bytes, position: int) -> int:
    match = _INDEXED.match(block, position)
    return position if match is None else match.end()


def _after_string(block: bytes, position: int) -> int:
    length = block[position] & 0x7F
    position += 1
    if length < 0x7F:
        return position + length
    shift = 0
    while True:
        byte = block[position]
        position += 1
        length += (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return position + length
        if shift > 28:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "A header block has an endless number.")


def _after_integer(block: bytes, position: int) -> int:
    for count in range(5):
        if block[position + count] < 0x80:
            return position + count + 1
    raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "A header block has an endless number.")


# --- writing ----------------------------------------------------------------------------------------------------------


class FieldEncoder:
    """Field lists to header blocks, for one connection. The blocks must be sent in the order they were made.

    `kept` has the blocks that were made with a key and mean the same until another changes the table.
    """

    __slots__ = ("_encoder", "kept")

    def __init__(self) -> None:
        self._encoder = Encoder()
        self.kept: dict[Hashable, bytes] = {}

    def encode(self, fields: list[Field], key: Hashable = None) -> bytes:
        block: bytes = self._encoder.encode(fields)
        if _INDEXED.fullmatch(block) is None:
            if self.kept:
                self.kept.clear()
        elif key is not None:
            if len(self.kept) >= MAX_KEPT:
                self.kept.clear()
            self.kept[key] = block
        return block

    def resize(self, size: int) -> None:
        """The peer's table holds `size` bytes; we never use more than the default."""
        self._encoder.header_table_size = min(size, _TABLE_SIZE)
        self.kept.clear()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    length = len(payload)
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def headers_frames(stream: int, block: bytes, *, end: bool) -> bytes:
    """HEADERS, and CONTINUATION where one frame does not hold the block."""
    flags = _END_STREAM if end else 0
    if len(block) <= MAX_FRAME:
        return _frame(_HEADERS, flags | _END_HEADERS, stream, block)
    frames = [_frame(_HEADERS, flags, stream, block[:MAX_FRAME])]
    for start in range(MAX_FRAME, len(block), MAX_FRAME):
        last = start + MAX_FRAME >= len(block)
        frames.append(_frame(_CONTINUATION, _END_HEADERS if last else 0, stream, block[start : start + MAX_FRAME]))
    return b"".join(frames)


def data_frame(stream: int, data: bytes, *, end: bool) -> bytes:
    """DATA of at most MAX_FRAME bytes."""
    return _frame(_DATA, _END_STREAM if end else 0, stream, data)


def reset_frame(stream: int, code: int) -> bytes:
    """RST_STREAM."""
    return _frame(_RST_STREAM, 0, stream, _LONG.pack(code))


def settings_frame(values: Iterable[tuple[int, int]]) -> bytes:
    """SETTINGS of (name, value) pairs."""
    return _frame(_SETTINGS, 0, 0, b"".join(_SETTING.pack(name, value) for name, value in values))


SETTINGS_ACK: Final = _frame(_SETTINGS, _ACK, 0, b"")


def ping_frame(payload: bytes, *, acknowledges: bool) -> bytes:
    """PING; the payload has 8 bytes."""
    return _frame(_PING, _ACK if acknowledges else 0, 0, payload)


def goaway_frame(last: int, code: int, text: bytes = b"") -> bytes:
    """GOAWAY; `last` is the highest stream of the peer's that was looked at, `text` says why."""
    return _frame(_GOAWAY, 0, 0, _LONG_PAIR.pack(last, code) + text)


def window_frame(stream: int, increment: int) -> bytes:
    """WINDOW_UPDATE, of the connection where `stream` is 0."""
    return _frame(_WINDOW, 0, stream, _LONG.pack(increment))
