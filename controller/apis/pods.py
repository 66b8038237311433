"""Pods as those who scale see them: which of them count, and which go first.

`deletion_rank` is the order of Kubernetes' ReplicaSet controller (kubernetes/pkg/controller, ActivePodsWithRanks): not
assigned to a node, then pending, then not ready, then the least deletion cost, then ready for the shortest time, then
restarted most often, then the youngest. Two of its rules have no meaning here: how many pods of the set share a node
(the autoscaler does not look at nodes), and rounding ages to powers of two, which makes the order random on purpose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from controller.apis.meta import annotations_of, is_deleting, name_of, parse_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.apis.meta import JsonObject

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
FIRST_TO_GO = -(2**31)
"""The least deletion cost there is. Nobody sets it by hand, so it marks the pods that we chose."""

_PHASES = {"Pending": 0, "Unknown": 1, "Running": 2}


class Standing(NamedTuple):
    """What comes first when Kubernetes chooses; smaller goes sooner."""

    is_assigned: bool
    phase: int
    is_ready: bool
    cost: int


def standing(pod: JsonObject) -> Standing:
    """The part of the order that does not ask for ages."""
    phase = (pod.get("status") or {}).get("phase") or "Pending"
    return Standing(bool(pod["spec"].get("nodeName")), _PHASES.get(phase, 0), is_ready(pod), deletion_cost(pod))


def deletion_rank(pod: JsonObject) -> tuple[Standing, float, int, float, str]:
    """Smallest first to go."""
    return (standing(pod), -_ready_since(pod), -_restarts(pod), -created(pod), name_of(pod))


def deletion_cost(pod: JsonObject) -> int:
    """The annotation's number; 0 where there is none, or something else."""
    text = annotations_of(pod).get(DELETION_COST, "0")
    return int(text) if text.isascii() and text.removeprefix("-").isdecimal() else 0


def is_ready(pod: JsonObject) -> bool:
    """Whether the Ready condition is True."""
    return _ready_condition(pod) is not None


def is_finished(pod: JsonObject) -> bool:
    """Whether its containers have ended for good."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def is_active(pod: JsonObject) -> bool:
    """Whether it counts as a replica: neither going nor finished."""
    return not is_deleting(pod) and not is_finished(pod)


def created(pod: JsonObject) -> float:
    """When, in seconds since the epoch."""
    return parse_time(pod["metadata"]["creationTimestamp"]).timestamp()


def conditions(pod: JsonObject) -> Sequence[JsonObject]:
    found: Sequence[JsonObject] = (pod.get("status") or {}).get("conditions") or ()
    return found


def _ready_condition(pod: JsonObject) -> JsonObject | None:
    return next((c for c in conditions(pod) if c["type"] == "Ready" and c["status"] == "True"), None)


def _ready_since(pod: JsonObject) -> float:
    """Infinitely short for one that is not ready: its standing has said so before."""
    found = _ready_condition(pod)
    return parse_time(found["lastTransitionTime"]).timestamp() if found and found.get("lastTransitionTime") else 0.0


def _restarts(pod: JsonObject) -> int:
    """Of the container that was restarted most."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return max((int(status.get("restartCount") or 0) for status in statuses), default=0)
