"""How long the first request of a service at zero takes, and whose time it is.

    python load/coldstart.py --sequential 20 --parallel 100

Starts a `zerogate up` of its own, applies N services at zero scale, and asks each for its first answer: one after the
other, then all at once. For each request it prints the total (connect to last byte), the application's own share (from
the exec of its process until it listens, which the application reports in its answer: both instants are taken from the
machine's boot clock) and the platform's share, the difference. Before and after the parallel run a bare shell loop
starts the same number of the same processes with no platform at all, and the time until each accepts a connection is
taken; who asks does so as often as the gateway would. On a machine that others use as well, look at the ratio, and at
the CPU time that the control process took for each wake.

The bars, and whether they were met, come last: the platform's share of a single cold start, and the p95 of a burst as a
multiple of the bare loop's.

Between them stand the phases of each wait as the responses tell them (`gateway/core/coldstart.py`): the application's
own share is nearly all of `ready`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple, cast

# The application: a plain socket server in Python without site-packages. `starttime` of /proc/self/stat counts clock
# ticks (10 ms), too coarse here; so the exec instant is read from the environment's own clock at the first statement
# of the interpreter, and the interpreter's start is added from a measurement of `python3 -S -c pass` beside it.
APPLICATION = """
import time
started = time.clock_gettime(time.CLOCK_BOOTTIME)
import os, socket
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", int(os.environ["PORT"])))
server.listen(128)
listening = time.clock_gettime(time.CLOCK_BOOTTIME)
while True:
    peer, _ = server.accept()
    if not peer.recv(65536):
        continue
    body = ("%f %f" % (started, listening)).encode()
    peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n" % len(body) + body)
    peer.close()
"""


ALLOW_ZERO = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "config-autoscaler", "namespace": "knative-serving"},
    "data": {"allow-zero-initial-scale": "true"},
}


P50_BAR, P95_BAR = 0.025, 0.050
"""Seconds of the platform's share, one after the other."""
RATIO_BAR = 1.5
"""p95 of the burst in multiples of the bare loop's."""

_BARE_PORTS = 30100
"""Away from the ports that the platform gives its replicas."""
_ASK_EVERY = 0.025
"""Seconds; as the gateway asks when a hundred endpoints are starting."""


class First(NamedTuple):
    """One first request; seconds. `phases` is what its response says of its wait, in their order."""

    total: float
    application: float
    phases: dict[str, float]

    @property
    def platform(self) -> float:
        return self.total - self.application


def interpreter_start() -> float:
    """Median seconds from fork to the first statement of `python3 -S -c ...`, on this machine, now."""
    code = "import time; print(time.clock_gettime(time.CLOCK_BOOTTIME))"
    samples = []
    for _ in range(15):
        began = time.clock_gettime(time.CLOCK_BOOTTIME)
        output = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, check=True).stdout
        samples.append(float(output) - began)
    return statistics.median(samples)


def service(name: str, window: str = "3600s") -> dict[str, object]:
    annotations = {"autoscaling.knative.dev/initial-scale": "0", "autoscaling.knative.dev/window": window}
    container = {"image": "coldstart", "command": [sys.executable, "-S", "-c", APPLICATION]}
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": {"metadata": {"annotations": annotations}, "spec": {"containers": [container]}}},
    }


