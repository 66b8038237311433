"""What a pod's status says, from what happened to its containers and the time. Pure.

A `Life` is one container's story so far; functions take a Life, an event and `now` and return the next Life. The agent
starts, stops and probes as `due`, `deadline` and `tally` say and publishes `pod_status`. Waiting reasons, the restart
back-off and the conditions are kubelet's (pkg/kubelet: status generation, kuberuntime, prober), because everything
downstream (Knative's Revision conditions, `kubectl get pods`) reads them.

Back-off: the first restart is immediate, the second waits 10 s after the end, then 20 s and so on to 300 s; ten minutes
of running begin the count anew. A program that can't be started at all is not tried again at once: nothing changes
within an instant. An image without a command can't gain one while `zerogate up` runs, and is looked at again every 300
s only to keep kubelet's ErrImagePull/ImagePullBackOff pair; a missing ConfigMap or Secret every 5 s, for its creation
is what the user does next.

Times in a Life are aware datetimes, as they go into the status; probe timing is the agent's, in loop time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import orjson

from controller.apis import meta

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from controller.apis.meta import JsonObject

ALWAYS, ON_FAILURE, NEVER = "Always", "OnFailure", "Never"
POD_IP = "127.0.0.1"
HOST_PORTS = "zerogate.dev/host-ports"
"""Annotation of a pod: JSON object from container port to the port on this machine."""

_BACK_OFF_FIRST, _BACK_OFF_MAX = 10.0, 300.0
_BACK_OFF_RESET = 600.0
_CONFIG_RETRY = 5.0
_ADDRESS = {"podIP": POD_IP, "podIPs": [{"ip": POD_IP}]}
"""Told once something has run. Before, the pod has no port of its own, and its container's port on this address is
somebody else's: at worst the gateway's own 8080."""
_START_ERROR = 128  # what container runtimes report for a process that never ran
_PROBE_FIRST = 0.025
_PROBE_RELATIVE = 0.05
_PROBE_SHARED = 0.002
_EXEC_PROBE_FIRST = 0.25


@dataclass(frozen=True, slots=True)
class Terminated:
    """A container's end. `reason` is Completed, Error, OOMKilled or StartError."""

    exit_code: int
    signal: int
    reason: str
    message: str
    started_at: datetime | None
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class Waiting:
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Life:
    """One container. Exactly one of three: running (`started_at` set), waiting, or ended for good (`ended`)."""

    name: str
    image: str
    waiting: Waiting | None = Waiting("ContainerCreating")
    started_at: datetime | None = None
    ended: Terminated | None = None
    last: Terminated | None = None
    restarts: int = 0
    crashes: int = 0
    """Ends in a row without ten minutes of running between them."""
    retry_at: datetime | None = None
    startup_passed: bool = False
    ready: bool = False
    unready: str = ""
    """Why the readiness (or startup) probe fails."""
    pid: int = 0

    @property
    def running(self) -> bool:
        return self.started_at is not None


def started(life: Life, pid: int, now: datetime, *, startup_probe: bool, readiness_probe: bool) -> Life:
    """The process runs. Without a startup probe it has passed, without a readiness probe it is ready at once."""
    return replace(
        life,
        waiting=None,
        retry_at=None,
        started_at=now,
        pid=pid,
        unready="",
        startup_passed=not startup_probe,
        ready=not startup_probe and not readiness_probe,
    )


def exited(
    life: Life, exit_code: int, signal: int, *, out_of_memory: bool, message: str, policy: str, now: datetime
) -> Life:
    """The process ended: for good, to be restarted at once, or after a back-off, as the restart policy says."""
    reason = "OOMKilled" if out_of_memory else "Completed" if exit_code == 0 else "Error"
    end = Terminated(exit_code, signal, reason, message, life.started_at, now)
    ran = (now - life.started_at).total_seconds() if life.started_at else 0.0
    crashes = 1 if ran >= _BACK_OFF_RESET else life.crashes + 1
    return _after(life, end, crashes, policy, crashes - 1, now)


