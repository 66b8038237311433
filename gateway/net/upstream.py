"""One connection to an endpoint: a request head and its content out, a response to the exchange.

Theory of operation
-------------------
A connection carries one exchange at a time (no pipelining upstream: one slow response would hold up others). It reads
the response's head and content and hands them on; when the message is complete it tells its exchange whether it may
be used again: both messages complete, the endpoint keeps it open, and not one byte too many.

No byte that nobody asked for may become the beginning of the next client's response (RFC 9112 sections 6.3 and 9.2).
Endpoints that send such bytes exist: they answer HEAD as they answer GET, or count characters for a Content-Length.
What comes with the response or while the connection is idle closes it. What comes in the instant in which it is taken
for the next request can't be told from an answer, by anybody (nginx, HAProxy and Envoy look at idle connections, and no
further), so it must not come to that:

- After a response to HEAD the connection is not used again, unless that said Content-Length: 0; nor after a 304 or 204
  that announces content. A HEAD costs a connection, then (0.1 ms; across a network 470 a second to one endpoint, by the
  60 s that a closed connection keeps its port). Other responses say themselves where their content ends.
- After any other response that ended with its head, or whose client was slow to take it, `is_doubtful` has the pool ask
  the kernel for bytes that the loop has not read yet, however short the connection was idle.
- What comes all the same and does not begin like a response was under way before the request was: that is the same as a
  connection that closed under it, before any byte of an answer.

`is_reused` and `saw_response` are what the exchange needs to decide about a retry when the connection is lost.

An endpoint may answer before it has read the request, and close: its kernel then resets the connection at the next byte
that is sent to it, and the write that meets the reset fails, maybe before the loop has read the answer. The kernel
still has it, so it is read before the loss is told (`_salvage`).
"""

from __future__ import annotations

import asyncio
import os
import select
from typing import TYPE_CHECKING, Protocol, cast

from gateway.core.http1 import (
    UntilCloseReader,
    is_worth_a_look,
    parse_response,
    response_body,
    serialise_chunk,
    serialise_last_chunk,
)
from gateway.errors import ProtocolError, UpstreamProtocolError, UpstreamReset

if TYPE_CHECKING:
    from gateway.core.http1 import BodyReader, RequestHead, ResponseHead
    from gateway.errors import GatewayError
    from gateway.net.sides import ResponseSink

__all__ = ["Owner", "Upstream"]

_NOT_WHOLE = frozenset((304, 426))
_STATUS_LINE = b"HTTP/1."
MAX_INTERIM = 16  # 1xx heads before a final one; more is an endpoint gone wrong
FLUSH_TIMEOUT = 60.0  # for what a tunnel still has to deliver at its end
_FRESH = 0.5  # less than any server's keep-alive time-out; the shortest known is 1 s
_SALVAGE_PIECE, _SALVAGE_PIECES = 64 * 1024, 64


class Owner(Protocol):
    """Whoever keeps the connections: told once when one is open, once when it is closed."""

    def opened(self, upstream: Upstream) -> None:
        """The connection is made."""

    def lost(self, upstream: Upstream) -> None:
        """It is closed, by whichever side."""


