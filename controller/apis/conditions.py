"""Status conditions: `Ready` follows its dependents, and a transition time moves only on change.

Theory of operation
-------------------
Every resource of ours carries `status.conditions`. One type is the *happy* one (`Ready`); it is never set by hand but
follows the *dependents* (a Service's `ConfigurationsReady` and `RoutesReady`, say). All other types are informational:
they carry the severity `Info` and never touch `Ready`. The rules are Knative's living condition set:

* a dependent that becomes False makes `Ready` False with the same reason and message;
* while any dependent is False, `Ready` stays False; among several the one that changed last speaks for all;
* otherwise any Unknown dependent makes `Ready` Unknown; only when all are True is `Ready` True.

Conditions are values: each marking takes a tuple and returns the new one, sorted by type. The time of a condition is
`now` if anything else about it changed, and what it was otherwise. A reconcile that marks a condition twice (Unknown,
then True as before) would move its time each pass; `keep_times` undoes that against what was stored, so that a
reconcile that changes nothing writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from controller.apis.meta import JsonObject, format_time, generation_of, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable

TRUE = "True"
FALSE = "False"
UNKNOWN = "Unknown"
READY = "Ready"
INFO = "Info"

_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition. `severity` "" is an error (dependents and the happy type), "Info" is informational."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    severity: str = ""
    last_transition_time: datetime | None = None

    @property
    def is_true(self) -> bool:
        return self.status == TRUE

    @property
    def is_false(self) -> bool:
        return self.status == FALSE

    @property
    def is_unknown(self) -> bool:
        return self.status == UNKNOWN


Conditions = tuple[Condition, ...]


def get(conditions: Conditions, type_: str) -> Condition | None:
    """The condition of that type, if there is one."""
    return next((condition for condition in conditions if condition.type == type_), None)


def status_of(conditions: Conditions, type_: str) -> str:
    """Its status; one that is absent is Unknown."""
    condition = get(conditions, type_)
    return condition.status if condition else UNKNOWN


@dataclass(frozen=True, slots=True)
class ConditionSet:
    """The rules of one kind: which types make `happy`."""

    happy: str = READY
    dependents: tuple[str, ...] = ()

    def initialise(self, conditions: Conditions, now: datetime) -> Conditions:
        """Adds what is absent as Unknown; absent dependents as True if the happy condition is True already (a kind
        that gained a dependent must not turn every old object unready)."""
        initial = TRUE if status_of(conditions, self.happy) == TRUE else UNKNOWN
        for type_ in self.dependents:
            if get(conditions, type_) is None:
                conditions = _put(conditions, Condition(type_, initial), now)
        if get(conditions, self.happy) is None:
            conditions = _put(conditions, Condition(self.happy, UNKNOWN), now)
        return conditions

    def mark_true(
        self, conditions: Conditions, type_: str, now: datetime, reason: str = "", message: str = ""
    ) -> Conditions:
        """True; reason and message are cleared unless given. The happy condition is worked out anew."""
        conditions = self._set(conditions, type_, TRUE, reason, message, now)
        if type_ not in (*self.dependents, self.happy):
            return conditions
        worst = self._unhappy(conditions)
        if worst is not None:
            return self._set(conditions, self.happy, worst.status, worst.reason, worst.message, now)
        if type_ == self.happy:
            return conditions
        return self._set(conditions, self.happy, TRUE, "", "", now)

    def mark_false(self, conditions: Conditions, type_: str, reason: str, message: str, now: datetime) -> Conditions:
        """False; a dependent takes the happy condition along."""
        conditions = self._set(conditions, type_, FALSE, reason, message, now)
        if type_ in self.dependents:
            conditions = self._set(conditions, self.happy, FALSE, reason, message, now)
        return conditions

    def mark_unknown(self, conditions: Conditions, type_: str, reason: str, message: str, now: datetime) -> Conditions:
        """Unknown; for a dependent the happy condition follows, unless another dependent is False."""
        conditions = self._set(conditions, type_, UNKNOWN, reason, message, now)
        if type_ not in self.dependents:
            return conditions
        worst = self._unhappy(conditions)
        if worst is not None and worst.is_false:
            return self._set(conditions, self.happy, FALSE, worst.reason, worst.message, now)
        return self._set(conditions, self.happy, UNKNOWN, reason, message, now)

    def mark(
        self, conditions: Conditions, type_: str, status: str, reason: str, message: str, now: datetime
    ) -> Conditions:
        """The marking for a status that is itself a value, such as another object's condition."""
        if status == TRUE:
            return self.mark_true(conditions, type_, now, reason, message)
        if status == FALSE:
            return self.mark_false(conditions, type_, reason, message, now)
        return self.mark_unknown(conditions, type_, reason, message, now)

    def _set(
        self, conditions: Conditions, type_: str, status: str, reason: str, message: str, now: datetime
    ) -> Conditions:
        severity = "" if type_ == self.happy or type_ in self.dependents else INFO
        return _put(conditions, Condition(type_, status, reason, message, severity), now)

    def _unhappy(self, conditions: Conditions) -> Condition | None:
        """The dependent the happy condition copies: the False one, else the Unknown one, that changed last."""
        found = [get(conditions, type_) or Condition(type_, UNKNOWN) for type_ in self.dependents]
        for status in (FALSE, UNKNOWN):
            # max returns the first of equals: at the same second the order of `dependents` decides.
            candidates = [condition for condition in found if condition.status == status]
            if candidates:
                return max(candidates, key=lambda condition: condition.last_transition_time or _EPOCH)
        return None


