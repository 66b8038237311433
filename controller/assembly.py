"""The control plane in one piece: which controllers there are, and how they, the autoscaler and the feed hang together.

Both composition roots build a `ControlPlane` over a `Kube`: the cluster's (`controller.__main__`) and the one machine's
(`controller.embedded.__main__`), which adds the controllers that a cluster brings along.

```
gateways ── Stats ──► FeedServer ──► Deciders ── key ──► Runner ── plans ──► Kube
gateways ◄─ Update ── FeedServer ◄── Publisher ◄── changes ── Runner ◄── watch ── Kube
            Ack ────► FeedServer ── key of the KIngress ──► Runner
gateways ── InFlight ► FeedServer ──► Drains ── key ──► Runner ── plans ──► Drains ──► Publisher
```
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from controller import heap
from controller.apis import kinds, labels
from controller.apis.meta import Key, labels_of, namespace_of
from controller.autoscaler.ticker import Deciders
from controller.config import store
from controller.dataplane import publisher
from controller.dataplane.drains import Drains
from controller.dataplane.publisher import Publisher
from controller.dataplane.server import FeedServer
from controller.kube.runner import CurrentConfig, Runner
from controller.lull import Lull
from controller.reconcile import configuration, ingress, labeler, podautoscaler, revision, route, service
from gateway.contract import RevisionId

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.core import Metric

    from controller.apis.meta import JsonObject
    from controller.dataplane.publisher import Node
    from controller.kube.client import Kube
    from controller.reconcile.ingress import Programmed
    from controller.reconcile.plan import Controller
    from controller.reconcile.podautoscaler import Decisions
    from gateway.contract import RouteId


def controllers(decisions: Decisions, drains: Drains, programmed: Programmed) -> tuple[Controller[Any], ...]:
    """Every Knative controller."""
    return (
        service.CONTROLLER,
        configuration.CONTROLLER,
        revision.CONTROLLER,
        route.CONTROLLER,
        labeler.CONTROLLER,
        podautoscaler.controller(decisions, drains),
        ingress.controller(programmed),
    )


LATE_STATUS = (kinds.DEPLOYMENT, kinds.POD_AUTOSCALER, kinds.REVISION)
"""Kinds that are busy during a cold start and whose status no request waits for, in the order in which their statuses
are made from each other's."""

COLD_PATH = (kinds.POD_AUTOSCALER, kinds.DEPLOYMENT, kinds.CORE_SERVICE)
"""Kinds of which the plans scale a revision up, make its pods and tell where they listen."""


