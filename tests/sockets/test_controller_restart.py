"""The controller goes and comes back while real gateway workers serve: what the autoscaler decides then."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from controller.apis.meta import Key
from controller.autoscaler.kpa import UNDECIDED
from controller.autoscaler.ticker import Deciders
from controller.config.store import Config
from controller.dataplane.compile import Delta
from controller.dataplane.server import FeedServer
from gateway.contract import Endpoint, Revision, RevisionId, RouteId, RouteRule, Split
from tests.gateway_process import HOST, started
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from controller.apis.meta import JsonObject

WINDOW = 6.0
"""The shortest stable window that Knative allows."""
ID = RevisionId("default", "hello-00001")
KEY = Key(*ID)
POD_AUTOSCALER: JsonObject = {
    "metadata": {
        **KEY._asdict(),
        "generation": 1,
        "annotations": {"autoscaling.knative.dev/window": f"{WINDOW:g}s"},
    },
    "spec": {"scaleTargetRef": {"name": "hello-00001-deployment"}, "reachability": "Reachable"},
}
SLICE: JsonObject = {
    "metadata": {
        "namespace": "default",
        "name": "hello-00001-private-a",
        "labels": {"kubernetes.io/service-name": "hello-00001-private"},
    },
    "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
}


class ControlPlane:
    """Autoscaler and feed as `controller.assembly` connects them; one ready replica at `endpoint`."""

    def __init__(self, endpoint: int) -> None:
        self.decided: list[int] = []
        """Every scale that was newly desired."""
        config = Config()
        self.deciders = Deciders(config=lambda: config, enqueue=self._note)
        self.deciders.on_pod_autoscaler(None, POD_AUTOSCALER)
        self.deciders.on_endpoint_slice(None, SLICE)
        self.server = FeedServer(
            "secret",
            on_stats=self.deciders.on_stats,
            on_in_flight=lambda *_: None,
            on_carriers=lambda: None,
            on_disconnect=self.deciders.on_disconnect,
            on_programmed=lambda _: None,
        )
        endpoints = (Endpoint("127.0.0.1", endpoint, "pod", ready=True),)
        routes = {RouteId("default", "hello"): (RouteRule(HOST, (Split(ID, 100),)),)}
        self.server.publish(Delta(routes, {ID: Revision(ID, probe=None, endpoints=endpoints)}))

    def _note(self, key: Key) -> None:
        decision = self.deciders.decision(key)
        assert decision is not None
        self.decided.append(decision.desired)

    @property
    def desired(self) -> int:
        decision = self.deciders.decision(KEY)
        return UNDECIDED if decision is None else decision.desired

    async def connected(self, workers: int) -> None:
        await until(lambda: len(self.server.workers) == workers, 20)

    @asynccontextmanager
    async def running(self, port: int) -> AsyncIterator[ControlPlane]:
        """Until the block is left; then it is killed: connections end without a word."""
        runner = web.AppRunner(self.server.app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        ticking = asyncio.get_running_loop().create_task(self.deciders.run())
        try:
            yield self
        finally:
            ticking.cancel()
            with suppress(asyncio.CancelledError):
                await ticking
            assert runner.server is not None
            for connection in list(runner.server.connections):
                if connection.transport is not None:
                    connection.transport.abort()
            await runner.cleanup()


class Load:
    """Clients that ask one after the other, each on a new connection, so that both workers have some; a request takes
    0.2 s. Stopped, it has seen no other answer than 200."""

    def __init__(self, port: int) -> None:
        self.answered = 0
        self._port = port
        self._goes_on = True
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._client()) for _ in range(4)]

    async def _client(self) -> None:
        while self._goes_on:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            async with asyncio.timeout(10):
                assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()
            self.answered += 1

    async def lasts(self, seconds: float) -> None:
        """Wait so long under load."""
        before = self.answered
        await passed(seconds)
        assert self.answered > before

    async def stop(self) -> None:
        self._goes_on = False
        await asyncio.gather(*self._tasks)


async def passed(seconds: float) -> None:
    end = monotonic() + seconds
    await until(lambda: monotonic() >= end, seconds + 5)


async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An endpoint that takes 0.2 s for each request."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.2)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    writer.close()


@pytest.mark.slow
async def test_a_controller_restart_takes_no_replica_away(tmp_path: Path, unused_tcp_port: int) -> None:
    """Killed under load and started again, it never wants zero while the load lasts. Killed when the load is over, it
    wants zero only after it has itself watched an idle window; and then it does. Requests are answered all the time,
    and each worker comes back by itself, with one connection."""
    backend = await asyncio.start_server(slow, "127.0.0.1", 0)
    first, second, third = (ControlPlane(backend.sockets[0].getsockname()[1]) for _ in range(3))
    async with backend, AsyncExitStack() as gateways:
        async with first.running(unused_tcp_port):
            gateway = await gateways.enter_async_context(started(unused_tcp_port, tmp_path, "--workers", "2"))
            await first.connected(2)
            load = Load(gateway.port)
            await until(lambda: first.desired > 0)
            await load.lasts(1.0)
        await load.lasts(2.0)
        async with second.running(unused_tcp_port):
            await second.connected(2)
            await load.lasts(WINDOW + 3)
            assert second.desired > 0
            await load.stop()
        assert min(first.decided + second.decided) > 0
        # Two reports without anybody who takes them: the third controller hears of no request at all.
        await passed(2.0)
        began = monotonic()
        async with third.running(unused_tcp_port):
            await third.connected(2)
            await until(lambda: third.desired == 0, 30)
            assert monotonic() - began >= WINDOW
