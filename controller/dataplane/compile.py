"""KIngresses, Revisions and EndpointSlices in, the gateways' tables out. (Secrets: `certificates`.)

Theory of operation
-------------------
A KIngress of our class becomes the route rules of its hosts and paths. A Revision together with the EndpointSlices of
its private Service becomes one entry that says how to treat its requests and where its pods listen. `Table` keeps both
and works out what a gateway has to be told: an entry that came out the same is not sent again. A Revision goes out
while a route names it or it has endpoints. Old Revisions, which have none, cost the gateways nothing; one that traffic
has just moved away from is known until its last pod is gone, with the requests that still wait for it; and the pods of
one that traffic is about to move to are probed by then.

An endpoint's milestones are no part of what is compared: when a pod was started is told with the next change of its
revision, and is none by itself.

Each entry is a function of its own inputs alone; a change of one EndpointSlice recompiles one Revision, whatever the
number of routes. That is what keeps a cold start cheap beside thousands of services.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from controller.apis import conditions, labels
from controller.apis import revision as revisions
from controller.apis.durations import parse_duration
from controller.apis.meta import is_deleting, labels_of, name_of, namespace_of
from controller.dataplane.certificates import CertificateTable, Claim
from gateway.contract import (
    Certificate,
    CertificateId,
    Endpoint,
    Milestones,
    Probe,
    Revision,
    RevisionId,
    RouteId,
    RouteRule,
    Split,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from controller.apis.meta import JsonObject
    from gateway.contract import Fields

Rules = tuple[RouteRule, ...]

_CLUSTER_LOCAL = "ClusterLocal"
_REDIRECTED = "Redirected"
_PORT_NAMES = ("http", "http2", "http1", "h2c", "https")
_ALL = 100


class InvalidIngress(ValueError):
    """A KIngress that cannot be programmed; the text names the field."""


# --- routes -----------------------------------------------------------------------------------------------------------


def is_ours(ingress: JsonObject) -> bool:
    """A KIngress of another class is another implementation's, and one that is going away is nobody's."""
    ours = labels.lookup(ingress, labels.INGRESS_CLASS, labels.INGRESS_CLASS_ALIAS) == labels.INGRESS_CLASS_NAME
    return ours and not is_deleting(ingress)


def route_rules(ingress: JsonObject, https_port: int = 443) -> Rules:
    """The rules of a KIngress: by host, longest path first, rules that match fields before those that don't. With the
    option Redirected, external hosts that have a certificate are sent to https on `https_port`.
    Raises InvalidIngress where Knative's webhook would refuse the spec."""
    namespace = namespace_of(ingress)
    spec = ingress.get("spec") or {}
    redirect_port = https_port if spec.get("httpOption") == _REDIRECTED else 0
    rules = [
        _rule(host, rule, path, namespace, redirect_port)
        for rule in _items(spec, "rules", "spec")
        for host in _items(rule, "hosts", "spec.rules[]")
        for path in _items(rule.get("http") or {}, "paths", "spec.rules[].http")
    ]
    return tuple(sorted(rules, key=lambda rule: (rule.host, rule.cluster_local, -len(rule.path), -_matches(rule))))


def _matches(rule: RouteRule) -> int:
    return len(rule.match_fields)


def external_hosts(ingress: JsonObject) -> set[str]:
    """The hosts of a KIngress that are asked for from outside, lower-case."""
    rules = (ingress.get("spec") or {}).get("rules") or ()
    return {
        host.lower() for rule in rules if rule.get("visibility") != _CLUSTER_LOCAL for host in rule.get("hosts") or ()
    }


def claims(ingress: JsonObject) -> tuple[Claim, ...]:
    """What a KIngress wants served over TLS. Raises InvalidIngress where Knative's webhook would refuse the spec."""
    found = []
    for item in (ingress.get("spec") or {}).get("tls") or ():
        for name in ("secretName", "secretNamespace"):
            if not item.get(name):
                raise InvalidIngress(f"spec.tls[].{name}: missing")
        secret = CertificateId(item["secretNamespace"], item["secretName"])
        found.append(Claim(secret, tuple(host.lower() for host in item.get("hosts") or ())))
    return tuple(found)


def _rule(host: str, rule: JsonObject, path: JsonObject, namespace: str, redirect_port: int) -> RouteRule:
    cluster_local = rule.get("visibility") == _CLUSTER_LOCAL
    return RouteRule(
        host=host.lower(),
        splits=_splits(_items(path, "splits", "spec.rules[].http.paths[]"), namespace),
        cluster_local=cluster_local,
        path=path.get("path") or "/",
        match_fields=tuple((name.lower(), match["exact"]) for name, match in (path.get("headers") or {}).items()),
        append_fields=_fields(path.get("appendHeaders")),
        rewrite_host=path.get("rewriteHost") or None,
        redirect_port=0 if cluster_local else redirect_port,
    )


