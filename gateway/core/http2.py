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
from typing import TYPE_CHECKING, TypeVar

from gateway.core.http1 import MAX_FIELDS, NOT_IN_TRAILERS, announce_trailers, parse_response
from gateway.errors import BadRequest, MethodRefused, UpstreamProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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

K = TypeVar("K")
V = TypeVar("V")

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

# Fields recur from message to message, so what became of each is kept: looking it up instead of cutting, checking and
# joining saves four tenths of either. Long ones are not kept, nor those that differ each time, which would only push
# out the others. When there are _KEPT it begins anew.
_KEPT = 4096
_KEPT_LENGTH = 128
_fields_of: dict[bytes, Field | None] = {}  # None for what belongs to a connection
_lines_of: dict[Field, bytes] = {}

_STATUS_LINES = {b"%d" % status: b"HTTP/1.1 %d %b" % (status, status.phrase.encode()) for status in HTTPStatus}
_UNKNOWN: Field = (b"", b"", False)
_METHOD, _SCHEME, _AUTHORITY, _PATH = b":method", b":scheme", b":authority", b":path"


# --- towards endpoints ------------------------------------------------------------------------------------------------


def request_fields(text: bytes) -> list[Field]:
    """The fields of an HTTP/1.1 head that `core.fields.request_head` wrote: Host is its first."""
    lines = text[:-4].split(b"\r\n")
    method, target, _ = lines[0].split(b" ")
    fields: list[Field] = [(_METHOD, method, False), (_SCHEME, b"http", False)]
    append = fields.append
    host = lines[1][6:]  # without "host: "
    if host:
        append((_AUTHORITY, host, False))
    append((_PATH, target, b"?" in target))
    known = _fields_of.get
    for line in lines[2:]:
        field = known(line, _UNKNOWN)
        if field is _UNKNOWN:
            field = _field(line)
        if field is not None:
            append(field)
    return fields


def _field(line: bytes) -> Field | None:
    name, _, value = line.partition(b": ")
    name = name.lower()
    field = None if name in _OF_THE_CONNECTION else (name, value, name in _NOT_KEPT)
    if len(line) <= _KEPT_LENGTH and name not in _NOT_KEPT:
        _keep(_fields_of, line, field)
    return field


def _keep(kept: dict[K, V], key: K, value: V) -> None:
    if len(kept) >= _KEPT:
        kept.clear()
    kept[key] = value


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
    if head.trailer is not None and head.content_length is None:
        announce_trailers(head)  # which frames have a place for
    return head


def response_trailers(fields: Sequence[Field]) -> list[bytes]:
    """Canonical lines of trailers, without those that mean nothing there. Raises UpstreamProtocolError."""
    return [line for line in _lines(fields) if line.partition(b":")[0] not in NOT_IN_TRAILERS]


def _lines(fields: Sequence[Field]) -> list[bytes]:
    if len(fields) > MAX_FIELDS:
        raise UpstreamProtocolError(f"The endpoint's response has more than {MAX_FIELDS} fields.")
    lines: list[bytes] = []
    append = lines.append
    known = _lines_of.get
    for field in fields:
        line = known(field)
        if line is not None:
            append(line)
            continue
        name, value = field[0], field[1]
        if not _NAME.fullmatch(name):
            raise UpstreamProtocolError("A field name of the endpoint's response is not one of HTTP/2.")
        if name in _NOT_IN_RESPONSES:
            raise UpstreamProtocolError(f"The endpoint's response has the field {name.decode()}, which HTTP/2 forbids.")
        if not _VALUE.fullmatch(value):
            raise UpstreamProtocolError(f"The field {name.decode()} of the endpoint's response has a malformed value.")
        line = b"%b: %b" % (name, value)
        append(line)
        if name not in _NOT_KEPT and len(line) <= _KEPT_LENGTH:
            _keep(_lines_of, field, line)
    return lines


# --- towards clients --------------------------------------------------------------------------------------------------

_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_SCHEMES = frozenset((b"http", b"https"))


