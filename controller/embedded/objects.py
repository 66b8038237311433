"""How an object comes to be and changes, apart from storing it (pure).

The rules are those of k8s.io/apiserver's registry/rest: the server owns uid, creationTimestamp, resourceVersion,
generation and the deletion fields; a write to the main resource can't change the status where there is a status
subresource, and the other way round; `generation` counts changes outside metadata and status.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

from controller.apis import kinds
from controller.apis.meta import JsonObject, format_time
from controller.embedded import builtins, status
from controller.embedded.selectors import is_label_key, is_label_value

if TYPE_CHECKING:
    from datetime import datetime

    from controller.apis.kinds import Kind
    from controller.embedded.resources import Resource

GENERATED_SUFFIX = 5
"""Random characters after a generateName."""
SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Kubernetes' choice: no vowels, so no words; nothing that looks like something else."""
_GENERATED_PREFIX = 63 - GENERATED_SUFFIX
_ANNOTATIONS_LIMIT = 256 * 1024

_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
_SERVER_OWNED = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds")
FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


def check_envelope(resource: Resource, obj: JsonObject, namespace: str, name: str | None) -> None:
    """Checks a request body against its URL and completes it with what the URL says. `name` None: the URL has none.
    Raises ApiError 400."""
    kind = resource.kind
    given_version, given_kind = obj.setdefault("apiVersion", kind.api_version), obj.setdefault("kind", kind.kind)
    if given_version != kind.api_version:
        raise status.bad_request(
            f"the API version in the data ({given_version}) does not match the expected API version"
            f" ({kind.api_version})"
        )
    if given_kind != kind.kind:
        raise status.bad_request(f"the kind in the data ({given_kind}) does not match the expected kind ({kind.kind})")
    meta = obj.setdefault("metadata", {})
    if not isinstance(meta, dict):
        raise status.bad_request("metadata: must be an object")
    _check_types(meta)
    if meta.setdefault("namespace", namespace) != namespace:
        raise status.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    if not namespace:
        del meta["namespace"]
    if name is not None and meta.setdefault("name", name) != name:
        raise status.bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")


def _check_types(meta: JsonObject) -> None:
    for field in ("name", "generateName", "namespace", "uid", "resourceVersion"):
        if not isinstance(meta.get(field, ""), str):
            raise status.bad_request(f"metadata.{field}: must be a string")
    for field in ("labels", "annotations"):
        value = meta.get(field)
        if value is None:
            meta.pop(field, None)
        elif not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            raise status.bad_request(f"metadata.{field}: must be a map of strings")
    for field, each_type in (("finalizers", str), ("ownerReferences", dict)):
        value = meta.get(field)
        if value is None or value == []:
            meta.pop(field, None)
        elif not isinstance(value, list) or not all(isinstance(each, each_type) for each in value):
            raise status.bad_request(f"metadata.{field}: must be a list of {each_type.__name__} values")


def prepare_create(resource: Resource, obj: JsonObject, *, suffix: str, uid: str, now: datetime) -> None:
    """Makes a request body a new object, in place: names it, owns its metadata, starts its status.
    Raises ApiError 400 or 422."""
    meta = obj["metadata"]
    if meta.pop("resourceVersion", ""):
        raise status.bad_request("resourceVersion should not be set on objects to be created")
    if not meta.get("name"):
        prefix = meta.get("generateName")
        if not prefix:
            raise status.invalid(resource.kind, "", ["metadata.name: Required value: name or generateName is required"])
        meta["name"] = prefix[:_GENERATED_PREFIX] + suffix
    for field in (*_SERVER_OWNED, "selfLink"):
        meta.pop(field, None)
    meta["uid"] = uid
    meta["creationTimestamp"] = format_time(now)
    if resource.tracks_generation:
        meta["generation"] = 1
    if "status" in resource.subresources:
        obj.pop("status", None)
        first = builtins.first_status(resource.kind)
        if first is not None:
            obj["status"] = first


def prepare_update(resource: Resource, old: JsonObject, new: JsonObject) -> None:
    """Makes a whole new state of the main resource, in place: what the server owns is the old's. Raises ApiError."""
    _check_precondition(resource.kind, old, new)
    _keep_metadata(old["metadata"], new["metadata"])
    if "status" in resource.subresources:
        _copy(old, new, "status")
    if resource.kind == kinds.NAMESPACE:
        _copy(old, new, "spec")
    _check_finalizers(resource.kind, old["metadata"], new["metadata"])


