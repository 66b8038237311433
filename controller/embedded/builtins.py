"""What the API server itself adds to and asks of the built-in kinds: defaults, first status, validation (pure).

`builtin_schemas` has the shapes and the plain defaults; here is what takes more than one field to know. The rules
are Kubernetes' own (pkg/apis/*/v1/defaults.go). Unlike a cluster there is no cluster IP to give out: the gateway is
the only way in.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

import orjson

from controller.apis import kinds
from controller.apis.names import dns_1123_label
from controller.embedded.workloads import NODE

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.apis.kinds import Kind
    from controller.apis.meta import JsonObject

_DATA_LIMIT = 1024 * 1024
"""Bytes of a ConfigMap or Secret: what a cluster takes, so that what is stored here can be stored there."""
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_LABEL_LENGTH = 63
_LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with"
    " an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is"
    " '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)


def default(kind: Kind, obj: JsonObject) -> None:
    """Fills in the defaults of a built-in kind, in place. Raises ValueError naming the field that has a wrong type."""
    found = _DEFAULTS.get(kind)
    if found is not None:
        try:
            found(obj)
        except (AttributeError, TypeError, KeyError) as error:
            raise ValueError(f"{kind.kind}: a field has the wrong type: {error}") from error


def first_status(kind: Kind) -> JsonObject | None:
    """The status a new object starts with; None where it has none."""
    match kind:
        case kinds.POD:
            return {"phase": "Pending", "qosClass": "BestEffort"}
        case kinds.NAMESPACE:
            return {"phase": "Active"}
        case kinds.CORE_SERVICE:
            return {"loadBalancer": {}}
        case kinds.DEPLOYMENT:
            return {}
        case _:
            return None


def problems(kind: Kind, obj: JsonObject) -> list[str]:
    """What is wrong with a built-in object, in Kubernetes' wording, each message beginning with the field."""
    found = _CHECKS.get(kind)
    return found(obj) if found is not None else []


def forbidden_changes(kind: Kind, old: JsonObject, new: JsonObject) -> list[str]:
    """What an update changes that may not change, worded like `problems`. `old` and `new` have all their defaults."""
    found = _FIXED.get(kind)
    return found(old, new) if found is not None else []


def _fixed_pod(old: JsonObject, new: JsonObject) -> list[str]:
    # Kubernetes lets images change, and restarts their containers; a process has no image to change.
    if old.get("spec") == new.get("spec"):
        return []
    return ["spec: Forbidden: a pod's spec can't be changed; change what made it, or delete it and create it again"]


def _fixed_deployment(old: JsonObject, new: JsonObject) -> list[str]:
    # The pods of the old selector would be nobody's.
    selector = (new.get("spec") or {}).get("selector")
    if (old.get("spec") or {}).get("selector") == selector:
        return []
    return [f"spec.selector: Invalid value: {orjson.dumps(selector).decode()}: field is immutable"]


def _fixed_config_map(old: JsonObject, new: JsonObject) -> list[str]:
    if not old.get("immutable"):
        return []
    changed = [
        field for field in ("immutable", "data", "binaryData") if (old.get(field) or {}) != (new.get(field) or {})
    ]
    return [f"{field}: Forbidden: field is immutable when `immutable` is set" for field in changed]


def _fixed_secret(old: JsonObject, new: JsonObject) -> list[str]:
    found = _fixed_config_map(old, new)
    if old.get("type") != new.get("type"):
        found.append(f'type: Invalid value: "{new.get("type")}": field is immutable')
    return found


def _default_namespace(obj: JsonObject) -> None:
    obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"]["name"]


def _default_pod_spec(spec: JsonObject) -> None:
    for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        for name in ("readinessProbe", "livenessProbe", "startupProbe"):
            probe = container.get(name) or {}
            if probe.get("httpGet"):
                probe["httpGet"].setdefault("path", "/")


def _default_pod(obj: JsonObject) -> None:
    spec = obj.setdefault("spec", {})
    _default_pod_spec(spec)
    spec.setdefault("serviceAccountName", "default")
    # There is one node, so there is nothing to schedule.
    spec.setdefault("nodeName", NODE)


def _default_deployment(obj: JsonObject) -> None:
    spec = obj.get("spec", {})
    _default_pod_spec(spec.get("template", {}).get("spec", {}))
    strategy = spec.get("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxSurge", "25%")
        rolling.setdefault("maxUnavailable", "25%")


def _default_service(obj: JsonObject) -> None:
    spec = obj.get("spec", {})
    if spec.get("type") != "ExternalName":
        for port in spec.get("ports") or ():
            port.setdefault("targetPort", port.get("port"))


def _default_secret(obj: JsonObject) -> None:
    obj.setdefault("type", "Opaque")
    plain = obj.pop("stringData", None) or {}
    if plain:
        data = obj["data"] = obj.get("data") or {}
        data.update({name: base64.b64encode(text.encode()).decode() for name, text in plain.items()})


def _default_endpoint_slice(obj: JsonObject) -> None:
    for port in obj.get("ports") or ():
        port.setdefault("name", "")


