from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from controller.apis.meta import Key
from controller.autoscaler.kpa import UNDECIDED
from controller.autoscaler.ticker import Deciders, ready_endpoints
from controller.config.store import Config
from gateway.contract import RevisionId, Stat

KEY = Key("default", "hello-00001")


@dataclass
class Bench:
    """Deciders with a clock and a configuration in the test's hands."""

    now: float = 1000.0
    config: Config = field(default_factory=Config)
    enqueued: list[Key] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.deciders = Deciders(config=lambda: self.config, enqueue=self.enqueued.append, clock=lambda: self.now)

    def report(self, load: float | None = None) -> None:
        self.deciders.on_stats("w1", [] if load is None else [Stat(RevisionId(*KEY), load, load)])

    def seconds(self, count: int, load: float | None = None) -> None:
        for _ in range(count):
            self.now += 1
            self.report(load)
            if self.now % 2 == 0:
                self.deciders.tick()

    @property
    def desired(self) -> int:
        decision = self.deciders.decision(KEY)
        assert decision is not None
        return decision.desired


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_poke_is_decided_in_the_same_call(bench: Bench, make_pod_autoscaler) -> None:
    """And its key queued, though no tick is due; a further report while one is desired waits for the tick."""
    bench.deciders.on_pod_autoscaler(None, make_pod_autoscaler())
    bench.deciders.tick()
    assert (bench.desired, bench.enqueued) == (UNDECIDED, [])
    bench.report(1.0)
    assert (bench.desired, bench.enqueued) == (1, [KEY])
    bench.report(500.0)
    assert (bench.desired, bench.enqueued) == (1, [KEY])
    bench.deciders.tick()
    assert bench.desired > 1


def test_a_revision_was_woken_when_replicas_were_wanted_again(bench: Bench, make_pod_autoscaler, make_slice) -> None:
    """The moment of that decision, whatever is decided afterwards, until none are wanted."""
    bench.deciders.on_pod_autoscaler(None, make_pod_autoscaler())
    bench.deciders.tick()
    assert bench.deciders.woken(KEY) is None
    before = datetime.now(UTC).timestamp()
    bench.report(1.0)
    woken = bench.deciders.woken(KEY)
    assert woken is not None
    assert before <= woken <= datetime.now(UTC).timestamp()
    bench.deciders.on_endpoint_slice(None, make_slice(True))
    bench.seconds(20, 500.0)
    assert bench.desired > 1
    assert bench.deciders.woken(KEY) == woken
    bench.seconds(90)
    assert bench.desired == 0
    assert bench.deciders.woken(KEY) is None
    assert bench.deciders.woken(Key("default", "nobody")) is None


def test_nothing_is_decided_before_the_first_tick(bench: Bench, make_pod_autoscaler, make_slice) -> None:
    """The caches may not be filled yet; then the present scale is held."""
    bench.deciders.on_pod_autoscaler(None, make_pod_autoscaler())
    bench.report(1.0)
    assert bench.desired == UNDECIDED
    bench.deciders.on_endpoint_slice(None, make_slice(True, True, True))
    bench.deciders.tick()
    assert bench.desired == 3
    bench.seconds(60, 1.0)
    assert bench.desired == 3
    bench.seconds(4, 1.0)
    assert bench.desired == 1


def test_idle_goes_to_zero_after_the_window(bench: Bench, make_pod_autoscaler, make_slice) -> None:
    """Not before, and only because the gateway is heard of."""
    bench.deciders.on_pod_autoscaler(None, make_pod_autoscaler())
    bench.deciders.on_endpoint_slice(None, make_slice(True))
    bench.seconds(100, 1.0)
    bench.seconds(58)
    assert bench.desired == 1
    bench.seconds(4)
    assert bench.desired == 0


def test_no_gateway_no_decision(bench: Bench, make_pod_autoscaler, make_slice) -> None:
    """The last decision stands while nobody reports."""
    bench.deciders.on_pod_autoscaler(None, make_pod_autoscaler())
    bench.deciders.on_endpoint_slice(None, make_slice(True))
    bench.seconds(100, 1.0)
    bench.deciders.on_disconnect("w1")
    bench.enqueued.clear()
    for _ in range(100):
        bench.now += 2
        bench.deciders.tick()
    assert (bench.desired, bench.enqueued) == (1, [])


