"""A Knative Service as the reconcilers see it: a Configuration and a Route under one name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.apis import conditions
from controller.apis.route import TrafficTarget, parse_traffic

if TYPE_CHECKING:
    from controller.apis.conditions import Conditions
    from controller.apis.meta import JsonObject

CONFIGURATIONS_READY = "ConfigurationsReady"
ROUTES_READY = "RoutesReady"

CONDITIONS = conditions.ConditionSet(dependents=(CONFIGURATIONS_READY, ROUTES_READY))

_LATEST = (TrafficTarget(percent=100, latest_revision=True),)


@dataclass(frozen=True, slots=True)
class Service:
    """`template` is the Revision template verbatim; `traffic` has at least one target; `latest_ready` is the
    status' latestReadyRevisionName, "" until known."""

    obj: JsonObject
    template: JsonObject
    traffic: tuple[TrafficTarget, ...]
    latest_ready: str
    conditions: Conditions


def parse(obj: JsonObject) -> Service:
    """The view of a Service object; without `traffic` everything goes to the latest ready Revision."""
    spec = obj["spec"]
    status = obj.get("status") or {}
    return Service(
        obj=obj,
        template=spec["template"],
        traffic=parse_traffic(spec.get("traffic")) or _LATEST,
        latest_ready=status.get("latestReadyRevisionName", ""),
        conditions=conditions.from_status(status),
    )
