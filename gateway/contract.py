"""What both planes agree on: the values that travel between the controller and the gateways, and their codec.

Theory of operation
-------------------
Each gateway worker holds one WebSocket to the controller (`GET /v1/feed`, bearer token). The controller answers a
`Hello` with the whole state (an `Update` whose `base` is 0), then sends an `Update` for each change. An `Update`
names the state it starts from (`base`) and the one it makes (`version`); a worker that holds another version than
`base` closes the connection and starts again, so a lost message can never leave a wrong table behind. The worker
answers each applied update with `Ack(version)`, and reports `Stats` once a second, or at once when a revision that
was idle gets a request (the poke that starts a cold revision).

Scale-down loses nothing because of one more message. A revision that is about to lose replicas is `shrinking`: workers
say how many requests they have in flight at each of its pods (`InFlight`). The pods that are to go become `draining`
endpoints: they get no new request, and are told to stop when every worker has acknowledged that and reported none.

A limit on a revision's requests holds over all workers because each such revision belongs to one of them, which deals
out its places (`gateway.core.ownership`). Who the workers are is the controller's word: `Peers` is sent whenever that
changes, from a worker's first acknowledgement on until its connection ends. A worker that drains says `Leaving`, and is
given nothing to deal out any more. The list is no part of the state: nobody acknowledges it and no file keeps it.

State is three maps, each replaced entry by entry: routes (a KIngress and its rules), revisions (how to treat a request
for it, and its endpoints) and certificates (a TLS Secret and the hosts it is for). Everything is immutable; `apply`
makes a new `Snapshot` and leaves the old one be, so that a request in flight keeps the table it was routed by. The copy
is one of pointers, some 0.1 ms for ten thousand entries.

A whole state of ten thousand routes is 17 MB and a second of work at either end, during which nobody would be served.
It travels in parts of PART entries (`whole`), with room for other work between them; `Resync` compares them with the
state that is held, which after a lost connection is nearly the same, and what is left is a change like any other.

An Update may carry private keys: they are in no `repr` and in no error message, and whoever stores one makes the file
readable by its owner only.

Messages are JSON text frames `{"type": ..., ...}`, one message a frame. Durations are seconds (float), sizes bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import islice
from sys import intern
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "FEED_PATH",
    "GATHERING",
    "PART",
    "RECONNECT_LIMIT",
    "Ack",
    "Certificate",
    "CertificateId",
    "ContractError",
    "Endpoint",
    "Fields",
    "Hello",
    "InFlight",
    "Leaving",
    "Milestones",
    "Peer",
    "Peers",
    "Probe",
    "Resync",
    "Revision",
    "RevisionId",
    "RouteId",
    "RouteRule",
    "Snapshot",
    "Split",
    "Stat",
    "Stats",
    "Update",
    "apply",
    "is_loopback",
    "parse_message",
    "serialise_message",
    "whole",
]

FEED_PATH = "/v1/feed"

PART = 64
"""Entries in one part of a whole state: about 100 kB, and 5 ms of parsing."""

RECONNECT_LIMIT = 5.0
"""Seconds between two attempts of a worker to reach a controller that it has lost, at most."""

GATHERING = RECONNECT_LIMIT + 3.0
"""Seconds after which each worker that lived through a loss of the controller is connected and has reported."""

Fields = tuple[tuple[str, str], ...]
"""HTTP fields as (lower-case name, value) pairs."""


class ContractError(ValueError):
    """A message that is not one of this contract's; the text says what was wrong with it."""


class RevisionId(NamedTuple):
    """A Revision; as text `namespace/name`."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class RouteId(NamedTuple):
    """The KIngress a rule comes from."""

    namespace: str
    name: str


class CertificateId(NamedTuple):
    """The Secret a certificate comes from; as text `namespace/name`."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def is_loopback(host: str) -> bool:
    """Whether what is sent to `host` stays on this machine: anywhere else the feed needs TLS."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"  # other names may mean any address


@dataclass(frozen=True, slots=True)
class Split:
    """A share of a rule's requests; the percents of one rule sum to 100 and none is 0."""

    revision: RevisionId
    percent: int
    append_fields: Fields = ()


