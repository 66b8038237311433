"""Do two workers carry twice what one carries?

    python load/workers.py

On a machine with two cores nothing is left for client and backend while two workers use both, so each worker gets a
smaller core: a control group that lets it run for SHARE of the time (CFS bandwidth, in periods of 10 ms). The client
keeps a request in flight on each connection, so a worker is always full, and client, backend and kernel have the rest.
If the workers took turns at something they share, two would carry less than twice; the column says how idle the cores
were, because that proves something only while there is time to spare.

What the kernel's spreading costs is in the column "busiest": it gives connections to the workers' sockets by a hash
(SO_REUSEPORT), never quite evenly. A client that waits for answers, as here, fills both workers all the same; where
requests come at their own pace, the busiest worker is full first.

What this can't show: memory bandwidth, and locks of the kernel that only several full cores contend for.

Needs root, for the control groups, and Debian's wrk and nginx.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from matrix.peers import Bench, Peer, open_bench, start_gateway
from matrix.processes import Processes, cpu_seconds, two_cores
from matrix.workloads import WORKLOADS, Client

if TYPE_CHECKING:
    from collections.abc import Iterator

_PERIOD = 10_000  # microseconds; short, or a throttled worker would show as a slow one


class Round(NamedTuple):
    """Answers a second, CPU microseconds per request, the busiest worker's share of the workers' CPU time, the part of
    all cores' time that was left, and the 99th percentile in milliseconds."""

    rate: float
    cpu: float
    busiest: float
    idle: float
    p99: float


@contextlib.contextmanager
def share_of_a_core(pid: int, share: float) -> Iterator[None]:
    """Lets a process run for this part of the time. Exits with a message where that is not to be had."""
    legacy = Path("/sys/fs/cgroup/cpu")
    group = (legacy if legacy.is_dir() else Path("/sys/fs/cgroup")) / f"zerogate-bench-{pid}"
    quota = int(_PERIOD * share)
    try:
        group.mkdir()
        if legacy.is_dir():
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {_PERIOD}")
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        raise SystemExit(f"a worker's share of a core needs root and a cgroup with cpu control: {error}") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the process may be gone, and its group stays only while it is not empty
            (group.parent / "cgroup.procs").write_text(str(pid))
        with contextlib.suppress(OSError):
            group.rmdir()


def idle_and_all() -> tuple[int, int]:
    """Clock ticks of all cores since the machine's start."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def measure(bench: Bench, gateway: Peer, workload: str, seconds: int) -> Round:
    before, idle = [cpu_seconds((pid,)) for pid in gateway.pids], idle_and_all()
    client = Client(bench.folder, bench.other_core)
    sample = WORKLOADS[workload].measure(client, gateway.ports["http"], seconds)
    used = [cpu_seconds((pid,)) - past for pid, past in zip(gateway.pids, before, strict=True)]
    left = [now - past for now, past in zip(idle_and_all(), idle, strict=True)]
    bench.truncate_logs()
    return Round(
        sample.units / sample.seconds,
        sum(used) / sample.units * 1e6,
        max(used) / sum(used),
        left[0] / left[1],
        sample.p99,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="to compare with one")
    parser.add_argument("--share", type=float, default=0.2, help="of a core, for each worker")
    parser.add_argument("--workloads", nargs="+", default=["fields", "1000"], help="of load/proxy.py, HTTP/1.1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, Processes() as processes, contextlib.ExitStack() as shares:
        bench = open_bench(Path(folder), processes, *two_cores())
        gateways = [start_gateway(bench, f"workers-{number}", workers=number) for number in (1, arguments.workers)]
        for gateway in gateways:
            for number, pid in enumerate(gateway.pids):
                os.sched_setaffinity(pid, {cores[number % len(cores)]})
                shares.enter_context(share_of_a_core(pid, arguments.share))
        load = os.getloadavg()[0]
        print(f"Each worker has {arguments.share:.0%} of a core, load average {load:.1f} at the start.\n")
        print("| workers, workload | answers/s | ratio | CPU µs/request | busiest | cores idle | p99 ms |")
        print("|---|--:|--:|--:|--:|--:|--:|")
        for workload in arguments.workloads:
            rounds: list[list[Round]] = [[] for _ in gateways]
            for number in range(arguments.rounds + 1):  # the first warms up
                for gateway, results in zip(gateways, rounds, strict=True):
                    result = measure(bench, gateway, workload, arguments.seconds if number else 1)
                    if number:
                        results.append(result)
            for gateway, results in zip(gateways, rounds, strict=True):
                rate, cpu, busiest, idle, p99 = (median(column) for column in zip(*results, strict=True))
                ratio = median(one.rate / base.rate for one, base in zip(results, rounds[0], strict=True))
                cells = [f"{rate:.0f}", f"{ratio:.2f}", f"{cpu:.1f}", f"{busiest:.0%}", f"{idle:.0%}", f"{p99:.1f}"]
                print(f"| {len(gateway.pids)}, {workload} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
