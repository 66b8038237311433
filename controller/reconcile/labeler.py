"""Who refers to whom: each Route writes its name on the Configurations and Revisions it sends traffic to.

The names are a sorted comma list in the annotation `routes`. A Revision that some Route refers to is `active`, one
that none refers to any more is `reserve`; the autoscaler (keep a minimum scale?) and garbage collection go by that.

A target that follows the latest Revision also marks the *latest created* one, so that a new Revision is active, and
gets its minimum scale, before traffic reaches it. References are taken away only once the Route is Ready or failed:
while a change is under way the old Revisions still serve. A finalizer on the Route takes all of them away at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.apis import conditions, kinds, labels
from controller.apis.meta import (
    JsonObject,
    Key,
    format_time,
    is_deleting,
    key_of,
    labels_of,
    name_of,
)
from controller.apis.references import route_reference, routes_of
from controller.apis.revision import is_scaling
from controller.apis.route import Route, parse
from controller.reconcile.plan import Cache, Controller, Patch, Plan
from controller.reconcile.route import routes_of_configuration, routes_of_revision

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from controller.config.store import Config


@dataclass(frozen=True, slots=True)
class ObservedReferences:
    """`configurations` and `revisions` are those of the Route's namespace that it refers to, or that say so."""

    route: Route
    configurations: tuple[JsonObject, ...]
    revisions: tuple[JsonObject, ...]
    referenced: frozenset[tuple[str, str]]
    """(kind, name) of what the Route refers to now."""


def observe(cache: Cache, key: Key) -> ObservedReferences | None:
    """None when the Route is gone, or going without our finalizer."""
    obj = cache.get(kinds.ROUTE, key)
    if obj is None or (is_deleting(obj) and labels.ROUTE_FINALIZER not in _finalizers(obj)):
        return None
    route = parse(obj)
    referenced = frozenset() if is_deleting(obj) else _referenced(route, cache, key.namespace)

    def concerned(kind: kinds.Kind) -> tuple[JsonObject, ...]:
        named = [cache.get(kind, Key(key.namespace, name)) for of, name in referenced if of == kind.kind]
        naming = cache.referring(kind, key.namespace, route_reference(key.name))
        found = {name_of(obj): obj for obj in (*named, *naming) if obj is not None and not is_deleting(obj)}
        return tuple(found[name] for name in sorted(found))

    return ObservedReferences(route, concerned(kinds.CONFIGURATION), concerned(kinds.REVISION), referenced)


def _referenced(route: Route, cache: Cache, namespace: str) -> frozenset[tuple[str, str]]:
    """A Revision brings its Configuration along, so that a Configuration whose Revisions are all pinned still makes
    new ones that are active."""
    revisions = {target.revision_name for target in (*route.traffic, *route.assigned)} - {""}
    configurations = {target.configuration_name for target in route.traffic} - {""}
    # A Service writes its Route's name on its Configuration; taking it away would be a quarrel without end.
    service = labels_of(route.obj).get(labels.SERVICE)
    following = set(configurations)
    configurations |= {service} if service else set()
    for target in (*route.traffic, *route.assigned):
        revision = cache.get(kinds.REVISION, Key(namespace, target.revision_name)) if target.revision_name else None
        owner = labels_of(revision).get(labels.CONFIGURATION) if revision else None
        if owner:
            configurations.add(owner)
            following |= {owner} if target.latest_revision else set()
    for name in following:
        found = cache.get(kinds.CONFIGURATION, Key(namespace, name))
        created = ((found or {}).get("status") or {}).get("latestCreatedRevisionName")
        revisions |= {created} if created else set()
    kind = kinds.REVISION.kind
    return frozenset((kind, name) for name in revisions) | {(kinds.CONFIGURATION.kind, name) for name in configurations}


