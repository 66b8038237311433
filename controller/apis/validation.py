"""Validation on write: what Knative's validating webhook does, in its words.

`validate` looks at an object after its defaults were written (`controller.apis.defaults`) and returns what is wrong;
an empty list admits it. The rules themselves are in the modules named `…spec`. Three of Knative's habits are kept:

- An object that is being deleted is not judged: finalizers must be able to let go of it.
- A spec that did not change is not judged again. It was, when it was written; a gate closed since must not keep the
  controllers from labelling a revision that runs.
- A Revision's spec never changes; its metadata may, so that autoscaling annotations act on a live revision.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING

from controller.apis import kinds
from controller.apis.annotations import validate_autoscaling
from controller.apis.differences import difference
from controller.apis.fielderror import FieldError, disallowed, invalid, join, merged, missing, out_of_bounds
from controller.apis.metaspec import validate_annotations, validate_metadata
from controller.apis.names import dns_1035_label
from controller.apis.podspec import validate_pod_spec
from controller.apis.shape import indexed, is_set, number, struct, text, texts
from controller.apis.trafficspec import validate_traffic
from controller.config import store
from controller.config.reading import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.apis.meta import JsonObject
    from controller.config.store import Config

__all__ = ["FieldError", "example_checksum", "validate"]

_REVISION_NUMBERS = ("containerConcurrency", "timeoutSeconds", "responseStartTimeoutSeconds", "idleTimeoutSeconds")
_INT32_MAX = 2**31 - 1
_WHOLE = 100
_EXAMPLE = "_example"
_CHECKSUM = "knative.dev/example-checksum"


def validate(obj: JsonObject, old: JsonObject | None, config: Config) -> list[FieldError]:
    """What is wrong with `obj`, defaults included; `old` is what it replaces, None for a creation. Equal problems of
    several fields are one error. Kinds without rules are right as they are."""
    if is_set(struct(obj, "metadata"), "deletionTimestamp"):
        return []
    return merged(list(_errors(obj, old, config)))


def _errors(obj: JsonObject, old: JsonObject | None, config: Config) -> Iterator[FieldError]:
    changed = old is None or obj.get("spec") != old.get("spec")
    match (obj.get("apiVersion"), obj.get("kind")):
        case (kinds.SERVICE.api_version, kinds.SERVICE.kind):
            yield from validate_metadata(obj, old)
            if changed:
                yield from _template(obj, old, config)
                yield from validate_traffic(struct(obj, "spec"), "spec", in_service=True)
        case (kinds.CONFIGURATION.api_version, kinds.CONFIGURATION.kind):
            yield from validate_metadata(obj, old)
            if changed:
                yield from _template(obj, old, config)
        case (kinds.ROUTE.api_version, kinds.ROUTE.kind):
            yield from validate_metadata(obj, old)
            if changed:
                yield from validate_traffic(struct(obj, "spec"), "spec", in_service=False)
        case (kinds.REVISION.api_version, kinds.REVISION.kind):
            yield from _revision(obj, old, config)
        case (kinds.POD_AUTOSCALER.api_version, kinds.POD_AUTOSCALER.kind):
            yield from _pod_autoscaler(obj, config)
        case (kinds.INGRESS.api_version, kinds.INGRESS.kind) if changed:
            yield from _ingress(obj)
        case (kinds.CONFIG_MAP.api_version, kinds.CONFIG_MAP.kind):
            yield from _config_map(obj, config)


# --- revisions and their templates ------------------------------------------------------------------------------------


def _revision(obj: JsonObject, old: JsonObject | None, config: Config) -> Iterator[FieldError]:
    yield from validate_metadata(obj, old)
    yield from validate_autoscaling(texts(obj, "metadata", "annotations"), config, "metadata.annotations")
    if old is None:
        yield from _revision_spec(struct(obj, "spec"), config, "spec")
    elif obj.get("spec") != old.get("spec"):
        detail = difference(old.get("spec"), obj.get("spec"))
        yield FieldError("spec", "Immutable fields changed (-old +new)", detail)


def _template(obj: JsonObject, old: JsonObject | None, config: Config) -> Iterator[FieldError]:
    template = struct(obj, "spec", "template")
    annotations, path = texts(template, "metadata", "annotations"), "spec.template.metadata.annotations"
    yield from _revision_name(obj, old)
    yield from validate_annotations(annotations, path)
    yield from validate_autoscaling(annotations, config, path)
    yield from _revision_spec(struct(template, "spec"), config, "spec.template.spec")


def _revision_name(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    """A revision's name chosen by the user says whose it is, and means one template for ever."""
    template, path = struct(obj, "spec", "template"), "spec.template.metadata.name"
    name, parent = text(struct(template, "metadata"), "name"), text(struct(obj, "metadata"), "name")
    if not name:
        return
    if text(struct(obj, "metadata"), "generateName"):
        yield disallowed(path, "the name of a revision cannot be chosen where the parent's is generated")
    elif not name.startswith(parent + "-"):
        yield invalid(path, name, f'the name of a revision must start with its parent\'s: "{parent}-"')
    elif wrong := dns_1035_label(name):
        yield invalid(path, name, f"not a DNS 1035 label: [{wrong}]")
    before = struct(old, "spec", "template")
    if name == text(struct(before, "metadata"), "name") and template != before:
        message = "Saw the following changes without a name change (-old +new)"
        yield FieldError(path, message, difference(before, template))


