"""One gateway worker: a process with one event loop that carries requests. The composition root of everything in it.

Theory of operation
-------------------
The parent (`gateway.supervisor`) hands the listening sockets down as file descriptors, so a worker that dies and is
replaced takes over the very same socket with the connections that queue on it. Configuration comes as one JSON line on
standard input, which the parent keeps open: end of file means that the parent is gone, and so is the worker at once (on
Linux the kernel sees to it as well, PR_SET_PDEATHSIG, for a worker too busy to look).

SIGTERM or SIGINT drains: no new connections, each response in flight says `Connection: close`, and when the last is
through the process ends with status 0. Requests and tunnels that outlive the grace period are broken off.

A connection that is idle at that moment is closed LULL seconds later, if nothing came on it. To close it at once, as
nginx does, would lose the request of a client that sends on it at the same instant, and under load there are always
some; a client that asks again within LULL gets its answer with `Connection: close`, and one that has been silent for
that long is that unlikely to begin in the round trip that the closing takes. (HTTP/2 has GOAWAY for it.)

SIGUSR1, and SIGHUP, reopen the access log.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from math import inf
from random import random
from typing import TYPE_CHECKING

import orjson
import uvloop

from gateway.activator.activator import Activator
from gateway.config import GatewayConfig, parse_config, serialise_config
from gateway.contract import PART, ContractError, Stat
from gateway.core.clients import ClientCounts
from gateway.core.http1 import CODEC
from gateway.core.proxies import TrustedProxies
from gateway.core.routing import RouteTable
from gateway.core.traffic import Family, WorkerTraffic, revision_families
from gateway.exchanges import Exchanges
from gateway.feed import Feed
from gateway.net.accesslog import AccessLog
from gateway.net.admin import StatusServer, WorkerStatus
from gateway.net.listener import Listener
from gateway.net.peers import Channels
from gateway.net.pool import Pools
from gateway.net.tls import Certificates, TlsListener
from gateway.net.tlscontext import CertificateFiles
from gateway.reporter import Reporter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.contract import Peers, Snapshot, Update

__all__ = ["Assignment", "Worker", "parse_assignment", "serialise_assignment"]

_PR_SET_PDEATHSIG = 1
FIRST_SNAPSHOT_WAIT = 3.0
"""Seconds that a new worker keeps connections waiting for its first snapshot."""
LULL = 2.0
_DRAIN_POLL = 0.02
_LAST_WORDS = 1.0  # for the answers to what was broken off

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the parent gives a worker: its number, listening descriptors (`tls` is empty without TLS), and the one over
    which it is asked for its status. `succeeds`: another worker serves on the same sockets until this one is ready."""

    config: GatewayConfig
    index: int
    external: list[int]
    cluster_local: list[int]
    tls: list[int]
    status_channel: int
    succeeds: bool


def serialise_assignment(assignment: Assignment) -> bytes:
    """One line."""
    body = {
        "config": serialise_config(assignment.config).decode(),
        "index": assignment.index,
        "external": assignment.external,
        "clusterLocal": assignment.cluster_local,
        "tls": assignment.tls,
        "statusChannel": assignment.status_channel,
        "succeeds": assignment.succeeds,
    }
    return orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE)


def parse_assignment(line: bytes) -> Assignment:
    body = orjson.loads(line)
    config = parse_config(body["config"].encode())
    return Assignment(
        config,
        body["index"],
        external=body["external"],
        cluster_local=body["clusterLocal"],
        tls=body["tls"],
        status_channel=body["statusChannel"],
        succeeds=body["succeeds"],
    )


