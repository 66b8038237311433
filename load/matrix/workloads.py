"""What is asked of every peer, and what the gateway has to reach beside which peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from matrix import clients
from matrix.peers import GRPC_MESSAGE, SERVICES, STREAM_BYTES
from matrix.servers import host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from matrix.clients import Sample

__all__ = ["WORKLOADS", "Bar", "Client", "Workload"]

CONNECTIONS = 64

BROWSER_FIELDS = {
    "sec-ch-ua": '"Chromium";v="124", "Google Chrome";v="124", "Not-A.Brand";v="99"',
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": '"Linux"',
    "Upgrade-Insecure-Requests": "1",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0 Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-User": "?1",
    "Sec-Fetch-Dest": "document",
    "Referer": f"http://{host('hello')}/",
    "Accept-Encoding": "gzip, deflate, br",
    "Accept-Language": "en-US,en;q=0.9",
    "Cookie": "session=0123456789abcdef0123456789abcdef; theme=dark",
    "Cache-Control": "max-age=0",
}
_GRPC_FIELDS = {"content-type": "application/grpc", "te": "trailers", "user-agent": "grpc-c/40.0 (linux; chttp2)"}


class Client(NamedTuple):
    """Where a client runs and writes its files."""

    folder: Path
    core: int


class Bar(NamedTuple):
    """The `column` ("rate", "cpu", "p99") of `subject` divided by the peer's: at most `limit`; for a rate, at least."""

    column: str
    peer: str
    limit: float
    subject: str = "gateway"


@dataclass(frozen=True, slots=True)
class Workload:
    """`kind` says which of a peer's ports; `unit` what is counted; `measure(client, port, seconds)` makes the load."""

    title: str
    kind: str
    measure: Callable[[Client, int, int], Sample]
    unit: str = "request"
    bars: tuple[Bar, ...] = ()


def _request(path: str, fields: dict[str, str], body: bytes = b"") -> bytes:
    lines = [f"{'POST' if body else 'GET'} {path} HTTP/1.1", f"Host: {host('hello')}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def _http(
    title: str,
    path: str,
    fields: dict[str, str],
    *bars: Bar,
    body: bytes = b"",
    connections: int = CONNECTIONS,
    kind: str = "http",
) -> Workload:
    request = clients.lua_string(_request(path, fields, body))
    scheme = "https" if kind == "tls" else "http"

    def measure(client: Client, port: int, seconds: int) -> Sample:
        url = f"{scheme}://{host('hello')}:{port}/"
        return clients.wrk(client.folder, client.core, url, request, connections, seconds)

    return Workload(f"{title}, {connections} connections", kind, measure, bars=bars)


def _h2(title: str, kind: str, fields: dict[str, str], body: bytes, shape: str, *bars: Bar) -> Workload:
    def measure(client: Client, port: int, seconds: int) -> Sample:
        path = "/helloworld.Greeter/SayHello" if body else "/"
        url = f"http://127.0.0.1:{port}{path}"
        return clients.h2load(client.folder, client.core, url, SERVICES[kind], fields, body, shape, seconds)

    connections, streams = shape.split("x")
    return Workload(f"{title}, {connections} connections, {streams} streams each", kind, measure, bars=bars)


def _websocket(client: Client, port: int, seconds: int) -> Sample:
    return clients.websocket(client.core, port, SERVICES["websocket"], CONNECTIONS, seconds)


def _stream(client: Client, port: int, seconds: int) -> Sample:
    return clients.stream(client.core, port, SERVICES["stream"], STREAM_BYTES)


# Twice the rate on a core that is full; where client and backend are what is full, CPU time still shows it.
_HYPERCORN = (Bar("rate", "hypercorn", 2.0), Bar("cpu", "hypercorn", 0.5))

WORKLOADS = {
    "bare": _http("GET without fields", "/", {}, Bar("p99", "nginx", 2.0)),
    "fields": _http(
        "GET with 15 fields of a browser",
        "/",
        BROWSER_FIELDS,
        Bar("cpu", "nginx", 1.2),
        Bar("cpu", "envoy", 0.5),
        Bar("cpu", "nginx", 2.0, "gateway-pure"),
        Bar("p99", "nginx", 2.0),
    ),
    "10k": _http("GET with 15 fields, 10 KiB response", "/10k", BROWSER_FIELDS, Bar("rate", "nginx", 0.8)),
    "post": _http("POST of 1 KiB with 15 fields", "/", BROWSER_FIELDS, body=b"x" * 1024),
    "chunked": _http("GET with 15 fields, chunked response of 1 KiB", "/chunked", BROWSER_FIELDS),
    "1000": _http("GET with 15 fields", "/", BROWSER_FIELDS, connections=1000),
    "tls": _http("GET with 15 fields over TLS", "/", BROWSER_FIELDS, Bar("cpu", "nginx", 2.0), kind="tls"),
    "websocket": Workload(
        f"WebSocket echo of 64 bytes, {CONNECTIONS} connections", "websocket", _websocket, unit="message"
    ),
    "h2": _h2("HTTP/2 GET with 15 fields", "h2", BROWSER_FIELDS, b"", "16x4", *_HYPERCORN),
    "grpc": _h2("gRPC unary, 64 bytes each way", "grpc", _GRPC_FIELDS, GRPC_MESSAGE, "8x8", *_HYPERCORN),
    "stream": Workload(
        "1 GiB response, 1 connection", "stream", _stream, unit="MiB", bars=(Bar("rate", "nginx", 0.7),)
    ),
}
