"""The feed: the controller's end of the WebSockets that gateway workers hold.

Theory of operation
-------------------
A worker connects to `GET /v1/feed` with the bearer token and says `Hello`. It gets the whole state, part by part, so
that a large one does not hold up everything else here, then each change as it is published. Nothing at all is sent
before the first publication, so that a gateway which starts from its last good snapshot does not exchange it for an
empty table while the controller is still reading. A change is serialised once for all workers.

Each worker has a queue of `QUEUE_LIMIT` updates. A worker that lets it fill up is disconnected; when it comes back it
gets the whole state, which is shorter than a thousand changes. Pings every `HEARTBEAT` seconds find workers that died
without saying so; a worker that connects under a name that is taken replaces the old connection.

**Who the workers are** decides who deals out the places of revisions with a limit, so the list (`Peers`) must never
leave out somebody who still deals. A worker is on it from its first acknowledgement on. It is taken off at once when
its process has ended, which is seen by an end without a WebSocket close, or when it had said that it leaves. A
connection that was closed in any other way, by this side too, will be made again by the worker at once: its place on
the list is kept for RETURN_WAIT. A controller that starts finds workers that go by a former controller's list, and
the first to come back must not think that it is alone; `gathering` is the time from the first publication on in which
all of them come back, and before which no list is sent. Nor is one sent while this server closes, or those who hear
it would take over from those whose connection ended first.

Acknowledgements say which routes are programmed: a route is when every worker connected has acknowledged the version
that brought its latest change. Once it is, it stays so for that change: a worker that joins later does not serve before
it has the table. Stats go to the callback in the same turn of the loop they arrive in, because a poke among them is a
cold start waiting. What is in flight where replicas are about to go is handed on with the version that the worker had
acknowledged before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from aiohttp import WSCloseCode, WSMsgType, web

from gateway.contract import (
    FEED_PATH,
    GATHERING,
    Ack,
    ContractError,
    Hello,
    InFlight,
    Leaving,
    Peer,
    Peers,
    RouteId,
    Snapshot,
    Stats,
    Update,
    apply,
    parse_message,
    serialise_message,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from controller.dataplane.compile import Delta
    from gateway.contract import Message, RevisionId, Stat

log = logging.getLogger(__name__)

_ENDS = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)

QUEUE_LIMIT = 1000
"""Updates waiting for one worker."""

MESSAGE_LIMIT = 4 * 2**20
"""Bytes of one message from a worker; Stats of ten thousand revisions are under one megabyte."""

RETURN_WAIT = GATHERING
"""Seconds that a worker which lost its connection stays on the list."""

HELLO_TIMEOUT = 10.0
HEARTBEAT = 10.0


@dataclass(eq=False, slots=True)
class _Worker:
    peer: Peer
    socket: web.WebSocketResponse
    outgoing: asyncio.Queue[str | Snapshot | None] = field(default_factory=lambda: asyncio.Queue(QUEUE_LIMIT))
    started: bool = False
    acknowledged: int = 0
    is_alive: bool = False  # its connection was closed, by itself or by us, and did not just end

    @property
    def name(self) -> str:
        return self.peer.name

    def send(self, message: str | Snapshot) -> None:
        """Queues an update, or the whole state; a worker that does not keep up is cut off."""
        try:
            self.outgoing.put_nowait(message)
        except asyncio.QueueFull:
            log.warning("gateway worker %s does not keep up with the feed: disconnected, it will resync", self.name)
            self.stop()

    def stop(self) -> None:
        """Drops what waits and has the sender close the socket."""
        self.is_alive = True
        while not self.outgoing.empty():
            self.outgoing.get_nowait()
        self.outgoing.put_nowait(None)


class FeedServer:
    """All connected workers and the state they are told. Its `app` is served by whoever composes the process."""

    def __init__(
        self,
        token: str,
        *,
        on_stats: Callable[[str, Sequence[Stat]], None],
        on_in_flight: Callable[[str, int, Mapping[RevisionId, Mapping[str, int]]], None],
        on_carriers: Callable[[], None],
        on_disconnect: Callable[[str], None],
        on_programmed: Callable[[RouteId], None],
        gathering: float = 0.0,
    ) -> None:
        """`on_stats(worker, stats)` and `on_disconnect(worker)` are for the collector, `on_in_flight(worker, version,
        loads)` and `on_carriers()`, after which `carriers` may be others, are for whoever waits for endpoints to drain;
        `on_programmed(route)` is called whenever `programmed(route)` may answer differently. All are called in the loop
        and must not block. `gathering`: seconds without a list of the workers (see the module), where workers may have
        served before this server did.
        Raises ValueError for an empty token, which would let everybody in."""
        if not token:
            raise ValueError("the feed needs a token that is not empty")
        self._token = token.encode()
        self._on_stats = on_stats
        self._on_in_flight = on_in_flight
        self._on_carriers = on_carriers
        self._on_disconnect = on_disconnect
        self._on_programmed = on_programmed
        self._snapshot = Snapshot()
        self._workers: dict[str, _Worker] = {}
        self._gathering = gathering
        self._epochs = secrets.token_hex(8)
        self._lists = 0
        self._closing = False
        self._peers = Peers("")
        self._listed: dict[str, Peer] = {}
        self._returning: dict[str, asyncio.TimerHandle] = {}  # workers on the list that are not connected
        self._pending: dict[RouteId, int] = {}  # routes not acknowledged by everybody yet, and since which version
        self.serving = asyncio.Event()
        """Set once a worker has acknowledged a state: from then on requests are answered."""
        self.app = web.Application()
        self.app.router.add_get(FEED_PATH, self._feed)
        self.app.on_shutdown.append(self._close)

    @property
    def snapshot(self) -> Snapshot:
        """What the workers were told last."""
        return self._snapshot

    @property
    def workers(self) -> tuple[str, ...]:
        """The names of those connected."""
        return tuple(self._workers)

    @property
    def carriers(self) -> Collection[str] | None:
        """Those who may have requests in flight: workers that are connected or about to come back. None while a former
        controller's workers, which nobody here knows, may be about to."""
        return None if self._gathering else self._workers.keys() | self._returning.keys()

    @property
    def peers(self) -> Peers:
        """The list of the workers that they were told last."""
        return self._peers

    def publish(self, delta: Delta) -> None:
        """Tells every worker. The first call opens the feed, even with an empty delta."""
        if not delta and self._snapshot.version:
            return
        if self._gathering and not self._snapshot.version:
            asyncio.get_running_loop().call_later(self._gathering, self._gathered)
        version = self._snapshot.version + 1
        update = Update(self._snapshot.version, version, delta.routes, delta.revisions, delta.certificates)
        self._snapshot = apply(self._snapshot, update)
        for route_id, rules in delta.routes.items():
            if rules is None:
                self._pending.pop(route_id, None)
            else:
                self._pending[route_id] = version
        text = serialise_message(update)
        for worker in list(self._workers.values()):
            if worker.started:
                worker.send(text)
            else:
                self._start(worker)

    def programmed(self, route_id: RouteId) -> bool | None:
        """Has every connected worker acknowledged the route's latest change? None: there is no worker to ask."""
        if route_id in self._pending:
            return False if self._workers else None
        return route_id in self._snapshot.routes

    # --- one connection -----------------------------------------------------------------------------------------------

    async def _feed(self, request: web.Request) -> web.StreamResponse:
        if not self._is_authorised(request):
            raise web.HTTPUnauthorized(text="the feed needs the bearer token of this installation\n")
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT, max_msg_size=MESSAGE_LIMIT, compress=False)
        await socket.prepare(request)
        try:
            async with asyncio.timeout(HELLO_TIMEOUT):
                hello = _parse(await socket.receive())
        except (TimeoutError, ContractError) as error:
            await _refuse(socket, f"expected a hello: {error}")
            return socket
        if not isinstance(hello, Hello):
            await _refuse(socket, "expected a hello")
            return socket
        worker = _Worker(Peer(hello.worker, hello.address), socket)
        self._join(worker)
        sender = asyncio.ensure_future(_send(worker))
        try:
            await self._receive(worker)
        finally:
            self._part(worker)
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await sender
        return socket

    def _is_authorised(self, request: web.Request) -> bool:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.encode(errors="surrogateescape"), self._token)

    async def _receive(self, worker: _Worker) -> None:
        while (frame := await worker.socket.receive()).type not in _ENDS:
            try:
                message = _parse(frame)
            except ContractError as error:
                worker.is_alive = True
                await _refuse(worker.socket, str(error))
                return
            match message:
                case Stats(stats):
                    self._on_stats(worker.name, stats)
                case InFlight(loads):
                    self._on_in_flight(worker.name, worker.acknowledged, loads)
                case Ack(version) if version <= self._snapshot.version:
                    worker.acknowledged = max(worker.acknowledged, version)
                    self.serving.set()
                    self._list(worker)
                    self._settle()
                case Leaving():
                    worker.peer = replace(worker.peer, leaving=True)
                    if worker.name in self._listed:
                        self._list(worker)
                case _:
                    worker.is_alive = True
                    await _refuse(worker.socket, "expected stats, or the acknowledgement of an update that was sent")
                    return
        if frame.type is WSMsgType.CLOSE:
            worker.is_alive = True

    def _join(self, worker: _Worker) -> None:
        former = self._workers.get(worker.name)
        if former is not None:
            log.info("gateway worker %s connected again: its former connection is closed", worker.name)
            former.stop()
        alone = not self._workers
        self._workers[worker.name] = worker
        if self._snapshot.version:
            self._start(worker)
        if alone:
            self._tell(list(self._pending))

    def _part(self, worker: _Worker) -> None:
        if self._workers.get(worker.name) is not worker:
            return
        del self._workers[worker.name]
        self._unlist(worker)
        self._on_disconnect(worker.name)
        self._on_carriers()
        if self._workers:
            self._settle()
        else:
            self._tell(list(self._pending))

    def _start(self, worker: _Worker) -> None:
        """The whole state, as a worker's first update."""
        worker.started = True
        worker.send(serialise_message(self._peers))  # first, so that none with a state has no list, or none to wait for
        worker.send(self._snapshot)

    def _settle(self) -> None:
        """Routes that everybody has acknowledged by now are programmed."""
        floor = min(worker.acknowledged for worker in self._workers.values())
        done = [route_id for route_id, version in self._pending.items() if version <= floor]
        for route_id in done:
            del self._pending[route_id]
        self._tell(done)

    def _tell(self, routes: Sequence[RouteId]) -> None:
        for route_id in routes:
            self._on_programmed(route_id)

    # --- the list of the workers --------------------------------------------------------------------------------------

    def _list(self, worker: _Worker) -> None:
        """It serves, or goes on serving."""
        timer = self._returning.pop(worker.name, None)
        if timer is not None:
            timer.cancel()
        if self._listed.get(worker.name) != worker.peer:
            self._listed[worker.name] = worker.peer
            self._publish_list()

    def _unlist(self, worker: _Worker) -> None:
        """Its connection has ended."""
        if worker.name not in self._listed:
            return
        if worker.peer.leaving or not worker.is_alive:
            self._drop(worker.name)
        else:
            loop = asyncio.get_running_loop()
            self._returning[worker.name] = loop.call_later(RETURN_WAIT, self._drop, worker.name)

    def _drop(self, name: str) -> None:
        self._returning.pop(name, None)
        del self._listed[name]
        self._publish_list()
        self._on_carriers()

    def _gathered(self) -> None:
        self._gathering = 0.0
        self._publish_list()
        self._on_carriers()

    def _publish_list(self) -> None:
        if self._gathering or self._closing:
            return
        self._lists += 1
        self._peers = Peers(f"{self._epochs}-{self._lists}", tuple(self._listed.values()))
        text = serialise_message(self._peers)
        for worker in list(self._workers.values()):
            if worker.started:
                worker.send(text)

    async def _close(self, _app: web.Application) -> None:
        self._closing = True
        for timer in self._returning.values():
            timer.cancel()
        for worker in list(self._workers.values()):
            await worker.socket.close(code=WSCloseCode.GOING_AWAY, message=b"the controller is stopping")


async def _send(worker: _Worker) -> None:
    """Writes what is queued, until the worker is stopped."""
    try:
        while (message := await worker.outgoing.get()) is not None:
            if isinstance(message, str):
                await worker.socket.send_str(message)
                continue
            for part in whole(message):
                await worker.socket.send_str(serialise_message(part))
                await asyncio.sleep(0)  # `send_str` waits only for a peer that does not read
    finally:
        # Not a polite close: a worker that does not read would not answer it either.
        await worker.socket.close(code=WSCloseCode.TRY_AGAIN_LATER, drain=False)


def _parse(frame: object) -> Message:
    kind, data = getattr(frame, "type", None), getattr(frame, "data", None)
    if kind is not WSMsgType.TEXT or not isinstance(data, str):
        raise ContractError("a feed message is a text frame")
    return parse_message(data)


async def _refuse(socket: web.WebSocketResponse, reason: str) -> None:
    log.warning("feed connection closed: %s", reason)
    # A close reason has at most 123 bytes (RFC 6455, section 5.5).
    await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=reason.encode()[:123])
