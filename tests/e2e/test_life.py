"""The life of a service, as its owner sees it: kubectl on one side, HTTP requests on the other."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import wait_for

if TYPE_CHECKING:
    from tests.e2e.harness import Answer, Platform

QUICK = {"window": "6s"}


def quick_scale_to_zero(platform: Platform) -> None:
    """The shortest grace period, so that a test of scale to zero takes seconds."""
    platform.kubectl(
        *("patch", "configmap", "config-autoscaler", "-n", "knative-serving", "--type", "merge"),
        *("-p", json.dumps({"data": {"scale-to-zero-grace-period": "1s"}})),
    )


def pods(platform: Platform) -> list[str]:
    return [pod["metadata"]["name"] for pod in platform.get("pods")]


def cold_starts(platform: Platform) -> float:
    """Requests that waited for one and were sent."""
    name = 'zerogate_gateway_cold_start_duration_seconds_count{phase="dispatch"}'
    return sum(float(line.split()[-1]) for line in platform.metrics().splitlines() if line.startswith(name))


def assert_tells_where_the_time_went(answer: Answer) -> None:
    """Every phase in its order, and the whole that they are the parts of."""
    parts = dict(part.split(";dur=") for part in answer.fields["server-timing"].split(", "))
    assert list(parts) == ["decide", "create", "start", "ready", "dispatch"]
    times = {name: float(text) for name, text in parts.items()}
    assert sum(times.values()) == pytest.approx(float(answer.fields["x-zerogate-cold-start"]))
    assert min(times["create"], times["start"], times["ready"]) > 0


def test_a_service_from_yaml_to_zero_and_back(platform: Platform) -> None:
    """Apply, Ready, traffic, a new revision, 90/10, a tag's host, rollback, idle, zero, a cold request, delete."""
    quick_scale_to_zero(platform)
    platform.apply(platform.service(target="one", annotations=QUICK))
    platform.wait_ready("hello")
    assert platform.ask("hello").text == "one"

    platform.apply(platform.service(target="two", annotations=QUICK))
    platform.wait_ready("hello")
    wait_for("the new revision to answer", lambda: platform.ask("hello").text == "two")
    service = platform.get("ksvc", "hello")
    assert service["status"]["latestReadyRevisionName"] == "hello-00002"
    assert [rev["metadata"]["name"] for rev in platform.get("rev")] == ["hello-00001", "hello-00002"]

    split = [
        {"revisionName": "hello-00001", "percent": 90, "tag": "old"},
        {"revisionName": "hello-00002", "percent": 10, "tag": "new"},
    ]
    platform.apply(platform.service(target="two", annotations=QUICK, traffic=split))
    platform.wait_ready("hello")
    wait_for("the tag's host", lambda: platform.ask("old-hello").text == "one")
    assert platform.ask("new-hello").text == "two"
    answers = Counter(platform.ask("hello").text for _ in range(400))
    assert set(answers) == {"one", "two"}
    # 400 draws at 10 %: mean 40, standard deviation 6; seven of them either way never fail by chance.
    assert abs(answers["two"] - 40) <= 42, answers

    rollback = [{"revisionName": "hello-00001", "percent": 100}]
    platform.apply(platform.service(target="two", annotations=QUICK, traffic=rollback))
    platform.wait_ready("hello")
    wait_for("the rollback", lambda: platform.ask("hello").text == "one")
    assert {platform.ask("hello").text for _ in range(50)} == {"one"}
    assert platform.ask("old-hello").status == 404, "a tag that is no longer in the spec has no host"

    wait_for("no pod when nobody calls", lambda: not pods(platform), 60)
    assert not platform.processes_of_application()
    assert platform.get("rev", "hello-00001")["status"]["conditions"], "a revision at zero is still there"
    platform.kubectl("wait", "ksvc/hello", "--for=condition=Ready", "--timeout=5s")

    before = cold_starts(platform)
    answer = platform.ask("hello")
    assert (answer.status, answer.text) == (200, "one"), "the request that wakes a revision is answered"
    assert_tells_where_the_time_went(answer)
    assert cold_starts(platform) == before + 1
    warm = platform.ask("hello")
    assert "x-zerogate-cold-start" not in warm.fields, "only who waited is told"
    assert "server-timing" not in warm.fields

    platform.kubectl("delete", "ksvc", "hello", "--wait=false")
    kinds = "ksvc,rt,cfg,rev,kpa,king,deploy,pods,svc,endpointslices"
    wait_for("nothing to be left", lambda: platform.kubectl("get", kinds, "-o", "name").stdout == "", 60)
    wait_for("no process to be left", lambda: not platform.processes_of_application())
    wait_for("the host to be unknown", lambda: platform.ask("hello").status == 404)


