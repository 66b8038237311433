"""Runs controllers: keys in, plans applied.

Theory of operation
-------------------
One `Informer` per kind that any controller owns or watches fills the shared caches. A change of an object queues the
keys it concerns with each controller: its own key, and what the controller's mappers say (of the old and of the new
object, so that a reference that was dropped is noticed as well). `WORKERS` tasks per controller take keys: observe,
reconcile, apply. Both decisions are pure and synchronous, so that a worker holds the loop for well under a millisecond
and waits only for the API server.

Ends of a reconcile, and when the key comes back:

- Nothing left to do: when something changes, or after `Plan.requeue_after`.
- Conflict, NotFound, AlreadyExists: the cache was behind; soon, by the queue's back-off from 5 ms, and nobody is told.
- `Plan.error` or any other KubeError: with back-off, a Warning event `InternalError` on the object (Knative's name for
  it) and a log line.
- An exception in observe or reconcile is our bug: the same, with the traceback in the log (see `bugs`); other keys
  go on.

The status of some kinds may come late (`late_status`): when one change makes several objects busy at once, as a cold
start does, what only tells people about it waits for a lull (see `lull`) behind what the request waits for. The key is
reconciled again then, so that several changes of the status meanwhile are one write. For the same reason these kinds
look at changes of *other* objects in a lull; their own changes, and keys enqueued by name, are taken at once. The
kinds of which the plans are what a request waits for (`cold_path`) say when there is no lull. A kind whose status
is made from those of others in the list stands and comes behind them: so each is written once.
(Measured: a cold start through the embedded API server is ten requests, three of which the request waits for; from
the poke to the endpoint at the gateway took 17.5 ms with all of them at once and 6.5 ms with those three first.)

What a reconcile wrote into its own object's status is no reason to look at the key again: the plan that would be made
is the one that was just carried out. Others are told as of any change.

Configuration: the ConfigMaps of the control plane's namespace are watched and become one `Config`, before the first
reconcile and at each change; a change reconciles everything again. A map that can't be read leaves the old value, with
a Warning event on the map. Every `RESYNC` seconds each key is queued as well (Knative's global resync).

Everything runs in one TaskGroup: cancelling `run` ends all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from controller.apis import kinds
from controller.apis.meta import Key, key_of, name_of
from controller.bugs import BugLog
from controller.config import store
from controller.config.reading import ConfigError
from controller.kube.apply import apply, is_stale
from controller.kube.errors import KubeError
from controller.kube.events import Recorder
from controller.kube.informer import Caches, Informer, KindCache
from controller.kube.workqueue import AsyncWorkQueue
from controller.lull import TOLD, Lull
from controller.reconcile.plan import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from controller.apis.kinds import Kind
    from controller.apis.meta import JsonObject
    from controller.config.store import Config
    from controller.kube.client import Kube
    from controller.reconcile.plan import Controller, Plan

log = logging.getLogger(__name__)

WORKERS = 16
"""Keys of one controller reconciled at once. A worker waits for the API server nearly all of its time."""

RESYNC = 10 * 3600.0
COMPONENT = "zerogate-controller"


@dataclass(slots=True)
class CurrentConfig:
    """The configuration of this moment, for those who are made before the runner."""

    value: Config = field(default_factory=store.Config)


class Metrics:
    """What the runner counts, on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reconciles = Counter(
            "zerogate_controller_reconciles",
            "Reconciles by their end: ok, stale, error or bug.",
            ["controller", "result"],
            registry=registry,
        )
        self.seconds = Histogram(
            "zerogate_controller_reconcile_duration_seconds",
            "From taking a key to its plan being applied.",
            ["controller"],
            registry=registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30),
        )
        self.depth = Gauge(
            "zerogate_controller_workqueue_depth", "Keys that wait for a worker.", ["controller"], registry=registry
        )
        self.requests = Counter(
            "zerogate_controller_api_requests", "Requests that plans led to.", ["controller"], registry=registry
        )


