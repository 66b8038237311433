"""Kubernetes Events about pods, written beside everything else.

Events explain and never delay: `record` puts one on a bounded list and returns. After a second's linger (a cold start
has better things to do with the API server) they are written one by one; the same event again meanwhile raises its
count, later too, as kubelet's recorder does. At 256 waiting events the newest is dropped: those first said are nearer
the cause.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from controller.apis import kinds, meta
from controller.apis.meta import Key
from controller.kube.errors import KubeError, NotFound

if TYPE_CHECKING:
    from controller.apis.meta import JsonObject
    from controller.kube.client import Kube

_log = logging.getLogger(__name__)
_LINGER = 1.0
_LIMIT = 256
_REMEMBERED = 1024


@dataclass(slots=True)
class _Pending:
    pod: JsonObject
    container: str
    type: str
    reason: str
    message: str
    first: datetime
    last: datetime
    count: int = 1


class PodEvents:
    """Records events; `run` writes them until cancelled, `flush` writes what waits."""

    def __init__(self, kube: Kube, component: str, host: str) -> None:
        self._kube = kube
        self._source = {"component": component, "host": host}
        self._waiting: dict[str, _Pending] = {}
        self._written: dict[str, int] = {}
        self._news = asyncio.Event()

    def record(self, pod: JsonObject, reason: str, message: str, *, container: str = "", warning: bool = False) -> None:
        now = datetime.now(UTC)
        digest = hashlib.sha256("\0".join((meta.uid_of(pod), container, reason, message)).encode()).hexdigest()
        name = f"{meta.name_of(pod)[:230]}.{digest[:16]}"
        if name in self._waiting:
            self._waiting[name].count += 1
            self._waiting[name].last = now
        elif len(self._waiting) < _LIMIT:
            kind = "Warning" if warning else "Normal"
            self._waiting[name] = _Pending(pod, container, kind, reason, message, now, now)
            self._news.set()

    async def run(self) -> None:
        while True:
            await self._news.wait()
            await asyncio.sleep(_LINGER)
            self._news.clear()
            await self.flush()

    async def flush(self) -> None:
        while self._waiting:
            name = next(iter(self._waiting))
            try:
                await self._write(name, self._waiting.pop(name))
            except KubeError as error:
                _log.debug("event %s not written: %s", name, error)

    async def _write(self, name: str, event: _Pending) -> None:
        key = Key(meta.namespace_of(event.pod), name)
        if name in self._written:
            count = self._written[name] + event.count
            try:
                await self._kube.patch(
                    kinds.EVENT, key, {"count": count, "lastTimestamp": meta.format_time(event.last)}
                )
                self._remember(name, count)
                return
            except NotFound:
                pass  # events expire
        await self._kube.create(kinds.EVENT, self._object(key, event))
        self._remember(name, event.count)

    def _remember(self, name: str, count: int) -> None:
        self._written[name] = count
        if len(self._written) > _REMEMBERED:
            del self._written[next(iter(self._written))]

    def _object(self, key: Key, event: _Pending) -> JsonObject:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": key.namespace, "name": key.name},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": key.namespace,
                "name": meta.name_of(event.pod),
                "uid": meta.uid_of(event.pod),
                **({"fieldPath": f"spec.containers{{{event.container}}}"} if event.container else {}),
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message,
            "source": self._source,
            "reportingComponent": self._source["component"],
            "reportingInstance": self._source["host"],
            "firstTimestamp": meta.format_time(event.first),
            "lastTimestamp": meta.format_time(event.last),
            "count": event.count,
        }