def _splits(items: list[JsonObject], namespace: str) -> tuple[Split, ...]:
    where = "spec.rules[].http.paths[].splits"
    splits = []
    for item in items:
        if item.get("serviceNamespace") != namespace:
            raise InvalidIngress(f"{where}[].serviceNamespace: must be the Ingress' own namespace, {namespace!r}")
        name = item.get("serviceName")
        if not name:
            raise InvalidIngress(f"{where}[].serviceName: missing")
        percent = item.get("percent") or (_ALL if len(items) == 1 else 0)
        splits.append(Split(RevisionId(namespace, name), percent, _fields(item.get("appendHeaders"))))
    total = sum(split.percent for split in splits)
    if total != _ALL or any(split.percent < 0 for split in splits):
        raise InvalidIngress(f"{where}: the percents must sum to {_ALL}, not to {total}")
    return tuple(split for split in splits if split.percent)


def _fields(fields: Mapping[str, str] | None) -> Fields:
    return tuple((name.lower(), value) for name, value in (fields or {}).items())


def _items(obj: JsonObject, name: str, where: str) -> list[Any]:
    items = obj.get(name)
    if not items:
        raise InvalidIngress(f"{where}.{name}: at least one is needed")
    return list(items)


# --- revisions --------------------------------------------------------------------------------------------------------


def revision_id(obj: JsonObject) -> RevisionId:
    """The data plane's name of a Revision."""
    return RevisionId(namespace_of(obj), name_of(obj))


def no_milestones(_uid: str) -> Milestones:
    """Where nobody has looked at the pods."""
    return Milestones()


def revision(
    obj: JsonObject,
    slices: Iterable[JsonObject],
    *,
    autodetect_http2: bool,
    draining: Collection[str] | None = None,
    milestones: Callable[[str], Milestones | None] = no_milestones,
) -> Revision:
    """How gateways treat a Revision; `slices` are the EndpointSlices of its private Service. `autodetect_http2`: a port
    whose name does not say what it speaks is asked. `draining`: names of the pods that are to get no new request, None
    if it does not shrink. `milestones` says how a pod, by its uid, came about; None leaves it out, since it has
    not been started."""
    view = revisions.parse(obj)
    protocol = "detect" if autodetect_http2 and not view.names_protocol else view.protocol
    own_labels = labels_of(obj)
    return Revision(
        id=revision_id(obj),
        service=own_labels.get(labels.SERVICE, ""),
        configuration=own_labels.get(labels.CONFIGURATION, ""),
        container_concurrency=view.container_concurrency,
        timeout=float(view.timeout_seconds),
        response_start_timeout=_seconds(view.response_start_timeout_seconds),
        idle_timeout=_seconds(view.idle_timeout_seconds),
        protocol=protocol,
        probe=probe(view, protocol),
        endpoints=endpoints(slices, draining or (), milestones),
        failure=failure(view),
        queue_timeout=queue_timeout(obj),
        shrinking=draining is not None,
    )


def queue_timeout(obj: JsonObject) -> float | None:
    """How long its requests may wait for a replica, None as the gateway has it. Admission refused an annotation that is
    no duration; one that got past it counts as absent."""
    text = labels.lookup(obj, labels.QUEUE_TIMEOUT)
    try:
        return parse_duration(text) if text else None
    except ValueError:
        return None


def failure(view: revisions.Revision) -> str:
    """Why the pods that are wanted now can't start, "" if they may."""
    startable = conditions.get(view.conditions, revisions.STARTABLE)
    return (startable.message or startable.reason) if startable is not None and startable.is_false else ""


def _seconds(value: int | None) -> float | None:
    return None if value is None else float(value)


def probe(view: revisions.Revision, protocol: str) -> Probe | None:
    """What the gateway does itself to find a new pod ready. None where it can't and has to wait for Kubernetes: a
    startup probe must come first, exec runs inside the container, TLS is not spoken here, and another port than the
    serving one is not known from outside."""
    declared = view.readiness_probe or {}
    if view.has_startup_probe or "exec" in declared:
        return None
    http, tcp, grpc = (declared.get(name) for name in ("httpGet", "tcpSocket", "grpc"))
    port = (http or tcp or grpc or {}).get("port") or 0
    if isinstance(port, int) and port not in (0, view.port):
        return None
    timeout = float(declared.get("timeoutSeconds") or 1)
    if grpc is not None:
        return Probe(timeout=timeout, grpc_service=grpc.get("service") or "")
    if http is None:
        return Probe(timeout=timeout)
    if http.get("scheme", "HTTP").upper() != "HTTP":
        return None
    fields = tuple((item["name"].lower(), item.get("value", "")) for item in http.get("httpHeaders") or ())
    path = http.get("path") or "/"
    return Probe(path if path.startswith("/") else f"/{path}", fields, timeout, protocol)


