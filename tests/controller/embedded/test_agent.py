"""The node agent with real processes, the real API server and the workload controllers: the state of the world."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from controller.apis import kinds, meta
from controller.apis.meta import Key
from controller.apis.pods import is_ready
from controller.embedded import agent, podphase, workloads
from controller.embedded.agent import Agent
from controller.embedded.podlogs import PodLogs
from controller.embedded.ports import PortAllocator
from controller.embedded.runtimes.process import ProcessRuntime
from controller.kube.client import KubeClient
from controller.kube.errors import NotFound
from controller.kube.runner import Runner
from tests.polling import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")

SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ok = self.path != "/bad" and not os.path.exists("broken")
        self.send_response(200 if ok else 503); self.end_headers()
    def log_message(self, *args): pass
print("listening on", os.environ["PORT"], flush=True)
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False
    return state[state.rindex(b")") + 2 :][:1] != b"Z"


def environment(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


class World:
    """One machine: API server, workload controllers and agent; `pod` waits for what a test expects to come about."""

    def __init__(self, kube: KubeClient, folder: Path) -> None:
        self.kube = kube
        self.folder = folder
        self.agent: Agent
        self.logs: PodLogs
        self.started: list[tuple[str, bool, float | None]] = []
        self._stack = contextlib.AsyncExitStack()

    async def up(self, images=None, offset=0) -> None:
        self.logs = PodLogs(self.folder / "logs")
        runtime = ProcessRuntime(self.folder, self.folder)
        ports = PortAllocator(offset=offset or os.getpid() * 101)
        self.agent = Agent(self.kube, runtime, self.logs, ports, images or {})
        self.agent.on_start(self._note)
        await self.agent.start()
        runner = Runner(self.kube, [workloads.DEPLOYMENTS, workloads.SERVICES], kinds_read=[kinds.POD])
        runner.on_change(kinds.POD, self.agent.on_change)
        self._running = asyncio.get_running_loop().create_task(runner.run())
        await runner.ready.wait()

    def _note(self, pod) -> None:
        uid = meta.uid_of(pod)
        self.started.append((uid, self.agent.is_starting(uid), self.agent.started(uid)))

    async def down(self) -> None:
        await self.agent.stop()
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running

    async def create(self, name="p", *, container=None, kind="Pod", **spec) -> Key:
        containers = [{"name": "c", "image": "i", **(container or {})}]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}}
        await self.kube.create(kinds.POD, {**pod, "spec": {"containers": containers, **spec}})
        return Key("default", name)

    async def pod(self, key: Key, condition):
        """The pod as soon as `condition(pod)` is true."""
        return await self.until(kinds.POD, key, condition)

    async def until(self, kind, key, condition):
        obj = None
        try:
            async with asyncio.timeout(10):
                while True:
                    with contextlib.suppress(NotFound):
                        obj = await self.kube.get(kind, key)
                        if condition(obj):
                            return obj
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pytest.fail(f"never came about; last seen: {orjson.dumps(obj).decode()}")

    async def gone(self, kind, key) -> None:
        async with asyncio.timeout(10):
            while True:
                try:
                    await self.kube.get(kind, key)
                except NotFound:
                    return
                await asyncio.sleep(0.01)

    async def log(self, pod, **options) -> str:
        return b"".join([chunk async for chunk in await self.logs.open(pod, "c", **options)]).decode()


@pytest.fixture
async def world(api, shared_credentials, tmp_path, monkeypatch):
    monkeypatch.setattr(agent, "STOP_CAP", 2.0)
    async with KubeClient.from_token(api.url, shared_credentials.token, shared_credentials.ca) as kube:
        world = World(kube, tmp_path)
        await world.up()
        yield world
        await world.down()


def status_of(pod):
    return (pod.get("status") or {}).get("containerStatuses", [{}])[0]


def pid_of(pod) -> int:
    return int(status_of(pod).get("containerID", "").rpartition("/")[2] or 0)


def ready(pod) -> bool:
    return is_ready(pod)


def waiting(reason):
    return lambda pod: status_of(pod).get("state", {}).get("waiting", {}).get("reason") == reason


def python(code, **more):
    return {"command": [sys.executable, "-c", code], **more}


async def test_a_pod_becomes_a_process_with_a_port_and_a_log(world):
    """A pod runs on loopback at the port its annotation names, and what it prints is kept."""
    probe = {"httpGet": {"path": "/", "port": 8080}}
    key = await world.create(container=python(SERVER, ports=[{"containerPort": 8080}], readinessProbe=probe))
    pod = await world.pod(key, ready)
    assert pod["status"]["phase"] == "Running"
    assert pod["status"]["podIP"] == "127.0.0.1"
    port = orjson.loads(meta.annotations_of(pod)["zerogate.dev/host-ports"])["8080"]
    assert await world.log(pod) == f"listening on {port}\n"
    assert alive(pid_of(pod))


async def test_deleting_a_pod_ends_its_process_then_the_pod(world):
    """The object goes only after its process, and its logs go with it."""
    key = await world.create(container={"command": ["sleep", "100"]})
    pod = await world.pod(key, ready)
    await world.kube.delete(kinds.POD, key)
    await world.gone(kinds.POD, key)
    assert not alive(pid_of(pod))
    assert not any((world.folder / "logs").iterdir())


async def test_who_ignores_sigterm_is_killed_after_the_grace_period(world):
    """A process that will not go is killed, so that a pod always ends."""
    script = "trap '' TERM; echo deaf; while :; do sleep 0.01; done"
    key = await world.create(container={"command": ["sh", "-c", script]}, terminationGracePeriodSeconds=1)
    pod = await world.pod(key, ready)
    await world.kube.delete(kinds.POD, key)
    await world.gone(kinds.POD, key)
    assert not alive(pid_of(pod))


DEAF = {"command": ["sh", "-c", "trap '' TERM; while :; do sleep 0.01; done"]}


async def test_a_second_deletion_shortens_the_grace_period(world):
    """`kubectl delete pod --grace-period=1` on a pod that is being deleted: its process is killed a second later."""
    key = await world.create(container=DEAF, terminationGracePeriodSeconds=300)
    pod = await world.pod(key, ready)
    await world.kube.delete(kinds.POD, key)
    await world.pod(key, meta.is_deleting)
    await world.kube.delete(kinds.POD, key, grace_period=1)
    await world.gone(kinds.POD, key)
    assert not alive(pid_of(pod))


async def test_a_forced_deletion_kills(world):
    """`kubectl delete pod --force`: the object goes at once, and a process that will not go is killed soon after."""
    key = await world.create(container=DEAF, terminationGracePeriodSeconds=300)
    pod = await world.pod(key, ready)
    await world.kube.delete(kinds.POD, key)
    await world.pod(key, meta.is_deleting)
    await world.kube.delete(kinds.POD, key, grace_period=0)
    await world.gone(kinds.POD, key)
    await until(lambda: not alive(pid_of(pod)))


async def test_pre_stop_runs_before_sigterm(world):
    """The hook runs to its end, in the container's environment and directory, while the process lives."""
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo $NAME > stopped"]}}}
    container = {"command": ["sleep", "100"], "lifecycle": hook, "env": [{"name": "NAME", "value": "x"}]}
    key = await world.create(container=container)
    await world.pod(key, ready)
    await world.kube.delete(kinds.POD, key)
    await world.gone(kinds.POD, key)
    assert (world.folder / "stopped").read_text() == "x\n"


