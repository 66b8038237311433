"""What HTTP/2 costs by itself: a server's loop of small GETs over each library, and the gateway's client connection.

    python load/http2.py

No sockets and no other processes: bytes go in, bytes come out, CPU time is counted, and of interleaved rounds the best
counts, so a busy machine hurts little. The first table is what led to frames of our own around jh2's compiled HPACK.
The second is `net.downstream2` with an exchange that answers at once, and 14 fields as a browser has them: "new path"
has another path in each request, so that its fields are read each time; "same" asks for the same again.
"""

from __future__ import annotations

import argparse
import asyncio
from struct import Struct
from time import process_time
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events
import hpack
import jh2.config
import jh2.connection
import jh2.events

from gateway.config import Limits
from gateway.core.clients import ClientCounts
from gateway.core.fields import Peer
from gateway.core.frames import data_frame, headers_frames
from gateway.core.http1 import parse_response
from gateway.core.proxies import TrustedProxies
from gateway.core.traffic import WorkerTraffic
from gateway.net.downstream2 import Connection
from gateway.net.listener import Listener

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

REQUESTS, AT_ONCE = 4000, 4
START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\6\4\0\0\0\0\0\0\4\x3f\xff\xff\xff\0\0\4\x08\0\0\0\0\0\x3f\xff\0\0"
SMALL = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"hello.default.localhost")]
SMALL += [(b"user-agent", b"h2load nghttp2/1.52.0"), (b"accept", b"*/*")]
BROWSER = [
    *SMALL[:4],
    (b"sec-ch-ua", b'"Chromium";v="124", "Google Chrome";v="124", "Not-A.Brand";v="99"'),
    (b"sec-ch-ua-mobile", b"?0"),
    (b"sec-ch-ua-platform", b'"Linux"'),
    (b"upgrade-insecure-requests", b"1"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/124.0 Safari/537.36"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
    (b"sec-fetch-site", b"same-origin"),
    (b"sec-fetch-mode", b"navigate"),
    (b"sec-fetch-user", b"?1"),
    (b"sec-fetch-dest", b"document"),
    (b"referer", b"http://hello.default.localhost/list"),
    (b"accept-encoding", b"gzip, deflate, br"),
    (b"accept-language", b"en-US,en;q=0.9"),
    (b"cookie", b"session=0123456789abcdef0123456789abcdef"),
]
RESPONSE = [(b":status", b"200"), (b"content-type", b"text/plain"), (b"content-length", b"12")]
HEAD = parse_response(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\n")
CONTENT = b"hello world\n"


def batches(fields: list[tuple[bytes, bytes]], *, new_path: bool = False) -> list[bytes]:
    """What a client sends, a few requests in each piece. A new path is a literal that no table keeps, as nghttp2's."""
    encoder = hpack.Encoder()
    requests = []
    for number in range(REQUESTS):
        if new_path:
            path = b"/item/%d" % number
            block = encoder.encode(fields[:2]) + bytes((0x04, len(path))) + path + encoder.encode(fields[3:])
        else:
            block = encoder.encode(fields)
        requests.append(headers_frames(2 * number + 1, block, end=True))
    pieces = [b"".join(requests[start : start + AT_ONCE]) for start in range(0, REQUESTS, AT_ONCE)]
    return [START + pieces[0], *pieces[1:]]


def library(connection: Any, request: type[Any], pieces: list[bytes]) -> None:
    connection.initiate_connection()
    for piece in pieces:
        for event in connection.receive_data(piece):
            if isinstance(event, request):
                connection.send_headers(event.stream_id, RESPONSE)
                connection.send_data(event.stream_id, CONTENT, end_stream=True)
        connection.data_to_send()


def frames(decoder: Any, encoder: Any, response: list[Any], pieces: list[bytes]) -> None:
    """The least there is to do: cut, decode, encode, join."""
    head = Struct(">HBBBL").unpack_from
    for piece in pieces:
        out: list[bytes] = []
        position = 24 if piece.startswith(b"PRI") else 0
        while position < len(piece):
            high, low, kind, _, stream = head(piece, position)
            start, position = position + 9, position + 9 + (high << 8 | low)
            if kind == 1:
                decoder.decode(piece[start:position], True)
                out += (
                    headers_frames(stream, encoder.encode(response), end=False),
                    data_frame(stream, CONTENT, end=True),
                )
        b"".join(out)


class Transport:
    """Of a client that takes everything."""

    def write(self, data: bytes) -> None: ...


def ours(pieces: list[bytes]) -> None:
    assert HEAD is not None
    streams: list[Any] = []

    class Sink:
        def client_gone(self) -> None: ...

    def begin(stream: Any, _head: object) -> Any:
        streams.append(stream)
        return Sink()

    proxies = TrustedProxies(())
    listener = Listener(
        begin,
        lambda *_: None,
        cluster_local=False,
        limits=Limits(),
        clients=ClientCounts(0),
        traffic=WorkerTraffic(),
        proxies=proxies,
    )
    connection = Connection(listener, Transport(), Peer(b"127.0.0.1", b"http", proxies))  # type: ignore[arg-type]
    for piece in pieces:
        connection.data_received(piece)
        for stream in streams:
            stream.respond_whole(HEAD, CONTENT)
        streams.clear()
        connection._flush()


def best(rounds: int, runs: dict[str, Callable[[], None]]) -> None:
    """Print microseconds per request of each."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            before = process_time()
            run()
            found[name].append((process_time() - before) / REQUESTS * 1e6)
    print("\n| | CPU µs a request |\n|---|--:|")
    for name, values in found.items():
        print(f"| {name} | {min(values):.1f} |")


async def measure(rounds: int) -> None:
    small, same, new = batches(SMALL), batches(BROWSER), batches(BROWSER, new_path=True)
    with_flag = [(*field, False) for field in RESPONSE]

    def connection(library: Any) -> Any:
        settings = library.config.H2Configuration(client_side=False, header_encoding=None)
        return library.connection.H2Connection(settings)

    best(
        rounds,
        {
            "connection of h2": lambda: library(connection(h2), h2.events.RequestReceived, small),
            "connection of jh2": lambda: library(connection(jh2), jh2.events.RequestReceived, small),
            "own frames, hpack": lambda: frames(hpack.Decoder(), hpack.Encoder(), RESPONSE, small),
            "own frames, jh2's HPACK": lambda: frames(
                jh2.connection.Decoder(65536), jh2.connection.Encoder(), with_flag, small
            ),
        },
    )
    best(rounds, {"gateway, same": lambda: ours(same), "gateway, new path": lambda: ours(new)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    asyncio.run(measure(parser.parse_args().rounds))
