"""The content of HTTP/1.1 messages, in and out (RFC 9112 sections 6 and 7). Pure.

Theory of operation
-------------------
`LengthReader`, `ChunkedReader` and `UntilCloseReader` find a message's end: `feed(data, sink)` calls `sink.body` and
`sink.end` and returns what follows the message, or None while there is more to come.

Chunked content is taken apart by `unchunk`, which takes all plain frames at once (`size CR LF data CR LF`) and gives
their content in one piece, so that many small chunks cost one call and one write on the other side. It stops at what is
incomplete, unusual (an extension) or wrong; that is `ChunkedReader`'s, which names the fault.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

from gateway.core.heads import (
    DEFAULT_LIMITS,
    NOT_IN_TRAILERS,
    HeadLimits,
    forbidden_bytes,
    known_end,
    normalised,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from gateway.errors import ProtocolError

    Unchunk = Callable[[bytes, int, int], tuple[bytes, int, int]]

__all__ = [
    "DATA_END",
    "SIZE",
    "TRAILERS",
    "BodyReader",
    "BodySink",
    "ChunkedReader",
    "LengthReader",
    "UntilCloseReader",
    "serialise_chunk",
    "serialise_last_chunk",
    "unchunk",
]


class BodySink(Protocol):
    """Where a reader puts the content of one message."""

    def body(self, data: bytes) -> None:
        """A piece of the content, never empty."""

    def end(self, trailers: list[bytes]) -> None:
        """The message is complete. `trailers` are canonical lines, [] for none."""


class BodyReader(Protocol):
    """Finds the end of one message's content. `feed` raises ProtocolError for content that is malformed."""

    def feed(self, data: bytes, sink: BodySink) -> bytes | None:
        """Pass on what is in `data`; the bytes after the message, or None while more is to come."""


class LengthReader:
    """Content of a known length, at least one byte."""

    __slots__ = ("remaining",)

    def __init__(self, length: int) -> None:
        self.remaining = length

    def feed(self, data: bytes, sink: BodySink) -> bytes | None:
        size = len(data)
        if size < self.remaining:
            self.remaining -= size
            sink.body(data)
            return None
        rest = data[self.remaining :]
        sink.body(data[: self.remaining] if rest else data)
        self.remaining = 0
        sink.end([])
        return rest


class UntilCloseReader:
    """A response that ends with its connection (RFC 9112 section 6.3, rule 8); the connection's owner calls `end`."""

    __slots__ = ()

    def feed(self, data: bytes, sink: BodySink) -> None:
        sink.body(data)


# What `unchunk` and the reader mean by a number of bytes that are left of a chunk's data: that it is none, and ...
SIZE: Final = 0  # the next chunk's size follows
DATA_END: Final = -1  # the CR LF after the data follows
TRAILERS: Final = -2  # that was the last chunk


def unchunk(data: bytes, position: int, remaining: int) -> tuple[bytes, int, int]:
    """The content of the plain frames from `position` on, and where and in which state they end.

    `remaining` is the number of bytes left of a chunk's data, or one of SIZE, DATA_END and TRAILERS. The end is that of
    `data`, the trailers, or the first byte of what needs a second look.
    """
    pieces: list[bytes] = []
    while True:
        if remaining > 0:
            piece = data[position : position + remaining]
            pieces.append(piece)
            position += len(piece)
            remaining -= len(piece)
            if remaining:
                break
            remaining = DATA_END
        if remaining == DATA_END:
            if not data.startswith(b"\r\n", position):
                break
            position += 2
            remaining = SIZE
        match = _PLAIN_SIZE.match(data, position) if remaining == SIZE else None
        if match is None:
            break
        position = match.end()
        remaining = int(match.group(1), 16) or TRAILERS
    return b"".join(pieces), position, remaining


_PLAIN_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15}+)\r\n")
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15}+)(?:;[\t\x20-\x7e\x80-\xff]*+)?\r\n")
_SIZE_LINE_START = re.compile(rb"[0-9A-Fa-f]{0,15}+(?:;[\t\x20-\x7e\x80-\xff]*+)?\r?")
# One line of chunk size and extensions. Nobody uses extensions; the bound is against a line without an end.
_MAX_SIZE_LINE: Final = 1024


