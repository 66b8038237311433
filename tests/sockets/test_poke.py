"""Both planes' ends of the feed, joined: a cold request's way to the autoscaler and back."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING

from aiohttp import web

from controller.apis.meta import Key
from controller.autoscaler.ticker import Deciders
from controller.config.store import Config
from controller.dataplane.compile import Delta
from controller.dataplane.server import FeedServer
from gateway.activator.activator import Activator
from gateway.contract import FEED_PATH, Endpoint, Revision, RevisionId
from gateway.core.concurrency import RevisionLoad
from gateway.feed import Feed
from gateway.reporter import Reporter

if TYPE_CHECKING:
    from gateway.contract import Snapshot, Update

ID = RevisionId("default", "hello-00001")
POD_AUTOSCALER = {
    "metadata": {"namespace": ID.namespace, "name": ID.name, "generation": 1},
    "spec": {"scaleTargetRef": {"name": "hello-00001-deployment"}},
}


async def test_a_cold_request_is_decided_and_dispatched(unused_tcp_port: int) -> None:
    """It parks, its poke makes the autoscaler want one replica without waiting for a tick, and the endpoint that is
    published then gets it as soon as it listens."""
    decided: asyncio.Queue[Key] = asyncio.Queue()
    config = Config()
    deciders = Deciders(config=lambda: config, enqueue=decided.put_nowait)
    deciders.on_pod_autoscaler(None, POD_AUTOSCALER)
    deciders.tick()
    server = FeedServer(
        "secret",
        on_stats=deciders.on_stats,
        on_in_flight=lambda *_: None,
        on_carriers=lambda: None,
        on_disconnect=deciders.on_disconnect,
        on_programmed=lambda _: None,
    )
    server.publish(Delta({}, {ID: Revision(ID)}))
    runner = web.AppRunner(server.app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    activator = Activator()
    applied = asyncio.Event()

    def on_update(update: Update, snapshot: Snapshot) -> None:
        activator.apply(update, snapshot)
        applied.set()

    url = f"ws://127.0.0.1:{runner.addresses[0][1]}{FEED_PATH}"
    feed = Feed(
        url,
        "secret",
        worker="w1",
        on_update=on_update,
        on_peers=lambda _: None,
        waiting=activator.waiting,
        loads=activator,
    )
    reporter = Reporter(poke=feed.poke, report=feed.report)
    loop = asyncio.get_running_loop()
    following = loop.create_task(feed.run())
    async with asyncio.timeout(10):
        await applied.wait()
        load = RevisionLoad(ID)
        assert load.arrive(perf_counter())
        reporter.announce(load)
        waiting = loop.create_task(activator.acquire(ID))
        assert await decided.get() == Key(*ID)
        decision = deciders.decision(Key(*ID))
        assert decision is not None
        assert decision.desired == 1

        server.publish(Delta({}, {ID: Revision(ID, endpoints=(Endpoint("127.0.0.1", unused_tcp_port, "pod"),))}))
        while not activator.probe_failures:  # noqa: ASYNC110 - a plain value of the code under test
            await asyncio.sleep(0.001)
        upstream = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", unused_tcp_port)
        lease = await waiting
    assert lease.endpoint.port == unused_tcp_port
    lease.release()
    load.depart(perf_counter())

    following.cancel()
    with suppress(asyncio.CancelledError):
        await following
    await activator.close()
    upstream.close()
    await runner.cleanup()
