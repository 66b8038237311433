"""Heads of HTTP/1.1 messages in and out (RFC 9110, RFC 9112), in Python. Pure: bytes in, values out.

Theory of operation
-------------------
A head is matched by one compiled expression that accepts only what we would write ourselves (`Name: value`, one space,
no white space at either end), so one pass in C both validates the lines and makes them fit to be sent on: a line of
`RequestHead.fields` is canonical by construction. Anything else takes the slow path, which either normalises a line
(the white space RFC 9110 section 5.5 allows) or raises a ProtocolError that names the fault.

Only a few fields mean something to a proxy (`REQUEST_FIELDS`, `RESPONSE_FIELDS`): each has a function that records it
in the head, or None if all there is to do is to drop it; all but those of `KEPT` end here. The same expression takes
the usual ones where they usually are (Host first, one User-Agent, one Content-Length in a response) and passes over
lines that mean nothing here; from the first other field that does mean something, a search finds them one by one.
Framing, Host and hop-by-hop fields are dropped here and written anew by the serialisers, so no ambiguous byte of a
client's framing ever reaches an endpoint. Nothing is guessed: where the RFCs allow a leniency, we refuse. Two
exceptions, a SHOULD and daily practice: one empty line before a request line, and `[ ] { } | ^` and the backtick bare
in a target (browsers send them).

The compiled codec (`_http1.c`) takes the place of the two expressions, with the tables of this module, and leaves what
is not plain to the same slow path; so there is one place that says what is wrong with a head.

Cost of a browser's head of 800 bytes and 16 fields: 3.0 µs, of them 2.3 the expression. A search over the whole head
for the fields that matter made it 5.5, splitting it into lines and looking up every name 7.3.
"""

from __future__ import annotations

import re
from itertools import groupby, product
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from gateway.errors import (
    BadRequest,
    ExpectationFailed,
    HeadTooLarge,
    MethodRefused,
    ProtocolError,
    UpstreamProtocolError,
    UriTooLong,
    VersionRefused,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from collections.abc import Set as AbstractSet

__all__ = [
    "DEFAULT_LIMITS",
    "MAX_FIELDS",
    "MAX_FIELD_SECTION",
    "MAX_REQUEST_LINE",
    "NOT_IN_TRAILERS",
    "REASONS",
    "REQUEST_FIELDS",
    "RESPONSE_FIELDS",
    "HeadLimits",
    "RequestHead",
    "ResponseHead",
    "announce_trailers",
    "announced",
    "check_request",
    "check_response",
    "forbidden_bytes",
    "head_limits",
    "is_worth_a_look",
    "known_end",
    "normalised",
    "parse_request",
    "parse_request_slowly",
    "parse_response",
    "parse_response_slowly",
    "serialise_request",
    "serialise_response",
    "without",
]


MAX_REQUEST_LINE: Final = 8 * 1024
MAX_FIELD_SECTION: Final = 32 * 1024
MAX_FIELDS: Final = 100


class HeadLimits(NamedTuple):
    """The largest head that is read: bytes of its first line (without CR LF), bytes of its field lines (with CR LF),
    number of field lines. A head of `unchecked` bytes or fewer breaks none of them. See `head_limits`."""

    request_line: int
    field_section: int
    fields: int
    unchecked: int


_SHORTEST_LINE = len(b"a: b\r\n")  # that the fast path takes


def head_limits(
    request_line: int = MAX_REQUEST_LINE, field_section: int = MAX_FIELD_SECTION, fields: int = MAX_FIELDS
) -> HeadLimits:
    """HeadLimits as given; the defaults are those of responses and of trailers too, which are not configurable."""
    # The fast path's expression takes no more than MAX_FIELDS lines, so only a smaller number has to be looked at.
    few = fields * _SHORTEST_LINE if fields < MAX_FIELDS else request_line
    return HeadLimits(request_line, field_section, fields, min(request_line, field_section, few))


DEFAULT_LIMITS: Final = head_limits()

_STRIDE: Final = 4096


def is_worth_a_look(before: int, size: int, limits: HeadLimits = DEFAULT_LIMITS) -> bool:
    """Whether a head that was incomplete with `before` bytes and is `size` long, by a piece without LF, may be too long
    now. Beyond the first limit once in _STRIDE bytes: a look at 30 KiB costs 0.5 ms, and a client may send them one by
    one."""
    return size > limits.unchecked and (before <= limits.unchecked or before // _STRIDE != size // _STRIDE)


# Lengths are 64-bit signed wherever they end up (RFC 9112 section 6.3 leaves the bound to us).
_MAX_LENGTH_DIGITS: Final = 18

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_VALUE = rb"[!-~\x80-\xff][\t\x20-\x7e\x80-\xff]*+(?<![\t ])"
# RFC 3986 path and query, and the characters that browsers leave bare in a query. No fragment, quote, angle bracket
# or backslash: some servers take the last for a slash.
_TARGET = rb"/[!$%&'()*+,\-./0-9:;=?@A-Z\[\]^_`a-z{|}~]*+"

_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([^ ]++) HTTP/([0-9])\.([0-9])")
_ORIGIN_FORM = re.compile(_TARGET)
_ABSOLUTE_FORM = re.compile(rb"(?i:https?)://([^/?]*+)(.*+)")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*+))?")
_NAME = re.compile(_TOKEN)
_PROTOCOL = re.compile(rb"(?!(?i:h2|http/))" + _TOKEN + rb"(?:/" + _TOKEN + rb")?")
_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*+")
# Host names as Kubernetes and the DNS know them (and "_"), IPv4 and IPv6 literals; no sub-delims, no percent-encoding.
_HOST = re.compile(rb"(?:[0-9A-Za-z_](?:[0-9A-Za-z._\-]*+)|\[[0-9A-Fa-f:.]++\])(?::[0-9]{0,5}+)?")
_DATE = re.compile(rb"\r\n[Dd][Aa][Tt][Ee]: ")
_TOKEN_LIST = re.compile(rb"[ \t]*+(?:" + _TOKEN + rb")?[ \t]*+(?:,[ \t]*+(?:" + _TOKEN + rb")?[ \t]*+)*+")
# Faults that can be seen before a head is complete: waiting for the rest would only wait for a time-out.
_HOPELESS = re.compile(rb"\x00|(?<!\r)\n|\r(?=[^\n])")

