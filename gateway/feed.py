"""One worker's subscription to the controller: snapshots come down, acknowledgements, Stats and pokes go up.

Theory of operation
-------------------
The feed connects, says Hello, gets the whole state and then a change at a time (see `gateway.contract`). What a whole
state changes in the one that is held, and each change, is handed to `on_update` with the snapshot it led to, and
acknowledged afterwards: an acknowledged version routes. Requests are served between the parts of a whole state. An
update that does not start from the state held here, or anything that is no message of the contract, ends the
connection, and the next one starts with the whole state again.

A lost controller is no outage. The last good snapshot goes on routing while the feed reconnects (50 ms doubling to
5 s, with jitter, so that workers don't come back in step). With a snapshot file it also survives a restart of this
process: if the controller can't be reached at the start, the file's snapshot is used. `ready` turns true with the
first snapshot from either. The file holds the messages of a whole state, one a line. It is written part by part too,
and takes a fiftieth of the worker's time at most: with ten thousand routes that is once in about ten seconds.

A wss feed is believed only with a certificate for the URL's host, from the CA in the file or one of the system's. They
are read for each connection, in a thread, so that a rotated CA needs no restart. Each reason for which connections fail
is logged once until one succeeds, of at most REASONS.

The list of the workers (`Peers`) goes to `on_peers` as it comes. It is not kept in the file: a list from before a
restart names processes that are gone. `leave` says up there that this worker drains, after each connect from then on.

What goes up is bounded by being the newest of its kind: one acknowledgement (a version includes those before), one
Stats (a second that a slow socket did not take is replaced by the next), one poke per revision. What is in flight at a
revision that shrinks is counted when it is sent, behind the acknowledgement, and so is never older than the version
acknowledged. Pokes go first, and a poke is never dropped while connected. Nothing is kept for later while disconnected;
instead, after each connect, every revision that requests wait for is poked.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from random import random
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import aiohttp

from gateway.contract import (
    RECONNECT_LIMIT,
    Ack,
    ContractError,
    Hello,
    InFlight,
    Leaving,
    Peers,
    Resync,
    RevisionId,
    Snapshot,
    Stat,
    Stats,
    Update,
    apply,
    parse_message,
    serialise_message,
    whole,
)
from gateway.net.tlscontext import UnusableCertificate, client_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from gateway.contract import Message

__all__ = ["Feed", "backoff"]

_BACKOFF_FIRST, _BACKOFF_LIMIT = 0.050, RECONNECT_LIMIT
_CONNECT_TIMEOUT = 10.0
REASONS = 10
# A peer that vanished without a FIN is noticed after 1.5 of these (aiohttp waits half of it for the pong).
_HEARTBEAT = 10.0
# One change of all of 10,000 routes and their revisions is 17 MB of JSON.
_MESSAGE_LIMIT = 256 * 1024 * 1024
# A rollout changes endpoints many times a second; the file needs only the last of them.
_SAVE_DELAY = 1.0
_SAVE_PAUSE = 50.0  # times as long as the loop worked for it

_log = logging.getLogger(__name__)


def backoff(failures: int, point: float) -> float:
    """Seconds to wait after the `failures`-th failure in a row; `point` in [0, 1) spreads it over the upper half."""
    ceiling = min(_BACKOFF_LIMIT, _BACKOFF_FIRST * 2.0 ** min(failures, 16))
    return ceiling * (0.5 + 0.5 * point)


class Loads(Protocol):
    """Who knows what is in flight where."""

    @property
    def shrinking(self) -> Collection[RevisionId]:
        """The revisions whose load is asked for."""

    def in_flight(self, revision: RevisionId) -> Mapping[str, int] | None:
        """The requests at each of its pods that has some; None for a revision that is not shrinking."""


class _Outbox:
    """What is to be sent: the newest of each kind."""

    __slots__ = ("_ack", "_due", "_in_flight", "_is_synced", "_leaving", "_pokes", "_stats", "filled")

    def __init__(self, in_flight: Callable[[RevisionId], Mapping[str, int] | None]) -> None:
        self._in_flight = in_flight
        self._is_synced = False
        self._leaving: Leaving | None = None
        self._ack: Ack | None = None
        self._pokes: dict[RevisionId, Stat] = {}
        self._stats: Stats | None = None
        self._due: set[RevisionId] = set()
        self.filled = asyncio.Event()

    @property
    def is_synced(self) -> bool:
        """Whether a state of this connection's controller was applied."""
        return self._is_synced

    def put(self, message: Ack | Stats | Leaving) -> None:
        if isinstance(message, Ack):
            self._ack = message
            self._is_synced = True
        elif isinstance(message, Leaving):
            self._leaving = message
        else:
            self._stats = message
        self.filled.set()

    def put_in_flight(self, revisions: Iterable[RevisionId]) -> None:
        """These are to be told. Before the first acknowledgement nothing is: the numbers would be those of a state that
        this controller does not know."""
        self._due.update(revisions)
        if self._due and self._is_synced:
            self.filled.set()

    def put_poke(self, stat: Stat) -> None:
        self._pokes.setdefault(stat.revision, stat)
        self.filled.set()

    def take(self) -> list[Message]:
        """Everything, pokes first."""
        messages: list[Message] = [Stats(tuple(self._pokes.values()))] if self._pokes else []
        messages += [message for message in (self._leaving, self._ack, self._stats) if message is not None]
        self._leaving, self._ack, self._pokes, self._stats = None, None, {}, None
        if self._due and self._is_synced:
            loads = {key: load for key in self._due if (load := self._in_flight(key)) is not None}
            messages += [InFlight(loads)] if loads else []
            self._due.clear()
        self.filled.clear()
        return messages


