"""/healthz, /readyz and /metrics on a port of their own, for all workers of a gateway together.

Theory of operation
-------------------
The admin port belongs to the supervising parent, so that one address answers for N workers and goes on answering while
one of them is being replaced. Each worker writes its `WorkerStatus` as JSON to whoever connects to its UNIX socket, in
a directory that only this user can enter; the parent asks them all at each request, and a worker that does not answer
within a second counts as not there. Prometheus' text is made in the parent from the summed families; no Prometheus call
is on any request's path.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from gateway.core.traffic import BUCKETS, Family, merged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from prometheus_client.core import Metric

__all__ = ["Admin", "WorkerStatus", "ask_worker", "render_metrics", "serve_status"]

ANSWER_TIMEOUT = 1.0
_LIMIT = 64 * 1024 * 1024


class WorkerStatus(NamedTuple):
    """What one worker says about itself; `reason` why it is not ready, "" if it is."""

    reason: str
    families: list[Family]


async def serve_status(path: Path, status: Callable[[], WorkerStatus]) -> asyncio.AbstractServer:
    """Write `status()` to each connection on the UNIX socket `path`."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_serialise(status()))
        try:
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except OSError:
            return  # the parent did not wait for it

    return await asyncio.start_unix_server(answer, path)


async def ask_worker(path: Path) -> WorkerStatus | None:
    """The status of the worker behind `path`, None if it does not answer."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(path, limit=_LIMIT)
            try:
                return _parse(await reader.read())
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return None


def _serialise(status: WorkerStatus) -> bytes:
    families = [[*family[:4], list(family.samples.items())] for family in status.families]
    return orjson.dumps([status.reason, families])


def _parse(text: bytes) -> WorkerStatus:
    reason, families = orjson.loads(text)
    return WorkerStatus(reason, [_family(*family) for family in families])


def _family(name: str, kind: str, help_: str, labels: list[str], samples: list[Any]) -> Family:
    return Family(name, kind, help_, tuple(labels), {tuple(key): tuple(values) for key, values in samples})


class Admin:
    """The admin port's answers. `sockets` are the workers' UNIX sockets; set `draining` at the stop's beginning."""

    def __init__(self, sockets: list[Path]) -> None:
        self._sockets = sockets
        self.draining = False

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        return application

    async def _statuses(self) -> list[WorkerStatus | None]:
        return list(await asyncio.gather(*(ask_worker(path) for path in self._sockets)))

    async def _healthz(self, _request: web.Request) -> web.Response:
        if any(status is not None for status in await self._statuses()):
            return web.Response(text="ok\n")
        return web.Response(status=503, text="no worker answers\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self.draining:
            return web.Response(status=503, text="draining\n")
        reasons = [
            f"worker {index}: {'does not answer' if status is None else status.reason}\n"
            for index, status in enumerate(await self._statuses())
            if status is None or status.reason
        ]
        return web.Response(status=503, text="".join(reasons)) if reasons else web.Response(text="ok\n")

    async def _metrics(self, _request: web.Request) -> web.Response:
        statuses = [status for status in await self._statuses() if status is not None]
        workers = Family("zerogate_gateway_workers", "gauge", "Workers that answer.", (), {(): (len(statuses),)})
        body = render_metrics([*merged(status.families for status in statuses), workers])
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


def render_metrics(families: Iterable[Family]) -> bytes:
    """Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Families(families))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            yield _metric(family)


def _metric(family: Family) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, (total, *counts) in family.samples.items():
            histogram.add_metric(labels, _cumulative(counts), total)
        return histogram
    made: CounterMetricFamily | GaugeMetricFamily
    if family.kind == "counter":
        made = CounterMetricFamily(family.name, family.help, labels=family.labels)
    else:
        made = GaugeMetricFamily(family.name, family.help, labels=family.labels)
    for labels, (value,) in family.samples.items():
        made.add_metric(labels, value)
    return made


def _cumulative(counts: list[float]) -> list[tuple[str, float]]:
    total = 0.0
    buckets = []
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
