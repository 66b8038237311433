"""gateway.core.traffic: plain counters, summed over workers."""

from __future__ import annotations

from gateway.contract import Revision, RevisionId
from gateway.core.traffic import BUCKETS, Family, RevisionTraffic, merged, revision_families


def test_a_request_is_counted_by_class_and_bucket() -> None:
    """A duration equal to a bound belongs to that bound's bucket (le means less or equal)."""
    traffic = RevisionTraffic(Revision(RevisionId("ns", "rev"), service="svc", configuration="cfg"))
    for now, status, seconds in ((1.0, 200, BUCKETS[0]), (1000.0, 503, 1000.0)):
        traffic.arrive(0.0)
        traffic.end(now, status, seconds)
    assert traffic.in_flight == 0
    requests, durations, *_ = revision_families([traffic])
    assert requests.samples == {("ns", "svc", "cfg", "rev", "2xx"): (1,), ("ns", "svc", "cfg", "rev", "5xx"): (1,)}
    total, *buckets = durations.samples["ns", "svc", "cfg", "rev"]
    assert total == BUCKETS[0] + 1000.0
    assert (buckets[0], buckets[-1], sum(buckets)) == (1, 1, 2)


def test_workers_add_up() -> None:
    """Sample by sample; what one worker alone has stays as it is."""
    one = Family("f", "counter", "", ("x",), {("a",): (1.0, 2.0), ("b",): (5.0,)})
    two = Family("f", "counter", "", ("x",), {("a",): (10.0, 20.0)})
    assert merged([[one], [two]]) == [Family("f", "counter", "", ("x",), {("a",): (11.0, 22.0), ("b",): (5.0,)})]
    assert one.samples["a",] == (1.0, 2.0)


def test_a_revision_is_told_from_its_first_request_on() -> None:
    """One that nobody asked for has no series; one request in flight, or one that ended, gives it all of them."""
    idle, busy, done = (RevisionTraffic(Revision(RevisionId("default", name))) for name in ("idle", "busy", "done"))
    for one in (busy, done):
        one.arrive(0.0)
    done.end(0.1, 200, 0.1)
    _, durations, in_flight, parked = revision_families([idle, busy, done])
    for family in (durations, in_flight, parked):
        assert [labels[-1] for labels in family.samples] == ["busy", "done"]
