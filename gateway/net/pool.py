"""Upstream connections by endpoint: dials them, hands them out, closes old ones, all as `core.poolplan` says.

Theory of operation
-------------------
`Pools.of(protocol)` is where the exchanges of a revision get their connections. A port that is named h2c is spoken to
in HTTP/2 with prior knowledge (RFC 9113 section 3.3), any other in HTTP/1.1, both whatever the client speaks: what an
application gets depends on its own declaration only. Under config-features' autodetect-http2 a port without a name is
asked: the first connection greets in HTTP/2, and an endpoint that does not greet back gets HTTP/1.1 from then on. The
answer is kept for that pod alone.

HTTP/1.1 connections in use are bounded by the requests in flight, which the activator and the limit on downstream
connections bound. At most DIALS are made to one endpoint at once: a burst that dials a thousand times overruns the
endpoint's queue (100 in Python's asyncio, 511 in Node), whose kernel drops the rest, and tries again a second later,
then two. Who has no turn waits for one, or for a connection that becomes free, which is mostly sooner; but not if
nothing moved for CONNECT_TIMEOUT, nor longer than TURN_TIMEOUT. (10,000 HTTP/2 streams at once, twice, for one slow
asyncio server: 69 s and 97 of them 5xx; with turns 23 s and none.)

An HTTP/2 connection is handed out only after the endpoint's SETTINGS, which say how many streams it takes; requests
that arrive meanwhile wait for the same one. An endpoint whose PER_ENDPOINT connections are full gets no more requests
from here (QueueFull).
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from gateway.core.poolplan import IDLE_LIMIT, PER_ENDPOINT, PoolPlan, SharedPlan
from gateway.errors import Overloaded, QueueFull, UpstreamConnectFailure, UpstreamProtocolError, UpstreamReset
from gateway.net.upstream import Upstream
from gateway.net.upstream2 import Upstream2

if TYPE_CHECKING:
    from gateway.contract import Endpoint
    from gateway.errors import GatewayError
    from gateway.net.upstream2 import Stream

__all__ = ["Connections", "Pool", "Pools", "SharedPool"]

CONNECT_TIMEOUT = 5.0
DIALS = 32
TURN_TIMEOUT = 60.0
DETECT_TIMEOUT = 1.0
_MAX_DETECTED = 4096
_CHECK_INTERVAL = 1.0


class Connections(Protocol):
    """Where an exchange gets its connection."""

    def try_take(self, endpoint: Endpoint) -> Upstream | Stream | None:
        """One to `endpoint` that can be used at once, None if there is none."""

    async def dial(self, endpoint: Endpoint) -> Upstream | Stream:
        """One on a new connection. Raises UpstreamConnectFailure, UpstreamProtocolError, QueueFull, Overloaded."""
        ...


class Pools:
    """All upstream connections of one worker."""

    def __init__(self) -> None:
        self.http1 = Pool()
        self._h2c = SharedPool()
        self._detected = _DetectingPool(self.http1, self._h2c)

    def of(self, protocol: str) -> Connections:
        """Where connections of that protocol come from; the names are those of `contract.Revision`."""
        if protocol == "h2c":
            return self._h2c
        return self._detected if protocol == "detect" else self.http1

    @property
    def open(self) -> int:
        """Connections that are open, idle or not."""
        return self.http1.open + self._h2c.open

    def close(self) -> None:
        """Close what is idle."""
        self.http1.close()
        self._h2c.close()


_Waiter = asyncio.Future[Upstream | None]


class _Dials:
    """The dials to one endpoint that are under way, when the last of them led to a connection or one became free, and
    who waits for either."""

    __slots__ = ("count", "moved_at", "waiting")

    def __init__(self, now: float) -> None:
        self.count = 0
        self.moved_at = now
        self.waiting: deque[_Waiter] = deque()


class Pool:
    """HTTP/1.1 connections: each carries one exchange at a time. `open` counts them, idle or not."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._plan: PoolPlan[tuple[str, int], Upstream] = PoolPlan()
        self._timer: asyncio.TimerHandle | None = None
        self._dials: dict[tuple[str, int], _Dials] = {}
        self.open = 0

    def try_take(self, endpoint: Endpoint) -> Upstream | None:
        """An idle connection to `endpoint`, None if there is none."""
        key = endpoint.key
        upstream = self._plan.take(key)
        while upstream is not None and (upstream.is_closing() or upstream.is_doubtful) and _is_spoilt(upstream):
            upstream = self._plan.take(key)
        return upstream

    async def dial(self, endpoint: Endpoint) -> Upstream:
        """A new connection, or one that an exchange gave back while this waited for its turn to dial. Raises
        UpstreamConnectFailure, Overloaded."""
        key = endpoint.key
        dials = self._dials.get(key)
        if dials is None:
            dials = self._dials[key] = _Dials(self._loop.time())
        if dials.count == DIALS:
            upstream = await self._turn(key, dials)
            if upstream is not None:
                return upstream
        else:
            dials.count += 1
        try:
            upstream = await self._dial(key)
            dials.moved_at = self._loop.time()
            return upstream
        finally:
            self._end_turn(key, dials)

    async def _turn(self, key: tuple[str, int], dials: _Dials) -> Upstream | None:
        """Wait until somebody else's dial has ended, and take over its turn (None), or for a connection."""
        waiter: _Waiter = self._loop.create_future()
        dials.waiting.append(waiter)
        began = self._loop.time()
        try:
            while not (await asyncio.wait((waiter,), timeout=CONNECT_TIMEOUT))[0]:
                _check_patience(key, dials, began, self._loop.time())
        except (asyncio.CancelledError, UpstreamConnectFailure):
            self._give_up(key, dials, waiter)
            raise
        upstream = waiter.result()
        if upstream is not None and upstream.is_closing():  # in the turn of the loop between
            return await self._turn(key, dials)
        return upstream

    def _give_up(self, key: tuple[str, int], dials: _Dials, waiter: _Waiter) -> None:
        """Who waited leaves, maybe in the very turn of the loop in which it was told."""
        if not waiter.done():
            dials.waiting.remove(waiter)
            return
        upstream = waiter.result()
        if upstream is None:
            self._end_turn(key, dials)
        else:
            self.give(upstream)

    def _end_turn(self, key: tuple[str, int], dials: _Dials) -> None:
        if dials.waiting:
            dials.waiting.popleft().set_result(None)
            return
        dials.count -= 1
        if not dials.count:
            del self._dials[key]

    def _is_awaited(self, upstream: Upstream) -> bool:
        """Hand a connection that is free to who has waited longest, if anybody does."""
        dials = self._dials.get(upstream.key)
        if dials is None or not dials.waiting:
            return False
        dials.moved_at = self._loop.time()
        dials.waiting.popleft().set_result(upstream)
        return True

    async def _dial(self, key: tuple[str, int]) -> Upstream:
        upstream = Upstream(key, self)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._loop.create_connection(lambda: upstream, *key)
        except (OSError, TimeoutError) as error:
            raise _connect_failure(key, error) from error
        except asyncio.CancelledError:
            # A connection made in the very turn of the loop in which the client left: uvloop closes it without a word.
            if upstream.is_open:
                self.lost(upstream)
            raise
        return upstream

    def give(self, upstream: Upstream) -> None:
        """Take back a connection whose exchange is over and which may be used again."""
        now = perf_counter()
        upstream.release(now)
        if self._dials and not upstream.is_stuck and self._is_awaited(upstream):
            return
        # Bytes of the last request that are still unsent would hold up the next one's, and its back-pressure unsaid.
        if upstream.is_stuck or not self._plan.give(upstream.key, upstream, now):
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
        for upstream in self._plan.expire(perf_counter()):
            upstream.close()
        self._timer = self._loop.call_later(IDLE_LIMIT / 4, self._sweep) if self._plan.size else None


