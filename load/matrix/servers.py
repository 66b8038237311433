"""The servers of the benchmark that are written in Python; each runs in a process of its own.

    python -m matrix.servers relay|aiohttp|feed|echo|grpc SETTINGS      (SETTINGS: a JSON object with the ports)

- `relay` copies bytes without looking at them: the floor for any proxy on uvloop. Its second port leads to the
  WebSocket backend.
- `aiohttp`: a reverse proxy as one writes it with aiohttp's client and server.
- `feed` stands for the controller: it tells a gateway its routes.
- `echo` is the WebSocket backend. It echoes what arrives in a tunnel, frames unread: it takes every frame to have one
  length, which `matrix.websocket` sends, with a masking key of zeros that needs no unmasking.
- `grpc` is the gRPC backend: it echoes each message with status 0, in one write for all that one read brought. It is
  made of the gateway's own frames, as nothing else here is as cheap: Debian's nghttpd gives 2,000 calls a second with
  64 streams, a tenth of what a proxy carries.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import ssl
import sys
from base64 import b64encode
from functools import partial
from hashlib import sha1
from pathlib import Path
from typing import Any, cast

import aiohttp
import uvloop
from aiohttp import web

from gateway.contract import (
    FEED_PATH,
    Certificate,
    CertificateId,
    Endpoint,
    Probe,
    Revision,
    RevisionId,
    RouteId,
    RouteRule,
    Split,
    Update,
    serialise_message,
)
from gateway.core.frames import (
    PREFACE,
    SETTINGS_ACK,
    FieldEncoder,
    FrameReader,
    Setting,
    data_frame,
    headers_frames,
    ping_frame,
    settings_frame,
    window_frame,
)
from gateway.core.http1 import MAX_FIELD_SECTION
from matrix.websocket import ANSWER, FRAME

__all__ = ["host"]

_BACKLOG = 4096
_WEBSOCKET_KEY = re.compile(rb"(?i)\r\nsec-websocket-key: *(\S+)")
_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


def host(service: str) -> str:
    """The host name of a service that the feed routes."""
    return f"{service}.default.localhost"


# --- relay ------------------------------------------------------------------------------------------------------------


class _Relay(asyncio.Protocol):
    """Copies bytes to the backend and back."""

    def __init__(self, backend: int) -> None:
        self._backend = backend
        self._other: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own class, with the same methods
        self._dialling = asyncio.ensure_future(self._dial())

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: _Back(self), "127.0.0.1", self._backend)
        self._other = transport
        for data in self._early:
            transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            self._early.append(data)
        else:
            self._other.write(data)

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._other is not None:
            self._other.close()


class _Back(asyncio.Protocol):
    def __init__(self, front: _Relay) -> None:
        self._write = front.transport.write
        self._close = front.transport.close

    def data_received(self, data: bytes) -> None:
        self._write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._close()


async def relay(settings: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    for port, backend in settings["ports"]:
        await loop.create_server(partial(_Relay, backend), "127.0.0.1", port, backlog=_BACKLOG)
    await asyncio.Event().wait()


# --- aiohttp ----------------------------------------------------------------------------------------------------------

_DROPPED = frozenset({"host", "connection", "transfer-encoding", "content-length"})


async def aiohttp_proxy(settings: dict[str, Any]) -> None:
    logging.disable()  # wrk leaves in the middle of requests, which aiohttp reports one by one
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
    target = f"http://127.0.0.1:{settings['backend']}"
    echo = f"http://127.0.0.1:{settings['echo']}"

    async def handle(request: web.Request) -> web.StreamResponse:
        fields = {name: value for name, value in request.headers.items() if name.lower() not in _DROPPED}
        fields["X-Forwarded-For"] = request.remote or ""
        body = request.content if request.can_read_body else None
        async with session.request(request.method, target + request.path_qs, headers=fields, data=body) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _DROPPED}
            response = web.StreamResponse(status=answer.status, headers=kept)
            response.content_length = answer.content_length
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    async def tunnel(request: web.Request) -> web.StreamResponse:
        front = web.WebSocketResponse(compress=False)
        await front.prepare(request)
        async with session.ws_connect(echo) as back:
            async for message in front:
                await back.send_bytes(message.data)
                await front.send_bytes(await back.receive_bytes())
        return front

    application = web.Application()
    application.router.add_route("GET", "/echo", tunnel)
    application.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", settings["http"], backlog=_BACKLOG).start()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings["certificate"], settings["key"])
    await web.TCPSite(runner, "127.0.0.1", settings["tls"], backlog=_BACKLOG, ssl_context=context).start()
    await asyncio.Event().wait()


# --- feed -------------------------------------------------------------------------------------------------------------


def _service(name: str, backend: int, protocol: str) -> tuple[RouteRule, list[Revision]]:
    """A host split 90/10 over two revisions that have the same endpoint, each with all three time-outs."""
    revisions = [
        Revision(
            RevisionId("default", f"{name}-0000{number}"),
            service=name,
            configuration=name,
            timeout=300.0,
            response_start_timeout=60.0,
            idle_timeout=120.0,
            protocol=protocol,
            probe=Probe(),
            endpoints=(Endpoint("127.0.0.1", backend, f"pod-{number}", ready=True),),
        )
        for number in (1, 2)
    ]
    marks = [(("knative-serving-revision", one.id.name), ("knative-serving-namespace", "default")) for one in revisions]
    splits = (Split(revisions[0].id, 90, marks[0]), Split(revisions[1].id, 10, marks[1]))
    return RouteRule(host(name), splits), revisions


def _certificate(settings: dict[str, Any]) -> Certificate:
    """One for all hosts."""
    chain, key = (Path(settings[name]).read_text() for name in ("certificate", "key"))
    hosts = tuple(host(name) for name, *_ in settings["services"])
    return Certificate(CertificateId("default", "all"), hosts, chain, key)


async def feed(settings: dict[str, Any]) -> None:
    routes: dict[RouteId, tuple[RouteRule, ...] | None] = {}
    revisions: dict[RevisionId, Revision | None] = {}
    for name, backend, protocol in settings["services"]:
        rule, both = _service(name, backend, protocol)
        routes[RouteId("default", name)] = (rule,)
        revisions |= {one.id: one for one in both}
    certificate = _certificate(settings)
    update = serialise_message(Update(0, 1, routes, revisions, {certificate.id: certificate}))

    async def follow(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        await websocket.receive()
        await websocket.send_str(update)
        async for _ in websocket:
            pass
        return websocket

    application = web.Application()
    application.router.add_get(FEED_PATH, follow)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", settings["port"]).start()
    await asyncio.Event().wait()


# --- echo -------------------------------------------------------------------------------------------------------------


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._received = b""
        self._upgraded = False

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._upgraded and not self._upgrade():
            return
        count = len(self._received) // len(FRAME)
        if count:
            self._received = self._received[count * len(FRAME) :]
            self._transport.write(ANSWER * count)

    def _upgrade(self) -> bool:
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return False
        self._received = rest
        key = _WEBSOCKET_KEY.search(head)
        if key is None:  # somebody asks whether this server is there
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            return False
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-accept: %b\r\n\r\n" % b64encode(sha1(key[1] + _WEBSOCKET_GUID).digest())
        )
        self._upgraded = True
        return True


async def echo(settings: dict[str, Any]) -> None:
    await asyncio.get_running_loop().create_server(_Echo, "127.0.0.1", settings["port"], backlog=_BACKLOG)
    await asyncio.Event().wait()


# --- gRPC -------------------------------------------------------------------------------------------------------------

_WINDOW = 2**30
# Without the table of fields, which nginx has none of (SETTINGS_HEADER_TABLE_SIZE 0).
_HEAD, _TRAILERS = (
    FieldEncoder().encode([(name, value, True) for name, value in fields])
    for fields in (((b":status", b"200"), (b"content-type", b"application/grpc")), ((b"grpc-status", b"0"),))
)


class _Greeter(asyncio.Protocol):
    """A FrameSink as well: what it is told by its reader becomes bytes in `_answer`, written after each read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._reader = FrameReader(MAX_FIELD_SECTION)
        self._preface = len(PREFACE)
        self._messages: dict[int, bytes] = {}
        self._answer: list[bytes] = []
        self._transport.write(settings_frame([(Setting.INITIAL_WINDOW_SIZE, _WINDOW)]) + window_frame(0, _WINDOW))

    def data_received(self, data: bytes) -> None:
        if self._preface:
            skipped = min(self._preface, len(data))
            self._preface -= skipped
            data = data[skipped:]
        self._reader.feed(data, self)
        if self._answer:
            self._transport.write(b"".join(self._answer))
            self._answer.clear()

    def headers(self, stream: int, fields: object, end: bool) -> None:
        self._messages[stream] = b""

    def data(self, stream: int, data: bytes, size: int, end: bool) -> None:
        self._messages[stream] += data
        if end:
            message = self._messages.pop(stream)
            self._answer += (
                headers_frames(stream, _HEAD, end=False),
                data_frame(stream, message, end=False),
                headers_frames(stream, _TRAILERS, end=True),
            )

    def settings(self, values: object) -> None:
        self._answer.append(SETTINGS_ACK)

    def ping(self, payload: bytes) -> None:
        self._answer.append(ping_frame(payload, acknowledges=True))

    def reset(self, stream: int, code: int) -> None:
        self._messages.pop(stream, None)

    def _nothing(self, *_: object) -> None:
        pass

    settings_acknowledged = pong = goaway = window = _nothing


async def grpc(settings: dict[str, Any]) -> None:
    await asyncio.get_running_loop().create_server(_Greeter, "127.0.0.1", settings["port"], backlog=_BACKLOG)
    await asyncio.Event().wait()


def main() -> None:
    name, settings = sys.argv[1:]
    serve = {"relay": relay, "aiohttp": aiohttp_proxy, "feed": feed, "echo": echo, "grpc": grpc}[name]
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(json.loads(settings)))


if __name__ == "__main__":
    main()
