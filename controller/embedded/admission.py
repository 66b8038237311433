"""Defaults and validation on write: what Knative's webhooks do on a cluster, called in the same place (thin).

The rules themselves are pure and shared with the cluster mode (`controller.apis.defaults` and `validation`); here they
are only chosen by kind, given the configuration of the moment, and their refusals worded as kubectl shows Knative's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from controller.apis import kinds
from controller.apis.defaults import apply_defaults
from controller.apis.validation import validate
from controller.embedded import status

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.apis.meta import JsonObject
    from controller.config.store import Config

_WEBHOOK = "validation.webhook.serving.knative.dev"
_GROUPS = frozenset(kind.group for kind in kinds.KNATIVE_KINDS)


class WriteRules(Protocol):
    """What the write path asks before it stores an object. `old` is None for a creation."""

    def mutate(self, obj: JsonObject, old: JsonObject | None, user: str) -> JsonObject:
        """The object with defaults; a new one if anything changed."""
        ...

    def check(self, obj: JsonObject, old: JsonObject | None) -> None:
        """Raises ApiError if the object may not be stored."""
        ...


class Admission:
    """Knative's defaulting and validation for Knative's kinds; every other kind passes unchanged. `config` gives the
    configuration of the moment."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config

    def mutate(self, obj: JsonObject, old: JsonObject | None, user: str) -> JsonObject:
        if not _is_ours(obj):
            return obj
        return apply_defaults(obj, old, self._config(), user)

    def check(self, obj: JsonObject, old: JsonObject | None) -> None:
        if not _is_ours(obj):
            return
        errors = validate(obj, old, self._config())
        if errors:
            problems = "\n".join(str(error) for error in errors)
            raise status.bad_request(
                f'admission webhook "{_WEBHOOK}" denied the request: validation failed: {problems}'
            )


def _is_ours(obj: JsonObject) -> bool:
    return str(obj["apiVersion"]).partition("/")[0] in _GROUPS
