"""Which idle upstream connection to reuse, and which to close.

Theory of operation
-------------------
The most recently used connection goes out first (LIFO): its peer is the least likely to have closed it meanwhile, and
the rest grow old and are closed, so a pool shrinks to what the load needs. A dict keeps the order: `popitem` takes the
youngest, iteration starts at the oldest, and a connection that its peer closed is removed in O(1).

A connection idles for 4 s at most: shorter than the keep-alive of the servers people run (Node and uvicorn close after
5 s), because a request that meets a closing connection can only be retried if it is idempotent, and a new connection
costs 0.1 ms on the same machine. At most 128 idle ones per endpoint (Go's transport, which Knative uses, keeps 100)
and 4,096 per worker; beyond that a connection is closed instead of kept.

Pure: connections are only values here; the shell closes what the plan hands back.
"""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ["IDLE_LIMIT", "PER_ENDPOINT", "PER_WORKER", "PoolPlan"]

IDLE_LIMIT = 4.0
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
        if len(idle) >= PER_ENDPOINT or self.size >= PER_WORKER:
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