async def test_a_pre_stop_hook_that_uses_up_the_grace_period_still_leaves_sigterm(world):
    """However long the hook takes, the process is asked before it is killed."""
    hook = {"preStop": {"exec": {"command": ["sleep", "100"]}}}
    script = "trap 'echo told > asked; exit' TERM; echo up; while :; do sleep 0.01; done"
    container = {"command": ["sh", "-c", script], "lifecycle": hook}
    key = await world.create(container=container, terminationGracePeriodSeconds=1)
    await world.pod(key, ready)
    await world.kube.delete(kinds.POD, key)
    await world.gone(kinds.POD, key)
    assert (world.folder / "asked").exists()


async def test_command_not_found_is_in_the_status_with_the_systems_words(world):
    """The status says what could not be executed, as a container engine does: exit code 128."""
    key = await world.create(container={"command": ["no-such-program"]})
    pod = await world.pod(key, waiting("RunContainerError"))
    end = status_of(pod)["lastState"]["terminated"]
    assert (end["exitCode"], end["reason"]) == (128, "StartError")
    assert end["message"] == 'exec: "no-such-program": executable file not found in $PATH'


async def test_a_crash_tells_its_last_words_and_loops_with_back_off(world):
    """The status has exit code, the end of the output and the wait; the life before is still readable."""
    key = await world.create(container={"command": ["sh", "-c", "echo dying >&2; exit 3"]})
    pod = await world.pod(key, waiting("CrashLoopBackOff"))
    told = status_of(pod)
    assert told["restartCount"] == 2
    assert told["state"]["waiting"]["message"] == "back-off 10s restarting failed container=c"
    assert told["lastState"]["terminated"]["message"] == "dying"
    assert told["lastState"]["terminated"]["exitCode"] == 3
    assert await world.log(pod, previous=True) == "dying\n"


