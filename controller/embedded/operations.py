"""The write path and the lists of the REST surface over the store, without HTTP.

Each operation is one synchronous call: read, decide (`objects`, `admission`, `patch`, `managedfields`, all pure),
write. Nothing else runs in between, so optimistic concurrency needs no lock. Refusals are `ApiError`s.

Order on a write, as on a cluster: decode (unknown fields, structural defaults), server-owned metadata, mutating
admission, schema validation, validating admission, managedFields, store.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import orjson

from controller.apis import kinds
from controller.apis.meta import JsonObject, Key, key_of, parse_time
from controller.embedded import builtins, managedfields, objects, patch, status
from controller.embedded.resources import ResourceId
from controller.embedded.store import Compacted, Store, Stored, TooNew

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime, timedelta

    from controller.embedded.admission import WriteRules
    from controller.embedded.resources import Registry, Resource
    from controller.embedded.selectors import Selector

NAMESPACES = ResourceId("", "namespaces")
PODS = ResourceId("", "pods")
EVENTS = ResourceId("", "events")
DEFINITIONS = ResourceId("apiextensions.k8s.io", "customresourcedefinitions")

CONTROL_PLANE_NAMESPACE = "knative-serving"
KEPT_NAMESPACES = ("default", CONTROL_PLANE_NAMESPACE)
"""Made at the first start; they can't be deleted."""

EVENTS_LIMIT = 1000
"""Events that a namespace may have; a cluster bounds them by time alone. A thousand cold starts make four thousand."""
_FINISHED_PHASES = ("Succeeded", "Failed")
_DEFAULT_GRACE = 30


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """`field_validation`: Strict refuses unknown fields, Warn reports them, Ignore drops them silently. `force`: a
    server-side apply takes the fields of others."""

    user: str
    manager: str
    dry_run: bool = False
    field_validation: str = "Warn"
    force: bool = False


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """`propagation` is Background, Foreground or Orphan; `grace` in seconds, None for the object's own."""

    propagation: str = "Background"
    grace: int | None = None
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False


class Written(NamedTuple):
    """What a write left behind; `warnings` are told to the client and do not stop the write."""

    stored: Stored
    created: bool = False
    warnings: tuple[str, ...] = ()


class Page(NamedTuple):
    """Part of a list, all of it as of `revision`. `remaining` None: unknown."""

    items: list[Stored]
    revision: int
    continue_: str = ""
    remaining: int | None = None


