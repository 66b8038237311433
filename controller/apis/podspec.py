"""Which pod specs a revision may have.

A revision's spec is Kubernetes' PodSpec, of which Knative takes a part: fields that fit a stateless program which
anybody may scale. Others are open behind gates of config-features; the rest is refused by name.

An image is required, as in Knative, and any reference will do. Where a container runs as a local process, `command`
says what runs and the image is a name only, or the key of an entry given with `zerogate up --image`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.apis.fielderror import FieldError, disallowed, exactly_one, invalid, join, missing, out_of_bounds
from controller.apis.names import dns_1123_label, dns_1123_subdomain, environment_variable, image_reference
from controller.apis.probespec import validate_probes
from controller.apis.quantities import parse_quantity
from controller.apis.shape import indexed, is_set, members, number, struct, structs, text
from controller.apis.volumespec import validate_mounts, validate_volumes
from controller.config.features import Gate, SecurePodDefaults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.apis.meta import JsonObject
    from controller.config.features import FeaturesConfig

_POD_FIELDS = {
    "serviceAccountName",
    "containers",
    "volumes",
    "imagePullSecrets",
    "enableServiceLinks",
    "automountServiceAccountToken",
}
_CONTAINER_FIELDS = {
    "name",
    "args",
    "command",
    "env",
    "envFrom",
    "workingDir",
    "image",
    "imagePullPolicy",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "ports",
    "resources",
    "securityContext",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "volumeMounts",
}
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_RESERVED_ENV = {"PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"}
_RESERVED_PORTS = {8008, 8012, 8013, 8022, 9090, 9091}
"""Where Knative's sidecar listens; refused here too, so that a manifest which works here works there."""
_RESERVED_NAME = "queue-proxy"
_PORT_NAMES = ("", "h2c", "http1")
_POLICIES = {
    "imagePullPolicy": ("", "Always", "IfNotPresent", "Never"),
    "terminationMessagePolicy": ("", "File", "FallbackToLogsOnError"),
}
_CONTEXT_FIELDS = {
    "runAsUser",
    "runAsGroup",
    "runAsNonRoot",
    "readOnlyRootFilesystem",
    "allowPrivilegeEscalation",
    "seccompProfile",
    "capabilities",
    "privileged",
}
_ID_MAX = 2**31 - 1
_PORT_MAX = 65535


def validate_pod_spec(spec: JsonObject, features: FeaturesConfig, path: str) -> Iterator[FieldError]:
    """What is wrong with the PodSpec part of a revision spec at `path`; `spec` holds nothing else."""
    yield from _pod_fields(spec, features, path)
    yield from validate_volumes(spec, features, path)
    yield from _containers(spec, features, path)
    yield from _init_containers(spec, features, path)


def _gates(features: FeaturesConfig) -> dict[str, Gate]:
    return {
        "affinity": features.podspec_affinity,
        "topologySpreadConstraints": features.podspec_topologyspreadconstraints,
        "hostAliases": features.podspec_hostaliases,
        "nodeSelector": features.podspec_nodeselector,
        "tolerations": features.podspec_tolerations,
        "runtimeClassName": features.podspec_runtimeclassname,
        "securityContext": features.podspec_securitycontext,
        "shareProcessNamespace": features.podspec_shareprocessnamespace,
        "priorityClassName": features.podspec_priorityclassname,
        "schedulerName": features.podspec_schedulername,
        "initContainers": features.podspec_init_containers,
        "dnsPolicy": features.podspec_dnspolicy,
        "dnsConfig": features.podspec_dnsconfig,
        "hostIPC": features.podspec_hostipc,
        "hostPID": features.podspec_hostpid,
        "hostNetwork": features.podspec_hostnetwork,
    }


def _pod_fields(spec: JsonObject, features: FeaturesConfig, path: str) -> Iterator[FieldError]:
    gates = _gates(features)
    for field in members(spec):
        if field in _POD_FIELDS or (field in gates and gates[field].open):
            continue
        if field == "securityContext" and features.secure_pod_defaults is not SecurePodDefaults.DISABLED:
            narrow = ("seccompProfile", "runAsNonRoot")
            inside = members(struct(spec, field))
            yield from (disallowed(f"{path}.{field}.{name}") for name in inside if name not in narrow)
            continue
        yield disallowed(join(path, field))
    if spec.get("automountServiceAccountToken") is True:
        yield invalid(join(path, "automountServiceAccountToken"), True, "only false is accepted")
    account = text(spec, "serviceAccountName")
    if account and (wrong := dns_1123_subdomain(account)):
        yield invalid(join(path, "serviceAccountName"), account, wrong)


