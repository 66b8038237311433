"""Everything that can go wrong with one request, as the client sees it.

A class knows the status of the local reply, the response flag for the access log and the metrics (Envoy's letters,
which operators know). The exception's text is the reply's body: one sentence that says why, for the person at the other
end. `gateway.exchange` and, where it begins, `gateway.exchanges` have the only `except GatewayError`: a local reply if
no head went out, a reset otherwise.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BadRequest",
    "BodyTooLarge",
    "BodyTooSlow",
    "ExpectationFailed",
    "GatewayError",
    "HeadTimeout",
    "HeadTooLarge",
    "IdleTimeout",
    "LoopDetected",
    "MethodRefused",
    "NoRevision",
    "NoRoute",
    "NotReady",
    "Overloaded",
    "ProtocolError",
    "QueueFull",
    "QueueTimeout",
    "RequestTimeout",
    "ResponseStartTimeout",
    "RevisionFailed",
    "Stopping",
    "StreamRefused",
    "StreamReset",
    "TooManyConnections",
    "UpstreamConnectFailure",
    "UpstreamProtocolError",
    "UpstreamReset",
    "UriTooLong",
    "VersionRefused",
]


class GatewayError(Exception):
    """A request the gateway answers itself, with `status`; `response_flag` is for the access log and the metrics,
    `fields` are lines that go with the answer."""

    status: ClassVar[int] = 500
    response_flag: ClassVar[str] = "-"
    fields: ClassVar[bytes] = b""
    limit: ClassVar[str] = ""
    """The limit that the request ran into, as its metric calls it; "" for none."""


# --- the client's message ---------------------------------------------------------------------------------------------


class ProtocolError(GatewayError):
    """A message that breaks RFC 9110 or 9112; the connection it came on is of no more use."""

    status = 400
    response_flag = "DPE"


class BadRequest(ProtocolError):
    """The request is malformed or ambiguous (RFC 9112 section 11)."""


class UriTooLong(ProtocolError):
    """The request line is longer than the gateway reads."""

    status = 414
    limit = "request-line"


class HeadTooLarge(ProtocolError):
    """The field section has more bytes or fields than the gateway reads (RFC 6585 section 5)."""

    status = 431
    limit = "fields"


class BodyTooLarge(ProtocolError):
    """More content than a request may have here (RFC 9110 section 15.5.14)."""

    status = 413
    limit = "body"


class ExpectationFailed(ProtocolError):
    """An Expect other than 100-continue (RFC 9110 section 10.1.1)."""

    status = 417


class MethodRefused(ProtocolError):
    """CONNECT and TRACE: a gateway in front of services has no use for either, an attacker has.

    501 and not 405, which would have to list what the target allows (RFC 9110 sections 9.1 and 15.5.6)."""

    status = 501


class VersionRefused(ProtocolError):
    """A version of HTTP other than 1.0 and 1.1 on an HTTP/1 connection."""

    status = 505


class HeadTimeout(GatewayError):
    """The head did not arrive in time."""

    status = 408
    response_flag = "DT"
    limit = "head-timeout"


class BodyTooSlow(GatewayError):
    """The request's content comes more slowly than the gateway waits for (RFC 9110 section 15.5.9)."""

    status = 408
    response_flag = "DT"
    limit = "body-rate"


class Overloaded(GatewayError):
    """This worker has as many connections as it may have."""

    status = 503
    response_flag = "DO"
    limit = "connections"


class TooManyConnections(GatewayError):
    """One client address has as many connections as it may have.

    429 and not 503: what is wrong is on the client's side, and a 5xx would alarm the operator of a gateway that is
    well. It is also what people write in HAProxy for the same rule: `deny deny_status 429 if { src_conn_cur gt N }`."""

    status = 429
    response_flag = "RL"
    limit = "connections-per-client"


class Stopping(GatewayError):
    """The gateway stops, and the request has had its grace period."""

    status = 503
    response_flag = "DR"


# --- where it would go ------------------------------------------------------------------------------------------------


class NoRoute(GatewayError):
    """No rule for this host, path and fields on this listener."""

    status = 404
    response_flag = "NR"


class LoopDetected(GatewayError):
    """The request came by here as often as no path leads that has an end (RFC 9110 section 7.6.3); the status is RFC
    5842's, which says just that."""

    status = 508
    response_flag = "NR"


class NotReady(GatewayError):
    """No state has come from the controller yet, so nothing can be said about any host."""

    status = 503
    response_flag = "NC"


class NoRevision(GatewayError):
    """The rule names a revision that the snapshot does not hold (any more)."""

    status = 503
    response_flag = "NC"


class QueueFull(GatewayError):
    """As many requests, or bytes of them, wait as may wait. The queue moves while there is an endpoint, so it is worth
    asking again soon."""

    status = 503
    response_flag = "UO"
    fields = b"retry-after: 1\r\n"


class RevisionFailed(GatewayError):
    """The revision's pods can't start, so nobody waits for them. Kubernetes tries again with a growing back-off."""

    status = 503
    response_flag = "UH"
    fields = b"retry-after: 10\r\n"


class QueueTimeout(GatewayError):
    """No endpoint of the revision took the request in time."""

    status = 504
    response_flag = "UT"


# --- the upstream -----------------------------------------------------------------------------------------------------


class UpstreamConnectFailure(GatewayError):
    """The endpoint took no connection, so the request has not run."""

    status = 503
    response_flag = "UF"


class UpstreamReset(GatewayError):
    """The endpoint closed the connection before its response was complete; the request may have run."""

    status = 502
    response_flag = "UC"


class StreamReset(UpstreamReset):
    """The endpoint gave up this request's HTTP/2 stream; its other streams go on."""

    response_flag = "UR"


class StreamRefused(StreamReset):
    """The endpoint says that it has not looked at the request (RFC 9113 section 8.7), so it can be sent again."""

    status = 503


class UpstreamProtocolError(ProtocolError):
    """The endpoint's response is malformed; nothing more is read from that connection."""

    status = 502
    response_flag = "UPE"


class ResponseStartTimeout(GatewayError):
    """`responseStartTimeoutSeconds` passed without a response head."""

    status = 504
    response_flag = "UT"


class IdleTimeout(GatewayError):
    """`idleTimeoutSeconds` passed without a byte either way."""

    status = 504
    response_flag = "UT"


class RequestTimeout(GatewayError):
    """`timeoutSeconds` passed before the response was complete."""

    status = 504
    response_flag = "UT"
