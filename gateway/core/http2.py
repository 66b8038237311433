"""HTTP/2's field lists (RFC 9113 section 8) from and to what `core.http1` understands. Pure: values in, values out.

Theory of operation
-------------------
One codec decides what a message means. A field list from either side is checked by HTTP/2's own rules, which are
stricter in places (lower-case names, pseudo-header fields first and once, nothing about the connection, no white space
around a value), then written as an HTTP/1.1 head and read by `parse_request` or `parse_response`. So a field that got
here cannot mean one thing on one path and another on the other, and nothing that could end a line gets into that text.
A request's content without a Content-Length is `transfer-encoding: chunked` there: its length is not known yet.

On its way out a request is an HTTP/1.1 head text already and a response a `ResponseHead`; both are said in HTTP/2's
words.

Towards endpoints, values that differ from request to request, and secrets, are marked as sensitive: a table that keeps
them would keep nothing else, and one connection to an endpoint is shared by all clients. Towards clients only what a
guesser would like to know is: the table is that of one client.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from gateway.core.http1 import MAX_FIELDS, NOT_IN_TRAILERS, parse_response
from gateway.errors import BadRequest, MethodRefused, UpstreamProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.core.frames import Field
    from gateway.core.http1 import ResponseHead

__all__ = [
    "request_fields",
    "request_text",
    "request_trailers",
    "response_fields",
    "response_head",
    "response_trailers",
    "trailer_fields",
]

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]++")
_VALUE = re.compile(rb"(?:[!-~\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[!-~\x80-\xff])?)?")
_STATUS = re.compile(rb"[1-5][0-9][0-9]")

# RFC 9113 section 8.2.2: what these say, frames say.
_OF_THE_CONNECTION = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"http2-settings")
)
_NOT_IN_RESPONSES = _OF_THE_CONNECTION | {b"te"}
_NOT_KEPT = frozenset(
    (b"authorization", b"cookie", b"x-request-id", b"traceparent", b"content-length", b"x-b3-traceid", b"x-b3-spanid")
)

_STATUS_LINES = {b"%d" % status: b"HTTP/1.1 %d %b" % (status, status.phrase.encode()) for status in HTTPStatus}
_METHOD, _SCHEME, _AUTHORITY, _PATH = b":method", b":scheme", b":authority", b":path"


# --- towards endpoints ------------------------------------------------------------------------------------------------


def request_fields(text: bytes) -> list[Field]:
    """The fields of an HTTP/1.1 head that `core.fields.request_head` wrote."""
    lines = text[:-4].split(b"\r\n")
    method, _, rest = lines[0].partition(b" ")
    target = rest[:-9]  # without " HTTP/1.1"
    fields: list[Field] = [
        (_METHOD, method, False),
        (_SCHEME, b"http", False),
        (_PATH, target, b"?" in target),
    ]
    append = fields.append
    for line in lines[1:]:
        name, _, value = line.partition(b": ")
        name = name.lower()
        if name == b"host":
            if value:
                fields.insert(2, (_AUTHORITY, value, False))
        elif name not in _OF_THE_CONNECTION:
            append((name, value, name in _NOT_KEPT))
    return fields


def trailer_fields(trailers: list[bytes]) -> list[Field]:
    """The fields of canonical trailer lines."""
    return [(name.lower(), value, False) for name, _, value in (line.partition(b": ") for line in trailers)]


def response_head(fields: Sequence[Field]) -> ResponseHead:
    """The head that a field list stands for. Raises UpstreamProtocolError (RFC 9113 section 8.1.1)."""
    if not fields or fields[0][0] != b":status" or not _STATUS.fullmatch(fields[0][1]):
        raise UpstreamProtocolError("The endpoint's response does not begin with a :status of three digits.")
    if fields[0][1] == b"101":
        raise UpstreamProtocolError("The endpoint switched protocols, which HTTP/2 has no word for.")
    lines = _lines(fields[1:])
    status = fields[0][1]
    lines.insert(0, _STATUS_LINES.get(status) or b"HTTP/1.1 %b " % status)
    head = parse_response(b"%b\r\n\r\n" % b"\r\n".join(lines))
    assert head is not None  # it is complete
    return head


def response_trailers(fields: Sequence[Field]) -> list[bytes]:
    """Canonical lines of trailers, without those that mean nothing there. Raises UpstreamProtocolError."""
    return [line for line in _lines(fields) if line.partition(b":")[0] not in NOT_IN_TRAILERS]


def _lines(fields: Sequence[Field]) -> list[bytes]:
    if len(fields) > MAX_FIELDS:
        raise UpstreamProtocolError(f"The endpoint's response has more than {MAX_FIELDS} fields.")
    lines = []
    is_name, is_value = _NAME.fullmatch, _VALUE.fullmatch
    for field in fields:
        name, value = field[0], field[1]
        if not is_name(name):
            raise UpstreamProtocolError("A field name of the endpoint's response is not one of HTTP/2.")
        if name in _NOT_IN_RESPONSES:
            raise UpstreamProtocolError(f"The endpoint's response has the field {name.decode()}, which HTTP/2 forbids.")
        if not is_value(value):
            raise UpstreamProtocolError(f"The field {name.decode()} of the endpoint's response has a malformed value.")
        lines.append(b"%b: %b" % (name, value))
    return lines


# --- towards clients --------------------------------------------------------------------------------------------------

_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_SCHEMES = frozenset((b"http", b"https"))


def request_text(fields: Sequence[Field], *, ended: bool) -> bytes:
    """The request as an HTTP/1.1 head. `ended`: no content follows. Raises BadRequest for what section 8 calls
    malformed, MethodRefused for CONNECT, whose pseudo-fields are others."""
    pseudo: dict[bytes, bytes] = {}
    regular = len(fields)
    for position, (name, value, _) in enumerate(fields):
        if name not in _REQUEST_PSEUDO:
            regular = position
            break
        if name in pseudo:
            raise BadRequest(f"The request has {name.decode()} twice.")
        pseudo[name] = value
    lines = _Lines()
    for name, value, _ in fields[regular:]:
        special = _SPECIAL.get(name)
        if special is not None:
            special(lines, value)
        elif _NAME.fullmatch(name):
            lines.text.append(b"%b: %b\r\n" % (name, value))
        else:
            raise _bad_name(name)
    start = _start(pseudo, lines)
    if lines.cookies:
        lines.text.append(b"cookie: %b\r\n" % b"; ".join(lines.cookies))  # section 8.2.3
    if not ended and not lines.has_length:
        lines.text.append(b"transfer-encoding: chunked\r\n")
    text = b"%b%b\r\n" % (start, b"".join(lines.text))
    _check(text, fields, 2 + (lines.host is not None) + len(lines.text))
    return text


class _Lines:
    """The regular fields of a request, as they are gone through."""

    __slots__ = ("cookies", "has_length", "host", "text")

    def __init__(self) -> None:
        self.text: list[bytes] = []
        self.cookies: list[bytes] = []
        self.host: bytes | None = None
        self.has_length = False


def _start(pseudo: dict[bytes, bytes], lines: _Lines) -> bytes:
    """The request line and Host, from the pseudo-fields."""
    method = pseudo.get(b":method")
    if method == b"CONNECT":
        raise MethodRefused("The method CONNECT is not served here.")
    path = pseudo.get(b":path")
    scheme = pseudo.get(b":scheme")
    if not method or not path or scheme is None:
        raise BadRequest("A request has :method, :scheme and :path.")
    if scheme not in _SCHEMES and scheme.lower() not in _SCHEMES:
        raise BadRequest("The scheme is neither http nor https.")
    if b" " in method or b" " in path or not (path.startswith(b"/") or path == b"*"):
        raise BadRequest("The request target is not a path that HTTP allows.")
    authority = pseudo.get(b":authority")
    if authority is not None:
        if lines.host is not None and lines.host.lower() != authority.lower():
            raise BadRequest("Host and :authority name different hosts.")
        lines.host = authority
    if lines.host is None:
        return b"%b %b HTTP/1.1\r\n" % (method, path)
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (method, path, lines.host)


def _check(text: bytes, fields: Sequence[Field], lines: int) -> None:
    """No field may hold what would be another line in that text, or white space that its codec would take away."""
    if text.count(b"\r\n") != lines or text.count(b"\n") != lines or text.count(b"\r") != lines:
        raise BadRequest("A field has CR or LF in it.")
    if b" \r\n" in text or b"\t\r\n" in text or b":  " in text or b": \t" in text:
        for name, value, _ in fields:
            if value != value.strip(b" \t"):
                raise BadRequest(f"The field {name.decode()} has white space at an end.")


def _bad_name(name: bytes) -> BadRequest:
    if name.startswith(b":"):
        return BadRequest("A pseudo-field is unknown here, or follows a regular field.")
    if _NAME.fullmatch(name.lower()):
        return BadRequest("A field name has upper-case letters.")
    return BadRequest("A field name is empty or has characters that HTTP does not allow.")


# What some fields need besides being written down.


def _host(lines: _Lines, value: bytes) -> None:
    if lines.host is not None:
        raise BadRequest("The request has more than one Host field.")
    lines.host = value


def _cookie(lines: _Lines, value: bytes) -> None:
    lines.cookies.append(value)


def _content_length(lines: _Lines, value: bytes) -> None:
    lines.has_length = True
    lines.text.append(b"content-length: %b\r\n" % value)


def _te(lines: _Lines, value: bytes) -> None:
    if value != b"trailers":
        raise BadRequest("The only TE that HTTP/2 knows is trailers.")
    lines.text.append(b"te: trailers\r\n")


def _of_connection(_lines: _Lines, _value: bytes) -> None:
    raise BadRequest("A field that belongs to an HTTP/1.1 connection has no place in HTTP/2.")


_SPECIAL: dict[bytes, Callable[[_Lines, bytes], None]] = {
    b"host": _host,
    b"cookie": _cookie,
    b"content-length": _content_length,
    b"te": _te,
    # Section 8.2.2.
    b"connection": _of_connection,
    b"proxy-connection": _of_connection,
    b"keep-alive": _of_connection,
    b"transfer-encoding": _of_connection,
    b"upgrade": _of_connection,
}


def request_trailers(fields: Sequence[Field]) -> list[bytes]:
    """The trailers as canonical lines, without those that mean nothing there. Raises BadRequest."""
    lines = []
    for name, value, _ in fields:
        if not _NAME.fullmatch(name):
            raise _bad_name(name)
        if not _VALUE.fullmatch(value):
            raise BadRequest("A trailer has characters that HTTP does not allow.")
        if name not in NOT_IN_TRAILERS:
            lines.append(b"%b: %b" % (name, value))
    return lines


def response_fields(head: ResponseHead) -> list[Field]:
    """The head as a field list. What belongs to a connection is not in `head.fields`."""
    fields = [(b":status", b"%d" % head.status, False)]
    for line in head.fields[2:-2].split(b"\r\n"):
        if line:
            name, _, value = line.partition(b": ")
            name = name.lower()
            # A table that both sides share tells a guesser whether he was right (RFC 7541 section 7.1).
            fields.append((name, value, name == b"set-cookie"))
    return fields