# --- containers -------------------------------------------------------------------------------------------------------


def _containers(spec: JsonObject, features: FeaturesConfig, path: str) -> Iterator[FieldError]:
    containers = list(indexed(spec, "containers", path))
    if not containers:
        yield missing(join(path, "containers"))
    if len(containers) > 1 and features.multi_container is Gate.DISABLED:
        yield FieldError(join(path, "containers"), f"multi-container is off, but found {len(containers)} containers")
    yield from _one_port([container for container, _ in containers], join(path, "containers"))
    names: set[str] = set()
    for container, at in containers:
        sidecar = len(containers) > 1 and not structs(container, "ports")
        yield from _container(container, spec, features, at, names)
        yield from _env(container, features, at, reserved=_RESERVED_ENV - {"PORT"} if sidecar else _RESERVED_ENV)
        if sidecar and features.multi_container_probing is Gate.DISABLED:
            yield from (disallowed(join(at, name)) for name in _PROBES if is_set(container, name))
        else:
            yield from validate_probes(container, at, sidecar=sidecar)


def _one_port(containers: list[JsonObject], path: str) -> Iterator[FieldError]:
    """Of several containers exactly one declares a port: that one serves."""
    declared = [len(structs(container, "ports")) for container in containers]
    if len(containers) > 1 and sum(declared) == 0:
        yield missing(join(path, "ports"))
    if sum(declared) > 1:
        detail = "Only a single port is allowed across all containers"
        yield FieldError(join(path, "ports"), "more than one container port is set", detail)


def _init_containers(spec: JsonObject, features: FeaturesConfig, path: str) -> Iterator[FieldError]:
    if features.podspec_init_containers is Gate.DISABLED:
        return
    names = {text(container, "name") for container in structs(spec, "containers")} - {""}
    for container, at in indexed(spec, "initContainers", path):
        yield from _container(container, spec, features, at, names)
        yield from _env(container, features, at, reserved=_RESERVED_ENV - {"PORT"})
        for name in (*_PROBES, "lifecycle"):
            if is_set(container, name):
                yield FieldError(join(at, name), "field not allowed in an init container")


def _container(
    container: JsonObject, spec: JsonObject, features: FeaturesConfig, path: str, names: set[str]
) -> Iterator[FieldError]:
    """What every kind of container has in common. `names` are those taken; the container's own is added."""
    yield from (disallowed(join(path, field)) for field in members(container) if field not in _CONTAINER_FIELDS)
    yield from _name(text(container, "name"), join(path, "name"), names)
    image = text(container, "image")
    if not image:
        yield missing(join(path, "image"))
    elif wrong := image_reference(image):
        yield FieldError(join(path, "image"), "failed to parse image reference", f'image: "{image}" {wrong}')
    for field, choices in _POLICIES.items():
        if text(container, field) not in choices:
            yield invalid(join(path, field), container[field], "must be one of " + ", ".join(choices[1:]))
    yield from _ports(container, path)
    yield from _resources(container, join(path, "resources"))
    yield from _security_context(struct(container, "securityContext"), features, join(path, "securityContext"))
    volumes = {text(volume, "name"): volume for volume in structs(spec, "volumes")}
    yield from validate_mounts(container, volumes, features, path)


def _name(name: str, path: str, names: set[str]) -> Iterator[FieldError]:
    if not name:
        return  # defaulting gives it one
    if name == _RESERVED_NAME:
        yield FieldError(path, f'"{name}" is a reserved container name')
    elif wrong := dns_1123_label(name):
        yield invalid(path, name, wrong)
    elif name in names:
        yield FieldError(path, f'duplicate container name "{name}"')
    names.add(name)


