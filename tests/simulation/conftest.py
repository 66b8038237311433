"""The whole loop in virtual time: arrivals, queue, cold starts, Stats, KPA, PodAutoscaler; hours in seconds.

Everything that decides is the real code; what is simulated is what takes time: requests, starting processes, and the
rhythm of reports (1 s) and ticks (2 s). One step is a tenth of a second.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import pytest

from controller.apis.meta import Key
from controller.apis.podautoscaler import parse
from controller.autoscaler.ticker import Deciders
from controller.config.store import Config
from controller.reconcile.podautoscaler import ObservedPodAutoscaler, reconcile
from gateway.contract import Endpoint, RevisionId, Stat
from gateway.core.concurrency import LoadMeter
from gateway.core.throttler import Throttler

if TYPE_CHECKING:
    from collections.abc import Iterable

    from controller.apis.meta import JsonObject
    from gateway.core.throttler import Place

KEY = Key("default", "hello-00001")
ID = RevisionId(*KEY)
START = datetime(2026, 1, 1, tzinfo=UTC)
STEPS_PER_SECOND = 10


class Arrival(NamedTuple):
    """A request that comes at `time` and takes `seconds` of work."""

    time: float
    seconds: float


class Moment(NamedTuple):
    """A line of the timeline; written when something but the waiting requests changes."""

    time: float
    desired: int
    replicas: int
    ready: int
    panicking: bool


@dataclass
class Pod:
    endpoint: Endpoint
    ready_at: int
    is_ready: bool = False


@dataclass
class World:
    """One revision, one gateway worker, one controller. Steps are whole numbers, so that time never drifts."""

    annotations: dict[str, str] = field(default_factory=dict)
    limit: int = 0
    cold_start: float = 1.0
    replicas: int = 1
    config: Config = field(default_factory=Config)

    step: int = 0
    pods: list[Pod] = field(default_factory=list)
    timeline: list[Moment] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    """How long each request waited for its place."""

    def __post_init__(self) -> None:
        self.meter = LoadMeter()
        self.throttler: Throttler[int] = Throttler(container_concurrency=self.limit, queue_limit=100_000)
        self.deciders = Deciders(config=lambda: self.config, enqueue=self._enqueue, clock=lambda: self.now)
        self.object = self._object()
        self._due = 0
        self._made = 0
        self._requests: list[Arrival] = []
        self._ends: list[tuple[int, int]] = []
        self._places: dict[int, Place] = {}
        self._slice: JsonObject | None = None
        self.deciders.on_pod_autoscaler(None, self.object)
        self._resize()

    @property
    def now(self) -> float:
        return self.step / STEPS_PER_SECOND

    def run(self, seconds: float, arrivals: Iterable[Arrival] = ()) -> None:
        """Let time pass; `arrivals` are sorted, their times count from the start of the world."""
        coming = iter(arrivals)
        following = next(coming, None)
        end = self.step + round(seconds * STEPS_PER_SECOND)
        while self.step < end:
            self._start_pods()
            while self._ends and self._ends[0][0] <= self.step:
                self._finish(heapq.heappop(self._ends)[1])
            while following is not None and following.time <= self.now:
                self._arrive(following)
                following = next(coming, None)
            if self.step % STEPS_PER_SECOND == 0:
                self.deciders.on_stats("w1", self.meter.report(self.now))
            if self.step % (2 * STEPS_PER_SECOND) == 0:
                self.deciders.tick()
            while self._due <= self.step:
                self._reconcile()
            self._write()
            self.step += 1

    # --- requests -----------------------------------------------------------------------------------------------------

    def _arrive(self, arrival: Arrival) -> None:
        number = len(self._requests)
        self._requests.append(arrival)
        self.waits.append(0.0)
        if self.meter.arrive(ID, self.now):
            self.deciders.on_stats("w1", [Stat(ID, 1.0, 1.0)])
        point = number * 0.6180339887 % 1
        place = self.throttler.try_acquire(point)
        if place is not None:
            self._serve(number, place)
        else:
            assert self.throttler.enqueue(number, point)

    def _serve(self, number: int, place: Place) -> None:
        arrival = self._requests[number]
        self.waits[number] = self.now - arrival.time
        self._places[number] = place
        heapq.heappush(self._ends, (self.step + max(1, round(arrival.seconds * STEPS_PER_SECOND)), number))

    def _finish(self, number: int) -> None:
        self.meter.depart(ID, self.now)
        for waiter, place in self.throttler.release(self._places.pop(number)):
            self._serve(waiter, place)

    # --- pods ---------------------------------------------------------------------------------------------------------

    def _resize(self) -> None:
        while len(self.pods) < self.replicas:
            self._made += 1
            endpoint = Endpoint("127.0.0.1", 20000 + self._made, f"pod-{self._made}")
            self.pods.append(Pod(endpoint, self.step + round(self.cold_start * STEPS_PER_SECOND)))
        del self.pods[self.replicas :]
        self._publish()

    def _start_pods(self) -> None:
        started = [pod for pod in self.pods if not pod.is_ready and pod.ready_at <= self.step]
        for pod in started:
            pod.is_ready = True
        if started:
            self._publish()

    def _publish(self) -> None:
        """Tell both sides which pods there are: the gateway at once, as its probes would, and the caches."""
        woken = self.throttler.update([pod.endpoint for pod in self.pods], self.limit)
        ready = {pod.endpoint for pod in self.pods if pod.is_ready}
        for place in self.throttler.places:
            if place.endpoint in ready:
                woken += self.throttler.open(place)
        for waiter, place in woken:
            self._serve(waiter, place)
        before, self._slice = self._slice, self._endpoint_slice()
        self.deciders.on_endpoint_slice(before, self._slice)
        self._enqueue(KEY)

    # --- the control plane --------------------------------------------------------------------------------------------

    def _enqueue(self, _key: Key) -> None:
        self._due = self.step

    def _reconcile(self) -> None:
        decision = self.deciders.decision(KEY)
        assert decision is not None
        seen = ObservedPodAutoscaler(parse(self.object), decision.desired, self.deciders.ready(KEY), self.replicas)
        plan = reconcile(seen, self.config, START + timedelta(seconds=self.now))
        after = 36_000.0 if plan.requeue_after is None else plan.requeue_after
        self._due = self.step + max(1, round(after * STEPS_PER_SECOND))
        for patch in plan.patch:
            self.replicas = patch.body["spec"]["replicas"]
            self._resize()
        if plan.status is not None:
            self.object = {**self.object, "status": plan.status}
            self.deciders.on_pod_autoscaler(None, self.object)
            self._enqueue(KEY)

    def _write(self) -> None:
        decision = self.deciders.decision(KEY)
        assert decision is not None
        ready = sum(pod.is_ready for pod in self.pods)
        moment = Moment(self.now, decision.desired, self.replicas, ready, decision.panicking)
        if not self.timeline or self.timeline[-1][1:] != moment[1:]:
            self.timeline.append(moment)

    def _object(self) -> JsonObject:
        return {
            "apiVersion": "autoscaling.internal.knative.dev/v1alpha1",
            "kind": "PodAutoscaler",
            "metadata": {
                "namespace": KEY.namespace,
                "name": KEY.name,
                "generation": 1,
                "annotations": {f"autoscaling.knative.dev/{key}": value for key, value in self.annotations.items()},
            },
            "spec": {
                "containerConcurrency": self.limit,
                "reachability": "Reachable",
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{KEY.name}-deployment"},
            },
        }

    def _endpoint_slice(self) -> JsonObject:
        return {
            "metadata": {
                "namespace": KEY.namespace,
                "name": "slice",
                "labels": {"kubernetes.io/service-name": f"{KEY.name}-private"},
            },
            "endpoints": [
                {"addresses": [pod.endpoint.host], "conditions": {"ready": pod.is_ready}} for pod in self.pods
            ],
        }


@pytest.fixture
def make_world() -> type[World]:
    return World


@pytest.fixture
def make_arrival() -> type[Arrival]:
    return Arrival
