"""Dashboards agree with what is exported: a real Prometheus scrapes both planes and evaluates every query."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.e2e.harness import free_ports, peer, request, wait_for, wait_for_equal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.harness import Platform

DASHBOARDS = sorted(Path(__file__).parents[2].glob("deploy/grafana/*.json"))


def queries(dashboard: Path) -> Iterator[tuple[str, str]]:
    """(panel's title, PromQL) of each query, Grafana's variables replaced as Grafana would."""
    for panel in json.loads(dashboard.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "20s").replace("$namespace", ".*")


@contextlib.contextmanager
def prometheus(platform: Platform) -> Iterator[Callable[[str], list[Any]]]:
    """A Prometheus that scrapes the platform each second; yields a function that evaluates a query."""
    port = free_ports(1)
    targets = [f"127.0.0.1:{platform.port + 2}", f"127.0.0.1:{platform.port + 3}"]
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "zerogate", "static_configs": [{"targets": targets}]}],
    }
    file = platform.folder / "prometheus.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    command = [
        peer("ZEROGATE_PROMETHEUS", "prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={platform.folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def query(expression: str) -> list[Any]:
        path = "/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        try:
            answer = request(port, "localhost", path)
        except OSError:
            return []  # not listening yet
        if answer.status == 503:
            return []  # reading its storage
        assert answer.status == 200, f"{expression}: {answer}"
        result: list[Any] = json.loads(answer.text)["data"]["result"]
        return result

    try:
        wait_for("two targets to be up", lambda: len(query("up == 1")) == 2)
        yield query
    finally:
        process.terminate()
        process.wait(10)


def test_every_query_of_every_dashboard(platform: Platform) -> None:
    """After some traffic, a cold start among it, no query of a dashboard is empty."""
    assert DASHBOARDS
    platform.apply(platform.service())
    platform.wait_ready("hello")
    with prometheus(platform) as query:

        def empty() -> list[str]:
            platform.ask("hello")
            platform.ask("nobody")
            return [
                f"{dashboard.name}, {title}: {expression}"
                for dashboard in DASHBOARDS
                for title, expression in queries(dashboard)
                if not query(expression)
            ]

        wait_for_equal(empty, [], 40)
