"""Workers, and the whole gateway, are replaced while requests come: none fails."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from tests.gateway_process import HOST, feed_of, started
from tests.polling import until

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp.test_utils import TestServer
    from pytest_aiohttp.plugin import AiohttpServer

GET = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
POST = f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\nhello".encode()


@pytest.fixture
async def feed(aiohttp_server: AiohttpServer) -> TestServer:
    """A controller with one service, whose endpoint says hello; slowly under /slow."""

    async def hello(request: web.Request) -> web.Response:
        await request.read()
        if request.path == "/slow":
            await asyncio.sleep(0.5)
        return web.Response(text="hello")

    endpoint = web.Application()
    endpoint.router.add_route("*", "/{tail:.*}", hello)
    backend = await aiohttp_server(endpoint)
    return await aiohttp_server(feed_of(backend.port or 0))


class Load:
    """Clients that ask in turn, some on connections they keep, some on a new one for each request. What a client of a
    keep-alive connection does is what they all do: it opens a new one after `Connection: close`, and after the server
    closed it between two requests. It never sends a request twice."""

    def __init__(self, port: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._port = port
        self._stop = False
        self._tasks = [asyncio.ensure_future(self._client(kept=number % 2 == 0)) for number in range(12)]

    async def more(self, count: int) -> None:
        """Wait for `count` more answers."""
        target = self.outcomes.total() + count
        async with asyncio.timeout(60):
            while self.outcomes.total() < target:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def stop(self) -> Counter[str]:
        self._stop = True
        await asyncio.gather(*self._tasks)
        return self.outcomes

    async def _client(self, *, kept: bool) -> None:
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        turn = 0
        while not self._stop:
            turn += 1
            try:
                async with asyncio.timeout(20):
                    if reader is None or writer is None or reader.at_eof():
                        if writer is not None:
                            writer.close()
                        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                    writer.write(POST if turn % 3 == 0 else GET)
                    head = await reader.readuntil(b"\r\n\r\n")
                    assert await reader.readexactly(5) == b"hello"
                self.outcomes[head.split(b"\r\n")[0].decode()] += 1
                is_last = not kept or b"connection: close" in head.lower()
            except (OSError, asyncio.IncompleteReadError, TimeoutError, AssertionError) as error:
                self.outcomes[repr(error)] += 1
                is_last = True
            if is_last and writer is not None:
                writer.close()
                reader = writer = None
            await asyncio.sleep(0.002)
        if writer is not None:
            writer.close()


@pytest.mark.slow
async def test_workers_are_replaced_without_a_failed_request(feed: TestServer, tmp_path: Path) -> None:
    """SIGHUP: successors on the same sockets, one after the other, and the old ones drain."""
    async with started(feed, tmp_path, "--workers", "2") as gateway:
        load = Load(gateway.port)
        for _ in range(3):
            await load.more(200)
            before = gateway.workers()
            gateway.process.send_signal(signal.SIGHUP)
            await gateway.replaced(before, 2)
        await load.more(200)
        assert set(await load.stop()) == {"HTTP/1.1 200 OK"}
        assert load.outcomes.total() > 800


@pytest.mark.slow
async def test_the_whole_gateway_is_replaced_without_a_failed_request(feed: TestServer, tmp_path: Path) -> None:
    """SIGUSR2: the process begins anew under its own number, with its sockets; a request in hand is finished."""
    async with started(feed, tmp_path) as gateway, aiohttp.ClientSession() as session:
        load = Load(gateway.port)
        for _ in range(2):
            await load.more(200)
            before = gateway.workers()
            url = f"http://127.0.0.1:{gateway.port}/slow"
            slow = asyncio.ensure_future(session.get(url, headers={"Host": HOST}))
            gateway.process.send_signal(signal.SIGUSR2)
            await gateway.replaced(before, 1)
            assert await (await slow).text() == "hello"
        # A worker that the new image started is looked after by it.
        before = gateway.workers()
        await load.more(200)
        assert set(await load.stop()) == {"HTTP/1.1 200 OK"}
        os.kill(next(iter(before)), signal.SIGKILL)
        await gateway.replaced(before, 1)
        gateway.process.terminate()
        async with asyncio.timeout(20):
            assert await gateway.process.wait() == 0


@pytest.mark.slow
async def test_a_gateway_that_could_not_start_is_not_put_in_place(feed: TestServer, tmp_path: Path) -> None:
    """The old one goes on, and the log says why."""
    async with started(feed, tmp_path) as gateway:
        before = gateway.workers()
        (tmp_path / "token").rename(tmp_path / "moved")
        gateway.process.send_signal(signal.SIGUSR2)
        load = Load(gateway.port)
        await load.more(300)
        await until(lambda: gateway.workers() == before, 20)  # the one that asked has ended
        assert set(await load.stop()) == {"HTTP/1.1 200 OK"}


@pytest.mark.slow
async def test_a_successor_that_dies_leaves_the_worker_in_its_place(
    feed: TestServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The old one goes on, and the log says how the other ended."""
    async with started(feed, tmp_path) as gateway:
        before = gateway.workers()
        gateway.process.send_signal(signal.SIGHUP)
        await until(lambda: bool(gateway.workers() - before), 20)
        for successor in gateway.workers() - before:
            os.kill(successor, signal.SIGKILL)
        load = Load(gateway.port)
        await load.more(300)
        await until(lambda: gateway.workers() == before, 20)
        assert set(await load.stop()) == {"HTTP/1.1 200 OK"}
    assert "worker 0 goes on: its successor ended with status -9" in capfd.readouterr().err


@pytest.mark.slow
async def test_a_killed_worker_loses_its_own_requests_only(feed: TestServer, tmp_path: Path) -> None:
    """kill -9: connections that wait on its socket, and the other worker's, are served."""
    async with started(feed, tmp_path, "--workers", "2") as gateway:
        load = Load(gateway.port)
        await load.more(200)
        before = gateway.workers()
        victim = next(iter(before))
        os.kill(victim, signal.SIGKILL)
        await gateway.replaced({victim}, 2)
        await load.more(200)
        outcomes = await load.stop()
        failures = outcomes.total() - outcomes["HTTP/1.1 200 OK"]
        assert failures <= 12  # each client had one request in hand at most


@pytest.mark.slow
async def test_a_stop_serves_what_had_arrived(feed: TestServer, tmp_path: Path) -> None:
    """SIGTERM: each connection that was made is answered, later ones are refused; the process ends with 0."""
    async with started(feed, tmp_path) as gateway:
        load = Load(gateway.port)
        await load.more(300)
        gateway.process.terminate()
        async with asyncio.timeout(20):
            assert await gateway.process.wait() == 0
        outcomes = await load.stop()
        assert all(outcome == "HTTP/1.1 200 OK" or "ConnectionRefused" in outcome for outcome in outcomes), outcomes


@pytest.mark.slow
async def test_a_stop_serves_what_waits_to_be_accepted(feed: TestServer, tmp_path: Path) -> None:
    """A worker that was too busy to accept when the stop came finds the connection on its socket, and answers."""
    async with started(feed, tmp_path) as gateway:
        (worker,) = gateway.workers()
        os.kill(worker, signal.SIGSTOP)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(POST)
        gateway.process.terminate()
        await asyncio.sleep(
            0.5
        )  # the parent gives up its sockets meanwhile; too short a sleep proves less, never fails
        os.kill(worker, signal.SIGCONT)
        async with asyncio.timeout(20):
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"connection: close\r\n" in answer
            assert await gateway.process.wait() == 0
        writer.close()
