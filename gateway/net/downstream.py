"""One client's HTTP/1.1 connection: bytes in, heads and bodies to the exchange; the exchange's response out.

Theory of operation
-------------------
The connection reads one request at a time. Its phase says what the next bytes are: a head, content, nothing yet (the
response is pending; a pipelining client's next requests wait, at most MAX_PIPELINED bytes, then reading pauses), the
other side of a tunnel, or the remains of a request that was answered before it was complete (discarded for a short
while, so that the client gets to read the answer instead of a reset; RFC 9112 section 9.6).

Closing waits until what was written has gone out, but not for ever: FLUSH_TIMEOUT.

It knows no policy: `begin`, handed to it, makes the exchange of a request, which answers through the methods of a
`Responder` (`net.sides`), as an HTTP/2 stream is one too. A head is held back until the first piece of the body, so
that both leave in one write.

End of file means that the client sends no more: it left, or it half-closed its connection and waits for the answer (as
`nc -N` does). The exchange knows whether the difference can be found out (`client_ended`); if it can't, and between
requests, in the middle of one, from an HTTP/1.0 client and over TLS, the client has left and its place is free at once.
If it can, what is in hand is answered, pipelined requests included, a reset tells that nobody waits (see
net.halfclose), and the connection closes after the last answer. In a tunnel half-close is passed on.

Over TLS the client's goodbye (close_notify) is that it left, though RFC 8446 section 6.1 would let it wait for the
answer. (In Envoy it is the end of the connection too; nginx goes by the end of the socket, with TLS or without.) TLS
1.2 would not: who gets a goodbye answers it and closes, and drops what it had to say (RFC 5246 section 7.2.1). So no
HTTP client half-closes in that way; but many that leave, those of asyncio among them, say goodbye and keep the socket
until they have ours, and each would hold a place at an endpoint for a request that nobody waits for.

A response that can't be completed is broken off with a reset. Mostly the missing last chunk or the missing bytes would
say so too, but where the end of the connection is the end of the content (HTTP/1.0), only the reset does. The same goes
for a complete response that its client does not take: what is left of it must not look like all of it.

One timer per connection, re-armed only when the deadline moves forward: a timer that fires too early looks at the
deadline again. So a keep-alive request costs no timer at all.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from enum import IntEnum
from math import inf
from typing import TYPE_CHECKING, cast

from gateway.core.bodylimits import BodyRate, CountedReader, too_large
from gateway.core.frames import PREFACE
from gateway.core.http1 import (
    REASONS,
    ResponseHead,
    is_worth_a_look,
    parse_request,
    request_body,
    serialise_chunk,
    serialise_last_chunk,
    serialise_response,
    without,
)
from gateway.errors import (
    BodyTooSlow,
    GatewayError,
    HeadTimeout,
    Overloaded,
    ProtocolError,
    Stopping,
    TooManyConnections,
)
from gateway.net.downstream2 import Connection

if TYPE_CHECKING:
    from gateway.core.http1 import BodyReader, RequestHead
    from gateway.net.listener import Listener
    from gateway.net.sides import RequestSink

__all__ = ["Downstream"]

LINGER_TIMEOUT = 5.0  # nginx's lingering_timeout; the time bounds the bytes that are read for nothing
FLUSH_TIMEOUT = 60.0  # nginx's send_timeout
MAX_PIPELINED = 64 * 1024
_TOLD_AT_LEAST = 16
_TRAILER = frozenset((b"trailer",))
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: close() sends a reset


def _negotiated_http2(transport: asyncio.BaseTransport) -> bool:
    """Whether the client chose HTTP/2 by ALPN."""
    tls = transport.get_extra_info("ssl_object")
    return tls is not None and tls.selected_alpn_protocol() == "h2"


class Phase(IntEnum):
    HEAD = 0
    BODY = 1
    PENDING = 2
    TUNNEL = 3
    LINGER = 4
    CLOSED = 5


# Plain names: an attribute of an enum is a dictionary look-up more on each request.
_HEAD, _BODY, _PENDING, _TUNNEL, _LINGER, _CLOSED = Phase


class Downstream(asyncio.Protocol):
    """See the module. Everything is called on the loop's thread."""

    protocol = b"HTTP/1.1"

    __slots__ = (
        "_body",
        "_buffer",
        "_chunked",
        "_deadline",
        "_eof",
        "_exchange",
        "_held",
        "_keep",
        "_listener",
        "_method",
        "_persistent",
        "_phase",
        "_piece",
        "_pumping",
        "_rate",
        "_reading",
        "_requests_left",
        "_timer",
        "_timer_at",
        "_trailers",
        "_transport",
        "_unread",
        "_watched",
        "_write_paused",
        "cluster_local",
        "has_content",
        "peer",
    )

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.cluster_local = listener.cluster_local
        self._phase: Phase = _HEAD
        self._buffer = b""
        self._held = b""
        self._body: BodyReader | None = None
        self._piece = b""
        self._trailers: list[bytes] = []
        self.has_content = False
        self._rate: BodyRate | None = None
        self._requests_left = listener.limits.max_requests_per_connection  # from 0 it never comes to 0
        self._exchange: RequestSink | None = None
        self._keep = True
        self._persistent = True
        self._method = b""
        self._chunked = False
        self._pumping = False
        self._unread = False
        self._reading = True
        self._write_paused = False
        self._deadline = inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._eof = False
        self._watched = False

    # --- from the client ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        listener = self._listener
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class, with the same methods
        self.peer = listener.peer(transport)
        listener.connections.add(self)
        listener.traffic.downstream_connections += 1
        total, limit = listener.traffic.downstream_connections, listener.limits.max_connections
        over = listener.enter(self.peer)
        if over > 0:
            per_client = listener.clients.limit
            message = f"Your address has all the {per_client} connections it may have here."
            self._turn_away(TooManyConnections(message), over, per_client)
        elif total > limit:
            message = f"This gateway has all the {limit} connections it may have."
            self._turn_away(Overloaded(message), total - limit, limit)
        elif _negotiated_http2(transport):
            self._go_on_as_http2(b"")
        else:
            self.set_deadline(listener.loop.time() + listener.keep_alive_timeout)

    def _turn_away(self, error: GatewayError, over: int, limit: int) -> None:
        """Refuse this connection, the `over`th beyond `limit`. It takes its place for as long as the client needs to
        read why; so only some get to know, the others are cut off."""
        if over > max(_TOLD_AT_LEAST, limit // 8):
            self._listener.traffic.limit_refusals[error.limit] += 1
            self._transport.abort()
        else:
            self._refuse(error)

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if phase is _HEAD:
            if self._buffer:
                before, piece, data = len(self._buffer), data, self._buffer + data
                # Not yet complete, surely: whoever sends a head byte by byte must not have it parsed byte by byte.
                if b"\n" not in piece and not is_worth_a_look(before, len(data), self._listener.head_limits):
                    self._buffer = data
                    return
            self._pump(data)
        elif phase is _BODY:
            self._feed(data)
        elif phase is _TUNNEL:
            if self._exchange is not None:
                self._exchange.request_body(data)
        elif phase is _PENDING:
            self._buffer += data
            if len(self._buffer) > MAX_PIPELINED:
                self._stop_pipelining()

    def eof_received(self) -> bool:
        if self._eof or self._phase is _LINGER:
            return False
        self._eof = True
        self._reading = False
        if not self._outlives_eof():
            return False
        self._watched = self._listener.resets.watch(self._transport, self._transport.abort)
        return self._watched or self._phase is _TUNNEL

    def _outlives_eof(self) -> bool:
        """Whether there is somebody to write to after end of file. If not, what is in hand is given up."""
        exchange = self._exchange
        if exchange is None:
            return False
        may_wait = self._phase is _TUNNEL or (self._phase is _PENDING and self._may_half_close())
        if may_wait and exchange.client_ended():
            if not self._buffer:
                self._keep = False
            return True
        self._exchange = None
        exchange.client_gone()
        return False

    def _may_half_close(self) -> bool:
        return self._persistent and self._transport.get_extra_info("ssl_object") is None

    def _stop_pipelining(self) -> None:
        """Read no more of what comes before its turn, but notice the client's leaving behind it."""
        if self._reading and not self._watched:
            self._watched = self._listener.resets.watch(self._transport, self._ended_unread, ends=True)
        self.pause()

    def _ended_unread(self) -> None:
        """End of file, or a reset, behind requests that are not read yet. As `eof_received`, but for these requests."""
        self._listener.resets.forget(self._transport)
        self._watched = False
        exchange = self._exchange
        if exchange is not None and not (self._may_half_close() and exchange.client_ended()):
            self._transport.abort()
        else:
            self._watched = self._listener.resets.watch(self._transport, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = _CLOSED
        if self._watched:
            self._listener.resets.forget(self._transport)
        listener = self._listener
        listener.connections.discard(self)
        listener.traffic.downstream_connections -= 1
        listener.leave(self.peer)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()

    def pause_writing(self) -> None:
        self._write_paused = True
        if self._exchange is not None:
            self._exchange.pause_response()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._exchange is not None:
            self._exchange.resume_response()
        elif self._phase is _HEAD:
            self._next()

    def _pump(self, data: bytes) -> None:
        """Start the requests in `data`, one after the other, for as long as they are answered at once. What is in
        `_buffer` is the beginning of `data`, of which it was known that it is no whole head."""
        self._pumping = True
        try:
            while True:
                if self._write_paused:  # a client that asks and asks, and does not read: answers would pile up
                    self._buffer = data
                    self.pause()
                    return
                try:
                    head = parse_request(data, 0, self._listener.head_limits)
                except ProtocolError as error:
                    # HTTP/2's preface reads as a request of that version; it counts as the first thing said only.
                    if not self._method and data.startswith(PREFACE[:18]):
                        self._go_on_as_http2(data)
                    else:
                        self._refuse(error)
                    return
                if head is None:
                    self._await_head(data)
                    return
                self._buffer = b"" if head.end == len(data) else data[head.end :]
                listener = self._listener
                self._requests_left = left = self._requests_left - 1
                self._keep = head.keep_alive and left != 0 and not listener.draining
                self._persistent = head.persistent
                self._method = head.method
                if head.chunked or head.content_length:
                    self._start_with_body(head)
                else:
                    self._phase = _PENDING
                    begin = listener.begin
                    self._exchange = begin(self, head)
                if self._phase is not _HEAD or not self._buffer:
                    return
                data, self._buffer = self._buffer, b""
        finally:
            self._pumping = False

    def _go_on_as_http2(self, data: bytes) -> None:
        """The client speaks HTTP/2: `data` is what it has said so far."""
        self._phase = _CLOSED
        if self._timer is not None:
            self._timer.cancel()
        self._listener.connections.discard(self)
        connection = Connection(self._listener, self._transport, self.peer)
        self._transport.set_protocol(connection)
        if data:
            connection.data_received(data)

    def _await_head(self, data: bytes) -> None:
        if not self._buffer:
            self.set_deadline(self._listener.loop.time() + self._listener.limits.head_timeout)
        self._buffer = data
        self.resume()

    def _start_with_body(self, head: RequestHead) -> None:
        listener = self._listener
        self._body = body = request_body(head)
        assert body is not None
        self._phase = _BODY
        limit = listener.limits.max_body
        if limit:
            if head.content_length is not None and head.content_length > limit:
                self._refuse(too_large(limit), head)
                return
            self._body = CountedReader(body, limit)
        self.resume()
        self.has_content = bool(self._buffer) and not head.chunked  # of chunked content it may be a size without data
        self._exchange = listener.begin(self, head)
        self.has_content = False
        if self._exchange is None:
            return
        if self._buffer:
            rest, self._buffer = self._buffer, b""
            self._feed(rest)
        elif head.other(b"expect") is None:
            self._watch_rate()

    def _feed(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        try:
            rest = body.feed(data, self)
        except ProtocolError as error:
            self._piece = b""
            self._keep = False
            self._unread = True
            if self._exchange is not None:
                self._exchange.fail(error)
            return
        piece, self._piece = self._piece, b""
        exchange = self._exchange
        if rest is not None:
            self._phase = _PENDING
            self._buffer = rest
            if exchange is not None:
                exchange.request_end(piece, self._trailers)
            return
        if piece and exchange is not None:
            exchange.request_body(piece)
        if self._rate is None and self._phase is _BODY:
            self._watch_rate()

    def body(self, data: bytes) -> None:
        """From the reader of the request's content, at most once for what it is fed: the end may follow at once, and
        both leave in one write then."""
        if self._rate is not None:
            self._rate.received += len(data)
        self._piece = data

    def end(self, trailers: list[bytes]) -> None:
        """From the reader of the request's content: it is complete."""
        self._body = self._rate = None
        self._trailers = trailers

    def _watch_rate(self) -> None:
        limits = self._listener.limits
        if limits.min_body_rate:
            rate = BodyRate(self._listener.loop.time(), limits.min_body_rate, limits.body_rate_window)
            rate.excused = not self._reading
            self._rate = rate
            self._arm(rate.deadline)

    # --- to the client ------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Read no more until `resume`."""
        if self._reading and self._phase is not _CLOSED:
            self._reading = False
            self._transport.pause_reading()
            if self._rate is not None:
                self._rate.excused = True

    def wait(self) -> None:
        """As `pause`, but if the client leaves meanwhile the exchange is told, though what it sent is not read."""
        if self._reading and not self._watched:
            self._watched = self._listener.resets.watch(self._transport, self._transport.abort, ends=True)
        self.pause()

    def resume(self) -> None:
        """Read on after `pause`."""
        if not self._reading and not self._eof and self._phase is not _CLOSED:
            if self._watched:
                self._watched = False
                self._listener.resets.forget(self._transport)
            self._reading = True
            self._transport.resume_reading()

    def respond(self, head: ResponseHead, *, has_body: bool, hold: bool) -> None:
        """Send the head of the final response. `hold`: content follows at once, so keep it for that write."""
        if self._rate is not None:
            self._rate.excused = True
        if self._body is not None:
            self._keep = False  # what is still to come of the request must not be taken for the next one
        framing = b""
        self._chunked = False
        if not head.dated:
            self._listener.stamp(head)
        if has_body and head.content_length is None:
            if self._persistent:
                self._chunked = True
                framing = b"transfer-encoding: chunked\r\n"
            else:
                self._keep = False
                if head.trailer is not None:
                    head.fields = without(head.fields, _TRAILER)  # to the end of the connection: they have no place
        if not self._keep:
            framing += b"connection: close\r\n"
        elif not self._persistent:
            framing += b"connection: keep-alive\r\n"
        if head.status == 426 and head.upgrade is not None:  # which it must say (RFC 9110 section 15.5.22)
            framing += b"connection: upgrade\r\nupgrade: %b\r\n" % head.upgrade
        if hold:
            self._held = serialise_response(head, framing)
        else:
            self._transport.write(serialise_response(head, framing))

    def respond_whole(self, head: ResponseHead, data: bytes, start: int) -> None:
        """Send a response of known length, whose content is `data` from `start` on, and finish."""
        if self._keep and self._persistent and self._body is None and head.dated:
            self._transport.write(serialise_response(head, b"", data, start))
            self._finished()
        else:
            self.respond(head, has_body=True, hold=True)
            self.finish(data[start:], [])

    def interim(self, head: ResponseHead) -> None:
        """Send a 1xx head; HTTP/1.0 has none (RFC 9110 section 15.2)."""
        if self._persistent:
            self._transport.write(serialise_response(head, b""))
        if head.status == 100 and self._body is not None and self._rate is None:
            self._watch_rate()

    def write(self, data: bytes) -> None:
        """Send a piece of the response's content."""
        if self._rate is not None:
            self._rate.excused = True
        if self._chunked:
            data = serialise_chunk(data)
        if self._held:
            data = self._held + data
            self._held = b""
        self._transport.write(data)

    def finish(self, content: bytes, trailers: list[bytes]) -> None:
        """The response is complete with the last piece of its content, b"" for none; go on with the next request, or
        close."""
        if self._chunked:
            last = serialise_last_chunk(trailers)
            content = serialise_chunk(content) + last if content else last
        if self._held:
            content = self._held + content
            self._held = b""
        if content:
            self._transport.write(content)
        self._finished()

    def _finished(self) -> None:
        self._exchange = None
        if not self._keep:
            self._close_gently()
            return
        self._phase = _HEAD
        listener = self._listener
        deadline = self._deadline = listener.loop.time() + listener.keep_alive_timeout
        if deadline < self._timer_at:
            self.set_deadline(deadline)
        if self._buffer or not self._reading:
            self._next()

    def _next(self) -> None:
        # A client that pipelines more than MAX_PIPELINED is read again only when that has been answered.
        if not self._reading and len(self._buffer) <= MAX_PIPELINED:
            self.resume()
        if self._buffer and not self._pumping:
            data, self._buffer = self._buffer, b""
            self._pump(data)
        if self._eof and not self._pumping and not self._write_paused:
            self._after_eof()

    def _after_eof(self) -> None:
        """The client half-closed, and a response is out: the next of its requests is in hand, or there is none."""
        if self._phase is _HEAD or (self._exchange is not None and not self._outlives_eof()):
            self._phase = _LINGER
            self._close()

    def reply(self, status: int, text: str, extra: bytes = b"") -> int:
        """Answer with `text` as the body and `extra` field lines, and finish. Returns the body's size."""
        body = text.encode() + b"\n"
        head = ResponseHead(
            status,
            REASONS[status],
            True,
            b"\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n%b" % (len(body), extra),
            0,
        )
        head.content_length = len(body)
        is_head_request = self._method == b"HEAD"
        self.respond(head, has_body=True, hold=True)
        self.finish(b"" if is_head_request else body, [])
        return 0 if is_head_request else len(body)

    def take_back(self) -> bool:
        """Forget the head of a response if it is still held back. False: the client has it."""
        held, self._held = self._held, b""
        return bool(held)

    def reset(self) -> None:
        """End a response that can't be completed, in a way no client takes for its end."""
        self._exchange = None
        self._held = b""
        self._cut()

    def _cut(self) -> None:
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:  # else it is closed, and `connection_lost` about to come
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self._transport.abort()

    def switch(self, head: ResponseHead) -> None:
        """Send a 101 and be a tunnel from here on; what came early goes first."""
        upgrade = b"connection: upgrade\r\nupgrade: %b\r\n" % (head.upgrade or b"")
        self._transport.write(serialise_response(head, upgrade))
        self._phase = _TUNNEL
        self._rate = None
        self._keep = False
        self._chunked = False
        early, self._buffer = self._buffer, b""
        self.resume()
        if early and self._exchange is not None:
            self._exchange.request_body(early)
        if self._eof and self._exchange is not None:
            self._exchange.client_ended()

    def write_end(self) -> None:
        """Pass on the endpoint's end of file in a tunnel."""
        if self._phase is not _CLOSED and self._transport.can_write_eof():
            self._transport.write_eof()

    def close_tunnel(self) -> None:
        """Both sides of the tunnel are done: close once what was written has gone out."""
        self._exchange = None
        if self._phase is not _CLOSED:
            self._phase = _LINGER
            self._close()

    def _close(self) -> None:
        """Close once what was written has gone out, or when the client takes too long to read it."""
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self.set_deadline(self._listener.loop.time() + FLUSH_TIMEOUT)

    def drain(self, lull: float) -> None:
        """Close after the response in hand, or the next if it is asked for within `lull` seconds."""
        self._keep = False
        if self._phase is _HEAD and not self._buffer:
            self.set_deadline(min(self._deadline, self._listener.loop.time() + lull))

    def break_off(self) -> None:
        """Tell the client that the gateway stops, where it can still be told."""
        if self._exchange is not None:
            self._exchange.fail(Stopping("The gateway is stopping."))
        elif self._transport.get_write_buffer_size():
            self._cut()
        else:
            self._transport.abort()

    def _refuse(self, error: GatewayError, head: RequestHead | None = None) -> None:
        """Answer a request that never became an exchange, and close."""
        self._keep = False
        self._unread = True
        self._phase = _PENDING
        self._buffer = b""
        self._body = None
        self._listener.refused(self, error, head)
        self.reply(error.status, str(error))

    def _close_gently(self) -> None:
        unread = self._unread or self._body is not None or self._buffer
        self._body = self._rate = None
        self._buffer = b""
        self._phase = _LINGER
        if not unread:
            self._close()
            return
        self.resume()
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
        self.set_deadline(self._listener.loop.time() + LINGER_TIMEOUT)

    # --- the timer ----------------------------------------------------------------------------------------------------

    def set_deadline(self, when: float) -> None:
        """Have the exchange's `on_deadline` called at `when`."""
        self._deadline = when
        if when < self._timer_at:
            self._arm(when)

    def _arm(self, when: float) -> None:
        if when < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = when
            self._timer = self._listener.loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = inf
        now = self._listener.loop.time()
        if self._rate is not None:
            self._check_rate(self._rate, now)
        if now < self._deadline:
            self._arm(self._deadline)
        elif self._exchange is not None:
            # uvloop counts whole milliseconds, so a deadline may be met a little early; never spin on it.
            when = self._exchange.on_deadline(now)
            if when != inf:
                self.set_deadline(max(when, now + 0.001))
        elif self._phase is _HEAD and self._buffer:
            limit = self._listener.limits.head_timeout
            self._refuse(HeadTimeout(f"The head of the request took longer than {limit:g} s."))
        elif self._phase is _LINGER or self._transport.get_write_buffer_size():
            self._cut()  # of a response that was complete a while ago, something is still unread
        else:
            self._transport.close()

    def _check_rate(self, rate: BodyRate, now: float) -> None:
        if now >= rate.deadline:
            try:
                rate.on_deadline(now, reading=self._reading)
            except BodyTooSlow as error:
                self._rate = None
                if self._exchange is not None:
                    self._exchange.fail(error)
                return
        self._arm(max(rate.deadline, now + 0.001))
