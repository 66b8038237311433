"""Asks the KPA about every revision, every two seconds and whenever a cold revision gets a request.

Theory of operation
-------------------
`Deciders` keeps one decider per PodAutoscaler of our class: its settings, follow-up state and last decision. It is fed
by three streams, all in the controller's loop: PodAutoscalers and EndpointSlices as the caches see them change, and
the gateways' Stats. What comes out is `decision(key)`, and the key handed to `enqueue` when the desired scale changed
or the excess burst capacity changed its sign; the PodAutoscaler's reconciler makes it true.

A report with requests in flight for a revision whose last decision was zero (or none) is a poke: it is decided in the
same call, and its key is queued before the call returns. That is the first hop of a cold start.

Replicas that drain are not counted on: they take no new request. They are ready all the same, and are told as such.

What was decided, and what the PodAutoscaler's reconciler made of it, is kept for a while and told by `account`
(`controller.autoscaler.explain`).

Deciding starts with the first `tick`. Before that the caches are being filled, and a decider that has not seen the
ready replicas yet would not know what it must not take away.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from controller.apis import conditions, podautoscaler
from controller.apis.annotations import KPA_CLASS, parse_autoscaling
from controller.apis.labels import SERVICE_NAME
from controller.apis.meta import Key, annotations_of, child_name, key_of, labels_of
from controller.autoscaler.collector import Collector
from controller.autoscaler.explain import Explanation, History, explain
from controller.autoscaler.kpa import (
    TICK,
    DeciderSpec,
    DeciderState,
    Decision,
    activators,
    decide,
    decider_spec,
    first_decision,
    new_state,
)
from gateway.contract import RevisionId

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from controller.apis.meta import JsonObject
    from controller.config.store import Config
    from gateway.contract import Stat

__all__ = ["DeciderView", "Deciders", "ready_endpoints"]


def _none_drains(_revision: RevisionId) -> None:
    return None


class DeciderView(NamedTuple):
    """One decider, for metrics."""

    key: Key
    decision: Decision
    ready: int


class _Decider:
    __slots__ = ("decision", "history", "obj", "spec", "state", "woken")

    def __init__(self, obj: JsonObject, spec: DeciderSpec) -> None:
        self.obj = obj
        self.history = History()
        self.spec = spec
        self.state: DeciderState | None = None
        self.woken: float | None = None
        self.decision = first_decision(spec, 0)


class Deciders:
    """All deciders of this controller. `config` gives the present configuration, `enqueue` has a PodAutoscaler
    reconciled, `draining` names the pods of a revision that drain, if any do; `clock` is monotonic."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        enqueue: Callable[[Key], None],
        draining: Callable[[RevisionId], Collection[str] | None] = _none_drains,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._current_config = config
        self._config = config()
        self._enqueue = enqueue
        self._draining = draining
        self._clock = clock
        self._collector = Collector()
        self._deciders: dict[Key, _Decider] = {}
        self._ready: dict[Key, dict[Key, tuple[str, ...]]] = {}  # pods by Service, by EndpointSlice
        self._started = False

    # --- what others ask ----------------------------------------------------------------------------------------------

    def decision(self, key: Key) -> Decision | None:
        """The last decision about a PodAutoscaler; None if it is not one of ours."""
        decider = self._deciders.get(key)
        return decider.decision if decider else None

    def woken(self, key: Key) -> float | None:
        """When it was decided that there be replicas where none were wanted before, on the wall clock; None while none
        are wanted, and where that is not decided here."""
        decider = self._deciders.get(key)
        return decider.woken if decider else None

    def ready(self, key: Key) -> int:
        """The revision's ready replicas, by the EndpointSlices of its private Service."""
        slices = self._ready.get(Key(key.namespace, child_name(key.name, "-private")))
        return sum(map(len, slices.values())) if slices else 0

    def _in_service(self, key: Key) -> int:
        """Those of them that do not drain."""
        draining = self._draining(RevisionId(*key))
        if not draining:
            return self.ready(key)
        slices = self._ready.get(Key(key.namespace, child_name(key.name, "-private"))) or {}
        return sum(pod not in draining for pods in slices.values() for pod in pods)

    def explanation(self, key: Key) -> Explanation | None:
        """The last decision about a PodAutoscaler in words; None if it is not one of ours."""
        decider = self._deciders.get(key)
        return explain(decider.spec, decider.decision) if decider else None

    def account(self, key: Key) -> JsonObject | None:
        """All that is known about a revision's scale and how it came about, as JSON; None if it is not one of ours."""
        decider = self._deciders.get(key)
        if decider is None:
            return None
        decision = decider.decision
        scale = (decider.obj.get("status") or {}).get("desiredScale")
        ready = self.ready(key)
        # Knative's rule, which asks for the scale that min-scale and the like have made of the wish.
        serves = decision.desired >= 0 and scale and decision.excess_burst_capacity >= 0
        return {
            "namespace": key.namespace,
            "revision": key.name,
            "desiredScale": scale,
            "actualScale": ready,
            "mode": "Serve" if serves else "Proxy",
            "activators": activators(decider.spec, ready),
            "excessBurstCapacity": decision.excess_burst_capacity,
            "settings": {_camel(name): value for name, value in asdict(decider.spec).items()},
            "history": list(decider.history.describe(self._clock())),
        }

    def views(self) -> list[DeciderView]:
        """All deciders."""
        return [DeciderView(key, decider.decision, self.ready(key)) for key, decider in self._deciders.items()]

    # --- what the caches tell -----------------------------------------------------------------------------------------

    def on_pod_autoscaler(self, old: JsonObject | None, new: JsonObject | None) -> None:
        """A PodAutoscaler was added, changed (`new`) or removed (None)."""
        if new is not None:
            self._sync(new)
            self._note_scale(old, new)
        elif old is not None:
            self._drop(key_of(old))

    def on_endpoint_slice(self, old: JsonObject | None, new: JsonObject | None) -> None:
        """An EndpointSlice was added, changed or removed."""
        for obj in filter(None, (old, new)):
            service = Key(key_of(obj).namespace, labels_of(obj).get(SERVICE_NAME, ""))
            slices = self._ready.setdefault(service, {})
            if obj is new:
                slices[key_of(obj)] = ready_endpoints(obj)
            else:
                slices.pop(key_of(obj), None)
            if not slices:
                del self._ready[service]

    def _sync(self, obj: JsonObject) -> None:
        key = key_of(obj)
        annotated = parse_autoscaling(annotations_of(obj), self._config)
        if (annotated.autoscaler_class or self._config.autoscaler.pod_autoscaler_class) != KPA_CLASS:
            self._drop(key)
            return
        view = podautoscaler.parse(obj)
        spec = decider_spec(
            annotated,
            self._config.autoscaler,
            container_concurrency=view.container_concurrency,
            reachable=not view.is_unreachable,
        )
        decider = self._deciders.get(key)
        if decider is None:
            self._deciders[key] = _Decider(obj, spec)
        else:
            decider.obj, decider.spec = obj, spec
        self._collector.track(key, spec)

    def _note_scale(self, old: JsonObject | None, new: JsonObject) -> None:
        decider = self._deciders.get(key_of(new))
        scaled = _scaled(new)
        if decider is not None and scaled is not None and (old is None or scaled != _scaled(old)):
            decider.history.scaled(*scaled, self._clock())

    def _drop(self, key: Key) -> None:
        if self._deciders.pop(key, None) is not None:
            self._collector.forget(key)

    # --- what the gateways tell ---------------------------------------------------------------------------------------

    def on_stats(self, worker: str, stats: Iterable[Stat]) -> None:
        """A gateway worker's report."""
        now = self._clock()
        for key in self._collector.on_stats(worker, stats, now):
            if self._started and self._deciders[key].decision.desired <= 0:
                self._decide(key, now)

    def on_disconnect(self, worker: str) -> None:
        """A gateway worker's connection has ended."""
        self._collector.on_disconnect(worker, self._clock())

    # --- deciding -----------------------------------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Tick until cancelled. To be started when the caches are filled."""
        while True:
            self.tick()
            await asyncio.sleep(TICK)

    def tick(self) -> None:
        """Decide about every revision."""
        self._started = True
        if self._current_config() is not self._config:
            self._config = self._current_config()
            for decider in list(self._deciders.values()):
                self._sync(decider.obj)
        now = self._clock()
        for key in self._deciders:
            self._decide(key, now)

    def _decide(self, key: Key, now: float) -> None:
        decider = self._deciders[key]
        ready = self.ready(key)
        if decider.state is None:
            decider.state = new_state(ready, now)
        load = self._collector.load(key, ready=ready, now=now)
        if load is None:
            return
        before = decider.decision
        decider.decision, decider.state = decide(
            decider.spec, decider.state, stable=load.stable, panic=load.panic, ready=self._in_service(key), now=now
        )
        decider.history.decided(decider.spec, decider.decision, now)
        if decider.decision.desired <= 0:
            decider.woken = None
        elif before.desired <= 0:
            decider.woken = datetime.now(UTC).timestamp()
        if _is_news(before, decider.decision):
            self._enqueue(key)


def ready_endpoints(endpoint_slice: JsonObject) -> tuple[str, ...]:
    """The pods of an EndpointSlice that are ready. An absent condition means ready (discovery.k8s.io/v1)."""
    return tuple(
        (endpoint.get("targetRef") or {}).get("name", "")
        for endpoint in endpoint_slice.get("endpoints") or ()
        if (endpoint.get("conditions") or {}).get("ready") is not False
    )


def _scaled(obj: JsonObject) -> tuple[int, Explanation] | None:
    """The scale that the reconciler wants, and why."""
    scale = (obj.get("status") or {}).get("desiredScale")
    why = conditions.find(obj, podautoscaler.SCALE_EXPLAINED)
    return None if scale is None or why is None else (scale, Explanation(why.reason, why.message))


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _is_news(before: Decision, after: Decision) -> bool:
    # Zero counts as positive: it is the smallest capacity at which Knative takes the activator off the path.
    sign_changed = (before.excess_burst_capacity < 0) != (after.excess_burst_capacity < 0)
    return before.desired != after.desired or sign_changed
