"""What the exchanges of one worker share, and where each of them begins.

Theory of operation
-------------------
An `Exchange` lives as long as a request; what outlives it is here: the routes, what the worker counts for each revision
(`Served`), how much may wait, the identifiers of requests. `begin` is where a connection hands a request over, and
where the errors of its first steps end: as an answer to that request, never in the connection's own state.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from gateway.core.coldstart import ColdStarts
from gateway.core.deadlines import Deadlines
from gateway.core.fields import client_address
from gateway.core.http1 import RequestHead
from gateway.core.traffic import RevisionTraffic
from gateway.errors import GatewayError
from gateway.exchange import Exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.activator.activator import Activator
    from gateway.contract import Revision, RevisionId, Snapshot, Update
    from gateway.core.concurrency import RevisionLoad
    from gateway.core.routing import RouteTable
    from gateway.core.traffic import WorkerTraffic
    from gateway.net.accesslog import AccessLog
    from gateway.net.pool import Connections, Pools
    from gateway.net.sides import Responder

__all__ = ["Exchanges", "Load", "Served"]

_NO_HEAD = RequestHead(b"", b"", True, b"", 0)

_log = logging.getLogger(__name__)


class Load(Protocol):
    """Who tells the autoscaler what each revision carries."""

    @property
    def in_flight(self) -> int:
        """Requests that have arrived at a revision and not ended."""

    def announce(self, load: RevisionLoad, /) -> None:
        """A revision's first request (its `arrive` said so) can't wait for the next report."""


class Served:
    """A revision, what this worker counts for it, and where its connections come from. `patience` is the time from
    dispatch to the first deadline."""

    __slots__ = ("connections", "name", "patience", "revision", "traffic", "watches_idle")

    def __init__(self, revision: Revision, traffic: RevisionTraffic, connections: Connections) -> None:
        self.revision = revision
        self.traffic = traffic
        self.connections = connections
        self.name = str(revision.id).encode()
        self.watches_idle = revision.idle_timeout is not None
        self.patience = self.deadlines(0.0).next_deadline()

    def deadlines(self, now: float) -> Deadlines:
        """The clocks of a request that was dispatched at `now`."""
        revision = self.revision
        return Deadlines(now, revision.timeout, revision.response_start_timeout, revision.idle_timeout)


def request_ids(random: Callable[[], float]) -> Iterator[bytes]:
    """Identifiers of 32 hexadecimal digits, unique over workers and restarts: 64 bits drawn once, then a counter."""
    prefix = b"%08x%08x" % (int(random() * 2**32), int(random() * 2**32))
    endings = [b"%02x" % number for number in range(256)]
    for block in count():
        start = b"%b%014x" % (prefix, block)
        for ending in endings:
            yield start + ending


class Exchanges:
    """What the exchanges of one worker share. `random` gives floats in [0, 1); `has_certificate` says whether a host (a
    Host value) can be asked over TLS."""

    def __init__(
        self,
        *,
        routes: RouteTable,
        activator: Activator,
        load: Load,
        pools: Pools,
        traffic: WorkerTraffic,
        access_log: AccessLog,
        random: Callable[[], float],
        queue_bytes: int,
        worker_queue_bytes: int,
        has_certificate: Callable[[bytes], bool],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.routes = routes
        self.activator = activator
        self.load = load
        self.pools = pools
        self.http1 = pools.http1
        self.traffic = traffic
        self.access_log = access_log
        self.random = random
        self.served: dict[RevisionId, Served] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.queue_bytes = queue_bytes
        self.worker_queue_bytes = worker_queue_bytes
        self.has_certificate = has_certificate
        self.waiting_bytes = 0
        self.request_ids = request_ids(random)
        self.cold_starts = ColdStarts()

    @property
    def in_flight(self) -> int:
        """Requests that are waiting here, or being answered."""
        return self.load.in_flight

    def apply(self, update: Update, snapshot: Snapshot) -> None:
        """Take over the routes and revisions an update changed."""
        self.routes.update(update.routes)
        for key in update.revisions:
            revision = snapshot.revisions.get(key)
            if revision is None:
                self.served.pop(key, None)
            else:
                before = self.served.get(key)
                traffic = RevisionTraffic(revision) if before is None else before.traffic
                self.served[key] = Served(revision, traffic, self.pools.of(revision.protocol))

    def begin(self, downstream: Responder, head: RequestHead) -> Exchange | None:
        """Take on a request; None if it was answered here and then."""
        exchange = Exchange(self, downstream, head)
        try:
            exchange.start()
        except GatewayError as error:
            exchange.fail(error)
        except Exception:  # noqa: BLE001 - our bug must cost one request and leave a trace, not the connection's state
            self.report_bug()
            exchange.fail(GatewayError("The gateway met an error of its own."))
        return None if exchange.is_over else exchange

    def refused(self, downstream: Responder, error: GatewayError, head: RequestHead | None) -> None:
        """A request that broke the protocol, or a connection too many: to be counted and logged. `head` is the
        request's, None if it has none that could be read."""
        self.traffic.local_replies[error.response_flag] += 1
        self.traffic.limit_refusals[error.limit] += 1
        if self.access_log.enabled:
            head = head or _NO_HEAD
            self.access_log.add(
                perf_counter(),
                0.0,
                head,
                error.status,
                0,
                b"",
                b"",
                error.response_flag,
                head.request_id,
                client_address(head, downstream.peer),
                downstream.protocol,
            )

    def report_bug(self) -> None:
        """Inside an `except`: count and print what should not have happened."""
        self.traffic.unexpected_errors += 1
        _log.error("unexpected error in an exchange\n%s", traceback.format_exc())