class Platform:
    """A `zerogate up` of our own, stopped at the end."""

    def __init__(self, folder: Path, port: int, *options: str) -> None:
        self.port = port
        self._options = options
        self._folder = folder
        self._zerogate = str(Path(sys.executable).parent / "zerogate")
        self._kubeconfig = folder / "data" / "kubeconfig"

    def __enter__(self) -> Platform:
        command = [self._zerogate, "up", "--data-dir", str(self._folder / "data"), "--port", str(self.port)]
        command += self._options
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "Ctrl-C" in line:
                return self
        raise SystemExit("zerogate up did not start")

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)

    @property
    def pid(self) -> int:
        """The control process."""
        return self._process.pid

    def cpu(self) -> float:
        """Seconds of CPU, user and system, that the control process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        environment = {**os.environ, "ZEROGATE_KUBECONFIG": str(self._kubeconfig)}
        command = [self._zerogate, *arguments]
        return subprocess.run(command, input=stdin, env=environment, capture_output=True, text=True, check=True).stdout

    def apply(self, services: list[dict[str, object]]) -> None:
        """The services, which may begin at zero; returns when all are Ready."""
        names = {str(cast("dict[str, object]", one["metadata"])["name"]) for one in services}
        self.run("apply", "--force-conflicts", "-f", "-", stdin=json.dumps(ALLOW_ZERO))
        self.run("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, services)))
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            found = json.loads(self.run("get", "ksvc", "-o", "json"))["items"]
            conditions = {item["metadata"]["name"]: item.get("status", {}).get("conditions", []) for item in found}
            ready = {
                name
                for name, states in conditions.items()
                if any(c["type"] == "Ready" and c["status"] == "True" for c in states)
            }
            if ready.issuperset(names):
                return
            time.sleep(0.2)
        raise SystemExit(f"not ready within 120 s: {sorted(names - ready)}")

    def at_once(self, names: list[str]) -> list[tuple[float, bytes]]:
        """A request to each of the services, one may be named many times, all at once: seconds until the answer was
        there, and the answer; what came of it where the connection broke. From one thread: on a small machine a hundred
        client threads would take the time that the services need to start."""
        answers: dict[socket.socket, bytes] = {}
        totals: dict[socket.socket, float] = {}
        with contextlib.ExitStack() as stack:
            waiting = stack.enter_context(selectors.DefaultSelector())
            began = time.perf_counter()
            for name in names:
                client = stack.enter_context(socket.create_connection(("127.0.0.1", self.port)))
                client.sendall(
                    f"GET / HTTP/1.1\r\nHost: {name}.default.localhost\r\nConnection: close\r\n\r\n".encode()
                )
                client.setblocking(False)
                waiting.register(client, selectors.EVENT_READ)
                answers[client] = b""
            while len(totals) < len(names):
                ready = waiting.select(120)
                if not ready:
                    raise SystemExit(f"{len(names) - len(totals)} of {len(names)} got no answer within 120 s")
                for key, _ in ready:
                    client = cast("socket.socket", key.fileobj)
                    try:
                        data = client.recv(65536)
                    except ConnectionError:
                        data = b""
                    answers[client] += data
                    if not data:
                        totals[client] = time.perf_counter() - began
                        waiting.unregister(client)
        return [(totals[client], answer) for client, answer in answers.items()]

    def firsts(self, names: list[str], interpreter: float) -> list[First]:
        """The first requests of services at zero, all at once."""
        return [_first(answer, total, interpreter) for total, answer in self.at_once(names)]


def _first(answer: bytes, total: float, interpreter: float) -> First:
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise SystemExit(f"not answered: {answer!r}")
    started, listening = map(float, body.split())
    told = re.search(rb"server-timing: (.*)\r\n", head + b"\r\n")
    if told is None:
        raise SystemExit(f"not told where the time went: {head!r}")
    parts = (part.split(";dur=") for part in told[1].decode().split(", "))
    return First(total, listening - started + interpreter, {name: float(text) / 1000 for name, text in parts})


def bare_loop(count: int, first_port: int) -> list[float]:
    """The same processes started by a shell loop: seconds from its start until each accepts a connection, sorted."""
    ports = range(first_port, first_port + count)
    starts = [f'PORT={port} {sys.executable} -S -c "$APPLICATION" >/dev/null 2>&1 & echo $!' for port in ports]
    environment = {**os.environ, "APPLICATION": APPLICATION}
    began = time.perf_counter()
    shell = subprocess.Popen(["sh", "-c", "\n".join(starts)], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        return _accepted(set(ports), began)
    finally:
        assert shell.stdout is not None
        for pid in shell.stdout.read().split():
            os.kill(int(pid), signal.SIGKILL)
        shell.wait()


def _accepted(ports: set[int], began: float) -> list[float]:
    times: list[float] = []
    while ports:
        if time.perf_counter() - began > 120:
            raise SystemExit(f"{len(ports)} processes of the bare loop do not listen within 120 s")
        time.sleep(_ASK_EVERY)
        for port in tuple(ports):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    times.append(time.perf_counter() - began)
                    ports.remove(port)
    return times


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def row(name: str, values: list[float]) -> str:
    cells = (percentile(values, 0.5), percentile(values, 0.95), max(values))
    return f"{name:<28}" + "".join(f"{1000 * cell:>10.1f}" for cell in cells)


def phase_rows(firsts: list[First]) -> list[str]:
    """One for each phase that any of these requests has been told."""
    names = dict.fromkeys(name for first in firsts for name in first.phases)
    return [row(f"  {name}", [first.phases[name] for first in firsts if name in first.phases]) for name in names]


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequential", type=int, default=20, metavar="N", help="services woken one after the other")
    parser.add_argument("--parallel", type=int, default=100, metavar="N", help="services woken at once")
    parser.add_argument("--port", type=int, default=18080)
    arguments = parser.parse_args()
    heading = f"{'milliseconds':<28}{'p50':>10}{'p95':>10}{'max':>10}"
    with tempfile.TemporaryDirectory() as temporary, Platform(Path(temporary), arguments.port) as platform:
        one_by_one = [f"one-{n}" for n in range(arguments.sequential)]
        at_once = [f"all-{n}" for n in range(arguments.parallel)]
        platform.apply([service(name) for name in one_by_one + at_once])
        interpreter = interpreter_start()

        print(f"{arguments.sequential} services at zero, one after the other\n{heading}")
        single = [platform.firsts([name], interpreter)[0] for name in one_by_one]
        print(row("total", [first.total for first in single]))
        print(row("application", [first.application for first in single]))
        print(row("platform", [first.platform for first in single]))
        print("as the responses tell:", *phase_rows(single), sep="\n")

        bare = bare_loop(arguments.parallel, _BARE_PORTS)
        cpu = platform.cpu()
        together = platform.firsts(at_once, interpreter)
        cpu = platform.cpu() - cpu
        bare += bare_loop(arguments.parallel, _BARE_PORTS + arguments.parallel)
    burst = [first.total for first in together]
    print(f"\n{arguments.parallel} services at zero, all at once\n{heading}")
    print(row("total", burst))
    print("as the responses tell:", *phase_rows(together), sep="\n")
    print(row("bare shell loop, twice", bare))
    print(f"control process: {1000 * cpu / arguments.parallel:.1f} ms of CPU for each wake")

    p50, p95 = (percentile([first.platform for first in single], share) for share in (0.5, 0.95))
    ratio = percentile(burst, 0.95) / percentile(bare, 0.95)
    print(f"\nplatform's share, p50: {1000 * p50:.1f} ms, bar {1000 * P50_BAR:.0f} ms: {verdict(p50 <= P50_BAR)}")
    print(f"platform's share, p95: {1000 * p95:.1f} ms, bar {1000 * P95_BAR:.0f} ms: {verdict(p95 <= P95_BAR)}")
    print(f"burst's p95: {ratio:.2f} times the bare loop's, bar {RATIO_BAR}: {verdict(ratio <= RATIO_BAR)}")


if __name__ == "__main__":
    main()
