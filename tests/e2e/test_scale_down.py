"""Nobody loses a request because replicas go: under load, with an application that ends abruptly at SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.callers import Callers
from tests.e2e.harness import wait_for, wait_for_equal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.harness import Answer, Platform

REVISION = "hello-00001"
LONG = b"3"
"""Seconds of a request; longer than a pod's preStop hook, which alone would not save it."""


@pytest.fixture
def service(platform: Platform) -> Iterator[Platform]:
    """A platform with the service `hello`."""
    platform.apply(abrupt(platform))
    platform.wait_ready("hello")
    yield platform
    (platform.folder / "let-go").touch()


def abrupt(platform: Platform, target: str = "one", **spec: Any) -> dict[str, Any]:
    env = [{"name": "TARGET", "value": target}, {"name": "ABRUPT", "value": "1"}]
    return platform.service(target=target, container={"env": env}, **spec)


def scale(platform: Platform, replicas: int, revision: str = REVISION) -> None:
    """What min-scale and max-scale make it."""
    platform.kubectl(
        *("annotate", "--overwrite", "rev", revision),
        *(f"autoscaling.knative.dev/{bound}={replicas}" for bound in ("min-scale", "max-scale")),
    )


def scaled(platform: Platform, replicas: int) -> None:
    scale(platform, replicas)
    wait_for_equal(lambda: running(platform), replicas)


def running(platform: Platform) -> int:
    """Pods that are ready and not going."""
    return sum(
        "deletionTimestamp" not in pod["metadata"] and is_ready(pod)
        for pod in platform.get("pods", "-l", "serving.knative.dev/service=hello")
    )


def is_ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in (pod.get("status") or {}).get("conditions", ()))


def explained(platform: Platform, revision: str = REVISION) -> dict[str, Any]:
    account: dict[str, Any] = json.loads(platform.zerogate("explain", revision, "-o", "json").stdout)
    return account


class Holding:
    """Requests that end when the test lets go."""

    def __init__(self, platform: Platform, count: int) -> None:
        self.platform, self.count = platform, count
        self.answers: list[Answer | None] = []
        self._threads = [threading.Thread(target=self._hold) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        wait_for("the requests to be in hand", lambda: platform.in_flight() == count)

    def _hold(self) -> None:
        try:
            self.answers.append(self.platform.ask("hello", "/hold", timeout=60))
        except OSError:
            self.answers.append(None)

    def holders(self) -> set[int]:
        return {int(path.name.rpartition("-")[2]) for path in self.platform.folder.glob("held-by-*")}

    def let_go(self) -> list[Answer | None]:
        (self.platform.folder / "let-go").touch()
        for thread in self._threads:
            thread.join(30)
        return self.answers


def pids(platform: Platform, count: int = 30) -> set[int]:
    """Who answers."""
    return {int(platform.ask("hello", "/pid").text) for _ in range(count)}


def test_up_and_down_under_load(service: Platform) -> None:
    """Every request is answered, those too that take longer than anybody's grace."""
    with Callers(service, 4) as short, Callers(service, 4, path="/sleep", body=LONG) as long:
        for replicas in (3, 1, 4, 1):
            seen = long.answered
            scaled(service, replicas)
            wait_for("long requests in every phase", lambda seen=seen: long.answered >= seen + 4)
    assert (short.failures, long.failures) == ([], [])
    assert short.answered > 100


def test_a_replica_with_requests_is_waited_for_and_can_be_had_back(service: Platform) -> None:
    """It gets nothing new and goes when it has finished, which is explained; wanted again it serves at once, the same
    process. The one without requests goes first."""
    scaled(service, 2)
    holding = Holding(service, 2)
    wait_for_equal(lambda: len(holding.holders()), 2)
    scale(service, 1)
    wait_for_equal(lambda: len(explained(service)["draining"]), 1)
    wait_for_equal(lambda: len(pids(service)), 1)
    assert running(service) == 2
    account = explained(service)
    assert (account["desiredScale"], account["actualScale"]) == (1, 2)
    assert [entry["inFlight"] for entry in account["draining"]] == [1]
    wait_for("the reason", lambda: any(entry["reason"] == "Draining" for entry in explained(service)["history"]))

    scale(service, 2)
    wait_for_equal(lambda: pids(service), holding.holders())
    assert not explained(service)["draining"]

    scaled(service, 3)
    wait_for_equal(lambda: len(pids(service)), 3)
    scaled(service, 2)
    wait_for_equal(lambda: pids(service), holding.holders())

    scale(service, 1)
    wait_for_equal(lambda: len(pids(service)), 1)
    assert [answer and answer.status for answer in holding.let_go()] == [200, 200]
    wait_for_equal(lambda: running(service), 1)


def test_a_rollout_under_load(service: Platform) -> None:
    """Requests that are in hand or wait in the queue of the old revision are answered, and its pods go."""
    limited = {"containerConcurrency": 2, "annotations": {"max-scale": "1", "window": "6s"}}
    service.apply(abrupt(service, "two", **limited))
    service.wait_ready("hello")
    wait_for("the second revision", lambda: service.ask("hello").text == "two")
    with Callers(service, 6, path="/sleep", body=LONG) as long:
        wait_for("a queue", lambda: service.in_flight() == 6)
        service.apply(abrupt(service, "three"))
        service.wait_ready("hello")
        wait_for("the third revision", lambda: service.ask("hello").text == "three")
        wait_for("the second revision's pod to go", lambda: not live(service, "hello-00002"), 60)
    assert long.failures == []


def live(platform: Platform, revision: str = REVISION) -> list[dict[str, Any]]:
    pods = platform.get("pods", "-l", f"serving.knative.dev/revision={revision}")
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def test_a_crash_costs_what_the_process_had_in_hand(service: Platform) -> None:
    """And nothing else: the other replica's requests end well, and nobody is sent to the dead one."""
    scaled(service, 2)
    holding = Holding(service, 4)
    wait_for_equal(lambda: len(holding.holders()), 2)
    victim = min(holding.holders())
    with Callers(service, 4) as callers:
        wait_for("traffic", lambda: callers.answered > 50)
        os.kill(victim, signal.SIGKILL)
        wait_for("the requests in its hand to end", lambda: len(holding.answers) == 2)
        seen = callers.answered
        wait_for("traffic to go on", lambda: callers.answered > seen + 100)
    assert len(callers.failures) <= 4, "one request in hand for each caller"
    ends = [answer and answer.status for answer in holding.let_go()]
    assert ends.count(200) == 2
    assert all(end in (None, 200, 502, 503) for end in ends)


def test_a_pod_deleted_by_hand_under_load(service: Platform) -> None:
    """Nobody sends there any more when its preStop hook is over, and what it had by then is finished."""
    scaled(service, 2)
    with Callers(service, 4) as callers:
        wait_for("traffic", lambda: callers.answered > 50)
        victim = live(service)[0]["metadata"]["name"]
        service.kubectl("delete", "pod", victim)
        wait_for_equal(lambda: running(service), 2)
        seen = callers.answered
        wait_for("traffic to go on", lambda: callers.answered > seen + 100)
    assert callers.failures == []
