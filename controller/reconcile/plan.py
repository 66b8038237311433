"""The language between pure reconcilers and the shell that carries them out.

A controller is `observe` (read the caches into one value) and `reconcile` (that value to a `Plan`). Both are pure.
`controller.kube.runner` calls them for each key and `controller.kube.apply` carries the plan out: creates, updates,
patches and deletes first, status last, then events. A Conflict or NotFound while applying means the caches were
behind: the key is tried again. Reconciling is level-based: a plan never depends on which event woke the key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from controller.apis.meta import JsonObject, Key

if TYPE_CHECKING:
    from datetime import datetime

    from controller.apis.kinds import Kind
    from controller.config.store import Config

Observed = TypeVar("Observed")


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event about the reconciled object. `type` is "Normal" or "Warning"."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Patch:
    """A JSON merge patch (RFC 7386) of one object, e.g. labels on a revision or the replicas of a scale."""

    kind: Kind
    key: Key
    body: JsonObject
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Deletion:
    """One object to delete; that it is gone already is no error."""

    kind: Kind
    key: Key
    uid: str = ""
    """Delete only this incarnation; "" deletes whatever has the name."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to become true. `create` and `update` hold whole objects (apiVersion and kind set); an update carries
    the resourceVersion it was planned from. `status` is the reconciled object's whole new status; None leaves it.
    `error` says the reconcile failed: what the plan holds is still applied, a Warning event `InternalError` is written
    and the key is tried again with back-off. `requeue_after` is in seconds. `draining`: names of the pods that are to
    get no new request, None if no scale-down is under way; not the API server's matter (`Controller.carry_out`)."""

    create: tuple[JsonObject, ...] = ()
    update: tuple[JsonObject, ...] = ()
    patch: tuple[Patch, ...] = ()
    delete: tuple[Deletion, ...] = ()
    status: JsonObject | None = None
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    error: str = ""
    draining: frozenset[str] | None = None


class Cache(Protocol):
    """What the informers know. Objects are shared: never change one."""

    def get(self, kind: Kind, key: Key) -> JsonObject | None:
        """The object, or None when there is none."""

    def list(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[JsonObject]:
        """Objects of a kind, in one namespace if given, whose labels contain all of `labels`; sorted by key."""
        ...

    def referring(self, kind: Kind, namespace: str, reference: str) -> Sequence[JsonObject]:
        """Objects of a kind and namespace with this reference (see `apis.references`); sorted by key."""
        ...


Mapper = Callable[[JsonObject, Cache], Iterable[Key]]
"""Which keys of the controller's own kind an object of another kind concerns."""


@dataclass(frozen=True, slots=True)
class Controller(Generic[Observed]):
    """One kind's control loop. `observe` returns None when the object is gone. `watches` maps other kinds' objects to
    keys of `kind`; the controller's own kind is watched always. `ignores` says of a change of a watched kind, from an
    old state to a new one, that it makes no difference here. `carry_out` is handed each plan before it is applied, for
    what of it is not the API server's matter; it works in memory and can't fail."""

    kind: Kind
    observe: Callable[[Cache, Key], Observed | None]
    reconcile: Callable[[Observed, Config, datetime], Plan]
    watches: Mapping[Kind, Mapper] = field(default_factory=dict)
    ignores: Mapping[Kind, Callable[[JsonObject, JsonObject], bool]] = field(default_factory=dict)
    carry_out: Callable[[Key, Plan], None] | None = None


def owner_key(kind: Kind) -> Mapper:
    """The mapper for owned children: the key of the controller owner if it is of `kind`."""

    def keys(obj: JsonObject, _cache: Cache) -> Iterable[Key]:
        meta = obj["metadata"]
        for ref in meta.get("ownerReferences") or ():
            if ref.get("controller") and ref["kind"] == kind.kind and ref["apiVersion"].startswith(kind.group + "/"):
                yield Key(meta.get("namespace", ""), ref["name"])

    return keys
