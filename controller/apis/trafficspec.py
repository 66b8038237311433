"""Which traffic a Service or Route may ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.apis.fielderror import FieldError, disallowed, exactly_one, join, out_of_bounds
from controller.apis.names import dns_1035_label, qualified_name
from controller.apis.shape import indexed, is_set, number, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.apis.meta import JsonObject

_WHOLE = 100


def validate_traffic(spec: JsonObject, path: str, *, in_service: bool) -> Iterator[FieldError]:
    """What is wrong with `spec.traffic` at `path`. In a Service a target without a name means the latest revision."""
    total = 0
    tags: dict[str, list[str]] = {}
    for target, at in indexed(spec, "traffic", path):
        yield from _percent(target, at)
        yield from _tag(target, at)
        yield from _service_target(target, at) if in_service else _route_target(target, at)
        yield from _latest(target, at)
        if is_set(target, "url"):
            yield disallowed(join(at, "url"))
        total += number(target, "percent")
        if tag := text(target, "tag"):
            tags.setdefault(tag, []).append(join(at, "tag"))
    for tag, places in tags.items():
        if len(places) > 1:
            yield FieldError(", ".join(places), f'Multiple definitions for "{tag}"')
    if total != _WHOLE:
        yield FieldError(join(path, "traffic"), f"Traffic targets sum to {total}, want {_WHOLE}")


def _percent(target: JsonObject, path: str) -> Iterator[FieldError]:
    if not 0 <= number(target, "percent") <= _WHOLE:
        yield out_of_bounds(join(path, "percent"), target["percent"], 0, _WHOLE)


def _tag(target: JsonObject, path: str) -> Iterator[FieldError]:
    """A tag becomes the beginning of a host name."""
    tag = text(target, "tag")
    if tag and (wrong := dns_1035_label(tag)):
        yield FieldError(join(path, "tag"), f"not a DNS 1035 label: [{wrong}]", f'tag: "{tag}"')


def _service_target(target: JsonObject, path: str) -> Iterator[FieldError]:
    if text(target, "configurationName"):
        yield disallowed(join(path, "configurationName"), "a Service's targets are its own revisions")
    yield from _name(target, "revisionName", path)


def _route_target(target: JsonObject, path: str) -> Iterator[FieldError]:
    names = ("configurationName", "revisionName")
    if error := exactly_one(path, *(name for name in names if text(target, name)), among=names):
        yield error
    for name in names:
        yield from _name(target, name, path)


def _name(target: JsonObject, field: str, path: str) -> Iterator[FieldError]:
    name = text(target, field)
    if name and (wrong := qualified_name(name)):
        yield FieldError(join(path, field), f'invalid key name "{name}"', wrong)


def _latest(target: JsonObject, path: str) -> Iterator[FieldError]:
    """`latestRevision` only says again what the names say."""
    latest, revision = target.get("latestRevision"), text(target, "revisionName")
    if latest is True and revision:
        message = f'may not set revisionName "{revision}" when latestRevision is true'
        yield FieldError(join(path, "latestRevision"), message)
    if latest is False and not revision:
        yield FieldError(join(path, "latestRevision"), "may not set latestRevision to false without a revisionName")