def _check_patience(key: tuple[str, int], dials: _Dials, began: float, now: float) -> None:
    """Raises UpstreamConnectFailure for who has waited since `began`."""
    if now - dials.moved_at >= CONNECT_TIMEOUT or now - began >= TURN_TIMEOUT:
        raise UpstreamConnectFailure(f"The endpoint {_named(key)} takes connections too slowly.")


def _is_spoilt(upstream: Upstream) -> bool:
    """Whether an idle connection is of no use: closed, its `connection_lost` about to come, or with bytes on it."""
    if not upstream.is_closing() and not upstream.has_input():
        return False
    upstream.close()
    return True


class SharedPool:
    """HTTP/2 connections: each carries many exchanges at once. `open` counts them, idle or not."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._plan: SharedPlan[tuple[str, int], Upstream2] = SharedPlan()
        self._dialling: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.open = 0

    def try_take(self, endpoint: Endpoint) -> Stream | None:
        """A stream to `endpoint`, None if no connection has room for one."""
        upstream = self._plan.take((endpoint.host, endpoint.port))
        return None if upstream is None else upstream.open()

    async def dial(self, endpoint: Endpoint, timeout: float = CONNECT_TIMEOUT) -> Stream:
        """A stream on a connection that is new, or was when several wanted one. Raises UpstreamConnectFailure,
        UpstreamProtocolError (it does not speak HTTP/2), QueueFull, Overloaded."""
        key = endpoint.key
        while True:
            dialling = self._dialling.get(key)
            if dialling is None:
                if self._plan.is_full(key):
                    raise QueueFull(f"The endpoint {_named(key)} takes no more streams on {PER_ENDPOINT} connections.")
                dialling = self._loop.create_task(self._dial(key, timeout), name="dial")
                self._dialling[key] = dialling
                dialling.add_done_callback(lambda task: self._dialled(key, task))
            # Shielded: whoever else waits for the connection still wants it when one client leaves.
            await asyncio.shield(dialling)
            stream = self.try_take(endpoint)
            if stream is not None:
                return stream

    def _dialled(self, key: tuple[str, int], task: asyncio.Task[None]) -> None:
        del self._dialling[key]
        if not task.cancelled():
            task.exception()  # looked at here, as all who waited may have left

    async def _dial(self, key: tuple[str, int], timeout: float) -> None:
        upstream: Upstream2 | None = None
        try:
            async with asyncio.timeout(timeout):
                _, upstream = await self._loop.create_connection(lambda: Upstream2(key, self), *key)
                await upstream.greeted
        except UpstreamReset as error:
            raise UpstreamConnectFailure(
                f"The endpoint {_named(key)} closed the connection before it said anything."
            ) from error
        except (OSError, TimeoutError) as error:
            if upstream is not None:
                upstream.close()
            raise _connect_failure(key, error) from error
        if not upstream.has_room:
            upstream.close()
            raise UpstreamConnectFailure(f"The endpoint {_named(key)} takes no streams.")
        self._plan.add(key, upstream)
        if self._timer is None:
            self._timer = self._loop.call_later(_CHECK_INTERVAL, self._check)

    def close(self) -> None:
        """Close what is idle."""
        if self._timer is not None:
            self._timer.cancel()
        for dialling in self._dialling.values():
            dialling.cancel()
        for upstream in self._plan.everything():
            if upstream.is_idle:
                upstream.close()

    def opened(self, upstream: Upstream2) -> None:
        """From an upstream: one more connection is open."""
        self.open += 1

    def retired(self, upstream: Upstream2) -> None:
        """From an upstream: it takes no more streams."""
        self._plan.forget(upstream.key, upstream)

    def lost(self, upstream: Upstream2) -> None:
        """From an upstream: its connection is closed, idle or in use."""
        self.open -= 1

    def _check(self) -> None:
        now = self._loop.time()
        for upstream in self._plan.expired(now):
            upstream.close()
        rest = self._plan.everything()
        for upstream in rest:
            upstream.check(now)
        self._timer = self._loop.call_later(_CHECK_INTERVAL, self._check) if rest else None


class _DetectingPool:
    """HTTP/2 for the endpoints that greet in it, HTTP/1.1 for the others."""

    def __init__(self, http1: Pool, h2c: SharedPool) -> None:
        self._http1 = http1
        self._h2c = h2c
        self._found: dict[tuple[str, int, str], Pool | SharedPool] = {}

    def try_take(self, endpoint: Endpoint) -> Upstream | Stream | None:
        pool = self._found.get((endpoint.host, endpoint.port, endpoint.pod))
        return None if pool is None else pool.try_take(endpoint)

    async def dial(self, endpoint: Endpoint) -> Upstream | Stream:
        key = (endpoint.host, endpoint.port, endpoint.pod)
        pool = self._found.get(key)
        if pool is not None:
            return await pool.dial(endpoint)
        try:
            stream = await self._h2c.dial(endpoint, DETECT_TIMEOUT)
        except (UpstreamProtocolError, UpstreamConnectFailure):
            upstream = await self._http1.dial(endpoint)  # raises if it takes no connection at all
            self._keep(key, self._http1)
            return upstream
        self._keep(key, self._h2c)
        return stream

    def _keep(self, key: tuple[str, int, str], pool: Pool | SharedPool) -> None:
        if len(self._found) >= _MAX_DETECTED:
            del self._found[next(iter(self._found))]
        self._found[key] = pool


def _named(key: tuple[str, int]) -> str:
    return f"{key[0]}:{key[1]}"


# What is wrong with us, and not with the endpoint: it must not lose its traffic for it.
_OUR_OWN = frozenset((errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS))


def _connect_failure(key: tuple[str, int], error: Exception) -> GatewayError:
    if isinstance(error, OSError) and error.errno in _OUR_OWN:
        return Overloaded(f"This gateway can open no more connections: {error.strerror}.")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else "no answer"
    return UpstreamConnectFailure(f"The endpoint {_named(key)} took no connection: {reason}.")
