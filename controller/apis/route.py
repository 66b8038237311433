"""A Route as the reconcilers see it, and the traffic target it shares with a Service.

A target as written names a Revision (pinned), a Configuration (follows its latest ready Revision), or, inside a
Service, neither (the Service's own Configuration). As reported in a status it always names a Revision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.apis import conditions

if TYPE_CHECKING:
    from controller.apis.conditions import Conditions
    from controller.apis.meta import JsonObject

ALL_TRAFFIC_ASSIGNED = "AllTrafficAssigned"
INGRESS_READY = "IngressReady"
CERTIFICATE_PROVISIONED = "CertificateProvisioned"

CONDITIONS = conditions.ConditionSet(dependents=(ALL_TRAFFIC_ASSIGNED, INGRESS_READY, CERTIFICATE_PROVISIONED))


@dataclass(frozen=True, slots=True)
class TrafficTarget:
    """Where a share of the requests goes. `percent` is 0..100; `url` is set in a status, for tagged targets only.
    `latest_revision` says that the target follows a Configuration."""

    revision_name: str = ""
    configuration_name: str = ""
    tag: str = ""
    percent: int = 0
    latest_revision: bool = False
    url: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """`obj` is the whole object, for metadata and owner references; `assigned` is `status.traffic`."""

    obj: JsonObject
    traffic: tuple[TrafficTarget, ...]
    assigned: tuple[TrafficTarget, ...]
    url: str
    address_url: str
    conditions: Conditions


def parse(obj: JsonObject) -> Route:
    """The view of a Route object."""
    status = obj.get("status") or {}
    return Route(
        obj=obj,
        traffic=parse_traffic(obj["spec"].get("traffic")),
        assigned=parse_traffic(status.get("traffic")),
        url=status.get("url", ""),
        address_url=(status.get("address") or {}).get("url", ""),
        conditions=conditions.from_status(status),
    )


def parse_traffic(items: list[JsonObject] | None) -> tuple[TrafficTarget, ...]:
    """The targets of a `traffic` list. Without a word on `latestRevision`, a target that pins nothing is latest."""
    return tuple(_parse_target(item) for item in items or ())


def _parse_target(item: JsonObject) -> TrafficTarget:
    revision_name = item.get("revisionName") or ""
    latest = item.get("latestRevision")
    return TrafficTarget(
        revision_name=revision_name,
        configuration_name=item.get("configurationName") or "",
        tag=item.get("tag") or "",
        percent=item.get("percent") or 0,
        latest_revision=not revision_name if latest is None else latest,
        url=item.get("url") or "",
    )


def serialise_traffic(targets: tuple[TrafficTarget, ...]) -> list[JsonObject]:
    """The `traffic` list. `percent` and `latestRevision` are always written, empty strings never."""
    return [_serialise_target(target) for target in targets]


def _serialise_target(target: TrafficTarget) -> JsonObject:
    named = {
        "tag": target.tag,
        "revisionName": target.revision_name,
        "configurationName": target.configuration_name,
        "url": target.url,
    }
    body: JsonObject = {key: value for key, value in named.items() if value}
    return {**body, "latestRevision": target.latest_revision, "percent": target.percent}
