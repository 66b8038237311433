"""A Revision runs as a Deployment behind a Service, scaled by a PodAutoscaler; its conditions say how that goes.

Theory of operation
-------------------
Three children are made at once and kept in line. The verdict on the two conditions that make Ready is worked out as a
value (`Verdicts`) from what is observed, each rule overriding the ones before it:

1. The Deployment: `Progressing` says whether resources are available, `ReplicaFailure` (quota) that they are not.
2. One Pod, while replicas are wanted and none is available. A container that has ended and was restarted makes
   `ContainerHealthy` False (`ExitCode<N>`).
3. A ready replica makes `ContainerHealthy` True.
4. The PodAutoscaler: until the initial scale was reached once, resources are not available yet; having given up
   without reaching it is a failure, told by the reason found earlier if there is one; reaching it makes both True
   unless something has failed.

Failing fast is where this differs from Knative, whose users wait out the progress deadline (10 minutes) to be told of
a typo in an image's name. A Pod whose container waits for a reason that time alone does not cure (no such image,
command not found, a ConfigMap that doesn't exist) fails the Revision at once, with the kubelet's reason and message.
Should it be cured after all, the verdict follows, since it is worked out anew from what is there. Only a container
that runs without ever listening can't be told from a slow one: what the Pod's readiness has to say is told from the
first seconds on, as the message of an Unknown condition, and at the progress deadline as the reason of the failure.

`Active` mirrors the PodAutoscaler's Ready for information: a Revision scaled to zero is Ready.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from controller.apis import conditions, kinds, labels, podautoscaler
from controller.apis.conditions import FALSE, READY, TRUE, UNKNOWN
from controller.apis.meta import (
    JsonObject,
    Key,
    is_controlled_by,
    is_deleting,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)
from controller.apis.podautoscaler import REACHABLE, UNKNOWN_REACHABILITY, UNREACHABLE
from controller.apis.revision import (
    ACTIVE,
    CONDITIONS,
    CONTAINER_HEALTHY,
    RESOURCES_AVAILABLE,
    STARTABLE,
    Revision,
    parse,
)
from controller.reconcile.children import deployment as deployment_child
from controller.reconcile.children import podautoscaler as podautoscaler_child
from controller.reconcile.children import services as service_child
from controller.reconcile.plan import Cache, Controller, Event, Plan, owner_key
from controller.reconcile.status import NOT_OWNED, begin, finish

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from controller.apis.conditions import Conditions
    from controller.apis.podautoscaler import PodAutoscaler
    from controller.config.store import Config

DEPLOYING = "Deploying"
PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"

HOPELESS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
        "CreateContainerConfigError",
        "CreateContainerError",
    }
)
"""Reasons of a waiting container that waiting doesn't cure."""


_CRASH_LOOP = "CrashLoopBackOff"
_START_ERROR = "StartError"
"""How a container runtime calls the end of what never began; between two attempts that is all a crash loop shows."""


