"""A Route turns traffic targets into a KIngress, and names into placeholder Services.

Theory of operation
-------------------
A pass computes the URL, then resolves every target to a Revision (`traffic.resolve`). If one can't be resolved the
pass ends there: the KIngress, the placeholders and `status.traffic` stay as they were, so that traffic goes on
flowing as before, and `AllTrafficAssigned` says what is wrong. Otherwise the status gets the assignment, the
placeholders and the KIngress are brought into line, and `IngressReady` follows the KIngress once that has observed
its own generation.

A tag is as private as the more private of the Route and the tag's placeholder Service, which users may label.

Certificates are not issued here: `CertificateProvisioned` is True with the reason `TLSNotEnabled`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from controller.apis import conditions, kinds, labels, revision
from controller.apis.conditions import READY
from controller.apis.meta import (
    JsonObject,
    Key,
    is_controlled_by,
    is_deleting,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)
from controller.apis.references import configuration_reference, revision_reference
from controller.apis.revision import is_scaling
from controller.apis.route import (
    ALL_TRAFFIC_ASSIGNED,
    CERTIFICATE_PROVISIONED,
    CONDITIONS,
    INGRESS_READY,
    Route,
    parse,
    serialise_traffic,
)
from controller.config.features import Gate
from controller.reconcile import domains, drift, traffic
from controller.reconcile.children import ingress as ingress_child
from controller.reconcile.children import services as service_child
from controller.reconcile.domains import DEFAULT_TAG, DomainError
from controller.reconcile.plan import Cache, Controller, Deletion, Event, Plan, owner_key
from controller.reconcile.status import NOT_OWNED, begin, finish
from controller.reconcile.traffic import Assignment, BadTarget

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from controller.apis.conditions import Conditions
    from controller.config.store import Config

ERROR_CONFIG = "ErrorConfig"
TLS_NOT_ENABLED = "TLSNotEnabled"
INGRESS_NOT_CONFIGURED = "IngressNotConfigured"
UNINITIALIZED = "Uninitialized"

_HTTP_OPTIONS = {"enabled": "Enabled", "redirected": "Redirected"}


@dataclass(frozen=True, slots=True)
class ObservedRoute:
    """Objects of the Route's namespace by name: the Configurations it targets, the Revisions these and the targets
    name, and all core Services (a placeholder's name depends on the configuration, and may be somebody else's)."""

    route: Route
    configurations: Mapping[str, JsonObject]
    revisions: Mapping[str, JsonObject]
    services: Mapping[str, JsonObject]
    ingress: JsonObject | None


class RouteError(ValueError):
    """The Route can't be carried out as it is annotated; the text is for the user."""


def observe(cache: Cache, key: Key) -> ObservedRoute | None:
    """None when there is nothing to do: the object is gone or going."""
    obj = cache.get(kinds.ROUTE, key)
    if obj is None or is_deleting(obj):
        return None
    route = parse(obj)
    configurations = _named(cache, kinds.CONFIGURATION, key, (target.configuration_name for target in route.traffic))
    latest = [(found.get("status") or {}).get("latestReadyRevisionName") or "" for found in configurations.values()]
    pinned = [target.revision_name for target in route.traffic]
    return ObservedRoute(
        route=route,
        configurations=configurations,
        revisions=_named(cache, kinds.REVISION, key, [*pinned, *latest]),
        services={name_of(service): service for service in cache.list(kinds.CORE_SERVICE, key.namespace)},
        ingress=cache.get(kinds.INGRESS, key),
    )


def _named(cache: Cache, kind: kinds.Kind, beside: Key, names: Iterable[str]) -> dict[str, JsonObject]:
    found = {name: cache.get(kind, Key(beside.namespace, name)) for name in names if name}
    return {name: obj for name, obj in found.items() if obj is not None}


def reconcile(seen: ObservedRoute, config: Config, now: datetime) -> Plan:
    """The KIngress and placeholders to write, and the status."""
    obj = seen.route.obj
    found = begin(CONDITIONS, obj, now)
    try:
        names = {tag: _tag_names(seen, tag, config) for tag in _tags(seen)}
        http_option = _http_option(obj, config)
    except DomainError as error:
        found = CONDITIONS.mark_false(found, ALL_TRAFFIC_ASSIGNED, ERROR_CONFIG, str(error), now)
        return Plan(status=finish(obj, found))
    except RouteError as error:
        found = CONDITIONS.mark_unknown(found, ALL_TRAFFIC_ASSIGNED, "Unknown", str(error), now)
        return Plan(status=finish(obj, found), error=str(error))
    url = {"url": names[DEFAULT_TAG].url}
    owner = labels_of(obj).get(labels.SERVICE, "")
    assigned = traffic.resolve(seen.route.traffic, seen.configurations, seen.revisions, owner)
    if isinstance(assigned, BadTarget):
        return Plan(status=finish(obj, _bad(found, assigned, now), **url))
    found = CONDITIONS.mark_true(found, ALL_TRAFFIC_ASSIGNED, now)
    desired = _ingress(seen, assigned, names, http_option, config)
    return _program(seen, assigned, names, desired, found, now)


