"""One client's HTTP/2 connection: frames in, requests to exchanges; the exchanges' responses out.

Theory of operation
-------------------
A connection takes its transport over from `Downstream`, which met the preface (prior knowledge) or an ALPN result. To
the exchange a `Stream` is what a whole HTTP/1.1 connection is: it offers the same methods. `core.frames` reads the
bytes, `core.http2` says what a field list means, and both ends' back-pressure meet here:

- A stream's receive window (STREAM_WINDOW) is given back as its content goes on to the endpoint; when the endpoint is
  slow the exchange says `pause` and the window stays closed. The connection's window (CONNECTION_WINDOW) is given back
  with it, RETURNED bytes at a time, and has room for all streams that there may be: however many uploads stall, others
  go on. So a connection holds at most MAX_STREAMS x STREAM_WINDOW of requests (8 MiB), which is what as many HTTP/1.1
  connections would; requests that wait for an endpoint are bounded besides, by `queue_bytes`.
- Content that no window (or no room in the transport) lets through is kept in its stream, whose endpoint is not read
  meanwhile: one read of it per stream. Streams that wait for the connection's window take turns, a frame each.
  Whoever makes no room for SEND_TIMEOUT has its stream reset, and whoever reads nothing at all loses the connection.

Frames made while a batch of the client's is read, or within one turn of the loop, leave in one write. Beyond
MAX_OUTPUT unsent bytes the client is not read either, so answers to frames that cost nothing can't pile up.

What a client may do for free has a budget, after which it is sent away (GOAWAY, ENHANCE_YOUR_CALM): resets, by whoever
(rapid reset, CVE-2023-44487, and the ways to make a server send them); and frames that carry nothing (SETTINGS,
PRIORITY, unknown ones, empty DATA, PING and WINDOW_UPDATE out of proportion). Streams beyond MAX_STREAMS are refused,
and so are, once the content that clients do not take is more than WORKER_PENDING in all, new ones of a connection that
has more than MAX_PENDING of it; a refused stream costs the same budget as a reset.

A request that is answered before it is complete is reset with NO_ERROR behind the answer (RFC 9113 section 8.1). One
that is malformed gets a 400 and then PROTOCOL_ERROR, so that people see why and programs see what the RFC says.

Draining takes two steps (section 6.8): a GOAWAY for no stream in particular, and when the client has surely seen it (it
answered a PING, or DRAIN_WAIT passed) one with the last stream taken; the connection closes after that stream's end.

One timer per connection, re-armed only when the next deadline of all its streams moves forward; see `_on_timer`.

There is no CONNECT here, not the extended one either (RFC 8441): SETTINGS_ENABLE_CONNECT_PROTOCOL is not offered, so
browsers open their WebSockets on an HTTP/1.1 connection, as they do with most servers. Of h2spec's 146 strict cases 143
pass. Two want streams that depend on themselves refused, which RFC 9113 section 5.3 has given up with priorities. One
wants a malformed preface met with the end of the connection alone: on a port that speaks HTTP/1.1 as well it is a
malformed request, and gets its 400 before.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

from gateway.core.budget import Budget
from gateway.core.fields import Peer
from gateway.core.frames import (
    DEFAULT_WINDOW,
    MAX_FRAME,
    MAX_WINDOW,
    PREFACE,
    SETTINGS_ACK,
    ConnectionFault,
    ErrorCode,
    FieldEncoder,
    FrameReader,
    Setting,
    data_frame,
    error_name,
    goaway_frame,
    headers_frames,
    ping_frame,
    reset_frame,
    settings_frame,
    window_frame,
)
from gateway.core.http2 import response_fields, trailer_fields
from gateway.net.stream2 import SEND_TIMEOUT, STREAM_WINDOW, Stream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.core.frames import Field, FieldList
    from gateway.core.http1 import ResponseHead
    from gateway.net.listener import Listener

__all__ = ["Connection"]

MAX_STREAMS = 128
RETURNED = 512 * 1024
CONNECTION_WINDOW = MAX_STREAMS * STREAM_WINDOW + 2 * RETURNED
MAX_OUTPUT = 256 * 1024
# A read of an endpoint is 250 KiB at most, and a client with many downloads has one pending for each.
MAX_PENDING = 1024 * 1024
WORKER_PENDING = 128 * 1024 * 1024
LINGER_TIMEOUT = 5.0
DRAIN_WAIT = 1.0
# Two full sets of streams at once; in the long run what a client could do with requests as well.
RESET_BURST, RESET_RATE = 2 * MAX_STREAMS, 100.0
IDLE_BURST, IDLE_RATE = 1000, 200.0
# A client gives its window back by two WINDOW_UPDATE for each DATA frame of ours, and gRPC measures the round trip by a
# PING at each (its BDP estimator).
ANSWERS_PER_FRAME = 4
_REMEMBERED = 256

_PING = b"draining"


class Connection(asyncio.Protocol):
    """See the module. Everything is called on the loop's thread."""

    __slots__ = (
        "_blocked_at",
        "_closing",
        "_corked",
        "_dismissed",
        "_draining",
        "_encoder",
        "_free_answers",
        "_goaway_at",
        "_greeting_by",
        "_idle_budget",
        "_idle_by",
        "_last",
        "_out",
        "_out_size",
        "_peer_window",
        "_pending",
        "_preface",
        "_reader",
        "_reading",
        "_ready",
        "_received",
        "_reset_budget",
        "_scheduled",
        "_send_window",
        "_streams",
        "_streams_left",
        "_timer",
        "_timer_at",
        "_transport",
        "_window",
        "_write_paused",
        "cluster_local",
        "expecting",
        "listener",
        "loop",
        "peer",
    )

    def __init__(self, listener: Listener, transport: asyncio.Transport, peer: Peer) -> None:
        now = listener.loop.time()
        limits = listener.limits
        # What a field list may take, counted as RFC 9113 section 6.5.2 does. A larger one is decoded up to twice that,
        # so that it can be answered (431); beyond, the connection ends.
        max_list = limits.max_request_line + limits.max_field_section + 32 * limits.max_fields
        self.listener = listener
        self._transport = transport
        self.loop = listener.loop
        self.cluster_local = listener.cluster_local
        self.peer = Peer(peer.address, peer.proto, peer.proxies, b"2")
        self.expecting: list[Stream] = []
        self._reader = FrameReader(2 * max_list)
        self._encoder = FieldEncoder()
        self._preface: bytes | None = b""
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._dismissed: dict[int, None] = {}  # reset by us, while the client may still have sent something
        self._received = 0  # of the receive window, not given back yet
        self._window = CONNECTION_WINDOW
        self._send_window = DEFAULT_WINDOW
        self._peer_window = DEFAULT_WINDOW
        self._ready: dict[Stream, None] = {}  # streams that could send if the connection could, in turn
        self._pending = 0
        self._free_answers = 0
        self._reset_budget = Budget(RESET_BURST, RESET_RATE, now)
        self._idle_budget = Budget(IDLE_BURST, IDLE_RATE, now)
        self._out: list[bytes] = []
        self._out_size = 0
        self._corked = False
        self._scheduled = False
        self._reading = True
        self._write_paused = False
        self._blocked_at = inf
        self._draining = False
        self._closing = False
        self._goaway_at = inf
        self._greeting_by = now + limits.head_timeout
        self._idle_by = now + limits.keep_alive_timeout
        self._streams_left = limits.max_requests_per_connection  # from 0 it never comes to 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        listener.connections.add(self)
        listener.traffic.http2_connections += 1
        settings = (
            (Setting.MAX_CONCURRENT_STREAMS, MAX_STREAMS),
            (Setting.INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (Setting.MAX_HEADER_LIST_SIZE, max_list),
        )
        transport.write(settings_frame(settings) + window_frame(0, CONNECTION_WINDOW - DEFAULT_WINDOW))
        self._arm(self._greeting_by)
        if listener.draining:
            self.drain()

    # --- from the client ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._corked = True
        try:
            if self._preface is not None:
                data = self._read_preface(self._preface + data)
            self._reader.feed(data, self)
            if self._reader.ignored:
                self._spend_idle(self._reader.ignored)
                self._reader.ignored = 0
            if self.expecting:  # most requests are complete by now
                for stream in self.expecting:
                    stream.watch_rate()
                self.expecting.clear()
        except ConnectionFault as fault:
            self._fault(fault)
        finally:
            self._corked = False
        self._flush()
        if self._reader.in_block and self._greeting_by == inf:
            self._greeting_by = self.loop.time() + self.listener.limits.head_timeout
            self._arm(self._greeting_by)
        if self._write_paused and self._transport.get_write_buffer_size() > MAX_OUTPUT:
            self._pause_reading()

    def _read_preface(self, data: bytes) -> bytes:
        if data.startswith(PREFACE):
            self._preface = None
            return data[len(PREFACE) :]
        if not PREFACE.startswith(data):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "The connection does not begin with HTTP/2's preface.")
        self._preface = data
        return b""

    def headers(self, number: int, fields: FieldList, end: bool) -> None:
        self._greeting_by = inf
        stream = self._streams.get(number)
        if stream is not None:
            stream.trailers(fields, end)
            return
        if number & 1 == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "A client's streams have odd numbers.")
        if number <= self._last:
            if number in self._dismissed:
                return
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "HEADERS came for a stream that is closed.")
        self._last = number
        if self._draining and self._goaway_at == inf:
            self._ignore(number)  # beyond the last stream of our GOAWAY: the client sends it elsewhere (section 6.8)
            return
        if len(self._streams) >= MAX_STREAMS or self._takes_too_little():
            self.dismiss(number, ErrorCode.REFUSED_STREAM)
            self.spend_reset()
            return
        stream = self._streams[number] = Stream(self, number, self._peer_window)
        stream.start(fields, end)
        self._streams_left = left = self._streams_left - 1
        if left == 0:
            self.drain()

    def data(self, number: int, data: bytes, size: int, end: bool) -> None:
        self._window -= size
        if self._window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "There is more content than the window allows.")
        if not data and not end:
            self._spend_idle()
        stream = self._streams.get(number)
        if stream is not None:
            stream.data(data, size, end)
            return
        self.consumed(size)
        if self._is_idle(number):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA came for a stream that is not open.")
        if number not in self._dismissed:
            self.dismiss(number, ErrorCode.STREAM_CLOSED)
            self.spend_reset()

    def reset(self, number: int, code: int) -> None:
        if self._is_idle(number):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM came for a stream that is not open.")
        self.spend_reset()
        stream = self._streams.get(number)
        if stream is not None:
            stream.abandon()

    def settings(self, values: Iterable[tuple[int, int]]) -> None:
        self._greeting_by = inf
        self._spend_idle()
        for name, value in values:
            if name == Setting.INITIAL_WINDOW_SIZE:
                change, self._peer_window = value - self._peer_window, value
                for stream in list(self._streams.values()):
                    stream.widen(change)
            elif name == Setting.HEADER_TABLE_SIZE:
                self._encoder.resize(value)
        self.send(SETTINGS_ACK)
        self.pump()

    def settings_acknowledged(self) -> None:
        """Ours are the least that RFC 9113 allows, or less than its defaults only in number, so nothing waits."""

    def ping(self, payload: bytes) -> None:
        self._spend_answer()
        self.send(ping_frame(payload, acknowledges=True))

    def pong(self, payload: bytes) -> None:
        self._spend_idle()
        if payload == _PING and self._goaway_at != inf:
            self._say_last()

    def goaway(self, last: int, code: int) -> None:
        self._spend_idle()
        self._draining = True
        self._goaway_at = inf
        if not self._streams:
            self._close()

    def window(self, number: int, increment: int) -> None:
        self._spend_answer()
        if number == 0:
            self._send_window += increment
            if self._send_window > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "The connection's window is too large.")
            self.pump()
            return
        if self._is_idle(number):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE came for a stream that is not open.")
        stream = self._streams.get(number)
        if stream is None:
            return
        if increment == 0:
            stream.break_off(ErrorCode.PROTOCOL_ERROR)
            return
        stream.widen(increment)
        self.pump()

    def _is_idle(self, number: int) -> bool:
        return number > self._last or number & 1 == 0

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        listener = self.listener
        listener.connections.discard(self)
        listener.traffic.downstream_connections -= 1
        listener.traffic.http2_connections -= 1
        listener.leave(self.peer)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._out.clear()
        self._abandon_all()

    def _abandon_all(self) -> None:
        for stream in list(self._streams.values()):
            stream.abandon()

    def pause_writing(self) -> None:
        self._write_paused = True
        self._blocked_at = self.loop.time()
        self._arm(self._blocked_at + SEND_TIMEOUT)

    def resume_writing(self) -> None:
        self._write_paused = False
        self._blocked_at = inf
        self.pump()
        if not self._reading and not self._closing:
            self._reading = True
            self._transport.resume_reading()

    def _pause_reading(self) -> None:
        if self._reading and not self._closing:
            self._reading = False
            self._transport.pause_reading()

    # --- limits -------------------------------------------------------------------------------------------------------

    def _spend_answer(self) -> None:
        """A frame of the kind that clients send in answer to content: some are free for each DATA frame of ours, and
        may come together for all streams."""
        if self._free_answers:
            self._free_answers -= 1
        else:
            self._spend_idle()

    def _spend_idle(self, amount: int = 1) -> None:
        if not self._idle_budget.spend(self.loop.time(), amount):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "There are too many frames that carry nothing.")

    def spend_reset(self) -> None:
        """One more stream was reset, by or because of the client."""
        if not self._reset_budget.spend(self.loop.time()):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "There are too many streams that are reset.")

    def _takes_too_little(self) -> bool:
        return self._pending > MAX_PENDING and self.listener.traffic.http2_pending > WORKER_PENDING

    def _count_pending(self, change: int) -> None:
        self._pending += change
        self.listener.traffic.http2_pending += change

    # --- to the client ------------------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Send with what else is sent in this turn of the loop."""
        if self._closing:
            return
        self._out.append(frame)
        self._out_size += len(frame)
        if self._corked:
            if self._out_size > MAX_OUTPUT:
                self._flush()
        elif self._out_size > MAX_FRAME:
            self._flush()
        elif not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._flush_scheduled)

    def _flush_scheduled(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._out_size = 0
            self._transport.write(data)

    def send_fields(self, number: int, fields: list[Field], end: bool) -> None:
        """Send a header block."""
        self.send(headers_frames(number, self._encoder.encode(fields), end=end))

    def send_head(self, number: int, head: ResponseHead, end: bool) -> None:
        """Send a response's head. Those of one endpoint are mostly alike, and then their block is known."""
        encoder = self._encoder
        if not head.dated and head.status >= 200:
            self.listener.stamp(head)
        key = (head.status, head.fields)
        block = encoder.kept.get(key)
        if block is None:
            block = encoder.encode(response_fields(head), key)
        self.send(headers_frames(number, block, end=end))

    def send_trailers(self, number: int, trailers: list[bytes]) -> None:
        """Send trailers, which end the stream. Those of a gRPC call that went well are always the same."""
        encoder = self._encoder
        key = tuple(trailers)
        block = encoder.kept.get(key)
        if block is None:
            block = encoder.encode(trailer_fields(trailers), key)
        self.send(headers_frames(number, block, end=True))

    def room(self) -> int:
        """How many bytes of content may leave now, as far as it depends on the connection."""
        return 0 if self._write_paused else self._send_window

    def send_data(self, number: int, data: bytes, end: bool) -> None:
        """Send content for which there is room, a frame at most."""
        self._send_window -= len(data)
        self._free_answers = min(self._free_answers + ANSWERS_PER_FRAME, IDLE_BURST)
        self.send(data_frame(number, data, end=end))

    def wait(self, stream: Stream, size: int) -> None:
        """`size` bytes more of a stream are pending; it takes its turn as soon as its own window allows."""
        self._count_pending(size)
        if stream.send_window > 0:
            self._ready[stream] = None
        self._arm(stream.stalled_by)

    def pump(self) -> None:
        """Send what is pending, a frame of each stream in turn."""
        ready = self._ready
        while ready and self.room() > 0:
            stream = next(iter(ready))
            del ready[stream]
            self._count_pending(-stream.send_some(min(MAX_FRAME, self._send_window)))
            if stream.send_window > 0 and stream.queued:
                ready[stream] = None

    def waken(self, stream: Stream) -> None:
        """The window of a stream that has content pending is open again."""
        self._ready[stream] = None

    def consumed(self, size: int) -> None:
        """Content is where it belongs: the window for it opens again."""
        self._received += size
        if self._received >= RETURNED:
            self.send(window_frame(0, self._received))
            self._window += self._received
            self._received = 0

    def dismiss(self, number: int, code: ErrorCode) -> None:
        """Reset a stream on which the client may still send for a while, and ignore that."""
        self.send(reset_frame(number, code))
        self._ignore(number)

    def _ignore(self, number: int) -> None:
        if len(self._dismissed) >= _REMEMBERED:
            del self._dismissed[next(iter(self._dismissed))]
        self._dismissed[number] = None

    def over(self, stream: Stream) -> None:
        """A stream is closed on both sides."""
        del self._streams[stream.number]
        self._ready.pop(stream, None)
        if stream.queued:
            self._count_pending(-stream.queued)
        if self._streams or self._closing:
            return
        if self._draining and self._goaway_at == inf:
            self._close()
            return
        self._idle_by = self.loop.time() + self.listener.keep_alive_timeout
        if self._idle_by < self._timer_at:
            self._arm(self._idle_by)

    # --- the end ------------------------------------------------------------------------------------------------------

    def drain(self, _lull: float = 0.0) -> None:
        """Take no more streams, and close after the last. Nothing is lost on a connection without one: GOAWAY says
        what was heard."""
        if self._draining or self._closing:
            return
        self._draining = True
        self.send(goaway_frame(MAX_WINDOW, ErrorCode.NO_ERROR) + ping_frame(_PING, acknowledges=False))
        self._goaway_at = self.loop.time() + DRAIN_WAIT
        self._arm(self._goaway_at)

    def break_off(self) -> None:
        """End the streams that are left, and the connection with them. After `drain`."""
        for stream in list(self._streams.values()):
            stream.stop()
        if not self._closing:
            self._say_last()

    def _say_last(self) -> None:
        self._goaway_at = inf
        self.send(goaway_frame(self._last, ErrorCode.NO_ERROR))
        if not self._streams:
            self._close()

    def _close(self) -> None:
        """Nothing is in flight: close after what was written."""
        self._flush()
        self._closing = True
        self._close_gently()

    def _close_gently(self) -> None:
        """The client may still be sending, and a connection closed with that unread is reset by TCP, which throws away
        what the client has not read yet: so it closes first, or LINGER_TIMEOUT passes."""
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()
        self._arm(self.loop.time() + LINGER_TIMEOUT)

    def _fault(self, fault: ConnectionFault) -> None:
        """The client broke the protocol or went too far: say so, and close."""
        self.listener.traffic.http2_faults[error_name(fault.code)] += 1
        self.send(goaway_frame(self._last, fault.code, str(fault).encode()))
        self._flush()
        self._closing = True
        self._abandon_all()
        self._close_gently()

    def abort(self) -> None:
        """Close at once, whatever is in flight."""
        self._closing = True
        self._transport.abort()

    # --- the timer ----------------------------------------------------------------------------------------------------

    def arm(self, when: float) -> None:
        """Some stream has a deadline at `when`."""
        if when < self._timer_at:
            self._arm(when)

    def _arm(self, when: float) -> None:
        if when >= self._timer_at and not self._closing:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self.loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = inf
        now = self.loop.time()
        if self._closing or now >= self._greeting_by or now >= self._blocked_at + SEND_TIMEOUT:
            self.abort()
            return
        if now >= self._goaway_at:
            self._say_last()
        if not self._streams and now >= self._idle_by and not self._closing:
            self.send(goaway_frame(self._last, ErrorCode.NO_ERROR))
            self._close()
        if self._closing:
            return
        try:
            deadlines = [stream.on_timer(now) for stream in list(self._streams.values())]
        except ConnectionFault as fault:
            self._fault(fault)
            return
        if not self._streams:
            deadlines.append(self._idle_by)
        # uvloop counts whole milliseconds, so a deadline may be met a little early; never spin on it.
        when = min(self._greeting_by, self._blocked_at + SEND_TIMEOUT, self._goaway_at, *deadlines)
        if when != inf and not self._closing:
            self._arm(max(when, now + 0.001))