class Worker:
    """Builds and connects the objects of one worker. To be made within the running loop."""

    def __init__(self, config: GatewayConfig, index: int, token: str) -> None:
        self._config = config
        self._index = index
        self.traffic = WorkerTraffic()
        self.proxies = TrustedProxies(config.trusted_proxies)
        self.clients = ClientCounts(config.limits.max_connections_per_client)
        name = f"{socket.gethostname()}-{os.getpid()}-{index}"
        self.channels = Channels(name, token, config.peer_host, is_led=lambda: self.feed.connected)
        self.activator = Activator(
            queue_limit=config.limits.queue_limit,
            worker_queue_limit=config.limits.worker_queue_limit,
            queue_timeout=config.limits.queue_timeout,
            on_in_flight=lambda revision: self.feed.report_in_flight(revision),
            on_stranded=lambda revision: self.feed.poke(Stat(revision, 1.0, 0.0)),
            worker=name,
            send=self.channels.send,
        )
        self.pools = Pools()
        self.access_log = AccessLog(config.access_log, self.traffic)
        self.feed = Feed(
            config.feed_url,
            token,
            worker=name,
            address=self.channels.address,
            on_update=self._on_update,
            on_peers=self._on_peers,
            waiting=self.activator.waiting,
            loads=self.activator,
            snapshot_file=config.snapshot_file,
            ca=config.feed_ca,
        )
        self.reporter = Reporter(poke=self.feed.poke, report=self.feed.report)
        self.certificates = None if config.tls_listen is None else Certificates(_default_certificate(config))
        self.exchanges = Exchanges(
            routes=RouteTable(),
            activator=self.activator,
            load=self.reporter,
            pools=self.pools,
            traffic=self.traffic,
            access_log=self.access_log,
            random=random,
            queue_bytes=config.limits.queue_bytes,
            worker_queue_bytes=config.limits.worker_queue_bytes,
            has_certificate=_no_certificate if self.certificates is None else self.certificates.covers,
        )
        self.external = self._listener(cluster_local=False)
        self.cluster_local = self._listener(cluster_local=True)
        self.tls = None if self.certificates is None else TlsListener(self.external, self.certificates)
        self._draining = False
        self._informed = asyncio.Event()

    def _listener(self, *, cluster_local: bool) -> Listener:
        return Listener(
            self.exchanges.begin,
            self.exchanges.refused,
            cluster_local=cluster_local,
            limits=self._config.limits,
            clients=self.clients,
            proxies=self.proxies,
            traffic=self.traffic,
        )

    def _on_update(self, update: Update, snapshot: Snapshot) -> None:
        try:
            self.exchanges.apply(update, snapshot)
        except ValueError as error:
            raise ContractError(str(error)) from error
        self.activator.apply(update, snapshot)
        if self.certificates is not None:
            self.certificates.apply(update)
        self._informed.set()
        if len(update.revisions) > PART:
            # It stays; a full collection over ten thousand routes would stop the worker for 0.2 s.
            gc.freeze()

    def _on_peers(self, peers: Peers) -> None:
        self.activator.ledger.on_peers(peers)
        if peers.epoch:
            self.channels.follow({peer.name: peer.address for peer in peers.workers})

    async def run(
        self,
        stop: asyncio.Event,
        external: list[socket.socket],
        cluster_local: list[socket.socket],
        tls: list[socket.socket],
        *,
        succeeds: bool = False,
    ) -> None:
        """Serve on the given sockets until `stop` is set, then drain.

        Connections are accepted from the first snapshot on, so that a worker that was started in another's place does
        not deny services that it has not heard of yet: they wait in the sockets' backlog. After FIRST_SNAPSHOT_WAIT
        they are accepted all the same, and told (NotReady); not so where this one succeeds another, which serves
        meanwhile."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.feed.run(), name="feed"),
                group.create_task(self.reporter.run(), name="reporter"),
                group.create_task(self.channels.run(self.activator.ledger), name="channels"),
            ]
            await self._first_snapshot(stop, inf if succeeds else FIRST_SNAPSHOT_WAIT)
            servers = [await loop.create_server(self.external.protocol, sock=sock, backlog=1024) for sock in external]
            servers += [
                await loop.create_server(self.cluster_local.protocol, sock=sock, backlog=1024) for sock in cluster_local
            ]
            if self.tls is not None:
                servers += [await loop.create_server(self.tls.protocol, sock=sock, backlog=1024) for sock in tls]
            await stop.wait()
            for server in servers:
                server.close()
            await self._drain()
            for task in tasks:
                task.cancel()
        for listener in (self.external, self.cluster_local):
            listener.close()
        await self.activator.close()
        self.pools.close()
        self.access_log.close()

    async def _first_snapshot(self, stop: asyncio.Event, patience: float) -> None:
        loop = asyncio.get_running_loop()
        waits = [loop.create_task(event.wait()) for event in (self._informed, stop)]
        timeout = None if patience == inf else patience
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _drain(self) -> None:
        self._draining = True
        self.feed.leave()
        grace = self._config.drain_grace
        for listener in self._listeners():
            listener.drain(min(LULL, grace))
        if not await self._empty(grace):
            for listener in self._listeners():
                listener.break_off()
            await self._empty(_LAST_WORDS)

    def _listeners(self) -> list[Listener | TlsListener]:
        return [self.external, self.cluster_local, *([] if self.tls is None else [self.tls])]

    async def _empty(self, patience: float) -> bool:
        """Wait until nobody is connected; False if that takes longer than `patience` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        # Looked at now and then, so that no request pays for an event that matters once in a process's life.
        while self._is_busy():
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(_DRAIN_POLL)
        return True

    def _is_busy(self) -> bool:
        traffic = self.traffic
        return bool(self.exchanges.in_flight or traffic.downstream_connections or traffic.tls_handshaking)

    def status(self) -> WorkerStatus:
        """What /readyz and /metrics say of this worker."""
        reason = "draining" if self._draining else "" if self.feed.ready else "no snapshot from the controller yet"
        served = self.exchanges.served.values()
        return WorkerStatus(reason, [*revision_families([one.traffic for one in served]), *self._families()])

    def _families(self) -> list[Family]:
        traffic, counters, ledger = self.traffic, self.activator.counters, self.activator.ledger
        # name, kind, help, value; the worker label only where a sum would say nothing.
        plain = (
            ("downstream_connections", "gauge", "Open client connections.", traffic.downstream_connections),
            ("downstream_http2_connections", "gauge", "Those of them that speak HTTP/2.", traffic.http2_connections),
            ("http2_pending_bytes", "gauge", "Content that waits for clients of HTTP/2.", traffic.http2_pending),
            ("upstream_connections", "gauge", "Open connections to endpoints.", self.pools.open),
            ("routes", "gauge", "Hosts that are routed, by listener and name.", len(self.exchanges.routes)),
            ("tls_certificates", "gauge", "Certificates in the routing state.", len(self.certificates or ())),
            ("tls_handshaking", "gauge", "Connections in their TLS handshake.", traffic.tls_handshaking),
            ("tls_handshakes", "counter", "TLS handshakes that succeeded.", traffic.tls_handshakes),
            ("tls_resumed", "counter", "Those of them that resumed a session.", traffic.tls_resumed),
            ("waiting_bytes", "gauge", "Bytes of requests that wait for an endpoint.", self.exchanges.waiting_bytes),
            ("parked_requests", "counter", "Requests that had to wait, or to ask, for an endpoint.", counters.parked),
            ("queue_full", "counter", "Requests refused because too many waited.", counters.queue_full),
            ("queue_timeouts", "counter", "Requests that waited too long.", counters.timeouts),
            ("cold_starts", "counter", "Times a revision without an endpoint got a request.", counters.cold_starts),
            ("probe_failures", "counter", "Endpoint probes that did not pass.", self.activator.probe_failures),
            ("places_borrowed", "counter", "Places that another worker gave a request.", ledger.borrowed),
            ("places_lent", "gauge", "Requests of other workers at places of this one.", ledger.lent),
            ("peers_reachable", "gauge", "Other workers that can be asked for places.", self.channels.open),
            ("access_log_dropped", "counter", "Access log entries lost.", traffic.log_dropped),
            ("unexpected_errors", "counter", "Errors of the gateway itself.", traffic.unexpected_errors),
            ("feed_connected", "gauge", "Workers connected to the controller.", int(self.feed.connected)),
        )
        families = [
            Family(f"zerogate_gateway_{name}", kind, text, (), {(): (value,)}) for name, kind, text, value in plain
        ]
        refusals = {limit: count for limit, count in traffic.limit_refusals.items() if limit}
        return [
            *families,
            self.exchanges.cold_starts.family(),
            _counters("local_replies", "Answers made here, by flag.", "flag", traffic.local_replies),
            _counters("limit_refusals", "Clients that ran into a limit.", "limit", refusals),
            _counters("http2_faults", "Connections ended, by error code.", "code", traffic.http2_faults),
            _counters("tls_failures", "Failed handshakes, by reason.", "reason", traffic.tls_failures),
            _gauge("codec", "Workers by HTTP/1.1 codec.", "name", CODEC.name, 1),
            _gauge(
                "snapshot_version", "The routing state held.", "worker", str(self._index), self.feed.snapshot.version
            ),
        ]