async def test_never_restarted_pods_end_succeeded_or_failed(world):
    """With restartPolicy Never the exit code decides the phase, and such a pod can be deleted."""
    good = await world.create("good", container={"command": ["true"]}, restartPolicy="Never")
    bad = await world.create("bad", container={"command": ["false"]}, restartPolicy="Never")
    assert await world.pod(good, lambda pod: pod.get("status", {}).get("phase") == "Succeeded")
    pod = await world.pod(bad, lambda pod: pod.get("status", {}).get("phase") == "Failed")
    assert status_of(pod)["state"]["terminated"]["exitCode"] == 1
    await world.kube.delete(kinds.POD, good)
    await world.gone(kinds.POD, good)


async def test_an_image_without_a_command_says_what_to_add(world):
    """The sentence that helps is in the container's status and in the Ready condition."""
    key = await world.create(container={"image": "hello:1"})
    pod = await world.pod(key, waiting("ErrImagePull"))
    assert "podIP" not in pod["status"]
    message = status_of(pod)["state"]["waiting"]["message"]
    assert message.endswith('or start zerogate up with --image hello:1="COMMAND"')
    condition = next(entry for entry in pod["status"]["conditions"] if entry["type"] == "Ready")
    assert message in condition["message"]


async def test_a_container_that_never_listens_is_not_ready_and_the_condition_names_the_port(world):
    """Not ready comes with its cause: the port on this machine that nobody opened."""
    probe = {"tcpSocket": {"port": 8080}}
    container = {"command": ["sleep", "100"], "ports": [{"containerPort": 8080}], "readinessProbe": probe}
    key = await world.create(container=container)

    def explained(pod):
        conditions = pod.get("status", {}).get("conditions", [])
        return any("nothing listens on port" in entry.get("message", "") for entry in conditions)

    pod = await world.pod(key, explained)
    port = orjson.loads(meta.annotations_of(pod)["zerogate.dev/host-ports"])["8080"]
    condition = next(entry for entry in pod["status"]["conditions"] if entry["type"] == "Ready")
    assert (condition["status"], condition["reason"]) == ("False", "ContainersNotReady")
    assert f"nothing listens on port {port}" in condition["message"]


async def test_readiness_by_a_command_comes_and_goes(world):
    """Ready follows the probe both ways while the process stays the same."""
    probe = {"exec": {"command": ["test", "-e", "up"]}, "periodSeconds": 1, "failureThreshold": 1}
    key = await world.create(container={"command": ["sleep", "100"], "readinessProbe": probe})
    await world.pod(key, lambda pod: pid_of(pod) and not ready(pod))
    (world.folder / "up").touch()
    await world.pod(key, ready)
    (world.folder / "up").unlink()
    await world.pod(key, lambda pod: not ready(pod))


async def test_liveness_failure_restarts_the_container(world):
    """A live process that fails its liveness probe is replaced, and the restart is counted."""
    probe = {"httpGet": {"path": "/"}, "periodSeconds": 1, "failureThreshold": 1}
    startup = {"tcpSocket": {}, "periodSeconds": 1}
    key = await world.create(
        container=python(SERVER, ports=[{"containerPort": 8080}], livenessProbe=probe, startupProbe=startup)
    )
    first = await world.pod(key, ready)
    (world.folder / "broken").touch()
    second = await world.pod(key, lambda pod: status_of(pod).get("restartCount") == 1)
    assert pid_of(second) != pid_of(first)
    (world.folder / "broken").unlink()


async def test_env_from_config_map_and_secret_and_its_absence(world):
    """Without its map a container waits and says for what; with it the values are in its environment."""
    variables = [
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "t"}}},
    ]
    script = 'echo "$A $B"; sleep 100'
    key = await world.create("late", container={"command": ["sh", "-c", script], "env": variables})
    pod = await world.pod(key, waiting("CreateContainerConfigError"))
    assert status_of(pod)["state"]["waiting"]["message"] == 'configmap "cm" not found'
    where = {"namespace": "default"}
    await world.kube.create(
        kinds.CONFIG_MAP,
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm", **where}, "data": {"k": "v"}},
    )
    secret = {"t": base64.b64encode(b"hush").decode()}
    await world.kube.create(
        kinds.SECRET, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", **where}, "data": secret}
    )
    key = await world.create("early", container={"command": ["sh", "-c", script], "env": variables})
    pod = await world.pod(key, ready)
    assert await anext(await world.logs.open(pod, "c", follow=True)) == b"v hush\n"


