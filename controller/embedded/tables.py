"""Tables: what `kubectl get` prints.

kubectl asks the server for a `meta.k8s.io/v1` Table and prints its cells as they are, so the columns of the built-in
kinds and the wording of their cells (`CrashLoopBackOff`, `1/1`, `3 (5m ago)`) are decided here, after Kubernetes'
pkg/printers. A custom resource's columns are its definition's `additionalPrinterColumns`; their jsonPath may use what
such paths are written with: members, `['quoted']` members, indexes, `[*]` and one-field filters
(`.status.conditions[?(@.type=='Ready')].status`). Columns with a priority above 0 show with `-o wide` only.

Ages are cells of text, so a table is true at `now`; kubectl's `-w` prints a row when its object changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from controller.apis import kinds
from controller.apis.meta import parse_time

if TYPE_CHECKING:
    from controller.apis.kinds import Kind
    from controller.apis.meta import JsonObject

Cell = Callable[["JsonObject", datetime], Any]
"""(object, now) → the cell: a text, number, boolean or None."""

UNKNOWN: Final = "<unknown>"
NONE: Final = "<none>"
_WIDE: Final = 1


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `type` and `format` are OpenAPI's; `priority` 0 shows always, above 0 with `-o wide`."""

    name: str
    cell: Cell
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0

    def definition(self) -> JsonObject:
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


Columns = tuple[Column, ...]


def table(columns: Columns, objects: Iterable[JsonObject], now: datetime) -> JsonObject:
    """The Table of `objects`, a row each with its PartialObjectMetadata. The list's own metadata is the caller's."""
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": [column.definition() for column in columns],
        "rows": [_row(columns, obj, now) for obj in objects],
    }


def _row(columns: Columns, obj: JsonObject, now: datetime) -> JsonObject:
    partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
    return {"cells": [column.cell(obj, now) for column in columns], "object": partial}


def builtin_columns(kind: Kind) -> Columns:
    """The columns of a built-in kind; NAME and AGE for a kind that has none of its own."""
    return _BUILT_IN.get(kind, (_NAME, _AGE))


def crd_columns(crd_version: JsonObject) -> Columns:
    """The columns that one of a CustomResourceDefinition's `spec.versions` asks for: NAME first; AGE if it asks for
    none. Raises ValueError for a jsonPath we can't follow."""
    wanted = crd_version.get("additionalPrinterColumns")
    if not wanted:
        return (_NAME, _AGE)
    return (_NAME, *(_custom_column(each) for each in wanted))


def _custom_column(column: JsonObject) -> Column:
    find = json_path(column["jsonPath"])
    type_ = column["type"]

    def cell(obj: JsonObject, now: datetime) -> Any:
        found = find(obj)
        return _converted(type_, found[0], now) if found and found[0] is not None else None

    return Column(
        column["name"],
        cell,
        type_,
        column.get("format", ""),
        column.get("description", ""),
        column.get("priority", 0),
    )


def _converted(type_: str, value: Any, now: datetime) -> Any:
    """A value as a cell of its column's type; None for a value of another type, as in Kubernetes."""
    match type_:
        case "string":
            return value if isinstance(value, str) else orjson.dumps(value).decode()
        case "date":
            return _age(value, now) if isinstance(value, str) else None
        case "integer":
            return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
        case "number":
            return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
        case "boolean":
            return value if isinstance(value, bool) else None
        case _:
            return None


# --- jsonPath -------------------------------------------------------------------------------------------------------

_Step = Callable[[Any], list[Any]]
_STEP = re.compile(
    r"(?P<all>\[\*\]|\.\*)"
    r"|\.(?P<member>(?:[^.\[\]\\]|\\.)+)"
    r"|\[(?P<quote>['\"])(?P<quoted>.*?)(?P=quote)\]"
    r"|\[(?P<index>-?\d+)\]"
    r"|\[\?\(\s*@\.(?P<field>[\w.\-/]+)\s*(?P<operator>==|!=)\s*(?P<value>'[^']*'|\"[^\"]*\"|true|false|-?\d+)\s*\)\]"
)


def json_path(path: str) -> Callable[[JsonObject], list[Any]]:
    """A function that finds all values at a path as CRDs write it (`.spec.replicas`). Raises ValueError."""
    text = path.strip()
    text = text[1:-1] if text.startswith("{") and text.endswith("}") else text
    steps: list[_Step] = []
    place = 1 if text.startswith("$") else 0
    while place < len(text):
        found = _STEP.match(text, place)
        if found is None:
            raise ValueError(f"jsonPath {path!r}: can't follow {text[place:]!r}")
        steps.append(_step(found))
        place = found.end()

    def find(obj: JsonObject) -> list[Any]:
        values: list[Any] = [obj]
        for step in steps:
            values = [each for value in values for each in step(value)]
        return values

    return find