@dataclass(frozen=True, slots=True)
class RouteRule:
    """One host, path prefix and set of field matches, and where its requests go.

    `host` is lower-case without a port. A `cluster_local` rule answers on the cluster-local listener only, any other
    on the external listener only. `append_fields` are *set* on the request (a client's own value is replaced),
    as Knative's ingress conformance asks. With a `redirect_port` above 0, a request that came without TLS is sent to
    https on that port, if there is a certificate for the host; 0 serves it.
    """

    host: str
    splits: tuple[Split, ...]
    cluster_local: bool = False
    path: str = "/"
    match_fields: Fields = ()
    append_fields: Fields = ()
    rewrite_host: str | None = None
    redirect_port: int = 0


@dataclass(frozen=True, slots=True)
class Probe:
    """How the gateway finds out that a new endpoint takes traffic: a GET of `path` in `protocol` (as in Revision), a
    gRPC health check of `grpc_service` ("" for the whole server), or, both None, a TCP connect."""

    path: str | None = None
    fields: Fields = ()
    timeout: float = 1.0
    protocol: str = "http1"
    grpc_service: str | None = None


class Milestones(NamedTuple):
    """How an endpoint came about, as seen by the control plane: when the autoscaler decided to scale its revision up
    from zero, when its pod was there, and when the pod's containers ran. Wall clock, seconds since 1970; None where it
    is not known. See `gateway.core.coldstart` for what is made of it."""

    decided: float | None = None
    created: float | None = None
    started: float | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one pod listens. `ready` is what Kubernetes says; the gateway may know better by probing. A `draining` one
    gets no new request and finishes those that it has; it may be taken into service again. Endpoints that differ in
    their milestones only are equal: these come along with a change and are none themselves."""

    host: str
    port: int
    pod: str
    ready: bool = False
    draining: bool = False
    milestones: Milestones = field(default=Milestones(), compare=False)
    key: tuple[str, int] = field(init=False, compare=False, repr=False)
    """Host and port, one object for all requests."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", (self.host, self.port))


@dataclass(frozen=True, slots=True)
class Revision:
    """How to treat requests for one revision.

    `container_concurrency` 0 means no limit. `response_start_timeout` and `idle_timeout` None mean none. `protocol` is
    what the endpoints speak: "http1", "h2c" (HTTP/2 without TLS), or "detect" (ask them).
    `probe` None means: trust Kubernetes' readiness only (exec readiness probes and startup probes, which the gateway
    can't run). `service` and `configuration` are names for metrics, "" where there is none. `failure` says why its pods
    can't start, "" while they may: without an endpoint that serves, requests are told so at once. `queue_timeout` is
    how long a request may wait for an endpoint, None what the gateway is set to. `shrinking` asks for `InFlight`.
    """

    id: RevisionId
    service: str = ""
    configuration: str = ""
    container_concurrency: int = 0
    timeout: float = 300.0
    response_start_timeout: float | None = None
    idle_timeout: float | None = None
    protocol: str = "http1"
    probe: Probe | None = field(default_factory=Probe)
    endpoints: tuple[Endpoint, ...] = ()
    failure: str = ""
    queue_timeout: float | None = None
    shrinking: bool = False


@dataclass(frozen=True, slots=True)
class Certificate:
    """What TLS needs for some hosts: lower-case names, or `*.` and a parent for every name one label below it. `chain`
    is PEM, the server's certificate first; `key` its unencrypted private key, PEM."""

    id: CertificateId
    hosts: tuple[str, ...]
    chain: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All a gateway knows. Version 0 is "nothing yet"."""

    version: int = 0
    routes: Mapping[RouteId, tuple[RouteRule, ...]] = field(default_factory=lambda: MappingProxyType({}))
    revisions: Mapping[RevisionId, Revision] = field(default_factory=lambda: MappingProxyType({}))
    certificates: Mapping[CertificateId, Certificate] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Update:
    """From `base` to `version`: entries to set, and to drop where the value is None. A message with base 0 is a whole
    state, for a `Resync`; `more` says that the next message is another part of it."""

    base: int
    version: int
    routes: Mapping[RouteId, tuple[RouteRule, ...] | None]
    revisions: Mapping[RevisionId, Revision | None]
    certificates: Mapping[CertificateId, Certificate | None] = field(default_factory=dict)
    more: bool = False


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a worker; `worker` is unique among the connected ones, `address` is HOST:PORT at which other
    workers reach it."""

    worker: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class Leaving:
    """From a worker: it drains. What it has it finishes; it is to be the owner of nothing."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One worker as the others are told of it."""

    name: str
    address: str
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Peers:
    """All workers that serve. `epoch` names this list: no other one, of this controller or of the next, has the same;
    there is no order among them. The empty epoch says that the list is yet to be made, since a controller that has just
    started does not know who will come back: the former list holds on, and who had none waits for it."""

    epoch: str
    workers: tuple[Peer, ...] = ()