@dataclass(frozen=True, slots=True)
class ObservedRevision:
    """The children are whatever has their names, owned or not; `pods` are the Revision's, sorted by name."""

    revision: Revision
    deployment: JsonObject | None
    autoscaler: JsonObject | None
    service: JsonObject | None
    pods: tuple[JsonObject, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition's status with its reason and message."""

    status: str
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Verdicts:
    resources: Verdict
    container: Verdict

    @property
    def failed(self) -> bool:
        return FALSE in (self.resources.status, self.container.status)


_DEPLOYING = Verdict(UNKNOWN, DEPLOYING)
_FINE = Verdict(TRUE)


def observe(cache: Cache, key: Key) -> ObservedRevision | None:
    """None when there is nothing to do: the object is gone or going."""
    obj = cache.get(kinds.REVISION, key)
    if obj is None or is_deleting(obj):
        return None
    return ObservedRevision(
        revision=parse(obj),
        deployment=cache.get(kinds.DEPLOYMENT, Key(key.namespace, deployment_child.deployment_name(key.name))),
        autoscaler=cache.get(kinds.POD_AUTOSCALER, key),
        service=cache.get(kinds.CORE_SERVICE, Key(key.namespace, service_child.private_service_name(key.name))),
        pods=tuple(cache.list(kinds.POD, key.namespace, {labels.REVISION_UID: uid_of(obj)})),
    )


def reconcile(seen: ObservedRevision, config: Config, now: datetime) -> Plan:
    """The children to create or to bring back into line, and the status."""
    obj = seen.revision.obj
    found = begin(CONDITIONS, obj, now)
    foreign = _foreign(seen)
    if foreign is not None:
        message = f'There is an existing {foreign["kind"]} "{name_of(foreign)}" that we do not own.'
        found = CONDITIONS.mark_false(found, RESOURCES_AVAILABLE, NOT_OWNED, message, now)
        error = f'Revision "{name_of(obj)}" does not own {foreign["kind"]} "{name_of(foreign)}"'
        return Plan(status=finish(obj, found), error=error)
    before = _stored(found)
    judged = _judge_pods(seen, _judge_deployment(seen, before), before, config)
    plan = _children(seen, _reachability(seen, judged), config)
    autoscaler = podautoscaler.parse(seen.autoscaler) if seen.autoscaler else None
    judged = _judge_autoscaler(autoscaler, judged, before)
    found = _marked(found, judged, _active(autoscaler), now)
    found = _mark_startable(found, _stuck(seen, judged), now)
    scales = {
        "actualReplicas": autoscaler.actual_scale if autoscaler else None,
        "desiredReplicas": autoscaler.desired_scale if autoscaler else None,
    }
    return replace(plan, status=finish(obj, found, **scales), events=(*plan.events, *_ready_event(seen, found)))


def _foreign(seen: ObservedRevision) -> JsonObject | None:
    children = (seen.deployment, seen.autoscaler, seen.service)
    return next((child for child in children if child and not is_controlled_by(child, seen.revision.obj)), None)


# --- children ---------------------------------------------------------------------------------------------------------


def _children(seen: ObservedRevision, reachability: str, config: Config) -> Plan:
    wanted = (
        (seen.deployment, deployment_child.deployment(seen.revision, config), deployment_child.updated),
        (seen.service, service_child.private_service(seen.revision), service_child.updated),
        (seen.autoscaler, podautoscaler_child.pod_autoscaler(seen.revision, reachability), podautoscaler_child.updated),
    )
    create, update = [], []
    for existing, desired, updated in wanted:
        if existing is None:
            create.append(desired)
        elif (changed := updated(existing, desired)) is not None:
            update.append(changed)
    events = tuple(Event("Normal", "Created", f'Created {child["kind"]} "{name_of(child)}"') for child in create)
    return Plan(create=tuple(create), update=tuple(update), events=events)


def _reachability(seen: ObservedRevision, judged: Verdicts) -> str:
    """Whether the autoscaler should count on traffic: not while the pods it asked for can't run, so that a broken
    Revision is given up; else as routed."""
    if judged.failed and _replicas(seen.deployment) > 0 and _count(seen.deployment, "readyReplicas") == 0:
        return UNREACHABLE
    state = labels_of(seen.revision.obj).get(labels.ROUTING_STATE)
    return {labels.ACTIVE: REACHABLE, labels.RESERVE: UNREACHABLE}.get(state or "", UNKNOWN_REACHABILITY)


# --- conditions -------------------------------------------------------------------------------------------------------


def _stored(found: Conditions) -> Verdicts:
    def stored(type_: str) -> Verdict:
        condition = conditions.get(found, type_)
        return Verdict(condition.status, condition.reason, condition.message) if condition else _DEPLOYING

    return Verdicts(stored(RESOURCES_AVAILABLE), stored(CONTAINER_HEALTHY))


def _judge_deployment(seen: ObservedRevision, before: Verdicts) -> Verdicts:
    if seen.deployment is None:
        return Verdicts(_DEPLOYING, _DEPLOYING)
    reported = {item["type"]: item for item in _status(seen.deployment).get("conditions") or ()}
    resources = _DEPLOYING
    if "Progressing" in reported:
        resources = _progress(reported["Progressing"])
    if reported.get("ReplicaFailure", {}).get("status") == TRUE:
        resources = _copied(reported["ReplicaFailure"], FALSE)
    container = before.container if before.container.status != UNKNOWN else _DEPLOYING
    return Verdicts(resources, container)


def _progress(condition: JsonObject) -> Verdict:
    if condition["status"] == TRUE:
        return _FINE
    return _copied(condition, FALSE) if condition["status"] == FALSE else _DEPLOYING


def _copied(condition: JsonObject, status: str) -> Verdict:
    return Verdict(status, condition.get("reason", ""), condition.get("message", ""))


def _judge_pods(seen: ObservedRevision, judged: Verdicts, before: Verdicts, config: Config) -> Verdicts:
    if _count(seen.deployment, "readyReplicas") > 0:
        return replace(judged, container=_FINE)
    live = [pod for pod in seen.pods if not is_deleting(pod)]
    if _replicas(seen.deployment) == 0 or not live:
        return _remembered(judged, before)
    if _count(seen.deployment, "availableReplicas") > 0:
        return judged
    # Like Knative, one pod speaks for all: they run the same containers.
    pod = live[0]
    unscheduled = _pod_condition(pod, "PodScheduled")
    if unscheduled.get("status") == FALSE and not config.deployment.pod_is_always_schedulable:
        return replace(judged, resources=_copied(unscheduled, FALSE))
    return _judge_containers(pod, judged)


def _remembered(judged: Verdicts, before: Verdicts) -> Verdicts:
    """With no pod left to ask, a Deployment past its deadline failed for the reason that its pods gave before."""
    if judged.resources.reason != PROGRESS_DEADLINE_EXCEEDED or before.resources.status != FALSE:
        return judged
    told_by_pods = before.resources.reason in HOPELESS or before.resources.reason == PROGRESS_DEADLINE_EXCEEDED
    return replace(judged, resources=before.resources) if told_by_pods else judged


def _judge_containers(pod: JsonObject, judged: Verdicts) -> Verdicts:
    deadline_exceeded = judged.resources.reason == PROGRESS_DEADLINE_EXCEEDED
    statuses = (*(_status(pod).get("initContainerStatuses") or ()), *(_status(pod).get("containerStatuses") or ()))
    for status in statuses:
        ended = (status.get("lastState") or {}).get("terminated")
        waiting = (status.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in HOPELESS:
            return replace(judged, resources=_copied(waiting, FALSE))
        if ended and ended.get("reason") == _START_ERROR:
            return replace(judged, resources=Verdict(FALSE, "RunContainerError", ended.get("message", "")))
        if ended and not _succeeded_init(status):
            return replace(judged, container=_ended(ended))
        if waiting.get("reason") and deadline_exceeded:
            return replace(judged, resources=_copied(waiting, FALSE))
    readiness = _pod_condition(pod, READY)
    message = readiness.get("message", "") if readiness.get("status") == FALSE else ""
    if deadline_exceeded and message:
        return replace(judged, resources=Verdict(FALSE, PROGRESS_DEADLINE_EXCEEDED, message))
    if judged.container.status == UNKNOWN:
        return replace(judged, container=Verdict(UNKNOWN, DEPLOYING, message))
    return judged


def _succeeded_init(status: JsonObject) -> bool:
    return bool((status.get("state") or {}).get("terminated", {}).get("exitCode") == 0)


def _stuck(seen: ObservedRevision, judged: Verdicts) -> Verdict | None:
    """Why the pods there are will not start by themselves soon. A container that crashed and is running again is none:
    after the first crash it is restarted at once."""
    live = [pod for pod in seen.pods if not is_deleting(pod)]
    if not live or _count(seen.deployment, "readyReplicas") > 0:
        return None
    for status in _status(live[0]).get("containerStatuses") or ():
        waiting = (status.get("state") or {}).get("waiting") or {}
        ended = (status.get("lastState") or {}).get("terminated")
        if waiting.get("reason") in HOPELESS:
            return _copied(waiting, FALSE)
        if waiting.get("reason") == _CRASH_LOOP and ended:
            return replace(_ended(ended), reason=_CRASH_LOOP)
    return judged.resources if judged.resources.reason == PROGRESS_DEADLINE_EXCEEDED else None


def _mark_startable(found: Conditions, stuck: Verdict | None, now: datetime) -> Conditions:
    if stuck is not None:
        return CONDITIONS.mark_false(found, STARTABLE, stuck.reason, stuck.message, now)
    return found if conditions.get(found, STARTABLE) is None else CONDITIONS.mark_true(found, STARTABLE, now)


def _ended(terminated: JsonObject) -> Verdict:
    text = terminated.get("message") or _wordless(terminated)
    return Verdict(FALSE, f"ExitCode{terminated.get('exitCode', 0)}", f"Container failed with: {text}")


def _wordless(terminated: JsonObject) -> str:
    """How a container ended that said nothing."""
    code, signal = terminated.get("exitCode", 0), terminated.get("signal")
    if terminated.get("reason") == "OOMKilled":
        return "out of memory"
    if signal:
        return f"killed by signal {signal}"
    return f"exit code {code} and no output" if code else "container exited with no error"


def _judge_autoscaler(autoscaler: PodAutoscaler | None, judged: Verdicts, before: Verdicts) -> Verdicts:
    ready = conditions.get(autoscaler.conditions, READY) if autoscaler else None
    if autoscaler is None or ready is None:
        return judged if judged.resources.status == FALSE else replace(judged, resources=_DEPLOYING)
    if autoscaler.is_initialized and autoscaler.service_name and not judged.failed:
        return Verdicts(_FINE, _FINE)
    if judged.resources.status == FALSE:
        return judged
    if ready.is_false and autoscaler.service_name and not autoscaler.is_initialized:
        never = Verdict(FALSE, PROGRESS_DEADLINE_EXCEEDED, "Initial scale was never achieved")
        return replace(judged, resources=before.resources if before.resources.status == FALSE else never)
    if autoscaler.service_name and autoscaler.is_initialized:
        return judged
    return replace(judged, resources=_DEPLOYING)


def _active(autoscaler: PodAutoscaler | None) -> Verdict:
    ready = conditions.get(autoscaler.conditions, READY) if autoscaler else None
    return Verdict(ready.status, ready.reason, ready.message) if ready else _DEPLOYING


def _marked(found: Conditions, judged: Verdicts, active: Verdict, now: datetime) -> Conditions:
    marks = ((RESOURCES_AVAILABLE, judged.resources), (CONTAINER_HEALTHY, judged.container), (ACTIVE, active))
    for type_, verdict in marks:
        if verdict.status == TRUE:
            found = CONDITIONS.mark_true(found, type_, now)
        else:
            found = CONDITIONS.mark(found, type_, verdict.status, verdict.reason, verdict.message, now)
    return found


def _ready_event(seen: ObservedRevision, after: Conditions) -> Iterable[Event]:
    became_ready = conditions.status_of(after, READY) == TRUE
    if became_ready and conditions.status_of(seen.revision.conditions, READY) != TRUE:
        yield Event("Normal", "RevisionReady", "Revision becomes ready upon all resources being ready")


# --- reading children -------------------------------------------------------------------------------------------------


def _status(obj: JsonObject) -> JsonObject:
    return obj.get("status") or {}


def _replicas(deployment: JsonObject | None) -> int:
    return int(deployment["spec"].get("replicas", 1)) if deployment else 0


def _count(deployment: JsonObject | None, field: str) -> int:
    return int(_status(deployment).get(field) or 0) if deployment else 0


def _pod_condition(pod: JsonObject, type_: str) -> JsonObject:
    return next((item for item in _status(pod).get("conditions") or () if item["type"] == type_), {})


def _of_pod(pod: JsonObject, _cache: Cache) -> Iterable[Key]:
    name = labels_of(pod).get(labels.REVISION)
    return (Key(namespace_of(pod), name),) if name else ()


_owned = owner_key(kinds.REVISION)

CONTROLLER: Controller[ObservedRevision] = Controller(
    kind=kinds.REVISION,
    observe=observe,
    reconcile=reconcile,
    watches={kinds.DEPLOYMENT: _owned, kinds.POD_AUTOSCALER: _owned, kinds.CORE_SERVICE: _owned, kinds.POD: _of_pod},
)
