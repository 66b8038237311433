"""A PodAutoscaler as the Revision's reconciler and the autoscaler see it.

The Revision's reconciler writes its spec and annotations; the autoscaler writes its status.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.apis import conditions

if TYPE_CHECKING:
    from controller.apis.conditions import Conditions
    from controller.apis.meta import JsonObject

ACTIVE = "Active"
SCALE_TARGET_INITIALIZED = "ScaleTargetInitialized"
SKS_READY = "SKSReady"
SCALE_EXPLAINED = "ScaleExplained"
"""Informational: its reason and message say why the scale is what it is."""

CONDITIONS = conditions.ConditionSet(dependents=(ACTIVE, SCALE_TARGET_INITIALIZED, SKS_READY))

# spec.reachability
REACHABLE = "Reachable"
UNREACHABLE = "Unreachable"
UNKNOWN_REACHABILITY = ""


@dataclass(frozen=True, slots=True)
class PodAutoscaler:
    """`deployment` is the name of what is scaled; `service_name` is "" until the autoscaler has accepted the object;
    scales are None until known."""

    obj: JsonObject
    container_concurrency: int
    deployment: str
    reachability: str
    protocol: str
    service_name: str
    desired_scale: int | None
    actual_scale: int | None
    conditions: Conditions

    @property
    def is_unreachable(self) -> bool:
        """No Route leads to the revision: it may go to zero at once, and min-scale does not hold it."""
        return self.reachability == UNREACHABLE

    @property
    def is_initialized(self) -> bool:
        """The initial scale was reached once; this never reverts."""
        return conditions.status_of(self.conditions, SCALE_TARGET_INITIALIZED) == conditions.TRUE


def parse(obj: JsonObject) -> PodAutoscaler:
    """The view of a PodAutoscaler object."""
    spec = obj["spec"]
    status = obj.get("status") or {}
    return PodAutoscaler(
        obj=obj,
        container_concurrency=spec.get("containerConcurrency") or 0,
        deployment=spec["scaleTargetRef"]["name"],
        reachability=spec.get("reachability") or UNKNOWN_REACHABILITY,
        protocol=spec.get("protocolType") or "http1",
        service_name=status.get("serviceName", ""),
        desired_scale=status.get("desiredScale"),
        actual_scale=status.get("actualScale"),
        conditions=conditions.from_status(status),
    )