def unstartable(life: Life, message: str, *, policy: str, now: datetime) -> Life:
    """The operating system refused to start the program (StartError, exit code 128)."""
    end = Terminated(_START_ERROR, 0, "StartError", message, None, now)
    crashes = life.crashes + 1
    after = _after(life, end, crashes, policy, crashes, now)
    if after.ended or crashes > 1:
        return after
    return replace(after, waiting=Waiting("RunContainerError", message))


def no_command(life: Life, message: str, now: datetime) -> Life:
    """The image has no command on this machine: ErrImagePull first, ImagePullBackOff from then on."""
    known = life.waiting is not None and life.waiting.reason in ("ErrImagePull", "ImagePullBackOff")
    reason, text = ("ImagePullBackOff", f"Back-off pulling image: {message}") if known else ("ErrImagePull", message)
    return replace(life, waiting=Waiting(reason, text), retry_at=now + timedelta(seconds=_BACK_OFF_MAX))


def misconfigured(life: Life, message: str, now: datetime) -> Life:
    """A ConfigMap, Secret or key is missing, or the spec asks for what this runtime has not."""
    waiting = Waiting("CreateContainerConfigError", message)
    return replace(life, waiting=waiting, retry_at=now + timedelta(seconds=_CONFIG_RETRY))


def due(life: Life, now: datetime) -> bool:
    """Whether the container is to be started now."""
    return life.waiting is not None and (life.retry_at is None or now >= life.retry_at)


def deadline(lives: Sequence[Life]) -> datetime | None:
    """When a waiting container is to be started next."""
    return min((life.retry_at for life in lives if life.waiting and life.retry_at is not None), default=None)


def back_off(steps: int) -> float:
    """Seconds to wait before restart number `steps + 1` in a row: 0, 10, 20, 40 … 300."""
    return 0.0 if steps <= 0 else min(_BACK_OFF_FIRST * 2.0 ** (min(steps, 16) - 1), _BACK_OFF_MAX)


def _after(life: Life, end: Terminated, crashes: int, policy: str, steps: int, now: datetime) -> Life:
    stopped = replace(life, started_at=None, pid=0, ready=False, startup_passed=False, unready="", crashes=crashes)
    if policy == NEVER or (policy == ON_FAILURE and end.exit_code == 0):
        return replace(stopped, waiting=None, ended=end)
    delay = back_off(steps)
    waiting = (
        Waiting("CrashLoopBackOff", f"back-off {_span(delay)} restarting failed container={life.name}")
        if delay
        else Waiting("ContainerCreating")
    )
    return replace(
        stopped, waiting=waiting, last=end, restarts=life.restarts + 1, retry_at=now + timedelta(seconds=delay)
    )


def _span(seconds: float) -> str:
    """As Go prints a duration: 10s, 1m20s, 5m0s."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


# --- probes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe with Kubernetes' defaults filled in; `port` is on this machine. Exactly one of `command`, HTTP (`path`
    not ""), gRPC (`service` not None; "" asks about the whole server) and TCP. Times in seconds."""

    kind: str
    port: int = 0
    path: str = ""
    scheme: str = "HTTP"
    host: str = POD_IP
    headers: tuple[tuple[str, str], ...] = ()
    command: tuple[str, ...] = ()
    service: str | None = None
    initial_delay: float = 0.0
    period: float = 10.0
    timeout: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3


@dataclass(frozen=True, slots=True)
class Tally:
    """Results in a row. `verdict` is the probe's opinion: None until a threshold was reached once."""

    verdict: bool | None = None
    run: int = 0
    last: bool | None = None