class Operations:
    """See the module. `clock` gives an aware datetime; everything that can be refused raises ApiError."""

    def __init__(self, store: Store, registry: Registry, admission: WriteRules, clock: Callable[[], datetime]) -> None:
        self.store = store
        self.registry = registry
        self._admission = admission
        self._clock = clock

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, resource: Resource, key: Key) -> Stored:
        """The stored object. Raises ApiError (404)."""
        stored = self.store.get(resource.id, key)
        if stored is None:
            raise status.not_found(resource.kind, key.name)
        return stored

    def find(
        self,
        resource: Resource,
        namespace: str | None,
        selector: Selector,
        *,
        limit: int = 0,
        continue_: str = "",
        revision: int = 0,
        exact: bool = False,
    ) -> Page:
        """One page. `revision` is the oldest acceptable state, or with `exact` the only one. A continued list shows
        the state its first page had. Raises ApiError 400, 410 or 504."""
        after: Key | None = None
        if continue_:
            revision, after = _parse_continue(continue_)
            exact = True
        if revision > self.store.revision:
            raise status.too_new(revision, self.store.revision)
        if not exact or revision == self.store.revision:
            revision, items = self.store.revision, self._current(resource, namespace, selector)
        else:
            items = self._past(resource, namespace, revision)
        if not selector.is_empty:
            items = [stored for stored in items if selector.matches(stored.obj)]
        if after is not None:
            items = [stored for stored in items if stored.key > after]
        if not limit or len(items) <= limit:
            return Page(items, revision)
        shown = items[:limit]
        remaining = len(items) - limit if selector.is_empty else None
        return Page(shown, revision, _continue(revision, shown[-1].key), remaining)

    def _current(self, resource: Resource, namespace: str | None, selector: Selector) -> list[Stored]:
        name = selector.exact_name()
        if name is not None and (namespace is not None or not resource.kind.namespaced):
            stored = self.store.get(resource.id, Key(namespace or "", name))
            return [] if stored is None else [stored]
        return self.store.find(resource.id, namespace)

    def _past(self, resource: Resource, namespace: str | None, revision: int) -> list[Stored]:
        try:
            return self.store.find_at(revision, resource.id, namespace)
        except Compacted:
            raise status.expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new"
                " list without the continue parameter."
            ) from None
        except TooNew:
            raise status.too_new(revision, self.store.revision) from None

    # --- writing ------------------------------------------------------------------------------------------------------

    def create(self, resource: Resource, namespace: str, obj: JsonObject, options: WriteOptions) -> Written:
        """A new object, named here if it has only a generateName. Raises ApiError (409 AlreadyExists, 400, 403,
        422)."""
        objects.check_envelope(resource, obj, namespace, None)
        obj["metadata"].pop("managedFields", None)
        return self._create(resource, obj, options, applied=False)

    def update(
        self, resource: Resource, key: Key, obj: JsonObject, options: WriteOptions, subresource: str = ""
    ) -> Written:
        """PUT of the object or its status."""
        objects.check_envelope(resource, obj, key.namespace, key.name)
        old = self.get(resource, key)
        if resource.is_custom and not obj["metadata"].get("resourceVersion"):
            problem = "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
            raise status.invalid(resource.kind, key.name, [problem])
        return self._update(resource, old, obj, options, subresource)

    def patch(
        self,
        resource: Resource,
        key: Key,
        content_type: str,
        body: JsonObject | Sequence[JsonObject],
        options: WriteOptions,
        subresource: str = "",
    ) -> Written:
        """A change of a part: `body` is what `content_type` says, a list for JSON Patch. Raises ApiError (404, 409,
        422)."""
        old = self.get(resource, key)
        new = _patched(content_type, orjson.loads(old.body), body, resource.kind)
        objects.check_envelope(resource, new, key.namespace, key.name)
        return self._update(resource, old, new, options, subresource)

    def apply(
        self, resource: Resource, key: Key, applied: JsonObject, options: WriteOptions, subresource: str = ""
    ) -> Written:
        """Server-side apply; creates the object if there is none."""
        objects.check_envelope(resource, applied, key.namespace, key.name)
        if applied["metadata"].get("managedFields"):
            raise status.bad_request("metadata.managedFields must be nil")
        old = self.store.get(resource.id, key)
        if subresource and old is None:
            raise status.not_found(resource.kind, key.name)
        if old is None and applied["metadata"].get("uid"):
            raise status.conflict(
                resource.kind,
                key.name,
                "uid mismatch: the provided object specified a uid, and no existing object was found",
            )
        try:
            new = managedfields.apply(
                None if old is None else orjson.loads(old.body),
                applied,
                manager=options.manager,
                force=options.force,
                kind=resource.kind,
                schema=resource.schema,
                now=self._clock(),
                subresource=subresource,
            )
        except managedfields.ApplyConflict as error:
            raise status.apply_conflict(error.causes) from None
        if old is None:
            return self._create(resource, new, options, applied=True)
        return self._update(resource, old, new, options, subresource, applied=True)

    def get_scale(self, resource: Resource, key: Key) -> JsonObject:
        """The Scale of an object that has one, as autoscaling/v1."""
        return objects.scale_of(self.get(resource, key).obj)

    def put_scale(self, resource: Resource, key: Key, scale: JsonObject, options: WriteOptions) -> JsonObject:
        """Sets `spec.replicas` as a Scale says. Raises ApiError (409 if its resourceVersion is old)."""
        old = self.get(resource, key)
        return self._write_scale(resource, old, scale, options)

    def patch_scale(
        self,
        resource: Resource,
        key: Key,
        content_type: str,
        body: JsonObject | Sequence[JsonObject],
        options: WriteOptions,
    ) -> JsonObject:
        """Patches the Scale rather than the object, so nothing but the replicas can change."""
        old = self.get(resource, key)
        scale = _patched(
            content_type, objects.scale_of(old.obj), body, kinds.Kind("autoscaling", "v1", "Scale", "scales")
        )
        return self._write_scale(resource, old, scale, options)

    def _write_scale(self, resource: Resource, old: Stored, scale: JsonObject, options: WriteOptions) -> JsonObject:
        new = objects.with_scale(old.obj, scale)
        return objects.scale_of(self._update(resource, old, new, options, "scale").stored.obj)

    def _create(self, resource: Resource, obj: JsonObject, options: WriteOptions, *, applied: bool) -> Written:
        now = self._clock()
        suffix = "".join(secrets.choice(objects.SUFFIX_ALPHABET) for _ in range(objects.GENERATED_SUFFIX))
        # Before the defaults: a Namespace's label is its name.
        objects.prepare_create(resource, obj, suffix=suffix, uid=str(uuid.uuid4()), now=now)
        obj, warnings = self._decoded(resource, obj, options)
        key = key_of(obj)
        if resource.kind.namespaced:
            self._check_namespace(resource, key)
        if self.store.get(resource.id, key) is not None:
            raise status.already_exists(resource.kind, key.name)
        obj = self._admitted(resource, obj, None, options)
        if not applied:
            obj = managedfields.track_update(
                None,
                obj,
                manager=options.manager,
                operation="Update",
                subresource="",
                kind=resource.kind,
                schema=resource.schema,
                now=now,
            )
        stored = self._stored(resource, key, obj, options)
        if resource.id == NAMESPACES and not options.dry_run:
            self._make_service_account(key.name, options)
        if resource.id == EVENTS and not options.dry_run:
            self._bound_events(key.namespace)
        return Written(stored, created=True, warnings=warnings)

    def _update(
        self,
        resource: Resource,
        old: Stored,
        new: JsonObject,
        options: WriteOptions,
        subresource: str,
        *,
        applied: bool = False,
    ) -> Written:
        now = self._clock()
        warnings: tuple[str, ...] = ()
        if subresource == "status":
            managed = new["metadata"].get("managedFields")
            new = objects.prepare_status(resource, old.obj, new)
            if applied and managed is not None:
                new["metadata"]["managedFields"] = managed
        else:
            objects.prepare_update(resource, old.obj, new)
        new, warnings = self._decoded(resource, new, options, old.obj)
        if subresource == "status":
            self._check_schema(resource, new, old.obj)
        else:
            new = self._admitted(resource, new, old.obj, options)
            self._check_changes(resource, old, new, options)
            objects.count_generation(resource, old.obj, new)
        if objects.is_same(old.obj, new, managed_fields=applied):
            return Written(old, warnings=warnings)
        if not applied:
            new = managedfields.track_update(
                old.obj,
                new,
                manager=options.manager,
                operation="Update",
                subresource=subresource,
                kind=resource.kind,
                schema=resource.schema,
                now=now,
            )
        if objects.is_finished(new):
            return Written(self._removed(resource, old, options), warnings=warnings)
        return Written(self._stored(resource, old.key, new, options), warnings=warnings)

    def _decoded(
        self, resource: Resource, obj: JsonObject, options: WriteOptions, known: JsonObject | None = None
    ) -> tuple[JsonObject, tuple[str, ...]]:
        """`known` is the stored object: what of it is in `obj` unchanged needs nothing done."""
        warnings: tuple[str, ...] = ()
        if resource.schema is not None:
            obj, unknown = resource.schema.prune(obj, known)
            warnings = tuple(f'unknown field "{path}"' for path in unknown)
            if warnings and options.field_validation == "Strict":
                raise status.bad_request("strict decoding error: " + ", ".join(warnings))
            obj = resource.schema.default(obj, known)
        if known is not None and objects.is_status_write(known, obj):
            return obj, warnings if options.field_validation == "Warn" else ()
        try:
            builtins.default(resource.kind, obj)
        except ValueError as error:
            # The schema, which is asked later, has better words for a field of a wrong type.
            if resource.schema is not None and (problems := resource.schema.validate(obj)):
                raise status.invalid(resource.kind, obj["metadata"].get("name") or "", problems) from None
            raise status.bad_request(str(error)) from None
        return obj, warnings if options.field_validation == "Warn" else ()

    def _admitted(
        self, resource: Resource, obj: JsonObject, old: JsonObject | None, options: WriteOptions
    ) -> JsonObject:
        obj = self._admission.mutate(obj, old, options.user)
        self._check_schema(resource, obj, old)
        self._admission.check(obj, old)
        return obj

    def _check_changes(self, resource: Resource, old: Stored, new: JsonObject, options: WriteOptions) -> None:
        if builtins.forbidden_changes(resource.kind, old.obj, new):
            # The defaults of a version newer than the object are nobody's change.
            before, _ = self._decoded(resource, orjson.loads(old.body), options)
            if problems := builtins.forbidden_changes(resource.kind, before, new):
                raise status.invalid(resource.kind, old.key.name, problems)

    def _check_schema(self, resource: Resource, obj: JsonObject, known: JsonObject | None) -> None:
        problems = objects.problems(resource, obj, known)
        if problems:
            raise status.invalid(resource.kind, obj["metadata"]["name"], problems)

    def _check_namespace(self, resource: Resource, key: Key) -> None:
        namespace = self.store.get(NAMESPACES, Key("", key.namespace))
        if namespace is None:
            raise status.not_found(kinds.NAMESPACE, key.namespace)
        if "deletionTimestamp" in namespace.obj["metadata"]:
            why = f"unable to create new content in namespace {key.namespace} because it is being terminated"
            raise status.forbidden(resource.kind, key.name, why)

    def _stored(self, resource: Resource, key: Key, obj: JsonObject, options: WriteOptions) -> Stored:
        if not options.dry_run:
            return self.store.put(resource.id, key, obj)
        return Stored(key, self.store.revision, obj, orjson.dumps(obj))

    def _removed(self, resource: Resource, old: Stored, options: WriteOptions) -> Stored:
        return old if options.dry_run else self.store.remove(resource.id, old.key)

    def _make_service_account(self, namespace: str, options: WriteOptions) -> None:
        account = self.registry.by_path("", "v1", "serviceaccounts")
        if account is not None:
            self.create(account, namespace, {"metadata": {"name": "default"}}, options)

    # --- deleting -----------------------------------------------------------------------------------------------------

    def delete(self, resource: Resource, key: Key, options: DeleteOptions) -> tuple[Stored, bool]:
        """Deletes, or marks as being deleted what finalizers, a grace period or a namespace's content hold. Returns
        the last state and whether the object is gone. Raises ApiError 403, 404 or 409."""
        old = self.get(resource, key)
        _check_deletable(resource, old, options)
        grace = _grace(resource, old.obj, options.grace)
        finalizers = _finalizers(old.obj, options.propagation)
        new = orjson.loads(old.body)
        objects.begin_deletion(new, now=self._clock(), grace=grace, finalizers=finalizers)
        if objects.is_finished(new):
            return (old if options.dry_run else self.store.remove(resource.id, key)), True
        if options.dry_run or objects.is_same(old.obj, new, managed_fields=False):
            return Stored(key, old.revision, new, orjson.dumps(new)), False
        return self.store.put(resource.id, key, new), False

    def delete_collection(
        self, resource: Resource, namespace: str | None, selector: Selector, options: DeleteOptions
    ) -> Page:
        """Deletes what `selector` picks, object by object; gives them as they were left."""
        page = self.find(resource, namespace, selector)
        return page._replace(items=[self.delete(resource, stored.key, options)[0] for stored in page.items])

    # --- upkeep -------------------------------------------------------------------------------------------------------

    def bootstrap(self, definitions: Iterable[JsonObject], user: str) -> None:
        """What exists from the first start on: the kept namespaces, and the definitions as this start's files have
        them."""
        options = WriteOptions(user=user, manager="zerogate")
        namespaces = self.registry.by_id(NAMESPACES)
        for name in KEPT_NAMESPACES:
            if self.store.get(NAMESPACES, Key("", name)) is None:
                self.create(namespaces, "", {"metadata": {"name": name}}, options)
        self._sync_definitions({crd["metadata"]["name"]: crd for crd in definitions}, options)

    def _sync_definitions(self, wanted: dict[str, JsonObject], options: WriteOptions) -> None:
        resource = self.registry.by_id(DEFINITIONS)
        for stored in self.store.find(DEFINITIONS):
            if stored.key.name not in wanted:
                self.store.remove(DEFINITIONS, stored.key)
        for name, crd in wanted.items():
            old = self.store.get(DEFINITIONS, Key("", name))
            desired = _established(crd)
            if old is None:
                self.create(resource, "", desired, options)
            elif old.obj["spec"] != desired["spec"]:
                desired["metadata"] = {**desired["metadata"], "resourceVersion": old.obj["metadata"]["resourceVersion"]}
                self.update(resource, Key("", name), desired, options)

    def expire_events(self, age: timedelta) -> None:
        """Deletes Events last seen longer than `age` ago; Kubernetes keeps them an hour."""
        oldest = self._clock() - age
        for stored in self.store.find(EVENTS):
            if _last_seen(stored.obj) < oldest:
                self.store.remove(EVENTS, stored.key)

    def _bound_events(self, namespace: str) -> None:
        """Deletes a namespace's Events that were last seen longest ago, down to EVENTS_LIMIT; a tenth at a time."""
        if self.store.count(EVENTS, namespace) > EVENTS_LIMIT * 1.1:
            by_age = sorted(self.store.find(EVENTS, namespace), key=lambda stored: _last_seen(stored.obj))
            for stored in by_age[:-EVENTS_LIMIT]:
                self.store.remove(EVENTS, stored.key)


