"""What the autoscaler costs the controller: one tick over many revisions, a second of Stats, memory.

Everything is in one process and in virtual time: Stats messages are made as the gateways make them, parsed as the feed
parses them, and taken in as they come; each second has one from every worker, each two seconds a tick. Busy revisions
have random loads, so that each decision differs from the one before; idle ones are at zero. The aims for 10,000
revisions and 4 workers: 250 ms of CPU for a tick, 300 ms for a second of Stats (30 % of a core).

What the gateways tell of revisions that lose replicas comes on top, for as long as these finish their requests: by the
second, for a tenth of the revisions at a time.
"""

from __future__ import annotations

import argparse
import gc
import random
from pathlib import Path
from statistics import median
from time import process_time
from typing import TYPE_CHECKING

from controller.apis.meta import Key
from controller.autoscaler.ticker import Deciders
from controller.config.store import Config
from controller.dataplane.drains import Drains
from controller.reconcile.plan import Plan
from gateway.contract import (
    InFlight,
    Revision,
    RevisionId,
    Snapshot,
    Stat,
    Stats,
    parse_message,
    serialise_message,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def resident_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise SystemExit("no VmRSS in /proc/self/status")


def cpu(work: Callable[[], object]) -> float:
    """Milliseconds."""
    before = process_time()
    work()
    return (process_time() - before) * 1000


def pod_autoscaler(name: str) -> dict[str, object]:
    return {
        "metadata": {"namespace": "default", "name": name, "annotations": {}},
        "spec": {"scaleTargetRef": {"name": f"{name}-deployment"}, "reachability": "Reachable"},
    }


def message(ids: list[RevisionId]) -> str:
    return serialise_message(Stats(tuple(Stat(one, random.random() * 5, 3.0) for one in ids)))


def run(revisions: int, workers: int, busy: int, seconds: int) -> None:
    random.seed(1)
    now = 1000.0
    config = Config()
    deciders = Deciders(config=lambda: config, enqueue=lambda _key: None, clock=lambda: now)
    ids = [RevisionId("default", f"service-{number:05}-00001") for number in range(revisions)]
    gc.disable()  # as the control plane does (controller/heap.py)
    before = resident_kib()
    for one in ids:
        deciders.on_pod_autoscaler(None, pod_autoscaler(one.name))
    registered = resident_kib()
    ticks, ingestions = [], []
    for second in range(seconds):
        now += 1
        texts = [message(ids[:busy]) for _ in range(workers)]

        def ingest(texts: list[str] = texts) -> None:
            for worker, text in enumerate(texts):
                stats = parse_message(text)
                assert isinstance(stats, Stats)
                deciders.on_stats(f"worker-{worker}", stats.stats)

        ingestions.append(cpu(ingest))
        if second % 2 == 0:
            ticks.append(cpu(deciders.tick))
    del texts
    after = resident_kib()
    print(
        f"| {busy} of {revisions} busy | {median(ticks):.0f} | {max(ticks):.0f} | {median(ingestions):.0f} | "
        f"{(registered - before) / revisions:.1f} | {(after - before) / revisions:.1f} |"
    )


def drain(revisions: int, workers: int) -> float:
    """A second of what is in flight at two pods of each of so many shrinking revisions."""
    names = [f"worker-{number}" for number in range(workers)]
    drains = Drains(carriers=lambda: names, enqueue=lambda _: None, publish=lambda _: None, clock=lambda: 0.0)
    ids = [RevisionId("default", f"service-{number:05}-00001") for number in range(revisions)]
    for one in ids:
        drains.carry_out(Key(*one), Plan(draining=frozenset((f"{one.name}-a", f"{one.name}-b"))))
    drains.on_published(ids, ids, Snapshot(1, {}, {one: Revision(one) for one in ids}))
    text = serialise_message(InFlight({one: {f"{one.name}-a": 2, f"{one.name}-b": 1} for one in ids}))

    def ingest() -> None:
        for worker in names:
            told = parse_message(text)
            assert isinstance(told, InFlight)
            drains.on_in_flight(worker, 1, told.revisions)

    return median(cpu(ingest) for _ in range(9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--revisions", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=120, help="of virtual time")
    arguments = parser.parse_args()
    print(f"CPU milliseconds, {arguments.revisions} revisions, Stats of {arguments.workers} workers\n")
    print("| load | tick p50 | tick max | a second of Stats p50 | KiB per revision at first | KiB per revision after |")
    print("|---|---|---|---|---|---|")
    for busy in (0, arguments.revisions // 10, arguments.revisions):
        run(arguments.revisions, arguments.workers, busy, arguments.seconds)
    shrinking = arguments.revisions // 10
    print(f"\na second of InFlight, {shrinking} revisions shrinking: {drain(shrinking, arguments.workers):.0f} ms")


if __name__ == "__main__":
    main()
