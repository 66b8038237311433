"""Which metadata Knative's objects may have: names, labels, annotations, and who may change what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.apis import kinds, labels
from controller.apis.durations import parse_duration
from controller.apis.fielderror import FieldError, invalid, join
from controller.apis.names import dns_1035_label
from controller.apis.shape import struct, structs, text, texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from controller.apis.meta import JsonObject

_NETWORKING = "networking.knative.dev"
_NETWORKING_KEYS = {
    f"{_NETWORKING}/{name}"
    for name in (
        "ingress.class",
        "ingress-class",
        "certificate.class",
        "certificate-class",
        "disableAutoTLS",
        "disable-auto-tls",
        "disable-external-domain-tls",
        "httpOption",
        "http-protocol",
    )
}
_DURATIONS = (
    labels.ROLLOUT_DURATION,
    labels.ROLLOUT_DURATION_LEGACY,
    labels.PROGRESS_DEADLINE,
    labels.PROGRESS_DEADLINE_LEGACY,
)
_OWNERS = {
    kinds.ROUTE.kind: (labels.SERVICE, kinds.SERVICE.kind),
    kinds.CONFIGURATION.kind: (labels.SERVICE, kinds.SERVICE.kind),
    kinds.REVISION.kind: (labels.CONFIGURATION, kinds.CONFIGURATION.kind),
}
"""The label that names an object's owner, and the kind of that owner."""
_SCALING_HINT = 'autoscaling annotations must be put under "spec.template.metadata.annotations" to work'


def validate_metadata(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    """What is wrong with the metadata of a Service, Configuration, Route or Revision."""
    meta = struct(obj, "metadata")
    annotations = texts(meta, "annotations")
    yield from _name(meta)
    yield from validate_annotations(annotations, "metadata.annotations")
    yield from _networking_keys(annotations)
    if obj.get("kind") != kinds.REVISION.kind:
        for key in annotations:
            if key.startswith(labels.AUTOSCALING):
                yield FieldError("metadata.annotations", f'invalid key name "{key}"', _SCALING_HINT)
    yield from _labels(obj)
    if old is not None and not meta.get("ownerReferences"):
        # A child's annotations are copied from its owner, the last modifier's name too.
        yield from _user_info(obj, old)


def validate_annotations(annotations: Mapping[str, str], path: str) -> Iterator[FieldError]:
    """The annotations that objects and templates have in common."""
    for key in _DURATIONS:
        if key not in annotations:
            continue
        try:
            value = parse_duration(annotations[key])
        except ValueError as error:
            yield invalid(join(path, key), annotations[key], str(error))
            continue
        if value < 0 or value % 1:
            yield invalid(join(path, key), annotations[key], "must be a whole number of seconds, and not negative")
    yield from _queue_timeout(annotations, path)


def _queue_timeout(annotations: Mapping[str, str], path: str) -> Iterator[FieldError]:
    text = annotations.get(labels.QUEUE_TIMEOUT)
    if text is None:
        return
    try:
        value = parse_duration(text)
    except ValueError as error:
        yield invalid(join(path, labels.QUEUE_TIMEOUT), text, str(error))
        return
    if value <= 0:
        yield invalid(join(path, labels.QUEUE_TIMEOUT), text, "must be longer than 0")


def _name(meta: JsonObject) -> Iterator[FieldError]:
    name, prefix = text(meta, "name"), text(meta, "generateName")
    if not name and not prefix:
        yield FieldError("metadata.name", "name or generateName is required")
    if name and (wrong := dns_1035_label(name)):
        yield FieldError("metadata.name", f"not a DNS 1035 label: [{wrong}]", f'name: "{name}"')
    # What follows a prefix is a letter or digit, so a prefix may end in "-".
    if prefix and not name and (wrong := dns_1035_label(prefix + "a")):
        yield FieldError(
            "metadata.generateName", f"not a DNS 1035 label prefix: [{wrong}]", f'generateName: "{prefix}"'
        )


def _networking_keys(annotations: Mapping[str, str]) -> Iterator[FieldError]:
    for key in annotations:
        if key.startswith(_NETWORKING) and key not in _NETWORKING_KEYS:
            yield FieldError("metadata.annotations", f'invalid key name "{key}"')


def _labels(obj: JsonObject) -> Iterator[FieldError]:
    meta = struct(obj, "metadata")
    own = texts(meta, "labels")
    visibility = own.get(labels.VISIBILITY, "")
    if visibility not in ("", labels.CLUSTER_LOCAL):
        path = join("metadata.labels", labels.VISIBILITY)
        yield invalid(path, visibility, f"must be {labels.CLUSTER_LOCAL} or empty")
    label, owner = _OWNERS.get(str(obj.get("kind")), ("", ""))
    if label in own and not any(_is_owner(ref, owner, own[label]) for ref in structs(meta, "ownerReferences")):
        detail = f'the label is the {owner}\'s to set, and no {owner} "{own[label]}" owns this object'
        yield FieldError(join("metadata.labels", label), "missing owner references", detail)


def _is_owner(reference: JsonObject, kind: str, name: str) -> bool:
    return reference.get("kind") == kind and reference.get("name") == name and bool(reference.get("controller"))


def _user_info(obj: JsonObject, old: JsonObject) -> Iterator[FieldError]:
    before, after = texts(old, "metadata", "annotations"), texts(obj, "metadata", "annotations")
    fixed = [labels.CREATOR]
    if obj.get("spec") == old.get("spec"):
        fixed.append(labels.LAST_MODIFIER)
    for key in fixed:
        if key in before and after.get(key) != before[key]:
            yield FieldError(join("metadata.annotations", key), "annotation value is immutable")
