"""A request that meets draining endpoints only, over both ends of the feed: it has one back at once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

from aiohttp import web

from controller.apis.meta import Key
from controller.autoscaler.ticker import Deciders
from controller.config.store import Config
from controller.dataplane.compile import Delta
from controller.dataplane.drains import Drains
from controller.dataplane.server import FeedServer
from controller.reconcile.plan import Plan
from gateway.activator.activator import Activator
from gateway.contract import FEED_PATH, Endpoint, Revision, RevisionId, Snapshot, Stat, Update
from gateway.feed import Feed

ID = RevisionId("default", "hello-00001")
POD_AUTOSCALER = {
    "metadata": {"namespace": ID.namespace, "name": ID.name, "generation": 1},
    "spec": {"scaleTargetRef": {"name": "hello-00001-deployment"}},
}
ENDPOINT = Endpoint("127.0.0.1", 9, "pod", ready=True)


class Bench:
    """The controller's half without its API server: the reconciler is the test."""

    def __init__(self) -> None:
        config = Config()
        self.decided: asyncio.Queue[Key] = asyncio.Queue()
        self.quiet = asyncio.Event()
        self.drains = Drains(carriers=lambda: self.server.carriers, enqueue=self._news, publish=self._publish)
        self.deciders = Deciders(config=lambda: config, enqueue=self.decided.put_nowait)
        self.deciders.on_pod_autoscaler(None, POD_AUTOSCALER)
        self.deciders.tick()
        self.server = FeedServer(
            "secret",
            on_stats=self.deciders.on_stats,
            on_in_flight=self.drains.on_in_flight,
            on_carriers=self.drains.on_carriers,
            on_disconnect=lambda _: None,
            on_programmed=lambda _: None,
        )

    def _news(self, key: Key) -> None:
        if self.drains.progress(key).quiet:
            self.quiet.set()

    def _publish(self, revision: RevisionId) -> None:
        pods = self.drains.draining(ID)
        endpoint = replace(ENDPOINT, draining="pod" in (pods or ()))
        told = {ID: Revision(ID, probe=None, endpoints=(endpoint,), shrinking=pods is not None)}
        self.server.publish(Delta({}, told))
        self.drains.on_published([revision], told, self.server.snapshot)


async def test_a_request_that_races_with_the_scale_to_zero() -> None:
    """Its only endpoint drains and has finished, as the controller knows; the request that comes then is a poke, after
    which the endpoint serves again. No pod was started and no report was waited for."""
    bench = Bench()
    runner = web.AppRunner(bench.server.app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    applied = asyncio.Event()

    def on_update(update: Update, snapshot: Snapshot) -> None:
        activator.apply(update, snapshot)
        applied.set()

    url = f"ws://127.0.0.1:{runner.addresses[0][1]}{FEED_PATH}"
    activator = Activator(
        on_in_flight=lambda revision: feed.report_in_flight(revision),
        on_stranded=lambda revision: feed.poke(Stat(revision, 1.0, 0.0)),
    )
    feed = Feed(
        *(url, "secret"),
        worker="w1",
        on_update=on_update,
        on_peers=lambda _: None,
        waiting=activator.waiting,
        loads=activator,
    )
    loop = asyncio.get_running_loop()
    following = loop.create_task(feed.run())
    async with asyncio.timeout(10):
        bench.drains.carry_out(Key(*ID), Plan())
        bench.server.publish(Delta({}, {ID: Revision(ID, probe=None, endpoints=(ENDPOINT,))}))
        await applied.wait()
        lease = activator.try_acquire(ID)
        assert lease is not None
        bench.drains.carry_out(Key(*ID), Plan(draining=frozenset({"pod"})))
        while not activator.shrinking:  # noqa: ASYNC110 - a plain value of the code under test
            await asyncio.sleep(0.001)
        assert activator.try_acquire(ID) is None
        assert not bench.quiet.is_set()
        lease.release()
        await bench.quiet.wait()

        waiting = loop.create_task(activator.acquire(ID))
        assert await bench.decided.get() == Key(*ID)
        bench.drains.carry_out(Key(*ID), Plan())
        (await waiting).release()

    following.cancel()
    with suppress(asyncio.CancelledError):
        await following
    await activator.close()
    await runner.cleanup()
