"""A Revision as the reconcilers, the autoscaler and the data plane's compiler see it.

Its spec is a pod spec and four numbers. Exactly one container *serves*: the only one, or the one that declares a
port; requests go to its port (8080 if it names none). A port named `h2c` says that it speaks HTTP/2 without TLS.

Admission writes the defaults of config-defaults into every Revision. For one written past admission, an absent
number has Knative's stock default: no concurrency limit, 300 s for a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.apis import conditions

if TYPE_CHECKING:
    from controller.apis.conditions import Conditions
    from controller.apis.meta import JsonObject

RESOURCES_AVAILABLE = "ResourcesAvailable"
CONTAINER_HEALTHY = "ContainerHealthy"
ACTIVE = "Active"
STARTABLE = "Startable"

CONDITIONS = conditions.ConditionSet(dependents=(RESOURCES_AVAILABLE, CONTAINER_HEALTHY))
"""`Active` is informational: a Revision scaled to zero is Ready. So is `Startable`, which is there since its pods could
not start for the first time, and False while they can't: then it is no use to wait for them."""

DEFAULT_PORT = 8080
USER_PORT_NAME = "user-port"
HTTP1 = "http1"
H2C = "h2c"

_TIMEOUT_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Revision:
    """`pod_spec` is the spec without Knative's own numbers. Timeouts are whole seconds, None means none;
    `container_concurrency` 0 means no limit. `protocol` is "http1" or "h2c", and `names_protocol` whether the port's
    name says so. `readiness_probe` is the serving
    container's, None if it has none."""

    obj: JsonObject
    pod_spec: JsonObject
    serving_container: int
    container_concurrency: int
    timeout_seconds: int
    response_start_timeout_seconds: int | None
    idle_timeout_seconds: int | None
    port: int
    protocol: str
    names_protocol: bool
    readiness_probe: JsonObject | None
    has_startup_probe: bool
    conditions: Conditions


def parse(obj: JsonObject) -> Revision:
    """The view of a Revision object. Raises KeyError for one without containers, which no schema admits."""
    spec: JsonObject = obj["spec"]
    pod_spec = {key: value for key, value in spec.items() if key not in _OWN_FIELDS}
    containers: list[JsonObject] = spec["containers"]
    serving = serving_index(containers)
    port = _first_port(containers[serving])
    return Revision(
        obj=obj,
        pod_spec=pod_spec,
        serving_container=serving,
        container_concurrency=spec.get("containerConcurrency") or 0,
        timeout_seconds=spec.get("timeoutSeconds") or _TIMEOUT_SECONDS,
        response_start_timeout_seconds=spec.get("responseStartTimeoutSeconds") or None,
        idle_timeout_seconds=spec.get("idleTimeoutSeconds") or None,
        port=port.get("containerPort") or DEFAULT_PORT,
        protocol=H2C if port.get("name") == H2C else HTTP1,
        names_protocol=bool(port.get("name")),
        readiness_probe=containers[serving].get("readinessProbe"),
        has_startup_probe=bool(containers[serving].get("startupProbe")),
        conditions=conditions.from_status(obj.get("status") or {}),
    )


def is_scaling(old: JsonObject, new: JsonObject) -> bool:
    """Whether a Revision's change tells of nothing but its scale, as the start and the end of its pods do."""
    return _unscaled(old) == _unscaled(new)


def _unscaled(obj: JsonObject) -> tuple[JsonObject, JsonObject, JsonObject, list[JsonObject]]:
    status: JsonObject = obj.get("status") or {}
    return (
        {field: value for field, value in obj["metadata"].items() if field not in _WRITTEN_EACH_TIME},
        obj["spec"],
        {field: value for field, value in status.items() if field not in _SCALE_FIELDS},
        [condition for condition in status.get("conditions") or () if condition["type"] != ACTIVE],
    )


_WRITTEN_EACH_TIME = {"resourceVersion", "managedFields"}
_SCALE_FIELDS = {"actualReplicas", "desiredReplicas", "conditions"}
_OWN_FIELDS = {"containerConcurrency", "timeoutSeconds", "responseStartTimeoutSeconds", "idleTimeoutSeconds"}


def serving_index(containers: list[JsonObject]) -> int:
    """Which container serves: the one with a port, else the first."""
    return next((index for index, container in enumerate(containers) if container.get("ports")), 0)


def _first_port(container: JsonObject) -> JsonObject:
    ports: list[JsonObject] = container.get("ports") or [{}]
    return ports[0]
