"""What one proxied request costs: a gateway worker beside nginx, aiohttp and a raw relay.

Every peer proxies to the same backend (nginx, a 12-byte body) with one process pinned to one core; client and backend
have the other core. The rounds are interleaved, so that a busy machine hurts all alike. For each peer and workload it
prints requests per second, CPU microseconds per request (utime + stime of the proxy's process from /proc, so waiting
costs nothing), p50 and p99 as wrk saw them, and the CPU ratio to nginx. The gateway runs as users run it: its worker
follows a feed (a small server in this file), with routing, a 90/10 split, statistics and the access log to a file.

wrk keeps its fields in a hash table and sends them in another order each run, so a script hands it the whole request,
Host first and the rest as a browser does.

Needs Debian's nginx and wrk. The raw relay copies bytes without looking at them: the floor for any proxy on uvloop.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from statistics import median
from typing import NamedTuple, cast

import aiohttp
import uvloop
from aiohttp import web

from gateway.contract import (
    Endpoint,
    Probe,
    Revision,
    RevisionId,
    RouteId,
    RouteRule,
    Split,
    Update,
    serialise_message,
)

CONNECTIONS = 64
HOST = "hello.default.localhost"
TOKEN = "benchmark"
BROWSER_FIELDS = {
    "sec-ch-ua": '"Chromium";v="124", "Google Chrome";v="124", "Not-A.Brand";v="99"',
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": '"Linux"',
    "Upgrade-Insecure-Requests": "1",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0 Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-User": "?1",
    "Sec-Fetch-Dest": "document",
    "Referer": f"http://{HOST}/",
    "Accept-Encoding": "gzip, deflate, br",
    "Accept-Language": "en-US,en;q=0.9",
    "Cookie": "session=0123456789abcdef0123456789abcdef; theme=dark",
    "Cache-Control": "max-age=0",
}
WORKLOADS: dict[str, dict[str, str]] = {"bare": {}, "15 fields": BROWSER_FIELDS}

BACKEND_CONF = """
daemon off; worker_processes 1; pid {dir}/backend.pid; error_log {dir}/backend.err;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 1000000000; default_type text/plain;
  client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir};
  uwsgi_temp_path {dir}; scgi_temp_path {dir};
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 "hello world\\n"; }} }} }}
"""
PROXY_CONF = """
daemon off; worker_processes 1; pid {dir}/proxy.pid; error_log {dir}/proxy.err;
events {{ worker_connections 4096; }}
http {{ access_log {dir}/proxy.log combined buffer=64k flush=1s; keepalive_requests 1000000000;
  client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir};
  uwsgi_temp_path {dir}; scgi_temp_path {dir};
  upstream backend {{ server 127.0.0.1:{backend}; keepalive 128; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Request-Id $request_id; }} }} }}