def probe_of(container: JsonObject, field: str, host_ports: Mapping[int, int]) -> Probe | None:
    """The container's `readinessProbe`, `livenessProbe` or `startupProbe`, or None. A port that the container declares
    becomes its port on this machine; 0 or none means the first (Knative leaves the port out)."""
    spec = container.get(field)
    if not spec:
        return None
    common = Probe(
        kind=field.removesuffix("Probe"),
        initial_delay=float(spec.get("initialDelaySeconds") or 0),
        period=float(spec.get("periodSeconds") or 10),
        timeout=float(spec.get("timeoutSeconds") or 1),
        success_threshold=int(spec.get("successThreshold") or 1),
        failure_threshold=int(spec.get("failureThreshold") or 3),
    )
    if "exec" in spec:
        return replace(common, command=tuple(spec["exec"].get("command") or ()))
    if "httpGet" in spec:
        action = spec["httpGet"]
        return replace(
            common,
            port=_probe_port(container, action.get("port"), host_ports),
            path=action.get("path") or "/",
            scheme=action.get("scheme") or "HTTP",
            host=action.get("host") or POD_IP,
            headers=tuple((entry["name"], entry.get("value", "")) for entry in action.get("httpHeaders") or ()),
        )
    if "grpc" in spec:
        action = spec["grpc"]
        port = _probe_port(container, action.get("port"), host_ports)
        return replace(common, port=port, service=action.get("service") or "")
    action = spec.get("tcpSocket") or {}
    port = _probe_port(container, action.get("port"), host_ports)
    return replace(common, port=port, host=action.get("host") or POD_IP)


def _probe_port(container: JsonObject, port: int | str | None, host_ports: Mapping[int, int]) -> int:
    declared = container.get("ports") or ()
    if isinstance(port, str) and not port.isdigit():
        port = next((entry["containerPort"] for entry in declared if entry.get("name") == port), None)
    number = int(port or (declared[0]["containerPort"] if declared else 0))
    return host_ports.get(number, number)


def probe_interval(probe: Probe, age: float, *, passed: bool, starting: int = 0) -> float:
    """Seconds to the next probe of a container that has run for `age` seconds. Until a readiness or startup probe has
    passed once, a cold start must not wait for a period: every 25 ms at first, later by 5 % of the wait so far, never
    more than the period. A command costs a process each time and begins at 250 ms. The more containers are `starting`
    the longer (2 ms for each), because they need the processor."""
    if passed or probe.kind == "liveness":
        return probe.period
    first = _EXEC_PROBE_FIRST if probe.command else _PROBE_FIRST
    return min(probe.period, max(first, age * _PROBE_RELATIVE, starting * _PROBE_SHARED))


def tally(probe: Probe, before: Tally, passed: bool) -> Tally:
    """Count one result; a threshold reached in a row makes the verdict."""
    run = before.run + 1 if before.last is passed else 1
    threshold = probe.success_threshold if passed else probe.failure_threshold
    return Tally(passed if run >= threshold else before.verdict, run, passed)


def probed(life: Life, probe: Probe, verdict: bool, message: str) -> Life:
    """A startup or readiness probe's verdict on a running container; liveness changes nothing here."""
    if not life.running or probe.kind == "liveness":
        return life
    if probe.kind == "startup":
        return replace(life, startup_passed=verdict, unready="" if verdict else message)
    return replace(life, ready=verdict, unready="" if verdict else message)