def test_scale_out_under_concurrency(platform: Platform) -> None:
    """Five requests at once on a service that takes one at a time: five pods, each answering one of them.

    No request is answered before five processes have one: nobody could answer two of them one after the other.
    """
    platform.apply(platform.service(annotations={"window": "6s", "max-scale": "5"}, containerConcurrency=1))
    platform.wait_ready("hello")
    with ThreadPoolExecutor(5) as clients:
        requests = [clients.submit(platform.ask, "hello", "/hold", timeout=60) for _ in range(5)]
        try:
            wait_for("five processes to have a request", lambda: len(list(platform.folder.glob("held-by-*"))) == 5)
            assert len(pods(platform)) == 5
        finally:
            (platform.folder / "let-go").touch()
        answers = [request.result() for request in requests]
    assert [answer.status for answer in answers] == [200] * 5
    assert {f"held-by-{answer.text}" for answer in answers} == {held.name for held in platform.folder.glob("held-by-*")}


def test_cluster_local_services_are_not_public(platform: Platform) -> None:
    """A cluster-local service answers on the cluster-local listener only, under its cluster-local names."""
    service = platform.service()
    service["metadata"]["labels"] = {"networking.knative.dev/visibility": "cluster-local"}
    platform.apply(service)
    platform.wait_ready("hello")
    assert platform.get("ksvc", "hello")["status"]["url"] == "http://hello.default.svc.cluster.local"
    for host in ("hello.default", "hello.default.svc", "hello.default.svc.cluster.local"):
        assert platform.ask_local(host).text == "one"
    assert platform.ask("hello").status == 404


def test_environment_of_a_replica(platform: Platform) -> None:
    """A replica gets Knative's variables, its own values, and no credential of the platform."""
    platform.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "settings", "namespace": "default"},
            "data": {"COLOUR": "blue"},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "secret", "namespace": "default"},
            "stringData": {"TOKEN": "s3cret"},
        },
    )
    env = [
        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "COLOUR"}}},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "TOKEN"}}},
    ]
    platform.apply(platform.service(container={"env": env}))
    platform.wait_ready("hello")
    seen = json.loads(platform.ask("hello", "/env").text)
    expected = {
        "K_SERVICE": "hello",
        "K_CONFIGURATION": "hello",
        "K_REVISION": "hello-00001",
        "COLOUR": "blue",
        "TOKEN": "s3cret",
    }
    assert {name: seen.get(name) for name in expected} == expected
    assert int(seen["PORT"])
    assert {name for name in seen if "KUBE" in name or "ZEROGATE" in name} == {"ZEROGATE_CONTAINER"}, "its own marker"


def test_logs(platform: Platform) -> None:
    """What a replica prints is there for kubectl and for zerogate, by service and by pod."""
    platform.apply(platform.service())
    platform.wait_ready("hello")
    platform.ask("hello", "/a-path-to-find")
    wait_for("the log line", lambda: "a-path-to-find" in platform.zerogate("logs", "hello").stdout)
    (pod,) = pods(platform)
    assert "served /a-path-to-find" in platform.kubectl("logs", pod).stdout
    assert platform.kubectl("logs", pod, "--tail=1").stdout.count("\n") == 1
