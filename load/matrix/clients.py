"""The clients that make the load. Each runs on the core that the proxy does not have, costs less than what it measures,
and says how many requests were answered, in which time, and how long they took."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from matrix.processes import ROOT, program, python_module
from matrix.servers import host

__all__ = ["ClientFault", "Sample", "h2load", "lua_string", "stream", "websocket", "wrk"]

_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


class ClientFault(Exception):
    """A measurement that says nothing: requests failed, or the client did."""


class Sample(NamedTuple):
    """`units` (requests, messages, MiB) in `seconds`; percentiles in milliseconds."""

    units: float
    seconds: float
    p50: float
    p99: float


def _run(core: int, command: list[str]) -> str:
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'load'}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["taskset", "-c", str(core), *command], check=False, capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise ClientFault(f"{Path(command[0]).name} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise ClientFault(f"the client said something unexpected:\n{text}")
    return match[1]


def _lines(text: str, *beginnings: str) -> str:
    """Those of the lines that say what happened."""
    return "; ".join(line.strip() for line in text.splitlines() if any(word in line for word in beginnings))


def _missing(name: str) -> str:
    path = program(name)
    if path is None:
        raise ClientFault(f"{name} is not installed")
    return path


def lua_string(text: bytes) -> str:
    """A literal."""
    escaped = text.decode("latin-1").replace("\\", "\\\\").replace('"', '\\"').replace("\r\n", "\\r\\n")
    return f'"{escaped}"'


def wrk(folder: Path, core: int, url: str, request: str, connections: int, seconds: int) -> Sample:
    """HTTP/1.1, keep-alive, a request in flight on each connection. `request` is a Lua expression.

    wrk keeps its fields in a hash table and sends them in another order each run, so a script hands it the whole
    request. It would also look the host up; the script names loopback instead, so that TLS names the host.
    """
    port = url.rpartition(":")[2].rstrip("/")
    script = folder / "request.lua"
    script.write_text(
        f'wrk.resolve = function() wrk.addrs = wrk.lookup("127.0.0.1", "{port}") end\n'
        f"wrk.format = function() return {request} end\n"
    )
    command = [
        _missing("wrk"),
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--latency",
        "--timeout",
        "30s",
        "-s",
        str(script),
        url,
    ]
    output = _run(core, command)
    count = int(_found(r"(\d+) requests in", output))
    if "Non-2xx" in output or "Socket errors" in output or not count:
        raise ClientFault(f"requests failed: {_lines(output, 'Non-2xx', 'Socket errors', 'requests in')}")
    rate = float(_found(r"Requests/sec:\s+([\d.]+)", output))
    return Sample(count, count / rate, *(_wrk_percentile(percent, output) for percent in (50, 99)))


def _wrk_percentile(percent: int, output: str) -> float:
    value = _found(rf"{percent}%\s+([\d.]+[mu]?[sm])", output)
    number, unit = re.fullmatch(r"([\d.]+)(\D+)", value).groups()  # type: ignore[union-attr]
    return float(number) * _MILLISECONDS[unit]


def h2load(
    folder: Path, core: int, url: str, service: str, fields: dict[str, str], body: bytes, shape: str, seconds: int
) -> Sample:
    """HTTP/2 with prior knowledge. `shape` is "CONNECTIONSxSTREAMS": so many streams on each of so many connections."""
    connections, streams = shape.split("x")
    options = [f"-c{connections}", f"-m{streams}"]
    if body:
        path = folder / "message"
        path.write_bytes(body)
        options.append(f"--data={path}")
    log = folder / "h2load.log"
    log.unlink(missing_ok=True)
    command = [_missing("h2load"), "-t1", f"-D{seconds}", f"--log-file={log}", *options]
    command += [f"-H:authority: {host(service)}", *(f"-H{name.lower()}: {value}" for name, value in fields.items())]
    output = _run(core, [*command, url])
    failed = int(_found(r"(\d+) failed, ", output)) + int(_found(r"(\d+) errored, ", output))
    bad = sum(int(number) for number in re.findall(r"(\d+) [345]xx", output))
    count = int(_found(r"(\d+) succeeded, ", output))
    # Streams still open when the time is over end with the connections; h2load does not count those as failed.
    if failed or bad or not count:
        raise ClientFault(f"requests failed: {_lines(output, 'requests:', 'status codes:')}")
    times = sorted(int(line.rpartition(b"\t")[2]) / 1000 for line in log.read_bytes().splitlines())
    p50, p99 = (times[int(share * (len(times) - 1))] for share in (0.5, 0.99))
    return Sample(count, seconds, p50, p99)


def websocket(core: int, port: int, service: str, connections: int, seconds: int) -> Sample:
    """Small messages echoed, one in flight on each connection."""
    command = python_module("matrix.websocket", host(service), str(port), str(connections), str(seconds))
    said = json.loads(_run(core, command))
    if said["faults"] or not said["count"]:
        raise ClientFault(f"the echo failed: {said['faults']}")
    return Sample(said["count"], said["seconds"], said["p50"], said["p99"])


def stream(core: int, port: int, service: str, size: int) -> Sample:
    """One download of `size` bytes, counted in MiB. The kernel drops the bytes unread (MSG_TRUNC), so that the client
    costs next to nothing."""
    head_end = b"\r\n\r\n"
    chunk = bytearray(1 << 20)
    os.sched_setaffinity(0, {core})
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(60)
        began = time.perf_counter()
        client.sendall(f"GET /stream HTTP/1.1\r\nHost: {host(service)}\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while head_end not in data:
            piece = client.recv(4096)
            if not piece:
                raise ClientFault(f"the stream ended in its head: {data!r}")
            data += piece
        if not data.startswith(b"HTTP/1.1 200 "):
            raise ClientFault(f"not streamed: {data[:200]!r}")
        left = size - len(data.partition(head_end)[2])
        while left > 0:
            count = client.recv_into(chunk, min(left, len(chunk)), socket.MSG_TRUNC)
            if not count:
                raise ClientFault(f"the stream ended {left} bytes early")
            left -= count
        elapsed = time.perf_counter() - began
    return Sample(size / 2**20, elapsed, elapsed * 1000, elapsed * 1000)