def reconcile(seen: ObservedReferences, _config: Config, now: datetime) -> Plan:
    """Patches of annotations and labels. The finalizer is added before the first reference is written, and goes in a
    pass of its own after the last one was taken away: the steps of one plan don't wait for each other's success."""
    obj = seen.route.obj
    if not is_deleting(obj) and labels.ROUTE_FINALIZER not in _finalizers(obj):
        return Plan(patch=(_finalizers_patch(obj, [*_finalizers(obj), labels.ROUTE_FINALIZER]),))
    may_remove = is_deleting(obj) or conditions.is_ready(obj) or conditions.is_failed(obj)
    found = (
        *(_configuration_patch(seen, configuration, may_remove) for configuration in seen.configurations),
        *(_revision_patch(seen, revision, may_remove, now) for revision in seen.revisions),
    )
    patches = tuple(patch for patch in found if patch is not None)
    if is_deleting(obj) and not patches:
        rest = [name for name in _finalizers(obj) if name != labels.ROUTE_FINALIZER]
        return Plan(patch=(_finalizers_patch(obj, rest),))
    return Plan(patch=patches)


def _configuration_patch(seen: ObservedReferences, configuration: JsonObject, may_remove: bool) -> Patch | None:
    routes = _routes(seen, kinds.CONFIGURATION, configuration, may_remove)
    if routes == routes_of(configuration):
        return None
    return _patch(kinds.CONFIGURATION, configuration, {"annotations": {labels.ROUTES: _listed(routes)}})


def _revision_patch(seen: ObservedReferences, revision: JsonObject, may_remove: bool, now: datetime) -> Patch | None:
    routes = _routes(seen, kinds.REVISION, revision, may_remove)
    state = labels.ACTIVE if routes else labels.RESERVE
    if labels_of(revision).get(labels.ROUTING_STATE) == state:
        if routes == routes_of(revision):
            return None
        return _patch(kinds.REVISION, revision, {"annotations": {labels.ROUTES: _listed(routes)}})
    annotations = {labels.ROUTES: _listed(routes), labels.ROUTING_STATE_MODIFIED: format_time(now)}
    return _patch(kinds.REVISION, revision, {"annotations": annotations, "labels": {labels.ROUTING_STATE: state}})


def _routes(seen: ObservedReferences, kind: kinds.Kind, obj: JsonObject, may_remove: bool) -> frozenset[str]:
    """The Routes that refer to `obj`, with this one's say."""
    own = name_of(seen.route.obj)
    if (kind.kind, name_of(obj)) in seen.referenced:
        return routes_of(obj) | {own}
    return routes_of(obj) - {own} if may_remove else routes_of(obj)


def _listed(routes: frozenset[str]) -> str | None:
    return ",".join(sorted(routes)) or None


def _patch(kind: kinds.Kind, obj: JsonObject, metadata: JsonObject) -> Patch:
    # Two Routes may write the same list: the resourceVersion makes the slower one read again.
    version = obj["metadata"].get("resourceVersion")
    return Patch(kind, key_of(obj), {"metadata": {**metadata, "resourceVersion": version}})


def _finalizers(obj: JsonObject) -> list[str]:
    return obj["metadata"].get("finalizers") or []


def _finalizers_patch(obj: JsonObject, finalizers: list[str]) -> Patch:
    return _patch(kinds.ROUTE, obj, {"finalizers": finalizers})


def _named_routes(obj: JsonObject) -> Iterable[Key]:
    namespace = obj["metadata"].get("namespace", "")
    return [Key(namespace, name) for name in routes_of(obj)]


def _of_configuration(obj: JsonObject, cache: Cache) -> Iterable[Key]:
    return {*routes_of_configuration(obj, cache), *_named_routes(obj)}


def _of_revision(obj: JsonObject, cache: Cache) -> Iterable[Key]:
    return {*routes_of_revision(obj, cache), *_named_routes(obj)}


CONTROLLER: Controller[ObservedReferences] = Controller(
    kind=kinds.ROUTE,
    observe=observe,
    reconcile=reconcile,
    watches={kinds.CONFIGURATION: _of_configuration, kinds.REVISION: _of_revision},
    ignores={kinds.REVISION: is_scaling},
)
