"""What drains, and what the gateways' reports mean for it."""

from __future__ import annotations

import pytest

from controller.apis.meta import Key
from controller.dataplane.drains import Drains
from controller.reconcile.drain import NOTHING
from controller.reconcile.plan import Plan
from gateway.contract import Revision, RevisionId, Snapshot

KEY, ID = Key("ns", "rev"), RevisionId("ns", "rev")


class Bench:
    """Drains with the gateways, the publisher and the clock in the test's hands."""

    def __init__(self):
        self.workers, self.enqueued, self.due, self.now = ["w1", "w2"], [], [], 100.0
        self.version, self.known = 7, True
        self.drains = Drains(
            carriers=lambda: self.workers, enqueue=self.enqueued.append, publish=self.due.append, clock=lambda: self.now
        )

    def drain(self, *pods):
        self.drains.carry_out(KEY, Plan(draining=frozenset(pods)))

    def publish(self, *, changes=True):
        """What waits is compiled; in a new version if something is new to the gateways."""
        self.version += changes
        snapshot = Snapshot(self.version, {}, {ID: Revision(ID)} if self.known else {})
        self.drains.on_published(self.due, [ID] if changes and self.known else [], snapshot)
        self.due.clear()

    def tell(self, worker, version=None, **loads):
        self.drains.on_in_flight(worker, self.version if version is None else version, {ID: loads})

    @property
    def progress(self):
        return self.drains.progress(KEY)

    def news(self):
        """Whether the reconciler was called since the last time."""
        called = bool(self.enqueued)
        assert set(self.enqueued) <= {KEY}
        self.enqueued.clear()
        return called


@pytest.fixture
def bench():
    return Bench()


def test_no_drain(bench):
    """Nothing is known, and nobody is asked."""
    assert (bench.progress, bench.drains.draining(ID), bench.due) == (NOTHING, None, [])
    bench.tell("w1", pod=1)
    bench.drains.carry_out(KEY, Plan())
    assert (bench.progress, bench.due) == (NOTHING, [])


def test_the_gateways_are_asked(bench):
    """The loads are known when every worker has told them for the version that asks, and are their sum."""
    bench.drain()
    assert (bench.drains.draining(ID), bench.due) == (set(), [ID])
    bench.tell("w1", 8, a=1)
    assert bench.progress.loads is None, "nothing was published yet"
    bench.publish()
    bench.tell("w1", a=1)
    bench.tell("w2", 7, a=9)
    assert (bench.progress.loads, bench.news()) == (None, False)
    bench.tell("w2", a=2, b=1)
    assert (bench.progress.loads, bench.news()) == ({"a": 3, "b": 1}, True)


def test_a_pod_is_quiet_when_every_worker_says_so_of_the_version_that_made_it_drain(bench):
    """What was said before that does not count; the reconciler hears of each pod that has finished."""
    bench.drain()
    bench.publish()
    for worker in bench.workers:
        bench.tell(worker)
    bench.news()
    bench.drain("a", "b")
    assert bench.drains.draining(ID) == {"a", "b"}
    bench.publish()
    assert (bench.progress.quiet, bench.progress.loads) == (frozenset(), None)
    bench.tell("w1", a=1)
    bench.tell("w2", 8)
    assert not bench.progress.quiet
    bench.tell("w2")
    assert (bench.progress.quiet, bench.news()) == ({"b"}, True)
    bench.tell("w2")
    assert not bench.news()
    bench.tell("w1")
    assert (bench.progress.quiet, bench.news()) == ({"a", "b"}, True)


def test_a_pod_keeps_the_moment_at_which_it_began(bench):
    """Others may be added, and their time is their own."""
    bench.drain("a")
    bench.now += 5
    bench.drain("a", "b")
    bench.now += 1
    assert (bench.progress.draining, bench.progress.asked) == ({"a": 6.0, "b": 1.0}, 1.0)
    bench.due.clear()
    bench.drain("b", "a")
    assert (bench.progress.asked, bench.due) == (1.0, []), "nothing new, nothing told"


def test_what_changes_nothing_for_the_gateways_needs_no_new_word_of_theirs(bench):
    """Such as a pod without an endpoint."""
    bench.drain()
    bench.publish()
    for worker in bench.workers:
        bench.tell(worker)
    bench.version += 5  # for other revisions
    bench.drain("a")
    assert not bench.progress.quiet
    bench.publish(changes=False)
    assert bench.progress.quiet == {"a"}


def test_the_end_of_a_drain_is_told(bench):
    """And with it what was known; another one asks anew."""
    bench.drain("a")
    bench.publish()
    bench.tell("w1")
    bench.drains.carry_out(KEY, Plan())
    assert (bench.drains.draining(ID), bench.due, bench.progress) == (None, [ID], NOTHING)
    bench.publish()
    bench.drain("a")
    bench.publish()
    bench.tell("w2")
    assert not bench.progress.quiet


def test_a_worker_that_is_gone_does_not_count(bench):
    """Nor what it said; the pod may be quiet without it."""
    bench.drain("a")
    bench.publish()
    bench.tell("w1", a=1)
    bench.tell("w2")
    bench.news()
    bench.workers.remove("w1")
    bench.drains.on_carriers()
    assert (bench.progress.quiet, bench.news()) == ({"a"}, True)
    bench.workers.append("w1")
    assert not bench.progress.quiet, "back again, it has to tell"


def test_without_any_worker_time_is_counted(bench):
    """From the moment the last one was gone, or from the start."""
    bench.workers.clear()
    bench.now += 3
    bench.drain("a")
    bench.publish()
    assert (bench.progress.alone, bench.progress.quiet) == (3.0, frozenset())
    bench.workers.append("w1")
    assert bench.progress.alone is None
    bench.now += 10
    bench.workers.clear()
    bench.news()
    bench.drains.on_carriers()
    assert (bench.progress.alone, bench.news()) == (0.0, True)
    bench.now += 2
    assert bench.progress.alone == 2.0


def test_nobody_has_finished_before_all_workers_are_known(bench):
    """After a restart of the controller those that are back first do not speak for the others."""
    known, bench.workers = bench.workers, None
    bench.drain("a")
    bench.publish()
    for worker in known:
        bench.tell(worker)
    bench.drains.on_carriers()
    assert (bench.progress.quiet, bench.progress.alone, bench.news()) == (frozenset(), None, False)
    bench.workers = known
    bench.drains.on_carriers()
    assert (bench.progress.quiet, bench.news()) == ({"a"}, True)


def test_a_revision_that_no_gateway_knows_is_quiet(bench):
    """Nobody sends anything there."""
    bench.known = False
    bench.drain("a")
    bench.publish()
    assert (bench.progress.quiet, bench.news()) == ({"a"}, True)


def test_a_removed_pod_autoscaler_drains_nothing(bench):
    """It is forgotten."""
    bench.drain("a")
    bench.drains.on_pod_autoscaler({"metadata": {"namespace": "ns", "name": "rev"}}, None)
    assert bench.progress == NOTHING


def test_what_people_are_told(bench):
    """The pods that drain, for how long, and what they still have in hand."""
    bench.drain("a", "b")
    bench.publish()
    bench.now += 2
    assert [entry["inFlight"] for entry in bench.drains.describe(KEY)] == [None, None]
    bench.tell("w1", a=1)
    bench.tell("w2", a=1)
    assert bench.drains.describe(KEY) == [
        {"pod": "a", "seconds": 2.0, "inFlight": 2},
        {"pod": "b", "seconds": 2.0, "inFlight": 0},
    ]
    assert bench.drains.counts() == {KEY: 2}
