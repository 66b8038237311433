"""The controller's admin port: is it alive, does it lead, and what did it count.

`/healthz` answers as long as the loop turns. `/readyz` answers 200 only on a leader whose caches are filled, so that a
Service in front of the controllers leads gateways to the one that can serve them. `/metrics` is Prometheus' text.
`/explain/NAMESPACE/REVISION` is how a revision's scale came about, as JSON (`zerogate explain` prints it).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import orjson
from aiohttp import web
from prometheus_client import disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from controller.apis.meta import Key

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable

    from prometheus_client import CollectorRegistry

    from controller.apis.meta import JsonObject


disable_created_metrics()  # type: ignore[no-untyped-call]  # twice the series, for a time nobody asks about


def admin_app(
    registry: CollectorRegistry, is_ready: Callable[[], bool], account: Callable[[Key], JsonObject | None]
) -> web.Application:
    """The application; whoever composes the process serves it. `account` tells how a revision's scale came about, None
    for one that the autoscaler does not scale."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n") if is_ready() else web.Response(status=503, text="not leading, or starting\n")

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def explain(request: web.Request) -> web.Response:
        key = Key(request.match_info["namespace"], request.match_info["revision"])
        found = account(key)
        if found is None:
            return web.Response(status=404, text=f"the autoscaler has no revision {key.name} in {key.namespace}\n")
        return web.Response(body=orjson.dumps(found), content_type="application/json")

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/explain/{namespace}/{revision}", explain)
    return app


@contextlib.asynccontextmanager
async def listening(
    app: web.Application, host: str, port: int, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serves `app` while the context lasts, over TLS if there is a context for it; gives the port, which the system
    chose if 0 was asked for. Raises OSError if the address can't be had."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=tls)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
