"""One revision under a given load, in virtual time: hours in seconds.

Theory of operation
-------------------
Everything that decides is the code that runs in earnest: the gateway's `LoadMeter` and `Throttler`, the autoscaler's
`Deciders`, the PodAutoscaler's `reconcile` with the drain of replicas that go. What is simulated is what takes time:
requests, processes that start, and the rhythm of reports (1 s) and ticks (2 s). One gateway worker, one controller, no
network: what the one asks the other knows at once.

It is a queue of events, and time is whatever the next one says; events of the same moment happen in the order of
`_Event`. So a day without requests costs its reports and ticks, some 130,000 events.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from controller.apis import kinds
from controller.apis.meta import Key, format_time
from controller.apis.podautoscaler import parse
from controller.apis.pods import deletion_rank
from controller.autoscaler.kpa import TICK
from controller.autoscaler.ticker import Deciders
from controller.config.store import Config
from controller.reconcile.drain import Progress
from controller.reconcile.podautoscaler import ObservedPodAutoscaler, reconcile
from gateway.contract import Endpoint, RevisionId, Stat
from gateway.core.concurrency import LoadMeter, RevisionLoad
from gateway.core.throttler import Throttler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from controller.apis.meta import JsonObject
    from controller.reconcile.plan import Plan
    from gateway.core.throttler import Place

__all__ = ["Arrival", "Moment", "Settings", "World"]

KEY = Key("default", "simulated-00001")
_ID = RevisionId(*KEY)
_START = datetime(2026, 1, 1, tzinfo=UTC)
_REPORT = 1.0
_SOON = 0.1
"""Seconds between two reconciles of the same object at least: what a write and its watch event take."""
_GOLDEN_RATIO = 0.6180339887


class Arrival(NamedTuple):
    """A request that comes at `time` and takes `seconds` of work."""

    time: float
    seconds: float


class Moment(NamedTuple):
    """A line of the timeline: how it was from `time` to the next line."""

    time: float
    desired: int
    replicas: int
    ready: int
    panicking: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """Of the revision: `annotations` without their prefix, `container_concurrency` 0 for no limit, `queue_limit`
    requests that may wait, `timeout` seconds for which one may."""

    annotations: dict[str, str] = field(default_factory=dict)
    container_concurrency: int = 0
    config: Config = field(default_factory=Config)
    queue_limit: int = 10_000
    timeout: float = 300.0


class _Event(IntEnum):
    POD_READY = 0
    REQUEST_ENDS = 1
    REQUEST_GIVES_UP = 2
    ARRIVAL = 3
    REPORT = 4
    DECISION = 5
    RECONCILE = 6


class _Pod:
    """`obj` is what the API server would hold of it."""

    __slots__ = ("endpoint", "is_ready", "obj")

    def __init__(self, number: int, now: float) -> None:
        name = f"pod-{number}"
        self.endpoint = Endpoint("127.0.0.1", number % 65535 + 1, name)
        self.is_ready = False
        created = format_time(_START + timedelta(seconds=now))
        self.obj: JsonObject = {
            "metadata": {"namespace": KEY.namespace, "name": name, "uid": name, "creationTimestamp": created},
            "spec": {"nodeName": "simulated"},
            "status": {"phase": "Running", "conditions": []},
        }

    def become_ready(self) -> None:
        self.is_ready = True
        self.obj["status"]["conditions"] = [{"type": "Ready", "status": "True"}]

    def mark(self, annotations: JsonObject) -> None:
        self.obj["metadata"]["annotations"] = annotations


class World:
    """One revision, one gateway worker, one controller. `cold_start` gives the seconds that a new pod takes until it is
    ready; the world begins with `replicas` starting."""

    def __init__(self, settings: Settings, *, cold_start: Callable[[], float], replicas: int = 1) -> None:
        self.now = 0.0
        self.timeline: list[Moment] = []
        self.waits: list[float] = []
        """How long each request waited for its place, in the order of arrival; infinity if it never got one."""
        self.cold = 0
        """Requests that came when there was no ready pod."""
        self.refused = 0
        self.reporting = True
        """Whether what the gateway reports arrives at the controller."""
        self.replicas = replicas
        self._draining: dict[str, float] = {}  # the pods that drain, and since when
        self.deciders = Deciders(
            config=lambda: settings.config,
            enqueue=self._enqueue,
            draining=lambda _: self._draining.keys(),
            clock=lambda: self.now,
        )
        self._settings = settings
        self._cold_start = cold_start
        self._meter = LoadMeter()
        self._load = RevisionLoad(_ID)
        self._throttler: Throttler[int] = Throttler(
            container_concurrency=settings.container_concurrency,
            queue_limit=settings.queue_limit,
            on_drained=lambda: self._enqueue(KEY),
        )
        self._events: list[tuple[float, _Event, int]] = []
        self._coming: deque[Arrival] = deque()
        self._requests: list[Arrival] = []
        self._places: dict[int, Place] = {}
        self._pods: list[_Pod] = []
        self._starting: dict[int, _Pod] = {}
        self._made = 0
        self._due = inf
        self._slice: JsonObject | None = None
        self._object = _pod_autoscaler(settings)
        self.deciders.on_pod_autoscaler(None, self._object)
        self._resize()
        self._at(0.0, _Event.REPORT)
        self._at(0.0, _Event.DECISION)

    @property
    def unfinished(self) -> int:
        """Requests that wait or are being worked on."""
        return self._throttler.waiting + self._throttler.in_flight

    def run(self, until: float, arrivals: Iterable[Arrival] = ()) -> None:
        """Let time pass. `arrivals` are sorted by time, which counts from the start of the world."""
        coming = iter(arrivals)
        self._await(next(coming, None))
        while self._events and self._events[0][0] < until:
            self.now = self._events[0][0]
            while self._events and self._events[0][0] == self.now:
                _, event, number = heapq.heappop(self._events)
                if event is _Event.ARRIVAL:
                    self._arrive(self._coming.popleft())
                    self._await(next(coming, None))
                else:
                    self._happen(event, number)
            self._write()
        self.now = until

    def _at(self, time: float, event: _Event, number: int = 0) -> None:
        heapq.heappush(self._events, (time, event, number))

    def _await(self, arrival: Arrival | None) -> None:
        if arrival is not None:
            self._coming.append(arrival)
            self._at(arrival.time, _Event.ARRIVAL)

    def _happen(self, event: _Event, number: int) -> None:
        match event:
            case _Event.POD_READY:
                pod = self._starting.pop(number, None)
                if pod is not None:
                    pod.become_ready()
                    self._publish()
            case _Event.REQUEST_ENDS:
                self._load.depart(self.now)
                self._serve(self._throttler.release(self._places.pop(number)))
            case _Event.REQUEST_GIVES_UP:
                if self._throttler.cancel(number):
                    self._load.depart(self.now)
            case _Event.REPORT:
                self._report(self._meter.report(self.now))
                self._at(self.now + _REPORT, _Event.REPORT)
            case _Event.DECISION:
                self.deciders.tick()
                self._at(self.now + TICK, _Event.DECISION)
            case _Event.RECONCILE:
                if self._due <= self.now:
                    self._reconcile()

    # --- requests -----------------------------------------------------------------------------------------------------

    def _arrive(self, arrival: Arrival) -> None:
        number = len(self._requests)
        self._requests.append(arrival)
        self.waits.append(inf)
        self.cold += self._throttler.capacity == 0
        if self._load.arrive(self.now):
            self._meter.add(self._load)
            self._report([Stat(_ID, 1.0, 1.0)])
        point = number * _GOLDEN_RATIO % 1
        place = self._throttler.try_acquire(point)
        if place is not None:
            self._serve([(number, place)])
        elif self._throttler.enqueue(number, point):
            self._at(self.now + self._settings.timeout, _Event.REQUEST_GIVES_UP, number)
            if self._draining and self._throttler.capacity == 0:
                self._report([Stat(_ID, 1.0, 0.0)])
        else:
            self.refused += 1
            self._load.depart(self.now)

    def _report(self, stats: Iterable[Stat]) -> None:
        if self.reporting:
            self.deciders.on_stats("gateway", stats)

    def _serve(self, woken: Iterable[tuple[int, Place]]) -> None:
        for number, place in woken:
            arrival = self._requests[number]
            self.waits[number] = self.now - arrival.time
            self._places[number] = place
            self._at(self.now + arrival.seconds, _Event.REQUEST_ENDS, number)

    # --- pods ---------------------------------------------------------------------------------------------------------

    def _resize(self) -> None:
        while len(self._pods) < self.replicas:
            self._made += 1
            pod = _Pod(self._made, self.now)
            self._pods.append(pod)
            self._starting[self._made] = pod
            self._at(self.now + self._cold_start(), _Event.POD_READY, self._made)
        gone = sorted(self._pods, key=lambda pod: deletion_rank(pod.obj))[: len(self._pods) - self.replicas]
        if gone:
            self._starting = {number: pod for number, pod in self._starting.items() if pod not in gone}
            self._pods = [pod for pod in self._pods if pod not in gone]
        self._publish()

    def _publish(self) -> None:
        """Tell both sides which pods there are: the gateway at once, as its probes would, and the caches."""
        endpoints = [replace(pod.endpoint, draining=pod.endpoint.pod in self._draining) for pod in self._pods]
        woken = self._throttler.update(endpoints, self._settings.container_concurrency)
        ready = {pod.endpoint.pod for pod in self._pods if pod.is_ready}
        for place in self._throttler.places:
            if place.endpoint.pod in ready:
                woken += self._throttler.open(place)
        self._serve(woken)
        before, self._slice = self._slice, _endpoint_slice(self._pods)
        self.deciders.on_endpoint_slice(before, self._slice)
        self._enqueue(KEY)

    # --- the control plane --------------------------------------------------------------------------------------------

    def _enqueue(self, _key: Key) -> None:
        self._reconcile_at(self.now)

    def _reconcile_at(self, time: float) -> None:
        self._due = time
        self._at(time, _Event.RECONCILE)

    def _reconcile(self) -> None:
        self._due = inf
        decision = self.deciders.decision(KEY)
        assert decision is not None
        seen = ObservedPodAutoscaler(
            parse(self._object),
            decision.desired,
            self.deciders.ready(KEY),
            self.replicas,
            pods=tuple(pod.obj for pod in self._pods),
            progress=self._progress(),
        )
        plan = reconcile(seen, self._settings.config, _START + timedelta(seconds=self.now))
        if plan.requeue_after is not None:
            self._reconcile_at(self.now + max(plan.requeue_after, _SOON))
        self._carry_out(plan)
        if plan.status is not None:
            before, self._object = self._object, {**self._object, "status": plan.status}
            self.deciders.on_pod_autoscaler(before, self._object)
            self._enqueue(KEY)

    def _progress(self) -> Progress:
        loads = {place.endpoint.pod: place.in_flight for place in self._throttler.places}
        draining = {pod: self.now - since for pod, since in self._draining.items()}
        return Progress(bool(draining), draining, loads, frozenset(pod for pod in draining if not loads.get(pod)))

    def _carry_out(self, plan: Plan) -> None:
        draining = {pod: self._draining.get(pod, self.now) for pod in plan.draining or ()}
        if draining.keys() != self._draining.keys():
            self._draining = draining
            self._publish()
        for patch in plan.patch:
            if patch.kind is kinds.POD:
                next(pod for pod in self._pods if pod.endpoint.pod == patch.key.name).mark(
                    patch.body["metadata"]["annotations"]
                )
                self._enqueue(KEY)
            else:
                self.replicas = patch.body["spec"]["replicas"]
                self._resize()

    def _write(self) -> None:
        decision = self.deciders.decision(KEY)
        assert decision is not None
        ready = sum(pod.is_ready for pod in self._pods)
        moment = Moment(self.now, decision.desired, self.replicas, ready, decision.panicking)
        if not self.timeline or self.timeline[-1][1:] != moment[1:]:
            self.timeline.append(moment)


def _pod_autoscaler(settings: Settings) -> JsonObject:
    return {
        "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
        "kind": "PodAutoscaler",
        "metadata": {
            "namespace": KEY.namespace,
            "name": KEY.name,
            "generation": 1,
            "annotations": {f"autoscaling.knative.dev/{key}": value for key, value in settings.annotations.items()},
        },
        "spec": {
            "containerConcurrency": settings.container_concurrency,
            "reachability": "Reachable",
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{KEY.name}-deployment"},
        },
    }


def _endpoint_slice(pods: Iterable[_Pod]) -> JsonObject:
    return {
        "metadata": {
            "namespace": KEY.namespace,
            "name": "slice",
            "labels": {"kubernetes.io/service-name": f"{KEY.name}-private"},
        },
        "endpoints": [
            {
                "addresses": [pod.endpoint.host],
                "targetRef": {"name": pod.endpoint.pod},
                "conditions": {"ready": pod.is_ready},
            }
            for pod in pods
        ],
    }
