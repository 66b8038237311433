"""Whatever a client of HTTP/2 sends and an exchange answers, in any order: the connection keeps its books."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import hpack
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Limits
from gateway.core.clients import ClientCounts
from gateway.core.fields import Peer
from gateway.core.http1 import parse_response
from gateway.core.proxies import TrustedProxies
from gateway.core.traffic import WorkerTraffic
from gateway.net.downstream2 import MAX_STREAMS, Connection
from gateway.net.listener import Listener

if TYPE_CHECKING:
    from typing import Any

    from gateway.core.http1 import RequestHead
    from gateway.errors import GatewayError
    from gateway.net.stream2 import Stream

DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
START = [(b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a.example")]
WHOLE = parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n")
CHUNKED = parse_response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
INTERIM = parse_response(b"HTTP/1.1 103 Early Hints\r\n\r\n")


class Transport:
    """Takes what it is given; says what misuse a real one would."""

    def __init__(self) -> None:
        self.written = b""
        self.ended = self.paused = False

    def write(self, data: bytes) -> None:
        assert not self.ended
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.ended

    def abort(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return len(self.written)


class Exchange:
    """As strict about how it is told things as the real one relies on."""

    def __init__(self, stream: Stream, head: RequestHead) -> None:
        self.stream = stream
        self.ended = not (head.chunked or head.content_length)
        self.is_over = self.responded = False

    def request_body(self, data: bytes) -> None:
        assert data
        assert not self.is_over
        assert not self.ended

    def request_end(self, content: bytes, trailers: list[bytes]) -> None:
        assert not self.is_over
        assert not self.ended
        self.ended = True

    def fail(self, error: GatewayError) -> None:
        assert not self.is_over
        self.is_over = True
        if self.responded:
            self.stream.reset()
        else:
            self.stream.reply(error.status, str(error))

    def client_gone(self) -> None:
        assert not self.is_over
        self.is_over = True

    def client_ended(self) -> None:
        raise AssertionError

    def pause_response(self) -> None: ...

    def resume_response(self) -> None: ...

    def on_deadline(self, now: float) -> float:
        return now + 300

    def act(self, what: int) -> None:
        """Something that an exchange does in its state."""
        assert WHOLE is not None
        assert CHUNKED is not None
        assert INTERIM is not None
        stream = self.stream
        if what == 0:
            stream.pause()
        elif what == 1:
            stream.resume()
        elif self.responded:
            if what < 5:
                stream.write(bytes((1, 1000, 40_000)[what - 2]))
            else:
                self.is_over = True
                stream.reset() if what == 5 else stream.finish(b"", [b"x: y"] if what == 6 else [])
        elif what == 2:
            stream.interim(INTERIM)
        elif what < 5:
            self.responded = True
            stream.respond(CHUNKED, has_body=True, hold=what == 3)
        else:
            self.is_over = True
            if what == 5:
                stream.reply(404, "no")
            else:
                stream.respond_whole(WHOLE, bytes((0, 70_000)[what - 6]), 0)


def frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + number.to_bytes(4, "big") + payload


class Session:
    """A connection and both its sides."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.encoder = hpack.Encoder()
        self.next = 1
        listener = Listener(
            self.begin,
            lambda *_: None,
            cluster_local=False,
            limits=Limits(),
            clients=ClientCounts(0),
            traffic=WorkerTraffic(),
            proxies=TrustedProxies(()),
        )
        self.transport = Transport()
        peer = Peer(b"127.0.0.1", b"http", TrustedProxies(()))
        self.connection = Connection(listener, self.transport, peer)  # type: ignore[arg-type]
        self.receive(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))

    def begin(self, stream: Any, head: RequestHead) -> Any:
        stream.set_deadline(asyncio.get_running_loop().time() + 300)
        self.exchanges.append(Exchange(stream, head))
        return self.exchanges[-1]

    def receive(self, data: bytes) -> None:
        if not self.transport.ended:
            self.connection.data_received(data)

    def ask(self, method: bytes, more: list[tuple[bytes, bytes]], end: bool) -> None:
        block = self.encoder.encode([(b":method", method), *START, *more])
        self.receive(frame(HEADERS, 4 | end, self.next, block))
        self.next += 2

    def step(self, step: tuple[Any, ...]) -> None:
        what, *values = step
        if what == "ask":
            self.ask(*values)
        elif what == "act":
            which, act = values
            living = [exchange for exchange in self.exchanges if not exchange.is_over]
            if living:
                living[which % len(living)].act(act)
        elif what == "frame":
            kind, flags, back, payload = values
            self.receive(frame(kind, flags, max(1, self.next - 2 * back), payload))
        elif what == "connection":
            kind, payload = values
            self.receive(frame(kind, 0, 0, payload))
        elif what == "trailers":
            self.receive(frame(HEADERS, 5, max(1, self.next - 2 * values[0]), self.encoder.encode([(b"x", b"y")])))
        elif what == "room" and not self.transport.ended:
            if self.connection._write_paused:
                self.transport.written = b""
                self.connection.resume_writing()
            else:
                self.connection.pause_writing()
        elif what == "drain":
            self.connection.drain()
        self.check()

    def check(self) -> None:
        connection = self.connection
        streams = connection._streams.values()
        assert connection._pending == sum(stream.queued for stream in streams)
        assert all(stream.queued == sum(map(len, stream._queue)) for stream in streams)
        assert len(streams) <= MAX_STREAMS
        assert all(stream.queued for stream in connection._ready)

    def close(self) -> None:
        self.connection.connection_lost(None)
        assert not self.connection._streams
        assert not self.connection._pending
        assert not self.connection.listener.traffic.http2_pending
        assert all(exchange.is_over for exchange in self.exchanges)