def test_a_change_of_the_burst_capacitys_sign_is_news(bench: Bench, make_pod_autoscaler, make_slice) -> None:
    """The key is queued though the desired scale is the same."""
    bench.deciders.on_pod_autoscaler(None, make_pod_autoscaler(min_scale="3"))
    bench.seconds(10, 1.0)
    bench.enqueued.clear()
    bench.deciders.on_endpoint_slice(None, make_slice(True, True, True))
    bench.deciders.tick()
    assert (bench.desired, bench.enqueued) == (1, [KEY])


def test_min_scale_may_leave_room_for_a_burst(bench: Bench, make_pod_autoscaler, make_slice) -> None:
    """Serve or Proxy, as Knative would: by the scale that is wanted, whoever wants it, and the room that it has."""
    idle = make_pod_autoscaler(min_scale="1", target_burst_capacity="50")
    bench.deciders.on_endpoint_slice(None, make_slice(True))

    def mode(desired_scale: int) -> str:
        bench.deciders.on_pod_autoscaler(None, {**idle, "status": {"desiredScale": desired_scale}})
        account = bench.deciders.account(KEY)
        assert account is not None
        assert account["activators"] == 2
        return str(account["mode"])

    assert mode(1) == "Proxy", "nothing is known yet"
    bench.seconds(200, 0.0)
    assert bench.desired == 0
    assert (mode(1), mode(0)) == ("Serve", "Proxy")


def test_ready_is_the_sum_over_slices(bench: Bench, make_slice) -> None:
    """Slices come, change and go."""
    first, second = make_slice(True, False), make_slice(True, True, name="hello-00001-private-b")
    bench.deciders.on_endpoint_slice(None, first)
    bench.deciders.on_endpoint_slice(None, second)
    assert bench.deciders.ready(KEY) == 3
    bench.deciders.on_endpoint_slice(first, make_slice(False, False))
    assert bench.deciders.ready(KEY) == 2
    bench.deciders.on_endpoint_slice(second, None)
    assert bench.deciders.ready(KEY) == 0


def test_an_absent_ready_condition_means_ready() -> None:
    """As discovery.k8s.io/v1 says: unknown is to be taken as ready."""
    ready = {"targetRef": {"name": "a"}, "conditions": {"ready": None}}
    assert ready_endpoints({"endpoints": [{}, ready, {"conditions": {"ready": False}}]}) == ("", "a")
    assert ready_endpoints({"endpoints": None}) == ()


def test_replicas_that_drain_are_not_counted_on(make_pod_autoscaler, make_slice) -> None:
    """They are ready, and the load is compared with those that take new requests."""
    now, draining = 1000.0, set()
    config = Config()
    deciders = Deciders(
        config=lambda: config, enqueue=lambda _: None, draining=lambda _: draining or None, clock=lambda: now
    )
    deciders.on_pod_autoscaler(None, make_pod_autoscaler())
    deciders.on_endpoint_slice(None, make_slice(True, True, True))
    deciders.on_stats("w", [Stat(RevisionId(*KEY), 50.0, 1.0)])
    deciders.tick()
    assert deciders.decision(KEY).ready == 3
    draining.update(("pod-1", "pod-2"))
    deciders.tick()
    assert (deciders.decision(KEY).ready, deciders.ready(KEY)) == (1, 3)


def test_another_class_has_no_decider(bench: Bench, make_pod_autoscaler) -> None:
    """Also when the class changes, or the object goes."""
    bench.deciders.on_pod_autoscaler(None, make_pod_autoscaler())
    assert [view.key for view in bench.deciders.views()] == [KEY]
    bench.deciders.on_pod_autoscaler(None, make_pod_autoscaler(**{"class": "hpa.autoscaling.knative.dev"}))
    assert bench.deciders.decision(KEY) is None
    bench.deciders.on_pod_autoscaler(None, make_pod_autoscaler())
    bench.deciders.on_pod_autoscaler(make_pod_autoscaler(), None)
    assert bench.deciders.views() == []
    bench.report(1.0)


def test_a_new_configuration_reaches_live_deciders(bench: Bench, make_pod_autoscaler, make_slice) -> None:
    """From the next tick on."""
    bench.deciders.on_pod_autoscaler(None, make_pod_autoscaler())
    bench.deciders.on_endpoint_slice(None, make_slice(True))
    bench.seconds(60, 70.0)
    assert bench.desired == 1
    bench.config = replace(
        bench.config, autoscaler=replace(bench.config.autoscaler, container_concurrency_target_default=10.0)
    )
    bench.deciders.tick()
    assert bench.desired == 10