class Feed:
    """`url` is the whole address (`ws://127.0.0.1:9080/v1/feed`, or wss, http, https), `token` the bearer token.

    `on_update(update, snapshot)` must not block; it may refuse by ContractError, which ends the connection. `on_peers`
    gets each list of the workers, of which this one is `worker`, reached by the others at `address`. `waiting` names
    the revisions that requests wait for, `loads` what is in flight where revisions shrink. `snapshot_file` is read at a
    start without controller and kept up to date, readable by its owner only. `ca` is the file with the authorities that
    a server over TLS must have its certificate from, None for the system's.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        worker: str,
        address: str = "",
        on_update: Callable[[Update, Snapshot], None],
        on_peers: Callable[[Peers], None],
        waiting: Callable[[], Iterable[tuple[RevisionId, int]]],
        loads: Loads,
        snapshot_file: Path | None = None,
        ca: Path | None = None,
    ) -> None:
        self._url = url
        self._token = token
        self._hello = Hello(worker, address)
        self._leaving = False
        self._on_update = on_update
        self._on_peers = on_peers
        self._waiting = waiting
        self._loads = loads
        self._file = snapshot_file
        self._ca = ca
        self._outbox: _Outbox | None = None
        self._resync: Resync | None = None
        self._unsaved = asyncio.Event()
        self.snapshot = Snapshot()
        self.ready = False

    @property
    def connected(self) -> bool:
        """Whether messages go anywhere at the moment."""
        return self._outbox is not None

    def poke(self, stat: Stat) -> None:
        """Send the announcement of a first request at once. Dropped without connection: `waiting` makes up for it."""
        if self._outbox is not None:
            self._outbox.put_poke(stat)

    def report(self, stats: Stats) -> None:
        """Send the last second's numbers; they replace those of an earlier second that did not get out."""
        if self._outbox is not None:
            self._outbox.put(stats)
            self._outbox.put_in_flight(self._loads.shrinking)

    def report_in_flight(self, revision: RevisionId) -> None:
        """Tell at once what is in flight at a revision that shrinks."""
        if self._outbox is not None:
            self._outbox.put_in_flight((revision,))

    def leave(self) -> None:
        """Say that this worker drains."""
        self._leaving = True
        if self._outbox is not None:
            self._outbox.put(Leaving())

    async def run(self) -> None:
        """Follow the controller until cancelled."""
        # aiohttp's own total of five minutes would end the connection; the connect has its limit in `_follow`.
        forever = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(timeout=forever) as session, asyncio.TaskGroup() as group:
            if self._file is not None:
                group.create_task(self._save_changes(self._file), name="snapshot file")
            failures = 0
            told: set[str] = set()
            while True:
                held = self.snapshot
                fault = await self._try_follow(session)
                failures = 0 if self.snapshot is not held else failures + 1
                if failures == 0:
                    told.clear()
                # A controller that stays away is told once, not at each attempt; another reason is news.
                if fault not in told and len(told) < REASONS:
                    told.add(fault)
                    _log.warning("feed %s: %s", self._url, fault)
                if not self.ready and self._file is not None:
                    self._load(self._file)
                await asyncio.sleep(backoff(failures, random()))

    # --- connection ---------------------------------------------------------------------------------------------------

    async def _try_follow(self, session: aiohttp.ClientSession) -> str:
        """One connection from start to end; returns why it ended."""
        fault = "the controller closed the connection"
        try:
            await self._follow(session)
        except* (aiohttp.ClientError, OSError, TimeoutError, ContractError, UnusableCertificate) as group:
            fault = "; ".join(_reason(error, self._url) for error in group.exceptions)
        finally:
            self._outbox = None
        return fault

    async def _follow(self, session: aiohttp.ClientSession) -> None:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            tls = await self._tls()
            socket = await session.ws_connect(
                self._url,
                headers={"Authorization": f"Bearer {self._token}"},
                heartbeat=_HEARTBEAT,
                max_msg_size=_MESSAGE_LIMIT,
                ssl=tls,
            )
        async with socket, asyncio.TaskGroup() as group:
            await socket.send_str(serialise_message(self._hello))
            outbox = self._outbox = _Outbox(self._loads.in_flight)
            self._resync = None
            if self._leaving:
                outbox.put(Leaving())
            for revision, _count in self._waiting():
                outbox.put_poke(Stat(revision, 1.0, 0.0))
            sending = group.create_task(_send(socket, outbox), name="feed sender")
            async for frame in socket:
                self._receive(frame, outbox)
                if self._resync is not None:
                    await asyncio.sleep(0)  # the next part may be here already, and requests must not wait for them all
            sending.cancel()

    async def _tls(self) -> ssl.SSLContext | bool:
        """For aiohttp; True is what it takes where there is no TLS."""
        if self._url.startswith(("ws:", "http:")):
            return True
        return await asyncio.to_thread(client_context, self._ca)

    def _receive(self, frame: aiohttp.WSMessage, outbox: _Outbox) -> None:
        if frame.type is aiohttp.WSMsgType.ERROR:
            raise ContractError(f"the connection failed: {frame.data or 'no answer to a ping'}")
        if frame.type is not aiohttp.WSMsgType.TEXT:
            raise ContractError(f"a {frame.type.name} frame instead of text")
        message = parse_message(frame.data)
        if isinstance(message, Peers):
            self._on_peers(message)
            return
        if not isinstance(message, Update):
            raise ContractError(f"the controller sent a {type(message).__name__}, which only workers send")
        change = self._change(message)
        if change is not None:
            self._apply(change)
            self._unsaved.set()
            if not outbox.is_synced:  # all of them: those that did not change are news to this controller too
                outbox.put_in_flight(self._loads.shrinking)
            outbox.put(Ack(change.version))

    def _change(self, message: Update) -> Update | None:
        """What a message changes in the state that is held; None while a whole state is not complete."""
        if self._resync is None:
            if message.base != 0:
                return message
            self._resync = Resync(self.snapshot, message.version)
        self._resync.add(message)
        if message.more:
            return None
        change, self._resync = self._resync.change(), None
        return change

    def _apply(self, update: Update) -> None:
        snapshot = apply(self.snapshot, update)
        self._on_update(update, snapshot)
        # Only now: a state that the worker refused must not count as progress, or reconnecting would never back off.
        self.snapshot = snapshot
        self.ready = True

    # --- snapshot file ------------------------------------------------------------------------------------------------

    def _load(self, path: Path) -> None:
        try:
            update = _read_snapshot(path, self.snapshot)
            self._apply(update)
        except FileNotFoundError:
            return
        except (OSError, ContractError) as error:
            _log.warning("snapshot file %s is not used: %s", path, error)
            return
        _log.warning(
            "no controller; serving the snapshot of %s (version %d); until there is one each worker counts "
            "containerConcurrency by itself",
            *(path, update.version),
        )

    async def _save_changes(self, path: Path) -> None:
        try:
            while True:
                await self._unsaved.wait()
                await asyncio.sleep(_SAVE_DELAY)
                self._unsaved.clear()
                lines, worked = [], 0.0
                began = perf_counter()
                for line in _lines(self.snapshot):
                    lines.append(line)
                    worked += perf_counter() - began
                    await asyncio.sleep(0)
                    began = perf_counter()
                await asyncio.to_thread(_save, path, lines)
                await asyncio.sleep(_SAVE_PAUSE * worked)
        finally:
            if self._unsaved.is_set():
                _save(path, _lines(self.snapshot))


