"""A limit on a revision's requests, over several real workers: they die, are replaced and drain, pods come and go, the
controller restarts, and no endpoint ever has more requests than it may."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, cast

import pytest
from aiohttp import web

from controller.dataplane.compile import Delta
from controller.dataplane.server import FeedServer
from gateway.contract import Endpoint, Revision, RevisionId, RouteId, RouteRule, Split
from tests.gateway_process import HOST, GatewayProcess, started
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


pytestmark = pytest.mark.slow

GET = f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
WORKERS = 3
CLIENTS = 24


class Pod:
    """An application that says how many requests it has, and had at most. One is over when it is answered or when its
    connection ends."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.now = self.most = self.served = 0
        self.port = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Pod]:
        server = await asyncio.get_running_loop().create_server(lambda: PodConnection(self), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port, f"pod-{self.port}", ready=True)


class PodConnection(asyncio.Protocol):
    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.answering: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        assert data.endswith(b"\r\n\r\n")
        pod = self.pod
        pod.now += 1
        pod.most = max(pod.most, pod.now)
        self.answering = asyncio.get_running_loop().call_later(pod.seconds, self.answer)

    def answer(self) -> None:
        self.over()
        self.pod.served += 1
        self.transport.write(ANSWER)

    def over(self) -> None:
        assert self.answering is not None
        self.answering.cancel()
        self.answering = None
        self.pod.now -= 1

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answering is not None:
            self.over()


class Controller:
    """The controller's end of the feed, on a port that stays."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.port = 0
        self.revision = RevisionId("default", "hello-00001")
        self.endpoints: tuple[Endpoint, ...] = ()
        self.server: FeedServer
        self._runner: web.AppRunner | None = None

    async def start(self, gathering: float = 0.0) -> None:
        self.server = FeedServer(
            "secret",
            on_stats=lambda *_: None,
            on_in_flight=lambda *_: None,
            on_carriers=lambda: None,
            on_disconnect=lambda _: None,
            on_programmed=lambda _: None,
            gathering=gathering,
        )
        rule = RouteRule(HOST, (Split(self.revision, 100),))
        self.server.publish(Delta({RouteId("default", "hello"): (rule,)}, {}))
        self.offer(*self.endpoints)
        self._runner = web.AppRunner(self.server.app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def offer(self, *endpoints: Endpoint) -> None:
        self.endpoints = endpoints
        revision = Revision(self.revision, container_concurrency=self.limit, endpoints=endpoints, probe=None)
        self.server.publish(Delta({}, {self.revision: revision}))

    async def knows(self, count: int) -> None:
        """Wait until so many workers are on the list."""
        await until(lambda: len(self.server.peers.workers) == count, 30)


class Clients:
    """They ask one request after the other, each on a connection of its own, which spreads them over the workers."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._port = gateway.port
        self._going = True
        self.outcomes: Counter[str] = Counter()
        self.tasks = [asyncio.ensure_future(self._ask_on()) for _ in range(CLIENTS)]

    async def _ask_on(self) -> None:
        while self._going:
            self.outcomes[await self._ask()] += 1

    async def _ask(self) -> str:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                writer.write(GET)
                async with asyncio.timeout(20):
                    answer = await reader.read()
            finally:
                writer.close()
        except ConnectionError:
            return "lost"
        except TimeoutError:
            return "unanswered"
        return answer.partition(b"\r\n")[0].decode() or "lost"

    async def stop(self) -> Counter[str]:
        self._going = False
        await asyncio.gather(*self.tasks)
        return self.outcomes

    async def answered(self, count: int) -> None:
        """Wait for so many more answers."""
        goal = self.outcomes.total() + count
        await until(lambda: self.outcomes.total() >= goal, 30)


@asynccontextmanager
async def installation(limit: int, tmp_path: Path) -> AsyncIterator[tuple[Controller, GatewayProcess, list[Pod]]]:
    """A controller, a gateway of three workers and three pods, of which two serve."""
    async with AsyncExitStack() as stack:
        pods = [await stack.enter_async_context(Pod(0.005).listening()) for _ in range(3)]
        controller = Controller(limit)
        controller.endpoints = tuple(pod.endpoint for pod in pods[:2])
        await controller.start()
        stack.push_async_callback(controller.stop)
        gateway = await stack.enter_async_context(started(controller.port, tmp_path, "--workers", str(WORKERS)))
        await controller.knows(WORKERS)
        yield controller, gateway, pods


async def replaced(gateway: GatewayProcess) -> None:
    """Replace all workers, and wait until the last of the former ones has gone."""
    before = gateway.workers()
    gateway.process.send_signal(signal.SIGHUP)
    await until(lambda: not gateway.workers() & before, 60)


@pytest.mark.parametrize("limit", [1, 3])
async def test_the_limit_holds_whatever_happens_to_workers_and_pods(limit: int, tmp_path: Path) -> None:
    """Workers are killed and replaced, pods are added and removed; each request is answered once but those that a
    killed worker had in hand, and in the end nobody is left waiting."""
    random = Random(limit)
    async with installation(limit, tmp_path) as (controller, gateway, pods):
        clients = Clients(gateway)
        for change in ("kill", "offer", "replace", "offer", "kill", "offer"):
            await clients.answered(50)
            if change == "kill":
                os.kill(random.choice(sorted(gateway.workers())), signal.SIGKILL)
            elif change == "replace":
                await replaced(gateway)
            else:
                controller.offer(*(pod.endpoint for pod in random.sample(pods, random.randrange(1, 4))))
        await controller.knows(WORKERS)
        await clients.answered(50)
        outcomes = await clients.stop()
        assert [pod.most for pod in pods] == [limit] * len(pods)
        assert outcomes.keys() <= {"HTTP/1.1 200 OK", "lost"}
        assert outcomes["lost"] <= 2 * CLIENTS
        await until(lambda: not any(pod.now for pod in pods))


async def test_the_limit_holds_while_the_controller_is_away_and_when_it_is_back(tmp_path: Path) -> None:
    """Workers go by its last list meanwhile, and by one of their own when one of them dies; the controller that starts
    waits, for longer than their feeds' back-off, until all are back before it makes a list. Nobody is answered by
    anything but the application, or, by a worker that starts without a controller, that it knows nothing yet."""
    async with installation(2, tmp_path) as (controller, gateway, pods):
        clients = Clients(gateway)
        await clients.answered(50)
        await controller.stop()
        await clients.answered(100)
        await controller.start(gathering=2.0)
        await clients.answered(50)
        await controller.knows(WORKERS)
        assert clients.outcomes.keys() == {"HTTP/1.1 200 OK"}
        await controller.stop()
        os.kill(min(gateway.workers()), signal.SIGKILL)
        await clients.answered(2 * CLIENTS)
        served = sum(pod.served for pod in pods)
        await until(lambda: sum(pod.served for pod in pods) > served + 100, 30)
        await controller.start(gathering=6.0)
        await controller.knows(WORKERS)
        await clients.answered(50)
        outcomes = await clients.stop()
        assert outcomes.keys() <= {"HTTP/1.1 200 OK", "HTTP/1.1 503 Service Unavailable", "lost"}
        assert outcomes["lost"] <= CLIENTS
        assert [pod.most for pod in pods] == [2, 2, 0]
