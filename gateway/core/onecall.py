"""One HTTP/2 request on a connection of its own, by prior knowledge: what a probe needs. Pure: bytes in, bytes out.

`begin` is what to send first. `feed` takes what the peer sends and returns what to answer; when it is `done` the rest
can be read off. The response's content is bounded by the window that every connection starts with (64 KiB), which is
never replenished. The checks of a response are those of any other from an endpoint.

A gRPC health check (grpc.health.v1, what Kubernetes' grpc probes do) is the call `Check` with one string, answered by
one number; written out by hand it is shorter than its generated code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.frames import (
    PREFACE,
    SETTINGS_ACK,
    ConnectionFault,
    ErrorCode,
    FieldEncoder,
    FrameReader,
    Setting,
    data_frame,
    error_name,
    headers_frames,
    ping_frame,
    settings_frame,
)
from gateway.core.http1 import MAX_FIELD_SECTION
from gateway.core.http2 import response_head, response_trailers
from gateway.errors import UpstreamProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.core.frames import Field
    from gateway.core.http1 import ResponseHead

__all__ = ["OneCall", "get_call", "health_call", "health_verdict"]

_STREAM = 1
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}
_STATES = {b"\x08\x02": "NOT_SERVING", b"\x08\x03": "SERVICE_UNKNOWN"}


class OneCall:
    """See the module. `head` and `trailers` are None while they have not come."""

    __slots__ = ("_answers", "_content", "_reader", "begin", "done", "head", "trailers")

    def __init__(self, fields: Sequence[Field], content: bytes) -> None:
        block = FieldEncoder().encode(list(fields))
        self.begin = PREFACE + settings_frame([(Setting.ENABLE_PUSH, 0)])
        self.begin += headers_frames(_STREAM, block, end=not content)
        if content:
            self.begin += data_frame(_STREAM, content, end=True)
        self._reader = FrameReader(MAX_FIELD_SECTION)
        self._answers: list[bytes] = []
        self._content: list[bytes] = []
        self.head: ResponseHead | None = None
        self.trailers: list[bytes] | None = None
        self.done = False

    @property
    def content(self) -> bytes:
        """What came of the response's content."""
        return b"".join(self._content)

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the peer; returns what to send. Raises UpstreamProtocolError, after which nothing counts."""
        try:
            self._reader.feed(data, self)
        except ConnectionFault as fault:
            raise UpstreamProtocolError(str(fault)) from fault
        answers = b"".join(self._answers)
        self._answers.clear()
        return answers

    # --- from the reader ----------------------------------------------------------------------------------------------

    def data(self, stream: int, data: bytes, size: int, end: bool) -> None:
        self._content.append(data)
        self._ended(end)

    def headers(self, stream: int, fields: Sequence[Field], end: bool) -> None:
        if self.head is not None:
            self.trailers = response_trailers(fields)
        else:
            head = response_head(fields)
            if head.status >= 200:
                self.head = head
        self._ended(end)

    def _ended(self, end: bool) -> None:
        if end:
            self.done = self._reader.stopped = True

    def reset(self, stream: int, code: int) -> None:
        raise UpstreamProtocolError(f"The request was reset ({error_name(code)}).")

    def settings(self, values: Iterable[tuple[int, int]]) -> None:
        self._answers.append(SETTINGS_ACK)

    def settings_acknowledged(self) -> None:
        pass

    def ping(self, payload: bytes) -> None:
        self._answers.append(ping_frame(payload, acknowledges=True))

    def pong(self, payload: bytes) -> None:
        pass

    def goaway(self, last: int, code: int) -> None:
        if last < _STREAM or code != ErrorCode.NO_ERROR:
            raise UpstreamProtocolError(f"The connection was closed ({error_name(code)}).")

    def window(self, stream: int, increment: int) -> None:
        pass


def get_call(authority: str, path: str, fields: Iterable[tuple[str, str]]) -> OneCall:
    """A GET. `fields` are lower-case names with values; `host` among them is the authority instead."""
    wanted = dict(fields)
    pseudo = (":method", "GET"), (":scheme", "http"), (":authority", wanted.pop("host", authority)), (":path", path)
    return OneCall([_field(name, value) for name, value in (*pseudo, *wanted.items())], b"")


def health_call(authority: str, service: str, agent: str) -> OneCall:
    """A gRPC health check of `service`, "" for the server as a whole."""
    name = service.encode()
    request = b"\x0a" + _varint(len(name)) + name if name else b""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":authority": authority,
        ":path": "/grpc.health.v1.Health/Check",
        "content-type": "application/grpc",
        "te": "trailers",
        "user-agent": agent,
    }
    message = b"\x00" + len(request).to_bytes(4) + request
    return OneCall([_field(name, value) for name, value in fields.items()], message)


def health_verdict(call: OneCall) -> str:
    """ "" if a health check that is done says SERVING, else what it says."""
    if call.head is None or call.head.status != 200:
        return f"the answer is not gRPC (status {call.head.status if call.head else 'missing'})"
    lines = call.head.fields.split(b"\r\n") if call.trailers is None else call.trailers
    told = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
    status = told.get(b"grpc-status", b"missing").decode("latin-1")
    if status == "12":
        return "the server has no grpc.health.v1.Health service"
    if status != "0":
        return f"grpc-status is {status} {told.get(b'grpc-message', b'').decode('latin-1')}".rstrip()
    state = call.content[5:7]
    return "" if state == _SERVING else f"the service is {_STATES.get(state, 'in an unknown state')}"


def _field(name: str, value: str) -> Field:
    return name.encode("latin-1", "replace"), value.encode("latin-1", "replace"), False


def _varint(number: int) -> bytes:
    low = []
    while number > 0x7F:
        low.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*low, number))
