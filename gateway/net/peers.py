"""The channels between the workers of one installation: lines over TCP, both ends known to each other.

Theory of operation
-------------------
Each worker listens on a port of the system's choice, which the controller tells to all others. It opens a channel of
its own to each of them and asks over it; answers come back on the same one. So what a borrower and an owner say to
each other keeps its order (`gateway.core.ownership` rests on that), and the two channels of a pair have nothing to do
with each other. A worker that connects a second time has lost its first channel, noticed here or not: that one ends.

Both ends show that they know the feed's token without sending it: each answers the other's random challenge with an
HMAC over both challenges and both names (SHA-256). Nobody can make a worker talk to a stranger, or take a channel for
another's. What then goes over it are names of revisions and addresses of pods, in the clear; a network on which
somebody could change it needs what it needs for the requests themselves.

A channel that ends is opened again after 10 ms doubling to 1 s. A process that dies closes its channels at once; a
machine that is gone is noticed by TCP, within some ten seconds. If a worker can't be reached for DEATH and the
controller is away, who else could say that it is gone, the ledger is told. Lines are collected for one turn of the
loop and written together.

Bounds: LINE_LIMIT bytes a line, 1 KiB before the other end is known, which it has HANDSHAKE seconds to become and
STRANGERS connections at a time; a peer that leaves more than PENDING bytes unread is cut off, and starts over.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, cast

import orjson

from gateway.core.peers import Grant, PeerError, Refuse, parse, serialise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.core.peers import Message

__all__ = ["Channels", "Receiver", "family_of"]

LINE_LIMIT = 4 * 2**20
"""A Hold of twenty thousand requests and as many that wait is 2 MB."""

PENDING = 4 * LINE_LIMIT
HANDSHAKE = 5.0
STRANGERS = 100
DEATH = 1.0

_STRANGERS_LINE = 1024
_BACKOFF_FIRST, _BACKOFF_LIMIT = 0.010, 1.0
_SILENT_AFTER, _SILENT_EVERY, _SILENT_TIMES = 5, 2, 3  # TCP keep-alive, in seconds
_NO_SUCH_OPTION = -1

_log = logging.getLogger(__name__)


class Receiver(Protocol):
    """Who is told; `gateway.core.ownership.Ledger`."""

    def on_reachable(self, name: str, /) -> None: ...

    def on_unreachable(self, name: str, /) -> None: ...

    def on_arrival(self, name: str, /) -> None: ...

    def on_departure(self, name: str, /) -> None: ...

    def on_message(self, name: str, message: Message, /) -> None: ...

    def on_death(self, name: str, /) -> None: ...


class _Lines(asyncio.Protocol):
    """One end of a channel. Lines go to `_step`, whose exceptions (PeerError) end the channel."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = self.loop.create_future()
        """Why the channel ended."""
        self._reason = "the connection was closed"
        self._transport: asyncio.Transport | None = None
        self._partial = b""
        self._limit = _STRANGERS_LINE
        self._outgoing: list[bytes] = []
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        _keep_alive(transport.get_extra_info("socket"))
        self._deadline = self.loop.call_later(HANDSHAKE, self.abort, f"no answer within {HANDSHAKE:g} s")

    def known(self) -> None:
        """The other end has shown who it is."""
        self._limit = LINE_LIMIT
        if self._deadline is not None:
            self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n") if self._partial else data.split(b"\n")
        try:
            for line in lines:
                self._check(line)
                if self._transport is not None:
                    self._step(line)
            self._check(self._partial)
        except PeerError as error:
            self.abort(str(error))

    def _check(self, line: bytes) -> None:
        if len(line) > self._limit:
            raise PeerError(f"a line of more than {self._limit} bytes")

    def _step(self, line: bytes) -> None:
        raise NotImplementedError

    def write(self, line: bytes) -> None:
        """Send a line with those of this turn of the loop."""
        if not self._outgoing:
            self.loop.call_soon(self._flush)
        self._outgoing.append(line)

    def _flush(self) -> None:
        lines, self._outgoing = self._outgoing, []
        if self._transport is None:
            return
        self._transport.write(b"".join(lines))
        if self._transport.get_write_buffer_size() > PENDING:
            self.abort("the other end does not read")

    def abort(self, reason: str) -> None:
        """End the channel now."""
        if self._transport is not None:
            self._reason = reason
            self._transport.abort()
            self._transport = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._deadline is not None:
            self._deadline.cancel()
        if not self.ended.done():
            self.ended.set_result(str(exc) if exc is not None else self._reason)