@dataclass(frozen=True, slots=True)
class _Loop:
    """One controller with its queue."""

    name: str
    controller: Controller[Any]
    queue: AsyncWorkQueue[Key]
    rank: int | None
    """Not None: its status may wait, and what it has to say about others' changes; the place among those who wait."""
    prompt: bool
    """Requests wait for what its plans create and patch."""
    released: set[Key] = field(default_factory=set)
    """Keys whose lull has come: their status may be written."""


class Runner:
    """Make it inside a running loop; `run` it in a task; it is at work when `ready` is set."""

    def __init__(
        self,
        kube: Kube,
        controllers: Sequence[Controller[Any]],
        *,
        kinds_read: Iterable[Kind] = (),
        field_selectors: Mapping[Kind, str] = MappingProxyType({}),
        late_status: Sequence[Kind] = (),
        cold_path: Collection[Kind] = (),
        lull: Lull | None = None,
        config: CurrentConfig | None = None,
        namespace: str = store.NAMESPACE,
        registry: CollectorRegistry | None = None,
    ) -> None:
        """`kinds_read`: kinds to cache beyond those the controllers own and watch; `field_selectors`: kinds of which
        not all objects are cached. `late_status`: kinds whose status may wait, and with it the events of a plan that
        has nothing but a status, those that tell of others last; `cold_path`: kinds for whose plans a request waits;
        `lull`: shared with others in the same loop. `config` is kept up to date with the ConfigMaps of `namespace`."""
        ranks = {kind: rank for rank, kind in enumerate(late_status, start=TOLD)}
        self._kube = kube
        self._loops = [
            _Loop(_name(one), one, AsyncWorkQueue(), rank=ranks.get(one.kind), prompt=one.kind in cold_path)
            for one in controllers
        ]
        watched = {kind for one in controllers for kind in (one.kind, *one.watches)}
        self.cache = Caches(sorted({*watched, *kinds_read}))
        self._config = config or CurrentConfig()
        self._config_callbacks: list[Callable[[], None]] = []
        self.ready = asyncio.Event()
        """Set when every cache is filled, the configuration is read, and workers run."""
        self._callbacks: dict[Kind, list[Callable[[JsonObject | None, JsonObject | None], None]]] = {}
        self._lull = Lull() if lull is None else lull
        self._recorder = Recorder(kube, COMPONENT, partial(datetime.now, UTC), self._lull)
        self._bugs = BugLog(log)
        self._metrics = Metrics(registry or CollectorRegistry())
        for loop in self._loops:
            self._metrics.depth.labels(loop.name).set_function(partial(len, loop.queue))
        self._informers = [
            Informer(kube, kind, cache, partial(self._changed, kind), field_selector=field_selectors.get(kind, ""))
            for kind, cache in self.cache.kinds.items()
        ]
        self._config_maps = Informer(kube, kinds.CONFIG_MAP, KindCache(), self._config_map_changed, namespace=namespace)

    @property
    def config(self) -> Config:
        """The settings in force: every ConfigMap as it was last read without a mistake."""
        return self._config.value

    def enqueue(self, kind: Kind, key: Key, after: float = 0.0) -> None:
        """Have every controller of `kind` look at the key, in `after` seconds."""
        for loop in self._loops:
            if loop.controller.kind == kind:
                if loop.prompt and not after:
                    self._lull.busy()
                loop.queue.add(key, after)

    def on_config(self, callback: Callable[[], None]) -> None:
        """Have `callback` called after each change of the configuration."""
        self._config_callbacks.append(callback)

    def on_change(self, kind: Kind, callback: Callable[[JsonObject | None, JsonObject | None], None]) -> None:
        """`callback(old, new)` for each change of an object of `kind`, at once and in the loop; the cache already
        holds the new state. Register before `run`: the first list is told too, as (None, object)."""
        if kind not in self.cache.kinds:
            raise KeyError(kind)
        self._callbacks.setdefault(kind, []).append(callback)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                informers = [*self._informers, self._config_maps]
                for informer in informers:
                    group.create_task(informer.run(), name="informer")
                group.create_task(self._recorder.run(), name="events")
                for informer in informers:
                    await informer.synced.wait()
                for loop in self._loops:
                    for _ in range(WORKERS):
                        group.create_task(self._work(loop), name=f"reconcile {loop.name}")
                group.create_task(self._resync(), name="resync")
                self.ready.set()
        finally:
            self.ready.clear()
            self._lull.close()
            for loop in self._loops:
                loop.queue.close()

    # --- changes ------------------------------------------------------------------------------------------------------

    def _changed(self, kind: Kind, old: JsonObject | None, new: JsonObject | None, *, by: _Loop | None = None) -> None:
        """`by`: whose reconcile of this very object made the change."""
        for callback in self._callbacks.get(kind, ()):
            with self._bugs_contained(kind, old, new):
                callback(old, new)
        for loop in self._loops:
            if loop.controller.kind == kind and loop is not by:
                loop.queue.add(key_of(new or old or {}))
            mapper = loop.controller.watches.get(kind)
            if mapper is None:
                continue
            with self._bugs_contained(kind, old, new):
                if not _is_ignored(loop.controller, kind, old, new):
                    for key in {key for obj in (old, new) if obj is not None for key in mapper(obj, self.cache)}:
                        self._concern(loop, key)

    def _concern(self, loop: _Loop, key: Key) -> None:
        """Another object's change concerns the key."""
        if loop.rank is None:
            loop.queue.add(key)
        else:
            self._later(loop, key, loop.rank)

    def _later(self, loop: _Loop, key: Key, rank: int) -> None:
        """Reconcile the key in the next lull, its status included."""

        def release() -> None:
            loop.released.add(key)
            loop.queue.add(key)

        self._lull.after((loop.name, key), release, rank)

    @contextlib.contextmanager
    def _bugs_contained(self, kind: Kind, old: JsonObject | None, new: JsonObject | None) -> Iterator[None]:
        """A bug that one object brings out must not stop the watch of all the others; it is logged and counted."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a bug of ours, of any kind
            subject = f"{kind.kind} {key_of(new or old or {})}"
            self._bugs.report(f"change of {kind.plural}", error, f"a change of {subject} was not handled")
            self._metrics.reconciles.labels(kind.plural, "bug").inc()

    def _offer(self, kind: Kind, obj: JsonObject, *, by: _Loop | None = None) -> None:
        cache = self.cache.kinds.get(kind)
        change = None if cache is None else cache.offer(obj)
        if change is not None:
            self._changed(kind, *change, by=by)

    def _config_map_changed(self, _old: JsonObject | None, new: JsonObject | None) -> None:
        source = new or _old
        if source is None or name_of(source) not in store.CONFIG_MAP_NAMES:
            return
        try:
            if new is None:
                config = store.without(self.config, name_of(source))
            else:
                config = store.update(self.config, name_of(source), new.get("data") or {})
        except ConfigError as error:
            log.warning("ConfigMap %s keeps its last good value: %s", key_of(source), error)
            self._recorder.record(source, Event("Warning", "InvalidConfiguration", str(error)))
            return
        if config != self.config:
            self._config.value = config
            self._enqueue_everything()
            for callback in self._config_callbacks:
                callback()

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(RESYNC)
            self._enqueue_everything()

    def _enqueue_everything(self) -> None:
        for loop in self._loops:
            for key in self.cache.kinds[loop.controller.kind]:
                loop.queue.add(key)

    # --- reconciling --------------------------------------------------------------------------------------------------

    async def _work(self, loop: _Loop) -> None:
        while True:
            key = await loop.queue.take()
            try:
                with self._metrics.seconds.labels(loop.name).time():
                    result = await self._reconcile(loop, key)
                self._metrics.reconciles.labels(loop.name, result).inc()
            finally:
                loop.queue.done(key)

    async def _reconcile(self, loop: _Loop, key: Key) -> str:
        """One key, once; what became of it."""
        subject = self.cache.get(loop.controller.kind, key)
        if subject is None:
            loop.released.discard(key)
            loop.queue.forget(key)
            return "ok"
        try:
            whole = self._plan(loop.controller, key)
            if whole is None:
                loop.queue.forget(key)
                return "ok"
            if loop.controller.carry_out is not None:
                loop.controller.carry_out(key, whole)
            plan = self._without_late_status(loop, key, subject, whole)
            for event in plan.events:
                self._recorder.record(subject, event)
            with self._lull.urgent() if loop.prompt and (plan.create or plan.patch) else contextlib.nullcontext():
                requests = await apply(
                    *(self._kube, loop.controller.kind, subject, plan, self.cache),
                    offer=self._offer,
                    offer_status=partial(self._offer, by=loop),
                )
            self._metrics.requests.labels(loop.name).inc(requests)
        except KubeError as error:
            return self._failed(loop, key, subject, error)
        except Exception as error:  # noqa: BLE001 - a bug of ours, of any kind
            self._bugs.report(loop.name, error, f"{loop.name} {key}: reconciling failed")
            self._tell(loop, key, subject, f"internal error: {error!r}")
            return "bug"
        if plan.error:
            log.warning("%s %s: %s", loop.name, key, plan.error)
            self._tell(loop, key, subject, plan.error)
            return "error"
        if plan is whole:  # a status that is put off may fail yet, and its back-off has to grow
            loop.queue.forget(key)
        if plan.requeue_after is not None:
            loop.queue.add(key, max(plan.requeue_after, _SOON))
        return "ok"

    def _without_late_status(self, loop: _Loop, key: Key, subject: JsonObject, plan: Plan) -> Plan:
        """The plan, or the plan without its status if that is to wait; then the key comes back in the next lull. Events
        that tell of nothing but the status wait with it."""
        released = key in loop.released
        loop.released.discard(key)
        if loop.rank is None or released or plan.error or plan.status is None or plan.status == subject.get("status"):
            return plan
        self._later(loop, key, loop.rank)
        steps = plan.create or plan.update or plan.patch or plan.delete
        return replace(plan, status=None, events=plan.events if steps else ())

    def _plan(self, controller: Controller[Any], key: Key) -> Plan | None:
        seen = controller.observe(self.cache, key)
        return None if seen is None else controller.reconcile(seen, self.config, datetime.now(UTC))

    def _failed(self, loop: _Loop, key: Key, subject: JsonObject, error: KubeError) -> str:
        if is_stale(error):
            log.debug("%s %s: looking again: %s", loop.name, key, error)
            loop.queue.add_failed(key)
            return "stale"
        log.warning("%s %s: %s", loop.name, key, error)
        self._tell(loop, key, subject, str(error))
        return "error"

    def _tell(self, loop: _Loop, key: Key, subject: JsonObject, message: str) -> None:
        self._recorder.record(subject, Event("Warning", "InternalError", message))
        loop.queue.add_failed(key)


_SOON = 0.001
"""Seconds; a plan that asks to come back at once still lets others through first."""


def _is_ignored(controller: Controller[Any], kind: Kind, old: JsonObject | None, new: JsonObject | None) -> bool:
    """Whether a change of a watched object makes no difference to the controller."""
    makes_none = controller.ignores.get(kind)
    return makes_none is not None and old is not None and new is not None and makes_none(old, new)


def _name(controller: Controller[Any]) -> str:
    """`route`, `labeler`, `workloads.service`: the reconciler's module, and what it reconciles if it says so."""
    module, function = controller.reconcile.__module__.rpartition(".")[2], controller.reconcile.__name__
    return module if function == "reconcile" else f"{module}.{function.removeprefix('reconcile_')}"
