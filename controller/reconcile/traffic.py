"""Traffic targets, flattened to Revisions.

A Route's targets name Revisions or Configurations. `resolve` looks each one up and answers either with the
assignment (which Revision gets how much, by tag) or with what is wrong. With any bad target nothing is assigned:
what was programmed before goes on serving, so that a typo in one target can't take down the others. A definite
failure outranks something that may still become ready.

Targets are grouped: the default group `""` holds all of them, in spec order, and every tag has a group of its own.
Within a group the shares of one Revision are merged, and a group of one Revision gets 100 %.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from controller.apis import conditions, labels
from controller.apis.conditions import FALSE, TRUE, UNKNOWN
from controller.apis.meta import labels_of
from controller.reconcile.domains import DEFAULT_TAG

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from controller.apis.meta import JsonObject
    from controller.apis.route import TrafficTarget

REVISION_MISSING = "RevisionMissing"
CONFIGURATION_MISSING = "ConfigurationMissing"
REVISION_NOT_OWNED = "RevisionNotOwned"


@dataclass(frozen=True, slots=True)
class BadTarget:
    """Why a target can't get traffic. `status` is "False" for good, "Unknown" while it may still become ready."""

    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Share:
    """A Revision's percentage within a group; the ones of a group sum to 100, and zeros are kept."""

    revision: str
    percent: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """`targets` are the spec's, each with its Revision's name and without a Configuration's, equal ones merged;
    `groups` are the shares by tag, tags sorted, the default group "" first."""

    targets: tuple[TrafficTarget, ...]
    groups: Mapping[str, tuple[Share, ...]]


def resolve(
    traffic: Iterable[TrafficTarget],
    configurations: Mapping[str, JsonObject],
    revisions: Mapping[str, JsonObject],
    service: str = "",
) -> Assignment | BadTarget:
    """The assignment of `traffic`, or the worst thing that is wrong with it. The mappings hold the namespace's objects
    by name; `service` is the Service that owns the Route, whose Revisions are then the only ones it may target."""
    resolved = [_resolve(target, configurations, revisions, service) for target in traffic]
    bad = [found for found in resolved if isinstance(found, BadTarget)]
    if bad:
        return next((found for found in bad if found.status == FALSE), bad[0])
    targets = _merged(found for found in resolved if not isinstance(found, BadTarget))
    return Assignment(targets, _groups(targets))


def _resolve(
    target: TrafficTarget,
    configurations: Mapping[str, JsonObject],
    revisions: Mapping[str, JsonObject],
    service: str,
) -> TrafficTarget | BadTarget:
    if target.revision_name:
        problem = _pinned_problem(target.revision_name, revisions)
        latest = False
        name = target.revision_name
    else:
        problem, name = _latest_ready(target.configuration_name, configurations, revisions)
        latest = True
    if problem is not None:
        return problem
    if service and labels_of(revisions[name]).get(labels.SERVICE) != service:
        return BadTarget(FALSE, REVISION_NOT_OWNED, f'Revision "{name}" is not owned by Service "{service}".')
    return replace(target, revision_name=name, configuration_name="", latest_revision=latest, url="")


def _pinned_problem(name: str, revisions: Mapping[str, JsonObject]) -> BadTarget | None:
    if name not in revisions:
        return BadTarget(FALSE, REVISION_MISSING, f'Revision "{name}" referenced in traffic not found.')
    ready = conditions.find(revisions[name], conditions.READY)
    status = ready.status if ready else UNKNOWN
    if status == TRUE:
        return None
    message = "failed to become ready." if status == FALSE else "is not yet ready."
    return BadTarget(status, REVISION_MISSING, f'Revision "{name}" {message}')


def _latest_ready(
    name: str, configurations: Mapping[str, JsonObject], revisions: Mapping[str, JsonObject]
) -> tuple[BadTarget | None, str]:
    if name not in configurations:
        message = f'Configuration "{name}" referenced in traffic not found.'
        return BadTarget(FALSE, CONFIGURATION_MISSING, message), ""
    latest: str = (configurations[name].get("status") or {}).get("latestReadyRevisionName") or ""
    if not latest:
        return _none_ready(name, configurations[name]), ""
    if latest not in revisions:
        return BadTarget(FALSE, REVISION_MISSING, f'Revision "{latest}" referenced in traffic not found.'), ""
    return None, latest


def _none_ready(name: str, configuration: JsonObject) -> BadTarget:
    ready = conditions.find(configuration, conditions.READY)
    if ready is not None and ready.is_false:
        return BadTarget(FALSE, REVISION_MISSING, f'Configuration "{name}" does not have any ready Revision.')
    message = f'Configuration "{name}" is waiting for a Revision to become ready.'
    return BadTarget(UNKNOWN, REVISION_MISSING, message)


def _merged(targets: Iterable[TrafficTarget]) -> tuple[TrafficTarget, ...]:
    """One target for each (tag, Revision, latest), at the place of the first, with the sum of the percents."""
    merged: dict[tuple[str, str, bool], TrafficTarget] = {}
    for target in targets:
        key = (target.tag, target.revision_name, target.latest_revision)
        earlier = merged.get(key)
        merged[key] = replace(earlier, percent=earlier.percent + target.percent) if earlier else target
    return tuple(merged.values())


def _groups(targets: tuple[TrafficTarget, ...]) -> dict[str, tuple[Share, ...]]:
    tags = sorted({DEFAULT_TAG, *(target.tag for target in targets)})
    return {tag: _shares(target for target in targets if tag in (DEFAULT_TAG, target.tag)) for tag in tags}


def _shares(targets: Iterable[TrafficTarget]) -> tuple[Share, ...]:
    percents: dict[str, int] = {}
    for target in targets:
        percents[target.revision_name] = percents.get(target.revision_name, 0) + target.percent
    if len(percents) == 1:
        return tuple(Share(name, 100) for name in percents)
    return tuple(Share(name, percent) for name, percent in percents.items())
