"""Does the number of routes show? The routing state at 10 and at 10,000 services, at both ends of the feed.

    python load/routes.py                 about two minutes
    python load/routes.py --services 100  does it run?

A service is what Knative makes of one: a KIngress with an external host and three cluster-local ones, a Revision and an
EndpointSlice with one pod; all pods are one nginx. Prints Markdown tables:

- the lookup of a host, in this process. With 10,000 services it is timed twice: asked for the same ten hosts, which is
  what the algorithm costs, and for all hosts at random, which adds what the CPU's caches cost;
- the steps of one change (a pod replaced, the route's rules changed), in this process: from the message to the tables;
- the same change from the controller's caches to the acknowledgement of a worker in a process of its own, and the
  controller's CPU for it (compile, publish, serialise);
- a worker's resident memory, and requests through it (wrk, random hosts) in interleaved rounds;
- the longest wait of a client while a worker writes its snapshot file and while it gets the whole state anew.

Needs Debian's nginx and wrk.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import uvloop
from aiohttp import web

from controller.apis import kinds, labels
from controller.config.store import Config
from controller.dataplane import compile
from controller.dataplane.drains import Drains
from controller.dataplane.publisher import KINDS, Publisher
from controller.dataplane.server import FeedServer
from controller.kube.informer import Caches
from controller.reconcile.children.services import private_service_name
from gateway.config import Address, GatewayConfig
from gateway.contract import Resync, RouteId, Snapshot, Update, apply, parse_message, serialise_message, whole
from gateway.core.http1 import parse_request
from gateway.core.routing import RouteTable
from gateway.worker import Worker
from matrix import clients
from matrix.peers import TOKEN, Bench, open_bench, start_gateway
from matrix.processes import ROOT, Processes, cpu_seconds, free_port, python_module, resident_bytes, two_cores

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from controller.apis.kinds import Kind
    from controller.apis.meta import JsonObject
    from controller.kube.runner import Runner
    from matrix.peers import Peer

FEW = 10
CHANGES = 200
CONNECTIONS = 64


# --- services ---------------------------------------------------------------------------------------------------------


def name_of(number: int) -> str:
    return f"service-{number:05}"


def host_of(number: int) -> str:
    return f"{name_of(number)}.default.example.com"


def kind_of(kind: Kind) -> dict[str, str]:
    return {"apiVersion": kind.api_version, "kind": kind.kind}


def ingress(number: int, generation: int) -> JsonObject:
    """As the Route's reconciler makes it; the hash is that of the rules, new with each generation."""
    name = name_of(number)
    revision = f"{name}-00001"
    marks = {"Knative-Serving-Namespace": "default", "Knative-Serving-Revision": revision}
    split = {"serviceName": revision, "serviceNamespace": "default", "servicePort": 80, "percent": 100}
    path = {"splits": [{**split, "appendHeaders": marks}], "appendHeaders": {"K-Network-Hash": f"{generation:064x}"}}
    local = [f"{name}.default", f"{name}.default.svc", f"{name}.default.svc.cluster.local"]
    hosts = {"ExternalIP": [host_of(number)], "ClusterLocal": local}
    return {
        **kind_of(kinds.INGRESS),
        "metadata": {
            "namespace": "default",
            "name": name,
            "generation": generation,
            "annotations": {labels.INGRESS_CLASS: labels.INGRESS_CLASS_NAME},
        },
        "spec": {
            "rules": [{"hosts": names, "visibility": kind, "http": {"paths": [path]}} for kind, names in hosts.items()]
        },
    }


def revision(number: int) -> JsonObject:
    """With a readiness probe that only Kubernetes can run: ten thousand endpoints that a worker probes at once, when it
    starts, would be measured instead of what is to be."""
    name = name_of(number)
    container = {"image": "example.com/app", "readinessProbe": {"exec": {"command": ["true"]}}}
    return {
        **kind_of(kinds.REVISION),
        "metadata": {
            "namespace": "default",
            "name": f"{name}-00001",
            "labels": {labels.SERVICE: name, labels.CONFIGURATION: name},
        },
        "spec": {"containers": [container], "timeoutSeconds": 300},
    }