def endpoints(
    slices: Iterable[JsonObject],
    draining: Collection[str] = (),
    milestones: Callable[[str], Milestones | None] = no_milestones,
) -> tuple[Endpoint, ...]:
    """Where the pods listen, sorted; pods that are going away, or are not there yet, are left out, those in `draining`
    are so. A pod in two slices, which happens while Kubernetes moves it from one to the other, counts once, and as
    ready if either says so."""
    found: dict[tuple[str, int], Endpoint] = {}
    for piece in slices:
        port = _port(piece)
        for item in piece.get("endpoints") or () if port is not None else ():
            endpoint = _endpoint(item, port or 0, draining, milestones)
            if endpoint is None:
                continue
            place = (endpoint.host, endpoint.port)
            if place not in found or endpoint.ready:
                found[place] = endpoint
    return tuple(found[place] for place in sorted(found))


def _endpoint(
    item: JsonObject, port: int, draining: Collection[str], milestones: Callable[[str], Milestones | None]
) -> Endpoint | None:
    conditions = item.get("conditions") or {}
    addresses = item.get("addresses")
    if not addresses or conditions.get("terminating"):
        return None
    target = item.get("targetRef") or {}
    pod = target.get("name") or addresses[0]
    # An absent `ready` means ready (discovery.k8s.io/v1, EndpointConditions).
    ready = conditions.get("ready") is not False
    past = milestones(target.get("uid") or "")
    return None if past is None else Endpoint(addresses[0], port, pod, ready, pod in draining, past)


def _port(piece: JsonObject) -> int | None:
    """The port that serves requests: the one named so, else the first."""
    ports = [port for port in piece.get("ports") or () if port.get("port")]
    named = [port for name in _PORT_NAMES for port in ports if port.get("name") == name]
    chosen = (named or ports or [{}])[0].get("port")
    return int(chosen) if chosen else None


# --- what gateways have to be told ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delta:
    """Entries to set, and to drop where the value is None."""

    routes: dict[RouteId, Rules | None] = field(default_factory=dict)
    revisions: dict[RevisionId, Revision | None] = field(default_factory=dict)
    certificates: dict[CertificateId, Certificate | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.routes or self.revisions or self.certificates)


class Table:
    """What was compiled and what was told; `drain` is the difference, and takes it as told. `certificates` is its part
    about TLS."""

    __slots__ = (
        "_known",
        "_references",
        "_routes",
        "_sent",
        "_sent_routes",
        "_touched",
        "_touched_routes",
        "certificates",
    )

    def __init__(self) -> None:
        self._routes: dict[RouteId, Rules] = {}
        self._known: dict[RevisionId, Revision] = {}
        self._references: Counter[RevisionId] = Counter()  # how many splits name a revision
        self._sent_routes: dict[RouteId, Rules] = {}
        self._sent: dict[RevisionId, Revision] = {}
        self._touched_routes: set[RouteId] = set()
        self._touched: set[RevisionId] = set()
        self.certificates = CertificateTable()

    def set_route(self, route_id: RouteId, rules: Rules | None) -> None:
        """None: there is no such route (any more)."""
        before, after = _named(self._routes.pop(route_id, ())), _named(rules or ())
        if rules is not None:
            self._routes[route_id] = rules
        self._references.subtract(before)
        self._references.update(after)
        self._touched_routes.add(route_id)
        self._touched |= before.keys() | after.keys()

    def set_revision(self, revision_id: RevisionId, value: Revision | None) -> None:
        """None: there is no such revision (any more)."""
        if value is None:
            self._known.pop(revision_id, None)
        else:
            self._known[revision_id] = value
        self._touched.add(revision_id)

    def drain(self) -> Delta:
        """What changed since the last drain."""
        delta = Delta(certificates=self.certificates.drain())
        for route_id in self._touched_routes:
            rules = self._routes.get(route_id)
            if rules != self._sent_routes.get(route_id):
                delta.routes[route_id] = rules
                _put(self._sent_routes, route_id, rules)
        for revision_id in self._touched:
            value = self._known.get(revision_id)
            if self._references[revision_id] <= 0:
                del self._references[revision_id]
                value = value if value is not None and value.endpoints else None
            if value != self._sent.get(revision_id):
                delta.revisions[revision_id] = value
                _put(self._sent, revision_id, value)
        self._touched_routes.clear()
        self._touched.clear()
        return delta


def _named(rules: Rules) -> Counter[RevisionId]:
    return Counter(split.revision for rule in rules for split in rule.splits)


def _put(table: dict[Any, Any], key: object, value: object | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value