def host_ports(pod: JsonObject) -> dict[int, int]:
    """Container port → port on this machine, as the pod's annotation says; {} where that is no such object."""
    try:
        told = orjson.loads(meta.annotations_of(pod).get(HOST_PORTS) or "{}")
        return {int(number): int(port) for number, port in told.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def mapped_ports(pod: JsonObject) -> list[int]:
    """The container ports that get a port on this machine: the first that each container declares."""
    declared = (container.get("ports") for container in pod["spec"]["containers"])
    return [int(ports[0]["containerPort"]) for ports in declared if ports]


def with_host_ports(pod: JsonObject, ports: Mapping[int, int]) -> JsonObject:
    """The pod with the annotation that `host_ports` reads."""
    told = orjson.dumps({str(number): port for number, port in ports.items()}).decode()
    metadata = {**pod["metadata"], "annotations": {**meta.annotations_of(pod), HOST_PORTS: told}}
    return {**pod, "metadata": metadata}


def address(pod: JsonObject) -> str:
    """Where the pod is reached, "" if nowhere. A new pod that was made with ports on this machine is reached there, so
    that its endpoint can be told while its process starts; once its containers are reported on, the status says."""
    status = pod.get("status") or {}
    if "containerStatuses" in status or not host_ports(pod):
        return str(status.get("podIP") or "")
    return POD_IP


# --- status -----------------------------------------------------------------------------------------------------------


def pod_status(
    pod: JsonObject, lives: Sequence[Life], old: JsonObject, started_at: datetime, now: datetime
) -> JsonObject:
    """The pod's whole status. `old` is the former one: a condition's transition time moves only with its status."""
    phase = _phase(lives)
    unready = [life for life in lives if not life.ready]
    ready: tuple[str, str, str]
    if phase == "Succeeded":
        ready = ("False", "PodCompleted", "")
    elif unready:
        names = " ".join(life.name for life in unready)
        details = "; ".join(detail for life in unready if (detail := _why_unready(life)))
        message = f"containers with unready status: [{names}]" + (details and f": {details}")
        ready = ("False", "ContainersNotReady", message)
    else:
        ready = ("True", "", "")
    wanted = {
        "PodScheduled": ("True", "", ""),
        "Initialized": ("True", "", ""),
        "ContainersReady": ready,
        "Ready": ready,
    }
    former = {condition["type"]: condition for condition in old.get("conditions") or ()}
    return {
        "phase": phase,
        "conditions": [_condition(former.get(kind), kind, *value, now) for kind, value in wanted.items()],
        "hostIP": POD_IP,
        **(_ADDRESS if any(life.running or life.last or life.ended for life in lives) else {}),
        "startTime": meta.format_time(started_at),
        "containerStatuses": [_container_status(life, meta.uid_of(pod)) for life in lives],
    }


def _phase(lives: Sequence[Life]) -> str:
    if all(life.ended for life in lives):
        return "Succeeded" if all(life.ended and life.ended.exit_code == 0 for life in lives) else "Failed"
    # As kubelet: a container that waits before its first start keeps the pod pending; one that waits to be restarted
    # has made it Running once and for all.
    if any(life.waiting and not life.last and not life.running for life in lives):
        return "Pending"
    return "Running"


def _why_unready(life: Life) -> str:
    if life.unready:
        return life.unready
    if life.waiting is not None and life.waiting.message:
        return life.waiting.message
    return ""


def _condition(
    former: JsonObject | None, kind: str, status: str, reason: str, message: str, now: datetime
) -> JsonObject:
    moved = former is None or former["status"] != status
    condition = {"type": kind, "status": status}
    condition["lastTransitionTime"] = meta.format_time(now) if moved or former is None else former["lastTransitionTime"]
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    return condition


def _container_status(life: Life, uid: str) -> JsonObject:
    return {
        "name": life.name,
        "image": life.image,
        "imageID": "",
        "containerID": f"process://{uid}/{life.name}/{life.pid}" if life.pid else "",
        "ready": life.ready,
        "started": life.running and life.startup_passed,
        "restartCount": life.restarts,
        "state": _state(life),
        "lastState": {"terminated": _terminated(life.last)} if life.last else {},
    }


def _state(life: Life) -> JsonObject:
    if life.started_at is not None:
        return {"running": {"startedAt": meta.format_time(life.started_at)}}
    if life.ended is not None:
        return {"terminated": _terminated(life.ended)}
    waiting = life.waiting or Waiting("ContainerCreating")
    return {"waiting": {"reason": waiting.reason, **({"message": waiting.message} if waiting.message else {})}}


def _terminated(end: Terminated) -> JsonObject:
    result: JsonObject = {
        "exitCode": end.exit_code,
        "reason": end.reason,
        "startedAt": meta.format_time(end.started_at or end.finished_at),
        "finishedAt": meta.format_time(end.finished_at),
    }
    if end.signal:
        result["signal"] = end.signal
    if end.message:
        result["message"] = end.message
    return result