def request_text(fields: Sequence[Field], *, ended: bool) -> bytes:
    """The request as an HTTP/1.1 head. `ended`: no content follows. Raises BadRequest for what section 8 calls
    malformed, MethodRefused for CONNECT, whose pseudo-fields are others."""
    if not fields:
        raise BadRequest("A request has :method, :scheme and :path.")
    # In columns: most requests have nothing that needs a look by itself, and a whole column is checked in one call.
    names, values, _ = zip(*fields, strict=True)
    regular = 0
    while regular < len(names) and names[regular] in _REQUEST_PSEUDO:
        regular += 1
    pseudo = dict(zip(names[:regular], values[:regular], strict=True))
    if len(pseudo) < regular:
        raise BadRequest("The request has a pseudo-field twice.")
    pairs: Iterable[tuple[bytes, bytes]] = zip(names[regular:], values[regular:], strict=True)
    authority = pseudo.get(b":authority")
    distinct = set(names[regular:])
    unusual = distinct - _USUAL
    if unusual or len(distinct) < len(names) - regular:
        pairs = _settled(list(pairs), unusual)
        if b"host" in unusual:
            authority, pairs = _host(pairs, authority)
    if b"te" in distinct and values[names.index(b"te")] != b"trailers":
        raise _bad_te()
    lines = [_request_line(pseudo)]
    if authority is not None:
        lines.append(b"host: " + authority)
    lines += map(b": ".join, pairs)
    if not ended and b"content-length" not in distinct:
        lines.append(b"transfer-encoding: chunked")
    _check_values(values)
    lines += _HEAD_END
    return b"\r\n".join(lines)


_HEAD_END = (b"", b"")
# Names that need no look at their characters; the rules are the same for all others.
_USUAL = frozenset(
    b"accept accept-charset accept-encoding accept-language access-control-request-headers authorization "
    b"access-control-request-method cache-control content-encoding content-length content-type cookie dnt expect "
    b"forwarded grpc-accept-encoding grpc-encoding grpc-timeout if-match if-modified-since if-none-match if-range "
    b"if-unmodified-since origin pragma priority range referer sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform "
    b"sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user te traceparent tracestate upgrade-insecure-requests "
    b"user-agent x-forwarded-for x-forwarded-host x-forwarded-proto x-request-id x-requested-with".split()
)


def _request_line(pseudo: dict[bytes, bytes]) -> bytes:
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
    return b"%b %b HTTP/1.1" % (method, path)


def _settled(pairs: list[tuple[bytes, bytes]], unusual: set[bytes]) -> list[tuple[bytes, bytes]]:
    """The regular fields where some are `unusual`, or come more than once. Raises BadRequest."""
    if not _OF_THE_CONNECTION.isdisjoint(unusual):
        raise BadRequest("A field that belongs to an HTTP/1.1 connection has no place in HTTP/2.")
    for name in unusual:
        if not _NAME.fullmatch(name):
            raise _bad_name(name)
    if any(name == b"te" and value != b"trailers" for name, value in pairs):
        raise _bad_te()
    crumbs = [value for name, value in pairs if name == b"cookie"]
    if len(crumbs) > 1:  # section 8.2.3
        pairs = [(name, value) for name, value in pairs if name != b"cookie"]
        pairs.append((b"cookie", b"; ".join(crumbs)))
    return pairs


def _host(pairs: Iterable[tuple[bytes, bytes]], authority: bytes | None) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """What Host and :authority both name, of which one may be missing (section 8.3.1), and the other fields."""
    others = []
    host = None
    for name, value in pairs:
        if name != b"host":
            others.append((name, value))
        elif host is not None:
            raise BadRequest("The request has more than one Host field.")
        else:
            host = value
    assert host is not None
    if authority is not None and authority.lower() != host.lower():
        raise BadRequest("Host and :authority name different hosts.")
    return authority or host, others


def _check_values(values: tuple[bytes, ...]) -> None:
    """None may hold what would be another line, or white space that the codec would take away."""
    text = b"".join(values)
    if b"\r" in text or b"\n" in text:
        raise BadRequest("A field has CR or LF in it.")
    if tuple(map(bytes.strip, values)) != values:
        raise BadRequest("A field has white space at an end.")


def _bad_te() -> BadRequest:
    return BadRequest("The only TE that HTTP/2 knows is trailers.")


def _bad_name(name: bytes) -> BadRequest:
    if name.startswith(b":"):
        return BadRequest("A pseudo-field is unknown here, or follows a regular field.")
    if _NAME.fullmatch(name.lower()):
        return BadRequest("A field name has upper-case letters.")
    return BadRequest("A field name is empty or has characters that HTTP does not allow.")


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