def prepare_status(resource: Resource, old: JsonObject, new: JsonObject) -> JsonObject:
    """The state after a write to the status subresource: the old with the new status. Raises ApiError.

    A core Pod's status write also takes labels and annotations; a custom resource's doesn't.
    """
    _check_precondition(resource.kind, old, new)
    merged = dict(old)
    merged["metadata"] = dict(old["metadata"])
    _copy(new, merged, "status")
    if resource.kind == kinds.POD:
        _copy(new["metadata"], merged["metadata"], "labels")
        _copy(new["metadata"], merged["metadata"], "annotations")
    return merged


def count_generation(resource: Resource, old: JsonObject, new: JsonObject) -> None:
    """Counts `new`'s generation up, in place, if anything but metadata and status differs."""
    if resource.tracks_generation and _desired(old) != _desired(new):
        new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1


def is_same(old: JsonObject, new: JsonObject, *, managed_fields: bool) -> bool:
    """Whether a write would change nothing: then it isn't made, and the resourceVersion stays. The times in
    managedFields never count; `managed_fields` says whether the rest of them does (it does for an apply)."""
    for field in old.keys() | new.keys():
        if field != "metadata" and old.get(field) != new.get(field):
            return False
    ignored = ("managedFields", "resourceVersion")
    a, b = old["metadata"], new["metadata"]
    if {k: v for k, v in a.items() if k not in ignored} != {k: v for k, v in b.items() if k not in ignored}:
        return False
    return not managed_fields or _untimed(a.get("managedFields")) == _untimed(b.get("managedFields"))


def problems(resource: Resource, obj: JsonObject, known: JsonObject | None = None) -> list[str]:
    """What is wrong with a complete object: its metadata, then its kind's own rules or schema. Parts that are those of
    `known`, the stored object, have been found right before."""
    found: list[str] = []
    if known is None or not _same_metadata(known["metadata"], obj["metadata"]):
        found += [*_name_problems(resource.kind, obj["metadata"]["name"]), *_metadata_problems(obj["metadata"])]
    shape = [] if resource.schema is None else resource.schema.validate(obj, known)
    if shape or (known is not None and is_status_write(known, obj)):
        return found + shape
    # A built-in kind's own rules read fields whose types the schema has to have found right first.
    return found + builtins.problems(resource.kind, obj)


def _same_metadata(old: JsonObject, new: JsonObject) -> bool:
    return all(old.get(field) == new.get(field) for field in ("name", "labels", "annotations", "ownerReferences"))


def is_status_write(old: JsonObject, new: JsonObject) -> bool:
    """Whether all of `new` but its metadata and status are the very parts of `old`."""
    return all(each is old.get(field) for field, each in new.items() if field not in ("metadata", "status"))


def begin_deletion(obj: JsonObject, *, now: datetime, grace: int, finalizers: list[str]) -> None:
    """Marks `obj` as being deleted, in place. `grace` is in seconds; deletionTimestamp is when it will have passed."""
    meta = obj["metadata"]
    if "deletionTimestamp" not in meta or grace < meta.get("deletionGracePeriodSeconds", 0):
        if "generation" in meta and "deletionTimestamp" not in meta:
            meta["generation"] += 1
        meta["deletionTimestamp"] = format_time(now + timedelta(seconds=grace))
        meta["deletionGracePeriodSeconds"] = grace
    if finalizers:
        meta["finalizers"] = finalizers
    else:
        meta.pop("finalizers", None)
    if obj["kind"] == "Namespace" and obj["apiVersion"] == "v1":
        obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}


def is_finished(obj: JsonObject) -> bool:
    """Whether a deleting object has nothing left that holds it."""
    meta = obj["metadata"]
    if "deletionTimestamp" not in meta or meta.get("finalizers") or meta.get("deletionGracePeriodSeconds"):
        return False
    return not (obj["kind"] == "Namespace" and obj["apiVersion"] == "v1" and obj.get("spec", {}).get("finalizers"))