class Upstream(asyncio.Protocol):
    """See the module."""

    __slots__ = (
        "_body",
        "_buffer",
        "_chunked",
        "_ended",
        "_held",
        "_interims",
        "_keep",
        "_method",
        "_owner",
        "_piece",
        "_reading",
        "_sink",
        "_trailers",
        "_transport",
        "_tunnel",
        "idle_from",
        "is_closing",
        "is_doubtful",
        "is_open",
        "is_reused",
        "is_stuck",
        "key",
        "saw_response",
    )

    def __init__(self, key: tuple[str, int], owner: Owner) -> None:
        self.key = key
        self._owner = owner
        self._reading = True
        self._sink: ResponseSink | None = None
        self._buffer = b""
        self._body: BodyReader | None = None
        self._method = b""
        self._chunked = False
        self._keep = True
        self._ended = False
        self._held = b""
        self._piece = b""
        self._tunnel = False
        self._trailers: list[bytes] = []
        self._interims = 0
        self.idle_from = 0.0
        self.is_doubtful = False
        self.is_open = False
        self.is_reused = False
        self.is_stuck = False
        self.saw_response = False

    # --- from the exchange --------------------------------------------------------------------------------------------

    def send(self, sink: ResponseSink, head: RequestHead, text: bytes, hold: bool = False) -> None:
        """Begin a request: `text` is the head to send, made from `head`. `hold`: content follows at once, so keep it
        for that write."""
        self._sink = sink
        self._method = head.method
        self._chunked = head.chunked
        self.saw_response = False
        if hold:
            self._held = text
        else:
            self._transport.write(text)

    def write(self, data: bytes) -> None:
        """Send a piece of the request's content, or of a tunnel; back-pressure comes as `pause_request`."""
        self._write(serialise_chunk(data) if self._chunked else data)

    def finish(self, content: bytes, trailers: list[bytes]) -> None:
        """The request is complete with the last piece of its content, b"" for none. `trailers` are canonical lines, []
        for none."""
        if self._chunked:
            self._write((serialise_chunk(content) if content else b"") + serialise_last_chunk(trailers))
        elif content:
            self._write(content)

    def _write(self, data: bytes) -> None:
        if self._held:
            data = self._held + data
            self._held = b""
        self._transport.write(data)

    def write_end(self) -> None:
        """Pass on the client's end of file in a tunnel."""
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def is_stale(self, now: float) -> bool:
        """Whether the endpoint has closed the connection, idle for a while, even if the loop has not noticed yet. While
        nothing is asked of it, anything that can be read is its end."""
        return now - self.idle_from >= _FRESH and self.has_input()

    def has_input(self) -> bool:
        """Whether the kernel has something from the endpoint that the loop has not read; answers the doubt."""
        self.is_doubtful = False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def release(self, now: float) -> None:
        """The exchange is over and the connection goes back to the pool."""
        self._sink = None
        self.is_reused = True
        self.idle_from = now
        if not self._reading:  # the last client may have been slow
            self.is_doubtful = True
            self.resume()

    def close(self) -> None:
        """The exchange is over and this connection with it."""
        self._sink = None
        self._transport.abort()

    def close_tunnel(self) -> None:
        """As `close`, after what was written has been sent; an endpoint that does not read it has FLUSH_TIMEOUT."""
        self._sink = None
        self._transport.close()
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(FLUSH_TIMEOUT, self._transport.abort)

    def pause(self) -> None:
        """Read no more until `resume`."""
        if self._reading and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on after `pause`."""
        if not self._reading and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    # --- from the endpoint --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class, with the same methods
        self.is_closing = self._transport.is_closing
        self.is_open = True
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:
            self._transport.abort()  # nobody asked for anything
            return
        self.saw_response = True
        try:
            if self._tunnel:
                sink.response_body(data)
            elif self._body is not None:
                self._feed(data)
            else:
                if self._buffer:
                    before, piece, data = len(self._buffer), data, self._buffer + data
                    if b"\n" not in piece and not is_worth_a_look(before, len(data)):
                        self._buffer = data
                        return
                head = parse_response(data)
                if (
                    head is not None
                    and head.content_length == len(data) - head.end
                    # Only then has a response with a Content-Length that much content (RFC 9112 section 6.3, rule 1).
                    # And 426, whose Upgrade field needs the longer way.
                    and head.status not in _NOT_WHOLE
                    and self._method != b"HEAD"
                ):
                    self._buffer = b""
                    self._interims = 0
                    sink.response_whole(head, data, head.end, head.keep_alive)  # who takes it next sees if it closes
                else:
                    self._begin(head, data, sink)
        except ProtocolError as error:
            self._lose(self._as_loss(data) or error)

    def _as_loss(self, data: bytes) -> UpstreamReset | None:
        """What to tell of malformed bytes that are no answer, as nothing that was sent led to them: see the module."""
        is_first = self._body is None and not self._buffer and not self._interims and not self._tunnel
        if not is_first or not self.is_reused or _STATUS_LINE.startswith(data[: len(_STATUS_LINE)]):
            return None
        self.saw_response = False
        return UpstreamReset("The endpoint sent bytes that belong to no response, before the one to this request.")

    def _begin(self, head: ResponseHead | None, data: bytes, sink: ResponseSink) -> None:
        """A response that did not come in one piece; `head` is what `data` begins with, None if it is not complete."""
        while head is not None and head.status < 200:
            data = data[head.end :]
            if head.status == 101:
                self._switch(head, data, sink)
                return
            self._interims += 1
            if self._interims > MAX_INTERIM:
                raise UpstreamProtocolError("The endpoint sends interim responses without end.")
            sink.response_interim(head)
            head = parse_response(data) if data else None
        if head is None:
            self._buffer = data
            return
        self._buffer = b""
        self._interims = 0
        body = response_body(head, self._method)
        self._keep = head.keep_alive
        rest = data[head.end :]
        sink.response_head(head, has_body=body is not None, hold=body is None or bool(rest))
        if self._sink is not sink:
            return
        if body is None:
            self._doubt(head)
            self._complete(b"", rest)
            return
        self._body = body
        if rest:
            self._feed(rest)

    def _doubt(self, head: ResponseHead) -> None:
        """A response is over with its head, as we read it: does the endpoint know?"""
        is_sure = head.content_length == 0 if self._method == b"HEAD" else not (head.content_length or head.chunked)
        self.is_doubtful = True
        self._keep = self._keep and is_sure

    def _switch(self, head: ResponseHead, rest: bytes, sink: ResponseSink) -> None:
        sink.response_switch(head)  # raises if nobody asked for it
        self._tunnel = True
        self._chunked = False
        self._buffer = b""
        if rest and self._sink is sink:
            sink.response_body(rest)

    def _feed(self, data: bytes) -> None:
        assert self._body is not None
        rest = self._body.feed(data, self)
        piece, self._piece = self._piece, b""
        if self._sink is None:
            return
        if self._ended:
            self._complete(piece, rest or b"")
        elif piece:
            self._sink.response_body(piece)

    def body(self, data: bytes) -> None:
        """From the reader of the response's content, at most once for what it is fed: the end may follow at once, and
        the last chunk costs no write of its own then."""
        self._piece = data

    def end(self, trailers: list[bytes]) -> None:
        """From the reader of the response's content: it is complete."""
        self._ended = True
        self._trailers = trailers

    def _complete(self, content: bytes, rest: bytes) -> None:
        sink = self._sink
        assert sink is not None
        self._body = None
        self._ended = False
        reusable = self._keep and not rest and not self._transport.is_closing()
        sink.response_end(content, self._trailers, reusable=reusable)

    def eof_received(self) -> bool:
        if self._tunnel and self._sink is not None:
            self._sink.endpoint_ended()
            return True
        if self._sink is not None and isinstance(self._body, UntilCloseReader):
            self._keep = False
            self._trailers = []
            self._complete(b"", b"")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, ConnectionError) and self._sink is not None and not self._tunnel:
            self._salvage()
        self._owner.lost(self)
        self._lose(UpstreamReset("The endpoint closed the connection before its response was complete."))

    def _salvage(self) -> None:
        """Read what came before the reset that a write met."""
        descriptor = self._transport.get_extra_info("socket").fileno()
        try:
            for _ in range(_SALVAGE_PIECES):
                data = os.read(descriptor, _SALVAGE_PIECE)
                # No end of file here: of a response that ends with its connection nobody knows whether it is complete.
                if self._sink is None or not data:
                    return
                self.data_received(data)
        except OSError:
            return  # the reset itself

    def _lose(self, error: GatewayError) -> None:
        sink, self._sink = self._sink, None
        self._transport.abort()
        if sink is not None:
            sink.upstream_lost(error)

    def pause_writing(self) -> None:
        self.is_stuck = True
        if self._sink is not None:
            self._sink.pause_request()

    def resume_writing(self) -> None:
        self.is_stuck = False
        if self._sink is not None:
            self._sink.resume_request()
