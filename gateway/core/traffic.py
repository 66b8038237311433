"""Counters of one worker, and their sum over workers.

The request path adds to plain integers in slots; nothing is labelled, looked up or locked per request. At a scrape each
worker turns them into `Family` values, the supervising parent adds the workers' up (`merged`) and renders them. Labels
are bounded: revisions that the snapshot holds, five status classes, the response flags of `gateway.errors`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from gateway.core.concurrency import RevisionLoad

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.contract import Revision

__all__ = ["BUCKETS", "Family", "RevisionTraffic", "WorkerTraffic", "merged", "revision_families"]

# The buckets of kn.serving.invocation.duration in queue-proxy, and 1 and 2.5 ms below them, as a gateway's own share
# is that small.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

_CLASSES = ("0xx", "1xx", "2xx", "3xx", "4xx", "5xx")


class Family(NamedTuple):
    """A metric's samples: counters and gauges as (labels, value); histograms as (labels, (sum, *bucket counts)), with a
    bucket for each of `bounds` and one for what is above."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    samples: dict[tuple[str, ...], tuple[float, ...]]
    bounds: tuple[float, ...] = ()


class RevisionTraffic(RevisionLoad):
    """What one worker has seen of one revision: its load, and what became of the requests."""

    __slots__ = ("buckets", "classes", "labels", "parked", "seconds", "waiting_bytes")

    def __init__(self, revision: Revision) -> None:
        super().__init__(revision.id)
        self.labels = (revision.id.namespace, revision.service, revision.configuration, revision.id.name)
        self.classes = [0] * len(_CLASSES)
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.parked = 0
        self.waiting_bytes = 0  # of requests that wait for an endpoint, or may have to be sent again

    def end(self, now: float, status: int, seconds: float) -> None:
        """A request that arrived has ended with `status` (0: the client left first) after `seconds`."""
        self._area += now - self._since  # `depart`, written out: every request comes this way
        self.in_flight -= 1
        self.classes[status // 100] += 1
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


class WorkerTraffic:
    """What one worker has seen that belongs to no revision."""

    __slots__ = (
        "downstream_connections",
        "http2_connections",
        "http2_faults",
        "http2_pending",
        "limit_refusals",
        "local_replies",
        "log_dropped",
        "tls_failures",
        "tls_handshakes",
        "tls_handshaking",
        "tls_resumed",
        "unexpected_errors",
    )

    def __init__(self) -> None:
        self.downstream_connections = 0
        self.http2_connections = 0
        self.http2_pending = 0  # bytes of responses that wait for their clients
        self.http2_faults: Counter[str] = Counter()  # connections ended for what the client did, by error code
        self.local_replies: Counter[str] = Counter()
        self.limit_refusals: Counter[str] = Counter()
        self.log_dropped = 0
        self.tls_handshaking = 0  # connections that are no downstream connections yet
        self.tls_handshakes = 0
        self.tls_resumed = 0
        self.tls_failures: Counter[str] = Counter()
        self.unexpected_errors = 0


_REVISION_LABELS = ("namespace", "service", "configuration", "revision")


def revision_families(traffic: Iterable[RevisionTraffic]) -> list[Family]:
    """The revisions' numbers as metric families, ready to be merged with those of other workers. A revision is in them
    from its first request on: ten thousand idle ones would be 200,000 lines and seconds of the parent's time a scrape.
    """
    requests: dict[tuple[str, ...], tuple[float, ...]] = {}
    durations: dict[tuple[str, ...], tuple[float, ...]] = {}
    in_flight: dict[tuple[str, ...], tuple[float, ...]] = {}
    parked: dict[tuple[str, ...], tuple[float, ...]] = {}
    for one in traffic:
        if not one.in_flight and not any(one.classes):
            continue
        for name, count in zip(_CLASSES, one.classes, strict=True):
            if count:
                requests[(*one.labels, name)] = (count,)
        durations[one.labels] = (one.seconds, *one.buckets)
        in_flight[one.labels] = (one.in_flight,)
        parked[one.labels] = (one.parked,)
    return [
        Family(
            "zerogate_gateway_requests",
            "counter",
            "Requests that ended, by status class; 0xx are those whose client left first.",
            (*_REVISION_LABELS, "code_class"),
            requests,
        ),
        Family(
            "zerogate_gateway_request_duration_seconds",
            "histogram",
            "From the request's head to the end of its response.",
            _REVISION_LABELS,
            durations,
            BUCKETS,
        ),
        Family(
            "zerogate_gateway_in_flight", "gauge", "Requests here now, waiting ones too.", _REVISION_LABELS, in_flight
        ),
        Family("zerogate_gateway_parked", "gauge", "Requests that wait for an endpoint.", _REVISION_LABELS, parked),
    ]


def merged(workers: Iterable[Iterable[Family]]) -> list[Family]:
    """The sum over workers, sample by sample, families in order of first appearance."""
    result: dict[str, Family] = {}
    for families in workers:
        for family in families:
            seen = result.setdefault(family.name, family._replace(samples={}))
            for labels, values in family.samples.items():
                before = seen.samples.get(labels)
                if before is None:
                    seen.samples[labels] = values
                else:
                    seen.samples[labels] = tuple(a + b for a, b in zip(before, values, strict=True))
    return list(result.values())