def _step(found: re.Match[str]) -> _Step:
    if found["all"]:
        return _all
    if found["index"]:
        index = int(found["index"])
        return lambda value: [value[index]] if isinstance(value, list) and -len(value) <= index < len(value) else []
    if found["field"]:
        wanted = orjson.loads(found["value"].replace("'", '"'))
        return _filter(found["field"].split("."), wanted, equal=found["operator"] == "==")
    name = found["quoted"] if found["quoted"] is not None else re.sub(r"\\(.)", r"\1", found["member"])
    return lambda value: [value[name]] if isinstance(value, dict) and name in value else []


def _all(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _filter(field: Sequence[str], wanted: Any, *, equal: bool) -> _Step:
    def matches(item: Any) -> bool:
        for name in field:
            if not isinstance(item, dict) or name not in item:
                return False
            item = item[name]
        return bool(item == wanted) is equal

    return lambda value: [item for item in value if matches(item)] if isinstance(value, list) else []


# --- durations ------------------------------------------------------------------------------------------------------


def human_duration(seconds: float) -> str:
    """`95s`, `3m20s`, `47m`, `5h12m`, `31h`, `4d6h`, `90d`, `2y30d`: two units at most, fewer the longer it is."""
    whole = int(seconds)
    if whole < -1:  # clocks of two machines may differ by a second
        return "<invalid>"
    minutes, hours = whole // 60, whole // 3600
    days, years = hours // 24, hours // (24 * 365)
    if whole < 120:
        return f"{max(whole, 0)}s"
    if minutes < 10:
        return f"{minutes}m" + _rest(whole % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h" + _rest(minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if hours < 24 * 8:
        return f"{days}d" + _rest(hours % 24, "h")
    if years < 2:
        return f"{days}d"
    if years < 8:
        return f"{years}y" + _rest(days % 365, "d")
    return f"{years}y"


def _rest(number: int, unit: str) -> str:
    return f"{number}{unit}" if number else ""


def _age(moment: str | None, now: datetime) -> str:
    if not moment:
        return UNKNOWN
    try:
        return human_duration((now - parse_time(moment)).total_seconds())
    except (ValueError, TypeError):  # not a time, or one without a zone
        return "<invalid>"


# --- cells of the built-in kinds ------------------------------------------------------------------------------------


def _created(obj: JsonObject, now: datetime) -> str:
    return _age(obj["metadata"].get("creationTimestamp"), now)


def _spec(obj: JsonObject) -> JsonObject:
    return obj.get("spec") or {}


def _status(obj: JsonObject) -> JsonObject:
    return obj.get("status") or {}


def _pod_ready(obj: JsonObject, _now: datetime) -> str:
    ready = sum(bool(each.get("ready")) for each in _status(obj).get("containerStatuses") or ())
    return f"{ready}/{len(_spec(obj).get('containers') or ())}"


def _pod_status(obj: JsonObject, _now: datetime) -> str:
    """The phase, or the reason of the container that keeps the pod from running (printPod of pkg/printers)."""
    status = _status(obj)
    reason: str = status.get("reason") or status.get("phase") or UNKNOWN
    initialising = _initialising(obj)
    if initialising:
        reason = initialising
    else:
        reason = _containers_reason(status, reason)
    if "deletionTimestamp" in obj["metadata"]:
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return reason


def _initialising(obj: JsonObject) -> str:
    statuses = _status(obj).get("initContainerStatuses") or ()
    for done, each in enumerate(statuses):
        state = each.get("state") or {}
        terminated, waiting = state.get("terminated"), state.get("waiting")
        if terminated is not None:
            if terminated.get("exitCode") != 0:
                return "Init:" + _terminated_reason(terminated)
        elif waiting and waiting.get("reason") not in (None, "", "PodInitializing"):
            return f"Init:{waiting['reason']}"
        else:
            return f"Init:{done}/{len(_spec(obj).get('initContainers') or statuses)}"
    return ""


def _containers_reason(status: JsonObject, reason: str) -> str:
    running = False
    for each in reversed(status.get("containerStatuses") or ()):
        state = each.get("state") or {}
        waiting, terminated = state.get("waiting"), state.get("terminated")
        if waiting and waiting.get("reason"):
            reason = waiting["reason"]
        elif terminated is not None:
            reason = _terminated_reason(terminated)
        elif each.get("ready") and state.get("running") is not None:
            running = True
    if reason == "Completed" and running:
        return "Running" if _has_true_condition(status, "Ready") else "NotReady"
    return reason


def _terminated_reason(terminated: JsonObject) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _has_true_condition(status: JsonObject, type_: str) -> bool:
    return any(each["type"] == type_ and each["status"] == "True" for each in status.get("conditions") or ())


def _pod_restarts(obj: JsonObject, now: datetime) -> str:
    """`3 (5m ago)`: how often, and how long ago the last time was."""
    statuses = _status(obj).get("containerStatuses") or ()
    restarts = sum(each.get("restartCount", 0) for each in statuses)
    ends = [((each.get("lastState") or {}).get("terminated") or {}).get("finishedAt") for each in statuses]
    last = max((each for each in ends if each), default="")
    return f"{restarts} ({_age(last, now)} ago)" if restarts and last else str(restarts)


def _readiness_gates(obj: JsonObject, _now: datetime) -> str:
    gates = _spec(obj).get("readinessGates") or ()
    if not gates:
        return NONE
    passed = sum(_has_true_condition(_status(obj), each["conditionType"]) for each in gates)
    return f"{passed}/{len(gates)}"


def _or_none(find: Callable[[JsonObject], Any]) -> Cell:
    return lambda obj, _now: find(obj) or NONE


def _deployment_ready(obj: JsonObject, _now: datetime) -> str:
    return f"{_status(obj).get('readyReplicas', 0)}/{_spec(obj).get('replicas', 1)}"


def _template_containers(obj: JsonObject, field: str) -> str:
    spec = _spec(_spec(obj).get("template") or {})
    return ",".join(each.get(field, "") for each in spec.get("containers") or ())


def _label_selector(selector: JsonObject | None) -> str:
    if not selector:
        return NONE
    parts = [f"{name}={value}" for name, value in sorted((selector.get("matchLabels") or {}).items())]
    for each in selector.get("matchExpressions") or ():
        values = ",".join(sorted(each.get("values") or ()))
        match each["operator"]:
            case "In":
                parts.append(f"{each['key']} in ({values})")
            case "NotIn":
                parts.append(f"{each['key']} notin ({values})")
            case "Exists":
                parts.append(each["key"])
            case _:
                parts.append(f"!{each['key']}")
    return ",".join(parts) or NONE


def _external_ip(obj: JsonObject) -> str:
    spec = _spec(obj)
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName", ""))
    ingress = (_status(obj).get("loadBalancer") or {}).get("ingress") or ()
    found = [*(spec.get("externalIPs") or ()), *(each.get("ip") or each.get("hostname", "") for each in ingress)]
    if not found and spec.get("type") == "LoadBalancer":
        return "<pending>"
    return ",".join(found)


def _service_ports(obj: JsonObject) -> str:
    return ",".join(
        f"{each['port']}{':' + str(each['nodePort']) if each.get('nodePort') else ''}/{each.get('protocol', 'TCP')}"
        for each in _spec(obj).get("ports") or ()
    )


_SHOWN: Final = 3
"""So many ports or endpoints of a slice are named; the others are counted."""


def _some(values: Sequence[str]) -> str:
    shown = ",".join(values[:_SHOWN])
    return f"{shown} + {len(values) - _SHOWN} more..." if len(values) > _SHOWN else shown


def _slice_ports(obj: JsonObject, _now: datetime) -> str:
    return _some([str(each.get("port", "*")) for each in obj.get("ports") or ()]) or "<unset>"


def _slice_endpoints(obj: JsonObject, _now: datetime) -> str:
    return _some([ip for each in obj.get("endpoints") or () for ip in each.get("addresses") or ()]) or "<unset>"


def _data_count(obj: JsonObject, _now: datetime) -> int:
    return len(obj.get("data") or ()) + len(obj.get("binaryData") or ())


def _event_times(obj: JsonObject) -> tuple[str | None, str | None]:
    """First and last time; events written once have `eventTime` alone."""
    once = obj.get("eventTime")
    series = obj.get("series") or {}
    first, last = obj.get("firstTimestamp") or once, series.get("lastObservedTime") or obj.get("lastTimestamp") or once
    return first, last or first


def _event_last_seen(obj: JsonObject, now: datetime) -> str:
    first, last = _event_times(obj)
    return _age(last or first, now)


def _event_first_seen(obj: JsonObject, now: datetime) -> str:
    return _age(_event_times(obj)[0], now)


def _scale_target(obj: JsonObject) -> str:
    """As `kubectl get hpa` prints it."""
    target = _spec(obj).get("scaleTargetRef") or {}
    return f"{target.get('kind', '')}/{target.get('name', '')}"


def _event_object(obj: JsonObject, _now: datetime) -> str:
    involved = obj.get("involvedObject") or {}
    return f"{involved.get('kind', '').lower()}/{involved.get('name', '')}"


def _event_source(obj: JsonObject, _now: datetime) -> str:
    source = obj.get("source") or {}
    parts = [
        source.get("component") or obj.get("reportingComponent"),
        source.get("host") or obj.get("reportingInstance"),
    ]
    return ", ".join(each for each in parts if each)


def _text(find: Callable[[JsonObject], Any]) -> Cell:
    return lambda obj, _now: find(obj)


_NAME: Final = Column(
    "Name", _text(lambda obj: obj["metadata"]["name"]), format="name", description="Unique within the namespace."
)
_AGE: Final = Column("Age", _created, description="Time since the object was created.")

_BUILT_IN: Final[dict[Kind, Columns]] = {
    kinds.POD: (
        _NAME,
        Column("Ready", _pod_ready, description="Containers that are ready, of all."),
        Column("Status", _pod_status, description="The phase, or why the pod does not run."),
        Column("Restarts", _pod_restarts, description="How often containers were started again, and when last."),
        _AGE,
        Column("IP", _or_none(lambda obj: _status(obj).get("podIP")), priority=_WIDE),
        Column("Node", _or_none(lambda obj: _spec(obj).get("nodeName")), priority=_WIDE),
        Column("Nominated Node", _or_none(lambda obj: _status(obj).get("nominatedNodeName")), priority=_WIDE),
        Column("Readiness Gates", _readiness_gates, priority=_WIDE),
    ),
    kinds.DEPLOYMENT: (
        _NAME,
        Column("Ready", _deployment_ready, description="Ready pods, of those wanted."),
        Column("Up-to-date", _text(lambda obj: _status(obj).get("updatedReplicas", 0)), "integer"),
        Column("Available", _text(lambda obj: _status(obj).get("availableReplicas", 0)), "integer"),
        _AGE,
        Column("Containers", _text(lambda obj: _template_containers(obj, "name")), priority=_WIDE),
        Column("Images", _text(lambda obj: _template_containers(obj, "image")), priority=_WIDE),
        Column("Selector", _text(lambda obj: _label_selector(_spec(obj).get("selector"))), priority=_WIDE),
    ),
    kinds.CORE_SERVICE: (
        _NAME,
        Column("Type", _text(lambda obj: _spec(obj).get("type", "ClusterIP"))),
        Column("Cluster-IP", _or_none(lambda obj: _spec(obj).get("clusterIP"))),
        Column("External-IP", _or_none(_external_ip)),
        Column("Port(s)", _or_none(_service_ports)),
        _AGE,
        Column(
            "Selector", _text(lambda obj: _label_selector({"matchLabels": _spec(obj).get("selector")})), priority=_WIDE
        ),
    ),
    kinds.CONFIG_MAP: (_NAME, Column("Data", _data_count, "integer"), _AGE),
    kinds.SECRET: (
        _NAME,
        Column("Type", _text(lambda obj: obj.get("type", ""))),
        Column("Data", _data_count, "integer"),
        _AGE,
    ),
    kinds.NAMESPACE: (_NAME, Column("Status", _text(lambda obj: _status(obj).get("phase", ""))), _AGE),
    kinds.SERVICE_ACCOUNT: (
        _NAME,
        Column("Secrets", _text(lambda obj: len(obj.get("secrets") or ())), "integer"),
        _AGE,
    ),
    kinds.ENDPOINT_SLICE: (
        _NAME,
        Column("AddressType", _text(lambda obj: obj.get("addressType", ""))),
        Column("Ports", _slice_ports),
        Column("Endpoints", _slice_endpoints),
        _AGE,
    ),
    kinds.HORIZONTAL_POD_AUTOSCALER: (
        _NAME,
        Column("Reference", _text(_scale_target)),
        Column("MinPods", _text(lambda obj: _spec(obj).get("minReplicas", UNKNOWN))),
        Column("MaxPods", _text(lambda obj: _spec(obj).get("maxReplicas", UNKNOWN))),
        Column("Replicas", _text(lambda obj: _status(obj).get("currentReplicas", 0)), "integer"),
        _AGE,
    ),
    kinds.LEASE: (_NAME, Column("Holder", _text(lambda obj: _spec(obj).get("holderIdentity", ""))), _AGE),
    kinds.CUSTOM_RESOURCE_DEFINITION: (
        _NAME,
        Column("Created At", _text(lambda obj: obj["metadata"].get("creationTimestamp", UNKNOWN)), "date"),
    ),
    kinds.EVENT: (
        Column("Last Seen", _event_last_seen),
        Column("Type", _text(lambda obj: obj.get("type", ""))),
        Column("Reason", _text(lambda obj: obj.get("reason", ""))),
        Column("Object", _event_object),
        Column("Subobject", _text(lambda obj: (obj.get("involvedObject") or {}).get("fieldPath", "")), priority=_WIDE),
        Column("Source", _event_source, priority=_WIDE),
        Column("Message", _text(lambda obj: (obj.get("message") or "").strip())),
        Column("First Seen", _event_first_seen, priority=_WIDE),
        Column("Count", _text(lambda obj: obj.get("count") or 1), "integer", priority=_WIDE),
        Column("Name", _NAME.cell, format="name", priority=_WIDE),
    ),
}
