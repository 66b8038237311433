"""Which replicas go and when: tables of steps, and the law that none goes with a request in hand."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from controller.apis.pods import DELETION_COST, FIRST_TO_GO, deletion_cost, deletion_rank, is_ready
from controller.reconcile.drain import ALONE, ASK_PATIENCE, NOTHING, Progress, Step, step

TIMEOUT = 30.0


def pod(name, *, ready=True, cost=None, age=0, deleting=False):
    meta = {"name": name, "creationTimestamp": f"2026-01-01T00:{59 - age:02}:00Z"}
    if cost is not None:
        meta["annotations"] = {DELETION_COST: str(cost)}
    if deleting:
        meta["deletionTimestamp"] = meta["creationTimestamp"]
    conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": meta["creationTimestamp"]}]
    return {
        "metadata": meta,
        "spec": {"nodeName": "n"},
        "status": {"phase": "Running", "conditions": conditions},
    }


def pods(names, **given):
    return [pod(name, **given) for name in names]


def told(loads=None, draining=(), quiet="", age=1.0, **given):
    return Progress(
        is_shrinking=True, draining=dict.fromkeys(draining, age), loads=loads, quiet=frozenset(quiet), **given
    )


def plan(wanted, replicas, pods, progress=NOTHING):
    return step(wanted, replicas, pods, progress, timeout=TIMEOUT)


def test_more_replicas_at_once():
    """There is nothing to wait for."""
    assert plan(5, 3, pods("abc")) == Step(replicas=5)
    assert plan(3, 3, pods("abc")) == Step()


def test_fewer_replicas_than_there_are_pods_yet():
    """What was never made needs no drain."""
    assert plan(2, 5, pods("ab")) == Step(replicas=2)
    assert plan(0, 1, []) == Step(replicas=0)


def test_the_gateways_are_asked_first():
    """For ASK_PATIENCE; then the youngest go."""
    assert plan(2, 3, pods("abc")) == Step(draining=frozenset(), after=ASK_PATIENCE)
    assert plan(2, 3, pods("abc"), told(asked=0.4)).after == pytest.approx(ASK_PATIENCE - 0.4)
    young = [*pods("ab", age=5), pod("c")]
    assert plan(2, 3, young, told(asked=ASK_PATIENCE)).draining == {"c"}


def test_nobody_is_asked_when_all_go():
    """There is nothing to choose."""
    assert plan(0, 2, pods("ab")) == Step(draining=frozenset("ab"), after=TIMEOUT)


@pytest.mark.parametrize(
    ("pods", "chosen"),
    [
        (pods("abc"), "b"),
        ([*pods("bc"), pod("a", ready=False)], "a"),
        ([*pods("bc"), pod("a", cost=-1)], "a"),
        ([*pods("ac"), pod("b", cost=1)], "c"),
        ([*pods("ac"), pod("b", deleting=True), pod("d")], "d"),
    ],
)
def test_the_choice(pods, chosen):
    """Not ready, then cheap, then with the fewest requests; those that are going already are no replicas."""
    loads = {"a": 5, "b": 1, "c": 3}
    assert plan(2, 3, pods, told(loads)).draining == set(chosen)


def test_what_drains_already_is_kept():
    """Though another has fewer requests by now; until it is to be the survivor of one that died."""
    loads = {"a": 5, "b": 1, "c": 3}
    assert plan(2, 3, pods("abc"), told(loads, "a")).draining == {"a"}
    assert plan(1, 3, pods("abc"), told(loads, "a")).draining == {"a", "b"}
    assert plan(2, 3, [*pods("ab"), pod("c", ready=False)], told(loads, "a")).draining == {"c"}


def test_replicas_go_as_they_finish():
    """Marked first, then taken away; the others are waited for, by the time that is left to them."""
    loads = {"a": 1}
    progress = told(loads, "ab", "b", age=4.0)
    first = plan(1, 3, pods("abc"), progress)
    assert ([one["metadata"]["name"] for one in first.marked], first.replicas, first.after) == (["b"], None, 0.0)
    marked = [*pods("ac"), pod("b", cost=FIRST_TO_GO)]
    assert plan(1, 3, marked, progress) == Step(frozenset("ab"), replicas=2, after=TIMEOUT - 4.0, busy=1)
    assert plan(1, 2, marked, progress) == Step(frozenset("ab"), after=TIMEOUT - 4.0, busy=1), "nothing twice"


def test_a_pod_that_is_to_stay_loses_its_mark():
    """Before Kubernetes is told to take another, and when none is to go any more."""
    stale = [pod("a", ready=False), pod("b"), pod("c", cost=FIRST_TO_GO)]
    first = plan(2, 3, stale, told({}, "a", "a"))
    assert (first.marked, first.cleared, first.replicas) == ((stale[0],), (stale[2],), None)
    assert plan(3, 3, stale) == Step(cleared=(stale[2],))


def test_none_goes_in_another_s_place():
    """One that is not ready is taken first, whatever the mark of another: while it has requests none goes."""
    unready = [pod("a"), pod("b", cost=FIRST_TO_GO), pod("c", ready=False)]
    progress = told({"c": 1}, "bc", "b", age=4.0)
    assert plan(1, 3, unready, progress) == Step(frozenset("bc"), after=TIMEOUT - 4.0, busy=1)
    assert plan(1, 3, unready, told({}, "bc", "bc")).marked, "then both"


def test_a_request_is_waited_for_as_long_as_it_may_take():
    """Then the pod is told to stop, and has its grace period."""
    marked = [*pods("ac"), pod("b", cost=FIRST_TO_GO)]
    late = told({"b": 1}, "b", age=TIMEOUT)
    assert plan(2, 3, marked, late).replicas == 2


def test_without_gateways_nobody_can_tell():
    """After ALONE seconds the replicas go all the same, the youngest first."""
    assert plan(2, 3, pods("abc"), told(alone=2.0)).after == ALONE - 2.0
    assert plan(2, 3, pods("abc"), told(alone=ALONE)).draining
    marked = [*pods("ac"), pod("b", cost=FIRST_TO_GO)]
    assert plan(2, 3, marked, told(draining="b", alone=ALONE - 1)).after == 1.0
    assert plan(2, 3, marked, told(draining="b", alone=ALONE)).replicas == 2


def test_load_that_comes_back_takes_replicas_into_service_again():
    """Those with the most requests first, as many as are wanted."""
    loads = {"a": 5, "b": 1}
    assert plan(2, 3, pods("abc"), told(loads, "ab")).draining == {"b"}
    assert plan(3, 3, pods("abc"), told(loads, "ab")).draining is None


def test_pods_go_on_draining_until_kubernetes_has_deleted_them():
    """The number is lowered, they are there yet; so too after a restart, by their mark. More replicas instead: they
    are needed again."""
    marked = [*pods("ac"), pod("b", cost=FIRST_TO_GO)]
    assert plan(2, 2, marked, told({}, "b", "b")) == Step(frozenset("b"))
    assert plan(2, 2, marked) == Step(frozenset("b"))
    assert plan(3, 2, marked, told({}, "b", "b")) == Step(cleared=(marked[-1],), replicas=3)
    assert plan(2, 2, [*pods("ac"), pod("b", cost=FIRST_TO_GO, deleting=True)], told({}, "b", "b")) == Step()


def test_a_rollout_of_the_deployment_drains_nothing():
    """It has more pods than replicas for a while, and which of them go is not our choice."""
    assert plan(2, 2, pods("abc")) == Step()


def test_no_wish_leaves_all_as_it_is():
    """What drains goes on draining, and nothing is taken away."""
    assert plan(None, 3, pods("abc")) == Step()
    assert plan(None, 3, pods("abc"), told({}, "b", "b")) == Step(frozenset("b"))


class ScaleDownLaws(RuleBasedStateMachine):
    """Gateways, a ReplicaSet controller and ours take turns in any order: no replica is deleted with a request in hand,
    unless it stopped being ready when it was too late; never do so many drain that fewer than wanted serve; and left
    alone, all come to rest with as many replicas as are wanted."""

    def __init__(self):
        super().__init__()
        self.wanted = self.replicas = 3
        self.pods, self.made = {}, 0
        self.draining, self.loads = None, {}
        self.surprised = False
        self.replica_set()

    @rule(wanted=st.integers(0, 5))
    def want(self, wanted):
        self.wanted = wanted

    @precondition(lambda self: self.in_service())
    @rule(data=st.data())
    def request(self, data):
        name = data.draw(st.sampled_from(self.in_service()))
        self.loads[name] = self.loads.get(name, 0) + 1

    @precondition(lambda self: any(self.loads.values()))
    @rule(data=st.data())
    def answer(self, data):
        name = data.draw(st.sampled_from(sorted(name for name, count in self.loads.items() if count)))
        self.loads[name] -= 1

    @precondition(lambda self: self.pods)
    @rule(data=st.data(), ready=st.booleans())
    def probe(self, data, ready):
        name = data.draw(st.sampled_from(sorted(self.pods)))
        self.pods[name] = pod(name, ready=ready, cost=deletion_cost(self.pods[name]))
        self.surprised = self.surprised or len(self.pods) > self.replicas

    @rule(times=st.integers(1, 4))
    def reconcile_some(self, times):
        for _ in range(times):
            self.reconcile()

    def reconcile(self):
        progress = NOTHING
        if self.draining is not None:
            quiet = frozenset(name for name in self.draining if not self.loads.get(name))
            progress = Progress(True, dict.fromkeys(self.draining, 1.0), self.loads, quiet)
        result = step(self.wanted, self.replicas, list(self.pods.values()), progress, timeout=TIMEOUT)
        self.draining = result.draining
        for one in result.marked:
            name = one["metadata"]["name"]
            self.pods[name] = pod(name, ready=is_ready(one), cost=FIRST_TO_GO)
        for one in result.cleared:
            name = one["metadata"]["name"]
            self.pods[name] = pod(name, ready=is_ready(one))
        if result.replicas is not None:
            self.replicas = result.replicas
        assert len(self.pods) - len(self.draining or ()) >= min(len(self.pods), self.wanted)

    @rule()
    def replica_set(self):
        while len(self.pods) < self.replicas:
            self.made += 1
            self.pods[f"p{self.made}"] = pod(f"p{self.made}")
        for one in sorted(self.pods.values(), key=deletion_rank)[: max(0, len(self.pods) - self.replicas)]:
            name = one["metadata"]["name"]
            assert not self.loads.pop(name, 0) or (self.surprised and not is_ready(one))
            del self.pods[name]
        self.surprised = False

    def in_service(self):
        return sorted(name for name, one in self.pods.items() if is_ready(one) and name not in (self.draining or ()))

    def teardown(self):
        self.loads.clear()
        for _ in range(6):
            self.reconcile()
            self.replica_set()
        assert (len(self.pods), self.replicas, self.draining) == (self.wanted, self.wanted, None)


TestScaleDownLaws = ScaleDownLaws.TestCase