def _revision_spec(spec: JsonObject, config: Config, path: str) -> Iterator[FieldError]:
    limits = config.defaults
    low = 0 if limits.allow_container_concurrency_zero else 1
    yield from _bounded(spec, "containerConcurrency", low, limits.container_concurrency_max_limit, path)
    for name in ("timeoutSeconds", "responseStartTimeoutSeconds", "idleTimeoutSeconds"):
        # Knative bounds the first only; a negative number of seconds means nothing in the others either.
        high = limits.max_revision_timeout_seconds if name == "timeoutSeconds" else _INT32_MAX
        yield from _bounded(spec, name, 0, high, path)
    pod_spec = {name: value for name, value in spec.items() if name not in _REVISION_NUMBERS}
    yield from validate_pod_spec(pod_spec, config.features, path)


def _bounded(spec: JsonObject, name: str, low: int, high: int, path: str) -> Iterator[FieldError]:
    if is_set(spec, name) and not low <= number(spec, name) <= high:
        yield out_of_bounds(join(path, name), spec[name], low, high)


# --- internal kinds ---------------------------------------------------------------------------------------------------


def _pod_autoscaler(obj: JsonObject, config: Config) -> Iterator[FieldError]:
    spec = struct(obj, "spec")
    yield from validate_autoscaling(texts(obj, "metadata", "annotations"), config, "metadata.annotations")
    yield from _bounded(spec, "containerConcurrency", 0, config.defaults.container_concurrency_max_limit, "spec")
    for name in ("apiVersion", "kind", "name"):
        if not text(struct(spec, "scaleTargetRef"), name):
            yield missing(f"spec.scaleTargetRef.{name}")
    for name, choices in (("reachability", ("", "Reachable", "Unreachable")), ("protocolType", ("", "http1", "h2c"))):
        if text(spec, name) not in choices:
            yield invalid(f"spec.{name}", spec[name], "must be one of " + ", ".join(choices[1:]))


def _ingress(obj: JsonObject) -> Iterator[FieldError]:
    spec, namespace = struct(obj, "spec"), text(struct(obj, "metadata"), "namespace")
    if text(spec, "httpOption") not in ("", "Enabled", "Redirected"):
        yield invalid("spec.httpOption", spec["httpOption"], "must be Enabled or Redirected")
    if not list(indexed(spec, "rules", "spec")):
        yield missing("spec.rules")
    for rule, at in indexed(spec, "rules", "spec"):
        if text(rule, "visibility") not in ("", "ExternalIP", "ClusterLocal"):
            yield invalid(join(at, "visibility"), rule["visibility"], "must be ExternalIP or ClusterLocal")
        paths = list(indexed(rule.get("http"), "paths", join(at, "http")))
        if not paths:
            yield missing(join(at, "http.paths"))
        for path, path_at in paths:
            yield from _splits(path, namespace, path_at)
    for tls, at in indexed(spec, "tls", "spec"):
        yield from (missing(join(at, name)) for name in ("secretName", "secretNamespace") if not text(tls, name))


def _splits(path: JsonObject, namespace: str, at: str) -> Iterator[FieldError]:
    splits = list(indexed(path, "splits", at))
    if not splits:
        yield missing(join(at, "splits"))
        return
    for split, split_at in splits:
        if not text(split, "serviceName"):
            yield missing(join(split_at, "serviceName"))
        if not split.get("servicePort"):
            yield missing(join(split_at, "servicePort"))
        if not text(split, "serviceNamespace"):
            yield missing(join(split_at, "serviceNamespace"))
        elif split["serviceNamespace"] != namespace:
            detail = f'must be the Ingress\' own namespace "{namespace}"'
            yield invalid(join(split_at, "serviceNamespace"), split["serviceNamespace"], detail)
        if not 0 <= number(split, "percent") <= _WHOLE:
            yield out_of_bounds(join(split_at, "percent"), split["percent"], 0, _WHOLE)
    total = sum(number(split, "percent") for split, _ in splits)
    if total != _WHOLE:
        yield FieldError(join(at, "splits"), f"Traffic split percentage must total to {_WHOLE}, but was {total}")


# --- configuration ----------------------------------------------------------------------------------------------------


def _config_map(obj: JsonObject, config: Config) -> Iterator[FieldError]:
    """A ConfigMap of the control plane is parsed before it is stored, so that a mistake is told to who made it."""
    meta = struct(obj, "metadata")
    if text(meta, "namespace") != store.NAMESPACE or text(meta, "name") not in store.CONFIG_MAP_NAMES:
        return
    data = texts(obj, "data")
    try:
        store.update(config, text(meta, "name"), data)
    except ConfigError as error:
        yield FieldError("data", str(error))
    checksum = texts(meta, "annotations").get(_CHECKSUM)
    if checksum is not None and _EXAMPLE in data and example_checksum(data[_EXAMPLE]) != checksum:
        detail = "_example is documentation and nothing reads it; copy the setting one level up, directly under data"
        yield FieldError(f"data.{_EXAMPLE}", "the example must not be edited", detail)


def example_checksum(example: str) -> str:
    """The value of the annotation `knative.dev/example-checksum`: CRC-32 without regard to white space at line ends."""
    lines = re.sub(r"[ \t\r]+\n", "\n", example.strip())
    return f"{zlib.crc32(lines.encode()):08x}"