def _reason(error: BaseException, url: str) -> str:
    """What to tell a person about a connection to `url` that failed."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            why = getattr(error.certificate_error, "verify_message", "") or error.certificate_error
            return f"the controller's certificate is not accepted: {why}"
        case aiohttp.ClientConnectorSSLError():
            return f"no TLS with the controller; if its feed has no certificate, the URL begins with ws:// ({error})"
        case aiohttp.ServerDisconnectedError() if url.startswith(("ws:", "http:")):
            return "the controller closed the connection; if its feed has a certificate, the URL begins with wss://"
        case _:
            return str(error) or type(error).__name__


async def _send(socket: aiohttp.ClientWebSocketResponse, outbox: _Outbox) -> None:
    while True:
        await outbox.filled.wait()
        for message in outbox.take():
            await socket.send_str(serialise_message(message))


def _read_snapshot(path: Path, held: Snapshot) -> Update:
    """What the file's state changes in the one that is held."""
    resync, more = None, True
    with path.open("rb") as file:
        for line in file:
            part = parse_message(line)
            if not isinstance(part, Update):
                raise ContractError("it holds no snapshot")
            resync = resync or Resync(held, part.version)
            resync.add(part)
            more = part.more
    if resync is None or more:
        raise ContractError("it ends too early")
    return resync.change()


def _lines(snapshot: Snapshot) -> Iterator[bytes]:
    return (serialise_message(part).encode() + b"\n" for part in whole(snapshot))


def _save(path: Path, lines: Iterable[bytes]) -> None:
    """Replace the file in one step; it may hold private keys. A full disk costs the file, not the gateway."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)  # whoever else made it could read what is written to it
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        _log.warning("snapshot file %s can't be written: %s", path, error)
        with suppress(OSError):
            draft.unlink()