def scale_of(deployment: JsonObject) -> JsonObject:
    """The autoscaling/v1 Scale of a Deployment."""
    meta, spec = deployment["metadata"], deployment["spec"]
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            field: meta[field]
            for field in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
            if field in meta
        },
        "spec": {"replicas": spec.get("replicas", 1)},
        "status": {
            "replicas": (deployment.get("status") or {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        },
    }


def with_scale(deployment: JsonObject, scale: JsonObject) -> JsonObject:
    """The Deployment that a written Scale asks for. Raises ApiError."""
    name = deployment["metadata"]["name"]
    _check_precondition(kinds.DEPLOYMENT, deployment, scale)
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        kind = kinds.Kind("autoscaling", "v1", "Scale", "scales")
        problem = f"spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0"
        raise status.invalid(kind, name, [problem])
    return {
        **deployment,
        "metadata": dict(deployment["metadata"]),
        "spec": {**deployment["spec"], "replicas": replicas},
    }


def _check_precondition(kind: Kind, old: JsonObject, new: JsonObject) -> None:
    old_meta, meta = old["metadata"], new["metadata"]
    if meta.get("uid") and meta["uid"] != old_meta["uid"]:
        why = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {old_meta['uid']}"
        raise status.conflict(kind, old_meta["name"], why)
    if meta.get("resourceVersion") and meta["resourceVersion"] != old_meta["resourceVersion"]:
        raise status.modified(kind, old_meta["name"])


def _keep_metadata(old: JsonObject, new: JsonObject) -> None:
    for field in (*_SERVER_OWNED, "generateName"):
        _copy(old, new, field)
    new.pop("selfLink", None)
    new["resourceVersion"] = old["resourceVersion"]
    if "managedFields" not in new:
        # A client that sends none means to leave them; an explicit empty list resets them (handled by the caller).
        _copy(old, new, "managedFields")


def _check_finalizers(kind: Kind, old: JsonObject, new: JsonObject) -> None:
    if "deletionTimestamp" not in old:
        return
    added = sorted(set(new.get("finalizers") or ()) - set(old.get("finalizers") or ()))
    if added:
        quoted = ", ".join(f'"{each}"' for each in added)
        problem = (
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted,"
            f" found new finalizers []string{{{quoted}}}"
        )
        raise status.invalid(kind, old["name"], [problem])


def _name_problems(kind: Kind, name: str) -> list[str]:
    label_only = kind in (kinds.NAMESPACE, kinds.CORE_SERVICE)
    limit, pattern, what = (63, _LABEL, "label") if label_only else (253, _SUBDOMAIN, "subdomain")
    if len(name) > limit:
        return [f'metadata.name: Invalid value: "{name}": must be no more than {limit} characters']
    if not pattern.fullmatch(name):
        return [
            f'metadata.name: Invalid value: "{name}": a lowercase RFC 1123 {what} must consist of lower case'
            " alphanumeric characters"
            + (" or '-'" if label_only else ", '-' or '.'")
            + ", and must start and end with an alphanumeric character"
        ]
    return []


def _metadata_problems(meta: JsonObject) -> list[str]:
    found = []
    for key, value in (meta.get("labels") or {}).items():
        if not is_label_key(key):
            found.append(f'metadata.labels: Invalid value: "{key}": not a label key')
        if not is_label_value(value):
            found.append(
                f'metadata.labels: Invalid value: "{value}": a valid label must be an empty string or consist of'
                " alphanumeric characters, '-', '_' or '.', at most 63 of them"
            )
    annotations = meta.get("annotations") or {}
    found += [
        f'metadata.annotations: Invalid value: "{key}": not an annotation key'
        for key in annotations
        if not is_label_key(key)
    ]
    if sum(len(key) + len(value) for key, value in annotations.items()) > _ANNOTATIONS_LIMIT:
        found.append(f"metadata.annotations: Too long: must have at most {_ANNOTATIONS_LIMIT} bytes")
    for index, ref in enumerate(meta.get("ownerReferences") or ()):
        found += [
            f"metadata.ownerReferences[{index}].{field}: Required value"
            for field in ("apiVersion", "kind", "name", "uid")
            if not isinstance(ref.get(field), str) or not ref[field]
        ]
    return found


def _desired(obj: JsonObject) -> JsonObject:
    return {field: value for field, value in obj.items() if field not in ("metadata", "status")}


def _untimed(entries: list[JsonObject] | None) -> list[JsonObject]:
    return [{field: value for field, value in entry.items() if field != "time"} for entry in entries or ()]


def _copy(source: JsonObject, target: JsonObject, field: str) -> None:
    if field in source:
        target[field] = source[field]
    else:
        target.pop(field, None)
