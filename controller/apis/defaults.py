"""Defaults on write: what Knative's defaulting webhook does.

Everything a controller or a gateway reads later is written down here, once, when the object is stored, so that a
change of config-defaults never changes a revision that exists. Defaulting is idempotent, and it never adds to an
unchanged template with a user-chosen revision name: with that name a changed template is refused, and a changed
default must not be what changed it.

Two differences from Knative, in the user's favour. `creator` and `lastModifier` that a client leaves out on update
(`kubectl replace` of a manifest does) are carried over, and a whole manifest with a revision name may be sent again;
Knative refuses both writes.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from controller.apis import kinds, labels
from controller.apis.annotations import CONCURRENCY, HPA_CLASS, KPA_CLASS
from controller.apis.meta import child_name
from controller.apis.shape import is_set, number, struct, structs, text, texts
from controller.config.features import SecurePodDefaults

if TYPE_CHECKING:
    from controller.apis.meta import JsonObject
    from controller.config.store import Config
    from controller.config.template import Template

_WRITABLE_SOURCES = ("emptyDir", "persistentVolumeClaim", "ephemeral")
_HANDLERS = ("httpGet", "tcpSocket", "exec", "grpc")
_PRIVILEGED_PORTS = 1024


def apply_defaults(obj: JsonObject, old: JsonObject | None, config: Config, user: str) -> JsonObject:
    """`obj` as it is to be stored: a new object. `old` is what is stored now (None: a creation); `user` is who asks.
    A kind without defaults comes back unchanged."""
    new = copy.deepcopy(obj)
    match (new.get("apiVersion"), new.get("kind")):
        case (kinds.SERVICE.api_version, kinds.SERVICE.kind):
            _template(new, old, config)
            _service_traffic(new)
            _user_info(new, old, user)
        case (kinds.CONFIGURATION.api_version, kinds.CONFIGURATION.kind):
            _template(new, old, config)
            _owned_user_info(new, old, user)
        case (kinds.ROUTE.api_version, kinds.ROUTE.kind):
            _traffic(new)
            _owned_user_info(new, old, user)
        case (kinds.REVISION.api_version, kinds.REVISION.kind) if old is None:
            _revision_spec(_made(new, "spec"), struct(new, "metadata"), config, creating=True)
        case (kinds.POD_AUTOSCALER.api_version, kinds.POD_AUTOSCALER.kind):
            _pod_autoscaler(new, config)
        case (kinds.INGRESS.api_version, kinds.INGRESS.kind):
            _ingress(new)
    return new


def _made(parent: JsonObject, name: str) -> JsonObject:
    """The object `name` of `parent`, made where it is absent. What is there but no object is the schema's to refuse:
    it stays, and the defaults go nowhere."""
    if parent.get(name) is None:
        parent[name] = {}
    return struct(parent, name)


# --- who --------------------------------------------------------------------------------------------------------------


def _user_info(new: JsonObject, old: JsonObject | None, user: str) -> None:
    annotations = _made(_made(new, "metadata"), "annotations")
    if old is None:
        annotations[labels.CREATOR] = annotations[labels.LAST_MODIFIER] = user
        return
    before = texts(old, "metadata", "annotations")
    for key in (labels.CREATOR, labels.LAST_MODIFIER):
        if key in before:
            annotations.setdefault(key, before[key])
    if new.get("spec") != old.get("spec"):
        annotations[labels.LAST_MODIFIER] = user


def _owned_user_info(new: JsonObject, old: JsonObject | None, user: str) -> None:
    """A child's user is a controller, which is nobody."""
    if not struct(new, "metadata").get("ownerReferences"):
        _user_info(new, old, user)


# --- traffic ----------------------------------------------------------------------------------------------------------


def _service_traffic(new: JsonObject) -> None:
    spec = _made(new, "spec")
    if not spec.get("traffic"):
        spec["traffic"] = [{"latestRevision": True, "percent": 100}]
    _traffic(new)


def _traffic(new: JsonObject) -> None:
    for target in structs(new.get("spec"), "traffic"):
        if target.get("latestRevision") is None:
            target["latestRevision"] = not target.get("revisionName")
        if target.get("percent") is None:
            target["percent"] = 0


# --- revisions --------------------------------------------------------------------------------------------------------


def _template(new: JsonObject, old: JsonObject | None, config: Config) -> None:
    template, before = _made(_made(new, "spec"), "template"), struct(old, "spec", "template")
    name = text(struct(template, "metadata"), "name")
    kept = bool(name) and name == text(struct(before, "metadata"), "name")
    if kept and template == before:
        return
    # Who sends the manifest of a named revision again, whole (replace and server-side apply do), gets what its creation
    # got: the same template, or a refusal that shows what is really different.
    creating = old is None or kept
    _revision_spec(_made(template, "spec"), struct(new, "metadata"), config, creating=creating)


def _revision_spec(spec: JsonObject, meta: JsonObject, config: Config, *, creating: bool) -> None:
    """`meta` is the metadata of the object the spec is in, which container names are made from."""
    defaults = config.defaults
    if not spec.get("timeoutSeconds"):
        spec["timeoutSeconds"] = defaults.revision_timeout_seconds
    for field, default in (
        ("responseStartTimeoutSeconds", defaults.revision_response_start_timeout_seconds),
        ("idleTimeoutSeconds", defaults.revision_idle_timeout_seconds),
    ):
        # A timeout that could not fire before the whole request's is not written down.
        if spec.get(field) is None and 0 < default < number(spec, "timeoutSeconds"):
            spec[field] = default
    if spec.get("containerConcurrency") is None:
        spec["containerConcurrency"] = defaults.container_concurrency
    if creating and spec.get("enableServiceLinks") is None and defaults.enable_service_links is not None:
        spec["enableServiceLinks"] = defaults.enable_service_links
    _containers(spec, meta, config)
    if creating:
        _secure(spec, config.features.secure_pod_defaults)