REASONS: Final = {
    101: b"Switching Protocols",
    200: b"OK",
    301: b"Moved Permanently",
    400: b"Bad Request",
    404: b"Not Found",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    417: b"Expectation Failed",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
    508: b"Loop Detected",
}
"""Reason phrases of the replies this gateway makes itself."""


class RequestHead:
    """A request's head. Of its framing, `fields` holds a Content-Length only.

    `fields` are the end-to-end fields, canonical `Name: value`, in order, with a CR LF before, between and after them;
    `host` is as sent, with its port (b"" for
    an HTTP/1.0 request without one). `content_length` is None without the field. `others` holds the rarer fields a
    gateway handles, by lower-case name (`x-forwarded-for`, `expect`, `upgrade`, ...), several lines joined by ", ".
    `request_id` is the first X-Request-Id that is not empty, and the only one that goes on: what is logged here is what
    the endpoint sees. `end` is the offset of the first byte after the head.
    """

    __slots__ = (
        "chunked",
        "connection",
        "content_length",
        "end",
        "fields",
        "host",
        "keep_alive",
        "method",
        "others",
        "persistent",
        "request_id",
        "target",
        "user_agent",
    )

    def __init__(self, method: bytes, target: bytes, persistent: bool, fields: bytes, end: int) -> None:
        self.method = method
        self.target = target
        self.persistent = persistent  # HTTP/1.1, where connections are kept by default
        self.keep_alive = persistent
        self.fields = fields
        self.end = end
        self.host: bytes | None = None
        self.content_length: int | None = None
        self.chunked = False
        self.connection: set[bytes] | None = None
        self.user_agent = b""
        self.request_id = b""
        self.others: dict[bytes, bytes] | None = None

    def other(self, name: bytes) -> bytes | None:
        """The value of a field kept in `others`."""
        return None if self.others is None else self.others.get(name)

    def field(self, name: bytes) -> bytes | None:
        """The value of the first end-to-end field called `name` (lower-case). Slow: for rules that match fields."""
        for line in self.fields.split(b"\r\n"):
            found, _, value = line.partition(b": ")
            if found.lower() == name:
                return value
        if name == b"user-agent":
            return self.user_agent or None
        if name == b"x-request-id":
            return self.request_id or None
        return self.other(name)

    @property
    def upgrade(self) -> bytes | None:
        """The protocols asked for, if the request asks for some in a way that counts (RFC 9110 section 7.8)."""
        wanted = self.other(b"upgrade")
        if wanted is None or not self.persistent or self.connection is None or b"upgrade" not in self.connection:
            return None
        # h2c by upgrade is obsolete (RFC 9113 section 3.1) and a smuggling tool: the request goes on without it,
        # wherever in the list it was.
        names = [name.strip(b" \t") for name in wanted.split(b",")]
        return b", ".join(name for name in names if _PROTOCOL.fullmatch(name)) or None


