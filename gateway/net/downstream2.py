"""One client's HTTP/2 connection: frames in, requests to exchanges; the exchanges' responses out.

Theory of operation
-------------------
A connection takes its transport over from `Downstream`, which met the preface (prior knowledge) or an ALPN result. To
the exchange a `Stream` is what a whole HTTP/1.1 connection is: it offers the same methods. `core.frames` reads the
bytes, `core.http2` says what a field list means, and both ends' back-pressure meet here:

- A stream's receive window (STREAM_WINDOW) is given back as its content goes on to the endpoint; when the endpoint is
  slow the exchange says `pause` and the window stays closed. The connection's window (CONNECTION_WINDOW) is given back
  with it, so a connection holds at most that much of requests, and it takes sixteen stalled uploads to hold up others.
- Content that no window (or no room in the transport) lets through is kept in its stream, whose endpoint is not read
  meanwhile: one read of it per stream. Streams that wait for the connection's window take turns, a frame each.
  Whoever makes no room for SEND_TIMEOUT has its stream reset, and whoever reads nothing at all loses the connection.

Frames made while a batch of the client's is read, or within one turn of the loop, leave in one write. Beyond
MAX_OUTPUT unsent bytes the client is not read either, so answers to frames that cost nothing can't pile up.

What a client may do for free has a budget, after which it is sent away (GOAWAY, ENHANCE_YOUR_CALM): resets, by whoever
(rapid reset, CVE-2023-44487, and the ways to make a server send them); and frames that carry nothing (SETTINGS,
PRIORITY, unknown ones, empty DATA, PING and WINDOW_UPDATE out of proportion). Streams beyond MAX_STREAMS, or beyond
MAX_PENDING bytes that the client does not take, are refused, which costs the same budget as a reset.

A request that is answered before it is complete is reset with NO_ERROR behind the answer (RFC 9113 section 8.1). One
that is malformed gets a 400 and then PROTOCOL_ERROR, so that people see why and programs see what the RFC says.

Draining takes two steps (section 6.8): a GOAWAY for no stream in particular, and when the client has surely seen it (it
answered a PING, or DRAIN_WAIT passed) one with the last stream taken; the connection closes after that stream's end.

One timer per connection, re-armed only when the next deadline of all its streams moves forward; see `_on_timer`.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

from gateway.core.bodylimits import BodyRate, too_large
from gateway.core.budget import Budget
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
from gateway.core.grpc import is_grpc, local_reply
from gateway.core.http1 import RequestHead, parse_request
from gateway.core.http2 import request_text, request_trailers, response_fields, trailer_fields
from gateway.errors import BadRequest, BodyTooSlow, ProtocolError, Stopping

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.core.fields import Peer
    from gateway.core.frames import Field, FieldList
    from gateway.core.http1 import ResponseHead
    from gateway.net.downstream import Listener, RequestSink

__all__ = ["Connection", "Stream"]

MAX_STREAMS = 128
STREAM_WINDOW = DEFAULT_WINDOW
CONNECTION_WINDOW = 1024 * 1024
MAX_OUTPUT = 256 * 1024
MAX_PENDING = 8 * 1024 * 1024
SEND_TIMEOUT = 60.0  # nginx's send_timeout
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
        self.peer = peer
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
        if len(self._streams) >= MAX_STREAMS or self._pending > MAX_PENDING:
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
        self._pending += size
        if stream.send_window > 0:
            self._ready[stream] = None
        self._arm(stream.stalled_at + SEND_TIMEOUT)

    def pump(self) -> None:
        """Send what is pending, a frame of each stream in turn."""
        ready = self._ready
        while ready and self.room() > 0:
            stream = next(iter(ready))
            del ready[stream]
            self._pending -= stream.send_some(min(MAX_FRAME, self._send_window))
            if stream.send_window > 0 and stream.queued:
                ready[stream] = None

    def waken(self, stream: Stream) -> None:
        """The window of a stream that has content pending is open again."""
        self._ready[stream] = None

    def consumed(self, size: int) -> None:
        """Content is where it belongs: the window for it opens again."""
        self._received += size
        if self._received >= CONNECTION_WINDOW // 2:
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
        self._pending -= stream.queued
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


class Stream:
    """One request and its response on a connection; to the exchange what `Downstream` is."""

    __slots__ = (
        "_code",
        "_connection",
        "_deadline",
        "_ending",
        "_exchange",
        "_expects",
        "_head",
        "_held",
        "_left",
        "_paused",
        "_queue",
        "_rate",
        "_remaining",
        "_request_ended",
        "_responding",
        "_unreturned",
        "_window",
        "_withheld",
        "cluster_local",
        "number",
        "peer",
        "queued",
        "send_window",
        "stalled_at",
    )

    protocol = b"HTTP/2"

    def __init__(self, connection: Connection, number: int, send_window: int) -> None:
        self._connection = connection
        self.number = number
        self.peer = connection.peer
        self.cluster_local = connection.cluster_local
        self.send_window = send_window
        self.queued = 0
        self.stalled_at = inf
        self._head: RequestHead | None = None
        self._exchange: RequestSink | None = None
        self._remaining: int | None = None
        self._left = inf  # of the content there may be
        self._rate: BodyRate | None = None
        self._expects = False
        self._request_ended = False
        self._code = ErrorCode.NO_ERROR  # of the reset after the response, if there is to be one
        self._responding = False
        self._held: ResponseHead | None = None
        self._paused = False
        self._window = STREAM_WINDOW
        self._withheld = 0  # while paused
        self._unreturned = 0  # taken on, but not worth a frame yet
        self._queue: list[bytes] = []
        self._ending: list[bytes] | None = None
        self._deadline = inf

    # --- from the client ----------------------------------------------------------------------------------------------

    def start(self, fields: FieldList, end: bool) -> None:
        """The request's head came; `end` if it is all of the request."""
        self._request_ended = end
        connection = self._connection
        listener = connection.listener
        try:
            head = fields.meaning
            if type(head) is not RequestHead or end is not (not head.chunked and not head.content_length):
                head = self._head_of(fields, end)
            self._head = head
            if not end:
                self._expect_content(head)
        except ProtocolError as error:
            self._refuse(error)
            return
        self._exchange = listener.begin(self, head)
        if self._exchange is not None and self._expects and head.other(b"expect") is None:
            connection.expecting.append(self)

    def _head_of(self, fields: FieldList, end: bool) -> RequestHead:
        """What a field list says. Raises ProtocolError."""
        head = parse_request(request_text(fields, ended=end), 0, self._connection.listener.head_limits)
        assert head is not None
        self._head = head
        if end and head.content_length:
            raise BadRequest("The request has less content than its Content-Length says.")
        fields.meaning = head  # heads are not changed, by anyone
        return head

    def _expect_content(self, head: RequestHead) -> None:
        """Raises BodyTooLarge."""
        limit = self._connection.listener.limits.max_body
        self._remaining = head.content_length
        self._expects = head.chunked or bool(head.content_length)
        if limit:
            if head.content_length is not None and head.content_length > limit:
                raise too_large(limit)
            self._left = limit

    def watch_rate(self) -> None:
        """Content is waited for: it has to come at some rate. But gRPC's streams are conversations, where both sides
        may be silent, before the first answer too; their deadlines are the caller's and the revision's."""
        connection = self._connection
        limits = connection.listener.limits
        if limits.min_body_rate and self._rate is None and not self._request_ended:
            if self._head is not None and is_grpc(self._head.field(b"content-type")):
                return
            rate = self._rate = BodyRate(connection.loop.time(), limits.min_body_rate, limits.body_rate_window)
            rate.excused = self._paused
            connection.arm(rate.deadline)

    def trailers(self, fields: Sequence[Field], end: bool) -> None:
        """A second header block came. Raises ConnectionFault where the stream was complete already."""
        if self._request_ended:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "HEADERS came for a request that is complete.")
        if not end:
            self._malformed("A header block in the middle of a request has no meaning.")
            return
        try:
            lines = request_trailers(fields)
        except ProtocolError as error:
            self._malformed(str(error))
            return
        self._end_request(lines)

    def data(self, data: bytes, size: int, end: bool) -> None:
        """Content came, which takes `size` of the windows."""
        self._window -= size
        if self._request_ended or self._window < 0:
            self._connection.consumed(size)
            self.break_off(ErrorCode.STREAM_CLOSED if self._request_ended else ErrorCode.FLOW_CONTROL_ERROR)
            return
        if self._remaining is not None:
            self._remaining -= len(data)
            if self._remaining < 0:
                self._connection.consumed(size)
                self._malformed("The request has more content than its Content-Length says.")
                return
        self._left -= len(data)
        if self._left < 0:
            self._connection.consumed(size)
            if self._exchange is not None:
                self._exchange.fail(too_large(self._connection.listener.limits.max_body))
            return
        if self._rate is not None:
            self._rate.received += len(data)
        elif not end:
            self._connection.expecting.append(self)
        exchange = self._exchange
        if data and exchange is not None:
            exchange.request_body(data)
        if self._paused:
            self._withheld += size
        else:
            self._give_back(size)
        if end and self._exchange is exchange:
            self._end_request([])

    def _end_request(self, trailers: list[bytes]) -> None:
        if self._remaining:
            self._malformed("The request has less content than its Content-Length says.")
            return
        self._request_ended = True
        self._rate = None
        if self._expects and self._exchange is not None:
            self._exchange.request_end(trailers)

    def _give_back(self, size: int) -> None:
        connection = self._connection
        connection.consumed(size)
        if self._request_ended:
            return
        self._unreturned += size
        if self._unreturned >= STREAM_WINDOW // 2:
            connection.send(window_frame(self.number, self._unreturned))
            self._window += self._unreturned
            self._unreturned = 0

    def stop(self) -> None:
        """The gateway stops: tell the client, where it can still be told."""
        if self._exchange is not None:
            self._exchange.fail(Stopping("The gateway is stopping."))

    def abandon(self) -> None:
        """The client gave the stream up, or is gone."""
        exchange, self._exchange = self._exchange, None
        self._over()
        if exchange is not None:
            exchange.client_gone()

    def break_off(self, code: ErrorCode) -> None:
        """What the client did costs it this stream. Raises ConnectionFault if that happens too often."""
        connection = self._connection
        connection.dismiss(self.number, code)
        self.abandon()
        connection.spend_reset()

    def _malformed(self, text: str) -> None:
        """The request turned out to be malformed: the client is told, unless the response has begun. Raises
        ConnectionFault as `break_off` does."""
        exchange = self._exchange
        self._code = ErrorCode.PROTOCOL_ERROR
        if exchange is not None:
            exchange.fail(BadRequest(text))
        else:
            self.reset()
        self._connection.spend_reset()

    def _refuse(self, error: ProtocolError) -> None:
        """Answer a request that never became an exchange. Raises ConnectionFault if that happens too often."""
        connection = self._connection
        connection.listener.refused(self, error, self._head)
        if isinstance(error, BadRequest):
            self._code = ErrorCode.PROTOCOL_ERROR
        self.reply(error.status, str(error))
        connection.spend_reset()

    def widen(self, increment: int) -> None:
        """The client takes more on this stream (or less: a setting changed). Raises ConnectionFault."""
        self.send_window += increment
        if self.send_window > MAX_WINDOW:
            self.break_off(ErrorCode.FLOW_CONTROL_ERROR)
        elif self.queued and self.send_window > 0:
            self._connection.waken(self)

    # --- to the client ------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Give no window back until `resume`."""
        self._paused = True
        if self._rate is not None:
            self._rate.excused = True

    def wait(self) -> None:
        """As `pause`: the connection goes on being read, so the end of the stream is noticed."""
        self.pause()

    def resume(self) -> None:
        """Give back what was withheld since `pause`."""
        self._paused = False
        if self._withheld:
            withheld, self._withheld = self._withheld, 0
            self._give_back(withheld)

    def respond(self, head: ResponseHead, *, has_body: bool, hold: bool) -> None:
        """Send the head of the final response; it is also the end where no content follows. Held back if something
        follows at once: where that is the end, head and end must be one frame for gRPC to see a status in it."""
        self._responding = has_body
        if self._rate is not None:
            self._rate.excused = True
        if hold and has_body:
            self._held = head
        else:
            self._connection.send_head(self.number, head, end=not has_body)

    def respond_whole(self, head: ResponseHead, content: bytes) -> None:
        """Send a response of known length and finish."""
        self._connection.send_head(self.number, head, end=not content)
        self._send_content(content)

    def _send_content(self, content: bytes) -> None:
        """All of it; the head was the end if there is none."""
        connection = self._connection
        if not content:
            self._finished()
        elif len(content) <= MAX_FRAME and len(content) <= min(self.send_window, connection.room()):
            connection.send_data(self.number, content, end=True)
            self._finished()
        else:
            self._responding = True
            self.write(content)
            self.finish([])

    def interim(self, head: ResponseHead) -> None:
        """Send a 1xx head."""
        self._connection.send_head(self.number, head, end=False)
        if head.status == 100 and self._expects and not self._request_ended:
            self.watch_rate()

    def write(self, data: bytes) -> None:
        """Send a piece of the response's content, or keep it until there is room."""
        connection = self._connection
        if self._rate is not None:
            self._rate.excused = True
        if self._held is not None:
            self._send_held(end=False)
        if not self._queue:
            position, size = 0, len(data)
            while position < size:
                room = min(self.send_window, connection.room(), MAX_FRAME)
                if room <= 0:
                    break
                piece = data[position : position + room]
                connection.send_data(self.number, piece, end=False)
                self.send_window -= len(piece)
                position += len(piece)
            if position == size:
                return
            data = data[position:]
            self.stalled_at = connection.loop.time()
        self._queue.append(data)
        self.queued += len(data)
        connection.wait(self, len(data))
        if self._exchange is not None:
            self._exchange.pause_response()

    def send_some(self, room: int) -> int:
        """Send at most `room` bytes of what is pending; returns how many."""
        connection = self._connection
        first = self._queue[0]
        room = min(room, self.send_window)
        piece = first[:room]
        if len(piece) == len(first):
            del self._queue[0]
        else:
            self._queue[0] = first[room:]
        size = len(piece)
        self.send_window -= size
        self.queued -= size
        self.stalled_at = connection.loop.time()
        last = not self._queue and self._ending == []
        connection.send_data(self.number, piece, end=last)
        if self._queue:
            return size
        self.stalled_at = inf
        if last:
            self._finished()
        elif self._ending is not None:
            self._send_end(self._ending)
        elif self._exchange is not None:
            self._exchange.resume_response()
        return size

    def finish(self, trailers: list[bytes]) -> None:
        """The response is complete."""
        self._exchange = None
        if not self._responding:  # its head was its end
            self._finished()
        elif self._queue:
            self._ending = trailers
        else:
            self._send_end(trailers)

    def _send_held(self, *, end: bool) -> None:
        assert self._held is not None
        held, self._held = self._held, None
        self._connection.send_head(self.number, held, end=end)

    def _send_end(self, trailers: list[bytes]) -> None:
        if self._held is not None:
            self._send_held(end=not trailers)
            if not trailers:
                self._finished()
                return
        if trailers:
            self._connection.send_trailers(self.number, trailers)
        else:
            self._connection.send_data(self.number, b"", end=True)
        self._finished()

    def _finished(self) -> None:
        """The response has left, or will by itself."""
        self._exchange = None
        if self._code or not self._request_ended:
            self._connection.dismiss(self.number, self._code)
        self._over()

    def _over(self) -> None:
        self._request_ended = True  # no more window for it
        self._rate = None
        self._deadline = inf
        self.resume()
        self._connection.over(self)

    def reply(self, status: int, text: str, extra: bytes = b"") -> int:
        """Answer with `text` as the body and `extra` field lines, and finish; a gRPC caller gets a gRPC status. Returns
        the body's size."""
        head = self._head
        self._exchange = None
        if head is not None and is_grpc(head.field(b"content-type")):
            self._connection.send_fields(self.number, local_reply(status, text), end=True)
            self._finished()
            return 0
        body = text.encode() + b"\n"
        fields = [
            (b":status", b"%d" % status, False),
            (b"content-type", b"text/plain; charset=utf-8", False),
            (b"content-length", b"%d" % len(body), False),
            *trailer_fields(extra.splitlines()),
        ]
        if head is not None and head.method == b"HEAD":
            body = b""
        self._connection.send_fields(self.number, fields, end=not body)
        self._send_content(body)
        return len(body)

    def reset(self) -> None:
        """End a response that can't be completed, in a way no client takes for its end."""
        self._exchange = None
        self._connection.dismiss(self.number, self._code or ErrorCode.INTERNAL_ERROR)
        self._over()

    def switch(self, head: ResponseHead) -> None:
        """HTTP/2 has no Upgrade (RFC 9113 section 8.6), so no exchange gets here."""
        raise AssertionError(head)

    def write_end(self) -> None:
        """As `switch`."""
        raise AssertionError

    def close_tunnel(self) -> None:
        """As `switch`."""
        raise AssertionError

    def set_deadline(self, when: float) -> None:
        """Have the exchange's `on_deadline` called at `when`."""
        self._deadline = when
        self._connection.arm(when)

    def on_timer(self, now: float) -> float:
        """Look at this stream's clocks; returns when to look again."""
        if now >= self.stalled_at + SEND_TIMEOUT:
            self._connection.dismiss(self.number, ErrorCode.CANCEL)
            self.abandon()
            return inf
        if now >= self._deadline and self._exchange is not None:
            self._deadline = self._exchange.on_deadline(now)
        return min(self._deadline, self.stalled_at + SEND_TIMEOUT, self._check_rate(now))

    def _check_rate(self, now: float) -> float:
        rate = self._rate
        if rate is None:
            return inf
        if now >= rate.deadline:
            try:
                rate.on_deadline(now, reading=not self._paused)
            except BodyTooSlow as error:
                self._rate = None
                if self._exchange is not None:
                    self._exchange.fail(error)
                return inf
        return rate.deadline
