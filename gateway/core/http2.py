"""HTTP/2's fields from and to what `core.http1` understands (RFC 9113 section 8). Pure: values in, values out.

Theory of operation
-------------------
One codec decides what a message means. A request on its way to an endpoint is an HTTP/1.1 head text already, which
`request_fields` says in HTTP/2's words. A response's field list is checked by HTTP/2's own rules, which are stricter in
places (lower-case names, pseudo-header fields first, nothing about the connection, no white space around a value), then
written as an HTTP/1.1 head and read by `parse_response`. So a field that got here cannot mean one thing on one path and
another on the other, and nothing that could end a line gets into that text.

Values that differ from request to request, and secrets, are marked as sensitive: a table that keeps them would keep
nothing else, and one connection to an endpoint is shared by all clients.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from gateway.core.http1 import MAX_FIELDS, NOT_IN_TRAILERS, parse_response
from gateway.errors import UpstreamProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.core.frames import Field
    from gateway.core.http1 import ResponseHead

__all__ = ["request_fields", "response_head", "response_trailers", "trailer_fields"]

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
