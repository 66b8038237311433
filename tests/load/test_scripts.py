"""The benchmarks start: they run once a release, and must not be found broken then. What they measure is not tested."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

LOAD = Path(__file__).parents[2] / "load"
SHAPE = """
import runpy
names = runpy.run_path("load/locustfile.py")
shape = names["BurstFromZero"]()
print(shape.tick())
shape.start_time -= 5
print(shape.tick())
shape.start_time -= 2.5
print(shape.tick())
"""

needs_backend = pytest.mark.skipif(
    not shutil.which("wrk") or not shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"),
    reason="nginx or wrk is not installed",
)


def python(*arguments: str, **environment: str) -> str:
    """What a Python process of its own prints; locust changes the modules of the process that imports it."""
    command = [sys.executable, *arguments]
    env = {**os.environ, **environment}
    done = subprocess.run(command, cwd=LOAD.parent, env=env, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "script",
    [
        *(
            "abandon.py",
            "autoscaler.py",
            "burst.py",
            "coldstart.py",
            "cycles.py",
            "hotpath.py",
            "http2.py",
            "memory.py",
        ),
        *("limits.py", "proxy.py", "routes.py", "simulation.py", "wakes.py", "workers.py"),
    ],
)
def test_help(script: str) -> None:
    """Each imports what it needs and names its options."""
    assert "--help" in python(f"load/{script}", "--help")


@pytest.mark.slow
@needs_backend
def test_the_gateway_carries_every_workload_of_the_matrix(tmp_path: Path) -> None:
    """A row for each; those of HTTP/2 and gRPC where Debian's client and server for them are installed."""
    names = ["bare", "fields", "10k", "post", "chunked", "1000", "tls", "websocket", "stream"]
    if shutil.which("h2load") and shutil.which("nghttpd"):
        names += ["h2", "grpc"]
    output = tmp_path / "results.json"
    python("load/proxy.py", "--smoke", "--only", "gateway", "--workloads", *names, "--json", str(output))
    workloads = json.loads(output.read_text())["workloads"]
    assert {name: len(peers.get("gateway", ())) for name, peers in workloads.items()} == dict.fromkeys(names, 1)


def test_the_autoscalers_cost() -> None:
    """A row for each load, and what the word of shrinking revisions costs."""
    lines = python("load/autoscaler.py", "--revisions", "100", "--seconds", "4").splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")][2:] == [
        *("0 of 100 busy", "10 of 100 busy", "100 of 100 busy"),
    ]
    assert lines[-1].startswith("a second of InFlight, 10 revisions shrinking: ")


@pytest.mark.slow
@needs_backend
def test_the_benchmark_of_routes_runs() -> None:
    """Its stand-in for the controller's runner offers what the publisher asks of it; every table has its rows."""
    printed = python("load/routes.py", "--services", "100", "--rounds", "1", "--seconds", "1")
    assert [line.count("|") for line in printed.splitlines() if line.startswith("| 100")].count(6) >= 3


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"), reason="nginx is not installed")
def test_idle_connections_cost_little_memory() -> None:
    """The script's own bar, with enough connections to notice a buffer for each."""
    assert "is met" in python("load/memory.py", "--connections", "2000")


def test_podstart_imports() -> None:
    """It has no options; whatever it takes from the platform is still there."""
    python("-c", "import runpy; runpy.run_path('load/podstart.py')")


@pytest.mark.skipif(find_spec("locust") is None, reason="locust is not installed: pip install .[load]")
def test_the_burst_ends_by_itself() -> None:
    """All callers within a second, for as long as SECONDS says; then the shape is over, and with it the run."""
    printed = python("-c", SHAPE, USERS="30", SECONDS="7")
    assert printed.splitlines() == ["(30, 30.0)", "(30, 30.0)", "None"]


def test_the_warm_path_without_sockets() -> None:
    """Every request gets its response, by either codec."""
    for pure in ("0", "1"):
        printed = python("load/hotpath.py", "--once", "--requests", "50", ZEROGATE_PURE_PYTHON=pure)
        assert "µs a request" in printed