class _Asking(_Lines):
    """Our end of a channel that we opened to the worker `name`."""

    def __init__(self, channels: Channels, name: str) -> None:
        super().__init__(channels)
        self.name = name
        self.is_open = False
        self.was_open = False
        self._nonce = secrets.token_hex(16)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.write(_line("hello", self.channels.name, self.name, self._nonce))

    def _step(self, line: bytes) -> None:
        if self.is_open:
            self.channels.receiver.on_message(self.name, parse(line))
            return
        challenge, proof = _strings(line, "challenge", 2)
        names = (self.channels.name, self.name, self._nonce, challenge)
        if not hmac.compare_digest(proof.encode(), self.channels.proof("accepting", *names).encode()):
            raise PeerError("it does not know the feed's token, or is another worker")
        self.write(_line("proof", self.channels.proof("asking", *names)))
        self.known()
        self.is_open = self.was_open = True
        self.channels.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.is_open:
            self.is_open = False
            self.channels.lost(self)
        super().connection_lost(exc)


class _Answering(_Lines):
    """Our end of a channel that another worker opened. `name` is empty until it has shown that it is that."""

    def __init__(self, channels: Channels) -> None:
        super().__init__(channels)
        self.name = ""
        self._claim: tuple[str, str, str, str] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.channels.strangers.add(self)
        if len(self.channels.strangers) > STRANGERS:
            self.abort("too many connections at once")

    def _step(self, line: bytes) -> None:
        if self.name:
            self.channels.receiver.on_message(self.name, parse(line))
        elif self._claim is None:
            name, wanted, nonce = _strings(line, "hello", 3)
            self._claim = (name, wanted, nonce, secrets.token_hex(16))
            if wanted != self.channels.name:
                raise PeerError(f"it looks for worker {wanted}")
            self.write(_line("challenge", self._claim[3], self.channels.proof("accepting", *self._claim)))
        else:
            [proof] = _strings(line, "proof", 1)
            if not hmac.compare_digest(proof.encode(), self.channels.proof("asking", *self._claim).encode()):
                raise PeerError("it does not know the feed's token")
            self.known()
            self.channels.strangers.discard(self)
            self.name = self._claim[0]
            self.channels.arrived(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.channels.strangers.discard(self)
        if self.name:
            self.channels.departed(self)
        super().connection_lost(exc)


class Channels:
    """All channels of the worker `name`. To be made within the running loop; it listens on a port of `host` from then
    on, and answers when it runs. `token` is the feed's; `is_led` says whether the controller is there."""

    def __init__(self, name: str, token: str, host: str, is_led: Callable[[], bool]) -> None:
        self.name = name
        self._token = token.encode()
        self._is_led = is_led
        family = family_of(host)
        self._listener = socket.create_server((host, 0), family=family, backlog=256)
        port = self._listener.getsockname()[1]
        self.address = f"[{host}]:{port}" if family is socket.AF_INET6 else f"{host}:{port}"
        self.receiver: Receiver
        self.strangers: set[_Answering] = set()
        self._wanted: dict[str, str] = {}
        self._diallers: dict[str, asyncio.Task[None]] = {}
        self._asking: dict[str, _Asking] = {}
        self._answering: dict[str, _Answering] = {}

    @property
    def open(self) -> int:
        """Workers that can be asked."""
        return len(self._asking)

    async def run(self, receiver: Receiver) -> None:
        """Answer others, until cancelled."""
        self.receiver = receiver
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Answering(self), sock=self._listener)
        try:
            await loop.create_future()
        finally:
            server.close()
            diallers = list(self._diallers.values())
            for dialler in diallers:
                dialler.cancel()
            ends = [*self._asking.values(), *self._answering.values(), *self.strangers]
            for end in ends:
                end.abort("this worker ends")
            await asyncio.gather(*diallers, *(end.ended for end in ends), return_exceptions=True)

    def follow(self, workers: Mapping[str, str]) -> None:
        """Keep a channel to each of these workers, given by name and address, and to no other."""
        self._wanted = {name: address for name, address in workers.items() if name != self.name}
        for name in [name for name in self._diallers if name not in self._wanted]:
            self._diallers.pop(name).cancel()
        for name in self._wanted:
            if name not in self._diallers:
                dialling = self._dial_on(name)
                task = self._diallers[name] = asyncio.get_running_loop().create_task(dialling, name=f"peer {name}")
                task.add_done_callback(_must_be_cancelled)

    def send(self, name: str, message: Message) -> None:
        """An answer on the channel of the worker that asked, anything else on ours; where there is none it is void, as
        the channel that is opened next begins anew."""
        ends: Mapping[str, _Lines] = self._answering if isinstance(message, Grant | Refuse) else self._asking
        end = ends.get(name)
        if end is not None:
            end.write(serialise(message))

    def proof(self, role: str, *words: str) -> str:
        """What only somebody with the token can say of these words."""
        return hmac.new(self._token, "\n".join((role, *words)).encode(), "sha256").hexdigest()

    # --- what the channels tell ---------------------------------------------------------------------------------------

    def opened(self, end: _Asking) -> None:
        self._asking[end.name] = end
        self.receiver.on_reachable(end.name)

    def lost(self, end: _Asking) -> None:
        if self._asking.get(end.name) is end:
            del self._asking[end.name]
            self.receiver.on_unreachable(end.name)

    def arrived(self, end: _Answering) -> None:
        former = self._answering.get(end.name)
        if former is not None:
            self.departed(former)
            former.abort("the worker has connected again")
        self._answering[end.name] = end
        self.receiver.on_arrival(end.name)

    def departed(self, end: _Answering) -> None:
        if self._answering.get(end.name) is end:
            del self._answering[end.name]
            self.receiver.on_departure(end.name)

    # --- dialling -----------------------------------------------------------------------------------------------------

    async def _dial_on(self, name: str) -> None:
        """Keep a channel to the worker open, until cancelled."""
        loop = asyncio.get_running_loop()
        delay, since, told, reported = _BACKOFF_FIRST, loop.time(), False, False
        while True:
            address = self._wanted[name]
            was_open, fault = await self._try_dial(name, address)
            if was_open:
                delay, told, reported = _BACKOFF_FIRST, False, False
                since = loop.time()
            elif loop.time() - since >= DEATH:
                if not reported and not self._is_led():
                    reported = True
                    self.receiver.on_death(name)
                if not told:
                    told = True
                    _log.warning(
                        "worker %s can't be asked for places at %s: %s (--peer-host is where others reach a gateway)",
                        *(name, address, fault),
                    )
            await asyncio.sleep(delay)
            delay = min(2 * delay, _BACKOFF_LIMIT)

    async def _try_dial(self, name: str, address: str) -> tuple[bool, str]:
        """One channel from its start to its end: whether it was open, and why it ended."""
        host, _, port = address.rpartition(":")
        end = _Asking(self, name)
        try:
            async with asyncio.timeout(HANDSHAKE):
                await asyncio.get_running_loop().create_connection(lambda: end, host.strip("[]"), int(port))
            fault = await asyncio.shield(end.ended)
        except (OSError, TimeoutError, ValueError) as error:
            fault = str(error) or type(error).__name__
        finally:
            end.abort("it is not wanted any more")
        return end.was_open, fault