@dataclass(frozen=True, slots=True)
class Ack:
    """From a worker: it routes by this version of the snapshot."""

    version: int


@dataclass(frozen=True, slots=True)
class Stat:
    """One revision's load at one worker over the last report interval.

    `average_concurrency` is the time-weighted mean of requests in flight or waiting; `request_count` counts arrivals.
    The first request for an idle revision is reported at once as (1, 1) and taken off the next report, so that a sum
    over the reports of one second never counts it twice (Knative's activator does the same).
    """

    revision: RevisionId
    average_concurrency: float
    request_count: float


@dataclass(frozen=True, slots=True)
class Stats:
    """From a worker: its load since the last report, or one poke for a revision that has just woken."""

    stats: tuple[Stat, ...]


@dataclass(frozen=True, slots=True)
class InFlight:
    """From a worker, of revisions that are `shrinking`: how many requests it has sent to each pod that are not over, by
    pod name; pods without any are left out. The numbers are those of the version that it acknowledged last, or later
    ones. Told when an update changes such a revision, when the last request at a draining endpoint is over, and with
    each second's Stats."""

    revisions: Mapping[RevisionId, Mapping[str, int]]


Message = Update | Peers | Hello | Ack | Stats | InFlight | Leaving


def apply(snapshot: Snapshot, update: Update) -> Snapshot:
    """The state after a change. Raises ContractError if it starts from another version."""
    if update.base != snapshot.version:
        raise ContractError(f"update starts from version {update.base}, this snapshot is {snapshot.version}")
    return Snapshot(
        version=update.version,
        routes=_merged(snapshot.routes, update.routes),
        revisions=_merged(snapshot.revisions, update.revisions),
        certificates=_merged(snapshot.certificates, update.certificates),
    )


def _merged(old: Mapping[Any, Any], changes: Mapping[Any, Any]) -> Mapping[Any, Any]:
    if not changes:
        return old
    # The proxy's own copy is dict's, which copies the table; {**old} would look each key up (3 ms of ten thousand).
    merged = old.copy() if isinstance(old, MappingProxyType) else dict(old)
    merged.update(changes)
    for key in [key for key, value in changes.items() if value is None]:
        del merged[key]
    return MappingProxyType(merged)


def whole(snapshot: Snapshot) -> Iterator[Update]:
    """The state as it travels: a single update while it is small, else parts of PART entries."""
    version = snapshot.version
    routes, revisions, certificates = snapshot.routes, snapshot.revisions, snapshot.certificates
    if len(routes) + len(revisions) + len(certificates) > PART:
        for batch in _batches(routes):
            yield Update(0, version, batch, {}, more=True)
        for batch in _batches(revisions):
            yield Update(0, version, {}, batch, more=True)
        for batch in _batches(certificates):
            yield Update(0, version, {}, {}, batch, more=True)
        yield Update(0, version, {}, {})
    else:
        yield Update(0, version, routes, revisions, certificates)


def _batches(entries: Mapping[Any, Any]) -> Iterator[dict[Any, Any]]:
    items = iter(entries.items())
    while batch := dict(islice(items, PART)):
        yield batch


