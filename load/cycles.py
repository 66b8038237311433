"""Does anybody lose a request because replicas come and go? Constant load through scale-downs, rollouts and crashes.

    python load/cycles.py --scales 100 --rollouts 20 --crashes 20

Starts a `zerogate up` of its own with one service. Clients on connections of their own ask it without a pause: some for
POSTs of 50 to 800 ms, which no gateway may send twice, some for quick GETs. Meanwhile

- its scale goes from one replica to `--replicas` and back, each cycle,
- a new revision takes over and the old one goes to zero,
- a process is killed (SIGKILL) and its pod replaced.

The application ends at once at SIGTERM, in the middle of whatever it does, and notes each request that it reads. A
request fails if its answer is not a 200, or does not come. None may, but those that were sent to a process that was
killed then: it had read them, or they lay in its socket and nobody read them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import uvloop

from coldstart import Platform
from controller.apis import kinds, labels
from controller.apis.meta import Key, labels_of, name_of
from controller.apis.pods import is_active, is_ready
from controller.kube.client import KubeClient

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "cycled"
WORK = (0.05, 0.8)
"""Seconds of a POST, at least and at most."""
DWELL = 0.5
"""Seconds at the top of each cycle, so that every replica has requests when it is to go."""
PATIENCE = 120.0
WINDOW = 6
"""Seconds; the shortest stable window, so that an old revision goes soon."""
APPLICATION = """
import os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
notes = os.open("%s/%s.%d" % (sys.argv[1], os.environ["HOSTNAME"], os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_GET(self, seconds=0.0):
        os.write(notes, self.path[1:].encode() + b"\\n")
        time.sleep(seconds)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def do_POST(self):
        self.do_GET(float(self.rfile.read(int(self.headers["Content-Length"]))))
    def log_message(self, *_):
        pass
ThreadingHTTPServer.request_queue_size = 1024
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@dataclass(slots=True)
class Tally:
    """What became of the requests: by number, those that failed and how."""

    sent: int = 0
    longest: float = 0.0
    failed: dict[int, str] = field(default_factory=dict)
    stopping: bool = False


class Client:
    """One request after the other on one connection, which is made anew when it breaks."""

    def __init__(self, port: int, tally: Tally, chance: random.Random, *, works: bool) -> None:
        self._port, self._tally, self._chance, self._works = port, tally, chance, works
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        while not self._tally.stopping:
            self._tally.sent += 1
            number, began = self._tally.sent, perf_counter()
            try:
                async with asyncio.timeout(PATIENCE):
                    status = await self._ask(number)
            except (OSError, EOFError, TimeoutError) as error:
                status = repr(error)
            if status != "200":
                self._tally.failed[number] = status
                self._close()
                await asyncio.sleep(0.05)  # a service that refuses at once would be asked in a circle
            self._tally.longest = max(self._tally.longest, perf_counter() - began)
        self._close()

    async def _ask(self, number: int) -> str:
        """The status of the answer. Raises OSError and EOFError."""
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = f"/{number} HTTP/1.1\r\nHost: {NAME}.default.localhost\r\n"
        if self._works:
            content = f"{self._chance.uniform(*WORK):.3f}"
            self._writer.write(f"POST {head}Content-Length: {len(content)}\r\n\r\n{content}".encode())
        else:
            self._writer.write(f"GET {head}\r\n".encode())
            await asyncio.sleep(0.02)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        length = next(line for line in answer.lower().split("\r\n") if line.startswith("content-length:"))
        content = (await self._reader.readexactly(int(length.partition(":")[2]))).decode()
        status = answer.split(" ", 2)[1]
        return status if status == "200" else f"{status} {content.strip()}"

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class Service:
    """The service under load, and what is done to it."""

    def __init__(self, kube: KubeClient, notes: Path, limit: int) -> None:
        self._kube = kube
        self._limit = limit
        self._notes = notes
        self._edition = 0
        self.revision = ""
        self.killed: set[Path] = set()

    async def roll_out(self) -> None:
        """A new revision takes over; returns when the one before has no pod."""
        self._edition += 1
        manifest = self._manifest()
        if self._edition == 1:
            await self._kube.create(kinds.SERVICE, manifest)
        else:
            await self._kube.patch(kinds.SERVICE, Key("default", NAME), {"spec": manifest["spec"]})
        former = self.revision

        async def took_over() -> bool:
            status = (await self._kube.get(kinds.SERVICE, Key("default", NAME))).get("status") or {}
            self.revision = status.get("latestReadyRevisionName", "")
            traffic = [target.get("revisionName") for target in status.get("traffic") or ()]
            return self.revision not in ("", former) and traffic == [self.revision]

        await _until(took_over)
        if former:
            await _until(lambda: self._has(0, former))

    async def scale(self, replicas: int) -> None:
        """By min-scale and max-scale; returns when there are as many pods, all ready."""
        annotations = {f"autoscaling.knative.dev/{bound}-scale": str(replicas) for bound in ("min", "max")}
        await self._kube.patch(
            kinds.REVISION, Key("default", self.revision), {"metadata": {"annotations": annotations}}
        )
        await _until(lambda: self._has(replicas, self.revision))

    async def crash(self, replicas: int) -> None:
        """Kills one process and has its pod replaced, for its restart would be put off the longer the more often."""
        pods = [name_of(pod) for pod in await self._pods(self.revision) if is_ready(pod)]
        pod = random.choice(pods)
        note, process = self._process(pod)
        self.killed.add(note)
        os.kill(process, signal.SIGKILL)
        await self._kube.delete(kinds.POD, Key("default", pod))
        await _until(lambda: self._has(replicas, self.revision))

    def _process(self, pod: str) -> tuple[Path, int]:
        """What the pod's living process writes to, and its id; the names of pods come again."""
        for note in self._notes.glob(f"{pod}.*"):
            process = int(note.suffix[1:])
            if Path(f"/proc/{process}").exists():
                return note, process
        raise SystemExit(f"pod {pod} has no process")

    async def _has(self, replicas: int, revision: str) -> bool:
        pods = await self._pods(revision)
        return len(pods) == replicas and all(map(is_ready, pods))

    async def _pods(self, revision: str) -> list[dict[str, Any]]:
        pods = await self._kube.list(kinds.POD, "default", label_selector=f"{labels.REVISION}={revision}")
        return [pod for pod in pods["items"] if is_active(pod) and labels_of(pod)]

    def _manifest(self) -> dict[str, Any]:
        container = {
            "image": NAME,
            "command": [sys.executable, "-S", "-c", APPLICATION, str(self._notes)],
            "env": [{"name": "EDITION", "value": str(self._edition)}],
        }
        annotations = {"autoscaling.knative.dev/window": f"{WINDOW}s", "autoscaling.knative.dev/max-scale": "1"}
        return {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Service",
            "metadata": {"name": NAME, "namespace": "default"},
            "spec": {
                "template": {
                    "metadata": {"annotations": annotations},
                    "spec": {"containerConcurrency": self._limit, "containers": [container]},
                }
            },
        }

    def forget(self) -> None:
        """What was read and killed so far."""
        self.killed.clear()
        for path in self._notes.iterdir():
            path.write_text("")

    def readers(self) -> dict[int, set[Path]]:
        """Which processes read each request, by its number."""
        found: dict[int, set[Path]] = {}
        for path in self._notes.iterdir():
            for line in path.read_text().split():
                found.setdefault(int(line), set()).add(path)
        return found


def _hand(readers: set[Path], killed: set[Path]) -> str:
    """In whose hand a failed request was."""
    if readers - killed:
        return "read by another"
    return "read by a killed process" if readers else "read by nobody"


async def _until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - the condition is the state of the world
            await asyncio.sleep(0.05)


async def drive(arguments: argparse.Namespace, port: int, kubeconfig: Path, notes: Path) -> bool:
    """All that was asked for, with a line of results for each kind; whether nothing failed that must not."""
    chance = random.Random(arguments.seed)
    fine = True
    async with await KubeClient.from_kubeconfig(str(kubeconfig)) as kube:
        service = Service(kube, notes, arguments.limit)
        await service.roll_out()

        async def scales() -> None:
            await service.scale(arguments.replicas)
            await asyncio.sleep(DWELL)
            await service.scale(1)

        async def crashes() -> None:
            await service.crash(2)

        work = (("scales", scales), ("rollouts", service.roll_out), ("crashes", crashes))
        print("| under load | times | seconds each | requests | failed | longest |\n|---|---|---|---|---|---|")
        for kind, once in work:
            times = getattr(arguments, kind)
            if not times:
                continue
            if kind == "crashes":
                await service.scale(2)
            tally, took = Tally(), []
            service.forget()
            async with asyncio.TaskGroup() as group:
                for number in range(arguments.clients):
                    client = Client(port, tally, chance, works=number % 3 < 2)
                    group.create_task(client.run())
                with contextlib.suppress(TimeoutError):
                    for _ in range(times):
                        began = perf_counter()
                        await once()
                        took.append(perf_counter() - began)
                tally.stopping = True
            fine = _report(kind, times, took, tally, service) and fine
    return fine


def _report(kind: str, times: int, took: list[float], tally: Tally, service: Service) -> bool:
    each = sum(took) / len(took) if took else 0.0
    print(
        f"| {kind} | {len(took)} of {times} | {each:.1f} | {tally.sent:,} | {len(tally.failed)} | "
        f"{tally.longest:.2f} s |",
        flush=True,
    )
    readers = service.readers()
    hands = {number: _hand(readers.get(number, set()), service.killed) for number in tally.failed}
    for (hand, how), count in Counter((hands[number], how) for number, how in tally.failed.items()).most_common(20):
        print(f"  {count} {hand}: {how}")
    wrong = [number for number, hand in hands.items() if kind != "crashes" or hand == "read by another"]
    return not wrong and len(took) == times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", type=int, default=100, help="times up and down again")
    parser.add_argument("--rollouts", type=int, default=20)
    parser.add_argument("--crashes", type=int, default=20)
    parser.add_argument("--replicas", type=int, default=3, help="how far up")
    parser.add_argument("--clients", type=int, default=12, help="two thirds of them send POSTs")
    parser.add_argument("--workers", type=int, default=2, help="of the gateway")
    parser.add_argument("--limit", type=int, default=0, help="the service's containerConcurrency")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=18580)
    arguments = parser.parse_args()
    workers = ("--workers", str(arguments.workers))
    with tempfile.TemporaryDirectory() as name, Platform(Path(name), arguments.port, *workers) as platform:
        notes = Path(name) / "notes"
        notes.mkdir()
        fine = uvloop.run(drive(arguments, platform.port, Path(name) / "data" / "kubeconfig", notes))
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
