"""What a connection that does nothing costs a gateway worker in resident memory.

    python load/memory.py                                   10,000 keep-alive connections, a GET on each, then idle
    python load/memory.py --kind tls --connections 2000     the same over TLS
    python load/memory.py --kind stuck --connections 500    clients that ask for 1 GiB and read nothing

Starts the gateway as `load/proxy.py` does, with one worker. A first batch of connections comes and goes, so that what
the worker keeps from any load is not counted; then the connections are opened, in equal parts from several loopback
addresses. The growth of the worker's resident memory, by connection, is the figure; the kernel's socket buffers are not
in it. The bar is 12 KiB for idle ones.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import socket
import ssl
import sys
import tempfile
from pathlib import Path

from matrix.peers import PEERS, open_bench
from matrix.processes import Processes, resident_bytes
from matrix.servers import host

ADDRESSES = 4
AT_ONCE = 200
WARM_UP = 500
SETTLED = 2.0  # until the worker has seen all, and its batch of log lines is written
BAR = 12 * 1024
PATHS = {"idle": "/", "tls": "/", "stuck": "/stream"}


class Client(asyncio.Protocol):
    """Asks once, and then stays; a stuck one does not even read."""

    def __init__(self, kind: str, asked: asyncio.Future[None]) -> None:
        self.kind = kind
        self.asked = asked
        self.got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        request = f"GET {PATHS[self.kind]} HTTP/1.1\r\nHost: {host('hello')}\r\nAccept: */*\r\n\r\n"
        transport.write(request.encode())
        if self.kind == "stuck":
            transport.pause_reading()
            self.asked.set_result(None)

    def data_received(self, data: bytes) -> None:
        self.got += data
        if self.got.endswith(b"hello world\n") and not self.asked.done():
            self.asked.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.asked.done():
            self.asked.set_exception(ConnectionError(f"the gateway closed a connection: {self.got!r}"))


async def open_one(kind: str, port: int, number: int) -> asyncio.BaseTransport:
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[None] = loop.create_future()
    sock = socket.socket()
    sock.setblocking(False)
    if kind == "stuck":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # or the kernel would read for it
    sock.bind((f"127.0.0.{1 + number % ADDRESSES}", 0))
    await loop.sock_connect(sock, ("127.0.0.1", port))
    tls = ssl._create_unverified_context() if kind == "tls" else None
    name = host("hello") if kind == "tls" else None
    transport, _ = await loop.create_connection(lambda: Client(kind, asked), sock=sock, ssl=tls, server_hostname=name)
    await asked
    return transport


async def open_many(kind: str, port: int, count: int) -> list[asyncio.BaseTransport]:
    opened: list[asyncio.BaseTransport] = []
    for first in range(0, count, AT_ONCE):
        batch = range(first, min(first + AT_ONCE, count))
        opened += await asyncio.gather(*(open_one(kind, port, number) for number in batch))
    return opened


async def measure(kind: str, ports: dict[str, int], pid: int, count: int) -> tuple[int, int]:
    """Resident bytes of the worker, before and with the connections."""
    for transport in await open_many("idle", ports["http"], WARM_UP):
        transport.close()
    await asyncio.sleep(SETTLED)
    before = resident_bytes(pid)
    opened = await open_many(kind, ports["tls" if kind == "tls" else "http"], count)
    await asyncio.sleep(SETTLED)
    after = resident_bytes(pid)
    lost = sum(transport.is_closing() for transport in opened)
    if lost:
        raise SystemExit(f"{lost} of {count} connections were lost")
    return before, after


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=PATHS, default="idle")
    parser.add_argument("--connections", type=int, default=10_000, metavar="N")
    arguments = parser.parse_args()
    count: int = arguments.connections
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < count + 200:
        raise SystemExit(f"{count} connections need more open files than the {hard} allowed.")
    gc.disable()
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        gateway = PEERS["gateway"](open_bench(Path(folder), processes, 0, 1))
        assert gateway is not None
        before, after = asyncio.run(measure(arguments.kind, gateway.ports, gateway.pids[0], count))
    each = (after - before) / count
    print(f"{count} connections, {arguments.kind}: from {before / 2**20:.1f} to {after / 2**20:.1f} MiB resident")
    print(f"{each / 1024:.2f} KiB for each")
    if arguments.kind != "idle":
        return 0
    print(f"The bar of {BAR // 1024} KiB is {'met' if each <= BAR else 'NOT MET'}.")
    return 0 if each <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
