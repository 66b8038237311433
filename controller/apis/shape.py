"""Reading parts of objects whose shape nobody has checked yet.

Admission sees what a client sent. The schema's own check names a value of the wrong type better than any rule could,
so rules look through these functions: a part of the wrong type reads as an absent one, and nothing here raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.apis.fielderror import join

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.apis.meta import JsonObject


def struct(parent: object, *names: str) -> JsonObject:
    """The object at `names` under `parent`; an empty one where there is none."""
    for name in names:
        parent = parent.get(name) if isinstance(parent, dict) else None
    return parent if isinstance(parent, dict) else {}


def structs(parent: object, name: str) -> list[JsonObject]:
    """The objects in the list `name` of `parent`."""
    value = struct(parent).get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def indexed(parent: object, name: str, path: str) -> Iterator[tuple[JsonObject, str]]:
    """The objects in the list `name` of `parent`, each with its path."""
    value = struct(parent).get(name)
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, dict):
            yield item, f"{join(path, name)}[{index}]"


def text(parent: object, name: str) -> str:
    """The string `name` of `parent`; "" where there is none."""
    value = struct(parent).get(name)
    return value if isinstance(value, str) else ""


def number(parent: object, name: str) -> int:
    """The integer `name` of `parent`; 0 where there is none."""
    value = struct(parent).get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def texts(parent: object, *names: str) -> dict[str, str]:
    """The string entries of the map at `names` (labels, annotations, data)."""
    return {key: value for key, value in struct(parent, *names).items() if isinstance(value, str)}


def members(parent: object) -> list[str]:
    """The fields of `parent` that are set: neither absent nor null."""
    return [name for name, value in struct(parent).items() if value is not None]


def is_set(parent: object, name: str) -> bool:
    """Whether the field is there with a value; null is absent."""
    return struct(parent).get(name) is not None
