"""How an answer is shown: whole objects, Tables (what `kubectl get` prints) or metadata only (pure).

The client chooses with Accept (`application/json;as=Table;v=v1;g=meta.k8s.io`). Whole objects are spliced from the
stored bytes; the other two are rare enough to be built.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import orjson

from controller.embedded import status, tables

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from controller.apis.meta import JsonObject
    from controller.embedded.operations import Page
    from controller.embedded.resources import Resource
    from controller.embedded.store import Stored

OBJECT, TABLE, PARTIAL = "object", "table", "partial"
_META_GROUP = "meta.k8s.io"
_SHAPES = {
    "Table": TABLE,
    "PartialObjectMetadata": PARTIAL,
    "PartialObjectMetadataList": PARTIAL,
}


@dataclass(frozen=True, slots=True)
class View:
    """`shape` is OBJECT, TABLE or PARTIAL; `version` the meta.k8s.io version the last two are written in;
    `include_object` says what a Table's rows carry: None, Metadata or Object."""

    shape: str = OBJECT
    version: str = "v1"
    include_object: str = "Metadata"


@lru_cache(maxsize=256)
def negotiate(accept: str, include_object: str) -> View:
    """The first media range of Accept that we can write. Raises ApiError 406."""
    for media_range in accept.split(",") if accept else ("*/*",):
        media_type, *parameters = (part.strip() for part in media_range.split(";"))
        if media_type not in ("application/json", "application/*", "*/*"):
            continue
        given = dict(part.partition("=")[::2] for part in parameters)
        if "as" not in given:
            return View()
        shape = _SHAPES.get(given["as"])
        if shape and given.get("g") == _META_GROUP and given.get("v") in ("v1", "v1beta1"):
            return View(shape, given["v"], include_object or "Metadata")
    raise status.not_acceptable()


def one(view: View, resource: Resource, stored: Stored, now: datetime) -> bytes:
    """A single object."""
    if view.shape == OBJECT:
        return stored.body
    if view.shape == PARTIAL:
        return orjson.dumps(_partial(view, stored.obj))
    table = _table(view, resource, [stored], now)
    table["metadata"] = {"resourceVersion": stored.obj["metadata"]["resourceVersion"]}
    return orjson.dumps(table)


def page(view: View, resource: Resource, found: Page, now: datetime) -> bytes:
    """A list."""
    meta: JsonObject = {"resourceVersion": str(found.revision)}
    if found.continue_:
        meta["continue"] = found.continue_
    if found.remaining is not None:
        meta["remainingItemCount"] = found.remaining
    if view.shape == TABLE:
        return orjson.dumps({**_table(view, resource, found.items, now), "metadata": meta})
    if view.shape == PARTIAL:
        kind, version = "PartialObjectMetadataList", f"{_META_GROUP}/{view.version}"
        items = b",".join(orjson.dumps(_partial(view, stored.obj)) for stored in found.items)
    else:
        kind, version = resource.list_kind, resource.kind.api_version
        items = b",".join(stored.body for stored in found.items)
    head = orjson.dumps({"kind": kind, "apiVersion": version, "metadata": meta})
    return head[:-1] + b',"items":[' + items + b"]}"


def watch_event(view: View, resource: Resource, type_: str, stored: Stored, now: datetime) -> bytes:
    """One line of a watch."""
    return b'{"type":"' + type_.encode() + b'","object":' + one(view, resource, stored, now) + b"}\n"


def bookmark(view: View, resource: Resource, revision: int, *, initial_end: bool = False) -> bytes:
    """A line that tells how far the watch is, or that its initial state is complete."""
    meta: JsonObject = {"resourceVersion": str(revision)}
    if initial_end:
        meta["annotations"] = {"k8s.io/initial-events-end": "true"}
    obj: JsonObject = {"kind": resource.kind.kind, "apiVersion": resource.kind.api_version, "metadata": meta}
    if view.shape == PARTIAL:
        obj |= {"kind": "PartialObjectMetadata", "apiVersion": f"{_META_GROUP}/{view.version}"}
    elif view.shape == TABLE:
        obj = {
            "kind": "Table",
            "apiVersion": f"{_META_GROUP}/{view.version}",
            "metadata": {"resourceVersion": str(revision)},
            "columnDefinitions": [],
            "rows": [],
        }
    return orjson.dumps({"type": "BOOKMARK", "object": obj}) + b"\n"


def _table(view: View, resource: Resource, items: Sequence[Stored], now: datetime) -> JsonObject:
    table = tables.table(_columns(resource), [stored.obj for stored in items], now)
    table["apiVersion"] = f"{_META_GROUP}/{view.version}"
    for row, stored in zip(table["rows"], items, strict=True):
        if view.include_object == "Object":
            row["object"] = stored.obj
        elif view.include_object == "None":
            row.pop("object", None)
    return table


@lru_cache(maxsize=256)
def _columns(resource: Resource) -> tables.Columns:
    if resource.crd_version is not None:
        return tables.crd_columns(resource.crd_version)
    return tables.builtin_columns(resource.kind)


def _partial(view: View, obj: JsonObject) -> JsonObject:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"{_META_GROUP}/{view.version}",
        "metadata": obj["metadata"],
    }
