"""A Configuration makes a Revision of each generation, and says which are the latest.

Theory of operation
-------------------
The current generation has exactly one Revision: the one with the name the user chose, else the one labelled with the
generation. If there is none it is created from the template. It is the *latest created*; the *latest ready* is the
newest that is Ready among the Revisions from the present latest ready one up to the current generation, so that a
Revision in the middle serves while the newest is broken. It never moves back, except that a user may name an older
Revision on purpose (roll back by name): the Revision named in the template is looked at first, whatever its age.

Ready follows the latest created Revision: True once it is also the latest ready one, False with its message when it
failed, Unknown in between. Unlike Knative's it then says what is being waited for, so that a user is told of an
application that listens on the wrong port long before the progress deadline. A chosen name that is taken, by a
Revision of somebody else or by one with another spec, fails the Configuration; nothing is retried, because only the
user can choose another name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.apis import conditions, kinds, labels
from controller.apis.conditions import READY
from controller.apis.configuration import CONDITIONS, Configuration, parse
from controller.apis.meta import (
    JsonObject,
    Key,
    generation_of,
    is_controlled_by,
    is_deleting,
    labels_of,
    name_of,
    namespace_of,
)
from controller.apis.revision import is_scaling
from controller.reconcile import drift
from controller.reconcile.children.revision import revision as new_revision
from controller.reconcile.children.revision import revision_name
from controller.reconcile.plan import Cache, Controller, Event, Plan, owner_key
from controller.reconcile.status import begin, finish

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from controller.apis.conditions import Condition, Conditions
    from controller.config.store import Config

REVISION_FAILED = "RevisionFailed"
REVISION_DELETED = "RevisionDeleted"


@dataclass(frozen=True, slots=True)
class ObservedConfiguration:
    """`named` is whatever Revision has the name chosen in the template, owned or not; `revisions` are the owned ones,
    sorted by name."""

    configuration: Configuration
    revisions: tuple[JsonObject, ...]
    named: JsonObject | None


def observe(cache: Cache, key: Key) -> ObservedConfiguration | None:
    """None when there is nothing to do: the object is gone or going."""
    obj = cache.get(kinds.CONFIGURATION, key)
    if obj is None or is_deleting(obj):
        return None
    configuration = parse(obj)
    owned = cache.list(kinds.REVISION, key.namespace, {labels.CONFIGURATION: key.name})
    named = configuration.revision_name
    return ObservedConfiguration(
        configuration=configuration,
        revisions=tuple(revision for revision in owned if is_controlled_by(revision, obj)),
        named=cache.get(kinds.REVISION, Key(key.namespace, named)) if named else None,
    )


def name_is_available(configuration: Configuration, named: JsonObject | None) -> bool:
    """The name chosen in the template is free, or taken by this very generation's Revision or by one of this
    Configuration's with the same spec (a roll back)."""
    if named is None:
        return True
    if not is_controlled_by(named, configuration.obj):
        return False
    return _generation(named) == generation_of(configuration.obj) or drift.same(
        named["spec"], configuration.template["spec"]
    )


def reconcile(seen: ObservedConfiguration, _config: Config, now: datetime) -> Plan:
    """The Revision to create, if any, and the status."""
    obj = seen.configuration.obj
    found = begin(CONDITIONS, obj, now)
    if not name_is_available(seen.configuration, seen.named):
        name = seen.configuration.revision_name
        message = f'Revision creation failed with message: revisions.serving.knative.dev "{name}" already exists.'
        found = CONDITIONS.mark_false(found, READY, REVISION_FAILED, message, now)
        return Plan(status=finish(obj, found))
    current = _current(seen)
    if current is None:
        return _create(seen.configuration, found, now)
    return _follow(seen, current, found, now)


def _current(seen: ObservedConfiguration) -> JsonObject | None:
    if seen.configuration.revision_name:
        return seen.named
    generation = generation_of(seen.configuration.obj)
    return next((revision for revision in seen.revisions if _generation(revision) == generation), None)


def _create(configuration: Configuration, found: Conditions, now: datetime) -> Plan:
    name = revision_name(configuration)
    found = _wait_for(name, configuration.latest_ready, None, found, now)
    return Plan(
        create=(new_revision(configuration, now),),
        status=finish(configuration.obj, found, latestCreatedRevisionName=name),
        events=(Event("Normal", "Created", f'Created Revision "{name}"'),),
    )


