"""One pod on this machine: starts its containers, probes them, tells the API server, takes them down.

Decisions are `podphase`'s; here they are carried out. A sandbox's task sleeps until something happens to a container
(its end, a probe's verdict, a time to retry) or to the pod (deleted, gone, everything shuts down).

On the way from a created pod to traffic nothing waits: the task starts the processes. The status (Running, podIP) is
written by a PATCH, and changes are coalesced: while one is on its way, whatever happens goes into the next. What no
request waits for is written in a lull (see `lull`): Events, that a pod runs where its endpoint is known without
that, and that it is ready where the gateway finds that out by itself, which is told together if it is so soon. For half
a second a container that fails its probes counts as starting.

Ports: the first port a container declares is replaced by one of this machine, passed in `PORT` and recorded in the
annotation `zerogate.dev/host-ports`; further declared ports are the process's own to listen on, unchanged. A new pod
comes with its ports (see `admission`); one that is started once more, by another agent, gets others, which the PATCH of
its status tells. The port stays the pod's over container restarts.

Of a pod's spec, what has no meaning for a local process is passed over: resources, securityContext, affinity, service
account. What would change what the program sees and can't be had (volumeMounts, initContainers) keeps the container
from starting, with a sentence that says so.

Bounds: 32 starts at a time (each is a fork; the others queue), one status write per pod on its way, stops within the
pod's grace period, or within the cap when everything ends. A stop under way is hastened by a shorter grace period (a
second deletion, Ctrl-C) and by a forced deletion, which takes the pod out of the API and leaves two seconds.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
import signal
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson

from controller.apis import kinds, meta
from controller.embedded import podphase, probes
from controller.embedded.podphase import Life
from controller.embedded.ports import NoPort
from controller.embedded.runtimes import Completed, Exit, Launch, Process, RuntimeGone, StartError, command
from controller.kube.errors import Conflict, Invalid, KubeError, NotFound
from controller.kube.events import Recorder
from controller.lull import STARTED
from controller.reconcile.plan import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from controller.apis.kinds import Kind
    from controller.apis.meta import JsonObject
    from controller.embedded.logfile import LogWriter
    from controller.embedded.podlogs import PodLogs
    from controller.embedded.podphase import Probe, Tally
    from controller.embedded.ports import PortAllocator
    from controller.embedded.runtimes import Runtime
    from controller.kube.client import Kube
    from controller.lull import Lull

_log = logging.getLogger(__name__)

COMPONENT = "kubelet"
"""Whose events these are: people and their tools look for kubelet's."""
STARTS_AT_ONCE = 32
_DEFAULT_GRACE = 30.0
_RETRY_FIRST, _RETRY_MAX = 0.05, 5.0
_EXPLAIN_AFTER = 2.0
"""Seconds a container may fail its readiness probe before the status says why: most starts are over by then, and a
cold start should not pay for a PATCH that is stale at once."""
_LEAST_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL after a preStop hook that has used up the grace period, and after a forced
deletion: kubelet's."""
_STARTING = 0.5
"""Seconds from a container's start during which its failing probes mean that it needs the processor."""
_NEARLY = 0.9
"""Of a probe's period: a timer may be a little early, and a result then still counts."""


class Node:
    """What the pods of one machine share: the ways to the API server, processes, logs, ports, and their tasks."""

    def __init__(
        self, kube: Kube, runtime: Runtime, logs: PodLogs, ports: PortAllocator, images: command.Images, lull: Lull
    ) -> None:
        self.kube = kube
        self.runtime = runtime
        self.logs = logs
        self.ports = ports
        self.images = images
        self.starts = asyncio.Semaphore(STARTS_AT_ONCE)
        self.inherited = {name: os.environ[name] for name in command.INHERITED if name in os.environ}
        self.lull = lull
        self.on_start: Callable[[JsonObject], None] = lambda _pod: None
        self._recorder = Recorder(kube, COMPONENT, lambda: datetime.now(UTC), lull)
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        self.spawn(self._recorder.run(), "pod events")

    async def close(self) -> None:
        """Cancel what is still under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        """A task that is kept until it ends; an unexpected end is logged as the bug it is."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def record(self, pod: JsonObject, event: Event) -> None:
        """Write an event about a pod, in the next lull."""
        self._recorder.record({**pod, "apiVersion": kinds.POD.api_version, "kind": kinds.POD.kind}, event)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s ended unexpectedly", task.get_name(), exc_info=error)