class ControlPlane:
    """Runner, autoscaler and feed over one Kube. `run` it; serve `feed.app`; it is at work when `ready` is set."""

    def __init__(
        self,
        kube: Kube,
        feed_token: str,
        *,
        extra: Sequence[Controller[Any]] = (),
        namespace: str = store.NAMESPACE,
        lull: Lull | None = None,
        gathering: float = 0.0,
        node: Node | None = None,
    ) -> None:
        """`feed_token` is what gateways show; `extra` are further controllers; `namespace` holds the ConfigMaps; `lull`
        is shared with what else works in this loop; `gathering` is the feed's, for gateways that were there before;
        `node` is the node agent, if it is in this process: it says `pod_started`.
        Raises ValueError if the token is empty."""
        config = CurrentConfig()
        self._lull = Lull() if lull is None else lull
        self.registry = CollectorRegistry()
        self.drains = Drains(
            carriers=lambda: self.feed.carriers,
            enqueue=self._decided,
            publish=lambda revision_id: self._publisher.publish(revision_id),
        )
        self.deciders = Deciders(config=lambda: config.value, enqueue=self._decided, draining=self.drains.draining)
        self.feed = FeedServer(
            feed_token,
            on_stats=self.deciders.on_stats,
            on_in_flight=self.drains.on_in_flight,
            on_carriers=self.drains.on_carriers,
            on_disconnect=self.deciders.on_disconnect,
            on_programmed=self._programmed,
            gathering=gathering,
        )
        self.runner = Runner(
            kube,
            (*controllers(self.deciders, self.drains, self._is_programmed), *extra),
            kinds_read=publisher.KINDS,
            field_selectors=publisher.FIELD_SELECTORS,
            late_status=LATE_STATUS,
            cold_path=COLD_PATH,
            lull=self._lull,
            config=config,
            namespace=namespace,
            registry=self.registry,
        )
        self._publisher = Publisher(self.runner, self.feed, self.drains, woken=self.deciders.woken, node=node)
        self.runner.on_change(kinds.POD_AUTOSCALER, self.deciders.on_pod_autoscaler)
        self.runner.on_change(kinds.POD_AUTOSCALER, self.drains.on_pod_autoscaler)
        self.runner.on_change(kinds.ENDPOINT_SLICE, self.deciders.on_endpoint_slice)
        self.registry.register(_PlaneMetrics(self))

    @property
    def ready(self) -> asyncio.Event:
        """Set when the caches are filled and the controllers work."""
        return self.runner.ready

    def pod_started(self, pod: JsonObject) -> None:
        """The node agent has tried to start a pod."""
        name = labels_of(pod).get(labels.REVISION)
        if name:
            self._publisher.publish(RevisionId(namespace_of(pod), name))

    def account(self, key: Key) -> JsonObject | None:
        """All that is known about a revision's scale and how it came about, as JSON; None for one that the autoscaler
        does not scale."""
        account = self.deciders.account(key)
        return None if account is None else {**account, "draining": self.drains.describe(key)}

    async def run(self) -> None:
        """Until cancelled. Meanwhile the process' garbage is collected in lulls only."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.runner.run(), name="runner")
            group.create_task(self._publisher.run(), name="publisher")
            group.create_task(self._tick(), name="autoscaler")
            group.create_task(self._collect(), name="garbage collection")

    async def _tick(self) -> None:
        await self.runner.ready.wait()
        await self.deciders.run()

    async def _collect(self) -> None:
        await self.runner.ready.wait()
        await heap.collect(self._lull)

    def _decided(self, key: Key) -> None:
        self.runner.enqueue(kinds.POD_AUTOSCALER, key)

    def _is_programmed(self, key: Key, generation: int) -> bool | None:
        return self._publisher.programmed(key, generation)

    def _programmed(self, route_id: RouteId) -> None:
        self.runner.enqueue(kinds.INGRESS, Key(*route_id))


class _PlaneMetrics(Collector):
    """What is read off the plane when somebody asks, instead of being counted as it happens."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def collect(self) -> Iterator[Metric]:
        feed = self._plane.feed
        yield GaugeMetricFamily(
            "zerogate_controller_gateway_workers", "Connected gateway workers.", value=len(feed.workers)
        )
        yield GaugeMetricFamily(
            "zerogate_controller_snapshot_version", "The routing state published last.", value=feed.snapshot.version
        )
        labels = ("namespace", "revision")
        desired = GaugeMetricFamily("zerogate_autoscaler_desired_pods", "What the load asks for.", labels=labels)
        ready = GaugeMetricFamily("zerogate_autoscaler_ready_pods", "Endpoints that are ready.", labels=labels)
        spare = GaugeMetricFamily(
            "zerogate_autoscaler_excess_burst_capacity", "Requests that could come on top.", labels=labels
        )
        stable = GaugeMetricFamily("zerogate_autoscaler_stable_load", "Average over the stable window.", labels=labels)
        panic = GaugeMetricFamily("zerogate_autoscaler_panic_load", "Average over the panic window.", labels=labels)
        for key, decision, count in self._plane.deciders.views():
            desired.add_metric(key, decision.desired)
            ready.add_metric(key, count)
            spare.add_metric(key, decision.excess_burst_capacity)
            stable.add_metric(key, decision.stable)
            panic.add_metric(key, decision.panic)
        draining = GaugeMetricFamily(
            "zerogate_autoscaler_draining_pods", "Replicas that finish their requests and go.", labels=labels
        )
        for key, count in self._plane.drains.counts().items():
            draining.add_metric(key, count)
        yield from (desired, ready, draining, spare, stable, panic)
