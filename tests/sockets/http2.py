"""A client of HTTP/2 for tests, down to its frames: it can also send what no library would. Its header compression is
the `hpack` library's."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

import hpack

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "hello.default.localhost"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS = 4
GET = ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", HOST.encode()))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
INITIAL_WINDOW_SIZE = 4
PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR = range(1, 7)
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = range(7, 12)


class Answer:
    """What one stream has brought so far."""

    def __init__(self) -> None:
        self.status = 0
        self.fields: dict[str, str] = {}
        self.interim: list[int] = []
        self.body = b""
        self.trailers: dict[str, str] | None = None
        self.ended = False
        self.reset: int | None = None
        self.window = 65535  # what may be sent


class Client:
    """One connection. `takes`: give back the window of what has come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.answers: defaultdict[int, Answer] = defaultdict(Answer)
        self.next = 1
        self.window = 65535
        self.takes = True
        self.goaways: list[tuple[int, int]] = []  # last stream, code
        self.closed = False
        self.buffer = b""
        self.block = b""
        writer.write(PREFACE)
        self.raw(SETTINGS, 0, 0)

    # --- sending ------------------------------------------------------------------------------------------------------

    def raw(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        """One frame, whatever it is."""
        self.writer.write(len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload)

    def raw_fields(self, stream: int, *fields: tuple[bytes, bytes], end: bool = True) -> None:
        """HEADERS, whatever is in them."""
        self.raw(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, self.encoder.encode(fields))

    def ask(self, *, method: str = "GET", path: str = "/", end: bool = True, host: str = HOST, **fields: str) -> int:
        """Begin a request; returns its stream."""
        number, self.next = self.next, self.next + 2
        lines = [(":method", method), (":scheme", "http"), (":path", path), (":authority", host)]
        lines += [(name.replace("_", "-"), value) for name, value in fields.items()]
        self.raw_fields(number, *[(name.encode(), value.encode()) for name, value in lines], end=end)
        return number

    def send(self, number: int, data: bytes, *, end: bool = False) -> None:
        """Content, of at most one frame, within the windows."""
        self.window -= len(data)
        self.answers[number].window -= len(data)
        assert min(self.window, self.answers[number].window) >= 0
        self.raw(DATA, END_STREAM if end else 0, number, data)

    def room(self, number: int) -> int:
        """How much content may be sent on a stream."""
        return min(self.window, self.answers[number].window)

    def reset(self, number: int, code: int = 8) -> None:
        self.raw(RST_STREAM, 0, number, code.to_bytes(4, "big"))

    def grant(self, number: int, size: int) -> None:
        """Window for a stream, or (0) the connection."""
        self.raw(WINDOW_UPDATE, 0, number, size.to_bytes(4, "big"))

    def set(self, setting: int, value: int) -> None:
        self.raw(SETTINGS, 0, 0, setting.to_bytes(2, "big") + value.to_bytes(4, "big"))

    # --- receiving ----------------------------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], bool]) -> None:
        """Read until `condition` holds."""
        async with asyncio.timeout(5):
            while not condition():
                try:
                    data = await self.reader.read(65536)
                except ConnectionError:  # it closed while we were still sending
                    data = b""
                if not data:
                    self.closed = True
                    self.writer.close()
                    assert condition(), "the gateway closed the connection"
                    return
                self.receive(data)

    def receive(self, data: bytes) -> None:
        self.buffer += data
        while len(self.buffer) >= 9 and len(self.buffer) >= (size := 9 + int.from_bytes(self.buffer[:3], "big")):
            frame, self.buffer = self.buffer[:size], self.buffer[size:]
            self.note(frame[3], frame[4], int.from_bytes(frame[5:9], "big"), frame[9:])

    def note(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """A frame came."""
        answer = self.answers[number]
        if kind == DATA:
            answer.body += payload
            answer.ended = bool(flags & END_STREAM)
            if self.takes and payload:
                self.grant(0, len(payload))
                if not answer.ended:
                    self.grant(number, len(payload))
        elif kind in (HEADERS, CONTINUATION):
            self.block += payload
            if kind == HEADERS:
                answer.ended = bool(flags & END_STREAM)
            if flags & END_HEADERS:
                block, self.block = self.block, b""
                self.note_fields(answer, dict(self.decoder.decode(block)))
        elif kind == RST_STREAM:
            answer.reset = int.from_bytes(payload, "big")
        elif kind == SETTINGS and not flags & ACK:
            self.raw(SETTINGS, ACK, 0)
        elif kind == PING and not flags & ACK:
            self.raw(PING, ACK, 0, payload)
        elif kind == GOAWAY:
            self.goaways.append((int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big")))
        elif kind == WINDOW_UPDATE and number:
            answer.window += int.from_bytes(payload, "big")
        elif kind == WINDOW_UPDATE:
            self.window += int.from_bytes(payload, "big")

    def note_fields(self, answer: Answer, fields: dict[str, str]) -> None:
        if answer.status:
            answer.trailers = fields
        elif fields[":status"] < "200":
            answer.interim.append(int(fields[":status"]))
        else:
            answer.status, answer.fields = int(fields[":status"]), fields

    async def answer(self, number: int) -> Answer:
        """The whole response on a stream."""
        answer = self.answers[number]
        await self.until(lambda: answer.ended or answer.reset is not None)
        return answer

    async def reset_of(self, number: int) -> int:
        """The code with which a stream was reset."""
        answer = self.answers[number]
        await self.until(lambda: answer.reset is not None)
        assert answer.reset is not None
        return answer.reset

    async def get(self, **request: str) -> Answer:
        """Ask, and wait for the whole response."""
        return await self.answer(self.ask(**request))  # type: ignore[arg-type]

    async def sent_away(self) -> int:
        """The error code of the last GOAWAY, behind which the gateway closes the connection."""
        await self.until(lambda: self.closed)
        return self.goaways[-1][1]