def _patched(
    content_type: str, current: JsonObject, body: JsonObject | Sequence[JsonObject], kind: kinds.Kind
) -> JsonObject:
    try:
        return patch.apply_patch(content_type, current, body, kind)
    except patch.PatchError as error:
        raise status.ApiError(422, "Invalid", str(error)) from None


def _check_deletable(resource: Resource, old: Stored, options: DeleteOptions) -> None:
    meta = old.obj["metadata"]
    if options.uid and options.uid != meta["uid"]:
        why = f"Precondition failed: UID in precondition: {options.uid}, UID in object meta: {meta['uid']}"
        raise status.conflict(resource.kind, old.key.name, why)
    if options.resource_version and options.resource_version != meta["resourceVersion"]:
        why = (
            f"Precondition failed: ResourceVersion in precondition: {options.resource_version}, ResourceVersion in"
            f" object meta: {meta['resourceVersion']}"
        )
        raise status.conflict(resource.kind, old.key.name, why)
    if resource.id == NAMESPACES and old.key.name in KEPT_NAMESPACES:
        raise status.forbidden(resource.kind, old.key.name, "this namespace may not be deleted")


def _grace(resource: Resource, obj: JsonObject, asked: int | None) -> int:
    """Only pods have a grace period: their processes get that long to end. A finished pod has none."""
    if resource.id != PODS or (obj.get("status") or {}).get("phase") in _FINISHED_PHASES:
        return 0
    if asked is not None:
        return max(0, asked)
    grace: int = obj["spec"].get("terminationGracePeriodSeconds", _DEFAULT_GRACE)
    return grace