class ResponseHead:
    """A response's head; names as in RequestHead. `trailer` is what its Trailer field says, of which `fields` has what
    will come (`announce_trailers`); `dated` says whether `fields` has a Date."""

    __slots__ = (
        "chunked",
        "connection",
        "content_length",
        "dated",
        "end",
        "fields",
        "keep_alive",
        "line",
        "persistent",
        "reason",
        "status",
        "trailer",
        "upgrade",
    )

    def __init__(
        self, status: int, reason: bytes, persistent: bool, fields: bytes, end: int, line: bytes | None = None
    ) -> None:
        self.status = status
        self.reason = reason
        self.line = line or b"HTTP/1.1 %d %b" % (status, reason)  # as we write it
        self.persistent = persistent
        self.keep_alive = persistent
        self.fields = fields
        self.end = end
        self.content_length: int | None = None
        self.chunked = False
        self.connection: set[bytes] | None = None
        self.trailer: bytes | None = None
        self.upgrade: bytes | None = None
        self.dated = False


Head = RequestHead | ResponseHead


# --- request heads ----------------------------------------------------------------------------------------------------


def parse_request(data: bytes, start: int = 0, limits: HeadLimits = DEFAULT_LIMITS) -> RequestHead | None:
    """The head that begins at `start`, or None while it is incomplete. Raises ProtocolError with the reason."""
    match = _REQUEST.match(data, start)
    if match is None:
        return parse_request_slowly(data, start, limits)
    method, target, host, plain, user_agent, rest = match.groups()
    end = match.end()
    if end - start > limits.unchecked:
        _check_limits(data, start, end - 4, limits)
    head = RequestHead(method, target, True, plain, end)
    head.host = host
    if user_agent is not None:
        head.user_agent = user_agent
    if rest or host is None:
        head.fields = plain[:-2] + _record(_REQUEST_SPECIAL, REQUEST_FIELDS, head, b"\r\n" + rest)
        check_request(head)
    return head


def check_request(head: RequestHead) -> None:
    """What can only be judged when all fields are recorded; drops the fields that Connection names."""
    if head.host is None:
        if head.persistent:
            raise BadRequest("An HTTP/1.1 request needs a Host field.")
        head.host = b""
    if head.chunked:
        if head.content_length is not None:
            raise BadRequest("Content-Length and Transfer-Encoding contradict each other; send one of them.")
        if not head.persistent:
            raise BadRequest("Transfer-Encoding has no meaning in HTTP/1.0.")
    if head.connection is not None:
        _drop_named(head)
    if head.method in _REFUSED_METHODS:
        raise MethodRefused(f"The method {head.method.decode()} is not served here.")


_REFUSED_METHODS = frozenset((b"CONNECT", b"TRACE"))


