"""A gateway worker's request path on a real socket, and endpoints that do what a test tells them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import random
from typing import TYPE_CHECKING

from gateway.activator.activator import Activator
from gateway.contract import (
    Certificate,
    CertificateId,
    Endpoint,
    Milestones,
    Revision,
    RevisionId,
    RouteId,
    RouteRule,
    Snapshot,
    Split,
    Update,
    apply,
)
from gateway.core.clients import ClientCounts
from gateway.core.proxies import TrustedProxies
from gateway.core.routing import RouteTable
from gateway.core.traffic import WorkerTraffic
from gateway.exchanges import Exchanges
from gateway.net.accesslog import AccessLog
from gateway.net.downstream2 import Connection
from gateway.net.listener import Listener
from gateway.net.pool import Pools
from gateway.net.tls import Certificates, TlsListener
from gateway.reporter import Reporter
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from ipaddress import IPv4Network
    from pathlib import Path

    from gateway.config import Limits
    from gateway.net.tlscontext import CertificateFiles

    Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

REVISION = RevisionId("default", "hello-00001")
HOST = "hello.default.localhost"


class Client:
    """A client on a connection of its own. Whatever it waits for comes within five seconds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, message: bytes) -> None:
        self.writer.write(message)

    async def head(self) -> bytes:
        async with asyncio.timeout(5):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def exactly(self, size: int) -> bytes:
        async with asyncio.timeout(5):
            return await self.reader.readexactly(size)

    async def response(self, size: int) -> bytes:
        """A head and `size` bytes of content."""
        return await self.head() + await self.exactly(size)

    async def rest(self) -> bytes:
        """All until the gateway closes the connection. Raises ConnectionResetError if it resets it."""
        async with asyncio.timeout(5):
            return await self.reader.read()

    def half_close(self) -> None:
        self.writer.write_eof()

    def close(self) -> None:
        self.writer.close()


class Gateway:
    """The objects of a worker, without feed and processes."""

    def __init__(self, log: Path, limits: Limits, proxies: tuple[IPv4Network, ...] = ()) -> None:
        self.log = log
        self.traffic = WorkerTraffic()
        self.activator = Activator(
            queue_limit=limits.queue_limit,
            worker_queue_limit=limits.worker_queue_limit,
            queue_timeout=limits.queue_timeout,
        )
        self.pools = Pools()
        self.access_log = AccessLog(str(log), self.traffic)
        self.snapshot = Snapshot()
        self.exchanges = Exchanges(
            routes=RouteTable(),
            activator=self.activator,
            load=Reporter(poke=lambda _: None, report=lambda _: None),
            pools=self.pools,
            traffic=self.traffic,
            access_log=self.access_log,
            random=random,
            queue_bytes=limits.queue_bytes,
            worker_queue_bytes=limits.worker_queue_bytes,
            has_certificate=lambda host: self.certificates.covers(host),
        )
        self.certificates = Certificates(None)
        self.listener = Listener(
            self.exchanges.begin,
            self.exchanges.refused,
            cluster_local=False,
            limits=limits,
            clients=ClientCounts(limits.max_connections_per_client),
            proxies=TrustedProxies(proxies),
            traffic=self.traffic,
        )
        self.servers: list[asyncio.AbstractServer] = []
        self.port = 0
        self.tls_port = 0
        self.tls: TlsListener | None = None

    async def start(self) -> None:
        server = await asyncio.get_running_loop().create_server(self.listener.protocol, "127.0.0.1", 0)
        self.servers.append(server)
        self.port = server.sockets[0].getsockname()[1]

    async def start_tls(self, default: CertificateFiles | None = None) -> TlsListener:
        """Listen with TLS too, at `tls_port`."""
        self.certificates = Certificates(default)
        self.tls = TlsListener(self.listener, self.certificates)
        server = await asyncio.get_running_loop().create_server(self.tls.protocol, "127.0.0.1", 0)
        self.servers.append(server)
        self.tls_port = server.sockets[0].getsockname()[1]
        return self.tls

    def certify(self, **certificates: tuple[tuple[str, ...], tuple[str, str]] | None) -> None:
        """Set or drop (None) certificates by the names of their Secrets: their hosts, and chain and key."""
        changes = {}
        for name, value in certificates.items():
            key = CertificateId("default", name)
            changes[key] = None if value is None else Certificate(key, value[0], *value[1])
        update = Update(self.snapshot.version, self.snapshot.version + 1, {}, {}, changes)
        self.snapshot = apply(self.snapshot, update)
        self.certificates.apply(update)

    def route(
        self, *ports: int, rule: RouteRule | None = None, milestones: Milestones | None = None, **revision: object
    ) -> None:
        """Send HOST to one revision with an endpoint at each port; ready at once."""
        endpoints = tuple(
            Endpoint("127.0.0.1", port, f"pod-{port}", ready=True, milestones=milestones or Milestones())
            for port in ports
        )
        value = Revision(REVISION, probe=None, endpoints=endpoints, **revision)  # type: ignore[arg-type]
        rules = (rule or RouteRule(HOST, (Split(REVISION, 100),)),)
        version = self.snapshot.version
        update = Update(version, version + 1, {RouteId("default", "hello"): rules}, {REVISION: value})
        self.snapshot = apply(self.snapshot, update)
        self.exchanges.apply(update, self.snapshot)
        self.activator.apply(update, self.snapshot)

    async def endpoint(self, handler: Handler) -> int:
        """Listen with `handler`; returns the port."""

        async def handled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await handler(reader, writer)
            writer.close()

        server = await asyncio.start_server(handled, "127.0.0.1", 0)
        self.servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def client(self, message: bytes = b"") -> Client:
        """A client that has sent `message`."""
        client = Client(*await self.connect())
        client.send(message)
        return client

    async def ask(self, *pieces: bytes) -> bytes:
        """What comes back for these on a connection of their own, until the gateway closes it."""
        client = await self.client()
        for piece in pieces:
            client.send(piece)
            await asyncio.sleep(0)
        answer = await client.rest()
        client.close()
        return answer

    async def idle(self) -> None:
        """Wait until no request is here, then check that nothing was left behind."""
        await until(lambda: self.exchanges.in_flight == 0 and not self.exchanges.tasks)
        assert self.activator.parked == 0
        assert self.exchanges.waiting_bytes == 0
        for served in self.exchanges.served.values():
            assert (served.traffic.in_flight, served.traffic.parked, served.traffic.waiting_bytes) == (0, 0, 0)
        assert self.traffic.unexpected_errors == 0

    async def left(self, but: int = 0) -> None:
        """Wait until no client is connected, `but` so many."""
        await until(lambda: self.traffic.downstream_connections == but)

    async def answered(self, count: int) -> None:
        """Wait until so many requests for the revision have been answered."""
        await until(lambda: sum(self.exchanges.served[REVISION].traffic.classes) == count)

    async def parked(self, count: int) -> None:
        """Wait until so many requests wait for an endpoint."""
        await until(lambda: self.activator.parked == count)

    async def close(self) -> None:
        for connection in list(self.listener.connections):
            connection.abort() if isinstance(connection, Connection) else connection.reset()
        for negotiating in list(self.tls.handshaking if self.tls else ()):
            negotiating.abort()
        await self.idle()
        for server in self.servers:
            server.close()
        self.pools.close()
        await self.activator.close()
        await until(lambda: self.traffic.downstream_connections == 0 and self.pools.open == 0)
        self.listener.close()
        self.access_log.close()


def closing(message: bytes) -> bytes:
    """A request after whose response the gateway closes the connection."""
    return message.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
