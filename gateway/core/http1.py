"""HTTP/1.1 messages in and out: heads, body framing, persistence (RFC 9110, RFC 9112). Pure: bytes in, values out.

Theory of operation
-------------------
This is the name others import; the codec is in modules by topic, `heads`, `bodies` and `accessline`, all in Python.
Some of their functions are called for each message and look at each of its bytes (`parse_request`, `parse_response`,
`unchunk`) or put it together from many pieces (`serialise_request`, `serialise_response`, `access_line`). They have
twins in C (`_http1.c`), which are used where the extension was built: it is optional, for an installation needs no
compiler. The twins agree on every input, also on what is wrong with it (the same tests and the same fuzzer run on both,
and one against the other), so which of them is in use shows in the cost of a request only.
`CODEC` names it, and so does the metric `zerogate_gateway_codec`.

ZEROGATE_PURE_PYTHON=1 in the environment has a process use the Python twins, for tests and benchmarks of them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from gateway.core import accessline, bodies, heads
from gateway.core.bodies import (
    BodyReader,
    BodySink,
    ChunkedReader,
    LengthReader,
    UntilCloseReader,
    serialise_chunk,
    serialise_last_chunk,
)
from gateway.core.heads import (
    DEFAULT_LIMITS,
    MAX_FIELD_SECTION,
    MAX_FIELDS,
    MAX_REQUEST_LINE,
    NOT_IN_TRAILERS,
    REASONS,
    HeadLimits,
    RequestHead,
    ResponseHead,
    announce_trailers,
    head_limits,
    is_worth_a_look,
    without,
)
from gateway.errors import BadRequest, UpstreamProtocolError

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from gateway.core.bodies import Unchunk

__all__ = [
    "CODEC",
    "COMPILED",
    "DEFAULT_LIMITS",
    "MAX_FIELDS",
    "MAX_FIELD_SECTION",
    "MAX_REQUEST_LINE",
    "NOT_IN_TRAILERS",
    "PYTHON",
    "REASONS",
    "BodyReader",
    "BodySink",
    "ChunkedReader",
    "Codec",
    "HeadLimits",
    "LengthReader",
    "RequestHead",
    "ResponseHead",
    "UntilCloseReader",
    "access_line",
    "announce_trailers",
    "head_limits",
    "is_worth_a_look",
    "parse_request",
    "parse_response",
    "request_body",
    "response_body",
    "serialise_chunk",
    "serialise_last_chunk",
    "serialise_request",
    "serialise_response",
    "without",
]


class Codec(NamedTuple):
    """The functions that have twins; see `heads` and `bodies` for what they do."""

    name: str
    parse_request: ParseRequest
    parse_response: ParseResponse
    unchunk: Unchunk
    serialise_request: SerialiseRequest
    serialise_response: SerialiseResponse
    access_line: AccessLine


class ParseRequest(Protocol):
    def __call__(self, data: bytes, start: int = 0, limits: HeadLimits = DEFAULT_LIMITS, /) -> RequestHead | None: ...


class ParseResponse(Protocol):
    def __call__(self, data: bytes, start: int = 0, limits: HeadLimits = DEFAULT_LIMITS, /) -> ResponseHead | None: ...


class SerialiseRequest(Protocol):
    def __call__(
        self, head: RequestHead, host: bytes, fields: bytes, about: bytes, added: bytes, request_id: bytes, /
    ) -> bytes: ...


class SerialiseResponse(Protocol):
    def __call__(self, head: ResponseHead, framing: bytes, data: bytes = b"", start: int = 0, /) -> bytes: ...


class AccessLine(Protocol):
    def __call__(
        self,
        when: float,
        duration: float,
        head: RequestHead,
        status: int,
        sent: int,
        revision: bytes,
        endpoint: bytes,
        flag: str,
        request_id: bytes,
        client: bytes,
        protocol: bytes,
        /,
    ) -> bytes: ...


def _compiled() -> Codec | None:
    try:
        from gateway.core import _http1
    except ImportError:
        return None
    _http1.setup(
        (RequestHead, heads.REQUEST_FIELDS, heads.check_request, heads.parse_request_slowly),
        (ResponseHead, heads.RESPONSE_FIELDS, heads.check_response, heads.parse_response_slowly),
        DEFAULT_LIMITS,
        accessline.escaped,
    )
    return Codec(
        "compiled",
        _http1.parse_request,
        _http1.parse_response,
        _http1.unchunk,
        _http1.serialise_request,
        _http1.serialise_response,
        _http1.access_line,
    )


PYTHON: Final = Codec(
    "python",
    heads.parse_request,
    heads.parse_response,
    bodies.unchunk,
    heads.serialise_request,
    heads.serialise_response,
    accessline.access_line,
)
COMPILED: Final = _compiled()
"""None where the extension was not built."""
CODEC: Final = PYTHON if COMPILED is None or os.environ.get("ZEROGATE_PURE_PYTHON") == "1" else COMPILED
"""What this process uses."""

parse_request: Final = CODEC.parse_request
parse_response: Final = CODEC.parse_response
serialise_request: Final = CODEC.serialise_request
serialise_response: Final = CODEC.serialise_response
access_line: Final = CODEC.access_line


def request_body(head: RequestHead) -> BodyReader | None:
    """The reader of the request's content, None if it has none (RFC 9112 section 6.3)."""
    if head.chunked:
        return ChunkedReader(BadRequest, CODEC.unchunk, DEFAULT_LIMITS, _dropped_trailers(head))
    return LengthReader(head.content_length) if head.content_length else None


def _dropped_trailers(head: RequestHead | ResponseHead) -> AbstractSet[bytes]:
    """What Connection names is for one hop only, in the trailers too (RFC 9110 section 7.6.1)."""
    return NOT_IN_TRAILERS if head.connection is None else NOT_IN_TRAILERS | head.connection


def response_body(head: ResponseHead, method: bytes) -> BodyReader | None:
    """The reader of the content of a final response to `method`, None if it has none (RFC 9112 section 6.3)."""
    if method == b"HEAD" or head.status == 204 or head.status == 304:
        return None
    if head.chunked:
        return ChunkedReader(UpstreamProtocolError, CODEC.unchunk, DEFAULT_LIMITS, _dropped_trailers(head))
    if head.content_length is None:
        return UntilCloseReader()
    return LengthReader(head.content_length) if head.content_length else None
