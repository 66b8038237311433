"""Requests that wait for an endpoint: how many, how much of them, how long, and what becomes of those whose client
leaves. All of it in HTTP/1.1 and in HTTP/2."""

from __future__ import annotations

import asyncio
import gc
import re
import tracemalloc
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import aiohttp
import pytest

from gateway.config import Limits
from gateway.exchange import Exchange
from tests.gateway_process import GatewayProcess, feed_of, started
from tests.polling import until
from tests.sockets import http2
from tests.sockets.gateway import HOST, REVISION, Client, Gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


OK = b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Length: 2\r\n\r\nhi"
EARLY_LIMIT = 64 * 1024
READ = 256 * 1024  # uvloop's, at most


class Endpoint:
    """Notes the content of each request and answers it with OK."""

    def __init__(self) -> None:
        self.contents: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            content = b""
            if b"transfer-encoding: chunked" in head:
                while size := int(await reader.readline(), 16):
                    content += (await reader.readexactly(size + 2))[:-2]
                await reader.readline()
            elif b"content-length: " in head.lower():
                length = head.lower().partition(b"content-length: ")[2]
                content = await reader.readexactly(int(length.split(b"\r\n")[0]))
            self.contents.append(content)
            writer.write(OK)


class Asked:
    """A request under way."""

    def __init__(self, one: Client | None, two: http2.Client | None, stream: int) -> None:
        self._one, self._two, self._stream = one, two, stream

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, fields in small letters, content."""
        if self._two is not None:
            answer = await self._two.answer(self._stream)
            return answer.status, answer.fields, answer.body
        assert self._one is not None
        line, *lines = (await self._one.head()).decode().split("\r\n")
        pairs = (line.partition(": ") for line in lines if line)
        fields = {name.lower(): value for name, _, value in pairs}
        return int(line.split()[1]), fields, await self._one.exactly(int(fields["content-length"]))

    def leave(self) -> None:
        if self._two is not None:
            self._two.reset(self._stream)
        elif self._one is not None:
            self._one.close()


class Asker:
    """Clients of one version: a connection for each request, or a stream on the one that there is."""

    def __init__(self, port: int, version: str) -> None:
        self._port = port
        self.version = version
        self._two: http2.Client | None = None
        self._ones: list[Client] = []

    async def ask(self, content: bytes = b"", **fields: str) -> Asked:
        """Send a request, with `content` if there is any."""
        method = "POST" if content else "GET"
        if self.version == "HTTP/2":
            two = await self.connection()
            stream = two.ask(method=method, end=not content, **fields)
            if content:
                two.send(stream, content, end=True)
            return Asked(None, two, stream)
        lines = [f"{method} / HTTP/1.1", f"Host: {HOST}", *(f"{name}: {value}" for name, value in fields.items())]
        if content:
            lines.append(f"Content-Length: {len(content)}")
        self._ones.append(Client(*await asyncio.open_connection("127.0.0.1", self._port)))
        self._ones[-1].send("\r\n".join([*lines, "", ""]).encode() + content)
        return Asked(self._ones[-1], None, 0)

    async def connection(self) -> http2.Client:
        if self._two is None:
            self._two = http2.Client(*await asyncio.open_connection("127.0.0.1", self._port))
        return self._two

    def close(self) -> None:
        for one in self._ones:
            one.close()
        if self._two is not None:
            self._two.writer.close()


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
async def asker(gateway: Gateway, request: pytest.FixtureRequest) -> AsyncIterator[Asker]:
    asker = Asker(gateway.port, request.param)
    gateway.route()
    yield asker
    asker.close()


def waiting_bytes(gateway: Gateway) -> int:
    traffic = gateway.exchanges.served[REVISION].traffic
    assert traffic.waiting_bytes == gateway.exchanges.waiting_bytes  # there is one revision
    return traffic.waiting_bytes


CONTENT = b"x" * 600


@pytest.mark.parametrize(
    ("gateway_limits", "words"),
    [
        (Limits(queue_limit=2), "2 requests wait for revision"),
        (Limits(worker_queue_limit=2), "2 requests wait at this gateway worker"),
        (Limits(queue_bytes=1900), "for revision default/hello-00001 have as many bytes"),
        (Limits(worker_queue_bytes=1900), "at this gateway worker have as many bytes"),
    ],
)
async def test_the_request_that_is_too_many(gateway: Gateway, asker: Asker, words: str) -> None:
    """At a bound: 503, why, and when to ask again, at once. Who waits waits on, and leaves room for the next."""
    waiting = [await asker.ask(CONTENT) for _ in range(2)]
    await gateway.parked(2)
    status, fields, text = await (await asker.ask(CONTENT)).answer()
    assert (status, fields["retry-after"]) == (503, "1")
    assert words in text.decode()
    assert gateway.activator.counters.queue_full == 1
    endpoint = Endpoint()
    gateway.route(await gateway.endpoint(endpoint))
    for one in waiting:
        assert (await one.answer())[0] == 200
    assert (await (await asker.ask(CONTENT)).answer())[0] == 200
    assert endpoint.contents == [CONTENT] * 3
    await gateway.idle()


@pytest.mark.parametrize("gateway_limits", [Limits(queue_bytes=4000)])
async def test_heads_count(gateway: Gateway, asker: Asker) -> None:
    """Ten thousand that wait with 40 KiB of fields each would be a lot of memory without a byte of content."""
    await asker.ask()
    await gateway.parked(1)
    status, _, text = await (await asker.ask(x="y" * 4000)).answer()
    assert status == 503
    assert b"as many bytes as may wait" in text
    assert 0 < waiting_bytes(gateway) < 1000


@pytest.mark.parametrize("gateway_limits", [Limits(queue_timeout=0.05)])
@pytest.mark.parametrize(("own", "words"), [(None, b"within 0.05 s"), (0.02, b"within 0.02 s")])
async def test_a_wait_that_is_too_long(gateway: Gateway, asker: Asker, own: float | None, words: bytes) -> None:
    """504 after the revision's own queue time-out, else the gateway's, though the whole request may take longer."""
    gateway.route(queue_timeout=own)
    status, _, text = await (await asker.ask()).answer()
    assert status == 504
    assert words in text
    await gateway.idle()


@pytest.mark.parametrize("gateway_limits", [Limits(queue_timeout=0.05)])
@pytest.mark.parametrize("failure", ["", "no such file"])
async def test_who_is_turned_away_leaves_no_cycle(gateway: Gateway, asker: Asker, failure: str) -> None:
    """An error that knows the frames it went through, and they it, would keep the whole request and its connection for
    as long as the garbage collector does not look: thousands of requests."""
    gc.collect()
    gc.disable()
    try:
        asked = [await asker.ask() for _ in range(3)]
        await gateway.parked(3)
        if failure:
            gateway.route(failure=failure)
        assert {(await one.answer())[0] for one in asked} == {503 if failure else 504}
        await gateway.idle()
        assert not [one for one in gc.get_objects() if isinstance(one, Exchange)]
    finally:
        gc.enable()


@pytest.mark.parametrize("gateway_limits", [Limits(queue_limit=2, queue_bytes=1900)])
async def test_who_leaves_frees_the_place(gateway: Gateway, asker: Asker) -> None:
    """And the bytes, at once; the endpoint never hears of the request."""
    first, second = [await asker.ask(CONTENT) for _ in range(2)]
    await gateway.parked(2)
    first.leave()
    await gateway.parked(1)
    third = await asker.ask(b"y" * 600)
    await gateway.parked(2)
    endpoint = Endpoint()
    gateway.route(await gateway.endpoint(endpoint))
    for one in (second, third):
        assert (await one.answer())[0] == 200
    assert sorted(endpoint.contents) == [CONTENT, b"y" * 600]
    await gateway.idle()
    assert gateway.activator.counters.queue_full == 0


@pytest.mark.parametrize("gateway_limits", [Limits(queue_limit=1)])
async def test_who_leaves_in_the_turn_of_its_place(gateway: Gateway, asker: Asker) -> None:
    """Its place is not lost: whoever comes next gets it."""
    asked = await asker.ask()
    await gateway.parked(1)
    endpoint = Endpoint()
    port = await gateway.endpoint(endpoint)
    asked.leave()
    gateway.route(port, container_concurrency=1)
    for _ in range(3):
        assert (await (await asker.ask()).answer())[0] == 200
    await gateway.idle()


async def test_an_upload_that_waits(gateway: Gateway, asker: Asker) -> None:
    """One buffer of it is here, however much the client would send; with an endpoint all of it goes through."""
    size = 4 * 1024 * 1024
    if asker.version == "HTTP/2":
        client = await asker.connection()
        stream = client.ask(method="POST", end=False)

        async def upload() -> None:
            left = size
            while left:
                await client.until(lambda: client.room(stream) > 0)
                piece = min(left, client.room(stream), 16384)
                left -= piece
                client.send(stream, b"x" * piece, end=not left)

        asked = Asked(None, client, stream)
    else:
        one = await gateway.client(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {size}\r\n\r\n".encode())

        async def upload() -> None:
            one.send(b"x" * size)
            await one.writer.drain()

        asked = Asked(one, None, 0)
    sending = asyncio.ensure_future(upload())
    await until(lambda: waiting_bytes(gateway) > EARLY_LIMIT)
    before = 0
    while waiting_bytes(gateway) != before:
        before = waiting_bytes(gateway)
        await asyncio.sleep(0.05)
    assert before <= EARLY_LIMIT + READ
    endpoint = Endpoint()
    gateway.route(await gateway.endpoint(endpoint))
    await sending
    assert (await asked.answer())[0] == 200
    assert list(map(len, endpoint.contents)) == [size]
    asked.leave()
    await gateway.idle()


async def test_content_in_tiny_pieces_costs_no_more_memory(gateway: Gateway) -> None:
    """Twenty thousand DATA frames of two bytes are forty thousand bytes here, and not as many objects."""
    gateway.route()
    client = http2.Client(*await gateway.connect())
    stream = client.ask(method="POST", end=False)
    await gateway.parked(1)
    frame = (2).to_bytes(3, "big") + bytes((http2.DATA, 0)) + stream.to_bytes(4, "big") + b"xy"
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(20):
            client.writer.write(frame * 1000)
            await client.writer.drain()
        await until(lambda: waiting_bytes(gateway) > 40_000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 5 * 40_000
    client.writer.close()
    await gateway.idle()


# --- as users start it ------------------------------------------------------------------------------------------------


async def figures(running: GatewayProcess, *names: str) -> tuple[int, ...]:
    """Sums of metrics of the gateway, by their names' ends."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{running.admin}/metrics") as response,
    ):
        text = await response.text()
    found = (re.findall(rf"^zerogate_gateway_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE) for name in names)
    return tuple(sum(int(float(value)) for value in values) for values in found)


@pytest.mark.slow
async def test_the_bounds_of_a_process(aiohttp_server, tmp_path: Path) -> None:
    """One place and a queue of two: the third that would wait is refused, those who leave make room, the rest is
    answered, and in the end nothing is counted."""
    let_go = asyncio.Event()
    served = 0

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        with closing(writer), suppress(asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                served += 1
                await let_go.wait()
                writer.write(OK)

    async with asyncio.timeout(60), await asyncio.start_server(endpoint, "127.0.0.1", 0) as server:
        feed = await aiohttp_server(feed_of(server.sockets[0].getsockname()[1], container_concurrency=1))
        async with started(feed, tmp_path, "--queue-limit", "2") as running:

            async def until_waiting(count: int) -> None:
                while await figures(running, "parked") != (count,):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

            with closing(Asker(running.port, "HTTP/1.1")) as one, closing(Asker(running.port, "HTTP/2")) as two:
                first = await one.ask()
                while not served:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                waiting = []
                for count, asker in enumerate((one, two), 1):
                    waiting.append(await asker.ask())
                    await until_waiting(count)
                for asker in (one, two):
                    status, fields, text = await (await asker.ask()).answer()
                    assert (status, fields["retry-after"]) == (503, "1")
                    assert b"2 requests wait for revision default/hello-00001" in text
                for number, asker in enumerate((one, two)):
                    waiting[number].leave()
                    await until_waiting(1)
                    waiting[number] = await asker.ask()
                    await until_waiting(2)
                let_go.set()
                assert [(await asked.answer())[0] for asked in (first, *waiting)] == [200] * 3
                names = ("in_flight", "parked", "waiting_bytes", "queue_full_total", "unexpected_errors_total")
                while (found := await figures(running, *names))[:3] != (0, 0, 0):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                assert found == (0, 0, 0, 2, 0)
                assert served == 3