def _bad(found: Conditions, target: BadTarget, now: datetime) -> Conditions:
    return CONDITIONS.mark(found, ALL_TRAFFIC_ASSIGNED, target.status, target.reason, target.message, now)


def _program(
    seen: ObservedRoute,
    assigned: Assignment,
    names: Mapping[str, _TagNames],
    desired: JsonObject,
    found: Conditions,
    now: datetime,
) -> Plan:
    obj = seen.route.obj
    message = "external-domain-tls is not enabled"
    found = CONDITIONS.mark_true(found, CERTIFICATE_PROVISIONED, now, TLS_NOT_ENABLED, message)
    reported = tuple(replace(target, url=names[target.tag].url if target.tag else "") for target in assigned.targets)
    fields = {
        "url": names[DEFAULT_TAG].url,
        "address": {"url": domains.address_url(obj)},
        "traffic": serialise_traffic(reported),
    }
    foreign = _foreign(seen, names)
    if foreign is not None:
        found = CONDITIONS.mark_false(found, INGRESS_READY, NOT_OWNED, foreign, now)
        return Plan(status=finish(obj, found, **fields), error=f'Route "{name_of(obj)}": {foreign}')
    plan = _ingress_plan(seen, desired)
    found = _follow_ingress(found, seen.ingress, desired, now)
    plan = _with_placeholders(plan, seen, names)
    return replace(plan, status=finish(obj, found, **fields))


# --- names ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _TagNames:
    """`external_host` is "" for a tag that is visible inside the cluster only."""

    service: str
    local_hosts: tuple[str, ...]
    external_host: str
    url: str


def _tags(seen: ObservedRoute) -> list[str]:
    return sorted({DEFAULT_TAG, *(target.tag for target in seen.route.traffic)})


def _tag_names(seen: ObservedRoute, tag: str, config: Config) -> _TagNames:
    obj = seen.route.obj
    service = domains.tag_name(obj, tag, config)
    private = domains.is_cluster_local(obj, config) or _labelled_private(seen.services.get(service))
    return _TagNames(
        service=service,
        local_hosts=domains.local_hosts(obj, tag, config),
        external_host="" if private else domains.external_host(obj, tag, config),
        url=domains.url(obj, tag, private, config),
    )


def _labelled_private(placeholder: JsonObject | None) -> bool:
    return placeholder is not None and bool(labels_of(placeholder).get(labels.VISIBILITY))


# --- KIngress ---------------------------------------------------------------------------------------------------------


def _http_option(obj: JsonObject, config: Config) -> str:
    annotated = labels.lookup(obj, labels.HTTP_OPTION, labels.HTTP_PROTOCOL)
    if annotated is None:
        return config.network.http_option
    if annotated.lower() not in _HTTP_OPTIONS:
        raise RouteError(f'annotation {labels.HTTP_OPTION} is "{annotated}", must be "enabled" or "redirected"')
    return _HTTP_OPTIONS[annotated.lower()]


def _ingress(
    seen: ObservedRoute, assigned: Assignment, names: Mapping[str, _TagNames], http_option: str, config: Config
) -> JsonObject:
    obj = seen.route.obj
    rules = {
        tag: ingress_child.TagRules(names[tag].local_hosts, names[tag].external_host, shares)
        for tag, shares in assigned.groups.items()
    }
    annotated = labels.lookup(obj, labels.INGRESS_CLASS, labels.INGRESS_CLASS_ALIAS)
    return ingress_child.ingress(
        obj,
        rules,
        {name: revision.parse(found).protocol for name, found in seen.revisions.items()},
        ingress_class=annotated or config.network.ingress_class,
        http_option=http_option,
        tag_header_routing=config.features.tag_header_based_routing is Gate.ENABLED,
    )


def _ingress_plan(seen: ObservedRoute, desired: JsonObject) -> Plan:
    if seen.ingress is None:
        return Plan(create=(desired,), events=(_created(desired),))
    update = ingress_child.updated(seen.ingress, desired)
    return Plan(update=(update,)) if update else Plan()


