"""One request on a client's HTTP/2 connection, and its response: to the exchange what `Downstream` is.

Theory of operation
-------------------
A stream keeps its own windows and its own clocks; what is common to all is its connection's (`net.downstream2`, where
the rules are told). Content that can't leave waits here, in order, and what ends the response behind it: then the
stream outlives its exchange. Whatever ends it, `_over` is the last thing it does.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from gateway.core.bodylimits import BodyRate, too_large
from gateway.core.frames import DEFAULT_WINDOW, MAX_FRAME, MAX_WINDOW, ConnectionFault, ErrorCode, window_frame
from gateway.core.grpc import is_grpc, local_reply
from gateway.core.http1 import RequestHead, parse_request
from gateway.core.http2 import request_text, request_trailers, trailer_fields
from gateway.errors import BadRequest, BodyTooSlow, ProtocolError, Stopping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.core.frames import Field, FieldList
    from gateway.core.http1 import ResponseHead
    from gateway.net.downstream2 import Connection
    from gateway.net.sides import RequestSink

__all__ = ["SEND_TIMEOUT", "STREAM_WINDOW", "Stream"]

STREAM_WINDOW = DEFAULT_WINDOW
SEND_TIMEOUT = 60.0  # nginx's send_timeout


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
        "_watches_rate",
        "_window",
        "_withheld",
        "cluster_local",
        "number",
        "peer",
        "queued",
        "send_window",
        "stalled_by",
    )

    has_content = False  # content is in frames of its own
    protocol = b"HTTP/2"

    def __init__(self, connection: Connection, number: int, send_window: int) -> None:
        self._connection = connection
        self.number = number
        self.peer = connection.peer
        self.cluster_local = connection.cluster_local
        self.send_window = send_window
        self.queued = 0
        self.stalled_by = inf
        self._head: RequestHead | None = None
        self._exchange: RequestSink | None = None
        self._remaining: int | None = None
        self._left = inf  # of the content there may be
        self._rate: BodyRate | None = None
        self._watches_rate = True
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
        if self._request_ended or not self._watches_rate:
            return
        self._watches_rate = False  # looked at once
        if not limits.min_body_rate or (self._head is not None and is_grpc(self._head.field(b"content-type"))):
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
        elif self._watches_rate and not end:
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
            self._exchange.request_end(b"", trailers)

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

    def respond_whole(self, head: ResponseHead, data: bytes, start: int) -> None:
        """Send a response of known length, whose content is `data` from `start` on, and finish."""
        content = data[start:]
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
            self.finish(content, [])

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
            self.stalled_by = connection.loop.time() + SEND_TIMEOUT
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
        self.stalled_by = connection.loop.time() + SEND_TIMEOUT
        last = not self._queue and self._ending == []
        connection.send_data(self.number, piece, end=last)
        if self._queue:
            return size
        self.stalled_by = inf
        if last:
            self._finished()
        elif self._ending is not None:
            self._send_end(self._ending)
        elif self._exchange is not None:
            self._exchange.resume_response()
        return size

    def finish(self, content: bytes, trailers: list[bytes]) -> None:
        """The response is complete with the last piece of its content, b"" for none."""
        if content:
            self.write(content)
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
        date = (b"date", self._connection.listener.date(), False)
        if head is not None and is_grpc(head.field(b"content-type")):
            self._connection.send_fields(self.number, [*local_reply(status, text), date], end=True)
            self._finished()
            return 0
        body = text.encode() + b"\n"
        fields = [
            (b":status", b"%d" % status, False),
            (b"content-type", b"text/plain; charset=utf-8", False),
            (b"content-length", b"%d" % len(body), False),
            date,
            *trailer_fields(extra.splitlines()),
        ]
        if head is not None and head.method == b"HEAD":
            body = b""
        self._connection.send_fields(self.number, fields, end=not body)
        self._send_content(body)
        return len(body)

    def take_back(self) -> bool:
        """Forget the head of a response if it is still held back. False: the client has it."""
        held, self._held = self._held, None
        return held is not None

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
        if now >= self.stalled_by:
            self._connection.dismiss(self.number, ErrorCode.CANCEL)
            self.abandon()
            return inf
        if now >= self._deadline and self._exchange is not None:
            self._deadline = self._exchange.on_deadline(now)
        return min(self._deadline, self.stalled_by, self._check_rate(now))

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