async def test_volume_mounts_are_refused_with_a_sentence(world):
    """A mount that a local process cannot have keeps the container from starting without it."""
    mounts = [{"name": "v", "mountPath": "/data"}]
    volumes = [{"name": "v", "emptyDir": {}}]
    key = await world.create(container={"command": ["true"], "volumeMounts": mounts}, volumes=volumes)
    pod = await world.pod(key, waiting("CreateContainerConfigError"))
    assert "mounts v at /data: a local process has no file system" in status_of(pod)["state"]["waiting"]["message"]


async def test_a_deployment_and_its_service_scale_out_and_to_zero(world):
    """Every replica has a port of its own, and its slice."""
    labels = {"app": "x"}
    container = {"name": "c", "image": "i", **python(SERVER), "ports": [{"name": "user-port", "containerPort": 8080}]}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    where = {"namespace": "default"}
    deployment = {"replicas": 3, "selector": {"matchLabels": labels}, "template": template}
    await world.kube.create(
        kinds.DEPLOYMENT,
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", **where}, "spec": deployment},
    )
    ports = [{"name": "http", "port": 80, "targetPort": "user-port"}]
    await world.kube.create(
        kinds.CORE_SERVICE,
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "s", **where},
            "spec": {"selector": labels, "ports": ports},
        },
    )
    key = Key("default", "d")
    await world.until(kinds.DEPLOYMENT, key, lambda obj: obj.get("status", {}).get("availableReplicas") == 3)

    async def slices(count):
        async with asyncio.timeout(10):
            while True:
                found = (await world.kube.list(kinds.ENDPOINT_SLICE, "default"))["items"]
                if len(found) == count and all(piece["endpoints"][0]["conditions"]["ready"] for piece in found):
                    return found
                await asyncio.sleep(0.01)

    numbers = {piece["ports"][0]["port"] for piece in await slices(3)}
    assert len(numbers) == 3
    pods = (await world.kube.list(kinds.POD, "default"))["items"]
    await world.kube.patch(kinds.DEPLOYMENT, key, {"spec": {"replicas": 0}}, subresource="scale")
    await slices(0)
    for pod in pods:
        await world.gone(kinds.POD, meta.key_of(pod))
    assert not any(alive(pid_of(pod)) for pod in pods)


async def test_a_pod_made_with_a_port_listens_there_and_its_status_may_wait(world):
    """The port that its endpoint may name already is the one its process gets. That it runs, and since when, is told
    at once."""
    port = PortAllocator(offset=os.getpid() * 103).propose()
    container = {"name": "c", "image": "i", **python(SERVER, ports=[{"containerPort": 8080}])}
    metadata = {"name": "p", "namespace": "default", "annotations": {podphase.HOST_PORTS: f'{{"8080": {port}}}'}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
    before = datetime.now(UTC).timestamp()
    await world.kube.create(kinds.POD, pod)
    told = await world.pod(Key("default", "p"), ready)
    assert podphase.host_ports(told) == {8080: port}
    assert f"PORT={port}".encode() in environment(pid_of(told))
    started = world.agent.started(meta.uid_of(told))
    assert before <= started <= datetime.now(UTC).timestamp()
    assert world.started == [(meta.uid_of(told), False, started)]
    assert world.agent.started("nobody") is None
    assert not world.agent.is_starting("nobody")


async def test_a_restart_starts_everything_anew_and_counts_it(world):
    """No process outlives the agent; the next one starts its pods again, on other ports."""
    key = await world.create(container={"command": ["sleep", "100"], "ports": [{"containerPort": 8080}]})
    first = await world.pod(key, ready)
    await world.down()
    assert not alive(pid_of(first))
    await world.up(offset=podphase.host_ports(first)[8080] - 20000)
    second = await world.pod(key, lambda pod: status_of(pod).get("restartCount") == 1 and ready(pod))
    assert alive(pid_of(second))
    # Endpoints written before may still name the old port, so nobody else gets it.
    assert podphase.host_ports(second) != podphase.host_ports(first)


async def test_a_pod_deleted_while_nobody_ran_goes_at_the_next_start(world):
    """A pod marked for deletion has no process any more: the next agent lets it go."""
    key = await world.create(container={"command": ["sleep", "100"]})
    await world.pod(key, ready)
    await world.down()
    await world.kube.delete(kinds.POD, key)
    await world.up()
    await world.gone(kinds.POD, key)


async def test_what_happens_to_a_pod_is_told_in_events(world):
    """`kubectl describe pod` shows that it started."""
    key = await world.create(container={"command": ["sleep", "100"]})
    await world.pod(key, ready)
    async with asyncio.timeout(10):
        while True:
            events = (await world.kube.list(kinds.EVENT, "default"))["items"]
            if any(event["reason"] == "Started" and event["involvedObject"]["name"] == "p" for event in events):
                return
            await asyncio.sleep(0.02)
