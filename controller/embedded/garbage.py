"""Garbage collection: owner references, propagation of deletions, and the content of deleted namespaces.

An index in memory follows every write: who is alive (by uid) and who depends on whom. Each event puts the few objects
it may concern on a worklist, and `step` decides one of them from the state of that moment (level-based, so the order
doesn't matter and a restart only has to fill the list with everything once). The rules are Kubernetes':

- an object whose owners are all gone is deleted; if some are left, the dangling references are dropped. A reference to
  a kind that isn't served here counts as alive, for nobody here can know;
- Foreground: the owner stays, with the finalizer foregroundDeletion, until every dependent whose reference says
  blockOwnerDeletion is gone;
- Orphan: the references of the dependents are removed first, then the finalizer `orphan`, then the owner goes;
- a namespace being deleted goes when the last object in it has gone.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import orjson

from controller.apis.meta import Key
from controller.embedded import objects
from controller.embedded.operations import NAMESPACES, DeleteOptions
from controller.embedded.resources import ResourceId
from controller.embedded.status import ApiError
from controller.embedded.store import DELETED, Event, Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from controller.apis.meta import JsonObject
    from controller.embedded.operations import Operations

Place = tuple[ResourceId, Key]

_BACKGROUND = DeleteOptions()
_FOREGROUND = DeleteOptions(propagation="Foreground")


class GarbageCollector:
    """Attaches itself to the store of `operations`. `wake` is called when the worklist is no longer empty; the owner
    then calls `step` until it returns False."""

    def __init__(self, operations: Operations, wake: Callable[[], None]) -> None:
        self._operations = operations
        self._store = operations.store
        self._wake = wake
        self._alive: dict[str, Place] = {}
        self._dependents: dict[str, dict[Place, None]] = {}
        self._pending: dict[Place, None] = {}
        for resource, stored in self._store.everything():
            self._add(resource, stored)
        for resource, stored in self._store.everything():
            self._enqueue_concerned(resource, stored)
        self._store.listen(self._on_event)

    def step(self) -> bool:
        """Does what one object on the worklist needs; False if there was none. Raises sqlite3.Error when the store
        can't be written; the object stays on the list then."""
        if not self._pending:
            return False
        place = next(iter(self._pending))
        stored = self._store.get(*place)
        del self._pending[place]
        if stored is not None:
            try:
                self._settle(place, stored)
            except sqlite3.Error:
                self._pending[place] = None
                raise
        return True

    # --- the index ----------------------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        if event.old is not None and event.type != DELETED and _same_refs(event.old.obj, event.new.obj):
            if "deletionTimestamp" in event.new.obj["metadata"]:
                self._enqueue_concerned(event.resource, event.new)
            return
        if event.old is not None:
            self._remove(event.resource, event.old)
        if event.type != DELETED:
            self._add(event.resource, event.new)
            self._enqueue_concerned(event.resource, event.new)
        else:
            self._enqueue_left_behind(event.new)
        if event.old is not None:
            self._enqueue_released_owners(event.old)

    def _add(self, resource: ResourceId, stored: Stored) -> None:
        place = (resource, stored.key)
        self._alive[stored.obj["metadata"]["uid"]] = place
        for ref in _refs(stored.obj):
            self._dependents.setdefault(ref["uid"], {})[place] = None

    def _remove(self, resource: ResourceId, stored: Stored) -> None:
        place = (resource, stored.key)
        self._alive.pop(stored.obj["metadata"]["uid"], None)
        for ref in _refs(stored.obj):
            dependents = self._dependents.get(ref["uid"])
            if dependents is not None:
                dependents.pop(place, None)
                if not dependents:
                    del self._dependents[ref["uid"]]

    def _enqueue(self, place: Place) -> None:
        if not self._pending:
            self._wake()
        self._pending[place] = None

    def _enqueue_concerned(self, resource: ResourceId, stored: Stored) -> None:
        """The object itself, if it refers to owners that aren't there, or is being deleted and waits for us."""
        meta = stored.obj["metadata"]
        is_leaving = "deletionTimestamp" in meta and (resource == NAMESPACES or _waits_for_us(stored.obj))
        if is_leaving or any(self._is_dangling(stored, ref) for ref in _refs(stored.obj)):
            self._enqueue((resource, stored.key))

    def _enqueue_left_behind(self, gone: Stored) -> None:
        for place in self._dependents.get(gone.obj["metadata"]["uid"], ()):
            self._enqueue(place)
        namespace = self._store.get(NAMESPACES, Key("", gone.key.namespace))
        if namespace is not None and "deletionTimestamp" in namespace.obj["metadata"]:
            self._enqueue((NAMESPACES, namespace.key))

    def _enqueue_released_owners(self, before: Stored) -> None:
        for ref in _refs(before.obj):
            place = self._alive.get(ref["uid"])
            owner = place and self._store.get(*place)
            if place and owner and _waits_for_us(owner.obj):
                self._enqueue(place)

    # --- decisions ----------------------------------------------------------------------------------------------------

    def _settle(self, place: Place, stored: Stored) -> None:
        meta = stored.obj["metadata"]
        if "deletionTimestamp" in meta:
            finalizers = meta.get("finalizers") or ()
            if place[0] == NAMESPACES:
                self._empty(place, stored)
            elif objects.ORPHAN in finalizers:
                self._orphan(place, stored)
            elif objects.FOREGROUND in finalizers:
                self._delete_blocking(place, stored)
            return
        dangling = [ref for ref in _refs(stored.obj) if self._is_dangling(stored, ref)]
        if len(dangling) == len(_refs(stored.obj)) and dangling:
            self._delete(place, self._propagation(stored))
        elif dangling:
            self._write(place, _without_refs(stored, {ref["uid"] for ref in dangling}))

    def _is_dangling(self, stored: Stored, ref: JsonObject) -> bool:
        """Whether the owner is gone, or is leaving and waits for this dependent to go first."""
        place = self._alive.get(ref["uid"])
        if place is None:
            return self._operations.registry.by_kind(ref["apiVersion"], ref["kind"]) is not None
        owner = self._store.get(*place)
        if owner is None or owner.key.namespace not in ("", stored.key.namespace):
            return True
        leaving = "deletionTimestamp" in owner.obj["metadata"]
        return leaving and objects.FOREGROUND in (owner.obj["metadata"].get("finalizers") or ())

    def _propagation(self, stored: Stored) -> DeleteOptions:
        """A dependent of an owner that waits takes its own dependents along first, if it has any."""
        waiting = any(ref["uid"] in self._alive for ref in _refs(stored.obj))
        return _FOREGROUND if waiting and self._dependents.get(stored.obj["metadata"]["uid"]) else _BACKGROUND

    def _dependents_of(self, stored: Stored) -> Iterator[tuple[Place, Stored]]:
        for place in tuple(self._dependents.get(stored.obj["metadata"]["uid"], ())):
            dependent = self._store.get(*place)
            if dependent is not None:
                yield place, dependent

    def _delete_blocking(self, place: Place, owner: Stored) -> None:
        uid = owner.obj["metadata"]["uid"]
        blocked = False
        for dependent_place, dependent in self._dependents_of(owner):
            blocks = any(ref["uid"] == uid and ref.get("blockOwnerDeletion") for ref in _refs(dependent.obj))
            if "deletionTimestamp" not in dependent.obj["metadata"]:
                self._enqueue(dependent_place)
            blocked = blocked or blocks
        if not blocked:
            self._write(place, _without_finalizer(owner, objects.FOREGROUND))

    def _orphan(self, place: Place, owner: Stored) -> None:
        uid = owner.obj["metadata"]["uid"]
        for dependent_place, dependent in self._dependents_of(owner):
            self._write(dependent_place, _without_refs(dependent, {uid}))
        self._write(place, _without_finalizer(owner, objects.ORPHAN))

    def _empty(self, place: Place, namespace: Stored) -> None:
        left = list(self._store.in_namespace(namespace.key.name))
        for resource, stored in left:
            if "deletionTimestamp" not in stored.obj["metadata"]:
                self._delete((resource, stored.key), _BACKGROUND)
        if any(True for _ in self._store.in_namespace(namespace.key.name)):
            return  # the last of them to go puts the namespace on the list again
        released = orjson.loads(namespace.body)
        released["spec"]["finalizers"] = []
        self._write(place, released)

    def _delete(self, place: Place, options: DeleteOptions) -> None:
        resource = self._operations.registry.by_id(place[0])
        try:
            self._operations.delete(resource, place[1], options)
        except ApiError as error:
            if error.code != 404:
                raise

    def _write(self, place: Place, obj: JsonObject) -> None:
        if objects.is_finished(obj):
            self._store.remove(*place)
        else:
            self._store.put(*place, obj)


def _refs(obj: JsonObject) -> list[JsonObject]:
    return obj["metadata"].get("ownerReferences") or []


def _same_refs(old: JsonObject, new: JsonObject) -> bool:
    return _refs(old) == _refs(new)


def _waits_for_us(obj: JsonObject) -> bool:
    finalizers = obj["metadata"].get("finalizers") or ()
    return "deletionTimestamp" in obj["metadata"] and (objects.FOREGROUND in finalizers or objects.ORPHAN in finalizers)


def _without_refs(stored: Stored, uids: set[str]) -> JsonObject:
    obj: JsonObject = orjson.loads(stored.body)
    left = [ref for ref in _refs(obj) if ref["uid"] not in uids]
    if left:
        obj["metadata"]["ownerReferences"] = left
    else:
        obj["metadata"].pop("ownerReferences", None)
    return obj


def _without_finalizer(stored: Stored, finalizer: str) -> JsonObject:
    obj: JsonObject = orjson.loads(stored.body)
    left = [each for each in obj["metadata"].get("finalizers") or () if each != finalizer]
    if left:
        obj["metadata"]["finalizers"] = left
    else:
        obj["metadata"].pop("finalizers", None)
    return obj
