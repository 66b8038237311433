"""A gateway as users start it, with clients and endpoints that would bring it down: its memory and its manners."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import socket
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from tests.gateway_process import feed_of, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from pytest_aiohttp.plugin import AiohttpServer

    from tests.gateway_process import GatewayProcess

    Starter = Callable[[int], Awaitable["Gateway"]]

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
SIZE = 1024 * MIB
PIECE = b"x" * MIB
MOST = 150 * MIB


class Gateway:
    """One, with one worker."""

    def __init__(self, running: GatewayProcess) -> None:
        self.running = running
        self.port = running.port
        (self.worker,) = running.workers()

    def memory(self, name: str) -> int:
        """A figure of the worker's memory, in bytes; VmHWM is the most that was ever resident."""
        found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{self.worker}/status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)


@pytest.fixture
async def start(aiohttp_server: AiohttpServer, tmp_path: Path) -> AsyncIterator[Starter]:
    """Starts a gateway that sends requests for 127.0.0.1 to the endpoint at a port."""
    gateways: list[Gateway] = []
    options = ("--access-log", str(tmp_path / "access.log"), "--drain-grace", "1")
    async with AsyncExitStack() as stack:

        async def start_one(endpoint: int) -> Gateway:
            feed = await aiohttp_server(feed_of(endpoint, "127.0.0.1"))
            gateways.append(Gateway(await stack.enter_async_context(started(feed, tmp_path, *options))))
            return gateways[-1]

        yield start_one
    assert [one.running.process.returncode for one in gateways] == [0] * len(gateways)


# --- memory -----------------------------------------------------------------------------------------------------------


class Counter:
    """Bytes that a thread has moved."""

    def __init__(self) -> None:
        self.value = 0

    async def still(self) -> None:
        """Until no more are moved: all buffers on the way are full."""
        before, turns = -1, 0
        async with asyncio.timeout(30):
            while turns < 20:
                turns = turns + 1 if self.value == before else 0
                before = self.value
                await asyncio.sleep(0.01)