def _follow_ingress(found: Conditions, ingress: JsonObject | None, desired: JsonObject, now: datetime) -> Conditions:
    """A KIngress whose spec is being written counts from its next generation on."""
    if ingress is None or not drift.same(ingress["spec"], desired["spec"]) or not conditions.is_current(ingress):
        message = "Ingress has not yet been reconciled."
        return CONDITIONS.mark_unknown(found, INGRESS_READY, INGRESS_NOT_CONFIGURED, message, now)
    ready = conditions.find(ingress, READY)
    if ready is None:
        message = "Waiting for load balancer to be ready"
        return CONDITIONS.mark_unknown(found, INGRESS_READY, UNINITIALIZED, message, now)
    if ready.is_true:
        return CONDITIONS.mark_true(found, INGRESS_READY, now)
    return CONDITIONS.mark(found, INGRESS_READY, ready.status, ready.reason, ready.message, now)


def _foreign(seen: ObservedRoute, names: Mapping[str, _TagNames]) -> str | None:
    obj = seen.route.obj
    if seen.ingress is not None and not is_controlled_by(seen.ingress, obj):
        return f'There is an existing Ingress "{name_of(obj)}" that we do not own.'
    for tag in names.values():
        existing = seen.services.get(tag.service)
        if existing is not None and not is_controlled_by(existing, obj):
            return f'There is an existing placeholder service "{tag.service}" that we do not own.'
    return None


# --- placeholders -----------------------------------------------------------------------------------------------------


def _with_placeholders(plan: Plan, seen: ObservedRoute, names: Mapping[str, _TagNames]) -> Plan:
    create, update = [], []
    for tag in names.values():
        desired = service_child.placeholder(seen.route.obj, tag.service, _placeholder_spec(seen.ingress, tag))
        existing = seen.services.get(tag.service)
        if existing is None:
            create.append(desired)
        elif (changed := service_child.updated(existing, desired)) is not None:
            update.append(changed)
    wanted = {tag.service for tag in names.values()}
    stale = [
        Deletion(kinds.CORE_SERVICE, key_of(service), uid_of(service))
        for name, service in seen.services.items()
        if name not in wanted
        and labels_of(service).get(labels.ROUTE) == name_of(seen.route.obj)
        and is_controlled_by(service, seen.route.obj)
        and not is_deleting(service)
    ]
    return replace(
        plan,
        create=(*plan.create, *create),
        update=(*plan.update, *update),
        delete=tuple(stale),
        events=(*plan.events, *map(_created, create)),
    )


def _placeholder_spec(ingress: JsonObject | None, tag: _TagNames) -> JsonObject:
    """An alias of the load balancer's name if the ingress reports exactly one, else of the tag's own domain."""
    status = (ingress or {}).get("status") or {}
    balancer = status.get("privateLoadBalancer") or status.get("publicLoadBalancer") or {}
    entries: list[JsonObject] = balancer.get("ingress") or []
    if len(entries) == 1 and entries[0].get("meshOnly"):
        return service_child.mesh()
    name = (entries[0].get("domainInternal") or entries[0].get("domain")) if len(entries) == 1 else None
    return service_child.external_name(name or tag.external_host or tag.local_hosts[-1])


def _created(obj: JsonObject) -> Event:
    kind = "placeholder service" if obj["kind"] == kinds.CORE_SERVICE.kind else obj["kind"]
    return Event("Normal", "Created", f'Created {kind} "{name_of(obj)}"')


# --- watches ----------------------------------------------------------------------------------------------------------


def routes_of_configuration(obj: JsonObject, cache: Cache) -> Iterable[Key]:
    """The Routes that target a Configuration."""
    return _routes(obj, cache, configuration_reference(name_of(obj)))


def routes_of_revision(obj: JsonObject, cache: Cache) -> Iterable[Key]:
    """The Routes that target a Revision, by name or through its Configuration."""
    configuration = labels_of(obj).get(labels.CONFIGURATION, "")
    return {
        *_routes(obj, cache, revision_reference(name_of(obj))),
        *_routes(obj, cache, configuration_reference(configuration)),
    }


def _routes(target: JsonObject, cache: Cache, reference: str) -> Iterable[Key]:
    return [key_of(route) for route in cache.referring(kinds.ROUTE, namespace_of(target), reference)]


_owned = owner_key(kinds.ROUTE)

CONTROLLER: Controller[ObservedRoute] = Controller(
    kind=kinds.ROUTE,
    observe=observe,
    reconcile=reconcile,
    watches={
        kinds.CONFIGURATION: routes_of_configuration,
        kinds.REVISION: routes_of_revision,
        kinds.INGRESS: _owned,
        kinds.CORE_SERVICE: _owned,
    },
    ignores={kinds.REVISION: is_scaling},
)