def _counters(name: str, text: str, label: str, counts: Mapping[str, int]) -> Family:
    samples: dict[tuple[str, ...], tuple[float, ...]] = {(value,): (count,) for value, count in counts.items()}
    return Family(f"zerogate_gateway_{name}", "counter", text, (label,), samples)


def _gauge(name: str, text: str, label: str, value: str, level: int) -> Family:
    return Family(f"zerogate_gateway_{name}", "gauge", text, (label,), {(value,): (level,)})


def _default_certificate(config: GatewayConfig) -> CertificateFiles | None:
    if config.tls_certificate is None or config.tls_key is None:
        return None
    return CertificateFiles(config.tls_certificate, config.tls_key)


def _no_certificate(_host: bytes) -> bool:
    return False


async def _serve(assignment: Assignment) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_reader(sys.stdin.fileno(), _exit_with_parent)
    worker = Worker(assignment.config, assignment.index, assignment.config.feed_token_file.read_text().strip())
    for number in (signal.SIGUSR1, signal.SIGHUP):
        loop.add_signal_handler(number, _reopen, worker.access_log)
    status = StatusServer(socket.socket(fileno=assignment.status_channel), worker.status)
    # What was imported and built lives as long as the process; the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    # The request path makes no cycles; the default (700) would have the collector look at each batch of log entries.
    gc.set_threshold(20_000, 20, 20)
    sockets = [_sockets(each) for each in (assignment.external, assignment.cluster_local, assignment.tls)]
    await worker.run(stop, *sockets, succeeds=assignment.succeeds)
    status.close()


def _sockets(descriptors: list[int]) -> list[socket.socket]:
    return [socket.socket(fileno=descriptor) for descriptor in descriptors]


def _exit_with_parent() -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        os._exit(1)


def _reopen(log: AccessLog) -> None:
    try:
        log.reopen()
    except OSError as error:
        _log.error("the access log can't be reopened, the old file stays in use: %s", error)


def _die_with_parent() -> None:
    """Have the kernel kill this process when the parent ends; elsewhere than on Linux standard input tells."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    """`python -m gateway.worker`, started by the parent only."""
    _die_with_parent()
    logging.basicConfig(level=logging.INFO, format="gateway worker: %(message)s", stream=sys.stderr)
    line = b""
    while not line.endswith(b"\n") and (piece := os.read(sys.stdin.fileno(), 65536)):
        line += piece
    if not line.endswith(b"\n"):
        return 1  # the parent was gone before it said anything
    uvloop.run(_serve(parse_assignment(line)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