def head_of(peer: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += peer.recv(1)
    return head


def read_all(peer: socket.socket, size: int) -> int:
    """Read `size` bytes, or until the end; returns how many."""
    buffer = bytearray(MIB)
    total = 0
    while total < size and (count := peer.recv_into(buffer)):
        total += count
    return total


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


async def limited(start: Starter, listener: socket.socket) -> Gateway:
    """A gateway whose worker the kernel gives no more than MOST bytes of memory of its own."""
    gateway = await start(listener.getsockname()[1])
    resource.prlimit(gateway.worker, resource.RLIMIT_DATA, (MOST, MOST))
    return gateway


async def test_a_gibibyte_for_a_client_that_does_not_read_and_then_does(
    start: Starter, listener: socket.socket
) -> None:
    """It arrives whole, and what the client did not read stayed with the endpoint."""
    sent = Counter()

    def endpoint() -> None:
        with listener.accept()[0] as peer:
            head_of(peer)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
            while sent.value < SIZE:
                peer.sendall(PIECE)
                sent.value += MIB
            peer.recv(1)

    gateway = await limited(start, listener)
    before = gateway.memory("VmHWM")
    thread = threading.Thread(target=endpoint)
    thread.start()
    with gateway.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await asyncio.to_thread(head_of, client)
        await sent.still()
        assert sent.value < SIZE // 2
        slowly = sum(len(client.recv(4096)) for _ in range(100))
        assert await asyncio.to_thread(read_all, client, SIZE - slowly) == SIZE - slowly
    thread.join(30)
    assert gateway.memory("VmHWM") <= MOST
    assert gateway.memory("VmHWM") - before <= 16 * MIB


async def test_a_gibibyte_for_an_endpoint_that_does_not_read_and_then_does(
    start: Starter, listener: socket.socket
) -> None:
    """In chunks. It arrives whole, and what the endpoint did not read stayed with the client."""
    sent = Counter()
    go_on = threading.Event()
    received = []
    chunk = b"%x\r\n%b\r\n" % (len(PIECE), PIECE)

    def endpoint() -> None:
        with listener.accept()[0] as peer:
            assert b"transfer-encoding: chunked" in head_of(peer)
            go_on.wait(60)
            total, piece = 0, b""
            while not piece.endswith(b"0\r\n\r\n"):
                piece = peer.recv(MIB)
                total += len(piece)
            received.append(total)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            peer.recv(1)

    def client(peer: socket.socket) -> bytes:
        peer.sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        while sent.value < SIZE:
            peer.sendall(chunk)
            sent.value += MIB
        peer.sendall(b"0\r\n\r\n")
        return head_of(peer)

    gateway = await limited(start, listener)
    before = gateway.memory("VmHWM")
    thread = threading.Thread(target=endpoint)
    thread.start()
    with gateway.connect() as peer:
        answer = asyncio.ensure_future(asyncio.to_thread(client, peer))
        await sent.still()
        assert sent.value < SIZE // 2
        go_on.set()
        assert (await answer).startswith(b"HTTP/1.1 200 ")
    thread.join(30)
    assert SIZE < received[0] < SIZE + SIZE // 100
    assert gateway.memory("VmHWM") <= MOST
    assert gateway.memory("VmHWM") - before <= 16 * MIB


# --- slowhttptest -----------------------------------------------------------------------------------------------------

MODES = {
    "slow headers": ("-H", "-i", "1"),
    "slow body": ("-B", "-i", "1", "-s", "8192"),
    "range": ("-R",),
    "slow read": ("-X", "-w", "10", "-y", "20", "-n", "1", "-z", "5", "-k", "3"),
}


@pytest.fixture
def slowhttptest() -> str:
    for candidate in (os.environ.get("ZEROGATE_SLOWHTTPTEST"), shutil.which("slowhttptest")):
        if candidate and Path(candidate).exists():
            return candidate
    message = "slowhttptest is not installed: apt-get install slowhttptest, or set ZEROGATE_SLOWHTTPTEST"
    if os.environ.get("ZEROGATE_REQUIRE_PEERS") == "1":
        pytest.fail(message)
    pytest.skip(message)


async def test_slow_clients_do_not_stop_honest_ones(
    start: Starter, slowhttptest: str, aiohttp_server: AiohttpServer, tmp_path: Path
) -> None:
    """slowhttptest in its four modes at once, 400 connections each: every honest request meanwhile is answered, and its
    own probes say so too."""

    async def hello(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=b"x" * 200_000 if request.path == "/large" else b"hello")

    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", hello)
    endpoint = await aiohttp_server(application)
    gateway = await start(endpoint.port or 0)
    before = gateway.memory("VmHWM")
    url = f"http://127.0.0.1:{gateway.port}/"
    attackers = [
        await asyncio.create_subprocess_exec(
            *(slowhttptest, *options, "-c", "400", "-r", "200", "-l", "6", "-p", "5"),
            *("-u", url + ("large" if name == "slow read" else "")),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
        )
        for name, options in MODES.items()
    ]
    outputs = [asyncio.ensure_future(one.communicate()) for one in attackers]
    answers: list[int] = []
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), timeout=timeout) as session:
        while not all(one.done() for one in outputs):
            async with session.get(url) as response:
                assert await response.text() == "hello"
                answers.append(response.status)
            await asyncio.sleep(0.01)
    assert set(answers) == {200}
    for name, output in zip(MODES, outputs, strict=True):
        text = re.sub(r"\x1b\[[0-9;]*m", "", output.result()[0].decode())
        states = re.findall(r"service available:\s+(\w+)", text)
        assert set(states) == {"YES"}, (name, text[-2000:])
    assert gateway.memory("VmHWM") - before <= 100 * MIB
