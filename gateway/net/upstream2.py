"""One HTTP/2 connection to an endpoint and the streams on it, each of which an exchange uses like a connection.

Theory of operation
-------------------
A `Stream` offers an exchange what `Upstream` does: send, write, finish, pause, resume, close; it calls the same
`ResponseSink`. It is never given back to a pool: it is never `reusable`, and `close` ends it alone, with RST_STREAM if
it is not complete. Streams of a connection share its windows and its socket and nothing else.

Flow control joins both sides. What the endpoint sends on a stream is handed on at once, and its window is replenished
while the client keeps up; a client that doesn't stops that (`pause`), so that at most STREAM_WINDOW bytes more come,
which wait where the bytes for a client always wait. The connection's window is replenished at once: a slow client stops
its own stream only. What goes to the endpoint waits in its stream while a window is used up or the socket is full, and
meanwhile that client is not read. As windows open, streams that wait take turns, a frame each.

A response's head is held until the end of the bytes that came with it, so that a small response leaves in one write.
Frames for the endpoint leave at the end of the turn of the loop in which they were made, or when they are MAX_OUT
bytes: one write for all streams, which made 64 gRPC calls at once a sixth cheaper.

Requests that the endpoint says it did not look at (REFUSED_STREAM, or above a GOAWAY's last stream) are StreamRefused.
After a GOAWAY the connection takes no more streams, and closes with its last one. A frame that breaks HTTP/2 ends the
connection, a malformed response only its stream.

A peer that vanished is found by PING, when nothing came for SILENCE seconds though somebody waits. gRPC servers count
PINGs and end connections with more than two in five minutes without data, hence PING_INTERVAL.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol, cast

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
from gateway.core.http1 import MAX_FIELD_SECTION
from gateway.core.http2 import request_fields, response_head, response_trailers, trailer_fields
from gateway.errors import GatewayError, StreamRefused, StreamReset, UpstreamProtocolError, UpstreamReset
from gateway.net.upstream import MAX_INTERIM

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.core.frames import Field
    from gateway.core.http1 import RequestHead, ResponseHead
    from gateway.net.sides import ResponseSink

__all__ = ["Owner", "Stream", "Upstream2"]

STREAM_WINDOW = 128 * 1024
CONNECTION_WINDOW = 1024 * 1024
UNTOLD_STREAMS = 100  # at once, at a peer that says nothing; the least RFC 9113 section 6.5.2 recommends
MAX_OUT = 64 * 1024
LAST_STREAM = 2**31 - 1  # a day at 12,000 a second
QUESTIONS_BURST, QUESTIONS_RATE = 1000, 200.0  # SETTINGS and PING without content between them
LINGER = 5.0
SILENCE = 15.0
PING_INTERVAL = 330.0

_GREETING = (
    PREFACE
    + settings_frame(
        (
            (Setting.ENABLE_PUSH, 0),
            (Setting.INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (Setting.MAX_HEADER_LIST_SIZE, MAX_FIELD_SECTION),
        )
    )
    + window_frame(0, CONNECTION_WINDOW - DEFAULT_WINDOW)
)
_PING = b"zerogate"


class Owner(Protocol):
    """Whoever keeps the connections."""

    def opened(self, upstream: Upstream2) -> None:
        """The connection is made. Told once, as are the others, in this order."""

    def retired(self, upstream: Upstream2) -> None:
        """It takes no more streams."""

    def lost(self, upstream: Upstream2) -> None:
        """It is closed, by whichever side."""


class Upstream2(asyncio.Protocol):
    """A connection; see the module. `greeted` is done once the endpoint's SETTINGS came, or with the error instead;
    `heard` says whether anything came since the last `check`."""

    __slots__ = (
        "_budget",
        "_held",
        "_is_free",
        "_last_stream",
        "_loop",
        "_open",
        "_out",
        "_out_size",
        "_owner",
        "_ping_at",
        "_reader",
        "_receivable",
        "_retired",
        "_silent_since",
        "_streams",
        "_transport",
        "_unreported",
        "_waiting",
        "encoder",
        "greeted",
        "heard",
        "idle_since",
        "initial_window",
        "key",
        "limit",
        "sendable",
        "write_paused",
    )

    def __init__(self, key: tuple[str, int], owner: Owner) -> None:
        self.key = key
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[None] = self._loop.create_future()
        self._reader = FrameReader(MAX_FIELD_SECTION)
        self.encoder = FieldEncoder()
        self._streams: dict[int, Stream] = {}
        self._open = 0
        self._last_stream = -1
        self._out: list[bytes] = []
        self._out_size = 0
        self._waiting: deque[Stream] = deque()
        self._held: list[Stream] = []
        self._budget = Budget(QUESTIONS_BURST, QUESTIONS_RATE, self._loop.time())
        self._is_free = True  # the next question, because something else came with it
        self._retired = False
        self.limit = UNTOLD_STREAMS
        self.initial_window = DEFAULT_WINDOW
        self.sendable = DEFAULT_WINDOW
        self.write_paused = False
        self._receivable = CONNECTION_WINDOW
        self._unreported = 0
        self.idle_since = self._loop.time()
        self.heard = True
        self._silent_since = self.idle_since
        self._ping_at = -PING_INTERVAL

    # --- from the pool ------------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether one more stream can be opened."""
        return self._open < self.limit and not self._retired

    @property
    def is_idle(self) -> bool:
        """Whether no stream is open."""
        return not self._open

    def open(self) -> Stream:
        """A stream for one exchange."""
        self._open += 1
        return Stream(self, is_reused=self._last_stream > 0)

    def close(self) -> None:
        """Close the connection, which is idle."""
        self._retire()
        self.write(goaway_frame(0, ErrorCode.NO_ERROR))
        self._close()

    def check(self, now: float) -> None:
        """To be called about once a second: finds a peer that vanished."""
        if self.heard or not self._open:
            self.heard = False
            self._silent_since = now
        elif self._ping_at > self._silent_since:
            if now - self._ping_at >= SILENCE:
                self._lose(UpstreamReset(f"The endpoint has not answered for {now - self._silent_since:.0f} s."))
        elif now - self._silent_since >= SILENCE and now - self._ping_at >= PING_INTERVAL:
            self._ping_at = now
            self.write(ping_frame(_PING, acknowledges=False))

    # --- from its streams ---------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send frames: at the end of this turn of the loop, with all others made in it."""
        out = self._out
        if not out:
            self._loop.call_soon(self._send_out)
        out.append(data)
        self._out_size += len(data)
        if self._out_size > MAX_OUT:
            self._send_out()

    def _send_out(self) -> None:
        out = self._out
        if out:
            data = b"".join(out) if len(out) > 1 else out[0]
            out.clear()
            self._out_size = 0
            self._transport.write(data)

    def _close(self) -> None:
        """Close once what was written has been sent, if the endpoint takes it."""
        self._send_out()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(LINGER, self._transport.abort)

    def begin(self, stream: Stream) -> int:
        """The number of a stream whose HEADERS are sent now."""
        number = self._last_stream = self._last_stream + 2
        self._streams[number] = stream
        if number >= LAST_STREAM:
            self._retire()
        return number

    def wait(self, stream: Stream) -> None:
        """The stream has content that its own window takes: it gets its turn when the connection can send."""
        self._waiting.append(stream)

    def ended(self, stream: Stream) -> None:
        """The stream is closed. Once for each that was opened."""
        self._streams.pop(stream.id, None)
        self._open -= 1
        if not self._open:
            self.idle_since = self._loop.time()
            if self._retired:
                self._close()

    # --- from the endpoint --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class, with the same methods
        self._transport.write(_GREETING)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        try:
            self._reader.feed(data, self)
        except ConnectionFault as fault:
            self._break(fault)
        if self._held:
            held, self._held = self._held, []
            for stream in held:
                stream.unhold()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(UpstreamReset("The endpoint closed the connection before its response was complete."))
        self._owner.lost(self)

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self._flush()

    def _flush(self) -> None:
        """Let the streams that wait send in turn, a frame each, until nothing more fits."""
        waiting = self._waiting
        while waiting and self.sendable > 0 and not self.write_paused:
            stream = waiting.popleft()
            stream.send_frame()

    def _break(self, fault: ConnectionFault) -> None:
        if self._transport.is_closing():
            return
        if not self.greeted.done():
            error = UpstreamProtocolError("The endpoint does not speak HTTP/2, though its port is named h2c.")
        else:
            error = UpstreamProtocolError(f"The endpoint broke HTTP/2: {fault}")
            self.write(goaway_frame(0, fault.code, str(fault).encode()))
        self._lose(error)

    def _lose(self, error: GatewayError) -> None:
        """Close at once; all streams fail with `error`."""
        self._reader.stopped = True
        if not self.greeted.done():
            self.greeted.set_exception(error)
            self.greeted.exception()  # whoever dialled may have left
        self._retire()
        if isinstance(error, UpstreamProtocolError) and not self.write_paused:
            self._close()  # after the GOAWAY
        else:
            self._out.clear()  # uvloop raises at a write after the end
            self._transport.abort()
        for stream in list(self._streams.values()):
            stream.fail(error)

    def _retire(self) -> None:
        if not self._retired:
            self._retired = True
            self._owner.retired(self)

    # --- from the reader ----------------------------------------------------------------------------------------------

    def data(self, stream: int, data: bytes, size: int, end: bool) -> None:
        self._is_free = True
        self._receivable -= size
        if self._receivable < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "There was more content than the window allows.")
        self._unreported += size
        if self._unreported >= CONNECTION_WINDOW // 2:
            self.write(window_frame(0, self._unreported))
            self._receivable += self._unreported
            self._unreported = 0
        found = self._streams.get(stream)
        if found is None:
            self._check_known(stream)
        else:
            found.data(data, size, end)

    def headers(self, stream: int, fields: Sequence[Field], end: bool) -> None:
        found = self._streams.get(stream)
        if found is None:
            self._check_known(stream)
        else:
            found.headers(fields, end)

    def hold(self, stream: Stream) -> None:
        """From a stream: its response's head may be sent with what follows it in these bytes."""
        self._held.append(stream)

    def reset(self, stream: int, code: int) -> None:
        found = self._streams.get(stream)
        if found is None:
            self._check_known(stream)
        elif code == ErrorCode.REFUSED_STREAM and not found.saw_response:
            found.fail(StreamRefused("The endpoint refused the request for now."))
        else:
            found.fail(StreamReset(f"The endpoint gave up its response ({error_name(code)})."))

    def window(self, stream: int, increment: int) -> None:
        if not stream:
            self.sendable += increment
            if self.sendable > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "The connection's window is too large.")
            self._flush()
            return
        found = self._streams.get(stream)
        if found is None:
            self._check_known(stream)
        else:
            found.widen(increment)
            self._flush()

    def settings(self, values: Iterable[tuple[int, int]]) -> None:
        for name, value in values:
            if name == Setting.HEADER_TABLE_SIZE:
                self.encoder.resize(value)
            elif name == Setting.MAX_CONCURRENT_STREAMS:
                self.limit = value
            elif name == Setting.INITIAL_WINDOW_SIZE:
                change, self.initial_window = value - self.initial_window, value
                for stream in list(self._streams.values()):
                    stream.resize(change)
        self._answer(SETTINGS_ACK)
        if not self.greeted.done():
            self.greeted.set_result(None)
        self._flush()

    def settings_acknowledged(self) -> None:
        pass

    def ping(self, payload: bytes) -> None:
        self._answer(ping_frame(payload, acknowledges=True))

    def pong(self, payload: bytes) -> None:
        pass

    def goaway(self, last: int, code: int) -> None:
        self._retire()
        for number, stream in list(self._streams.items()):
            if number > last:
                stream.fail(StreamRefused(f"The endpoint is closing its connections ({error_name(code)})."))
        if not self._open:
            self._close()

    def _answer(self, frame: bytes) -> None:
        """Send what the peer is owed, unless it asks and asks, or does not read."""
        if self._is_free:
            self._is_free = False
        elif not self._budget.spend(self._loop.time()):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "There are too many questions.")
        if self.write_paused:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "There are more questions than answers are read.")
        self.write(frame)

    def _check_known(self, stream: int) -> None:
        """Frames on a stream that is closed may have crossed its end; on one that never was they can't."""
        if stream > self._last_stream or not stream & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "A frame came on a stream that was never opened.")


