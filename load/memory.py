"""What an idle keep-alive connection costs a gateway worker in resident memory.

    python load/memory.py                       10,000 connections, a GET on each, then idle
    python load/memory.py --connections 2000

Starts the gateway as `load/proxy.py` does, with one worker. A first batch of connections comes and goes, so that what
the worker keeps from any load is not counted; then the connections are opened, in equal parts from several loopback
addresses, each asks once, and all stay. The growth of the worker's resident memory, by connection, is the figure; the
kernel's socket buffers are not in it. The bar is 12 KiB.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import sys
import tempfile
from pathlib import Path

from matrix.peers import open_bench, start_gateway
from matrix.processes import Processes, resident_bytes
from matrix.servers import host

ADDRESSES = 4
AT_ONCE = 200
WARM_UP = 500
BAR = 12 * 1024
REQUEST = b"GET / HTTP/1.1\r\nHost: %b\r\nUser-Agent: memory\r\nAccept: */*\r\n\r\n" % host("hello").encode()


class Idle(asyncio.Protocol):
    """Asks once, and then stays."""

    def __init__(self, answered: asyncio.Future[None]) -> None:
        self.answered = answered
        self.got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(REQUEST)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.got += data
        if self.got.endswith(b"hello world\n") and not self.answered.done():
            self.answered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_exception(ConnectionError(f"the gateway closed a connection: {self.got!r}"))


async def open_one(port: int, number: int) -> asyncio.BaseTransport:
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[None] = loop.create_future()
    source = (f"127.0.0.{1 + number % ADDRESSES}", 0)
    transport, _ = await loop.create_connection(lambda: Idle(answered), "127.0.0.1", port, local_addr=source)
    await answered
    return transport


async def open_many(port: int, count: int) -> list[asyncio.BaseTransport]:
    opened: list[asyncio.BaseTransport] = []
    for first in range(0, count, AT_ONCE):
        opened += await asyncio.gather(*(open_one(port, n) for n in range(first, min(first + AT_ONCE, count))))
    return opened


async def measure(port: int, pid: int, count: int) -> tuple[int, int]:
    """Resident bytes of the worker, before and with the connections."""
    for transport in await open_many(port, WARM_UP):
        transport.close()
    await asyncio.sleep(2)  # until the worker has seen them go, and its batch of log lines is written
    before = resident_bytes(pid)
    opened = await open_many(port, count)
    await asyncio.sleep(2)
    after = resident_bytes(pid)
    lost = sum(transport.is_closing() for transport in opened)
    if lost:
        raise SystemExit(f"{lost} of {count} connections were lost")
    return before, after


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000, metavar="N")
    count = parser.parse_args().connections
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < count + 200:
        raise SystemExit(f"{count} connections need more open files than the {hard} allowed.")
    gc.disable()
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        gateway = start_gateway(open_bench(Path(folder), processes, 0, 1))
        before, after = asyncio.run(measure(gateway.ports["http"], gateway.pids[0], count))
    each = (after - before) / count
    print(f"{count} idle connections: worker {before / 2**20:.1f} MiB before, {after / 2**20:.1f} MiB with them")
    print(f"{each / 1024:.2f} KiB resident for each; at most {BAR / 1024:g}: {'met' if each <= BAR else 'NOT MET'}")
    return 0 if each <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