class Resync:
    """A whole state that arrives in parts, and what it changes in the state that is held. `version` is its own."""

    __slots__ = ("_certificates", "_held", "_revisions", "_routes", "_version")

    def __init__(self, held: Snapshot, version: int) -> None:
        self._held = held
        self._version = version
        self._routes = _Difference(held.routes)
        self._revisions = _Difference(held.revisions)
        self._certificates = _Difference(held.certificates)

    def add(self, part: Update) -> None:
        """Take in the next part. Raises ContractError if it belongs to something else."""
        if part.base != 0 or part.version != self._version:
            raise ContractError(f"version {part.base} to {part.version} amid the whole state {self._version}")
        self._routes.add(part.routes)
        self._revisions.add(part.revisions)
        self._certificates.add(part.certificates)

    def change(self) -> Update:
        """From the state that is held to the one that has arrived."""
        return Update(
            self._held.version,
            self._version,
            self._routes.changes(),
            self._revisions.changes(),
            self._certificates.changes(),
        )


class _Difference:
    """Of one map: what arrives and differs from `held`, and what does not arrive."""

    __slots__ = ("_changed", "_held", "_seen")

    def __init__(self, held: Mapping[Any, Any]) -> None:
        self._held = held
        self._changed: dict[Any, Any] = {}
        self._seen: set[Any] = set()

    def add(self, entries: Mapping[Any, Any]) -> None:
        for key, value in entries.items():
            if value is not None:
                self._seen.add(key)
                if self._held.get(key) != value:
                    self._changed[key] = value

    def changes(self) -> dict[Any, Any]:
        return {**self._changed, **dict.fromkeys(key for key in self._held if key not in self._seen)}


# --- codec ------------------------------------------------------------------------------------------------------------


def serialise_message(message: Message) -> str:
    """The JSON text of one frame."""
    match message:
        case Hello(worker, address):
            body: dict[str, Any] = {"type": "hello", "worker": worker, "address": address}
        case Leaving():
            body = {"type": "leaving"}
        case Peers(epoch, workers):
            listed = [[peer.name, peer.address, peer.leaving] for peer in workers]
            body = {"type": "peers", "epoch": epoch, "workers": listed}
        case Ack(version):
            body = {"type": "ack", "version": version}
        case Stats(stats):
            body = {
                "type": "stats",
                "stats": [[*stat.revision, stat.average_concurrency, stat.request_count] for stat in stats],
            }
        case InFlight(loads):
            body = {"type": "inFlight", "revisions": [[*key, load] for key, load in loads.items()]}
        case Update(base, version, routes, revisions, certificates, more):
            body = {
                "type": "update",
                "base": base,
                "version": version,
                "more": more,
                "routes": [[*key, rules and [_rule_out(rule) for rule in rules]] for key, rules in routes.items()],
                "revisions": [[*key, value and _revision_out(value)] for key, value in revisions.items()],
                "certificates": [[*key, value and _certificate_out(value)] for key, value in certificates.items()],
            }
    return orjson.dumps(body).decode()


def parse_message(text: str | bytes) -> Message:
    """The message in one frame. Raises ContractError for anything else than a message of this contract."""
    try:
        return _message_in(orjson.loads(text))
    except ContractError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ContractError(f"not a feed message: {error!r} in {text[:200]!r}") from error


def _message_in(body: dict[str, Any]) -> Message:
    match body["type"]:
        case "hello":
            return Hello(str(body["worker"]), str(body["address"]))
        case "leaving":
            return Leaving()
        case "peers":
            workers = tuple(Peer(str(name), str(address), bool(leaving)) for name, address, leaving in body["workers"])
            return Peers(str(body["epoch"]), workers)
        case "ack":
            return Ack(int(body["version"]))
        case "stats":
            return Stats(tuple(Stat(RevisionId(ns, name), float(avg), float(n)) for ns, name, avg, n in body["stats"]))
        case "inFlight":
            return InFlight(
                {
                    RevisionId(ns, name): {pod: int(count) for pod, count in load.items()}
                    for ns, name, load in body["revisions"]
                }
            )
        case "update":
            return Update(
                base=int(body["base"]),
                version=int(body["version"]),
                routes={
                    RouteId(ns, name): None if rules is None else _rules_in(rules) for ns, name, rules in body["routes"]
                },
                revisions={
                    RevisionId(ns, name): None if value is None else _revision_in(RevisionId(ns, name), value)
                    for ns, name, value in body["revisions"]
                },
                certificates={
                    CertificateId(ns, name): None if value is None else _certificate_in(CertificateId(ns, name), value)
                    for ns, name, value in body["certificates"]
                },
                more=bool(body["more"]),
            )
        case unknown:
            raise ContractError(f"unknown message type {unknown!r}")


