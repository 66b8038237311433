"""Which volumes a revision may have, and how containers may mount them.

Replicas of a revision come and go, so what they mount is read-only, except for what is theirs alone (emptyDir,
ephemeral) or made to be shared (persistent claims, with their gate).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.apis.fielderror import FieldError, disallowed, exactly_one, invalid, join, missing
from controller.apis.names import dns_1123_label
from controller.apis.quantities import parse_quantity
from controller.apis.shape import indexed, is_set, members, struct, structs, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.apis.meta import JsonObject
    from controller.config.features import FeaturesConfig, Gate

_ALWAYS = ("secret", "configMap", "projected")
_WRITABLE = ("emptyDir", "persistentVolumeClaim", "ephemeral")
_PROJECTIONS = ("secret", "configMap", "serviceAccountToken", "downwardAPI")
_MOUNT_FIELDS = {"name", "readOnly", "mountPath", "subPath"}
_RESERVED_PATHS = ("/", "/dev", "/dev/log")


def validate_volumes(spec: JsonObject, features: FeaturesConfig, path: str) -> Iterator[FieldError]:
    """What is wrong with the volumes of a revision spec at `path`."""
    gates = _gates(features)
    sources = (*_ALWAYS, *gates)
    mounted = {
        text(mount, "name")
        for part in ("containers", "initContainers")
        for container in structs(spec, part)
        for mount in structs(container, "volumeMounts")
    }
    seen: set[str] = set()
    for volume, at in indexed(spec, "volumes", path):
        name = text(volume, "name")
        if not name:
            yield missing(join(at, "name"))
        elif wrong := dns_1123_label(name):
            yield invalid(join(at, "name"), name, wrong)
        elif name in seen:
            yield FieldError(join(at, "name"), f'duplicate volume name "{name}"')
        elif name not in mounted:
            yield FieldError(join(at, "name"), f'volume with name "{name}" not mounted')
        seen.add(name)
        yield from (disallowed(join(at, field)) for field in members(volume) if field not in ("name", *sources))
        found = [source for source in sources if is_set(volume, source)]
        yield from (disallowed(join(at, s)) for s in found if s in gates and not gates[s].open)
        if error := exactly_one(at, *found, among=_ALWAYS):
            yield error
        yield from _source(volume, features, at)


def _gates(features: FeaturesConfig) -> dict[str, Gate]:
    return {
        "emptyDir": features.podspec_volumes_emptydir,
        "persistentVolumeClaim": features.podspec_persistent_volume_claim,
        "hostPath": features.podspec_volumes_hostpath,
        "csi": features.podspec_volumes_csi,
        "ephemeral": features.podspec_volumes_ephemeral,
        "image": features.podspec_volumes_image,
    }


def _source(volume: JsonObject, features: FeaturesConfig, path: str) -> Iterator[FieldError]:
    if is_set(volume, "secret"):
        yield from _named(struct(volume, "secret"), "secretName", f"{path}.secret")
    if is_set(volume, "configMap"):
        yield from _named(struct(volume, "configMap"), "name", f"{path}.configMap")
    if is_set(volume, "projected"):
        yield from _projected(struct(volume, "projected"), f"{path}.projected")
    if is_set(volume, "emptyDir"):
        yield from _empty_dir(struct(volume, "emptyDir"), f"{path}.emptyDir")
    claim = struct(volume, "persistentVolumeClaim")
    if claim and not claim.get("readOnly") and not features.podspec_persistent_volume_write.open:
        detail = "Persistent volume write support is off, but found persistent volume claim that is not read-only"
        yield FieldError(f"{path}.persistentVolumeClaim.readOnly", "must be true", detail)


def _named(source: JsonObject, field: str, path: str) -> Iterator[FieldError]:
    """A ConfigMap or Secret and the files it becomes."""
    if not text(source, field):
        yield missing(join(path, field))
    yield from _files(source, path)


def _files(source: JsonObject, path: str) -> Iterator[FieldError]:
    for item, at in indexed(source, "items", path):
        yield from (missing(join(at, field)) for field in ("key", "path") if not text(item, field))
        yield from _relative(text(item, "path"), join(at, "path"))


def _relative(value: str, path: str) -> Iterator[FieldError]:
    if value.startswith("/") or ".." in value.split("/"):
        yield invalid(path, value, "must be a relative path without ..")


def _projected(source: JsonObject, path: str) -> Iterator[FieldError]:
    if not structs(source, "sources"):
        yield missing(join(path, "sources"))
    for projection, at in indexed(source, "sources", path):
        found = [kind for kind in _PROJECTIONS if is_set(projection, kind)]
        if error := exactly_one(at, *found, among=_PROJECTIONS):
            yield error
        for kind in ("secret", "configMap"):
            if is_set(projection, kind):
                yield from _named(struct(projection, kind), "name", join(at, kind))
        if is_set(projection, "serviceAccountToken"):
            token = text(struct(projection, "serviceAccountToken"), "path")
            if not token:
                yield missing(f"{at}.serviceAccountToken.path")
            yield from _relative(token, f"{at}.serviceAccountToken.path")
        for item, item_at in indexed(struct(projection, "downwardAPI"), "items", f"{at}.downwardAPI"):
            yield from _relative(text(item, "path"), join(item_at, "path"))


def _empty_dir(source: JsonObject, path: str) -> Iterator[FieldError]:
    yield from (disallowed(join(path, field)) for field in members(source) if field not in ("medium", "sizeLimit"))
    if text(source, "medium") not in ("", "Memory"):
        yield invalid(join(path, "medium"), source["medium"], "must be Memory or unset")
    if is_set(source, "sizeLimit"):
        try:
            positive = parse_quantity(str(source["sizeLimit"])) > 0
        except ValueError:
            positive = False
        if not positive:
            yield invalid(join(path, "sizeLimit"), source["sizeLimit"], 'must be a quantity above 0, such as "64Mi"')


def validate_mounts(
    container: JsonObject, volumes: dict[str, JsonObject], features: FeaturesConfig, path: str
) -> Iterator[FieldError]:
    """What is wrong with the mounts of a container at `path`; `volumes` are the revision's, by name."""
    seen: set[str] = set()
    for mount, at in indexed(container, "volumeMounts", path):
        yield from _mount_fields(mount, features, at)
        volume = volumes.get(text(mount, "name"))
        if not text(mount, "name"):
            yield missing(join(at, "name"))
        elif volume is None:
            yield FieldError(join(at, "name"), "volumeMount has no matching volume")
        elif mount.get("readOnly") is not True and not any(is_set(volume, source) for source in _WRITABLE):
            yield invalid(join(at, "readOnly"), False, "only emptyDir, ephemeral and persistent volumes are writable")
        where = text(mount, "mountPath")
        if not where:
            yield missing(join(at, "mountPath"))
        elif _clean(where) in _RESERVED_PATHS:
            yield FieldError(join(at, "mountPath"), f'mountPath "{_clean(where)}" is a reserved path')
        elif not where.startswith("/"):
            yield invalid(join(at, "mountPath"), where, "must be an absolute path")
        elif _clean(where) in seen:
            yield FieldError(join(at, "mountPath"), f'"{_clean(where)}" must be unique')
        seen.add(_clean(where))


def _clean(where: str) -> str:
    parts = [part for part in where.split("/") if part not in ("", ".")]
    return "/" * where.startswith("/") + "/".join(parts)


def _mount_fields(mount: JsonObject, features: FeaturesConfig, path: str) -> Iterator[FieldError]:
    for field in members(mount):
        if field == "mountPropagation" and features.podspec_volumes_mount_propagation.open:
            if mount[field] not in ("None", "HostToContainer"):
                yield invalid(join(path, field), mount[field], "must be None or HostToContainer")
        elif field not in _MOUNT_FIELDS:
            yield disallowed(join(path, field))
