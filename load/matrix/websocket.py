"""A WebSocket client that costs little: many connections of one message in flight each, on uvloop.

    python -m matrix.websocket HOST PORT CONNECTIONS SECONDS

Every connection sends a binary message of PAYLOAD bytes, waits for the echo, and sends the next. Frames are made once
(RFC 6455, section 5.2; the masking key is zeros, which is legal and spares the masking). Prints one JSON object:
messages echoed, seconds, and the percentiles of the round trip in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter
from typing import cast

import uvloop

__all__ = ["ANSWER", "FRAME"]

PAYLOAD = 64
_BINARY = 0x82  # FIN, opcode 2
FRAME = bytes((_BINARY, 0x80 | PAYLOAD)) + bytes(4) + b"x" * PAYLOAD
ANSWER = bytes((_BINARY, PAYLOAD)) + b"x" * PAYLOAD


class _Client(asyncio.Protocol):
    def __init__(self, request: bytes, times: list[float]) -> None:
        self._request = request
        self._times = times
        self._received = 0
        self._head = b""
        self._open = False
        self.fault = ""
        self.done = False

    def itself(self) -> _Client:
        """The protocol factory of a client that exists already."""
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._open:
            self._head += data
            if b"\r\n\r\n" not in self._head:
                return
            if not self._head.startswith(b"HTTP/1.1 101 "):
                self.fault = self._head.decode("latin-1")
                return
            self._open = True
            self._send()
            return
        self._received += len(data)
        if self._received < len(ANSWER):
            return
        self._times.append(perf_counter() - self._sent)
        self._received = 0
        if not self.done:
            self._send()

    def _send(self) -> None:
        self._sent = perf_counter()
        self._transport.write(FRAME)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done:
            self.fault = self.fault or "the connection was closed"

    def close(self) -> None:
        self.done = True
        self._transport.close()


async def main() -> None:
    name, port, connections, seconds = sys.argv[1:]
    request = (
        f"GET /echo HTTP/1.1\r\nHost: {name}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    times: list[float] = []
    loop = asyncio.get_running_loop()
    clients = [_Client(request, times) for _ in range(int(connections))]
    for client in clients:
        await loop.create_connection(client.itself, "127.0.0.1", int(port))
    began = perf_counter()
    before = len(times)
    await asyncio.sleep(float(seconds))
    elapsed, count = perf_counter() - began, len(times) - before
    faults = [client.fault for client in clients if client.fault]
    for client in clients:
        client.close()
    ordered = sorted(times)
    p50, p99 = (ordered[int(share * (len(ordered) - 1))] * 1000 if ordered else 0.0 for share in (0.5, 0.99))
    print(json.dumps({"count": count, "seconds": elapsed, "p50": p50, "p99": p99, "faults": faults[:1]}))


if __name__ == "__main__":
    uvloop.run(main())
