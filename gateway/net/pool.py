"""Upstream connections by endpoint: dials them, hands out idle ones, closes old ones, all as `core.poolplan` says.

The number of connections in use is bounded by the requests in flight, which the activator and the limit on downstream
connections bound.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.core.poolplan import IDLE_LIMIT, PoolPlan
from gateway.errors import UpstreamConnectFailure
from gateway.net.upstream import Upstream

if TYPE_CHECKING:
    from gateway.contract import Endpoint

__all__ = ["Pool"]

CONNECT_TIMEOUT = 5.0


class Pool:
    """All upstream connections of one worker. `open` counts them, idle or not."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._plan: PoolPlan[tuple[str, int], Upstream] = PoolPlan()
        self._timer: asyncio.TimerHandle | None = None
        self.open = 0

    def try_take(self, endpoint: Endpoint) -> Upstream | None:
        """An idle connection to `endpoint`, None if there is none."""
        key = (endpoint.host, endpoint.port)
        take = self._plan.take
        upstream = take(key)
        while upstream is not None:
            is_closing = upstream.is_closing
            if not is_closing():
                return upstream
            upstream = take(key)
        return None

    async def dial(self, endpoint: Endpoint) -> Upstream:
        """A new connection. Raises UpstreamConnectFailure."""
        key = (endpoint.host, endpoint.port)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, upstream = await self._loop.create_connection(lambda: Upstream(key, self), *key)
        except (OSError, TimeoutError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "no answer"
            raise UpstreamConnectFailure(
                f"The endpoint {endpoint.host}:{endpoint.port} took no connection: {reason}."
            ) from error
        return upstream

    def give(self, upstream: Upstream) -> None:
        """Take back a connection whose exchange is over and which may be used again."""
        upstream.release()
        if not self._plan.give(upstream.key, upstream, self._loop.time()):
            upstream.close()
        elif self._timer is None:
            self._timer = self._loop.call_later(1.0, self._sweep)

    def close(self) -> None:
        """Close what is idle."""
        if self._timer is not None:
            self._timer.cancel()
        for upstream in self._plan.clear():
            upstream.close()

    def opened(self, upstream: Upstream) -> None:
        """From an upstream: one more connection is open."""
        self.open += 1

    def lost(self, upstream: Upstream) -> None:
        """From an upstream: its connection is closed, idle or in use."""
        self.open -= 1
        self._plan.forget(upstream.key, upstream)

    def _sweep(self) -> None:
        for upstream in self._plan.expire(self._loop.time()):
            upstream.close()
        self._timer = self._loop.call_later(IDLE_LIMIT / 4, self._sweep) if self._plan.size else None