def slice_of(number: int, port: int, pod: int) -> JsonObject:
    service = private_service_name(f"{name_of(number)}-00001")
    endpoint = {
        "addresses": ["127.0.0.1"],
        "conditions": {"ready": True},
        "targetRef": {"name": f"{name_of(number)}-00001-deployment-{pod:010x}"},
    }
    return {
        **kind_of(kinds.ENDPOINT_SLICE),
        "metadata": {"namespace": "default", "name": f"{service}-x", "labels": {labels.SERVICE_NAME: service}},
        "ports": [{"name": "http", "port": port}],
        "endpoints": [endpoint],
    }


# --- the controller's half --------------------------------------------------------------------------------------------


class Controller:
    """Publisher and feed server as the controller composes them, over caches that this script fills."""

    def __init__(self, services: int, port: int) -> None:
        self.services = services
        self.config = Config()
        self.cache = Caches(KINDS)
        self.ready = asyncio.Event()
        self.ready.set()
        self._sinks: dict[Any, Callable[[JsonObject | None, JsonObject | None], None]] = {}
        self._waiting: dict[RouteId, asyncio.Future[None]] = {}
        self._versions = count(1)
        self._backend = port
        self.server = FeedServer(
            TOKEN,
            on_stats=lambda *_: None,
            on_in_flight=lambda *_: None,
            on_carriers=lambda: None,
            on_disconnect=lambda _: None,
            on_programmed=self._programmed,
        )
        drains = Drains(carriers=lambda: self.server.carriers, enqueue=lambda _: None, publish=lambda _: None)
        self.publisher = Publisher(cast("Runner", self), self.server, drains, woken=lambda _key: None, node=None)
        for number in range(services):
            self.observe(kinds.INGRESS, ingress(number, 1))
            self.observe(kinds.REVISION, revision(number))
            self.observe(kinds.ENDPOINT_SLICE, slice_of(number, port, 0))

    def on_change(self, kind: Any, sink: Callable[[JsonObject | None, JsonObject | None], None]) -> None:
        """As the runner's."""
        self._sinks[kind] = sink

    def on_config(self, sink: Callable[[], None]) -> None:
        """As the runner's; the configuration stays what it is."""

    def observe(self, kind: Any, obj: JsonObject) -> None:
        """A watch event, told to the publisher as the runner tells it."""
        obj["metadata"]["resourceVersion"] = str(next(self._versions))
        change = self.cache.kinds[kind].observe("MODIFIED", obj)
        if change is not None:
            self._sinks[kind](*change)

    def change(self, number: int, generation: int) -> RouteId:
        """Another pod, and new rules."""
        self.observe(kinds.ENDPOINT_SLICE, slice_of(number, self._backend, generation))
        self.observe(kinds.INGRESS, ingress(number, generation))
        return RouteId("default", name_of(number))

    async def programmed(self, route: RouteId) -> None:
        """Until every worker has acknowledged the route's latest change."""
        self._waiting[route] = asyncio.get_running_loop().create_future()
        await asyncio.wait_for(self._waiting[route], 60)

    def _programmed(self, route: RouteId) -> None:
        waiter = self._waiting.pop(route, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[None]:
        runner = web.AppRunner(self.server.app, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        try:
            yield
        finally:
            await runner.cleanup()


# --- in this process --------------------------------------------------------------------------------------------------


def lookup(snapshot: Snapshot, numbers: list[int]) -> float:
    """Nanoseconds of a lookup, for requests to these services' hosts."""
    table = RouteTable()
    table.update(snapshot.routes)
    head = parse_request(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert head is not None
    host, match = host_of(12345).replace("12345", "%05d").encode(), table.match
    matching, without = [], []
    for _ in range(15):
        began = perf_counter()
        for number in numbers:
            head.host = host % number  # as fresh as the codec makes it
            match(False, head)
        between = perf_counter()
        for number in numbers:
            head.host = host % number
        matching.append(between - began)
        without.append(perf_counter() - between)
    return (min(matching) - min(without)) / len(numbers) * 1e9


class Step(NamedTuple):
    """What one change cost a worker, milliseconds."""

    parse: float
    apply: float
    exchanges: float
    activator: float

    @property
    def total(self) -> float:
        return sum(self)


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    began = perf_counter()
    result = function(*arguments)
    return (perf_counter() - began) * 1000, result


def idle_worker() -> Worker:
    """A worker that listens nowhere: its tables are what is measured."""
    nowhere = Address("127.0.0.1", 0)
    return Worker(GatewayConfig("ws://127.0.0.1:1/v1/feed", Path("/dev/null"), nowhere, nowhere, nowhere), 0, TOKEN)


class Held:
    """A worker's tables and the state they hold."""

    def __init__(self) -> None:
        self.worker = idle_worker()
        self.snapshot = Snapshot()

    def take(self, message: str | Update) -> Step:
        """From a message (or an update that was parsed already) to the tables."""
        parsing, update = timed(parse_message, message) if isinstance(message, str) else (0.0, message)
        applying, self.snapshot = timed(apply, self.snapshot, update)
        exchanges, _ = timed(self.worker.exchanges.apply, update, self.snapshot)
        activator, _ = timed(self.worker.activator.apply, update, self.snapshot)
        return Step(parsing, applying, exchanges, activator)


class Arrival(NamedTuple):
    """A whole state: its size in bytes, and milliseconds."""

    size: int
    serialise: float
    parse: float
    longest_part: float
    first: float
    again: float


def arrival(state: Snapshot) -> tuple[Held, Arrival]:
    """Serialises, parses and applies a whole state, to a worker that holds nothing and to one that holds it."""
    serialise, parts = timed(lambda: [serialise_message(part) for part in whole(state)])
    held = Held()
    resync = Resync(held.snapshot, state.version)
    times = [timed(lambda text=text: resync.add(cast("Update", parse_message(text))))[0] for text in parts]
    first = held.take(resync.change()).total
    resync = Resync(held.snapshot, state.version)
    for text in parts:
        resync.add(cast("Update", parse_message(text)))
    again, change = timed(resync.change)
    again += held.take(change).total
    return held, Arrival(sum(map(len, parts)), serialise, sum(times), max(times), first, again)


async def changes(held: Held, services: int) -> list[Step]:
    """The steps of many changes, one service each."""
    random.seed(services)
    steps = []
    for number in [random.randrange(services) for _ in range(CHANGES)]:
        version = held.snapshot.version
        rules = compile.route_rules(ingress(number, version))
        endpoints = compile.revision(revision(number), [slice_of(number, 1, version)], autodetect_http2=False)
        routes = {RouteId("default", name_of(number)): rules}
        steps.append(held.take(serialise_message(Update(version, version + 1, routes, {endpoints.id: endpoints}))))
        await asyncio.sleep(0)
    return steps


# --- through processes ------------------------------------------------------------------------------------------------


class Running(NamedTuple):
    """A controller's half in this process, and a gateway that follows it."""

    controller: Controller
    gateway: Peer


async def round_trips(controller: Controller) -> tuple[list[float], list[float]]:
    """Milliseconds of changes: the controller's own work, and from its caches to the worker's acknowledgement."""
    own, total = [], []
    for generation in range(2, CHANGES + 2):
        began = perf_counter()
        route = controller.change(random.randrange(controller.services), generation)
        waiting = asyncio.ensure_future(controller.programmed(route))
        await asyncio.sleep(0)  # the publisher compiles and publishes at the end of the turn
        own.append((perf_counter() - began) * 1000)
        await waiting
        total.append((perf_counter() - began) * 1000)
    return own, total


async def requests_through(bench: Bench, cases: list[tuple[Peer, int]], rounds: int, seconds: int) -> list[list[float]]:
    """CPU microseconds per request in each round, for each gateway and number of services that are asked for."""
    results: list[list[float]] = [[] for _ in cases]
    for number in range(rounds + 1):
        for (gateway, hosts), cpus in zip(cases, results, strict=True):
            before = cpu_seconds(gateway.pids)
            sample = await asyncio.to_thread(random_hosts, bench, gateway, hosts, seconds if number else 1)
            cpu = cpu_seconds(gateway.pids) - before
            bench.truncate_logs()
            if number:
                cpus.append(cpu / sample.units * 1e6)
    return results


def random_hosts(bench: Bench, gateway: Peer, hosts: int, seconds: int) -> clients.Sample:
    name = f'string.format("%05d", math.random(0, {hosts - 1}))'
    head = clients.lua_string(b"GET / HTTP/1.1\r\nHost: service-")
    rest = clients.lua_string(b".default.example.com\r\nUser-Agent: wrk\r\n\r\n")
    url = f"http://{host_of(0)}:{gateway.ports['http']}/"
    return clients.wrk(bench.folder, bench.other_core, url, f"{head} .. {name} .. {rest}", CONNECTIONS, seconds)


@asynccontextmanager
async def waiting_client(bench: Bench, port: int, waits: dict[str, float]) -> AsyncIterator[None]:
    """A client that asks all the while; `waits` gets what it saw."""
    command = ["taskset", "-c", str(bench.other_core), *python_module("matrix.waiting", host_of(0), str(port))]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'load'}"}
    )
    yield
    output, _ = await process.communicate(b"")  # the end of its standard input
    if process.returncode:
        raise SystemExit("the client that waits failed")
    waits.update(json.loads(output))


async def stalls(bench: Bench, services: int) -> dict[str, dict[str, float]]:
    """What a client saw while a worker wrote its snapshot file, while a new controller told it everything again, and
    while nothing happened."""
    before, after = Controller(services, bench.http), Controller(services, bench.http)
    for controller in (before, after):
        await controller.publisher.run()
    file = bench.folder / f"snapshot-{services}"
    waits: dict[str, dict[str, float]] = {"snapshot file written": {}, "whole state again": {}, "nothing else": {}}
    port = free_port()
    async with before.listening(port):
        gateway = await asyncio.to_thread(
            start_gateway, bench, f"stalls-{services}", port, "--snapshot-file", str(file)
        )
        async with waiting_client(bench, gateway.ports["http"], waits["snapshot file written"]):
            await until(file.exists)
            await asyncio.sleep(0.5)
        async with waiting_client(bench, gateway.ports["http"], waits["nothing else"]):
            await asyncio.sleep(2)
    async with waiting_client(bench, gateway.ports["http"], waits["whole state again"]), after.listening(port):
        await after.server.serving.wait()
        await asyncio.sleep(0.5)
    return waits


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = perf_counter() + seconds
    while not condition():
        if perf_counter() > deadline:
            raise SystemExit(f"it did not happen within {seconds:g} s")
        await asyncio.sleep(0.05)


# --- the tables -------------------------------------------------------------------------------------------------------


def row(name: str, *cells: object) -> str:
    return f"| {name} | {' | '.join(str(cell) for cell in cells)} |"


def heading(*columns: str) -> str:
    return f"\n| {' | '.join(columns)} |\n|---|{'--:|' * (len(columns) - 1)}"


def spread(times: list[float]) -> str:
    return f"{median(times):.2f} (p99 {sorted(times)[int(0.99 * (len(times) - 1))]:.2f})"


def show_lookup(few: Snapshot, many: Snapshot) -> None:
    count = len(many.routes)
    ten, everywhere = [number % FEW for number in range(count)], list(range(count))
    random.seed(1)
    random.shuffle(ten)
    random.shuffle(everywhere)
    print("\n### Lookup of a host\n" + heading("services, hosts asked for", "ns"))
    print(row(f"{FEW}, all", f"{lookup(few, ten):.0f}"))
    print(row(f"{count}, the same {FEW}", f"{lookup(many, ten):.0f}"))
    print(row(f"{count}, all at random", f"{lookup(many, everywhere):.0f}"))


async def show_changes(states: list[Snapshot]) -> None:
    print("\n### One change in a worker, milliseconds: median and p99 of 200\n")
    print(heading("services", *Step._fields, "total").lstrip())
    arrivals = []
    for state in states:
        held, arrived = arrival(state)
        arrivals.append((state, arrived))
        steps = await changes(held, len(state.routes))
        columns = [list(column) for column in zip(*steps, strict=True)]
        print(row(str(len(state.routes)), *map(spread, columns), spread([step.total for step in steps])))
        await held.worker.activator.close()
    print("\n### A whole state, milliseconds\n")
    print(heading("services", "size kB", "serialise", "parse", "longest part", "apply", "compare").lstrip())
    for state, one in arrivals:
        print(row(str(len(state.routes)), f"{one.size / 1000:.0f}", *(f"{value:.1f}" for value in one[1:])))


async def show_processes(bench: Bench, controllers: list[Controller], rounds: int, seconds: int) -> None:
    running, residents = [], []
    async with AsyncExitStack() as stack:
        for controller in controllers:
            port = free_port()
            await stack.enter_async_context(controller.listening(port))
            gateway = await asyncio.to_thread(start_gateway, bench, f"gateway-{controller.services}", port)
            running.append(Running(controller, gateway))
        residents = [resident_bytes(one.gateway.pids[0]) for one in running]
        print("\n### Memory of a worker\n")
        print(heading("services", "resident MiB", "per service KiB").lstrip())
        for one, resident in zip(running, residents, strict=True):
            services = one.controller.services
            each = "" if services == FEW else f"{(resident - residents[0]) / (services - FEW) / 1024:.1f}"
            print(row(str(services), f"{resident / 2**20:.1f}", each))
        print(f"\n### Requests through a worker, {CONNECTIONS} connections, median of {rounds} rounds\n")
        few, many = (one.gateway for one in running)
        most = controllers[1].services
        names = [f"{FEW}, all", f"{most}, the same {FEW}", f"{most}, all at random"]
        cpus = await requests_through(bench, [(few, FEW), (many, FEW), (many, most)], rounds, seconds)
        print(heading("services, hosts asked for", "CPU µs/request", "ratio").lstrip())
        for name, cpu in zip(names, cpus, strict=True):
            ratio = median(mine / base for mine, base in zip(cpu, cpus[0], strict=True))
            print(row(name, f"{median(cpu):.1f}", f"{ratio:.3f}"))
        print("\n### One change through processes, milliseconds: median and p99 of 200\n")
        print(heading("services", "controller's own work", "cache to acknowledgement").lstrip())
        for one in running:
            print(row(str(one.controller.services), *map(spread, await round_trips(one.controller))))


async def show_stalls(bench: Bench, counts: list[int]) -> None:
    print("\n### The longest wait of a client, milliseconds\n")
    print(heading("services, meanwhile", "requests", "p50", "p99", "longest").lstrip())
    for services in counts:
        for what, seen in (await stalls(bench, services)).items():
            cells = (f"{seen['count']:.0f}", f"{seen['p50']:.2f}", f"{seen['p99']:.2f}", f"{seen['longest']:.1f}")
            print(row(f"{services}, {what}", *cells), flush=True)


async def run(bench: Bench, services: int, rounds: int, seconds: int) -> None:
    controllers = [Controller(FEW, bench.http), Controller(services, bench.http)]
    for controller in controllers:
        await controller.publisher.run()
    few, many = (controller.server.snapshot for controller in controllers)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # as in a worker
    show_lookup(few, many)
    await show_changes([few, many])
    await show_processes(bench, controllers, rounds, seconds)
    await show_stalls(bench, [FEW, services])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, default=10_000, help=f"to compare with {FEW}")
    parser.add_argument("--rounds", type=int, default=5, help="of requests through each worker")
    parser.add_argument("--seconds", type=int, default=4, help="of each round")
    first, last = two_cores()
    parser.add_argument("--proxy-core", type=int, default=first)
    parser.add_argument("--other-core", type=int, default=last, help="for clients, backend and the controller's half")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.other_core})
    print(f"Load average {os.getloadavg()[0]:.1f} at the start.")
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        bench = open_bench(Path(folder), processes, arguments.proxy_core, arguments.other_core)
        uvloop.run(run(bench, arguments.services, arguments.rounds, arguments.seconds))


if __name__ == "__main__":
    main()
