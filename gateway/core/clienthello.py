"""What a TLS client asks for, read from its first message.

Theory of operation
-------------------
The certificate is chosen before any TLS machinery is made: a name nobody here has, a plain HTTP request and noise then
cost a few comparisons and seven bytes. The message may come in pieces and in several records (RFC 8446 section 5.1), so
`read_hello` is asked again with all bytes so far until it has an answer; MAX_HELLO bounds what that may come to.

Only what leads to the server name is looked at (RFC 8446 section 4.1.2, RFC 6066 section 3). The TLS library parses the
same bytes again and judges everything else. Where this parser finds no sense, the handshake is refused, so the two can
not mean different names.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MAX_HELLO", "BadHello", "Hello", "NotTls", "read_hello"]

MAX_HELLO = 16 * 1024
"""Bytes; browsers send 0.5 to 2 KiB, the larger with a post-quantum key share."""

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _HOST_NAME = 0, 0
_RECORD_HEAD, _MESSAGE_HEAD = 5, 4
_MAX_RECORD = 2**14
# Some clients split the message in a few to get through strange networks; a byte in each would be work for nothing.
_MAX_RECORDS = 16


class NotTls(ValueError):
    """The first bytes are no TLS record: an HTTP client on the wrong port, or noise."""


class BadHello(ValueError):
    """A TLS record that holds no ClientHello, or one that makes no sense."""


class Hello(NamedTuple):
    """`name` is the host the client asks for, lower-case; None if it names none."""

    name: str | None


def read_hello(data: bytes) -> Hello | None:
    """The ClientHello at the beginning of a connection, None while more bytes are needed. Raises NotTls, BadHello."""
    message = b""
    position = 0
    for _ in range(_MAX_RECORDS):
        if not _is_record(data, position):
            raise NotTls if position == 0 else BadHello
        if len(data) < position + _RECORD_HEAD:
            break
        size = int.from_bytes(data[position + 3 : position + 5], "big")
        if not 0 < size <= _MAX_RECORD:
            raise BadHello
        message += data[position + _RECORD_HEAD : position + _RECORD_HEAD + size]
        if message and message[0] != _CLIENT_HELLO:
            raise BadHello
        end = _MESSAGE_HEAD + int.from_bytes(message[1:_MESSAGE_HEAD], "big")
        if end > _MESSAGE_HEAD + MAX_HELLO:
            raise BadHello
        if len(message) >= max(_MESSAGE_HEAD, end):
            return Hello(_server_name(_Reader(message[_MESSAGE_HEAD:end])))
        position += _RECORD_HEAD + size
        if position >= len(data):
            break
    else:
        raise BadHello
    if len(data) >= MAX_HELLO:
        raise BadHello
    return None


def _is_record(data: bytes, position: int) -> bool:
    """Whether a handshake record can begin there: type 22, major version 3 (RFC 8446 section 5.1)."""
    return data[position : position + 2] in (b"", b"\x16", b"\x16\x03")


class _Reader:
    """A vector's bytes, taken from the front. Raises BadHello when they run out."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise BadHello
        taken, self._position = self._data[self._position : end], end
        return taken

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._position)

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> _Reader:
        """The content of a vector whose length is written in `size` bytes."""
        return _Reader(self.take(self.number(size)))


def _server_name(hello: _Reader) -> str | None:
    hello.take(2 + 32)  # legacy_version, random
    hello.vector(1)  # legacy_session_id
    hello.vector(2)  # cipher_suites
    hello.vector(1)  # legacy_compression_methods
    if not hello:
        return None  # TLS 1.2 knows messages without extensions
    extensions = hello.vector(2)
    found: str | None = None
    seen = False
    while extensions:
        kind, content = extensions.number(2), extensions.vector(2)
        if kind == _SERVER_NAME:
            if seen:
                raise BadHello  # RFC 8446 section 4.2: each at most once
            seen = True
            found = _host_name(content.vector(2))
    return found


def _host_name(names: _Reader) -> str:
    """RFC 6066 section 3: no more than one name, and host names are the only kind there is."""
    kind, name = names.number(1), names.vector(2)
    if kind != _HOST_NAME or names or not name:
        raise BadHello
    text = name.rest()
    if not text.isascii() or b"\0" in text:
        raise BadHello
    return text.decode("ascii").lower().removesuffix(".")
