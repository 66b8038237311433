"""What the connections of one listening address share: limits, counters, and how they drain.

A `Listener` holds no socket; `protocol` is what the loop's server calls for each connection it accepts, and TLS
(`net.tls`) for each whose handshake is through.

A final response without Date gets one here, as RFC 9110 section 6.6.1 wants from whoever passes it on, and so do the
gateway's own. Its text is made once a second.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from email.utils import format_datetime
from math import inf
from typing import TYPE_CHECKING

from gateway.core.fields import Peer
from gateway.core.http1 import head_limits
from gateway.net.downstream import Downstream
from gateway.net.halfclose import ResetWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import Limits
    from gateway.core.clients import ClientCounts
    from gateway.core.http1 import RequestHead, ResponseHead
    from gateway.core.proxies import TrustedProxies
    from gateway.core.traffic import WorkerTraffic
    from gateway.errors import GatewayError
    from gateway.net.downstream2 import Connection
    from gateway.net.sides import RequestSink, Responder

__all__ = ["Listener"]


class Listener:
    """What the connections of one listening address share. `begin` starts an exchange, `refused` is told of a request
    that never became one; its head is None if it has none that could be read."""

    __slots__ = (
        "_date",
        "_date_until",
        "begin",
        "clients",
        "cluster_local",
        "connections",
        "draining",
        "head_limits",
        "keep_alive_timeout",
        "limits",
        "loop",
        "proxies",
        "refused",
        "resets",
        "traffic",
    )

    def __init__(
        self,
        begin: Callable[[Responder, RequestHead], RequestSink | None],
        refused: Callable[[Responder, GatewayError, RequestHead | None], None],
        *,
        cluster_local: bool,
        limits: Limits,
        clients: ClientCounts,
        proxies: TrustedProxies,
        traffic: WorkerTraffic,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.begin = begin
        self.refused = refused
        self.cluster_local = cluster_local
        self.limits = limits
        self.head_limits = head_limits(limits.max_request_line, limits.max_field_section, limits.max_fields)
        self.keep_alive_timeout = limits.keep_alive_timeout
        self.clients = clients
        self.proxies = proxies
        self.traffic = traffic
        self.connections: set[Downstream | Connection] = set()
        self.draining = False
        self.resets = ResetWatch()
        self._date = b""
        self._date_until = -inf

    def protocol(self) -> Downstream:
        """The protocol factory for `create_server`: one connection."""
        return Downstream(self)

    def peer(self, transport: asyncio.BaseTransport) -> Peer:
        """Who is at the other end of a new connection."""
        proto = b"http" if transport.get_extra_info("ssl_object") is None else b"https"
        peername = transport.get_extra_info("peername")
        return Peer(str(peername[0]).encode() if peername else b"unknown", proto, self.proxies)

    def date(self) -> bytes:
        """Now, as Date says it."""
        now = self.loop.time()
        if now >= self._date_until:
            moment = datetime.now(UTC)
            self._date = format_datetime(moment, usegmt=True).encode()
            self._date_until = now + 1.0 - moment.microsecond / 1e6
        return self._date

    def stamp(self, head: ResponseHead) -> None:
        """Date a response."""
        head.fields += b"date: %b\r\n" % self.date()
        head.dated = True

    def enter(self, peer: Peer) -> int:
        """A connection more; by how many its client has too many, if that is limited. Trusted proxies are not: their
        connections are those of many clients."""
        clients = self.clients
        return clients.enter(peer.address.decode()) - clients.limit if clients.limit and not peer.is_trusted else 0

    def leave(self, peer: Peer) -> None:
        """A connection less."""
        if self.clients.limit and not peer.is_trusted:
            self.clients.leave(peer.address.decode())

    def drain(self, lull: float) -> None:
        """Each response is its connection's last; those on which nothing comes for `lull` seconds are closed."""
        self.draining = True
        for connection in list(self.connections):
            connection.drain(lull)

    def break_off(self) -> None:
        """End what is in hand, now."""
        for connection in list(self.connections):
            connection.break_off()

    def close(self) -> None:
        """After the last connection."""
        self.resets.close()
