"""What a request costs inside the worker: the whole warm path of a keep-alive GET, without sockets.

    python load/hotpath.py                      microseconds per request
    valgrind --tool=callgrind --callgrind-out-file=FILE python load/hotpath.py --once --requests 5000
    python load/hotpath.py --instructions       instructions per request, by valgrind; the same on a busy machine
    python load/hotpath.py --profile            where the time goes, by cProfile

A real worker's objects, from `data_received` with a browser's request to `write` of the response to the client, with
routing, a 90/10 split, statistics, deadlines, limits and the access log (to /dev/null). Transports are a class of this
file that only counts: what the system calls and the event loop cost is what `proxy.py` shows beside a raw relay.

ZEROGATE_PURE_PYTHON=1 measures the codec's Python twin.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import uvloop

from gateway.config import Address, GatewayConfig
from gateway.contract import Endpoint, Revision, RevisionId, RouteId, RouteRule, Snapshot, Split, Update, apply
from gateway.core.http1 import CODEC
from gateway.net.upstream import Upstream
from gateway.worker import Worker

HOST = "hello.default.localhost"
BARE = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 12\r\nConnection: keep-alive\r\n\r\nhello world\n"
)


def browser_request() -> bytes:
    sys.path.insert(0, str(Path(__file__).parent))
    from matrix.workloads import BROWSER_FIELDS

    lines = [f"{name}: {value}\r\n" for name, value in BROWSER_FIELDS.items()]
    return BARE[:-2] + "".join(lines).encode() + b"\r\n"


class Wire(asyncio.Transport):
    """Counts what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def abort(self) -> None:
        raise AssertionError("a connection was aborted")

    close = abort


def start(worker: Worker) -> None:
    """Tell the worker of one host, split 90/10 over two revisions that are ready."""
    revisions = [
        Revision(
            RevisionId("default", f"hello-0000{number}"),
            service="hello",
            configuration="hello",
            probe=None,
            endpoints=(Endpoint("127.0.0.1", 9000 + number, f"pod-{number}", ready=True),),
        )
        for number in (1, 2)
    ]
    marks = [(("knative-serving-revision", one.id.name), ("knative-serving-namespace", "default")) for one in revisions]
    rule = RouteRule(HOST, (Split(revisions[0].id, 90, marks[0]), Split(revisions[1].id, 10, marks[1])))
    update = Update(0, 1, {RouteId("default", "hello"): (rule,)}, {one.id: one for one in revisions})
    worker._on_update(update, apply(Snapshot(), update))


async def measure(request: bytes, requests: int, profile: cProfile.Profile | None) -> float:
    """Seconds for that many requests."""
    unused = Address("127.0.0.1", 0)
    config = GatewayConfig("ws://127.0.0.1:1", Path("/dev/null"), unused, unused, unused, access_log="/dev/null")
    worker = Worker(config, 0, "")
    start(worker)
    pool = worker.exchanges.http1
    endpoints = [one.revision.endpoints[0] for one in worker.exchanges.served.values()]
    for endpoint in endpoints:
        upstream = Upstream(endpoint.key, pool)
        upstream.connection_made(Wire())
        pool.give(upstream)
    idle = pool._plan._idle
    downstream = worker.external.protocol()
    wire = Wire()
    downstream.connection_made(wire)
    ups = [next(iter(idle[endpoint.key])) for endpoint in endpoints]
    wires = [cast("Wire", one._transport) for one in ups]
    for one in (*wires, wire):
        one.writes = 0
    if profile is not None:
        profile.enable()
    started = perf_counter()
    for _ in range(requests):
        downstream.data_received(request)
        first = wires[0].writes
        ups[0 if first else 1].data_received(RESPONSE)
        wires[0].writes = 0
    seconds = perf_counter() - started
    if profile is not None:
        profile.disable()
    if wire.writes != requests:
        raise SystemExit(f"{requests} requests got {wire.writes} responses")
    return seconds


def instructions(arguments: list[str]) -> int:
    """That valgrind counts for a run of this file."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", sys.executable, __file__]
        said = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True).stderr
    match = re.search(r"Collected : (\d+)", said)
    if match is None:
        raise SystemExit(f"valgrind said something unexpected:\n{said}")
    return int(match.group(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--bare", action="store_true", help="without the 15 fields of a browser")
    parser.add_argument("--once", action="store_true", help="one turn instead of the best of five")
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    request = BARE if arguments.bare else browser_request()
    if arguments.instructions:
        bare = ["--bare"] if arguments.bare else []
        few, many = (instructions([*bare, "--once", "--requests", str(count)]) for count in (1_000, 5_000))
        print(f"{CODEC.name} codec: {(many - few) / 4_000:.0f} instructions a request")
    elif arguments.profile:
        profile = cProfile.Profile()
        uvloop.run(measure(request, arguments.requests, profile))
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
    else:
        turns = 1 if arguments.once else 5
        best = min(uvloop.run(measure(request, arguments.requests, None)) for _ in range(turns))
        print(f"{CODEC.name} codec: {best / arguments.requests * 1e6:.2f} µs a request, best of {turns}")


if __name__ == "__main__":
    main()
