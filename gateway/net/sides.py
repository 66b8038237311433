"""What an exchange is to the connections on its two sides, and what its client's connection is to it.

Connections know nothing of the exchange's module, which is above theirs: what they call there is told here. A client's
request comes on a connection of its own or as an HTTP/2 stream: a `Responder` either way. The connections to endpoints
are made by the pools that hand them out, so their own classes say what they offer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gateway.core.fields import Peer
    from gateway.core.http1 import ResponseHead
    from gateway.errors import GatewayError

__all__ = ["RequestSink", "Responder", "ResponseSink"]


class RequestSink(Protocol):
    """The exchange, as a downstream connection sees it."""

    def request_body(self, data: bytes) -> None:
        """A piece of the request's content, never empty."""

    def request_end(self, content: bytes, trailers: list[bytes]) -> None:
        """The request is complete with the last piece of its content, b"" for none. `trailers` are canonical lines, []
        for none."""

    def fail(self, error: GatewayError) -> None:
        """The request's content is malformed."""

    def client_gone(self) -> None:
        """The connection is closed; nothing can be written any more."""

    def client_ended(self) -> bool:
        """End of file from the client, after a complete request or in a tunnel. False: it counts as having left."""

    def pause_response(self) -> None:
        """The client reads slower than the endpoint writes."""

    def resume_response(self) -> None:
        """The client has caught up: write on."""

    def on_deadline(self, now: float) -> float:
        """The exchange's clocks, looked at; when to look again, infinity if it will say so itself."""


class Responder(Protocol):
    """A request's connection, or its HTTP/2 stream, as its exchange sees it."""

    cluster_local: bool
    has_content: bool
    """While the exchange begins: content came with the head, and is handed over as soon as it has begun."""
    peer: Peer
    protocol: bytes

    def respond(self, head: ResponseHead, *, has_body: bool, hold: bool) -> None:
        """Send the head of the final response. `hold`: content follows at once, so keep it for that write."""

    def respond_whole(self, head: ResponseHead, data: bytes, start: int) -> None:
        """Send a response of known length, whose content is `data` from `start` on, and finish."""

    def interim(self, head: ResponseHead) -> None:
        """Send a 1xx head, where the client's version has such."""

    def write(self, data: bytes) -> None:
        """Send a piece of the response's content; back-pressure comes as `pause_response`."""

    def finish(self, content: bytes, trailers: list[bytes]) -> None:
        """The response is complete with the last piece of its content, b"" for none. `trailers` are canonical lines, []
        for none."""

    def reply(self, status: int, text: str, extra: bytes = b"") -> int:
        """Answer with `text` as the body and `extra` field lines, and finish. Returns the body's size."""

    def take_back(self) -> bool:
        """Forget the head of a response if it is still held back. False: the client has it."""

    def reset(self) -> None:
        """End a response that can't be completed, in a way no client takes for its end."""

    def switch(self, head: ResponseHead) -> None:
        """Send a 101 and be a tunnel from here on; only for a request that asked for an upgrade."""

    def write_end(self) -> None:
        """Pass on the endpoint's end of file in a tunnel."""

    def close_tunnel(self) -> None:
        """Both sides of the tunnel are done: close once what was written has gone out."""

    def pause(self) -> None:
        """Take no more of the request until `resume`."""

    def wait(self) -> None:
        """As `pause`, but if the client leaves meanwhile the exchange is told, though what it sent is not read."""

    def resume(self) -> None:
        """Read on after `pause`, `wait`."""

    def set_deadline(self, when: float) -> None:
        """Have the exchange's `on_deadline` called at `when`."""


class ResponseSink(Protocol):
    """The exchange, as an upstream connection sees it."""

    def response_interim(self, head: ResponseHead) -> None:
        """A 1xx response other than 101."""

    def response_switch(self, head: ResponseHead) -> None:
        """101: the bytes that follow belong to another protocol."""

    def response_head(self, head: ResponseHead, *, has_body: bool, hold: bool) -> None:
        """The final response's head. `hold`: content or the end follows at once, so one write can carry both."""

    def response_whole(self, head: ResponseHead, data: bytes, start: int, reusable: bool) -> None:
        """Head, content (`data` from `start` on) and end at once, for a response that came in one piece."""

    def response_body(self, data: bytes) -> None:
        """A piece of the content, never empty."""

    def response_end(self, content: bytes, trailers: list[bytes], *, reusable: bool) -> None:
        """The response is complete with the last piece of its content, b"" for none; `reusable` says whether the
        connection may carry another exchange. `trailers` are canonical lines, [] for none."""

    def endpoint_ended(self) -> None:
        """End of file in a tunnel."""

    def upstream_lost(self, error: GatewayError) -> None:
        """The connection broke, or what came was no response; `error` is what the client would be told."""

    def pause_request(self) -> None:
        """The endpoint reads slower than the client writes."""

    def resume_request(self) -> None:
        """The endpoint has caught up: write on."""
