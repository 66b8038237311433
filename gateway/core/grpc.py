"""What this gateway says itself to a gRPC caller, which reads a status of gRPC's and not of HTTP. Pure.

A gRPC response is always HTTP 200; the outcome is `grpc-status` in its trailers, and a response without messages is
one header block that is both ("Trailers-Only", PROTOCOL-HTTP2.md). The codes are those of gRPC's own table for clients
that meet a plain HTTP status (http-grpc-status-mapping.md), which Envoy uses for its local replies too, with three
exceptions where a proxy knows more than that client: a time-out (504, 408) is DEADLINE_EXCEEDED, because the request
may have run and UNAVAILABLE invites a retry; what is too large (413, 414, 431) is RESOURCE_EXHAUSTED, as gRPC's
libraries call it; and an error of our own (500) is INTERNAL. A full queue is 503 and thereby UNAVAILABLE, as in Envoy:
the request has not run, and callers retry that one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.core.frames import Field

__all__ = ["is_grpc", "local_reply"]

_UNKNOWN: Final = 2
_STATUS: Final = {
    400: 13,  # INTERNAL
    401: 16,  # UNAUTHENTICATED
    403: 7,  # PERMISSION_DENIED
    404: 12,  # UNIMPLEMENTED
    405: 12,
    408: 4,  # DEADLINE_EXCEEDED
    413: 8,  # RESOURCE_EXHAUSTED
    414: 8,
    429: 14,  # UNAVAILABLE
    431: 8,
    500: 13,
    502: 14,
    503: 14,
    504: 4,
}
# Percent-encoding of grpc-message: all but printable ASCII, and the percent sign.
_ENCODED = re.compile(rb"[^ -$&-~]")


def is_grpc(content_type: bytes | None) -> bool:
    """Whether a request's Content-Type is gRPC's. `application/grpc-web` is another protocol: it has no trailers."""
    return content_type is not None and _CONTENT_TYPE.match(content_type) is not None


_CONTENT_TYPE = re.compile(rb"(?i:application/grpc)(?:[+; \t]|$)")


def local_reply(status: int, text: str) -> list[Field]:
    """The field list of a Trailers-Only response that says what an HTTP `status` with `text` would."""
    message = _ENCODED.sub(lambda match: b"%%%02X" % match.group()[0], text.encode())
    return [
        (b":status", b"200", False),
        (b"content-type", b"application/grpc", False),
        (b"grpc-status", b"%d" % _STATUS.get(status, _UNKNOWN), False),
        (b"grpc-message", message, False),
    ]