def _check_pod(obj: JsonObject) -> list[str]:
    return _check_pod_spec(obj.get("spec") or {}, "spec")


def _check_pod_spec(spec: JsonObject, path: str) -> list[str]:
    containers = spec.get("containers") or []
    if not containers:
        return [f"{path}.containers: Required value"]
    seen: set[str] = set()
    # One name for both kinds of container: it is what logs, probes and a container's folder go by.
    return [
        *_check_container_names(containers, f"{path}.containers", seen),
        *_check_container_names(spec.get("initContainers") or [], f"{path}.initContainers", seen),
    ]


def _check_container_names(containers: list[JsonObject], path: str, seen: set[str]) -> list[str]:
    found: list[str] = []
    for index, container in enumerate(containers):
        name = container.get("name")
        if not name:
            found.append(f"{path}[{index}].name: Required value")
        elif dns_1123_label(name):
            why = _LABEL_RULE if len(name) <= _LABEL_LENGTH else f"must be no more than {_LABEL_LENGTH} characters"
            found.append(f"{path}[{index}].name: Invalid value: {orjson.dumps(name).decode()}: {why}")
        elif name in seen:
            found.append(f'{path}[{index}].name: Duplicate value: "{name}"')
        seen.add(name or "")
    return found


def _check_deployment(obj: JsonObject) -> list[str]:
    spec = obj.get("spec") or {}
    found: list[str] = []
    replicas = spec.get("replicas")
    if not isinstance(replicas, int) or replicas < 0:
        found.append(f"spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0")
    selector = spec.get("selector") or {}
    wanted = selector.get("matchLabels") or {}
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    if not wanted and not selector.get("matchExpressions"):
        found.append("spec.selector: Required value")
    elif any(labels.get(key) != value for key, value in wanted.items()):
        found.append("spec.template.metadata.labels: Invalid value: `selector` does not match template `labels`")
    return found + _check_pod_spec(template.get("spec") or {}, "spec.template.spec")


def _check_service(obj: JsonObject) -> list[str]:
    spec = obj.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return [] if spec.get("externalName") else ["spec.externalName: Required value"]
    found = []
    for index, port in enumerate(spec.get("ports") or ()):
        number = port.get("port")
        if not isinstance(number, int) or not 0 < number < 65536:
            found.append(f"spec.ports[{index}].port: Invalid value: {number}: must be between 1 and 65535, inclusive")
    return found


def _check_config_map(obj: JsonObject) -> list[str]:
    data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    size = sum(len(value.encode()) for value in data.values()) + sum(len(value) * 3 // 4 for value in binary.values())
    return [*_check_data_keys("data", data), *_check_data_keys("binaryData", binary), *_check_data_size(size)]


def _check_secret(obj: JsonObject) -> list[str]:
    data = obj.get("data") or {}
    found = _check_data_keys("data", data)
    size = 0
    for key, value in data.items():
        try:
            size += len(base64.b64decode(value, validate=True))
        except (ValueError, TypeError):
            found.append(f"data.{key}: Invalid value: must be base64")
    return [*found, *_check_data_size(size)]


def _check_data_keys(field: str, data: JsonObject) -> list[str]:
    rule = "a valid config key must consist of alphanumeric characters, '-', '_' or '.', at most 253 of them"
    return [f'{field}[{key}]: Invalid value: "{key}": {rule}' for key in data if not _DATA_KEY.fullmatch(key)]


def _check_data_size(size: int) -> list[str]:
    return [f"data: Too long: must have at most {_DATA_LIMIT} bytes"] if size > _DATA_LIMIT else []


def _check_event(obj: JsonObject) -> list[str]:
    involved = obj.get("involvedObject") or {}
    if involved.get("namespace") and involved["namespace"] != obj["metadata"].get("namespace"):
        return [f"involvedObject.namespace: Invalid value: {involved['namespace']!r}: does not match event.namespace"]
    return []


_DEFAULTS: dict[Kind, Callable[[JsonObject], None]] = {
    kinds.NAMESPACE: _default_namespace,
    kinds.POD: _default_pod,
    kinds.DEPLOYMENT: _default_deployment,
    kinds.CORE_SERVICE: _default_service,
    kinds.SECRET: _default_secret,
    kinds.ENDPOINT_SLICE: _default_endpoint_slice,
}
_CHECKS: dict[Kind, Callable[[JsonObject], list[str]]] = {
    kinds.POD: _check_pod,
    kinds.DEPLOYMENT: _check_deployment,
    kinds.CORE_SERVICE: _check_service,
    kinds.CONFIG_MAP: _check_config_map,
    kinds.SECRET: _check_secret,
    kinds.EVENT: _check_event,
}
_FIXED: dict[Kind, Callable[[JsonObject, JsonObject], list[str]]] = {
    kinds.POD: _fixed_pod,
    kinds.DEPLOYMENT: _fixed_deployment,
    kinds.CONFIG_MAP: _fixed_config_map,
    kinds.SECRET: _fixed_secret,
}
