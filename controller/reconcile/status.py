"""What every reconcile does to the status of its object, before and after its own work.

Before: missing conditions are initialised; a generation not seen before makes Ready Unknown, until the reconcile says
better. After: `observedGeneration` is the generation looked at, even if the reconcile failed (readers tell an old
verdict from a new one by it), and the times of conditions that did not change in the end are what they were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from controller.apis import conditions
from controller.apis.conditions import Conditions, ConditionSet, from_status, keep_times, to_status
from controller.apis.meta import JsonObject, generation_of
from controller.reconcile import drift

if TYPE_CHECKING:
    from datetime import datetime

NOT_OWNED = "NotOwned"
_NEW_GENERATION = "NewObservedGenFailure"


def begin(rules: ConditionSet, obj: JsonObject, now: datetime) -> Conditions:
    """The conditions a reconcile starts from."""
    found = rules.initialise(from_status(obj.get("status") or {}), now)
    if conditions.is_current(obj):
        return found
    message = "The latest generation has not been reconciled successfully."
    return rules.mark_unknown(found, rules.happy, _NEW_GENERATION, message, now)


def finish(obj: JsonObject, found: Conditions, **fields: Any) -> JsonObject | None:
    """The whole new status with `fields` (API names) set, or None if it is what is stored. A field that is None or
    empty is left out; fields of the status that aren't named stay."""
    old = obj.get("status") or {}
    new = {
        **old,
        **fields,
        "conditions": to_status(keep_times(from_status(old), found)),
        "observedGeneration": generation_of(obj),
    }
    new = {key: value for key, value in new.items() if value is not None and value not in ("", {}, [])}
    return None if drift.same(old, new) else new
