"""The life of one request: the only place that knows the whole path. Read `Exchange` from top to bottom.

Theory of operation
-------------------
`start` matches the rule, draws a split and asks the activator for a lease. The warm path is synchronous from the last
byte of the client's head to the first byte sent to the endpoint: no task, no future. A cold or full revision, or an
endpoint without an idle connection, costs one task (`_seek`). From dispatch on everything is a callback: the downstream
connection feeds the request's content, the upstream connection the response, and each side's full write buffer pauses
the other side's reading, so a slow peer costs one buffer each way (64 KiB here, the kernel's beyond).

Content that arrives before there is an endpoint waits here, EARLY_LIMIT bytes at most, then the client's connection is
not read until there is one. The heads and contents of those that wait are at most `queue_bytes` for one revision and
`worker_queue_bytes` for all; the request that would pass that is refused, as one too many in the queue. Content is kept
in one piece however small the pieces in which it came, so that a byte counted is a byte of memory.

Retries happen only where the request cannot have run, or where running twice is the same as once. The endpoint took no
connection: `Lease.fail`, another lease, up to MAX_DIALS. An HTTP/2 endpoint said that it did not look at the request:
once more, on a new connection. Or a reused connection turned out to be closed, before any byte of a response: the same,
if the method is idempotent (RFC 9110 section 9.2.2). What was sent of the content is sent again, which for these two
cases is kept (`_replay`, REPLAY_LIMIT bytes at most; more, and there is no retry). Any other request may have run; so
that it seldom comes to this, the kernel is asked about a connection that was idle for a while before such a request, or
content, goes out on it (`_fresh`). Whatever the endpoint answers is passed on.

End of file from the client while its request waits for an endpoint counts as its leaving. Once there is an endpoint,
`100 Continue` is sent to find out (RFC 9110 section 15.2: a client must put up with any number of 1xx it did not ask
for; 100 and not 102, because Python's http.client takes every other for the final answer): a client that left answers
with a reset. When the response has begun, it asks by being sent.

A request that waited for a cold start says so in its response, and where the time went (`core.coldstart`). From then on
its exchange is of another class (`_Awakened`), so that no other request is even asked.

Every way out goes through `_end`: exactly once the lease is released, the load departs, the counters and the access
log are told, and the upstream connection goes back to the pool or is closed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING

from gateway.core.coldstart import FIELD_NAME, phases, response_lines
from gateway.core.fields import client_address, https_location, is_last_hop, may_switch, request_head, scheme
from gateway.core.heads import without
from gateway.core.http1 import ResponseHead
from gateway.errors import (
    GatewayError,
    NoRevision,
    QueueFull,
    StreamRefused,
    UpstreamConnectFailure,
    UpstreamProtocolError,
    UpstreamReset,
)
from gateway.net.tunnel import Tunnel
from gateway.net.upstream import Upstream

if TYPE_CHECKING:
    import asyncio

    from gateway.activator.activator import Lease
    from gateway.contract import Endpoint
    from gateway.core.http1 import RequestHead
    from gateway.core.routing import Destination
    from gateway.exchanges import Exchanges, Served
    from gateway.net.pool import Connections
    from gateway.net.sides import Responder
    from gateway.net.upstream2 import Stream

__all__ = ["Exchange"]

EARLY_LIMIT = 64 * 1024
REPLAY_LIMIT = 16 * 1024
REPLAY_PIECES = 256  # an object costs some fifty bytes, however small
MAX_DIALS = 3

_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
_CONTINUE = ResponseHead(100, b"Continue", True, b"\r\n", 0)
_CLIENT_LEFT = 0  # the status of a request whose client did not wait (nginx logs 499)


class Exchange:
    """One request and its response, between a downstream and an upstream connection."""

    __slots__ = (
        "_active_at",
        "_cold_start",
        "_dispatched_at",
        "_downstream",
        "_early",
        "_flag",
        "_head",
        "_lease",
        "_replay",
        "_replay_size",
        "_request_ended",
        "_request_id",
        "_resent",
        "_responded",
        "_sent",
        "_served",
        "_shared",
        "_started",
        "_status",
        "_task",
        "_trailers",
        "_tunnel",
        "_upstream",
        "_wire_head",
        "is_over",
    )

    def __init__(self, shared: Exchanges, downstream: Responder, head: RequestHead) -> None:
        self._shared = shared
        self._downstream = downstream
        self._head = head
        self._started = perf_counter()
        self._served: Served | None = None
        self._lease: Lease | None = None
        self._upstream: Upstream | Stream | None = None
        self._dispatched_at = inf
        self._task: asyncio.Task[None] | None = None
        self._tunnel: Tunnel | None = None
        self._early: bytearray | None = None
        self._replay: list[bytes] | None = None
        self._request_ended = not (head.chunked or head.content_length)
        self._resent = False
        self._responded = False
        self._status = _CLIENT_LEFT
        self._sent = 0
        self._flag = "-"
        self.is_over = False

    # --- the way there ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Route the request and send it if an endpoint is free. Raises GatewayError."""
        shared = self._shared
        head = self._head
        downstream = self._downstream
        self._request_id = request_id = head.request_id or next(shared.request_ids)
        rule = shared.routes.match(downstream.cluster_local, head)
        splits = rule.destinations
        random = shared.random
        destination = splits.only or splits.at(random() * 100)
        if head.others is not None:
            if head.others.get(b"k-network-probe") == b"probe":
                self._answer_probe(destination)
                return
            if is_last_hop(head):
                self._reply(200, "Max-Forwards is 0: this gateway answers, in place of the service behind it.")
                return
        if rule.redirect_port and self._is_redirected(rule.redirect_port):
            return
        revision = destination.revision
        served = shared.served.get(revision)
        if served is None:
            raise NoRevision(f"The route's revision {revision} is not known here (any more).")
        host = rule.rewrite_host or head.host or b""
        self._wire_head = request_head(head, host, destination.additions, downstream.peer, request_id)
        self._served = served
        traffic = served.traffic
        if traffic.arrive(self._started):
            shared.load.announce(traffic)
        lease = shared.activator.try_acquire(revision)
        if lease is not None:
            self._lease = lease
            connections = served.connections if head.others is None else self._connections(served)
            upstream = (
                connections.try_take(lease.endpoint)
                if self._request_ended and head.method in _IDEMPOTENT
                else self._fresh(connections, lease.endpoint)
            )
            if upstream is not None:
                self._dispatch(upstream)
                return
        self._seek_in_task()

    def _answer_probe(self, destination: Destination) -> None:
        """Knative's network probe: does this gateway have the rule? Echo its hash, ask no endpoint."""
        wanted = self._head.other(b"k-network-hash")
        if not wanted:
            self._reply(400, 'a probe request must contain a non-empty "K-Network-Hash" header')
            return
        known = destination.additions.value(b"k-network-hash") or wanted
        self._reply(200, "probe", b"k-network-hash: %b\r\n" % known)

    def _is_redirected(self, port: int) -> bool:
        """Send a request without TLS to https, if the host has a certificate: 301, as Knative's conformance asks."""
        head = self._head
        host = head.host or b""
        if scheme(head, self._downstream.peer) != b"http" or not self._shared.has_certificate(host):
            return False
        location = https_location(host, head.target, port)
        if location is None:
            return False
        self._reply(301, "This host is served over HTTPS.", b"location: %b\r\n" % location)
        return True

    def _seek_in_task(self) -> None:
        shared = self._shared
        self._task = shared.loop.create_task(self._seek(), name="exchange")
        shared.tasks.add(self._task)
        self._task.add_done_callback(shared.tasks.discard)

    async def _seek(self) -> None:
        """Find an endpoint that takes a connection, waiting for one as long as the activator says."""
        try:
            upstream = await self._connected()
            self._task = None
            self._dispatch(upstream)
        except GatewayError as error:
            self._task = None
            self._forget_early()
            self.fail(error)
        except Exception:  # noqa: BLE001 - as in `Exchanges.begin`
            self._task = None
            self._forget_early()
            self._shared.report_bug()
            self.fail(GatewayError("The gateway met an error of its own."))

    def _connections(self, served: Served) -> Connections:
        """Where this request's connection comes from. An upgrade is HTTP/1.1's own: an endpoint that speaks nothing but
        HTTP/2 can't take one, most that speak it take both."""
        return served.connections if self._head.upgrade is None else self._shared.http1

    async def _connected(self) -> Upstream | Stream:
        assert self._served is not None
        connections = self._connections(self._served)
        for attempt in range(1, MAX_DIALS + 1):
            if self._lease is None:
                self._lease = await self._leased()
            endpoint = self._lease.endpoint
            try:
                return self._fresh(connections, endpoint) or await connections.dial(endpoint)
            except UpstreamConnectFailure:
                self._lease.fail()
                self._lease.release()
                self._lease = None
                if attempt == MAX_DIALS:
                    raise
        raise AssertionError("the loop returns or raises")

    def _fresh(self, connections: Connections, endpoint: Endpoint) -> Upstream | Stream | None:
        """One that can be used at once, and none that the endpoint has closed, noticed or not. Servers close
        connections that are idle, so only those are looked at (one system call)."""
        upstream = connections.try_take(endpoint)
        while isinstance(upstream, Upstream) and upstream.is_stale(perf_counter()):
            upstream.close()
            upstream = connections.try_take(endpoint)
        return upstream

    async def _leased(self) -> Lease:
        assert self._served is not None
        traffic, revision, activator = self._served.traffic, self._served.revision.id, self._shared.activator
        size = len(self._wire_head)
        if not self._try_hold(size):
            raise self._queue_full(size)
        is_cold = activator.is_cold(revision)
        traffic.parked += 1
        try:
            lease = await activator.acquire(revision)
        finally:
            traffic.parked -= 1
            self._let_go(size)
        if is_cold:
            self._cold_start = b""
            self.__class__ = _Awakened
        return lease

    def _dispatch(self, upstream: Upstream | Stream) -> None:
        """The request has its connection: the clocks start, head and early content go out."""
        served = self._served
        assert served is not None
        if self._dispatched_at == inf:
            now = self._shared.loop.time()
            self._dispatched_at = self._active_at = now
            self._downstream.set_deadline(now + served.patience)
        self._upstream = upstream
        if self._early is not None:
            self._dispatch_early(upstream, self._early)
        elif self._request_ended:
            upstream.send(self, self._head, self._wire_head)
        else:
            upstream.send(self, self._head, self._wire_head, self._downstream.has_content)

    def _dispatch_early(self, upstream: Upstream | Stream, early: bytearray) -> None:
        """The head, and the content that came before there was a connection."""
        self._early = None
        self._let_go(len(early))
        upstream.send(self, self._head, self._wire_head, bool(early))
        self._downstream.resume()  # first, so that an endpoint that takes no more has the last word
        if self._request_ended:
            self.request_end(bytes(early), self._trailers)
        elif early:
            self.request_body(bytes(early))

    # --- the request's content ----------------------------------------------------------------------------------------

    def request_body(self, data: bytes) -> None:
        upstream = self._upstream
        if self._tunnel is not None or (upstream is not None and self._early is None):
            assert upstream is not None
            if not upstream.saw_response and self._may_repeat(upstream):
                self._remember(data)
            upstream.write(data)
            self._active()
            return
        if not self._try_hold(len(data)):
            self.fail(self._queue_full(len(data)))
            return
        if self._early is None:
            self._early = bytearray()
        self._early += data
        if len(self._early) > EARLY_LIMIT:
            self._downstream.wait()

    def _forget_early(self) -> None:
        if self._early is not None:
            self._let_go(len(self._early))
            self._early = None

    def _try_hold(self, size: int) -> bool:
        """Count so many bytes more as waiting here; False, and nothing counted, where that would pass a bound."""
        assert self._served is not None
        shared, traffic = self._shared, self._served.traffic
        worker, revision = shared.waiting_bytes + size, traffic.waiting_bytes + size
        if worker > shared.worker_queue_bytes or revision > shared.queue_bytes:
            return False
        shared.waiting_bytes, traffic.waiting_bytes = worker, revision
        return True

    def _let_go(self, size: int) -> None:
        assert self._served is not None
        self._shared.waiting_bytes -= size
        self._served.traffic.waiting_bytes -= size

    def _queue_full(self, size: int) -> QueueFull:
        """Why `_try_hold` said no."""
        assert self._served is not None
        shared = self._shared
        shared.activator.counters.queue_full += 1
        at_worker = shared.waiting_bytes + size > shared.worker_queue_bytes
        where = "at this gateway worker" if at_worker else f"for revision {self._served.revision.id}"
        return QueueFull(f"The requests that wait {where} have as many bytes as may wait.")

    def _may_repeat(self, upstream: Upstream | Stream) -> bool:
        """Whether it may come to sending the request again, should it be lost before a response: see the module."""
        return (upstream.is_reused and self._head.method in _IDEMPOTENT) or not isinstance(upstream, Upstream)

    def _remember(self, data: bytes) -> None:
        """Keep content that may have to be sent again."""
        if self._replay is None:
            self._replay, self._replay_size = [], 0
        if self._replay_size > REPLAY_LIMIT:
            return
        size = len(data)
        too_much = self._replay_size + size > REPLAY_LIMIT or len(self._replay) == REPLAY_PIECES
        if too_much or not self._try_hold(size):
            self._forget_replay()
            self._replay, self._replay_size = [], REPLAY_LIMIT + 1
        else:
            self._replay.append(data)
            self._replay_size += size

    def _forget_replay(self) -> None:
        if self._replay:
            self._let_go(self._replay_size)
        self._replay = None

    def request_end(self, content: bytes, trailers: list[bytes]) -> None:
        upstream = self._upstream
        if upstream is None:
            self._end_early(content, trailers)
            return
        self._request_ended = True
        self._trailers = trailers
        if content and not upstream.saw_response and self._may_repeat(upstream):
            self._remember(content)
        upstream.finish(content, trailers)
        self._active()

    def _end_early(self, content: bytes, trailers: list[bytes]) -> None:
        """The request is complete before there is a connection."""
        if content:
            self.request_body(content)
            if self.is_over:
                return  # there was no room for it
        elif self._early is None:
            self._early = bytearray()
        self._request_ended = True
        self._trailers = trailers

    def pause_request(self) -> None:
        self._downstream.pause()

    def resume_request(self) -> None:
        self._active()
        self._downstream.resume()

    # --- the response -------------------------------------------------------------------------------------------------

    def response_interim(self, head: ResponseHead) -> None:
        self._active()
        self._downstream.interim(head)

    def response_switch(self, head: ResponseHead) -> None:
        upstream = self._upstream
        if not isinstance(upstream, Upstream) or not may_switch(self._head.upgrade, head.upgrade):
            raise UpstreamProtocolError("The endpoint switched to a protocol that the request did not ask for.")
        if not self._request_ended:
            raise UpstreamProtocolError("The endpoint switched protocols in the middle of the request.")
        self._responded = True
        self._status = head.status
        self._tunnel = Tunnel(self._downstream, upstream)
        self._downstream.switch(head)

    def response_head(self, head: ResponseHead, *, has_body: bool, hold: bool) -> None:
        self._responded = True
        self._status = head.status
        self._downstream.respond(head, has_body=has_body, hold=hold)

    def response_whole(self, head: ResponseHead, data: bytes, start: int, reusable: bool) -> None:
        """The usual small response: all of it in one piece."""
        self._status = head.status
        self._sent = len(data) - start
        self._end(reusable and self._request_ended)
        self._downstream.respond_whole(head, data, start)

    def response_body(self, data: bytes) -> None:
        self._sent += len(data)
        self._downstream.write(data)
        self._active()

    def _active(self) -> None:
        """A byte went one way or the other."""
        if self._served is not None and self._served.watches_idle:
            self._active_at = self._shared.loop.time()

    def response_end(self, content: bytes, trailers: list[bytes], *, reusable: bool) -> None:
        self._sent += len(content)
        # The request must be complete too, or what follows on that connection would be taken for its content.
        self._end(reusable and self._request_ended)
        self._downstream.finish(content, trailers)

    def pause_response(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    def resume_response(self) -> None:
        self._active()
        if self._upstream is not None:
            self._upstream.resume()

    # --- what can go wrong --------------------------------------------------------------------------------------------

    def upstream_lost(self, error: GatewayError) -> None:
        """The endpoint's connection closed or sent nonsense before the response was complete."""
        upstream, self._upstream = self._upstream, None
        if self._tunnel is not None:
            self._end(False)
            self._downstream.close_tunnel()
        elif upstream is not None and self._may_send_again(upstream, error):
            self._seek_anew()
        else:
            self.fail(error)

    def _may_send_again(self, upstream: Upstream | Stream, error: GatewayError) -> bool:
        if self._resent or (self._replay is not None and self._replay_size > REPLAY_LIMIT):
            return False  # once is enough, and content that was sent is gone
        return isinstance(error, StreamRefused) or (
            isinstance(error, UpstreamReset)
            and upstream.is_reused
            and not upstream.saw_response
            and self._head.method in _IDEMPOTENT
        )

    def _seek_anew(self) -> None:
        """Send the request again, on a new connection to the same endpoint: other idle ones may be as dead."""
        self._resent = True
        if self._head.chunked or self._head.content_length:
            # The content changes hands, and counts on as waiting here.
            self._early, self._replay = bytearray(b"".join(self._replay or ())), None
        self._task = self._shared.loop.create_task(self._redial(), name="exchange-redial")
        self._shared.tasks.add(self._task)
        self._task.add_done_callback(self._shared.tasks.discard)

    async def _redial(self) -> None:
        assert self._lease is not None
        assert self._served is not None
        try:
            upstream = await self._connections(self._served).dial(self._lease.endpoint)
            self._task = None
            self._dispatch(upstream)
        except UpstreamConnectFailure:
            self._lease.fail()
            self._lease.release()
            self._lease = None
            await self._seek()
        except GatewayError as error:
            self._task = None
            self._forget_early()
            self.fail(error)

    def client_gone(self) -> None:
        """The client left: its place is free at once, and the endpoint learns of it."""
        if self.is_over:
            return
        if self._tunnel is not None:
            self._end_tunnel()  # what the client sent last, a WebSocket's close frame, still goes out
        else:
            self._flag = "DC"
            self._end(False)

    def client_ended(self) -> bool:
        if self._tunnel is not None:
            if self._tunnel.client_ended():
                self._end_tunnel()
        elif self._lease is None:
            return False
        elif not self._responded:
            self._downstream.interim(_CONTINUE)
        return True

    def endpoint_ended(self) -> None:
        if self._tunnel is not None and self._tunnel.endpoint_ended():
            self._end_tunnel()

    def _end_tunnel(self) -> None:
        tunnel = self._tunnel
        assert tunnel is not None
        self._upstream = None
        self._end(False)
        tunnel.close()

    def on_deadline(self, now: float) -> float:
        if self._served is None or self._dispatched_at == inf:
            return inf  # still waiting for an endpoint: the activator's time-out rules, and dispatch sets the clocks
        # Made only here: nearly every request is over before its first deadline.
        deadlines = self._served.deadlines(self._dispatched_at)
        deadlines.activity(self._active_at)
        if self._responded:
            deadlines.response_started()
        error = deadlines.on_deadline(now)
        if error is None:
            return deadlines.next_deadline()
        self.fail(error)
        return inf

    def fail(self, error: GatewayError) -> None:
        """End with an error: a local reply while the client has seen nothing, else a reset."""
        if self.is_over:
            return
        self._flag = error.response_flag
        self._shared.traffic.limit_refusals[error.limit] += 1
        if self._responded and not self._downstream.take_back():
            self._end(False)
            self._downstream.reset()
        else:
            self._reply(error.status, str(error), error.fields)

    def _reply(self, status: int, text: str, extra: bytes = b"") -> None:
        self._status = status
        self._shared.traffic.local_replies[self._flag] += 1
        self._end(False)
        self._downstream.reply(status, text, extra)

    def _end(self, reusable: bool) -> None:
        """Give back all that the request held. Exactly once. `reusable` is the connection to the endpoint.

        (Positional, as are the other calls of the warm path: CPython 3.11 inlines no call that has keywords.)
        """
        self.is_over = True
        shared = self._shared
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self._forget_early()
        if self._replay is not None:
            self._forget_replay()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            if reusable:
                shared.http1.give(upstream)  # type: ignore[arg-type]  # a Stream is never reusable
            else:
                upstream.close()
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()
        now = perf_counter()
        duration = now - self._started
        served = self._served
        if served is not None:
            served.traffic.end(now, self._status, duration)
        if shared.access_log.enabled:
            head = self._head
            peer = self._downstream.peer
            shared.access_log.add(
                self._started,
                duration,
                head,
                self._status,
                self._sent,
                b"" if served is None else served.name,
                b"" if lease is None else lease.address,
                self._flag,
                self._request_id,
                client_address(head, peer) if peer.is_trusted else peer.address,
                self._downstream.protocol if head.persistent else b"HTTP/1.0",
            )


class _Awakened(Exchange):
    """An exchange whose request has waited for a cold start. `_cold_start` is what its response says of it."""

    __slots__ = ()

    def _dispatch(self, upstream: Upstream | Stream) -> None:
        if self._dispatched_at == inf:
            self._measure()
        super()._dispatch(upstream)

    def _measure(self) -> None:
        lease = self._lease
        assert lease is not None
        now = perf_counter()
        offset = datetime.now(UTC).timestamp() - now
        parts = phases(self._started, lease.endpoint.milestones, lease.opened_at, now, offset=offset)
        self._shared.cold_starts.observe(parts)
        self._cold_start = response_lines(parts)

    def response_head(self, head: ResponseHead, *, has_body: bool, hold: bool) -> None:
        self._tell(head)
        super().response_head(head, has_body=has_body, hold=hold)

    def response_whole(self, head: ResponseHead, data: bytes, start: int, reusable: bool) -> None:
        self._tell(head)
        super().response_whole(head, data, start, reusable)

    def response_switch(self, head: ResponseHead) -> None:
        self._tell(head)
        super().response_switch(head)

    def _reply(self, status: int, text: str, extra: bytes = b"") -> None:
        super()._reply(status, text, extra + self._cold_start)

    def _tell(self, head: ResponseHead) -> None:
        """What the application says of cold starts goes: it can't know. On any other response it is the application's
        own field, as every other."""
        head.fields = without(head.fields, _COLD_START_FIELDS) + self._cold_start


_COLD_START_FIELDS = frozenset((FIELD_NAME,))