class _Container:
    """One container's running side: its process, log and probes; `life` is what podphase knows."""

    __slots__ = ("env", "exited", "life", "log", "probers", "process", "spec")

    def __init__(self, spec: JsonObject, life: Life) -> None:
        self.spec = spec
        self.life = life
        self.env: dict[str, str] = {}
        self.process: Process | None = None
        self.log: LogWriter | None = None
        self.probers: list[asyncio.Task[None]] = []
        self.exited = asyncio.Event()


class Sandbox:
    """One pod on this machine, from its first start to its last process; `task` ends with it. `is_starting` until the
    first of its starts is over, well or not."""

    def __init__(self, node: Node, pod: JsonObject) -> None:
        self.pod = pod
        self._node = node
        self._policy: str = pod["spec"].get("restartPolicy") or podphase.ALWAYS
        self._status: JsonObject = pod.get("status") or {}
        self._began = datetime.now(UTC)
        former = {entry["name"]: entry for entry in self._status.get("containerStatuses") or ()}
        self._containers = [
            _Container(spec, _first_life(spec, former.get(spec["name"]))) for spec in pod["spec"]["containers"]
        ]
        self._host_ports = self._given_ports()
        self.is_starting = True
        self._wake = asyncio.Event()
        self._dirty = False
        self._writer: asyncio.Task[None] | None = None
        self._deleting = meta.is_deleting(pod)
        self._vanished = False
        self._cap: float | None = None
        self._hastened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task = node.spawn(self._run(), f"pod {meta.key_of(pod)}")

    @property
    def started(self) -> float | None:
        """When the last of its containers was started, as a wall clock time; None unless all run."""
        moments = [container.life.started_at for container in self._containers]
        return None if None in moments else max(moment.timestamp() for moment in moments if moment)

    # --- what the informer and the agent tell -------------------------------------------------------------------------

    def update(self, pod: JsonObject) -> None:
        self.pod = pod
        if meta.is_deleting(pod):
            self._deleting = True
            self._hasten()

    def vanished(self) -> None:
        """The pod is no longer in the API: its processes go, nothing is written any more."""
        self._vanished = True
        self._hasten()

    def shut_down(self, cap: float) -> None:
        self._cap = cap
        self._hasten()

    def _hasten(self) -> None:
        """The pod is to end, or to end sooner."""
        self._wake.set()
        self._hastened.set_result(None)
        self._hastened = asyncio.get_running_loop().create_future()

    # --- the pod's life -----------------------------------------------------------------------------------------------

    @property
    def _ending(self) -> bool:
        return self._deleting or self._vanished or self._cap is not None

    async def _run(self) -> None:
        try:
            while not self._ending:
                self._wake.clear()
                now = datetime.now(UTC)
                waiting = [container for container in self._containers if podphase.due(container.life, now)]
                if waiting:
                    with self._node.lull.urgent():
                        await self._start_all(waiting)
                    self.is_starting = False
                    self._node.on_start(self.pod)
                    self._tell_start()
                await self._sleep()
            await self._terminate()
            if self._deleting:
                await self._delete()
            if self._deleting or self._vanished:
                self._node.logs.forget(self.pod)
        finally:
            for port in self._host_ports.values():
                self._node.ports.release(port)

    def _given_ports(self) -> dict[int, int]:
        """The ports a new pod was made with. Those of a former agent's pod may be somebody else's by now."""
        if "containerStatuses" in self._status:
            return {}
        given = podphase.host_ports(self.pod)
        ports = {number: given[number] for number in podphase.mapped_ports(self.pod) if number in given}
        for port in ports.values():
            self._node.ports.hold(port)
        return ports

    def _tell_start(self) -> None:
        """At once, unless all of a new pod went well and its endpoint is known without. (A restart is told at once: the
        status says that the container failed.)"""
        known = podphase.address(self.pod) and self._host_ports.items() <= podphase.host_ports(self.pod).items()
        lives = [container.life for container in self._containers]
        if known and all(life.running and not life.restarts for life in lives):
            self._node.lull.after(("status", meta.uid_of(self.pod)), self.publish, STARTED)
        else:
            self.publish()

    async def _sleep(self) -> None:
        """Until something happens or a container is to be restarted."""
        retry = podphase.deadline([container.life for container in self._containers])
        timeout = None if retry is None else max(0.0, (retry - datetime.now(UTC)).total_seconds())
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._wake.wait()

    async def _start_all(self, waiting: list[_Container]) -> None:
        try:
            sources = await self._sources(waiting)
        except command.ConfigError as error:
            for container in waiting:
                self._misconfigured(container, str(error))
            return
        for container in waiting:
            if not self._ending:
                await self._start(container, sources)

    async def _start(self, container: _Container, sources: command.Sources) -> None:
        now = datetime.now(UTC)
        life = container.life
        try:
            launch = self._launch(container, sources)
        except command.NoCommand as error:
            container.life = podphase.no_command(life, str(error), now)
            self._event("Failed", f"Error: {error}", warning=True)
            return
        except (command.ConfigError, NoPort) as error:
            self._misconfigured(container, str(error))
            return
        try:
            log = container.log = self._node.logs.writer(self.pod, life.name, life.restarts)
        except OSError as error:
            self._misconfigured(container, f"no log file {error.filename}: {error.strerror}")
            return
        container.exited.clear()
        try:
            async with self._node.starts:
                container.process = await self._node.runtime.start(
                    launch, log, lambda end: self._exited(container, end)
                )
        except (StartError, RuntimeGone) as error:
            log.write("stderr", f"{error}\n".encode(), now)
            log.close(now)
            container.exited.set()
            container.life = podphase.unstartable(life, str(error), policy=self._policy, now=now)
            self._event("Failed", f"Error: {error}", warning=True)
            return
        except BaseException:  # a cancel among them: whatever ends this, the log's file is closed
            log.close(now)
            raise
        if container.exited.is_set():  # before its start was told: _exited has taken the life from here
            container.process = None
            return
        found = [
            probe
            for field in ("startupProbe", "readinessProbe", "livenessProbe")
            if (probe := podphase.probe_of(container.spec, field, self._host_ports))
        ]
        names = {probe.kind for probe in found}
        container.life = podphase.started(
            life,
            container.process.pid,
            datetime.now(UTC),
            startup_probe="startup" in names,
            readiness_probe="readiness" in names,
        )
        container.probers = [
            self._node.spawn(self._probe(container, probe), f"{probe.kind} probe of {meta.key_of(self.pod)}")
            for probe in found
        ]
        self._event("Started", f"Started container {life.name}")

    def _launch(self, container: _Container, sources: command.Sources) -> Launch:
        spec = container.spec
        if problem := _unsupported(self.pod, spec):
            raise command.ConfigError(problem)
        forced = {"HOSTNAME": meta.name_of(self.pod)}
        declared = spec.get("ports") or ()
        if declared:
            number = int(declared[0]["containerPort"])
            if number not in self._host_ports:
                self._host_ports[number] = self._node.ports.take()
            forced["PORT"] = str(self._host_ports[number])
        # status.podIP is known here before it is written.
        pod = {**self.pod, "status": {"podIP": podphase.POD_IP, "hostIP": podphase.POD_IP}}
        container.env = command.environment(pod, spec, sources, self._node.inherited, forced)
        return Launch(
            marker=f"{meta.uid_of(self.pod)}/{spec['name']}/{container.life.restarts}",
            argv=command.command_line(spec, self._node.images, container.env),
            env=container.env,
            working_dir=spec.get("workingDir") or ".",
        )

    async def _sources(self, waiting: list[_Container]) -> command.Sources:
        """The ConfigMaps and Secrets the containers read; those that don't exist are left out."""
        config_maps, secrets = command.references(container.spec for container in waiting)
        if not config_maps and not secrets:
            return command.Sources()
        return command.Sources(
            {name: data for name in config_maps if (data := await self._data(kinds.CONFIG_MAP, name)) is not None},
            {name: data for name in secrets if (data := await self._data(kinds.SECRET, name)) is not None},
        )

    async def _data(self, kind: Kind, name: str) -> Mapping[str, str] | None:
        try:
            obj = await self._node.kube.get(kind, meta.Key(meta.namespace_of(self.pod), name))
        except NotFound:
            return None
        except KubeError as error:
            raise command.ConfigError(f"{kind.plural} {name} could not be read: {error}") from error
        data = obj.get("data") or {}
        return data if kind is kinds.CONFIG_MAP else {key: _decoded(name, key, text) for key, text in data.items()}

    def _misconfigured(self, container: _Container, message: str) -> None:
        container.life = podphase.misconfigured(container.life, message, datetime.now(UTC))
        self._event("Failed", f"Error: {message}", warning=True)

    def _exited(self, container: _Container, end: Exit) -> None:
        """The runtime's report: the process and its group are no more, its output is all in the log."""
        now = datetime.now(UTC)
        for prober in container.probers:
            prober.cancel()
        container.probers = []
        container.process = None
        message = ""
        if container.log is not None:
            container.log.close(now)
            # FallbackToLogsOnError, whichever terminationMessagePolicy is set: there is no termination log to read.
            message = container.log.tail() if end.code else ""
        container.exited.set()
        container.life = podphase.exited(
            container.life,
            end.code,
            end.signal,
            out_of_memory=end.out_of_memory,
            message=message,
            policy=self._policy,
            now=now,
        )
        waiting = container.life.waiting
        if waiting is not None and waiting.reason == "CrashLoopBackOff":
            text = f"Back-off restarting failed container {container.life.name} in pod {meta.name_of(self.pod)}"
            self._event("BackOff", text, warning=True)
        self._wake.set()
        self.publish()

    # --- probes -------------------------------------------------------------------------------------------------------

    async def _probe(self, container: _Container, probe: Probe) -> None:
        with ExitStack() as starting:
            await self._probe_on(container, probe, starting)

    async def _probe_on(self, container: _Container, probe: Probe, starting: ExitStack) -> None:
        """`starting` is left when the container has started, or took too long."""
        loop = asyncio.get_running_loop()
        lull = self._node.lull
        began = loop.time()
        tally = podphase.Tally()
        reported, count_next, passed_once, failed_once = began, 0.0, False, False
        await asyncio.sleep(probe.initial_delay)
        while True:
            if probe.kind != "startup" and not container.life.startup_passed:
                await asyncio.sleep(podphase.probe_interval(probe, 0.0, passed=False))
                continue
            result = await probes.attempt(probe, lambda argv, timeout: self._beside(container, argv, timeout))
            now = loop.time()
            passed_once = passed_once or result.passed
            if passed_once or now - began >= _STARTING:
                starting.close()
            elif not failed_once:
                starting.enter_context(lull.starting())
            failed_once = failed_once or not result.passed
            before = tally
            if result.passed or now >= count_next:
                # Probing more often than the period must not use up the failure threshold sooner.
                tally, count_next = podphase.tally(probe, tally, result.passed), now + probe.period * _NEARLY
            if not result.passed and now - reported >= probe.period * _NEARLY:
                reported = now
                text = f"{probe.kind.capitalize()} probe failed: {result.message}"
                self._event("Unhealthy", text, warning=True)
            if self._judge(container, probe, before, tally, result.message, now - began):
                return
            pause = podphase.probe_interval(probe, now - began, passed=passed_once, starting=lull.starting_now)
            await asyncio.sleep(pause)

    def _judge(
        self, container: _Container, probe: Probe, before: Tally, tally: Tally, message: str, age: float
    ) -> bool:
        """Act on a probe's verdict; True when this probe has nothing more to do."""
        if probe.kind == "readiness":
            unready = tally.verdict is not True
            explain = message if unready and age >= _EXPLAIN_AFTER else ""
            if tally.verdict is True or before.verdict is True or explain:
                self._note(container, podphase.probed(container.life, probe, not unready, explain or message))
            return False
        if tally.verdict is True:
            if probe.kind == "startup":
                # A container without a readiness probe is ready from here on.
                ready = podphase.probe_of(container.spec, "readinessProbe", {}) is None
                self._note(container, replace(podphase.probed(container.life, probe, True, ""), ready=ready))
                return True
            return False
        if tally.verdict is False:
            text = f"Container {container.life.name} failed {probe.kind} probe, will be restarted"
            self._event("Killing", text)
            # Its own task: the end of the process cancels this one.
            self._node.spawn(self._stop(container), f"restart of {meta.key_of(self.pod)}")
            return True
        return False

    def _note(self, container: _Container, life: Life) -> None:
        if life == container.life:
            return
        container.life = life
        if life.ready and _gateway_probes(container.spec):
            self._node.lull.after(("status", meta.uid_of(self.pod)), self.publish)
        else:
            self.publish()

    async def _beside(self, container: _Container, argv: tuple[str, ...], timeout: float) -> Completed:
        """Run a command with the container's environment and working directory."""
        life = container.life
        launch = Launch(
            f"{meta.uid_of(self.pod)}/{life.name}/exec", argv, container.env, container.spec.get("workingDir") or "."
        )
        return await self._node.runtime.run(launch, timeout)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _grace(self) -> float:
        """Seconds from SIGTERM to SIGKILL, from now on: what the deletion says, else the pod."""
        grace = self.pod["metadata"].get("deletionGracePeriodSeconds") if self._deleting else None
        if grace is None:
            grace = self.pod["spec"].get("terminationGracePeriodSeconds")
        seconds = _DEFAULT_GRACE if grace is None else float(grace)
        if self._vanished:
            seconds = min(seconds, _LEAST_GRACE)
        return seconds if self._cap is None else min(seconds, self._cap)

    async def _terminate(self) -> None:
        running = [container for container in self._containers if container.process is not None]
        for container in running:
            self._event("Killing", f"Stopping container {container.life.name}")
        await asyncio.gather(*(self._stop(container) for container in running))

    async def _stop(self, container: _Container) -> None:
        """preStop, SIGTERM, SIGKILL: the first two share the grace period, and a hook that has used it up leaves two
        seconds to SIGTERM, as with kubelet."""
        process = container.process
        if process is None:
            return
        loop = asyncio.get_running_loop()
        grace = self._grace()
        end = await self._until(loop.time() + grace, self._pre_stop(container, grace))
        process.signal(signal.SIGTERM)
        await self._until(max(end, loop.time() + min(self._grace(), _LEAST_GRACE)), container.exited.wait())
        if not container.exited.is_set():
            process.signal(signal.SIGKILL)
            await container.exited.wait()

    async def _until(self, end: float, work: Coroutine[object, object, object]) -> float:
        """Runs `work` until `end` at most, which comes nearer when the pod is to end sooner; gives the end that held
        (loop time)."""
        loop = asyncio.get_running_loop()
        task: asyncio.Future[object] = asyncio.ensure_future(work)
        try:
            while not task.done() and loop.time() < end:
                hastened = self._hastened
                either: tuple[asyncio.Future[object], asyncio.Future[None]] = (task, hastened)
                await asyncio.wait(either, timeout=end - loop.time(), return_when=asyncio.FIRST_COMPLETED)
                if hastened.done():
                    end = min(end, loop.time() + self._grace())
            if task.done():
                task.result()
            return end
        finally:
            task.cancel()

    async def _pre_stop(self, container: _Container, grace: float) -> None:
        hook = (container.spec.get("lifecycle") or {}).get("preStop") or {}
        exited = asyncio.ensure_future(container.exited.wait())
        try:
            if "sleep" in hook:
                await asyncio.wait({exited}, timeout=float(hook["sleep"].get("seconds") or 0))
            elif "exec" in hook:
                argv = tuple(hook["exec"].get("command") or ())
                done = await self._beside(container, argv, grace)
                if done.code:
                    text = f"PreStopHook failed: exit code {done.code}: {done.output}"
                    self._event("FailedPreStopHook", text, warning=True)
        except (StartError, RuntimeGone, TimeoutError) as error:
            why = str(error) or f"it took longer than {grace:g} s"
            self._event("FailedPreStopHook", f"PreStopHook failed: {why}", warning=True)
        finally:
            exited.cancel()

    async def _delete(self) -> None:
        """Tell the API server that nothing of the pod runs: it may go."""
        key, uid = meta.key_of(self.pod), meta.uid_of(self.pod)
        delay = _RETRY_FIRST
        while not self._vanished and self._cap is None:
            try:
                await self._node.kube.delete(kinds.POD, key, uid=uid, grace_period=0)
                return
            except (NotFound, Conflict):
                return
            except KubeError as error:
                _log.info("pod %s not deleted yet: %s", key, error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_MAX)

    # --- status -------------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Write the status: now, or as soon as the write under way is done."""
        if self._vanished or self._deleting or self._cap is not None:
            return  # nobody waits for it: endpoints follow the deletion timestamp
        self._dirty = True
        if self._writer is None or self._writer.done():
            self._writer = self._node.spawn(self._write(), f"status of {meta.key_of(self.pod)}")

    async def _write(self) -> None:
        delay = _RETRY_FIRST
        while self._dirty and not self._ending:
            self._dirty = False
            lives = [container.life for container in self._containers]
            status = podphase.pod_status(self.pod, lives, self._status, self._began, datetime.now(UTC))
            if status == self._status:
                continue
            new_address = status.get("podIP") != self._status.get("podIP")
            try:
                with self._node.lull.urgent() if new_address else nullcontext():
                    await self._node.kube.patch(
                        kinds.POD, meta.key_of(self.pod), self._patch(status), subresource="status"
                    )
                self._status = status
                delay = _RETRY_FIRST
            except NotFound:
                return  # the informer will tell
            except Invalid as error:
                _log.error("status of pod %s refused: %s", meta.key_of(self.pod), error)
                return
            except KubeError as error:
                _log.info("status of pod %s not written yet: %s", meta.key_of(self.pod), error)
                self._dirty = True
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_MAX)

    def _patch(self, status: JsonObject) -> JsonObject:
        ports = {str(number): port for number, port in self._host_ports.items()}
        annotations = {podphase.HOST_PORTS: orjson.dumps(ports).decode()} if ports else {}
        # The uid makes a patch of another pod with the same name fail instead of lie.
        return {"metadata": {"uid": meta.uid_of(self.pod), "annotations": annotations}, "status": status}

    def _event(self, reason: str, message: str, *, warning: bool = False) -> None:
        self._node.record(self.pod, Event("Warning" if warning else "Normal", reason, message))