def _ports(container: JsonObject, path: str) -> Iterator[FieldError]:
    for port, at in indexed(container, "ports", path):
        allowed = ("containerPort", "name", "protocol")
        yield from (disallowed(join(at, field)) for field in members(port) if field not in allowed)
        value, name = number(port, "containerPort"), text(port, "name")
        if text(port, "protocol") not in ("", "TCP"):
            yield invalid(join(at, "protocol"), port["protocol"], "must be TCP")
        if name not in _PORT_NAMES:
            detail = "Name must be empty, or one of: 'h2c', 'http1'"
            yield FieldError(join(at, "name"), f"Port name {name} is not allowed", detail)
        if not 0 <= value <= _PORT_MAX:
            yield out_of_bounds(join(at, "containerPort"), value, 0, _PORT_MAX)
        elif value in _RESERVED_PORTS:
            yield invalid(join(at, "containerPort"), value, "the port is reserved")


def _resources(container: JsonObject, path: str) -> Iterator[FieldError]:
    resources = struct(container, "resources")
    yield from (disallowed(join(path, field)) for field in members(resources) if field not in ("limits", "requests"))
    for part in ("requests", "limits"):
        for name, amount in struct(resources, part).items():
            try:
                right = parse_quantity(str(amount)) >= 0
            except ValueError:
                right = False
            if not right:
                yield invalid(f"{path}.{part}.{name}", amount, 'must be a quantity such as "500m" or "128Mi"')


def _security_context(context: JsonObject, features: FeaturesConfig, path: str) -> Iterator[FieldError]:
    yield from (disallowed(join(path, field)) for field in members(context) if field not in _CONTEXT_FIELDS)
    for field in ("runAsUser", "runAsGroup"):
        if not 0 <= number(context, field) <= _ID_MAX:
            yield out_of_bounds(join(path, field), number(context, field), 0, _ID_MAX)
    if context.get("privileged") is True:
        yield invalid(join(path, "privileged"), True, "only false is accepted")
    capabilities, at = struct(context, "capabilities"), join(path, "capabilities")
    yield from (disallowed(join(at, field)) for field in members(capabilities) if field not in ("add", "drop"))
    added = capabilities.get("add")
    low_port = added == ["NET_BIND_SERVICE"] and features.secure_pod_defaults is not SecurePodDefaults.DISABLED
    if added and not low_port and not features.containerspec_addcapabilities.open:
        yield disallowed(join(at, "add"))


# --- environment ------------------------------------------------------------------------------------------------------


def _env(container: JsonObject, features: FeaturesConfig, path: str, *, reserved: set[str]) -> Iterator[FieldError]:
    for variable, at in indexed(container, "env", path):
        name = text(variable, "name")
        if not name:
            yield missing(join(at, "name"))
        elif name in reserved:
            yield FieldError(join(at, "name"), f'"{name}" is a reserved environment variable')
        elif wrong := environment_variable(name):
            yield invalid(join(at, "name"), name, wrong)
        allowed = ("name", "value", "valueFrom")
        yield from (disallowed(join(at, field)) for field in members(variable) if field not in allowed)
        if is_set(variable, "valueFrom"):
            yield from _value_from(variable, features, join(at, "valueFrom"))
    for source, at in indexed(container, "envFrom", path):
        found = [field for field in ("configMapRef", "secretRef") if is_set(source, field)]
        allowed = ("prefix", "configMapRef", "secretRef")
        yield from (disallowed(join(at, field)) for field in members(source) if field not in allowed)
        yield from _exactly_one_reference(source, found, ("configMapRef", "secretRef"), at)
        yield from (missing(f"{at}.{field}.name") for field in found if not text(struct(source, field), "name"))


def _value_from(variable: JsonObject, features: FeaturesConfig, path: str) -> Iterator[FieldError]:
    source = struct(variable, "valueFrom")
    keyed, gated = ("configMapKeyRef", "secretKeyRef"), ("fieldRef", "resourceFieldRef")
    allowed = (*keyed, *gated) if features.podspec_fieldref.open else keyed
    yield from (disallowed(join(path, field)) for field in members(source) if field not in allowed)
    found = [field for field in members(source) if field in allowed]
    yield from _exactly_one_reference(source, found, keyed, path)
    if text(variable, "value"):
        yield FieldError(path, "may not be specified when `value` is not empty")
    for field in (field for field in found if field in keyed):
        for name in ("name", "key"):
            if not text(struct(source, field), name):
                yield missing(f"{path}.{field}.{name}")


def _exactly_one_reference(
    source: JsonObject, found: list[str], among: tuple[str, ...], path: str
) -> Iterator[FieldError]:
    if not found and [name for name in members(source) if name != "prefix"]:
        return  # only refused fields are set, and their own errors say so
    if error := exactly_one(path, *found, among=among):
        yield error
