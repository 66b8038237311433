"""Clients that give up: does a queue that they fill and leave, again and again, cost memory?

    python load/abandon.py                         200 requests/s that wait for 1 s, against two places, for two minutes
    python load/abandon.py --seconds 900           the same for the whole quarter of an hour

The failure that buffers without limits are known for: 200 requests a second from clients with a time-out of a second,
against one pod that takes two at a time and is slow. The queue of a proxy that goes on for clients who left grows until
memory is over, in a quarter of an hour.

Starts a `zerogate up` of its own with one service (containerConcurrency 2, max-scale 1) and such clients, each on a
connection of its own, every fourth with content. It prints, once in `--sample` seconds, how many requests are here and
how many of them wait (from /metrics), and the resident memory of the control process, of the gateway's parent and of
its worker; then the slope of each over the second half, by the request that is over. The first half is left out:
there the processes warm up (pools, arenas, the windows of the averages).

Why less than a quarter of an hour will do: what could be left behind is left by a request that was given up, no matter
when. All that waits is replaced every second, so in a minute the queue turns sixty times, and twelve thousand requests
come and go, sixty times as many as ever wait and six thousand for each place. What one of them leaves behind, times the
180,000 of the quarter of an hour, is the growth that there would be. The bar is 8 MiB, 47 bytes for each: less than any
object and a reference to it.

First in, first out means here that a request gets its place when its client is about to leave, so hardly any is
answered. Against that helps a queue time-out that leaves time for the work: see what `--queue-timeout 400ms` answers.

Also: how many of the requests that came to the application were of clients who had left by then, and how much later
they came; how soon after the last client left nothing was here any more.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import uvloop

from burst import APPLICATION
from coldstart import Platform, verdict
from controller.apis.labels import AUTOSCALING, QUEUE_TIMEOUT
from matrix.processes import children, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "abandon"
PLACES = 2
RATE, PATIENCE = 200, 1.0
WORK = 0.5
CONTENT = b"x" * 8192
WHOLE = 900 * RATE
"""The requests of a quarter of an hour."""
GROWTH_BAR = 8 * 2**20
LATE_BAR = 0.1
"""Seconds in which a closed connection is to be noticed: a turn of the worker's loop, and of the application's, on a
machine where others work too."""


class Sample(NamedTuple):
    """Requests that are over, given up or answered; what is here and waits; resident bytes of each process."""

    second: float
    over: int
    in_flight: int
    parked: int
    resident: tuple[int, ...]


@dataclass(slots=True)
class Clients:
    """What they have seen. `left`: when each that was not answered closed its connection, on the boot clock."""

    sent: int = 0
    answered: int = 0
    refused: int = 0
    left: dict[int, float] = field(default_factory=dict)

    @property
    def over(self) -> int:
        return self.answered + self.refused + len(self.left)


class Client(asyncio.Protocol):
    """One request, and a limit to its patience."""

    def __init__(self, number: int, clients: Clients) -> None:
        self._number = number
        self._clients = clients
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class, with the same methods
        self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._give_up)
        method, content = ("POST", CONTENT) if self._number % 4 == 0 else ("GET", b"")
        length = f"Content-Length: {len(content)}\r\n" if content else ""
        head = f"{method} /{self._number} HTTP/1.1\r\nHost: {NAME}.default.localhost\r\n{length}\r\n"
        self._transport.write(head.encode() + content)

    def _give_up(self) -> None:
        self._clients.left[self._number] = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._got += data
        if b"\r\n\r\n" in self._got:
            self._timer.cancel()
            self._clients.answered += self._got.startswith(b"HTTP/1.1 200 ")
            self._clients.refused += not self._got.startswith(b"HTTP/1.1 200 ")
            self._transport.abort()


def service(notes: Path, queue_timeout: str) -> dict[str, object]:
    annotations = {AUTOSCALING + "max-scale": "1", AUTOSCALING + "min-scale": "1"}
    if queue_timeout:
        annotations[QUEUE_TIMEOUT] = queue_timeout
    container = {"image": "sleeper", "command": [sys.executable, "-S", str(APPLICATION), str(WORK), str(notes)]}
    template = {
        "metadata": {"annotations": annotations},
        "spec": {"containerConcurrency": PLACES, "containers": [container]},
    }
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": "default"},
        "spec": {"template": template},
    }


async def send(port: int, count: int, clients: Clients) -> None:
    """`count` requests at RATE, and `PATIENCE` for the last."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(count):
        await asyncio.sleep(began + number / RATE - loop.time())
        clients.sent += 1
        await loop.create_connection(lambda number=number: Client(number, clients), "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.sleep(PATIENCE)


def gauges(port: int) -> tuple[int, int]:
    """Requests in flight and parked, by the gateway's /metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return tuple(  # type: ignore[return-value]
        sum(int(float(value)) for value in re.findall(rf"^zerogate_gateway_{name}{{.*}} (\S+)$", text, re.MULTILINE))
        for name in ("in_flight", "parked")
    )


async def watch(platform: Platform, pids: Sequence[int], every: float, clients: Clients, samples: list[Sample]) -> None:
    """Add samples, until cancelled."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        await asyncio.sleep(began + len(samples) * every - loop.time())
        in_flight, parked = await asyncio.to_thread(gauges, platform.port + 2)
        resident = tuple(resident_bytes(pid) for pid in pids)
        samples.append(Sample(loop.time() - began, clients.over, in_flight, parked, resident))


def processes(control: int) -> dict[str, int]:
    """The platform's own, by what they are."""
    gateway = next(pid for pid in children(control) if b"\0gateway\0" in Path(f"/proc/{pid}/cmdline").read_bytes())
    workers = children(gateway)
    return {"control process": control, "gateway's parent": gateway} | {f"worker {pid}": pid for pid in workers}


async def until_nothing_is_here(port: int) -> float:
    """Seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while await asyncio.to_thread(gauges, port) != (0, 0):
        if loop.time() - began > 30:
            raise SystemExit("after 30 s there are still requests of clients who left")
    return loop.time() - began


async def run(
    platform: Platform, pids: Sequence[int], seconds: int, every: float
) -> tuple[Clients, list[Sample], float]:
    """The clients, the samples, and how long it took after the last client until nothing was here."""
    clients = Clients()
    samples: list[Sample] = []
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch(platform, pids, every, clients, samples))
        await send(platform.port, seconds * RATE, clients)
        rest = await until_nothing_is_here(platform.port + 2)
        watching.cancel()
    return clients, samples, rest


def slope(samples: Sequence[Sample], process: int) -> float:
    """Bytes for each request that is over: least squares."""
    xs = [float(sample.over) for sample in samples]
    ys = [float(sample.resident[process]) for sample in samples]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def lateness(notes: Path, clients: Clients) -> list[float]:
    """How much later than their clients left requests came to the application, of those that did; and how many came."""
    came = (line.split() for line in notes.read_text().splitlines())
    arrivals = {int(target[1:]): float(moment) for target, moment in came if target != "listening"}
    gaps = (moment - clients.left[number] for number, moment in arrivals.items() if number in clients.left)
    return sorted(gap for gap in gaps if gap > 0)


def report(names: Sequence[str], samples: Sequence[Sample]) -> bool:
    """The tables. Whether memory is flat."""
    print("| second | over | in flight | parked |" + "".join(f" {name}, MiB |" for name in names))
    print("|--:|--:|--:|--:|" + "--:|" * len(names))
    for sample in samples:
        resident = "".join(f" {size / 2**20:.1f} |" for size in sample.resident)
        print(f"| {sample.second:.0f} | {sample.over} | {sample.in_flight} | {sample.parked} |{resident}")
    half = samples[len(samples) // 2 :]
    flat = True
    print(f"\n| process | first, MiB | last | most | bytes for each request | MiB for {WHOLE} |")
    print("|---|--:|--:|--:|--:|--:|")
    for number, name in enumerate(names):
        sizes = [sample.resident[number] / 2**20 for sample in samples]
        each = slope(half, number)
        flat = flat and each * WHOLE <= GROWTH_BAR
        cells = (sizes[0], sizes[-1], max(sizes), each, each * WHOLE / 2**20)
        print(f"| {name} | {' | '.join(f'{cell:.1f}' for cell in cells)} |")
    return flat


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=120, help="of load")
    parser.add_argument("--sample", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--queue-timeout", default="", metavar="DURATION", help="the revision's, below the patience")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="of the gateway")
    parser.add_argument("--port", type=int, default=18780)
    arguments = parser.parse_args()
    temporary = tempfile.TemporaryDirectory()
    platform = Platform(Path(temporary.name), arguments.port, "--workers", str(arguments.workers))
    with temporary, platform:
        notes = Path(temporary.name) / "notes"
        platform.apply([service(notes, arguments.queue_timeout)])
        found = processes(platform.pid)
        load = os.getloadavg()[0]
        running = run(platform, tuple(found.values()), arguments.seconds, arguments.sample)
        clients, samples, rest = uvloop.run(running)
        late = lateness(notes, clients)
        came = len(notes.read_text().splitlines()) - 1
    print(f"{RATE} requests/s, {PATIENCE:g} s of patience, {PLACES} places of {WORK:g} s; load average {load:.1f}\n")
    flat = report(list(found), samples)
    waited = max(sample.parked for sample in samples)
    print(
        f"\n{clients.sent} sent, {clients.answered} answered, {clients.refused} refused, {len(clients.left)} given up"
    )
    print(f"{waited} waited at most; nothing was here {1000 * rest:.0f} ms after the last client")
    latest = max(late, default=0.0)
    print(f"{came} came to the application, {len(late)} after their client left, {1000 * latest:.1f} ms at most")
    print(f"\nno more than {GROWTH_BAR // 2**20} MiB in {WHOLE} requests: {verdict(flat)}")
    in_time = latest <= LATE_BAR and waited <= 1.2 * RATE * PATIENCE
    print(f"who left is not waited or worked for, {1000 * LATE_BAR:.0f} ms: {verdict(in_time)}")
    return 0 if flat and in_time else 1


if __name__ == "__main__":
    sys.exit(main())
