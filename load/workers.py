"""Do two workers carry twice what one carries?

    python load/workers.py

On a machine with two cores nothing is left for client and backend while two workers use both, so it can't be shown by
filling them. Instead each worker gets the same load, far below what it could carry, from h2load at a fixed rate; worker
`i` is pinned to core `i`. What a worker could carry is one core's time divided by its CPU time per request (user and
system, from /proc). If the workers took turns at something they share, or took the caches from each other, the CPU time
per request would rise with their number. The kernel spreads connections over the workers' sockets by a hash
(SO_REUSEPORT), never quite evenly, and the busiest worker is full first: together they carry one core's time divided by
the CPU time per request and by the busiest one's share.

What this can't show: memory bandwidth, and locks of the kernel that only several full cores contend for. Cores that are
not idle enough (see the column) say nothing at all.

Needs Debian's nginx and nghttp2-client.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

from matrix import clients
from matrix.peers import Bench, Peer, open_bench, start_gateway
from matrix.processes import Processes, cpu_seconds, two_cores
from matrix.workloads import BROWSER_FIELDS


class Round(NamedTuple):
    """Answers a second, CPU microseconds per request, the busiest worker's share of the workers' CPU time, and the part
    of all cores' time that was left."""

    rate: float
    cpu: float
    busiest: float
    idle: float

    @property
    def capacity(self) -> float:
        """Requests a second that the workers could carry, each with a core of its own."""
        return 1e6 / self.cpu / self.busiest


def idle_and_all() -> tuple[int, int]:
    """Clock ticks of all cores since the machine's start."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def measure(bench: Bench, gateway: Peer, connections: int, rate: int, seconds: int) -> Round:
    """`rate` is of each worker."""
    before, idle = [cpu_seconds((pid,)) for pid in gateway.pids], idle_and_all()
    sample = clients.steady(
        bench.folder,
        bench.other_core,
        f"http://127.0.0.1:{gateway.ports['http']}/",
        "hello",
        BROWSER_FIELDS,
        connections=connections,
        rate=rate * len(gateway.pids),
        seconds=seconds,
    )
    used = [cpu_seconds((pid,)) - past for pid, past in zip(gateway.pids, before, strict=True)]
    left = [now - past for now, past in zip(idle_and_all(), idle, strict=True)]
    bench.truncate_logs()
    return Round(
        sample.units / sample.seconds, sum(used) / sample.units * 1e6, max(used) / sum(used), left[0] / left[1]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="to compare with one")
    parser.add_argument("--rate", type=int, default=5000, help="requests a second for each worker")
    parser.add_argument("--connections", type=int, nargs="+", default=[64, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        bench = open_bench(Path(folder), processes, *two_cores())
        gateways = [start_gateway(bench, f"workers-{number}", workers=number) for number in (1, arguments.workers)]
        for gateway in gateways:
            for number, pid in enumerate(gateway.pids):
                os.sched_setaffinity(pid, {cores[number % len(cores)]})
        print(f"{arguments.rate} requests/s for each worker, load average {os.getloadavg()[0]:.1f} at the start.\n")
        print("| workers, connections | answers/s | CPU µs/request | busiest | cores idle | could carry/s | ratio |")
        print("|---|--:|--:|--:|--:|--:|--:|")
        for connections in arguments.connections:
            rounds: list[list[Round]] = [[] for _ in gateways]
            for number in range(arguments.rounds + 1):  # the first warms up
                for gateway, results in zip(gateways, rounds, strict=True):
                    result = measure(bench, gateway, connections, arguments.rate, arguments.seconds if number else 1)
                    if number:
                        results.append(result)
            for gateway, results in zip(gateways, rounds, strict=True):
                rate, cpu, busiest, idle = (median(column) for column in zip(*results, strict=True))
                ratio = median(one.capacity / base.capacity for one, base in zip(results, rounds[0], strict=True))
                cells = [f"{rate:.0f}", f"{cpu:.1f}", f"{busiest:.0%}", f"{idle:.0%}"]
                cells += [f"{median(one.capacity for one in results):.0f}", f"{ratio:.2f}"]
                print(f"| {len(gateway.pids)}, {connections} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
