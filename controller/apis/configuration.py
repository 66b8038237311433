"""A Configuration as the reconcilers see it: the template of Revisions, and which of them are latest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.apis import conditions

if TYPE_CHECKING:
    from controller.apis.conditions import Conditions
    from controller.apis.meta import JsonObject

CONDITIONS = conditions.ConditionSet()
"""A Configuration has no dependents; its Ready is marked directly."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """`template` is the Revision template (`metadata`, `spec`) verbatim; names in the status are "" until known."""

    obj: JsonObject
    template: JsonObject
    latest_created: str
    latest_ready: str
    conditions: Conditions

    @property
    def revision_name(self) -> str:
        """The name the user chose for the next Revision, "" if it is numbered."""
        return template_name(self.template)


def parse(obj: JsonObject) -> Configuration:
    """The view of a Configuration object."""
    status = obj.get("status") or {}
    return Configuration(
        obj=obj,
        template=obj["spec"]["template"],
        latest_created=status.get("latestCreatedRevisionName", ""),
        latest_ready=status.get("latestReadyRevisionName", ""),
        conditions=conditions.from_status(status),
    )


def template_name(template: JsonObject) -> str:
    """The name that a template asks for its revision, "" to have one made."""
    name: str = (template.get("metadata") or {}).get("name") or ""
    return name
