"""What one proxied request costs: a gateway worker beside nginx, HAProxy, Envoy, aiohttp and a raw relay.

    python load/proxy.py                                        everything, about half an hour
    python load/proxy.py --workloads fields tls --only nginx gateway --rounds 3
    python load/proxy.py --smoke                                does each workload run with each peer?

Every peer proxies to the same backends with one process pinned to one core; clients and backends have the other core.
The rounds are interleaved, so that a busy machine hurts all alike, and a ratio is the median of the rounds' ratios. For
each workload and peer it prints, as a Markdown table, units per second, CPU microseconds per unit (utime + stime of the
processes that proxy, from /proc, so waiting costs nothing), and p50 and p99 as the client saw them; below the table,
what the gateway has to reach. The rates of the cheapest peers are bounded by the core of client and backend; CPU per
request is not.

- Peers and their settings: `load/matrix/peers.py`. The gateway runs as users run it: its worker follows a feed, with
  routing, a 90/10 split, statistics, time-outs, limits and the access log to a file. hypercorn is no proxy: it answers
  HTTP/2 and gRPC itself, as a server in pure Python does.
- Workloads: `load/matrix/workloads.py`. Clients: wrk, h2load, and two of our own (WebSocket, 1 GiB stream).
- gRPC runs against a server of ours that echoes the message: bytes on the wire as of a gRPC server, at a fraction of
  its cost, so that the proxy is what is measured.

Needs Debian's nginx (the backend) and wrk; haproxy and nghttp2-client for the peer and the workloads of those names;
`pip install .[load]` for Envoy and hypercorn. What is not there is left out, and named.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from functools import partial
from pathlib import Path

from gateway.core.http1 import CODEC
from matrix.clients import ClientFault
from matrix.peers import PEERS, Bench, Peer, listens, open_bench
from matrix.processes import Processes, cpu_seconds, two_cores, wait_until
from matrix.report import Results, Row, table, write_json
from matrix.workloads import WORKLOADS, Client, Workload


def start_peers(bench: Bench, names: list[str]) -> list[Peer]:
    """Those that are installed, when each of their ports takes connections."""
    started = {name: PEERS[name](bench) for name in PEERS if name in names}
    missing = [name for name, peer in started.items() if peer is None]
    if missing:
        print(f"Not installed, left out: {', '.join(missing)}.", file=sys.stderr)
    peers = [peer for peer in started.values() if peer is not None]
    for peer in peers:
        for kind, port in peer.ports.items():
            if not wait_until(partial(listens, port)):
                said = bench.log(peer.name).read_text()
                raise SystemExit(f"{peer.name} does not listen for {kind} traffic. It said:\n{said}")
    return peers


def measure(bench: Bench, peer: Peer, workload: Workload, seconds: int) -> Row:
    before = cpu_seconds(peer.pids)
    sample = workload.measure(Client(bench.folder, bench.other_core), peer.ports[workload.kind], seconds)
    cpu = cpu_seconds(peer.pids) - before
    bench.truncate_logs()
    return Row(sample.units / sample.seconds, cpu / sample.units * 1e6, sample.p50, sample.p99)


def run(bench: Bench, peers: list[Peer], workload: Workload, rounds: int, seconds: int) -> Results:
    """The rounds of one workload. The first warms up and does not count, unless it is the only one."""
    results = Results({peer.name: [] for peer in peers if workload.kind in peer.ports})
    for number in range(rounds + 1 if rounds > 1 else 1):
        for peer in peers:
            if peer.name not in results.rows:
                continue
            try:
                row = measure(bench, peer, workload, seconds if number else 1)
            except ClientFault as fault:
                if number == 0 and rounds > 1:
                    continue
                results.faults[peer.name] = str(fault)
                del results.rows[peer.name]
                continue
            if number or rounds == 1:
                results.rows[peer.name].append(row)
    return results


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER", help=", ".join(PEERS))
    parser.add_argument(
        "--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME", help=", ".join(WORKLOADS)
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--smoke", action="store_true", help="one round of one second: does everything run?")
    first, last = two_cores()
    parser.add_argument("--proxy-core", type=int, default=first)
    parser.add_argument("--other-core", type=int, default=last, help="for clients and backends")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all rounds, to compare runs")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    rounds, seconds = (1, 1) if arguments.smoke else (arguments.rounds, arguments.seconds)
    machine: dict[str, object] = {"python": platform.python_version(), "cores": os.cpu_count(), "codec": CODEC.name}
    machine["load_average"] = round(os.getloadavg()[0], 1)
    print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items()))
    results: dict[str, Results] = {}
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        bench = open_bench(Path(folder), processes, arguments.proxy_core, arguments.other_core)
        peers = start_peers(bench, arguments.only)
        for name in arguments.workloads:
            results[name] = run(bench, peers, WORKLOADS[name], rounds, seconds)
            print(f"\n{table(WORKLOADS[name], results[name])}", flush=True)
    if arguments.json is not None:
        write_json(arguments.json, machine, results)


if __name__ == "__main__":
    main()
