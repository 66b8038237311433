"""Kubernetes Events about what controllers did, few enough to be read.

Theory of operation
-------------------
The same thing happening again is one Event with a growing `count` (what client-go's EventCorrelator does for identical
events), and one object can't flood the API: each has a bucket of 25 events that refills by one every five minutes
(client-go's spam filter). Writing is apart from reconciling: `Recorder` holds a bounded queue, whose oldest entry is
dropped when it is full, and one task writes, one in each lull (see `lull`), so that people's hints don't compete with
the work they are about. An Event that can't be written is dropped after one try; it is a hint to people, never state.

`Correlator` is pure; it remembers the last 4096 distinct events.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.apis import kinds
from controller.apis.meta import Key, format_time, name_of, namespace_of, uid_of
from controller.kube.errors import KubeError, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from controller.apis.meta import JsonObject
    from controller.kube.client import Kube
    from controller.lull import Lull
    from controller.reconcile.plan import Event

log = logging.getLogger(__name__)

REMEMBERED = 4096
BURST = 25
REFILL_SECONDS = 300.0
QUEUE_LIMIT = 1000

MESSAGE_LIMIT = 1024
"""Characters; Kubernetes refuses longer ones."""

_CLUSTER_SCOPED_NAMESPACE = "default"
"""Where Events about cluster-scoped objects go, as in Kubernetes."""


@dataclass(frozen=True, slots=True)
class EventWrite:
    """One write: `obj` to create or, when `count` is above 1, the same event once more."""

    obj: JsonObject
    count: int

    @property
    def repeats(self) -> bool:
        """Whether the event is written already and only its count moves."""
        return self.count > 1


class Correlator:
    """Which Event object, if any, an event becomes."""

    def __init__(self, component: str) -> None:
        self._component = component
        self._seen: OrderedDict[tuple[str, ...], tuple[str, str, int]] = OrderedDict()  # name, first time, count
        self._buckets: OrderedDict[str, tuple[float, datetime]] = OrderedDict()

    def correlate(self, subject: JsonObject, event: Event, now: datetime) -> EventWrite | None:
        """None when the object has used up its share."""
        if not self._admit(uid_of(subject) or str(subject["metadata"].get("name")), now):
            return None
        message = event.message[:MESSAGE_LIMIT]
        about = (subject["kind"], namespace_of(subject), name_of(subject), uid_of(subject))
        identity = (*about, event.type, event.reason, message)
        moment = format_time(now)
        name, first, count = self._seen.pop(identity, ("", moment, 0))
        if not name:
            digest = hashlib.sha256(repr((identity, now.isoformat())).encode()).hexdigest()[:16]
            name = f"{name_of(subject)[:200]}.{digest}"
        self._seen[identity] = (name, first, count + 1)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return EventWrite(self._object(subject, event, message, name, first, moment, count + 1), count + 1)

    def _admit(self, identity: str, now: datetime) -> bool:
        tokens, last = self._buckets.pop(identity, (float(BURST), now))
        tokens = min(float(BURST), tokens + (now - last).total_seconds() / REFILL_SECONDS)
        admitted = tokens >= 1.0
        self._buckets[identity] = (tokens - admitted, now)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return admitted

    def _object(
        self, subject: JsonObject, event: Event, message: str, name: str, first: str, last: str, count: int
    ) -> JsonObject:
        namespace = namespace_of(subject)
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace or _CLUSTER_SCOPED_NAMESPACE},
            "involvedObject": {
                "apiVersion": subject["apiVersion"],
                "kind": subject["kind"],
                "namespace": namespace,
                "name": name_of(subject),
                "uid": uid_of(subject),
                "resourceVersion": str(subject["metadata"].get("resourceVersion", "")),
            },
            "type": event.type,
            "reason": event.reason,
            "message": message,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": "",
            "firstTimestamp": first,
            "lastTimestamp": last,
            "count": count,
        }


class Recorder:
    """Takes events at once, writes them in `run`."""

    def __init__(self, kube: Kube, component: str, clock: Callable[[], datetime], lull: Lull) -> None:
        self._kube = kube
        self._clock = clock
        self._lull = lull
        self._correlator = Correlator(component)
        self._queue: deque[tuple[JsonObject, Event]] = deque(maxlen=QUEUE_LIMIT)
        self._filled = asyncio.Event()

    def record(self, subject: JsonObject, event: Event) -> None:
        """Queue an event about `subject`; with QUEUE_LIMIT of them waiting the oldest is dropped."""
        self._queue.append((subject, event))
        self._filled.set()

    async def run(self) -> None:
        """Write what is recorded, for ever, while nothing more urgent is done."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._queue:
                await self._lull.wait()
                write = self._correlator.correlate(*self._queue.popleft(), self._clock())
                if write is not None:
                    await self._write(write)

    async def _write(self, write: EventWrite) -> None:
        try:
            if write.repeats and await self._repeat(write.obj):
                return
            await self._kube.create(kinds.EVENT, write.obj)
        except KubeError as error:
            log.debug("dropped the event %s: %s", write.obj["metadata"]["name"], error)

    async def _repeat(self, obj: JsonObject) -> bool:
        """Counts the Event up; False if the server has forgotten it (Events expire)."""
        key = Key(obj["metadata"]["namespace"], obj["metadata"]["name"])
        body = {name: obj[name] for name in ("count", "lastTimestamp")}
        try:
            await self._kube.patch(kinds.EVENT, key, body)
        except NotFound:
            return False
        return True
