"""Defaults and validation on write: what Knative's webhooks do on a cluster, called in the same place (thin).

The rules themselves are pure and shared with the cluster mode (`controller.apis.defaults` and `validation`); here they
are only chosen by kind, given the configuration of the moment, and their refusals worded as kubectl shows Knative's.

A new Pod gets its ports on this machine here, as a scheduler would choose its node. The agent could do that as well
(and does for a pod that it starts once more), but then a cold start would have to write them, and only then could the
endpoint be told: a fifth of the control process' work of a cold start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from controller.apis import kinds
from controller.apis.defaults import apply_defaults
from controller.apis.validation import validate
from controller.config.store import NAMESPACE
from controller.embedded import podphase, status
from controller.embedded.ports import NoPort

if TYPE_CHECKING:
    from collections.abc import Callable

    from controller.apis.meta import JsonObject
    from controller.config.store import Config
    from controller.embedded.ports import PortAllocator

_OBJECTS = "validation.webhook.serving.knative.dev"
_CONFIGURATION = "config.webhook.serving.knative.dev"
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
    """Knative's defaulting and validation for Knative's kinds, and validation for its ConfigMaps; ports for new Pods;
    every other kind passes unchanged. `config` gives the configuration of the moment."""

    def __init__(self, config: Callable[[], Config], ports: PortAllocator) -> None:
        self._config = config
        self._ports = ports

    def mutate(self, obj: JsonObject, old: JsonObject | None, user: str) -> JsonObject:
        """The object with Knative's defaults, where it is one of Knative's kinds; a new Pod with its ports; else the
        object itself."""
        if old is None and obj["kind"] == kinds.POD.kind and obj["apiVersion"] == kinds.POD.api_version:
            return self._placed(obj)
        if _webhook(obj) != _OBJECTS:
            return obj
        return apply_defaults(obj, old, self._config(), user)

    def _placed(self, pod: JsonObject) -> JsonObject:
        try:
            ports = {number: self._ports.propose() for number in podphase.mapped_ports(pod)}
        except (NoPort, KeyError, TypeError, ValueError, AttributeError):
            return pod  # the agent, or the schema, which is asked next, has better words
        return podphase.with_host_ports(pod, ports) if ports else pod

    def check(self, obj: JsonObject, old: JsonObject | None) -> None:
        """Raises ApiError (400) with all that is wrong, worded as Knative's webhook does."""
        webhook = _webhook(obj)
        if webhook is None:
            return
        errors = validate(obj, old, self._config())
        if errors:
            problems = "\n".join(str(error) for error in errors)
            raise status.bad_request(f'admission webhook "{webhook}" denied the request: validation failed: {problems}')


def _webhook(obj: JsonObject) -> str | None:
    """The name of the webhook that would look at the object on a cluster."""
    if obj["apiVersion"].partition("/")[0] in _GROUPS:
        return _OBJECTS
    is_config_map = obj["kind"] == kinds.CONFIG_MAP.kind and obj["apiVersion"] == kinds.CONFIG_MAP.api_version
    return _CONFIGURATION if is_config_map and obj["metadata"].get("namespace") == NAMESPACE else None
