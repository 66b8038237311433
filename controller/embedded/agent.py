"""The node agent: makes this machine's processes what the API server's pods say.

`on_change` is the informer's callback: a pod for this node gets a `Sandbox`, in the same turn of the loop.

Nothing is adopted over a restart of `zerogate up`: the runtime kills what a former life left, and each pod's containers
are started anew with their restart count raised. A pod being deleted then has no process any more and goes at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from controller.apis import kinds, meta
from controller.embedded import podphase
from controller.embedded.sandbox import Node, Sandbox
from controller.embedded.workloads import NODE
from controller.lull import Lull

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.apis.meta import JsonObject
    from controller.embedded.podlogs import PodLogs
    from controller.embedded.ports import PortAllocator
    from controller.embedded.runtimes import Runtime, command
    from controller.kube.client import Kube

STOP_CAP = 10.0
"""Seconds that `stop` gives containers at most, however long their grace period."""


class Agent:
    """Runs the pods of this machine. `start` first, then feed `on_change` from the pods' informer."""

    def __init__(
        self,
        kube: Kube,
        runtime: Runtime,
        logs: PodLogs,
        ports: PortAllocator,
        images: command.Images,
        lull: Lull | None = None,
    ) -> None:
        self._node = Node(kube, runtime, logs, ports, images, Lull() if lull is None else lull)
        self._sandboxes: dict[str, Sandbox] = {}
        self._stopping = False

    async def start(self) -> None:
        """Kill leftovers of a former life, remove the logs of pods that are gone, get the runtime ready. Raises
        KubeError."""
        await self._node.runtime.open()
        pods = (await self._node.kube.list(kinds.POD))["items"]
        self._node.logs.forget_all_but({meta.uid_of(pod) for pod in pods})
        for port in (port for pod in pods for port in podphase.host_ports(pod).values()):
            self._node.ports.hold(port)
        self._node.open()

    async def stop(self) -> None:
        """End every process: SIGTERM, then SIGKILL after the pod's grace period or `STOP_CAP` seconds. The pods stay in
        the API, to be started anew by the next life."""
        self._stopping = True
        sandboxes = list(self._sandboxes.values())
        for sandbox in sandboxes:
            sandbox.shut_down(STOP_CAP)
        await asyncio.gather(*(sandbox.task for sandbox in sandboxes), return_exceptions=True)
        await self._node.close()
        await self._node.runtime.close()

    def on_start(self, callback: Callable[[JsonObject], None]) -> None:
        """Have `callback` called with each pod of which containers were started, or could not be."""
        self._node.on_start = callback

    def is_starting(self, uid: str) -> bool:
        """Whether the pod is here and nothing of it was started so far."""
        sandbox = self._sandboxes.get(uid)
        return sandbox is not None and sandbox.is_starting

    def started(self, uid: str) -> float | None:
        """When the last container of a pod was started, on the wall clock; known sooner than its status is written.
        None unless all run."""
        sandbox = self._sandboxes.get(uid)
        return None if sandbox is None else sandbox.started

    def on_change(self, old: JsonObject | None, new: JsonObject | None) -> None:
        """A pod appeared, changed or went (`new` None), as the informer tells it."""
        if old is not None and (new is None or meta.uid_of(old) != meta.uid_of(new)):
            if sandbox := self._sandboxes.get(meta.uid_of(old)):
                sandbox.vanished()
            else:
                self._node.logs.forget(old)
        if new is None or self._stopping or new["spec"].get("nodeName") not in (None, "", NODE):
            return
        uid = meta.uid_of(new)
        if uid in self._sandboxes:
            self._sandboxes[uid].update(new)
        elif meta.is_deleting(new) or (new.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
            sandbox = self._sandboxes[uid] = Sandbox(self._node, new)
            sandbox.task.add_done_callback(lambda _: self._sandboxes.pop(uid))
