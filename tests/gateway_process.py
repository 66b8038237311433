"""The gateway as users start it: `python -m gateway` with real workers, and a feed of one service."""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from gateway.contract import (
    FEED_PATH,
    Endpoint,
    Revision,
    RevisionId,
    RouteId,
    RouteRule,
    Split,
    Update,
    serialise_message,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp.test_utils import TestServer

HOST = "hello.default.localhost"
ANY_PORTS = tuple(part for name in ("", "cluster-local-", "admin-") for part in (f"--{name}listen", "127.0.0.1:0"))
"""Options for a gateway whose ports nobody needs to know before."""


class GatewayProcess:
    """One that runs, and its ports."""

    def __init__(self, process: asyncio.subprocess.Process, ports: list[int]) -> None:
        self.process = process
        self.port, self.local, self.admin, *self.tls = ports

    def workers(self) -> set[int]:
        pid = self.process.pid
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}

    async def ready(self) -> None:
        async with aiohttp.ClientSession() as session, asyncio.timeout(30):
            while True:
                with suppress(aiohttp.ClientError):
                    async with session.get(f"http://127.0.0.1:{self.admin}/readyz") as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.02)

    async def replaced(self, before: set[int], count: int) -> None:
        """Wait until `count` workers serve, none of them of those before."""
        async with asyncio.timeout(60):
            while (now := self.workers()) & before or len(now) != count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await self.ready()


def feed_of(port: int, host: str = HOST, **settings: Any) -> web.Application:
    """A controller that sends `host` to an endpoint at `port`, which is ready, by the snapshot's version 7. `settings`
    are the revision's."""

    async def follow(request: web.Request) -> web.WebSocketResponse:
        assert request.headers["Authorization"] == "Bearer secret"
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        await websocket.receive()
        key = RevisionId("default", "hello-00001")
        endpoint = Endpoint("127.0.0.1", port, "pod", ready=True)
        revision = Revision(key, service="hello", configuration="hello", probe=None, endpoints=(endpoint,), **settings)
        routes = {RouteId("default", "hello"): (RouteRule(host, (Split(key, 100),)),)}
        await websocket.send_str(serialise_message(Update(0, 7, routes, {key: revision})))
        async for _ in websocket:
            pass
        return websocket

    application = web.Application()
    application.router.add_get(FEED_PATH, follow)
    return application


@asynccontextmanager
async def started(feed: TestServer | int, tmp_path: Path, *options: str) -> AsyncIterator[GatewayProcess]:
    """A gateway that is ready, its feed's server or port given, with its token in `tmp_path`; it is told to stop at the
    end, and has ended then."""
    port = feed if isinstance(feed, int) else feed.port
    token = tmp_path / "token"
    token.write_text("secret\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "--feed", f"ws://127.0.0.1:{port}{FEED_PATH}"),
        *("--feed-token-file", str(token), *ANY_PORTS, "--drain-grace", "10", *options),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            line = await process.stdout.readline()
        running = GatewayProcess(process, [int(port) for port in re.findall(rb":(\d+)", line)])
        await running.ready()
        yield running
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        async with asyncio.timeout(30):
            await process.communicate()  # to the end of its output, which the workers have too