def family_of(host: str) -> socket.AddressFamily:
    """Of an IP address as text."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _line(*words: str) -> bytes:
    return orjson.dumps(words, option=orjson.OPT_APPEND_NEWLINE)


def _strings(line: bytes, kind: str, count: int) -> list[str]:
    """The words of a handshake's line, but for the first."""
    with suppress(ValueError):
        words = orjson.loads(line)
        if (
            isinstance(words, list)
            and len(words) == count + 1
            and words[0] == kind
            and all(isinstance(word, str) for word in words)
        ):
            return words[1:]
    raise PeerError(f"{line[:100]!r} in place of a {kind}")


def _keep_alive(sock: socket.socket) -> None:
    """Have TCP notice a machine that is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", _SILENT_AFTER),
        ("TCP_KEEPINTVL", _SILENT_EVERY),
        ("TCP_KEEPCNT", _SILENT_TIMES),
        ("TCP_USER_TIMEOUT", 1000 * (_SILENT_AFTER + _SILENT_EVERY * _SILENT_TIMES)),
    ):
        number = getattr(socket, option, _NO_SUCH_OPTION)
        if number != _NO_SUCH_OPTION:
            sock.setsockopt(socket.IPPROTO_TCP, number, value)


def _must_be_cancelled(task: asyncio.Task[None]) -> None:
    """It ends by cancellation only; anything else is our bug, and is told by the loop."""
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler({"message": "a channel's task failed", "exception": error})