def _rule_out(rule: RouteRule) -> dict[str, Any]:
    return {
        "host": rule.host,
        "clusterLocal": rule.cluster_local,
        "path": rule.path,
        "matchFields": rule.match_fields,
        "appendFields": rule.append_fields,
        "rewriteHost": rule.rewrite_host,
        "redirectPort": rule.redirect_port,
        "splits": [[*split.revision, split.percent, split.append_fields] for split in rule.splits],
    }


def _rules_in(bodies: list[dict[str, Any]]) -> tuple[RouteRule, ...]:
    """The hosts of a route send their requests the same way, nearly always: equal parts of neighbours are one object,
    which is less to build, to keep, to compare and to compile."""
    rules: list[RouteRule] = []
    for number, body in enumerate(bodies):
        before = bodies[number - 1]
        if number and body["splits"] == before["splits"]:
            splits = rules[-1].splits
        else:
            splits = tuple(
                Split(RevisionId(ns, name), int(percent), _fields_in(fields))
                for ns, name, percent, fields in body["splits"]
            )
        if number and body["appendFields"] == before["appendFields"]:
            append_fields = rules[-1].append_fields
        else:
            append_fields = _fields_in(body["appendFields"])
        rules.append(
            RouteRule(
                host=body["host"],
                splits=splits,
                cluster_local=body["clusterLocal"],
                path=body["path"],
                match_fields=_fields_in(body["matchFields"]),
                append_fields=append_fields,
                rewrite_host=body["rewriteHost"],
                redirect_port=int(body["redirectPort"]),
            )
        )
    return tuple(rules)


def _revision_out(revision: Revision) -> dict[str, Any]:
    return {
        "service": revision.service,
        "configuration": revision.configuration,
        "containerConcurrency": revision.container_concurrency,
        "timeout": revision.timeout,
        "responseStartTimeout": revision.response_start_timeout,
        "idleTimeout": revision.idle_timeout,
        "protocol": revision.protocol,
        "probe": revision.probe and _probe_out(revision.probe),
        "endpoints": [_endpoint_out(endpoint) for endpoint in revision.endpoints],
        "failure": revision.failure,
        "queueTimeout": revision.queue_timeout,
        "shrinking": revision.shrinking,
    }


def _revision_in(revision_id: RevisionId, body: dict[str, Any]) -> Revision:
    probe = body["probe"]
    return Revision(
        id=revision_id,
        service=body["service"],
        configuration=body["configuration"],
        container_concurrency=int(body["containerConcurrency"]),
        timeout=float(body["timeout"]),
        response_start_timeout=body["responseStartTimeout"],
        idle_timeout=body["idleTimeout"],
        protocol=body["protocol"],
        probe=None if probe is None else _probe_in(probe),
        endpoints=tuple(_endpoint_in(endpoint) for endpoint in body["endpoints"]),
        failure=str(body["failure"]),
        queue_timeout=body["queueTimeout"],
        shrinking=bool(body["shrinking"]),
    )


def _endpoint_out(endpoint: Endpoint) -> list[Any]:
    return [endpoint.host, endpoint.port, endpoint.pod, endpoint.ready, endpoint.draining, *endpoint.milestones]


def _endpoint_in(body: list[Any]) -> Endpoint:
    host, port, pod, ready, draining, *milestones = body
    return Endpoint(host, int(port), pod, bool(ready), bool(draining), Milestones(*milestones))


def _certificate_out(certificate: Certificate) -> list[Any]:
    return [certificate.hosts, certificate.chain, certificate.key]


def _certificate_in(certificate_id: CertificateId, body: list[Any]) -> Certificate:
    hosts, chain, key = body
    return Certificate(certificate_id, tuple(hosts), chain, key)


def _probe_out(probe: Probe) -> list[Any]:
    return [probe.path, probe.fields, probe.timeout, probe.protocol, probe.grpc_service]


def _probe_in(body: list[Any]) -> Probe:
    path, fields, timeout, protocol, grpc_service = body
    return Probe(path, _fields_in(fields), float(timeout), protocol, grpc_service)


def _fields_in(pairs: list[list[str]]) -> Fields:
    return tuple((intern(name), value) for name, value in pairs)  # few names, each in every route
