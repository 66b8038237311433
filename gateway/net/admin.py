"""/healthz, /readyz and /metrics on a port of their own, for all workers of a gateway together.

Theory of operation
-------------------
The admin port belongs to the supervising parent, so that one address answers for N workers and goes on answering while
one of them is being replaced. Parent and worker share a pair of connected sockets, which has no name in any file system
and so leaves nothing behind, however either ends. A question is one byte and with it one end of a fresh pair, to which
the worker writes its `WorkerStatus` as JSON: an answer that comes too late goes where nobody reads it, not to the next
question. The parent asks all workers at each request, and one that does not answer within a second counts as not there.
Prometheus' text is made in the parent from the summed families; no Prometheus call is on any request's path.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from gateway.core.traffic import Family, merged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import Metric

__all__ = ["Admin", "StatusServer", "WorkerStatus", "ask_worker"]

ANSWER_TIMEOUT = 1.0
_LIMIT = 64 * 1024 * 1024


class WorkerStatus(NamedTuple):
    """What one worker says about itself; `reason` why it is not ready, "" if it is."""

    reason: str
    families: list[Family]


class StatusServer:
    """The worker's side: answers each question that comes over `channel` with `status()`. Made in the running loop."""

    def __init__(self, channel: socket.socket, status: Callable[[], WorkerStatus]) -> None:
        self._channel = channel
        self._status = status
        self._loop = asyncio.get_running_loop()
        self._answers: set[asyncio.Task[None]] = set()
        channel.setblocking(False)
        self._loop.add_reader(channel.fileno(), self._asked)

    def close(self) -> None:
        """Answer no more and close the channel."""
        self._loop.remove_reader(self._channel.fileno())
        self._channel.close()

    def _asked(self) -> None:
        try:
            question, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
        except BlockingIOError:
            return
        except OSError:
            question, descriptors = b"", []
        if not question:
            self._loop.remove_reader(self._channel.fileno())  # the parent is gone
        for descriptor in descriptors:
            answer = self._loop.create_task(self._answer(socket.socket(fileno=descriptor)))
            self._answers.add(answer)
            answer.add_done_callback(self._answers.discard)

    async def _answer(self, to: socket.socket) -> None:
        try:
            to.setblocking(False)
            _, writer = await asyncio.open_unix_connection(sock=to)
            writer.write(_serialise(self._status()))
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except OSError:
            return  # the parent did not wait for it


async def ask_worker(channel: socket.socket | None) -> WorkerStatus | None:
    """The status of the worker at the other end; None if it does not answer, or if there is none."""
    if channel is None:
        return None
    try:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                socket.send_fds(channel, [b"?"], [theirs.fileno()])
            except OSError:
                ours.close()
                return None
        async with asyncio.timeout(ANSWER_TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_LIMIT)
            try:
                return _parse(await reader.read())
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return None


def _serialise(status: WorkerStatus) -> bytes:
    families = [[*family[:4], list(family.samples.items()), family.bounds] for family in status.families]
    return orjson.dumps([status.reason, families])


def _parse(text: bytes) -> WorkerStatus:
    reason, families = orjson.loads(text)
    return WorkerStatus(reason, [_family(*family) for family in families])


def _family(name: str, kind: str, help_: str, labels: list[str], samples: list[Any], bounds: list[float]) -> Family:
    counts = {tuple(key): tuple(values) for key, values in samples}
    return Family(name, kind, help_, tuple(labels), counts, tuple(bounds))


class Admin:
    """The admin port's answers. `channels` has one for each worker, None for one that is being replaced; set `draining`
    at the stop's beginning."""

    def __init__(self, channels: Callable[[], list[socket.socket | None]]) -> None:
        self._channels = channels
        self.draining = False

    def application(self) -> web.Application:
        """The aiohttp application with /healthz, /readyz and /metrics, to be served on the admin port."""
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        return application

    async def _statuses(self) -> list[WorkerStatus | None]:
        return list(await asyncio.gather(*(ask_worker(channel) for channel in self._channels())))

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
            histogram.add_metric(labels, _cumulative(family.bounds, counts), total)
        return histogram
    made: CounterMetricFamily | GaugeMetricFamily
    if family.kind == "counter":
        made = CounterMetricFamily(family.name, family.help, labels=family.labels)
    else:
        made = GaugeMetricFamily(family.name, family.help, labels=family.labels)
    for labels, (value,) in family.samples.items():
        made.add_metric(labels, value)
    return made


def _cumulative(bounds: tuple[float, ...], counts: list[float]) -> list[tuple[str, float]]:
    total = 0.0
    buckets = []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