class Stream:
    """One request and its response on a connection; see the module and `net.upstream`."""

    __slots__ = (
        "_connection",
        "_content_left",
        "_finish",
        "_head",
        "_interims",
        "_is_sent",
        "_length_left",
        "_may_have_content",
        "_method",
        "_offset",
        "_pending",
        "_pending_size",
        "_queued",
        "_reading",
        "_receivable",
        "_responded",
        "_sendable",
        "_sink",
        "_unreported",
        "id",
        "is_reused",
        "key",
        "saw_response",
    )

    def __init__(self, connection: Upstream2, *, is_reused: bool) -> None:
        self._connection = connection
        self.key = connection.key
        self.id = 0
        self.is_reused = is_reused
        self.saw_response = False
        self._sink: ResponseSink | None = None
        self._method = b""
        self._sendable = 0
        self._length_left: int | None = None  # of the request's content, None where its end is told otherwise
        self._pending: deque[bytes] = deque()
        self._pending_size = 0
        self._offset = 0  # in the first pending piece
        self._queued = False
        self._finish: list[bytes] | None = None
        self._is_sent = False  # END_STREAM included
        self._receivable = STREAM_WINDOW
        self._unreported = 0
        self._reading = True
        self._head: ResponseHead | None = None
        self._responded = False
        self._interims = 0
        self._may_have_content = True
        self._content_left: int | None = None

    # --- from the exchange --------------------------------------------------------------------------------------------

    def send(self, sink: ResponseSink, head: RequestHead, text: bytes, hold: bool = False) -> None:
        """Begin a request: `text` is its head as HTTP/1.1 has it, made from `head`. It is a frame of its own, `hold` or
        not."""
        connection = self._connection
        self._sink = sink
        self._method = head.method
        self._sendable = connection.initial_window
        self._length_left = None if head.chunked else head.content_length or 0
        self._is_sent = self._length_left == 0
        self.id = connection.begin(self)
        block = connection.encoder.encode(request_fields(text))
        connection.write(headers_frames(self.id, block, end=self._is_sent))

    def write(self, data: bytes) -> None:
        """Send a piece of the request's content; back-pressure comes as `pause_request`."""
        if self._is_sent or self._sink is None:
            return  # the stream broke while this was on its way
        connection = self._connection
        size = len(data)
        if (
            not self._pending_size
            and size <= self._sendable
            and size <= connection.sendable
            and size <= MAX_FRAME
            and not connection.write_paused
        ):
            self._send_data(data)
            return
        self._pending.append(data)
        self._pending_size += size
        while self._pending_size and self._sendable > 0 and connection.sendable > 0 and not connection.write_paused:
            self._send_data(self._next_piece())
        if self._pending_size:
            self._queue()
            self._sink.pause_request()

    def finish(self, content: bytes, trailers: list[bytes]) -> None:
        """The request is complete with the last piece of its content, b"" for none. `trailers` are canonical lines, []
        for none."""
        if content:
            self.write(content)
        if self._is_sent or self._sink is None:
            return
        self._finish = trailers
        if not self._pending_size:
            self._send_end()

    def close(self) -> None:
        """The exchange is over and this stream with it; the connection stays."""
        if self._sink is None:
            return
        self._sink = None
        if self.id:
            self._connection.write(reset_frame(self.id, ErrorCode.CANCEL))
        self._end()

    def pause(self) -> None:
        """Replenish the endpoint's window no more until `resume`."""
        self._reading = False

    def resume(self) -> None:
        """The client has caught up after `pause`."""
        self._reading = True
        self._report()

    def _send_data(self, data: bytes) -> None:
        size = len(data)
        self._sendable -= size
        self._connection.sendable -= size
        if self._length_left is not None:
            self._length_left -= size
            self._is_sent = self._length_left == 0
        self._connection.write(data_frame(self.id, data, end=self._is_sent))

    def _next_piece(self) -> bytes:
        """The next frame's worth of what waits; the windows are open."""
        pending = self._pending
        piece = pending[0]
        start = self._offset
        end = start + min(self._sendable, self._connection.sendable, MAX_FRAME)
        if end < len(piece):
            self._offset = end
            piece = piece[start:end]
        else:
            self._offset = 0
            pending.popleft()
            if start:
                piece = piece[start:]
        self._pending_size -= len(piece)
        return piece

    def _send_end(self) -> None:
        assert self._finish is not None
        self._is_sent = True
        if self._finish:
            block = self._connection.encoder.encode(trailer_fields(self._finish))
            self._connection.write(headers_frames(self.id, block, end=True))
        else:
            self._connection.write(data_frame(self.id, b"", end=True))

    # --- from the connection ------------------------------------------------------------------------------------------

    def send_frame(self) -> None:
        """The connection has room for what waits here: one frame, then it is the next stream's turn."""
        self._queued = False
        if self._sink is None or not self._pending_size or self._sendable <= 0:
            return
        self._send_data(self._next_piece())
        if self._pending_size:
            self._queue()
            return
        self._sink.resume_request()
        if self._finish is not None and not self._is_sent:
            self._send_end()

    def _queue(self) -> None:
        if not self._queued and self._sendable > 0:
            self._queued = True
            self._connection.wait(self)

    def widen(self, increment: int) -> None:
        """The endpoint takes that much more content."""
        self._sendable += increment
        if not increment or self._sendable > MAX_WINDOW:
            self.break_off(ErrorCode.FLOW_CONTROL_ERROR, "The endpoint opened a stream's window in a wrong way.")
        elif self._pending_size:
            self._queue()

    def resize(self, change: int) -> None:
        """The endpoint's windows are larger or smaller from now on. Raises ConnectionFault."""
        self._sendable += change
        if self._sendable > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "A stream's window is too large.")
        if self._pending_size:
            self._queue()

    def headers(self, fields: Sequence[Field], end: bool) -> None:
        """A response's head, an interim one, or trailers."""
        self.saw_response = True
        try:
            if self._responded:
                self._read_trailers(fields, end)
            else:
                self._read_head(response_head(fields), end)
        except UpstreamProtocolError as error:
            self.break_off(ErrorCode.PROTOCOL_ERROR, str(error))

    def _read_head(self, head: ResponseHead, end: bool) -> None:
        sink = self._sink
        assert sink is not None
        if head.status < 200:
            self._interims += 1
            if end or self._interims > MAX_INTERIM:
                raise UpstreamProtocolError("The endpoint's interim responses lead to no final one.")
            sink.response_interim(head)
            return
        self._responded = True
        self._may_have_content = self._method != b"HEAD" and head.status not in (204, 304)
        self._content_left = head.content_length if self._may_have_content else 0
        if end:
            if self._content_left:
                raise UpstreamProtocolError("The endpoint's response is shorter than its Content-Length.")
            sink.response_head(head, has_body=self._may_have_content, hold=True)
            self._complete([])
            return
        self._head = head
        self._connection.hold(self)

    def _read_trailers(self, fields: Sequence[Field], end: bool) -> None:
        if not end:
            raise UpstreamProtocolError("The endpoint's response has a second head.")
        trailers = response_trailers(fields)
        if self._content_left:
            raise UpstreamProtocolError("The endpoint's response is shorter than its Content-Length.")
        self._let_go(hold=True)
        self._complete(trailers)

    def data(self, data: bytes, size: int, end: bool) -> None:
        """A piece of the response's content; `size` counts against the window."""
        self.saw_response = True
        self._receivable -= size
        if self._receivable < 0:
            self.break_off(ErrorCode.FLOW_CONTROL_ERROR, "The endpoint sent more than the window allows.")
            return
        if not self._responded:
            self.break_off(ErrorCode.PROTOCOL_ERROR, "The endpoint sent content before a head.")
            return
        if self._content_left is not None:
            self._content_left -= len(data)
            if self._content_left < 0 or (end and self._content_left):
                self.break_off(ErrorCode.PROTOCOL_ERROR, "The endpoint's response is not as long as it says.")
                return
        head = self._head
        if end and head is not None and head.content_length is not None and self._may_have_content:
            self._head = None
            self._whole(head, data)
            return
        if data:
            self._let_go(hold=True)
            if self._sink is not None:
                self._sink.response_body(data)
        if end:
            self._let_go(hold=True)
            self._complete([])
        elif self._sink is not None:
            self._unreported += size
            self._report()

    def _report(self) -> None:
        if self._reading and self._unreported >= STREAM_WINDOW // 2 and self._sink is not None:
            self._connection.write(window_frame(self.id, self._unreported))
            self._receivable += self._unreported
            self._unreported = 0

    def unhold(self) -> None:
        """Nothing more came with the head."""
        self._let_go(hold=False)

    def _let_go(self, *, hold: bool) -> None:
        head, self._head = self._head, None
        if head is not None and self._sink is not None:
            self._sink.response_head(head, has_body=self._may_have_content, hold=hold)

    def _whole(self, head: ResponseHead, content: bytes) -> None:
        sink, self._sink = self._sink, None
        assert sink is not None
        self._end_both()
        sink.response_whole(head, content, 0, False)

    def _complete(self, trailers: list[bytes]) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            self._end_both()
            sink.response_end(b"", trailers, reusable=False)

    def _end_both(self) -> None:
        """The response is complete. A request that is not has become pointless (RFC 9113 section 8.1)."""
        if not self._is_sent:
            self._connection.write(reset_frame(self.id, ErrorCode.NO_ERROR))
        self._end()

    def _end(self) -> None:
        self._is_sent = True
        self._pending.clear()
        self._pending_size = 0
        self._head = None
        self._connection.ended(self)

    def break_off(self, code: ErrorCode, text: str) -> None:
        """The endpoint's response is malformed; the connection's other streams are not affected."""
        if self._sink is not None:
            self._connection.write(reset_frame(self.id, code))
            self.fail(UpstreamProtocolError(text))

    def fail(self, error: GatewayError) -> None:
        """The stream is closed, by the endpoint or with its connection."""
        sink, self._sink = self._sink, None
        if sink is not None:
            self._end()
            sink.upstream_lost(error)
