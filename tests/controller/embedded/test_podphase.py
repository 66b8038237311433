"""Pod status from events and time: rows of kubelet's rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from controller.embedded import podphase
from controller.embedded.podphase import Life, Tally, Waiting

T0 = datetime(2026, 1, 1, tzinfo=UTC)
POD = {"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": [{"name": "c"}]}}


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def running(life: Life, now: datetime, *, probed: bool = False) -> Life:
    return podphase.started(life, 7, now, startup_probe=False, readiness_probe=probed)


def crash(life: Life, now: datetime, *, code: int = 1, policy: str = "Always") -> Life:
    return podphase.exited(life, code, 0, out_of_memory=False, message="boom", policy=policy, now=now)


def status(*lives: Life, old: dict | None = None, now: datetime = T0) -> dict:
    return podphase.pod_status(POD, lives, old or {}, T0, now)


def condition(pod_status: dict, kind: str) -> dict:
    return next(entry for entry in pod_status["conditions"] if entry["type"] == kind)


def test_first_restart_is_immediate_then_ten_seconds_doubling_to_five_minutes():
    """Kubelet's restart back-off: 0, 10, 20, 40, 80, 160, 300, 300 s after each end."""
    life, now, delays = Life("c", "i"), T0, []
    for _ in range(8):
        life = crash(running(life, now), now + timedelta(seconds=1))
        now = life.retry_at
        delays.append((life.retry_at - life.last.finished_at).total_seconds())
    assert delays == [0, 10, 20, 40, 80, 160, 300, 300]
    assert life.restarts == 8


def test_ten_minutes_of_running_reset_the_back_off():
    """A container that ran that long starts again at once, whatever came before."""
    life = Life("c", "i")
    for _ in range(4):
        life = crash(running(life, T0), T0)
    life = crash(running(life, T0), at(600))
    assert life.retry_at == at(600)


def test_crash_loop_says_how_long_and_what():
    """The second crash waits ten seconds: the status says so, and the deadline is when they are over."""
    life = crash(running(crash(running(Life("c", "i"), T0), T0), T0), T0)
    assert life.waiting == Waiting("CrashLoopBackOff", "back-off 10s restarting failed container=c")
    assert not podphase.due(life, at(9.9))
    assert podphase.due(life, at(10))
    assert podphase.deadline([life]) == at(10)


@pytest.mark.parametrize(
    ("policy", "code", "phase", "again"),
    [
        ("Always", 0, "Pending", True),
        ("Always", 1, "Pending", True),
        ("OnFailure", 0, "Succeeded", False),
        ("OnFailure", 1, "Pending", True),
        ("Never", 0, "Succeeded", False),
        ("Never", 1, "Failed", False),
    ],
)
def test_restart_policy_decides_between_restart_and_end(policy, code, phase, again):
    """A container waiting for its immediate restart has run before: kubelet calls such a pod Running."""
    life = crash(running(Life("c", "i"), T0), T0, code=code, policy=policy)
    assert podphase.due(life, T0) is again
    assert status(life)["phase"] == ("Running" if again else phase)


def test_an_end_is_told_in_last_state():
    """Exit code, signal, reason, last words and both times are there while the next life waits."""
    life = podphase.exited(
        running(Life("c", "i"), T0), 137, 9, out_of_memory=True, message="last words", policy="Always", now=at(5)
    )
    told = status(life)["containerStatuses"][0]
    assert told["restartCount"] == 1
    assert told["lastState"] == {
        "terminated": {
            "exitCode": 137,
            "signal": 9,
            "reason": "OOMKilled",
            "message": "last words",
            "startedAt": "2026-01-01T00:00:00Z",
            "finishedAt": "2026-01-01T00:00:05Z",
        }
    }