def parse_request_slowly(data: bytes, start: int = 0, limits: HeadLimits = DEFAULT_LIMITS) -> RequestHead | None:
    """As `parse_request`, line by line: for what is incomplete, unusual or wrong."""
    if data.startswith(b"\r\n", start):  # RFC 9112 section 2.2: ignore an empty line before the request line
        start += 2
    end = data.find(b"\r\n\r\n", start)
    _check_limits(data, start, known_end(data, start, end), limits)
    fault = forbidden_bytes(data, start, len(data) if end < 0 else end)
    if fault is not None:
        raise BadRequest(f"The head has a bare {fault}; lines end in CR LF.")
    if end < 0:
        return None
    line, _, section = data[start : end + 2].partition(b"\r\n")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadRequest("The first line is not an HTTP request line (METHOD SP TARGET SP HTTP/1.1).")
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in b"01":
        raise VersionRefused(f"HTTP/{major.decode()}.{minor.decode()} is not spoken here; HTTP/1.1 is.")
    target, authority = _origin_form(method, target)
    lines = [normalised(raw, BadRequest) for raw in section[:-2].split(b"\r\n")] if section else []
    if authority is not None:
        _agree(lines, authority, may_add=minor == b"0")
    head = RequestHead(method, target, minor == b"1", b"", end + 4)
    head.fields = _record(_REQUEST_SPECIAL, REQUEST_FIELDS, head, _section(lines))
    check_request(head)
    return head


_CONTROL_NAMES = {b"\x00": "NUL", b"\n": "LF", b"\r": "CR"}


def known_end(data: bytes, start: int, end: int) -> int:
    """Where the fields end for all we know: at `end`, or, if that is not found (-1), where they may end at the
    soonest. The last three bytes may be of the CR LF CR LF that ends them, which no limit counts."""
    return max(start, len(data) - 3) if end < 0 else end


def forbidden_bytes(data: bytes, start: int, end: int) -> str | None:
    """The name of a byte that no head or trailer section between `start` and `end` may have, if there is one."""
    fault = _HOPELESS.search(data, start, end)
    return None if fault is None else _CONTROL_NAMES[fault.group()]


def _check_limits(data: bytes, start: int, end: int, limits: HeadLimits) -> None:
    line_end = data.find(b"\r\n", start)
    if (end if line_end < 0 else line_end) - start > limits.request_line:
        raise UriTooLong(f"The request line is longer than {limits.request_line} bytes.")
    if line_end < 0:
        return
    if end - line_end > limits.field_section:
        raise HeadTooLarge(f"The fields take more than {limits.field_section} bytes.")
    if data.count(b"\r\n", line_end, end) > limits.fields:
        raise HeadTooLarge(f"The request has more than {limits.fields} fields.")


