"""Which upstream connection to reuse, and which to close: idle ones (HTTP/1.1), and shared ones (HTTP/2).

Theory of operation
-------------------
The most recently used connection goes out first (LIFO): its peer is the least likely to have closed it meanwhile, and
the rest grow old and are closed, so a pool shrinks to what the load needs. A dict keeps the order: `popitem` takes the
youngest, iteration starts at the oldest, and a connection that its peer closed is removed in O(1).

A connection idles for 4 s at most: shorter than the keep-alive of the servers people run (Node and uvicorn close after
5 s), because a request that meets a closing connection can only be retried if it is idempotent, and a new connection
costs 0.1 ms on the same machine. At most 1,024 idle ones per endpoint and 4,096 per worker; beyond that a connection
is closed instead of kept. (Go's transport, which Knative uses, keeps 100. With 1,000 requests in flight to one endpoint
its responses come in bursts of more than that, and the next requests dialled anew: 107 µs of CPU for each, not 48.)

Shared connections stay in the plan while they are used. The first with room takes the next stream, so that as few as
possible are busy and the others grow idle; they idle as long as the other kind. An endpoint gets PER_ENDPOINT of them
at most, which only one that takes very few streams on each can fill.

Pure: connections are only values here; the shell closes what the plan hands back.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

__all__ = ["IDLE_LIMIT", "IDLE_PER_ENDPOINT", "PER_ENDPOINT", "PoolPlan", "SharedPlan"]

IDLE_LIMIT = 4.0
IDLE_PER_ENDPOINT = 1024
PER_ENDPOINT = 128
PER_WORKER = 4096

K = TypeVar("K")
C = TypeVar("C")


class PoolPlan(Generic[K, C]):
    """Idle connections (C) by endpoint (K). All operations are O(1) except `expire`, which is O(closed + endpoints)."""

    __slots__ = ("_idle", "size")

    def __init__(self) -> None:
        self._idle: dict[K, dict[C, float]] = {}
        self.size = 0

    def take(self, key: K) -> C | None:
        """The youngest idle connection, None if one must be opened."""
        idle = self._idle.get(key)
        if not idle:
            return None
        self.size -= 1
        return idle.popitem()[0]

    def give(self, key: K, connection: C, now: float) -> bool:
        """Keep a connection for reuse from `now` on; False if it must be closed instead."""
        idle = self._idle.get(key)
        if idle is None:
            idle = self._idle[key] = {}
        if len(idle) >= IDLE_PER_ENDPOINT or self.size >= PER_WORKER:
            return False
        idle[connection] = now
        self.size += 1
        return True

    def forget(self, key: K, connection: C) -> None:
        """The connection was closed by its peer; nothing happens if it is not idle."""
        if self._idle.get(key, {}).pop(connection, None) is not None:
            self.size -= 1

    def expire(self, now: float) -> list[C]:
        """Connections to close, because they were idle for IDLE_LIMIT at `now`. Endpoints without any are dropped."""
        expired: list[C] = []
        for key in list(self._idle):
            idle = self._idle[key]
            old = []
            for connection, since in idle.items():
                if now - since < IDLE_LIMIT:
                    break
                old.append(connection)
            for connection in old:
                del idle[connection]
            if not idle:
                del self._idle[key]
            expired += old
        self.size -= len(expired)
        return expired

    def clear(self) -> list[C]:
        """Every idle connection, to be closed."""
        everything = [connection for idle in self._idle.values() for connection in idle]
        self._idle.clear()
        self.size = 0
        return everything


class Shared(Protocol):
    """A connection that carries several exchanges at once."""

    idle_since: float

    @property
    def has_room(self) -> bool: ...

    @property
    def is_idle(self) -> bool: ...


S = TypeVar("S", bound=Shared)


class SharedPlan(Generic[K, S]):
    """Shared connections (S) by endpoint (K)."""

    __slots__ = ("_connections",)

    def __init__(self) -> None:
        self._connections: dict[K, list[S]] = {}

    def take(self, key: K) -> S | None:
        """The connection that takes the next stream, None if one must be opened."""
        for connection in self._connections.get(key, ()):
            if connection.has_room:
                return connection
        return None

    def is_full(self, key: K) -> bool:
        """Whether no further connection may be opened."""
        return len(self._connections.get(key, ())) >= PER_ENDPOINT

    def add(self, key: K, connection: S) -> None:
        """A new connection."""
        self._connections.setdefault(key, []).append(connection)

    def forget(self, key: K, connection: S) -> None:
        """The connection takes no more streams; nothing happens if it is not here."""
        connections = self._connections.get(key, [])
        if connection in connections:
            connections.remove(connection)
            if not connections:
                del self._connections[key]

    def everything(self) -> list[S]:
        """All connections."""
        return [connection for connections in self._connections.values() for connection in connections]

    def expired(self, now: float) -> list[S]:
        """Connections to close, because no stream was open for IDLE_LIMIT at `now`."""
        return [one for one in self.everything() if one.is_idle and now - one.idle_since >= IDLE_LIMIT]