def _follow(seen: ObservedConfiguration, current: JsonObject, found: Conditions, now: datetime) -> Plan:
    configuration, name = seen.configuration, name_of(current)
    latest_ready = _latest_ready(seen)
    after = _verdict(seen, current, latest_ready, found, now)
    return Plan(
        status=finish(configuration.obj, after, latestCreatedRevisionName=name, latestReadyRevisionName=latest_ready),
        events=tuple(_events(configuration, name, latest_ready, after)),
    )


def _verdict(
    seen: ObservedConfiguration, current: JsonObject, latest_ready: str, found: Conditions, now: datetime
) -> Conditions:
    """The conditions for what the current generation's Revision says of itself."""
    name, ready = name_of(current), conditions.find(current, READY)
    if ready is not None and ready.is_false:
        message = f'Revision "{name}" failed with message: {ready.message.rstrip(".")}.'
        return CONDITIONS.mark_false(found, READY, REVISION_FAILED, message, now)
    if conditions.is_ready(current):
        return CONDITIONS.mark_true(found, READY, now)
    if latest_ready and latest_ready not in map(name_of, seen.revisions):
        message = f'Revision "{latest_ready}" was deleted.'
        return CONDITIONS.mark_false(found, READY, REVISION_DELETED, message, now)
    return _wait_for(name, latest_ready, ready, found, now)


def _wait_for(name: str, latest_ready: str, ready: Condition | None, found: Conditions, now: datetime) -> Conditions:
    """A latest created Revision that isn't ready yet makes Ready Unknown, with what it is waiting for if it says so;
    the latest ready one, starting over after a restart, leaves Ready as it was, unless it had been deleted and is made
    anew."""
    stored = conditions.get(found, READY)
    if name == latest_ready and not (stored and stored.reason == REVISION_DELETED):
        return found
    if ready is None or not ready.message:
        return CONDITIONS.mark_unknown(found, READY, "", "", now)
    message = f'Revision "{name}" is not yet ready: {ready.message}'
    return CONDITIONS.mark_unknown(found, READY, ready.reason, message, now)


def _latest_ready(seen: ObservedConfiguration) -> str:
    """The name of the latest ready Revision, "" if none ever was."""
    before, last = seen.configuration.latest_ready, generation_of(seen.configuration.obj)
    present = next((revision for revision in seen.revisions if name_of(revision) == before), None)
    if before and present is None:
        first = last  # its place in the order went with it: only the current generation may follow
    else:
        first = _generation(present) if present else 0
    chosen = seen.configuration.revision_name
    candidates = [
        revision for revision in seen.revisions if first <= _generation(revision) <= last or name_of(revision) == chosen
    ]
    candidates.sort(key=lambda revision: (name_of(revision) != chosen, -_generation(revision)))
    return next((name_of(revision) for revision in candidates if conditions.is_ready(revision)), before)


def _generation(revision: JsonObject) -> int:
    """The generation a Revision was made for; 0 if its label is missing or no number."""
    text = labels_of(revision).get(labels.CONFIGURATION_GENERATION, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _events(configuration: Configuration, name: str, latest_ready: str, after: Conditions) -> list[Event]:
    events = []
    if latest_ready != configuration.latest_ready:
        events.append(Event("Normal", "LatestReadyUpdate", f'LatestReadyRevisionName updated to "{latest_ready}"'))
    old, new = conditions.get(configuration.conditions, READY), conditions.get(after, READY)
    if new is None or (old is not None and (old.status, old.message) == (new.status, new.message)):
        return events
    if new.is_true:
        events.append(Event("Normal", "ConfigurationReady", "Configuration becomes ready"))
    if new.reason == REVISION_FAILED:
        which = "Ready" if name == latest_ready else "Created"
        events.append(Event("Warning", f"Latest{which}Failed", f'Latest {which.lower()} revision "{name}" has failed'))
    return events


_of_owner = owner_key(kinds.CONFIGURATION)


def _of_revision(obj: JsonObject, cache: Cache) -> Iterable[Key]:
    """The owner, and any Configuration that chose this name: it may be waiting for somebody else's Revision to go. A
    chosen name begins with the Configuration's own and a dash."""
    namespace, parts = namespace_of(obj), name_of(obj).split("-")
    choosing = (Key(namespace, "-".join(parts[:count])) for count in range(1, len(parts)))
    return {*_of_owner(obj, cache), *(key for key in choosing if cache.get(kinds.CONFIGURATION, key) is not None)}


CONTROLLER: Controller[ObservedConfiguration] = Controller(
    kind=kinds.CONFIGURATION,
    observe=observe,
    reconcile=reconcile,
    watches={kinds.REVISION: _of_revision},
    ignores={kinds.REVISION: is_scaling},
)