def test_a_program_that_cannot_start_is_a_start_error_with_back_off():
    """It counts as a crash with exit code 128, and its wait doubles."""
    life = podphase.unstartable(Life("c", "i"), 'exec: "x": no', policy="Always", now=T0)
    assert life.waiting == Waiting("RunContainerError", 'exec: "x": no')
    assert (life.last.exit_code, life.last.reason, life.last.message) == (128, "StartError", 'exec: "x": no')
    assert life.retry_at == at(10)
    again = podphase.unstartable(life, 'exec: "x": no', policy="Always", now=at(10))
    assert again.waiting.reason == "CrashLoopBackOff"
    assert again.retry_at == at(30)


def test_an_unknown_image_is_an_image_pull_error_that_repeats_what_to_do():
    """The reasons are those kubectl users know; the advice is in each of them."""
    life = podphase.no_command(Life("c", "hello:1"), "add it", T0)
    assert life.waiting == Waiting("ErrImagePull", "add it")
    assert podphase.no_command(life, "add it", T0).waiting == Waiting(
        "ImagePullBackOff", "Back-off pulling image: add it"
    )
    assert status(life)["phase"] == "Pending"
    assert condition(status(life), "Ready")["message"] == "containers with unready status: [c]: add it"


def test_a_missing_config_map_is_looked_for_again_every_five_seconds():
    """It is no crash: the wait does not grow, and no restart is counted."""
    life = podphase.misconfigured(Life("c", "i"), 'configmap "x" not found', T0)
    assert life.waiting.reason == "CreateContainerConfigError"
    assert life.retry_at == at(5)
    assert life.restarts == 0


def test_without_a_readiness_probe_a_running_container_is_ready():
    """Then running is all that Ready asks for."""
    told = status(running(Life("c", "i"), T0))
    assert told["phase"] == "Running"
    assert condition(told, "Ready")["status"] == condition(told, "ContainersReady")["status"] == "True"
    assert told["podIP"] == "127.0.0.1"


def test_unready_says_which_container_and_why():
    """The Ready condition has the probe's own words, until the probe passes."""
    life = running(Life("c", "i"), T0, probed=True)
    probe = podphase.probe_of({"readinessProbe": {"tcpSocket": {"port": 80}}}, "readinessProbe", {80: 20001})
    life = podphase.probed(life, probe, False, "nothing listens on port 20001")
    told = condition(status(life), "Ready")
    assert told["reason"] == "ContainersNotReady"
    assert told["message"] == "containers with unready status: [c]: nothing listens on port 20001"
    assert condition(status(podphase.probed(life, probe, True, "")), "Ready")["status"] == "True"


def test_transition_time_moves_only_with_the_status():
    """A condition that stays as it was keeps its time, and an unchanged status is equal to the old one."""
    life = running(Life("c", "i"), T0)
    first = status(life, now=T0)
    second = status(life, old=first, now=at(60))
    assert second == first
    third = status(crash(life, at(90)), old=second, now=at(90))
    assert condition(third, "Ready")["lastTransitionTime"] == "2026-01-01T00:01:30Z"
    assert condition(third, "PodScheduled") == condition(first, "PodScheduled")


def test_a_startup_probe_holds_readiness_back():
    """Before it has passed a container is neither started nor ready, even without a readiness probe."""
    life = podphase.started(Life("c", "i"), 7, T0, startup_probe=True, readiness_probe=False)
    assert not life.ready
    assert status(life)["containerStatuses"][0]["started"] is False


CONTAINER = {"ports": [{"name": "user-port", "containerPort": 8080}]}


@pytest.mark.parametrize(
    ("spec", "port"),
    [
        ({"tcpSocket": {"port": 8080}}, 20001),
        ({"tcpSocket": {"port": 0}}, 20001),
        ({"tcpSocket": {}}, 20001),
        ({"tcpSocket": {"port": "user-port"}}, 20001),
        ({"tcpSocket": {"port": "8080"}}, 20001),
        ({"tcpSocket": {"port": 9090}}, 9090),
        ({"httpGet": {"path": "/ready"}}, 20001),
    ],
)
def test_a_probed_port_is_the_one_on_this_machine(spec, port):
    """The container's port, by number or name or by default, is its port here; another number is taken as it is."""
    probe = podphase.probe_of({**CONTAINER, "readinessProbe": spec}, "readinessProbe", {8080: 20001})
    assert probe.port == port