def keep_times(before: Conditions, after: Conditions) -> Conditions:
    """`after`, with the stored time wherever nothing but the time differs from `before`."""
    old = {replace(condition, last_transition_time=None): condition for condition in before}
    return tuple(old.get(replace(condition, last_transition_time=None), condition) for condition in after)


def from_status(status: JsonObject) -> Conditions:
    """The conditions of a status object, sorted by type. A time that does not parse counts as absent."""
    return tuple(sorted((_parse(item) for item in status.get("conditions") or ()), key=_by_type))


def to_status(conditions: Conditions) -> list[JsonObject]:
    """The value of `status.conditions`, sorted by type; empty fields are left out, as Knative does."""
    return [_serialise(condition) for condition in sorted(conditions, key=_by_type)]


def find(obj: JsonObject, type_: str) -> Condition | None:
    """The condition of that type in an API object's status."""
    return get(from_status(obj.get("status") or {}), type_)


def is_ready(obj: JsonObject) -> bool:
    """The object's latest generation was observed and is Ready."""
    return is_current(obj) and _ready_status(obj) == TRUE


def is_failed(obj: JsonObject) -> bool:
    """The object's latest generation was observed and failed."""
    return is_current(obj) and _ready_status(obj) == FALSE


def is_current(obj: JsonObject) -> bool:
    """The status describes the latest generation."""
    return bool((obj.get("status") or {}).get("observedGeneration", 0) == generation_of(obj))


def _ready_status(obj: JsonObject) -> str:
    condition = find(obj, READY)
    return condition.status if condition else UNKNOWN


def _put(conditions: Conditions, new: Condition, now: datetime) -> Conditions:
    old = get(conditions, new.type)
    if old is not None and replace(old, last_transition_time=None) == new:
        return conditions
    others: Iterable[Condition] = (condition for condition in conditions if condition.type != new.type)
    return tuple(sorted((*others, replace(new, last_transition_time=now)), key=_by_type))


def _by_type(condition: Condition) -> str:
    return condition.type


def _parse(item: JsonObject) -> Condition:
    return Condition(
        type=item["type"],
        status=item["status"],
        reason=item.get("reason", ""),
        message=item.get("message", ""),
        severity=item.get("severity", ""),
        last_transition_time=_parse_time(item.get("lastTransitionTime")),
    )


def _parse_time(text: str | None) -> datetime | None:
    try:
        return parse_time(text) if text else None
    except ValueError:
        return None


def _serialise(condition: Condition) -> JsonObject:
    moment = condition.last_transition_time
    fields = {
        "type": condition.type,
        "status": condition.status,
        "severity": condition.severity,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": format_time(moment) if moment else "",
    }
    return {key: value for key, value in fields.items() if value}
