"""gRPC end to end: grpcio's client, the gateway, grpcio's server on a port named h2c."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.sockets.gateway import Gateway

HOST = "hello.default.localhost"
LARGE = 4 * 1024 * 1024


class Service:
    """What the server does, by the method's name. Messages are bytes as they are."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.started = asyncio.Event()

    async def echo(self, message: bytes, context: grpc.aio.ServicerContext) -> bytes:
        context.set_trailing_metadata((("x-sum", str(len(message))), ("x-bin", b"\x00\xff")))
        return message

    async def collect(self, messages: AsyncIterator[bytes], _context: grpc.aio.ServicerContext) -> bytes:
        return b"".join([message async for message in messages])

    async def count(self, message: bytes, _context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        for number in range(int(message)):
            yield b"%d" % number

    async def chat(self, messages: AsyncIterator[bytes], _context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message[::-1]

    async def refuse(self, _message: bytes, context: grpc.aio.ServicerContext) -> bytes:
        context.set_trailing_metadata((("x-detail-bin", b"\x01\x02"),))
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "não, 100%")
        raise AssertionError

    async def hang(self, message: bytes, _context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        yield message
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


class Server:
    """A grpcio server with a Service."""

    def __init__(self) -> None:
        self.service = Service()
        self.port = 0

    async def start(self, port: int = 0) -> None:
        unbounded = (("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0))
        self._server = grpc.aio.server(options=unbounded)
        service = self.service
        handlers = {
            "echo": grpc.unary_unary_rpc_method_handler(service.echo),
            "collect": grpc.stream_unary_rpc_method_handler(service.collect),
            "count": grpc.unary_stream_rpc_method_handler(service.count),
            "chat": grpc.stream_stream_rpc_method_handler(service.chat),
            "refuse": grpc.unary_unary_rpc_method_handler(service.refuse),
            "hang": grpc.unary_stream_rpc_method_handler(service.hang),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Test", handlers),))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        await self._server.start()

    async def stop(self, grace: float | None = None) -> None:
        await self._server.stop(grace)


@pytest.fixture
async def server(gateway: Gateway) -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    gateway.route(server.port, protocol="h2c")
    yield server
    await server.stop()


@pytest.fixture
async def channel(gateway: Gateway, server: Server) -> AsyncIterator[grpc.aio.Channel]:
    options = (
        ("grpc.default_authority", HOST),
        ("grpc.max_receive_message_length", -1),
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}", options=options) as channel:
        yield channel
    del server


async def test_unary_with_metadata(channel: grpc.aio.Channel) -> None:
    """Message, trailing metadata (binary too) and status come through."""
    call = channel.unary_unary("/Test/echo")(b"hello", metadata=(("x-own", "1"),))
    assert await call == b"hello"
    trailing = dict(await call.trailing_metadata())
    assert trailing["x-sum"] == "5"
    assert trailing["x-bin"] == b"\x00\xff"


async def test_large_messages(channel: grpc.aio.Channel) -> None:
    """4 MiB each way, many times any window; empty ones too."""
    message = bytes(range(256)) * (LARGE // 256)
    assert await channel.unary_unary("/Test/echo")(message) == message
    assert await channel.unary_unary("/Test/echo")(b"") == b""


async def test_streaming(channel: grpc.aio.Channel) -> None:
    """Client-, server- and bidirectional streaming; in the last each message is answered before the next is sent."""

    async def messages() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"%d," % number

    expected = b"".join([message async for message in messages()])
    assert await channel.stream_unary("/Test/collect")(messages()) == expected
    numbers = [int(message) async for message in channel.unary_stream("/Test/count")(b"1000")]
    assert numbers == list(range(1000))
    chat = channel.stream_stream("/Test/chat")()
    for word in (b"one", b"two", b"three" * 10_000):
        await chat.write(word)
        assert await chat.read() == word[::-1]
    await chat.done_writing()
    assert await chat.read() is grpc.aio.EOF
    assert await chat.code() is grpc.StatusCode.OK


async def test_errors_keep_their_details(channel: grpc.aio.Channel) -> None:
    """A status without a message, which is one header block (Trailers-Only) from a server."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await channel.unary_unary("/Test/refuse")(b"")
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert raised.value.details() == "não, 100%"
    assert dict(raised.value.trailing_metadata())["x-detail-bin"] == b"\x01\x02"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await channel.unary_unary("/Test/missing")(b"")
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_cancelled_call_is_cancelled_at_the_server(
    gateway: Gateway, server: Server, channel: grpc.aio.Channel
) -> None:
    """And frees its place at once."""
    call = channel.unary_stream("/Test/hang")(b"x")
    assert await call.read() == b"x"
    call.cancel()
    async with asyncio.timeout(5):
        await server.service.cancelled.wait()
    await gateway.idle()


async def test_deadlines(server: Server, channel: grpc.aio.Channel) -> None:
    """The client's deadline reaches the server (grpc-timeout), which ends the call with it."""
    call = channel.unary_stream("/Test/hang")(b"x", timeout=0.2)
    assert await call.read() == b"x"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call.read()
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(5):
        await server.service.cancelled.wait()


async def test_a_hundred_calls_at_once(gateway: Gateway, channel: grpc.aio.Channel) -> None:
    """On one connection each side."""
    echo = channel.unary_unary("/Test/echo")
    messages = [b"%d" % number * 1000 for number in range(100)]
    assert await asyncio.gather(*(echo(message) for message in messages)) == messages
    assert gateway.pools.open == 1


async def test_many_calls_are_no_flood(channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    """grpc answers small messages with as many WINDOW_UPDATE and PING frames; content pays for them."""
    monkeypatch.setattr("gateway.net.downstream2.IDLE_BURST", 100)
    monkeypatch.setattr("gateway.net.downstream2.IDLE_RATE", 0.0)
    echo = channel.unary_unary("/Test/echo")
    for _ in range(50):
        assert await asyncio.gather(*(echo(b"x") for _ in range(8))) == [b"x"] * 8


async def test_a_server_that_restarts(gateway: Gateway, server: Server, channel: grpc.aio.Channel) -> None:
    """A stream that runs then is UNAVAILABLE; one that is given time ends well; the next call finds the new server."""
    cut = channel.unary_stream("/Test/hang")(b"x")
    assert await cut.read() == b"x"
    await server.stop(0)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await cut.read()
    assert raised.value.code() is not grpc.StatusCode.OK
    await server.start(server.port)
    assert await channel.unary_unary("/Test/echo")(b"again") == b"again"
    chat = channel.stream_stream("/Test/chat")()
    await chat.write(b"ab")
    assert await chat.read() == b"ba"
    stopping = asyncio.ensure_future(server.stop(5))
    await chat.write(b"cd")
    assert await chat.read() == b"dc"
    await chat.done_writing()
    assert await chat.code() is grpc.StatusCode.OK
    await stopping
    await server.start(server.port)
    assert await channel.unary_unary("/Test/echo")(b"again") == b"again"
    await gateway.idle()


async def test_an_unreachable_server_is_unavailable(server: Server, channel: grpc.aio.Channel) -> None:
    """A local reply to a gRPC caller is a gRPC status."""
    await server.stop(0)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await channel.unary_unary("/Test/echo")(b"x", timeout=2)
    assert raised.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_a_call_that_waited_for_a_cold_start(gateway: Gateway, server: Server) -> None:
    """Its initial metadata tell, also where the status is all there is."""
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{gateway.port}", options=(("grpc.default_authority", HOST), ("grpc.use_local_subchannel_pool", 1))
    ) as channel:
        for method in ("echo", "missing"):
            gateway.route(protocol="h2c")
            call = channel.unary_unary(f"/Test/{method}")(b"hello")
            await gateway.parked(1)
            gateway.route(server.port, protocol="h2c")
            code = await call.code()
            assert code is (grpc.StatusCode.OK if method == "echo" else grpc.StatusCode.UNIMPLEMENTED)
            metadata = dict(await call.initial_metadata() or await call.trailing_metadata())
            assert float(metadata["x-zerogate-cold-start"]) > 0
            assert metadata["server-timing"].startswith("ready;dur=")