def _origin_form(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """The target in origin-form, and the authority if it was in absolute-form (RFC 9112 section 3.2)."""
    if _ORIGIN_FORM.fullmatch(target) or (target == b"*" and method == b"OPTIONS"):
        return target, None
    if method in _REFUSED_METHODS:
        raise MethodRefused(f"The method {method.decode()} is not served here.")
    match = _ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise BadRequest("The request target is not a path that HTTP allows.")
    rest = match.group(2)
    if not rest and method == b"OPTIONS":
        return b"*", match.group(1)  # RFC 9112 section 3.2.4
    rest = rest if rest.startswith(b"/") else b"/" + rest
    if not _ORIGIN_FORM.fullmatch(rest):
        raise BadRequest("The request target is not a path that HTTP allows.")
    return rest, match.group(1)


def _agree(lines: list[bytes], authority: bytes, *, may_add: bool) -> None:
    """Host must name what an absolute-form target names. An HTTP/1.0 request may leave it out; then we add it."""
    if not _HOST.fullmatch(authority):
        raise BadRequest("The request target's authority is not a host name.")
    hosts = [value for name, _, value in (line.partition(b": ") for line in lines) if name.lower() == b"host"]
    if any(host.lower() != authority.lower() for host in hosts):
        raise BadRequest("Host and the request target name different hosts.")
    if not hosts and may_add:
        lines.append(b"Host: " + authority)


def _section(lines: list[bytes]) -> bytes:
    return b"\r\n%b\r\n" % b"\r\n".join(lines) if lines else b"\r\n"


def normalised(raw: bytes, error: type[ProtocolError]) -> bytes:
    """One field line as `Name: value`. Raises `error` for a line that HTTP does not allow."""
    if raw[:1] in (b" ", b"\t"):
        raise error("A field goes on over several lines (obs-fold), which HTTP/1.1 has given up.")
    name, colon, value = raw.partition(b":")
    if not colon:
        raise error("A field line has no colon.")
    if not _NAME.fullmatch(name):
        if name != name.rstrip(b" \t"):
            raise error("A field has white space before its colon.")
        raise error("A field name is empty or has characters that HTTP does not allow.")
    value = value.strip(b" \t")
    if not _FIELD_VALUE.fullmatch(value):
        raise error("A field value has control characters.")
    return name + b": " + value


# Each of these records one field in the head.


def _host(head: RequestHead, _name: bytes, value: bytes) -> None:
    if head.host is not None:
        raise BadRequest("The request has more than one Host field.")
    if not _HOST.fullmatch(value):
        raise BadRequest("The Host field is not a host name with an optional port.")
    head.host = value


def _user_agent(head: RequestHead, _name: bytes, value: bytes) -> None:
    head.user_agent = value


def _request_id(head: RequestHead, _name: bytes, value: bytes) -> None:
    if not head.request_id:
        head.request_id = value


def _expect(head: RequestHead, name: bytes, value: bytes) -> None:
    if value.lower() != b"100-continue":
        raise ExpectationFailed("The only expectation this gateway knows is 100-continue.")
    if head.persistent:  # RFC 9110 section 10.1.1: ignored in HTTP/1.0
        _other(head, name, value)


def _other(head: RequestHead, name: bytes, value: bytes) -> None:
    if head.others is None:
        head.others = {}
    before = head.others.get(name)
    head.others[name] = value if before is None else before + b", " + value


def _connection(head: Head, _name: bytes, value: bytes) -> None:
    value = value.lower()
    if value == b"keep-alive":
        head.keep_alive = True if head.connection is None else b"close" not in head.connection
        return
    if not _TOKEN_LIST.fullmatch(value):
        raise _error_of(head)("The Connection field is not a list of names.")
    tokens = {token.strip(b" \t") for token in value.split(b",")}
    head.connection = tokens if head.connection is None else head.connection | tokens
    if b"close" in head.connection:
        head.keep_alive = False
    elif b"keep-alive" in tokens:
        head.keep_alive = True


def _content_length(head: Head, _name: bytes, value: bytes) -> None:
    if head.content_length is not None:
        raise _error_of(head)("There is more than one Content-Length.")
    # int() would take "+1", "1_0" and " 1".
    if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
        raise _error_of(head)("Content-Length is not a decimal number of bytes.")
    head.content_length = int(value)


def _transfer_encoding(head: Head, _name: bytes, value: bytes) -> None:
    if head.chunked or value.lower() != b"chunked":
        raise _error_of(head)("The only Transfer-Encoding this gateway takes is chunked, once.")
    head.chunked = True


def without(fields: bytes, names: AbstractSet[bytes]) -> bytes:
    """A field section without the lines of some (lower-case) names."""
    lines = fields[2:-2].split(b"\r\n")
    return _section([line for line in lines if line and line.partition(b":")[0].lower() not in names])


def _drop_named(head: Head) -> None:
    """Fields named by Connection are for this hop only (RFC 9110 section 7.6.1)."""
    named = (head.connection or set()) - _KEPT_WHEN_NAMED
    if named:
        head.fields = without(head.fields, named)
        if isinstance(head, RequestHead) and head.others is not None:
            for name in named:
                head.others.pop(name, None)
        if isinstance(head, RequestHead) and b"x-request-id" in named:
            head.request_id = b""
        if isinstance(head, ResponseHead):
            head.trailer = None if b"trailer" in named else head.trailer
            head.dated = head.dated and b"date" not in named


# Options that are no fields, fields dropped anyway, and framing, which nobody can ask to have dropped.
_KEPT_WHEN_NAMED = frozenset((b"", b"close", b"keep-alive", b"upgrade", b"te", b"content-length"))


def _error_of(head: Head) -> type[ProtocolError]:
    return BadRequest if isinstance(head, RequestHead) else UpstreamProtocolError


KEPT: Final = frozenset((b"user-agent", b"content-length"))
"""Fields that are recorded and sent on as well. (A Content-Length is validated, so its line can stay as it is.)"""


def _with_underscores(name: bytes) -> Iterable[bytes]:
    """Spellings that CGI, WSGI and their like can't tell from `name`: some or all of its hyphens are underscores."""
    first, *rest = name.split(b"-")
    for separators in product((b"-", b"_"), repeat=len(rest)):
        spelling = first + b"".join(map(bytes.__add__, separators, rest))
        if spelling != name:
            yield spelling


REQUEST_FIELDS: Final[dict[bytes, Callable[[RequestHead, bytes, bytes], None] | None]] = {
    b"host": _host,
    b"user-agent": _user_agent,
    b"x-request-id": _request_id,
    b"connection": _connection,
    b"content-length": _content_length,
    b"transfer-encoding": _transfer_encoding,
    b"expect": _expect,
    b"upgrade": _other,
    b"te": _other,
    b"trailer": _other,
    b"via": _other,
    b"max-forwards": _other,
    b"x-forwarded-for": _other,
    b"x-forwarded-proto": _other,
    b"x-forwarded-host": _other,
    b"forwarded": _other,
    b"k-network-probe": _other,
    b"k-network-hash": _other,
    # Hop by hop, whether or not Connection names them.
    b"keep-alive": None,
    b"proxy-connection": None,
    b"proxy-authenticate": None,
    b"proxy-authorization": None,
    b"http2-settings": None,
    # Knative's own between its parts: a client that sends them could pose as one (see ../core/fields.py).
    b"knative-serving-revision": None,
    b"knative-serving-namespace": None,
    b"knative-serving-default-route": None,
    b"knative-direct-lb": None,
    b"k-proxy-request": None,
    b"k-original-host": None,
    b"k-passthrough-lb": None,
    b"k-kubelet-probe": None,
    # What a proxy says, in a client's words: HTTP_X_FORWARDED_PROTO is what a WSGI application gets to see of either.
    **dict.fromkeys(_with_underscores(b"x-forwarded-for")),
    **dict.fromkeys(_with_underscores(b"x-forwarded-proto")),
    **dict.fromkeys(_with_underscores(b"x-forwarded-host")),
    **dict.fromkeys(_with_underscores(b"x-request-id")),
}


# --- response heads ---------------------------------------------------------------------------------------------------


def parse_response(data: bytes, start: int = 0, limits: HeadLimits = DEFAULT_LIMITS) -> ResponseHead | None:
    """The head that begins at `start`, or None while it is incomplete. Raises UpstreamProtocolError."""
    match = _RESPONSE.match(data, start)
    if match is None:
        return parse_response_slowly(data, start, limits)
    line, status, reason, plain, length, rest = match.groups()
    end = match.end()
    if end - start > limits.unchecked:
        _check_response_limits(data, start, end - 4, limits)
    head = ResponseHead(int(status), reason, True, plain, end, line)
    if length is not None:
        head.content_length = int(length)
    if rest or head.status < 200 or head.status == 204:
        head.fields = plain[:-2] + _record(_RESPONSE_SPECIAL, RESPONSE_FIELDS, head, b"\r\n" + rest)
        check_response(head)
    head.dated = _DATE.search(head.fields) is not None
    return head


def check_response(head: ResponseHead) -> None:
    """As `check_request`."""
    if head.chunked and (head.content_length is not None or not head.persistent):
        raise UpstreamProtocolError("The endpoint's response frames its body in two ways.")
    if head.connection is not None:
        _drop_named(head)
    if head.status < 200 or head.status == 204:
        if head.content_length or head.chunked:
            head.keep_alive = False  # content that must not be, and would be taken for the next response
        if head.content_length is not None:
            head.fields = without(head.fields, _CONTENT_LENGTH)  # RFC 9110 section 8.6: these never have one
            head.content_length = None
    if head.trailer is not None and head.chunked:
        announce_trailers(head)


_CONTENT_LENGTH = frozenset((b"content-length",))


def _check_response_limits(data: bytes, start: int, end: int, limits: HeadLimits) -> None:
    if end - start > limits.request_line + limits.field_section or data.count(b"\r\n", start, end) > limits.fields:
        raise UpstreamProtocolError("The endpoint's response has too large a head.")


def parse_response_slowly(data: bytes, start: int = 0, limits: HeadLimits = DEFAULT_LIMITS) -> ResponseHead | None:
    """As `parse_response`, line by line: for what is incomplete, unusual or wrong."""
    end = data.find(b"\r\n\r\n", start)
    _check_response_limits(data, start, known_end(data, start, end), limits)
    if forbidden_bytes(data, start, len(data) if end < 0 else end) is not None:
        raise UpstreamProtocolError("The endpoint's response head has a bare CR, LF or NUL.")
    if not b"HTTP/1.".startswith(data[start : start + 7]):
        raise UpstreamProtocolError("The endpoint does not speak HTTP/1.1.")
    if end < 0:
        return None
    line, _, section = data[start : end + 2].partition(b"\r\n")
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise UpstreamProtocolError("The endpoint's status line is not one of HTTP/1.1.")
    minor, status, reason = match.groups()
    lines = [normalised(raw, UpstreamProtocolError) for raw in section[:-2].split(b"\r\n")] if section else []
    head = ResponseHead(int(status), reason or b"", minor == b"1", b"", end + 4)
    head.fields = _record(_RESPONSE_SPECIAL, RESPONSE_FIELDS, head, _section(lines))
    check_response(head)
    head.dated = _DATE.search(head.fields) is not None
    return head


def _response_upgrade(head: ResponseHead, _name: bytes, value: bytes) -> None:
    head.upgrade = value if head.upgrade is None else head.upgrade + b", " + value


def _response_trailer(head: ResponseHead, _name: bytes, value: bytes) -> None:
    head.trailer = value if head.trailer is None else head.trailer + b", " + value


RESPONSE_FIELDS: Final[dict[bytes, Callable[[ResponseHead, bytes, bytes], None] | None]] = {
    b"connection": _connection,
    b"content-length": _content_length,
    b"trailer": _response_trailer,
    b"transfer-encoding": _transfer_encoding,
    b"upgrade": _response_upgrade,
    b"keep-alive": None,
    b"proxy-connection": None,
    b"proxy-authentication-info": None,
}


# --- trailers ---------------------------------------------------------------------------------------------------------

# RFC 9110 section 6.5.1: what a message means, where it goes and who sent it was settled before its content was read.
# So all that matters here, request controls and conditionals, authentication, response control data and what says how
# to read the content means nothing in trailers, except to those who would be fooled.
NOT_IN_TRAILERS: Final = (
    frozenset(REQUEST_FIELDS)
    | frozenset(RESPONSE_FIELDS)
    | frozenset(
        b"pragma range cache-control "
        b"if-match if-none-match if-modified-since if-unmodified-since if-range "
        b"authorization www-authenticate authentication-info cookie set-cookie knative-serving-tag "
        b"age date expires location retry-after vary warning "
        b"content-encoding content-type content-range".split()
    )
)


def announced(trailer: bytes) -> bytes:
    """Of a Trailer field's value, the names whose fields are passed on when they come (RFC 9110 section 6.6.2)."""
    names = (name.strip(b" \t") for name in trailer.split(b","))
    return b", ".join(name for name in names if _NAME.fullmatch(name) and name.lower() not in NOT_IN_TRAILERS)


def announce_trailers(head: ResponseHead) -> None:
    """Have the response say which trailers it ends with. Only for one whose framing has a place for them."""
    names = announced(head.trailer or b"")
    if names:
        head.fields += b"trailer: %b\r\n" % names


# --- the expressions --------------------------------------------------------------------------------------------------


def _any_case(text: str) -> str:
    return "".join(f"[{char.upper()}{char}]" if char.isalpha() else re.escape(char) for char in text)


def _any_of(names: Iterable[bytes]) -> bytes:
    """An expression for any of these names. Grouped by first letter, and with character classes instead of IGNORECASE:
    so the engine gives up on all other lines at their first character."""
    groups = [
        _any_case(first) + "(?:" + "|".join(_any_case(name[1:]) for name in group) + ")"
        for first, group in groupby(sorted(name.decode() for name in names), key=lambda name: name[0])
    ]
    return "|".join(groups).encode()


def _finder(names: Iterable[bytes]) -> re.Pattern[bytes]:
    """Finds (name, value) of the fields with these names in a canonical section."""
    return re.compile(rb"\r\n(" + _any_of(names) + rb"): ([^\r]*+)")


def _other_lines(names: Iterable[bytes]) -> bytes:
    """At most 30 canonical lines of fields that are none of these. Letters no name begins with need no second look."""
    first = {name[:1] for name in names}
    free = b"".join(letter + letter.upper() for letter in map(b"%c".__mod__, range(97, 123)) if letter not in first)
    name = rb"(?:[" + free + rb"]" + _TOKEN[:-2] + rb"*+|(?!(?:" + _any_of(names) + rb"): )" + _TOKEN + rb")"
    return rb"(?:" + name + rb": " + _VALUE + rb"\r\n){0,30}+"


# The bounds on the number of lines add up to MAX_FIELDS; a head with more of one kind takes the slow path.
_REST = rb"((?:" + _TOKEN + rb": " + _VALUE + rb"\r\n){0,37}+)\r\n"

_REQUEST_SPECIAL = _finder(REQUEST_FIELDS)
_RESPONSE_SPECIAL = _finder(RESPONSE_FIELDS)
# `Connection: keep-alive` says what HTTP/1.1 does anyway.
_REQUEST = re.compile(
    rb"(?!CONNECT |TRACE )("
    + _TOKEN
    + rb") ("
    + _TARGET
    + rb") HTTP/1\.1(?:\r\n[Hh]ost: ("
    + _HOST.pattern
    + rb"))?(?:\r\n[Cc]onnection: [Kk]eep-[Aa]live)?+(\r\n"
    + _other_lines(REQUEST_FIELDS)
    + rb"(?:[Uu]ser-[Aa]gent: ("
    + _VALUE
    + rb")\r\n)?+"
    + _other_lines(REQUEST_FIELDS)
    + rb")"
    + _REST
)
"""Method, target, host, lines to send on, user agent, lines to be looked at."""
_RESPONSE = re.compile(
    rb"(HTTP/1\.1 ([1-5][0-9][0-9]) ([\t\x20-\x7e\x80-\xff]*+))(\r\n"
    + _other_lines(RESPONSE_FIELDS)
    + rb"(?:[Cc]ontent-[Ll]ength: ([0-9]{1,18})\r\n)?+"
    + _other_lines(RESPONSE_FIELDS)
    + rb")(?:[Cc]onnection: [Kk]eep-[Aa]live\r\n)?+"
    + _REST
)
"""Status line, status, reason, lines to send on, content length, lines to be looked at."""


H = TypeVar("H", RequestHead, ResponseHead)


def _record(
    finder: re.Pattern[bytes], fields: Mapping[bytes, Callable[[H, bytes, bytes], None] | None], head: H, section: bytes
) -> bytes:
    """Note in `head` the fields of a canonical section that matter; returns the section without those that end here."""
    for name, value in finder.findall(section):
        lowered = name.lower()
        record = fields[lowered]
        if record is not None:
            record(head, lowered, value)
        if lowered not in KEPT:
            section = section.replace(b"\r\n%b: %b\r\n" % (name, value), b"\r\n", 1)
    return section


# --- writing ----------------------------------------------------------------------------------------------------------


def serialise_request(
    head: RequestHead, host: bytes, fields: bytes, about: bytes, added: bytes, request_id: bytes
) -> bytes:
    """The head to send to an endpoint: the method, target and framing of `head` with other fields. `host` comes first,
    then `fields` (as in RequestHead), `about` and `added` (complete lines), and an X-Request-Id unless that is b""."""
    text = b"%bx-request-id: %b\r\n" % (added, request_id) if request_id else added
    end = b"transfer-encoding: chunked\r\n\r\n" if head.chunked else b"\r\n"
    return b"".join((head.method, b" ", head.target, b" HTTP/1.1\r\nhost: ", host, fields, about, text, end))


def serialise_response(head: ResponseHead, framing: bytes, data: bytes = b"", start: int = 0) -> bytes:
    """The bytes of a response head; `framing` is the framing and connection fields as complete lines, `data` from
    `start` on what leaves with the head."""
    return b"".join((head.line, head.fields, framing, b"\r\n", data[start:]))
