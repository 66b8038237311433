"""Does `zerogate simulate` tell what `zerogate up` does? The same load on both, second by second.

    python load/simulation.py --minutes 60

Makes a trace (waves, bursts, idle minutes; exponential service times), runs it in real time against a service of a
`zerogate up` of its own, counts the service's pods every second, runs the same trace through the simulation, and
compares the two counts. The aim: within one pod of each other for 95 % of the seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from coldstart import Platform
from controller.apis import kinds, labels
from controller.apis.meta import is_deleting
from controller.kube.client import KubeClient
from controller.simulation.outcome import outcome
from controller.simulation.settings import parse_settings
from controller.simulation.world import Arrival, World

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "simulated"
SETTINGS = f"{NAME}:target=3,window=30s"
HEAD_START = 45.0
"""Seconds before the first request, in which the revision's first replica goes."""
MEAN_SERVICE = 0.3
APPLICATION = """
import os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(float(self.path[1:]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
ThreadingHTTPServer.request_queue_size = 1024
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def trace(minutes: float, seed: int) -> list[Arrival]:
    """A wave of ten minutes up to 20 requests a second, every seventh minute idle, a burst of 60 each fifth."""
    chance = random.Random(seed)
    found: list[Arrival] = []
    time = 0.0
    while time < minutes * 60:
        minute = int(time // 60)
        rate = 0.02 if minute % 7 == 6 else 0.5 + 20 * math.sin(math.pi * time / 600) ** 2
        time += chance.expovariate(rate)
        found.append(Arrival(time, chance.expovariate(1 / MEAN_SERVICE)))
    for minute in range(3, int(minutes), 5):
        found += [Arrival(minute * 60 + chance.random(), chance.expovariate(1 / MEAN_SERVICE)) for _ in range(60)]
    return sorted(Arrival(HEAD_START + time, seconds) for time, seconds in found if time < minutes * 60)


def service(annotations: dict[str, str]) -> str:
    container = {"image": NAME, "command": [sys.executable, "-S", "-c", APPLICATION]}
    annotated = {f"autoscaling.knative.dev/{key}": value for key, value in annotations.items()}
    return json.dumps(
        {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Service",
            "metadata": {"name": NAME, "namespace": "default"},
            "spec": {"template": {"metadata": {"annotations": annotated}, "spec": {"containers": [container]}}},
        }
    )


async def ask(port: int, seconds: float) -> bool:
    """One request on a connection of its own; whether it was answered with 200."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"GET /{seconds:.4f} HTTP/1.1\r\nHost: {NAME}.default.localhost\r\nConnection: close\r\n\r\n".encode()
        )
        answer = await reader.read()
        writer.close()
    except OSError:
        return False
    return answer.startswith(b"HTTP/1.1 200 ")


async def send(port: int, arrivals: Sequence[Arrival], began: float) -> int:
    """Send every request at its time; how many were not answered with 200."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for arrival in arrivals:
            await asyncio.sleep(began + arrival.time - loop.time())
            tasks.append(group.create_task(ask(port, arrival.seconds)))
    return sum(not task.result() for task in tasks)


async def count(kubeconfig: Path, began: float, seconds: int) -> list[int]:
    """The service's pods at each second."""
    loop = asyncio.get_running_loop()
    counts = []
    async with await KubeClient.from_kubeconfig(str(kubeconfig)) as kube:
        for second in range(seconds):
            await asyncio.sleep(began + second - loop.time())
            pods = await kube.list(kinds.POD, "default", label_selector=f"{labels.SERVICE}={NAME}")
            counts.append(sum(not is_deleting(pod) for pod in pods["items"]))
    return counts


async def reality(platform: Platform, folder: Path, arrivals: Sequence[Arrival], seconds: int) -> tuple[list[int], int]:
    began = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(send(platform.port, arrivals, began))
        counting = group.create_task(count(folder / "data" / "kubeconfig", began, seconds))
    return counting.result(), sending.result()


def simulated(arrivals: Sequence[Arrival], seconds: int, cold_start: float) -> tuple[list[int], World]:
    world = World(parse_settings(SETTINGS)[1], cold_start=lambda: cold_start)
    world.run(seconds, arrivals)
    counts, line = [], 0
    for second in range(seconds):
        while line + 1 < len(world.timeline) and world.timeline[line + 1].time <= second:
            line += 1
        counts.append(world.timeline[line].replicas)
    return counts, world


def report(real: Sequence[int], virtual: Sequence[int], failed: int, world: World) -> None:
    differences = [abs(one - other) for one, other in zip(real, virtual, strict=True)]
    equal, near = (sum(gap <= most for gap in differences) / len(differences) for most in (0, 1))
    result = outcome(world)
    print(f"{len(real)} seconds, {result.requests} requests, {failed} of them not answered with 200")
    print("| pods | most | pod-seconds |\n|---|---|---|")
    print(f"| zerogate up | {max(real)} | {sum(real)} |\n| simulated | {max(virtual)} | {sum(virtual)} |")
    print(f"\nequal in {equal:.1%} of the seconds, within one pod in {near:.1%}, furthest apart {max(differences)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cold-start", type=float, default=0.15, help="seconds, of the simulated pods")
    parser.add_argument("--port", type=int, default=18480)
    arguments = parser.parse_args()
    arrivals = trace(arguments.minutes, arguments.seed)
    seconds = int(HEAD_START + arguments.minutes * 60 + 60)
    virtual, world = simulated(arrivals, seconds, arguments.cold_start)
    with tempfile.TemporaryDirectory() as name, Platform(Path(name), arguments.port) as platform:
        platform.run("apply", "-f", "-", stdin=service(parse_settings(SETTINGS)[1].annotations))
        real, failed = uvloop.run(reality(platform, Path(name), arrivals, seconds))
    report(real, virtual, failed, world)


if __name__ == "__main__":
    main()
