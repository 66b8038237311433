"""A Service is a Configuration and a Route of the same name, kept as the Service says.

Both children are made at once; the Route waits for the Configuration's first ready Revision by itself. The exception
is a Revision name chosen by the user: the Route must not look for that name before the Configuration has seen it, or
it would pin traffic to an older Revision that happens to be called so.

The Service's conditions are its children's. A child that has not yet observed its own latest generation counts as
`OutOfDate`, whatever its conditions say; and a Route that is Ready but does not yet send what the Service asks for
keeps the Service waiting (`TrafficNotMigrated`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from controller.apis import conditions, configuration, kinds, route
from controller.apis.conditions import READY
from controller.apis.meta import JsonObject, Key, is_controlled_by, is_deleting, name_of
from controller.apis.route import serialise_traffic
from controller.apis.service import CONDITIONS, CONFIGURATIONS_READY, ROUTES_READY, Service, parse
from controller.reconcile import drift
from controller.reconcile.children import configuration as configuration_child
from controller.reconcile.children import route as route_child
from controller.reconcile.configuration import name_is_available
from controller.reconcile.plan import Cache, Controller, Event, Plan, owner_key
from controller.reconcile.status import NOT_OWNED, begin, finish

if TYPE_CHECKING:
    from datetime import datetime

    from controller.apis.conditions import Conditions
    from controller.apis.route import TrafficTarget
    from controller.config.store import Config

OUT_OF_DATE = "OutOfDate"
REVISION_NAME_TAKEN = "RevisionNameTaken"
TRAFFIC_NOT_MIGRATED = "TrafficNotMigrated"


@dataclass(frozen=True, slots=True)
class ObservedService:
    """`configuration` and `route` are whatever has the Service's name, owned or not; `named` is the Revision whose
    name the template chooses."""

    service: Service
    configuration: JsonObject | None
    route: JsonObject | None
    named: JsonObject | None


def observe(cache: Cache, key: Key) -> ObservedService | None:
    """None when there is nothing to do: the object is gone or going."""
    obj = cache.get(kinds.SERVICE, key)
    if obj is None or is_deleting(obj):
        return None
    service = parse(obj)
    named = configuration.template_name(service.template)
    return ObservedService(
        service=service,
        configuration=cache.get(kinds.CONFIGURATION, key),
        route=cache.get(kinds.ROUTE, key),
        named=cache.get(kinds.REVISION, Key(key.namespace, named)) if named else None,
    )


def reconcile(seen: ObservedService, _config: Config, now: datetime) -> Plan:
    """The children to create or to bring back into line, and the status."""
    obj = seen.service.obj
    found = begin(CONDITIONS, obj, now)
    if seen.configuration is not None and not is_controlled_by(seen.configuration, obj):
        return _not_owned(obj, found, CONFIGURATIONS_READY, "Configuration", now)
    made = _configuration(seen)
    child = seen.configuration
    if child is None or _will_move(child, made.update) or not conditions.is_current(child):
        message = "The Configuration is still working to reflect the latest desired specification."
        found = CONDITIONS.mark_unknown(found, CONFIGURATIONS_READY, OUT_OF_DATE, message, now)
        if configuration.template_name(seen.service.template):
            return replace(made, status=finish(obj, found))
        return _with_route(seen, made, found, {}, now)
    found = _copy(found, CONFIGURATIONS_READY, child, now)
    view = configuration.parse(child)
    fields = {"latestCreatedRevisionName": view.latest_created, "latestReadyRevisionName": view.latest_ready}
    return _with_route(seen, made, found, fields, now)


def _configuration(seen: ObservedService) -> Plan:
    if seen.configuration is None:
        created = configuration_child.configuration(seen.service)
        return Plan(create=(created,), events=(_created("Configuration", created),))
    update = configuration_child.updated(seen.configuration, seen.service)
    return Plan(update=(update,)) if update else Plan()


def _with_route(seen: ObservedService, made: Plan, found: Conditions, fields: JsonObject, now: datetime) -> Plan:
    obj = seen.service.obj
    if _name_taken(seen):
        name = configuration.template_name(seen.service.template)
        message = f'The revision name "{name}" is taken by a conflicting Revision, so traffic will not be migrated.'
        found = CONDITIONS.mark_false(found, ROUTES_READY, REVISION_NAME_TAKEN, message, now)
        return replace(made, status=finish(obj, found, **fields))
    if seen.route is not None and not is_controlled_by(seen.route, obj):
        failed = _not_owned(obj, found, ROUTES_READY, "Route", now, **fields)
        return replace(failed, create=made.create, update=made.update, events=made.events)
    desired = route_child.route(seen.service)
    if seen.route is None:
        found = _out_of_date_route(found, now)
        return replace(
            made,
            create=(*made.create, desired),
            status=finish(obj, found, **fields),
            events=(*made.events, _created("Route", desired)),
        )
    update = route_child.updated(seen.route, desired)
    updates = (update,) if update else ()
    if _will_move(seen.route, updates) or not conditions.is_current(seen.route):
        found = _out_of_date_route(found, now)
    else:
        found, fields = _follow_route(seen.route, found, fields, seen.service.latest_ready, now)
    return replace(made, update=(*made.update, *updates), status=finish(obj, found, **fields))


def _will_move(child: JsonObject, updates: tuple[JsonObject, ...]) -> bool:
    """One of the updates gives the child a new generation; labels and annotations alone do not."""
    return any(not drift.same(child["spec"], update["spec"]) for update in updates)


def _name_taken(seen: ObservedService) -> bool:
    if seen.configuration is None:
        return False
    return not name_is_available(configuration.parse(seen.configuration), seen.named)


def _out_of_date_route(found: Conditions, now: datetime) -> Conditions:
    message = "The Route is still working to reflect the latest desired specification."
    return CONDITIONS.mark_unknown(found, ROUTES_READY, OUT_OF_DATE, message, now)


def _follow_route(
    obj: JsonObject, found: Conditions, fields: JsonObject, latest_ready: str, now: datetime
) -> tuple[Conditions, JsonObject]:
    """`latest_ready` is the one known before; a Configuration that is out of date has not reported another."""
    child = route.parse(obj)
    found = _copy(found, ROUTES_READY, obj, now)
    is_true = conditions.status_of(found, ROUTES_READY) == conditions.TRUE
    if is_true and not _migrated(child, fields.get("latestReadyRevisionName", latest_ready)):
        message = "Traffic is not yet migrated to the latest revision."
        found = CONDITIONS.mark_unknown(found, ROUTES_READY, TRAFFIC_NOT_MIGRATED, message, now)
    cause = conditions.get(found, CONFIGURATIONS_READY)
    if cause is not None and not cause.is_true:
        # The Route of a Configuration that failed, or still waits, has nothing to send to. Ready tells the cause (an
        # application that listens on no port, say), not that consequence.
        found = CONDITIONS.mark(found, CONFIGURATIONS_READY, cause.status, cause.reason, cause.message, now)
    reported = {
        "url": child.url,
        "address": {"url": child.address_url} if child.address_url else None,
        "traffic": serialise_traffic(child.assigned),
    }
    return found, {**fields, **reported}


def _migrated(child: route.Route, latest_ready: str) -> bool:
    """The Route sends what its spec asks for. Compared place by place, as Knative does: two untagged targets that
    end at the same Revision are reported as one, and then this is never true."""
    wanted = [_place(target, latest_ready) for target in child.traffic]
    return wanted == [_place(target, latest_ready) for target in child.assigned]


def _place(target: TrafficTarget, latest_ready: str) -> tuple[str, str, int]:
    return target.tag, target.revision_name or latest_ready, target.percent


def _copy(found: Conditions, type_: str, child: JsonObject, now: datetime) -> Conditions:
    ready = conditions.find(child, READY)
    if ready is None:
        return found
    if ready.is_true:
        return CONDITIONS.mark_true(found, type_, now)
    return CONDITIONS.mark(found, type_, ready.status, ready.reason, ready.message, now)


def _not_owned(obj: JsonObject, found: Conditions, type_: str, kind: str, now: datetime, **fields: object) -> Plan:
    message = f'There is an existing {kind} "{name_of(obj)}" that we do not own.'
    found = CONDITIONS.mark_false(found, type_, NOT_OWNED, message, now)
    return Plan(
        status=finish(obj, found, **fields),
        error=f'Service "{name_of(obj)}" does not own {kind} "{name_of(obj)}"',
    )


def _created(kind: str, obj: JsonObject) -> Event:
    return Event("Normal", "Created", f'Created {kind} "{name_of(obj)}"')


CONTROLLER: Controller[ObservedService] = Controller(
    kind=kinds.SERVICE,
    observe=observe,
    reconcile=reconcile,
    watches={kinds.CONFIGURATION: owner_key(kinds.SERVICE), kinds.ROUTE: owner_key(kinds.SERVICE)},
)
