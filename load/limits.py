"""Does a limit hold over several workers, and what does a place cost that another worker deals out?

    python load/limits.py                  a minute of load while workers die and are replaced and pods come and go
    python load/limits.py --cost           CPU time of the workers per request, with one worker and with two

The endpoints, the clients and the controller's end of the feed are in this process, so it sees both sides at once: how
many requests each endpoint has, who waits, and since when a place is free. Clients keep their connections, and a
request counts as waiting when its connection has been answered before: a new one may be in the queue of a worker that
is just starting again, which is another matter.

For each request that reaches an endpoint the place that it took had been free for some time; how long of that somebody
had waited is printed as its longest and its 99th percentile, beside the most requests that any endpoint ever had.

With --cost there are forty revisions, so that with two workers about half of the places are borrowed (a counter of the
gateway says how many); what a borrowed place costs on top of one's own is the difference over their share. One request
at a time on each of a few connections: each line between the workers is a packet of its own, the dearest case.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import sys
import tempfile
import urllib.request
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random
from statistics import median, quantiles
from time import perf_counter
from typing import TYPE_CHECKING, cast

import uvloop
from aiohttp import web

from controller.dataplane.compile import Delta
from controller.dataplane.server import FeedServer
from gateway.contract import FEED_PATH, Endpoint, Revision, RevisionId, RouteId, RouteRule, Split
from matrix.processes import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
_ANY = "127.0.0.1:0"


class Sight:
    """Who waits, and how long places lay free meanwhile."""

    def __init__(self) -> None:
        self.waiting: dict[int, float] = {}  # requests, in the order of their being sent
        self.idle: list[float] = []

    def taken(self, request: int, free_since: float) -> None:
        """A request has reached an endpoint."""
        oldest = next(iter(self.waiting.values()), None)
        if oldest is not None:
            self.idle.append(max(0.0, perf_counter() - max(free_since, oldest)))
        self.waiting.pop(request, None)


class Pod(asyncio.Protocol):
    """One endpoint; a new protocol object for each connection shares its `State`."""

    class State:
        def __init__(self, sight: Sight, seconds: float) -> None:
            self.sight, self.seconds = sight, seconds
            self.now = self.most = self.served = 0
            self.freed: list[float] = []  # since when each place is free
            self.port = 0

        def endpoint(self) -> Endpoint:
            return Endpoint("127.0.0.1", self.port, f"pod-{self.port}", ready=True)

        def offered(self, limit: int) -> None:
            """It takes requests from now on."""
            self.freed = [perf_counter()] * max(0, limit - self.now)

    def __init__(self, state: Pod.State) -> None:
        self.state = state
        self.answering: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        state = self.state
        state.now += 1
        state.most = max(state.most, state.now)
        state.sight.taken(int(data[5 : data.index(b" ", 5)]), state.freed.pop() if state.freed else perf_counter())
        if state.seconds:
            self.answering = asyncio.get_running_loop().call_later(state.seconds, self.answer)
        else:
            self.answer()

    def answer(self) -> None:
        self.over()
        self.state.served += 1
        self.transport.write(ANSWER)

    def over(self) -> None:
        self.answering = None
        self.state.now -= 1
        self.state.freed.append(perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answering is not None:
            self.answering.cancel()
            self.over()


class Client:
    """Asks one request after the other, on a connection that it keeps while it lasts."""

    def __init__(self, port: int, hosts: Sequence[str], sight: Sight, outcomes: Counter[str]) -> None:
        self.port, self.hosts, self.sight, self.outcomes = port, hosts, sight, outcomes
        self.going = True

    async def run(self, numbers: Random) -> None:
        while self.going:
            with suppress(ConnectionError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    await self._ask_on(reader, writer, numbers)
                finally:
                    writer.close()

    async def _ask_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, numbers: Random) -> None:
        is_accepted = False
        while self.going:
            number = numbers.getrandbits(48)
            if is_accepted:
                self.sight.waiting[number] = perf_counter()
            writer.write(f"GET /{number} HTTP/1.1\r\nHost: {numbers.choice(self.hosts)}\r\n\r\n".encode())
            try:
                async with asyncio.timeout(30):
                    head = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))  # type: ignore[index]
            except (ConnectionError, asyncio.IncompleteReadError):
                self.outcomes["connection lost"] += 1
                return
            except TimeoutError:
                self.outcomes["unanswered"] += 1
                return
            finally:
                self.sight.waiting.pop(number, None)
            self.outcomes[head[9:12].decode()] += 1
            is_accepted = True
            if b"onnection: close" in head:
                return


class Installation:
    """A controller, and a gateway of some workers."""

    def __init__(self, limit: int, services: int) -> None:
        self.limit = limit
        self.hosts = [f"s{number}.default.localhost" for number in range(services)]
        self.revisions = [RevisionId("default", f"s{number}-00001") for number in range(services)]
        self.server = FeedServer(
            "secret",
            on_stats=lambda *_: None,
            on_in_flight=lambda *_: None,
            on_carriers=lambda *_: None,
            on_disconnect=lambda _: None,
            on_programmed=lambda _: None,
        )
        self.port = self.admin = self.pid = 0

    def offer(self, pods: Sequence[Pod.State]) -> None:
        """These serve, each of them every service."""
        for pod in pods:
            pod.offered(self.limit)
        endpoints = tuple(pod.endpoint() for pod in pods)
        rules = {
            RouteId("default", host): (RouteRule(host, (Split(revision, 100),)),)
            for host, revision in zip(self.hosts, self.revisions, strict=True)
        }
        revisions = {
            one: Revision(one, container_concurrency=self.limit, endpoints=endpoints, probe=None)
            for one in self.revisions
        }
        self.server.publish(Delta(rules, revisions))

    @asynccontextmanager
    async def running(self, workers: int) -> AsyncIterator[None]:
        runner = web.AppRunner(self.server.app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        with tempfile.TemporaryDirectory() as folder:
            token = Path(folder) / "token"
            token.write_text("secret")
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", f"--feed=ws://127.0.0.1:{runner.addresses[0][1]}{FEED_PATH}"),
                *(f"--feed-token-file={token}", f"--workers={workers}", f"--listen={_ANY}"),
                *(f"--cluster-local-listen={_ANY}", f"--admin-listen={_ANY}", "--drain-grace=10"),
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                assert process.stdout is not None
                self.port, _, self.admin = (
                    int(port) for port in re.findall(rb":(\d+)", await process.stdout.readline())
                )
                self.pid = process.pid
                await self.listed(workers)
                yield
            finally:
                process.terminate()
                await process.wait()
                await runner.cleanup()

    async def listed(self, workers: int) -> None:
        """Wait until so many workers serve."""
        async with asyncio.timeout(60):
            while len(self.server.peers.workers) != workers:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def workers(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def counter(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as answer:
            found = re.search(rf"^zerogate_gateway_{name}(?:_total)? (\S+)", answer.read().decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0


@asynccontextmanager
async def pods_of(count: int, sight: Sight, seconds: float) -> AsyncIterator[list[Pod.State]]:
    async with AsyncExitStack() as stack:
        states = []
        for _ in range(count):
            state = Pod.State(sight, seconds)
            server = await asyncio.get_running_loop().create_server(lambda state=state: Pod(state), "127.0.0.1", 0)
            stack.callback(server.close)
            state.port = server.sockets[0].getsockname()[1]
            states.append(state)
        yield states


@asynccontextmanager
async def load(clients: Sequence[Client]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(client.run(Random(number))) for number, client in enumerate(clients)]
    try:
        yield
    finally:
        for client in clients:
            client.going = False
        await asyncio.gather(*tasks)


async def minute(limit: int, workers: int, seconds: float) -> None:
    """Something happens about every second."""
    sight, outcomes, happened = Sight(), Counter[str](), Counter[str]()
    random = Random(limit)
    installation = Installation(limit, 1)
    async with pods_of(4, sight, 0.02) as pods:
        installation.offer(pods[:2])
        async with installation.running(workers):
            clients = [Client(installation.port, installation.hosts, sight, outcomes) for _ in range(30)]
            async with load(clients):
                until = perf_counter() + seconds
                while perf_counter() < until:
                    await asyncio.sleep(1.0)
                    what = random.choice(["kill", "replace", "pods", "pods"])
                    happened[what] += 1
                    if what == "kill":
                        with suppress(ProcessLookupError):
                            os.kill(random.choice(installation.workers()), signal.SIGKILL)
                    elif what == "replace":
                        os.kill(installation.pid, signal.SIGHUP)
                    else:
                        installation.offer(random.sample(pods, random.randrange(1, 5)))
                await installation.listed(workers)
    most = max(pod.most for pod in pods)
    cuts = quantiles(sight.idle, n=1000)
    print(
        f"| {limit} | {workers} | {', '.join(f'{count} {name}' for name, count in happened.items())} | "
        f"{', '.join(f'{count} {name}' for name, count in outcomes.items())} | {most} | "
        f"{cuts[989] * 1e3:.1f} | {cuts[998] * 1e3:.1f} | {max(sight.idle) * 1e3:.1f} |",
        flush=True,
    )


async def cost(workers: int, seconds: float) -> tuple[float, float]:
    """CPU microseconds of the workers per request, and the share of requests whose place was borrowed."""
    sight, outcomes = Sight(), Counter[str]()
    installation = Installation(100, 40)
    async with pods_of(1, sight, 0.0) as pods:
        installation.offer(pods)
        async with installation.running(workers):
            clients = [Client(installation.port, installation.hosts, sight, outcomes) for _ in range(4 * workers)]
            async with load(clients):
                await asyncio.sleep(1.0)
                pids = installation.workers()
                before = cpu_seconds(pids), outcomes["200"], installation.counter("places_borrowed")
                await asyncio.sleep(seconds)
                after = cpu_seconds(pids), outcomes["200"], installation.counter("places_borrowed")
    requests = after[1] - before[1]
    return (after[0] - before[0]) / requests * 1e6, (after[2] - before[2]) / requests


async def costs(seconds: float, rounds: int) -> None:
    ones, twos, shares, borrowed = [], [], [], []
    for _ in range(rounds):
        one, _ = await cost(1, seconds)
        two, share = await cost(2, seconds)
        ones.append(one)
        twos.append(two)
        shares.append(share)
        borrowed.append((two - one) / share)
    print("| one worker, CPU µs/request | two workers | borrowed | a borrowed place, on top |")
    print("|--:|--:|--:|--:|")
    print(f"| {median(ones):.0f} | {median(twos):.0f} | {median(shares):.0%} | {median(borrowed):.0f} µs |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run; of each measurement with --cost")
    parser.add_argument("--limits", type=int, nargs="+", default=[1, 3], metavar="N", help="containerConcurrency")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--rounds", type=int, default=5, help="of --cost")
    arguments = parser.parse_args()
    print(f"Load average {os.getloadavg()[0]:.1f} at the start.\n")
    if arguments.cost:
        uvloop.run(costs(arguments.seconds, arguments.rounds))
        return
    print("| limit | workers | what happened | answers | most at an endpoint | free p99, ms | p99.9 | longest |")
    print("|--:|--:|---|---|--:|--:|--:|--:|")
    for limit in arguments.limits:
        uvloop.run(minute(limit, arguments.workers, arguments.seconds))


if __name__ == "__main__":
    main()