def _finalizers(obj: JsonObject, propagation: str) -> list[str]:
    """The finalizers a deletion leaves; an earlier deletion's choice of propagation is replaced."""
    kept = [
        each for each in obj["metadata"].get("finalizers") or () if each not in (objects.FOREGROUND, objects.ORPHAN)
    ]
    match propagation:
        case "Foreground":
            return [*kept, objects.FOREGROUND]
        case "Orphan":
            return [*kept, objects.ORPHAN]
        case _:
            return kept


def _established(crd: JsonObject) -> JsonObject:
    """The definition as a cluster would show it: accepted and served."""
    names = crd["spec"]["names"]
    since = "1970-01-01T00:00:00Z"
    conditions = [
        {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": since}
        for kind, reason, message in (
            ("NamesAccepted", "NoConflicts", "no conflicts found"),
            ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        )
    ]
    stored = [version["name"] for version in crd["spec"]["versions"] if version.get("storage")]
    completed = orjson.loads(orjson.dumps(crd))
    completed["spec"].setdefault("conversion", {"strategy": "None"})
    completed["spec"]["names"].setdefault("singular", names["kind"].lower())
    completed["spec"]["names"].setdefault("listKind", names["kind"] + "List")
    completed["status"] = {
        "acceptedNames": completed["spec"]["names"],
        "conditions": conditions,
        "storedVersions": stored,
    }
    result: JsonObject = completed
    return result


def _last_seen(event: JsonObject) -> datetime:
    series = event.get("series") or {}
    text = (
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"]["creationTimestamp"]
    )
    try:
        return parse_time(text)
    except ValueError:
        return parse_time(event["metadata"]["creationTimestamp"])


def _continue(revision: int, last: Key) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([revision, *last])).rstrip(b"=").decode()


def _parse_continue(token: str) -> tuple[int, Key]:
    try:
        parts = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, binascii.Error):
        parts = None
    match parts:
        case [int(revision), str(namespace), str(name)]:
            return revision, Key(namespace, name)
        case _:
            raise status.bad_request("continue key is not valid: it is not one that this server gave out")