back = st.integers(1, 4)
sizes = st.sampled_from([0, 1, 5, 5000, 16384])
fields = st.sampled_from(
    [[], [], [(b"content-length", b"5")], [(b"content-type", b"application/grpc")], [(b"expect", b"100-continue")]]
)
increments = st.sampled_from([0, 1, 10_000, 2**30]).map(lambda value: value.to_bytes(4, "big"))
initial_windows = st.sampled_from([0, 10, 65_535, 100_000]).map(lambda value: b"\0\4" + value.to_bytes(4, "big"))
steps = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from([b"GET", b"POST", b"HEAD"]), fields, st.booleans()),
    st.tuples(st.just("act"), st.integers(0, 3), st.integers(0, 7)),
    st.tuples(st.just("act"), st.integers(0, 3), st.integers(0, 7)),
    st.tuples(st.just("frame"), st.just(DATA), st.integers(0, 1), back, sizes.map(bytes)),
    st.tuples(st.just("frame"), st.just(WINDOW_UPDATE), st.just(0), back, increments),
    st.tuples(st.just("frame"), st.just(RST_STREAM), st.just(0), back, st.just(bytes(4))),
    st.tuples(st.just("connection"), st.just(WINDOW_UPDATE), increments),
    st.tuples(st.just("connection"), st.just(SETTINGS), initial_windows),
    st.tuples(st.just("connection"), st.just(PING), st.sampled_from([bytes(8), b"draining"])),
    st.tuples(st.just("trailers"), back),
    st.tuples(st.just("frame"), st.integers(0, 11), st.integers(0, 255), back, st.binary(max_size=12)),
    st.tuples(st.sampled_from(["room", "room", "drain"])),
)


@settings(deadline=None, max_examples=400)
@given(st.lists(steps, max_size=60))
def test_any_session_ends_with_nothing_left(session: list[tuple[Any, ...]]) -> None:
    """Frames and answers in any order: what is pending adds up, each exchange is told its end once, nothing remains."""

    async def run() -> None:
        ours = Session()
        for step in session:
            ours.step(step)
        await asyncio.sleep(0)
        ours.close()

    asyncio.run(run())