class ChunkedReader:
    """Chunked content (RFC 9112 section 7.1). Raises `error` for anything malformed. Of the trailers those named by
    `dropped` (lower-case) are not passed on."""

    __slots__ = ("_buffer", "_dropped", "_error", "_limits", "_remaining", "_unchunk")

    def __init__(
        self,
        error: type[ProtocolError],
        unchunk: Unchunk = unchunk,
        limits: HeadLimits = DEFAULT_LIMITS,
        dropped: AbstractSet[bytes] = NOT_IN_TRAILERS,
    ) -> None:
        self._error = error
        self._unchunk = unchunk
        self._limits = limits
        self._dropped = dropped
        self._remaining = SIZE
        self._buffer = b""

    def feed(self, data: bytes, sink: BodySink) -> bytes | None:
        if self._buffer:
            piece, data = data, self._buffer + data
            # As in the head: whoever sends trailers byte by byte must not have all of them looked at for each.
            if self._remaining == TRAILERS and b"\n" not in piece and len(data) <= self._limits.field_section:
                self._buffer = data
                return None
            self._buffer = b""
        position = 0
        pieces = []  # passed on as one: chunks of a byte would else be kept as objects of fifty, wherever they wait
        while True:
            content, position, self._remaining = self._unchunk(data, position, self._remaining)
            if content:
                pieces.append(content)
            if self._remaining == TRAILERS or position == len(data):
                break
            after = self._read_line(data, position)
            if after is None:
                self._buffer = data[position:]
                break
            position = after
        if pieces:
            sink.body(b"".join(pieces))
        return self._read_trailers(data, position, sink) if self._remaining == TRAILERS else None

    def _read_line(self, data: bytes, position: int) -> int | None:
        """Take what `unchunk` would not: where it ends, None if it is incomplete. Raises if it never can be right."""
        if self._remaining == DATA_END:
            if not b"\r\n".startswith(data[position : position + 2]):
                raise self._error("The chunked content has a malformed chunk end.")
            return None
        match = _SIZE_LINE.match(data, position)
        if (len(data) if match is None else match.end()) - position > _MAX_SIZE_LINE:
            raise self._error("A chunk has too long a size or extension.")
        if match is None:
            if _SIZE_LINE_START.fullmatch(data, position) is None:
                raise self._error("The chunked content has a malformed chunk size.")
            return None
        self._remaining = int(match.group(1), 16) or TRAILERS
        return match.end()

    def _read_trailers(self, data: bytes, position: int, sink: BodySink) -> bytes | None:
        if data.startswith(b"\r\n", position):
            self._remaining = SIZE
            sink.end([])
            return data[position + 2 :]
        found = data.find(b"\r\n\r\n", position)
        limit = known_end(data, position, found)
        if limit - position > self._limits.field_section:
            raise self._error(f"The trailers take more than {self._limits.field_section} bytes.")
        if data.count(b"\r\n", position, limit) >= self._limits.fields:
            raise self._error(f"There are more than {self._limits.fields} trailers.")
        fault = forbidden_bytes(data, position, len(data) if found < 0 else found)
        if fault is not None:
            raise self._error(f"The trailers have a bare {fault}; lines end in CR LF.")
        if found < 0:
            self._buffer = data[position:]
            return None
        lines = [normalised(raw, self._error) for raw in data[position:found].split(b"\r\n")]
        self._remaining = SIZE
        sink.end([line for line in lines if line.partition(b":")[0].lower() not in self._dropped])
        return data[found + 4 :]


def serialise_chunk(data: bytes) -> bytes:
    """One chunk (RFC 9112 section 7.1). `data` is not empty: an empty chunk would end the content."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def serialise_last_chunk(trailers: list[bytes]) -> bytes:
    """The end of chunked content; `trailers` are canonical lines without their ends, [] for none."""
    if not trailers:
        return b"0\r\n\r\n"
    return b"0\r\n%b\r\n\r\n" % b"\r\n".join(trailers)