def _first_life(spec: JsonObject, former: JsonObject | None) -> Life:
    """A container's life when this agent first sees it; one that ran under a former agent is started once more."""
    former = former or {}
    restarts = int(former.get("restartCount", 0)) + bool(former.get("containerID"))
    return Life(spec["name"], spec.get("image", ""), restarts=restarts)


def _gateway_probes(spec: JsonObject) -> bool:
    """Whether gateways send traffic as soon as a probe of theirs passes, without waiting for the pod's status to say
    so (see `dataplane.compile.probe`)."""
    declared = spec.get("readinessProbe") or {}
    http = declared.get("httpGet")
    plain = "tcpSocket" in declared or "grpc" in declared or (http is not None and http.get("scheme", "HTTP") == "HTTP")
    return plain and "startupProbe" not in spec


def _unsupported(pod: JsonObject, container: JsonObject) -> str:
    """What the spec asks for and a local process can't have; "" if nothing."""
    if mounts := container.get("volumeMounts"):
        names = ", ".join(f"{mount['name']} at {mount.get('mountPath', '?')}" for mount in mounts)
        return (
            f'container "{container["name"]}" mounts {names}: a local process has no file system of its own to mount '
            "volumes in; read configuration from env or envFrom, or files by their path on this machine"
        )
    if pod["spec"].get("initContainers"):
        return "initContainers are not run for local processes: do their work in the container's command"
    return ""


def _decoded(name: str, key: str, text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise command.ConfigError(f'key {key} of secret "{name}" is not text and can\'t be a variable') from error