def test_probe_defaults_are_kubernetes():
    """Path, scheme, times and thresholds that are not given are those of Kubernetes."""
    probe = podphase.probe_of({**CONTAINER, "livenessProbe": {"httpGet": {}}}, "livenessProbe", {})
    assert (probe.path, probe.scheme, probe.period, probe.timeout) == ("/", "HTTP", 10, 1)
    assert (probe.success_threshold, probe.failure_threshold, probe.initial_delay) == (1, 3, 0)
    assert podphase.probe_of(CONTAINER, "startupProbe", {}) is None


def test_a_pod_has_no_address_before_anything_has_run():
    """Its endpoints would be the container's port on this machine, which belongs to somebody else."""
    assert "podIP" not in status(Life("c", "i"))
    assert status(crash(running(Life("c", "i"), T0), T0))["podIP"] == "127.0.0.1"


@pytest.mark.parametrize("text", ["", "[]", "x", '{"a": 1}', '{"8080": null}'])
def test_a_host_port_annotation_that_is_none_maps_nothing(text):
    """Anybody may write an annotation."""
    assert podphase.host_ports({"metadata": {"annotations": {podphase.HOST_PORTS: text}}}) == {}


@pytest.mark.parametrize(
    ("ports", "told", "address"),
    [
        ("{}", {}, ""),
        ('{"8080": 20001}', {}, "127.0.0.1"),
        ('{"8080": 20001}', {"containerStatuses": []}, ""),
        ("{}", {"containerStatuses": [], "podIP": "127.0.0.1"}, "127.0.0.1"),
        ("{}", {"podIP": "10.0.0.1"}, "10.0.0.1"),
    ],
)
def test_a_new_pod_with_ports_of_its_own_has_an_address_until_its_status_says_better(ports, told, address):
    """Its endpoint is told while its process starts; one that could not be started loses it."""
    assert podphase.address({"metadata": {"annotations": {podphase.HOST_PORTS: ports}}, "status": told}) == address


def test_thresholds_are_of_results_in_a_row():
    """A result of the other kind begins the count anew; between the thresholds the verdict stays."""
    probe = podphase.Probe("readiness", success_threshold=2, failure_threshold=3)
    seen, tally = [], Tally()
    for passed in (True, False, True, True, False, False, True, False, False, False):
        tally = podphase.tally(probe, tally, passed)
        seen.append(tally.verdict)
    assert seen == [None, None, None, True, True, True, True, True, True, False]


@pytest.mark.parametrize(
    ("age", "passed", "interval"),
    [(0, False, 0.025), (0.5, False, 0.025), (2, False, 0.1), (60, False, 3), (1000, False, 10), (0, True, 10)],
)
def test_a_starting_container_is_probed_often(age, passed, interval):
    """25 ms at first, then 5 % of the wait, at most the period; once it has passed, the period."""
    assert podphase.probe_interval(podphase.Probe("readiness"), age, passed=passed) == pytest.approx(interval)


def test_a_command_is_not_run_forty_times_a_second():
    """A probe that starts a process waits longer between attempts than one that opens a connection."""
    assert podphase.probe_interval(podphase.Probe("readiness", command=("x",)), 0, passed=False) == 0.25


def test_many_that_start_together_are_probed_less_often():
    """Two milliseconds for each of them, still at most the period."""
    assert podphase.probe_interval(podphase.Probe("readiness"), 0, passed=False, starting=100) == pytest.approx(0.2)
    assert podphase.probe_interval(podphase.Probe("readiness"), 0, passed=False, starting=10_000) == 10
