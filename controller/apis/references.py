"""Whom an object names in its spec, for indexes: "which Services select this pod?" without looking at every Service.

A reference is a text that both sides can make: `label NAME=VALUE` for a selector, `configuration NAME` and
`revision NAME` for a traffic target, `route NAME` for a Route whose name was left on what it refers to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.apis import kinds, labels
from controller.apis.meta import annotations_of

if TYPE_CHECKING:
    from controller.apis.meta import JsonObject


def label_reference(name: str, value: str) -> str:
    """To whatever carries the label."""
    return f"label {name}={value}"


def configuration_reference(name: str) -> str:
    return f"configuration {name}"


def revision_reference(name: str) -> str:
    return f"revision {name}"


def route_reference(name: str) -> str:
    return f"route {name}"


def references(obj: JsonObject) -> frozenset[str]:
    """The references of a core Service, a Route, a Configuration or a Revision; nothing for other kinds. A Service has
    one: all labels of its selector must be there, so any of them finds it, and whoever asks has to compare the rest."""
    match obj["kind"], obj["apiVersion"]:
        case "Service", kinds.CORE_SERVICE.version:
            selector = (obj.get("spec") or {}).get("selector") or {}
            return frozenset(label_reference(*pair) for pair in sorted(selector.items())[:1])
        case "Route", kinds.ROUTE.api_version:
            traffic = (obj.get("spec") or {}).get("traffic") or ()
            by_configuration = (target.get("configurationName") for target in traffic)
            by_revision = (target.get("revisionName") for target in traffic)
            return frozenset(
                [configuration_reference(name) for name in by_configuration if name]
                + [revision_reference(name) for name in by_revision if name]
            )
        case "Configuration" | "Revision", kinds.ROUTE.api_version:
            return frozenset(map(route_reference, routes_of(obj)))
        case _:
            return frozenset()


def routes_of(obj: JsonObject) -> frozenset[str]:
    """The Routes that refer to a Configuration or a Revision, from its annotation."""
    return frozenset(name for name in annotations_of(obj).get(labels.ROUTES, "").split(",") if name)