"""


class Peer(NamedTuple):
    name: str
    port: int
    pid: int  # of the process that proxies


class Result(NamedTuple):
    rate: float
    cpu: float
    p50: float
    p99: float


# --- the peers --------------------------------------------------------------------------------------------------------


class Relay(asyncio.Protocol):
    """Copies bytes to the backend and back."""

    def __init__(self, backend: int) -> None:
        self.backend = backend
        self.other: asyncio.Transport | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own class, with the same methods
        self.dialling = asyncio.ensure_future(self.dial())

    async def dial(self) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: Back(self.transport), "127.0.0.1", self.backend)
        self.other = transport
        for data in self.early:
            transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early.append(data)
        else:
            self.other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


class Back(asyncio.Protocol):
    def __init__(self, client: asyncio.Transport) -> None:
        self.client = client

    def data_received(self, data: bytes) -> None:
        self.client.write(data)


async def serve_relay(port: int, backend: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Relay(backend), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


async def serve_aiohttp(port: int, backend: int) -> None:
    logging.disable()  # wrk leaves in the middle of requests, which aiohttp reports one by one
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
    dropped = {"host", "connection", "transfer-encoding", "content-length"}

    async def handle(request: web.Request) -> web.StreamResponse:
        fields = {name: value for name, value in request.headers.items() if name.lower() not in dropped}
        url = f"http://127.0.0.1:{backend}{request.path_qs}"
        async with session.request(request.method, url, headers=fields, data=request.content) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in dropped}
            response = web.StreamResponse(status=answer.status, headers=kept)
            response.content_length = answer.content_length
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


async def serve_feed(port: int, backend: int) -> None:
    """What a controller tells a gateway: one host, split 90/10 over two revisions with the same endpoint."""
    revisions = [
        Revision(
            RevisionId("default", f"hello-0000{number}"),
            service="hello",
            configuration="hello",
            probe=Probe(),
            endpoints=(Endpoint("127.0.0.1", backend, f"pod-{number}", ready=True),),
        )
        for number in (1, 2)
    ]
    marks = [(("knative-serving-revision", one.id.name), ("knative-serving-namespace", "default")) for one in revisions]
    splits = (Split(revisions[0].id, 90, marks[0]), Split(revisions[1].id, 10, marks[1]))
    routes = {RouteId("default", "hello"): (RouteRule(HOST, splits),)}
    update = serialise_message(Update(0, 1, routes, {one.id: one for one in revisions}))

    async def feed(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        await websocket.receive()
        await websocket.send_str(update)
        async for _ in websocket:
            pass
        return websocket

    application = web.Application()
    application.router.add_get("/v1/feed", feed)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


# --- running them -----------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def start(stack: contextlib.ExitStack, core: int, command: list[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )
    stack.callback(stop, process)
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(port: int) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Host": HOST})
    for _ in range(400):
        try:
            with urllib.request.urlopen(request, timeout=1) as response:
                if response.status == 200:
                    return
        except OSError:
            pass
        signal.sigtimedwait([], 0.025)
    raise SystemExit(f"nothing answers on port {port}")


def start_nginx(stack: contextlib.ExitStack, core: int, directory: str, name: str, conf: str) -> int:
    path = Path(directory) / f"{name}.conf"
    path.write_text(conf)
    return start(stack, core, [shutil.which("nginx") or "/usr/sbin/nginx", "-p", directory, "-c", str(path)]).pid


def start_peers(stack: contextlib.ExitStack, directory: str, proxy_core: int, other_core: int) -> list[Peer]:
    backend, feed, admin, local = (free_port() for _ in range(4))
    start_nginx(stack, other_core, directory, "backend", BACKEND_CONF.format(dir=directory, port=backend))
    me = [sys.executable, str(Path(__file__).resolve())]
    start(stack, other_core, [*me, "--serve", "feed", "--ports", str(feed), str(backend)])
    token = Path(directory) / "token"
    token.write_text(TOKEN)
    ports = {name: free_port() for name in ("nginx", "gateway", "relay", "aiohttp")}
    conf = PROXY_CONF.format(dir=directory, port=ports["nginx"], backend=backend)
    pids = {"nginx": start_nginx(stack, proxy_core, directory, "proxy", conf)}
    command = [sys.executable, "-m", "gateway", "--listen", f"127.0.0.1:{ports['gateway']}"]
    command += ["--cluster-local-listen", f"127.0.0.1:{local}", "--admin-listen", f"127.0.0.1:{admin}"]
    command += ["--feed", f"ws://127.0.0.1:{feed}/v1/feed", "--feed-token-file", str(token)]
    command += ["--access-log", f"{directory}/access.log", "--drain-grace", "1"]
    pids["gateway"] = start(stack, proxy_core, command).pid
    for name in ("relay", "aiohttp"):
        serve = [*me, "--serve", name, "--ports", str(ports[name]), str(backend)]
        pids[name] = start(stack, proxy_core, serve).pid
    for port in ports.values():
        wait_for(port)
    for name in ("nginx", "gateway"):
        pids[name] = children(pids[name])[0]  # the master and the supervising parent carry no requests
    return [Peer(name, ports[name], pids[name]) for name in ports]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write_script(directory: str, workload: str) -> Path:
    """The wrk script that sends the requests of a workload."""
    lines = ["GET / HTTP/1.1", *(f"{name}: {value}" for name, value in {"Host": HOST, **WORKLOADS[workload]}.items())]
    text = "".join(line.replace('"', '\\"') + "\\r\\n" for line in [*lines, ""])
    path = Path(directory) / f"{workload}.lua"
    path.write_text(f'wrk.format = function() return "{text}" end\n')
    return path


def measure(peer: Peer, script: Path, seconds: int, core: int) -> Result:
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
    command += ["-s", str(script)]
    before = cpu_seconds(peer.pid)
    text = subprocess.run(
        [*command, f"http://127.0.0.1:{peer.port}/"], check=True, capture_output=True, text=True
    ).stdout
    cpu = cpu_seconds(peer.pid) - before
    count = int(found(r"(\d+) requests in", text))
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(f"{peer.name} failed requests:\n{text}")
    return Result(
        float(found(r"Requests/sec:\s+([\d.]+)", text)), cpu / count * 1e6, percentile(50, text), percentile(99, text)
    )


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise SystemExit(f"wrk said something unexpected:\n{text}")
    return match.group(1)


def percentile(percent: int, text: str) -> float:
    """In milliseconds."""
    value = found(rf"{percent}%\s+([\d.]+[mu]?s)", text)
    scale = {"us": 0.001, "ms": 1.0}
    return float(value[:-2]) * scale[value[-2:]] if value[-2:] in scale else float(value[:-1]) * 1000


def run(rounds: int, seconds: int, proxy_core: int, other_core: int, only: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        peers = start_peers(stack, directory, proxy_core, other_core)
        peers = [peer for peer in peers if not only or peer.name in only]
        scripts = {workload: write_script(directory, workload) for workload in WORKLOADS}
        results: dict[tuple[str, str], list[Result]] = {}
        for number in range(rounds + 1):  # the first warms up and does not count
            for workload, script in scripts.items():
                for peer in peers:
                    result = measure(peer, script, seconds if number else 1, other_core)
                    if number:
                        results.setdefault((workload, peer.name), []).append(result)
        for workload in WORKLOADS:
            report(workload, [(peer.name, results[workload, peer.name]) for peer in peers])


def report(workload: str, rows: list[tuple[str, list[Result]]]) -> None:
    base = {name: median(one.cpu for one in results) for name, results in rows}.get("nginx")
    rounds, machine = len(rows[0][1]), os.getloadavg()[0]
    print(f"\n{workload}, {CONNECTIONS} connections, median of {rounds} rounds, load average {machine:.1f}")
    print(f"{'peer':<10}{'req/s':>10}{'CPU µs':>10}{'p50 ms':>10}{'p99 ms':>10}{'CPU / nginx':>14}")
    for name, results in rows:
        rate, cpu, p50, p99 = (median(column) for column in zip(*results, strict=True))
        ratio = f"{cpu / base:.2f}" if base else ""
        print(f"{name:<10}{rate:>10.0f}{cpu:>10.1f}{p50:>10.2f}{p99:>10.2f}{ratio:>14}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--proxy-core", type=int, default=0)
    parser.add_argument("--other-core", type=int, default=1, help="for client and backend")
    parser.add_argument("--only", nargs="*", default=[], help="names of peers")
    parser.add_argument("--serve", choices=("relay", "aiohttp", "feed"), help=argparse.SUPPRESS)
    parser.add_argument("--ports", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve = {"relay": serve_relay, "aiohttp": serve_aiohttp, "feed": serve_feed}[arguments.serve]
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(serve(*arguments.ports))
        return
    run(arguments.rounds, arguments.seconds, arguments.proxy_core, arguments.other_core, arguments.only)


if __name__ == "__main__":
    main()