def _containers(spec: JsonObject, meta: JsonObject, config: Config) -> None:
    containers, init_containers = structs(spec, "containers"), structs(spec, "initContainers")
    taken = {text(container, "name") for container in (*containers, *init_containers)}
    _names(containers, _rendered(config.defaults.container_name_template, meta), taken)
    _names(init_containers, _rendered(config.defaults.init_container_name_template, meta), taken)
    writable = {
        text(volume, "name") for volume in structs(spec, "volumes") if any(is_set(volume, s) for s in _WRITABLE_SOURCES)
    }
    for container in (*containers, *init_containers):
        _resources(container, config)
        for mount in structs(container, "volumeMounts"):
            if text(mount, "name") not in writable:
                mount["readOnly"] = True
    for container in containers:
        _probes(container, serving=len(containers) == 1 or bool(container.get("ports")))


def _rendered(template: Template, meta: JsonObject) -> str:
    variables = {"Name": text(meta, "name"), "Namespace": text(meta, "namespace")}
    return template.render(variables, texts(meta, "annotations"), texts(meta, "labels"))


def _names(containers: list[JsonObject], default: str, taken: set[str]) -> None:
    """The default for the only container; `default-0`, `default-1`, … among several, or where it is taken."""
    suffix = 0
    for container in containers:
        if container.get("name"):
            continue
        name = default
        if len(containers) > 1 or name in taken:
            while (name := child_name(default, f"-{suffix}")) in taken:
                suffix += 1
        taken.add(name)
        container["name"] = name


def _resources(container: JsonObject, config: Config) -> None:
    defaults = config.defaults
    for part, resource, amount in (
        ("requests", "cpu", defaults.revision_cpu_request),
        ("requests", "memory", defaults.revision_memory_request),
        ("requests", "ephemeral-storage", defaults.revision_ephemeral_storage_request),
        ("limits", "cpu", defaults.revision_cpu_limit),
        ("limits", "memory", defaults.revision_memory_limit),
        ("limits", "ephemeral-storage", defaults.revision_ephemeral_storage_limit),
    ):
        if amount is not None:
            _made(_made(container, "resources"), part).setdefault(resource, amount)


def _probes(container: JsonObject, *, serving: bool) -> None:
    """The serving container gets a readiness probe (a TCP connection to its port) if it has none. `periodSeconds`
    stays as it is: without one, the gateway probes as often as is useful."""
    for name in ("readinessProbe", "livenessProbe", "startupProbe"):
        grpc = struct(container, name, "grpc")
        if grpc and grpc.get("service") is None:
            grpc["service"] = ""
    if not serving and not container.get("readinessProbe"):
        return
    probe = _made(container, "readinessProbe")
    if serving and not any(is_set(probe, handler) for handler in _HANDLERS):
        probe["tcpSocket"] = {"port": 0}
    probe["successThreshold"] = probe.get("successThreshold") or 1
    if probe.get("periodSeconds"):
        probe["failureThreshold"] = probe.get("failureThreshold") or 3
        probe["timeoutSeconds"] = probe.get("timeoutSeconds") or 1


def _secure(spec: JsonObject, level: SecurePodDefaults) -> None:
    """config-features secure-pod-defaults: least privilege where the user says nothing."""
    if level is SecurePodDefaults.DISABLED:
        return
    pod_level = struct(spec, "securityContext")
    for container in (*structs(spec, "containers"), *structs(spec, "initContainers")):
        context = _made(container, "securityContext")
        context.setdefault("allowPrivilegeEscalation", False)
        if not pod_level.get("seccompProfile"):
            _made(context, "seccompProfile").setdefault("type", "RuntimeDefault")
        if context.get("capabilities") is None:
            context["capabilities"] = {"drop": ["ALL"]}
            low = [number(port, "containerPort") for port in structs(container, "ports")]
            if any(0 < port < _PRIVILEGED_PORTS for port in low):
                context["capabilities"]["add"] = ["NET_BIND_SERVICE"]
        if level is SecurePodDefaults.ENABLED and pod_level.get("runAsNonRoot") is None:
            context.setdefault("runAsNonRoot", True)


# --- internal kinds ---------------------------------------------------------------------------------------------------


def _pod_autoscaler(new: JsonObject, config: Config) -> None:
    annotations = _made(_made(new, "metadata"), "annotations")
    chosen = annotations.setdefault(labels.AUTOSCALING + "class", config.autoscaler.pod_autoscaler_class)
    metric = {KPA_CLASS: CONCURRENCY, HPA_CLASS: "cpu"}.get(chosen) if isinstance(chosen, str) else None
    if metric is not None:
        annotations.setdefault(labels.AUTOSCALING + "metric", metric)


def _ingress(new: JsonObject) -> None:
    for rule in structs(new.get("spec"), "rules"):
        if not rule.get("visibility"):
            rule["visibility"] = "ExternalIP"
        for path in structs(rule.get("http"), "paths"):
            splits = structs(path, "splits")
            if len(splits) == 1 and not splits[0].get("percent"):
                splits[0]["percent"] = 100
