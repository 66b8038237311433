"""A PodAutoscaler turns the autoscaler's decision into replicas of a Deployment, and tells how that goes.

Theory of operation
-------------------
The decision (`controller.autoscaler`) says how many replicas the load asks for. Here it is put between min-scale and
max-scale, and between zero and one stands a sequence of waits, so that a revision goes to zero only when it is idle
for certain. The condition Active and the time of its last change are that sequence's memory:

- Active Unknown (activating): nothing is taken away, until activating has lasted the progress deadline and half a
  minute; then the revision goes to zero and Active says TimedOut.
- Active True: one replica stays until the revision has been active for a stable window. Then it becomes inactive.
- Active False: the last replica stays for the retention period, and at least for the time in which a report (1 s) and
  a tick (2 s) that were under way can still arrive: three seconds, or less if scale-to-zero-grace-period is less.

Knative has two waits more, a probe that the activator is on the path and the rest of the grace period since. Our
gateway is always on the path and holds requests by itself, so there is nothing to wait for; the grace period stays
what its documentation says, an upper bound. With the defaults the last replica goes 62 to 65 s after the last request,
as in Knative with its activator on the path.

Unreachable revisions ignore min-scale, initial-scale and retention.

The annotation `autoscaling.zerogate.dev/paused: "true"` on a Revision freezes its scale: the Deployment keeps the
replicas it has, zero too, and those that somebody gives it (`kubectl scale`).

Replicas that are too many finish what they have before they go (`controller.reconcile.drain`); the scale that is wanted
is shown at once, and that it waits for requests.

Why the scale is what it is, is told by the informational condition ScaleExplained, which changes when the scale or the
rule behind it does and not with each average.

A revision of the HPA class gets a HorizontalPodAutoscaler instead and is always active; its scale is what that says.
Nothing on one machine follows such objects (a cluster's controller manager does), so there the scale stays what it is.

There is no ServerlessService; SKSReady is True always, for those who look for the condition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from controller.apis import conditions, kinds, labels
from controller.apis.annotations import HPA_CLASS, KPA_CLASS, AutoscalingAnnotations, parse_autoscaling
from controller.apis.labels import SERVICE_NAME
from controller.apis.meta import (
    JsonObject,
    Key,
    annotations_of,
    is_controlled_by,
    is_deleting,
    key_of,
    labels_of,
    name_of,
    uid_of,
)
from controller.apis.podautoscaler import (
    ACTIVE,
    CONDITIONS,
    SCALE_EXPLAINED,
    SCALE_TARGET_INITIALIZED,
    SKS_READY,
    PodAutoscaler,
    parse,
)
from controller.apis.pods import DELETION_COST, FIRST_TO_GO
from controller.autoscaler.explain import NOTHING_KNOWN, Explanation
from controller.autoscaler.kpa import UNDECIDED
from controller.reconcile import drain
from controller.reconcile.children import hpa as hpa_child
from controller.reconcile.children.deployment import progress_deadline
from controller.reconcile.drain import Step
from controller.reconcile.plan import Cache, Controller, Deletion, Patch, Plan, owner_key
from controller.reconcile.status import NOT_OWNED, begin, finish

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from controller.apis.conditions import Condition, Conditions
    from controller.autoscaler.kpa import Decision
    from controller.config.store import Config
    from controller.reconcile.drain import Progress

__all__ = ["Limits", "ObservedPodAutoscaler", "Wanted", "controller", "observe", "reconcile", "wanted"]

Number = TypeVar("Number", int, float)

NO_TRAFFIC = "NoTraffic"
TIMED_OUT = "TimedOut"
QUEUED = "Queued"
PAUSED = "Paused"
DRAINING = "Draining"
INITIAL_SCALE = "InitialScale"

_BUFFERED = "Requests to the target are being buffered as resources are provisioned."
_ACTIVATION_GRACE = 30.0  # beyond the progress deadline, as in Knative
_SETTLE = 3.0
_TIMEOUT = 300.0  # of a Deployment that does not say how long its pods may take to end


class Decisions(Protocol):
    """What is asked of `controller.autoscaler.ticker.Deciders`."""

    def decision(self, key: Key) -> Decision | None:
        """The last decision about the PodAutoscaler; None if the autoscaler has none, or it is another class."""

    def explanation(self, key: Key) -> Explanation | None:
        """That decision in words."""

    def ready(self, key: Key) -> int:
        """The revision's ready replicas, by its EndpointSlices."""


class Drains(Protocol):
    """What is asked of `controller.dataplane.drains.Drains`, and what it is told."""

    def progress(self, key: Key) -> Progress:
        """How far the drain of a PodAutoscaler's replicas has come."""

    def carry_out(self, key: Key, plan: Plan) -> None:
        """Have the gateways drain what the plan says."""


_NOTHING_KNOWN = Explanation(NOTHING_KNOWN, "The autoscaler has not seen this revision yet.")


@dataclass(frozen=True, slots=True)
class ObservedPodAutoscaler:
    """`desired` is the autoscaler's wish, UNDECIDED while there is none, and `explanation` says why; `replicas` is what
    the Deployment asks for at present, None while there is no Deployment; `pods` are those it has, `timeout` the
    seconds that a request to one may take, and `progress` says what drains."""

    pod_autoscaler: PodAutoscaler
    desired: int
    ready: int
    replicas: int | None
    explanation: Explanation = _NOTHING_KNOWN
    hpa: JsonObject | None = None
    pods: tuple[JsonObject, ...] = ()
    timeout: float = _TIMEOUT
    progress: Progress = drain.NOTHING


class Wanted(NamedTuple):
    """`want` is the scale to show, UNDECIDED if there is none. `replicas` is what the Deployment is to ask for, None to
    leave it alone. `after`: seconds until there may be another answer. `why` is None where the autoscaler's own wish is
    fulfilled."""

    want: int
    replicas: int | None = None
    after: float | None = None
    why: Explanation | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for one PodAutoscaler. `high` 0 is no limit; `min_ready` replicas make it active."""

    low: int
    high: int
    min_ready: int
    scale_to_zero: bool
    stable_window: float
    linger: float
    activation_timeout: float


def reconcile(seen: ObservedPodAutoscaler, config: Config, now: datetime) -> Plan:
    """The scale of the Deployment and the status; nothing for a class of somebody else's."""
    pa = seen.pod_autoscaler
    annotated = parse_autoscaling(annotations_of(pa.obj), config)
    class_ = annotated.autoscaler_class or config.autoscaler.pod_autoscaler_class
    if class_ == HPA_CLASS:
        return _hand_over(seen, annotated, config, now)
    if class_ != KPA_CLASS:
        return Plan()
    found = begin(CONDITIONS, pa.obj, now)
    limits = _limits(pa, annotated, config)
    if annotated.paused:
        result = paused(seen.replicas)
        found = _judge_paused(found, seen, now)
    else:
        result, found = _scaled(seen, limits, found, now)
    step = _step(seen, result)
    scale, why = _shown(seen, result, step)
    found = _explained(found, pa, scale, why, now)
    status = finish(pa.obj, found, serviceName=name_of(pa.obj), desiredScale=scale, actualScale=seen.ready)
    after = min((each for each in (result.after, step.after) if each is not None), default=None)
    return Plan(
        patch=_patches(seen, step),
        delete=_leftover(seen),
        status=status,
        requeue_after=after,
        draining=step.draining,
    )


def _leftover(seen: ObservedPodAutoscaler) -> tuple[Deletion, ...]:
    """The HorizontalPodAutoscaler of a revision that was of the HPA class before: it would scale against us."""
    hpa = seen.hpa
    if hpa is None or is_deleting(hpa) or not is_controlled_by(hpa, seen.pod_autoscaler.obj):
        return ()
    return (Deletion(kinds.HORIZONTAL_POD_AUTOSCALER, key_of(hpa), uid_of(hpa)),)


def _hand_over(seen: ObservedPodAutoscaler, annotated: AutoscalingAnnotations, config: Config, now: datetime) -> Plan:
    """The HorizontalPodAutoscaler, and what it says as our status."""
    pa = seen.pod_autoscaler
    found = begin(CONDITIONS, pa.obj, now)
    found = CONDITIONS.mark_true(found, SKS_READY, now)
    if seen.hpa is not None and not is_controlled_by(seen.hpa, pa.obj):
        message = f'There is an existing HorizontalPodAutoscaler "{name_of(seen.hpa)}" that we do not own.'
        found = CONDITIONS.mark_false(found, ACTIVE, NOT_OWNED, message, now)
        return Plan(status=finish(pa.obj, found, serviceName=name_of(pa.obj)), error=message)
    found = CONDITIONS.mark_true(found, ACTIVE, now)
    if seen.ready:
        found = CONDITIONS.mark_true(found, SCALE_TARGET_INITIALIZED, now)
    said = (seen.hpa or {}).get("status") or {}
    scales = {"desiredScale": said.get("desiredReplicas"), "actualScale": said.get("currentReplicas")}
    desired = hpa_child.horizontal_pod_autoscaler(pa.obj, annotated, config.autoscaler)
    changed = hpa_child.updated(seen.hpa, desired) if seen.hpa else None
    return Plan(
        create=() if seen.hpa else (desired,),
        update=(changed,) if changed else (),
        status=finish(pa.obj, found, serviceName=name_of(pa.obj), **scales),
    )


def _limits(pa: PodAutoscaler, annotated: AutoscalingAnnotations, config: Config) -> Limits:
    defaults = config.autoscaler
    low = _either(annotated.min_scale, defaults.min_scale)
    initial = _either(annotated.initial_scale, defaults.initial_scale)
    retention = _either(annotated.scale_to_zero_pod_retention_period, defaults.scale_to_zero_pod_retention_period)
    if pa.is_unreachable:
        low, retention = 0, 0.0
    min_ready = max(low, 1) if pa.is_initialized else max(low, initial)
    if initial > 1 and not pa.is_initialized and not pa.is_unreachable:
        low = max(low, initial)
    return Limits(
        low=low,
        high=_either(annotated.max_scale, defaults.max_scale),
        min_ready=min_ready,
        scale_to_zero=defaults.enable_scale_to_zero,
        stable_window=_either(annotated.window, defaults.stable_window),
        linger=max(retention, min(_SETTLE, defaults.scale_to_zero_grace_period)),
        activation_timeout=progress_deadline(pa.obj, config) + _ACTIVATION_GRACE,
    )


def _either(annotated: Number | None, configured: Number) -> Number:
    return configured if annotated is None else annotated


# --- the scale --------------------------------------------------------------------------------------------------------


def _scaled(seen: ObservedPodAutoscaler, limits: Limits, found: Conditions, now: datetime) -> tuple[Wanted, Conditions]:
    """The scale, and the conditions with it. A revision that turns out to lack replicas is activating, and then is
    scaled to its bounds although nothing was decided: in the same pass, for our own status brings no other."""
    result = wanted(seen.desired, limits, _active(found), now)
    judged = _judge(found, result.want, seen.ready, limits, now)
    if result.want == UNDECIDED and _active(judged).is_unknown and not _active(found).is_unknown:
        result = wanted(seen.desired, limits, _active(judged), now)
        judged = _judge(judged, result.want, seen.ready, limits, now)
    return result, judged


def wanted(desired: int, limits: Limits, active: Condition, now: datetime) -> Wanted:
    """What becomes of the autoscaler's wish."""
    if desired < 0 and not active.is_unknown:
        return Wanted(UNDECIDED)
    want, why = max(desired, limits.low), None
    if want > desired:
        why = Explanation(
            "MinScale", f"At least {want}, by min-scale or initial-scale; the load asks for {_asked(desired)}."
        )
    if limits.high and want > limits.high:
        want = limits.high
        why = Explanation("MaxScale", f"At most {want}, by max-scale; the load asks for {_asked(desired)}.")
    if want <= 0:
        return _towards_zero(limits, active, now)
    return Wanted(want, want, why=why)


def paused(replicas: int | None) -> Wanted:
    """What becomes of it while the autoscaler is paused: the scale is what somebody else made it."""
    want = UNDECIDED if replicas is None else replicas
    return Wanted(want, replicas, why=Explanation(PAUSED, f"Paused by the annotation {labels.AUTOSCALING_PAUSED}."))


def _asked(desired: int) -> str:
    return "nothing yet" if desired < 0 else str(desired)


def _towards_zero(limits: Limits, active: Condition, now: datetime) -> Wanted:
    if not limits.scale_to_zero:
        return Wanted(1, 1, why=Explanation("ScaleToZeroDisabled", "enable-scale-to-zero is false: one replica stays."))
    elapsed = (now - active.last_transition_time).total_seconds() if active.last_transition_time else 0.0
    if active.is_unknown:
        rest = limits.activation_timeout - elapsed
        if rest <= 0:
            return Wanted(0, 0, why=_timed_out(limits))
        return Wanted(UNDECIDED, None, rest)
    if active.is_true:
        rest = limits.stable_window - elapsed
        if rest <= 0:
            return Wanted(0, None, limits.linger, _idle(limits))
        text = f"One replica stays until the revision has been active for {limits.stable_window:g} s."
        return Wanted(1, 1, rest, Explanation("JustActivated", text))
    rest = limits.linger - elapsed
    why = _timed_out(limits) if active.reason == TIMED_OUT else _idle(limits)
    return Wanted(0, 0, why=why) if rest <= 0 else Wanted(0, None, rest, why)


def _timed_out(limits: Limits) -> Explanation:
    return Explanation(TIMED_OUT, f"The target did not become ready within {limits.activation_timeout:g} s.")


def _idle(limits: Limits) -> Explanation:
    text = f"No requests for {limits.stable_window:g} s; the last replica goes {limits.linger:g} s after that."
    return Explanation(NO_TRAFFIC, text)


def _step(seen: ObservedPodAutoscaler, result: Wanted) -> Step:
    if seen.replicas is None:
        return Step()
    return drain.step(result.replicas, seen.replicas, seen.pods, seen.progress, timeout=seen.timeout)


def _why(seen: ObservedPodAutoscaler, result: Wanted, step: Step) -> Explanation:
    why = result.why or seen.explanation
    if not step.busy:
        return why
    text = f"{step.busy} of the replicas to go finish their requests first, {seen.timeout:g} s at most."
    return Explanation(DRAINING, f"{why.text} {text}")


def _patches(seen: ObservedPodAutoscaler, step: Step) -> tuple[Patch, ...]:
    marks = [
        *(_marked(pod, str(FIRST_TO_GO)) for pod in step.marked),
        *(_marked(pod, None) for pod in step.cleared),
    ]
    if step.replicas is None:
        return tuple(marks)
    target = Key(key_of(seen.pod_autoscaler.obj).namespace, seen.pod_autoscaler.deployment)
    return (*marks, Patch(kinds.DEPLOYMENT, target, {"spec": {"replicas": step.replicas}}, subresource="scale"))


def _marked(pod: JsonObject, cost: str | None) -> Patch:
    """The uid makes the patch of another pod with the same name fail."""
    return Patch(kinds.POD, key_of(pod), {"metadata": {"uid": uid_of(pod), "annotations": {DELETION_COST: cost}}})


# --- the conditions ---------------------------------------------------------------------------------------------------


def _active(found: Conditions) -> Condition:
    return conditions.get(found, ACTIVE) or conditions.Condition(ACTIVE, conditions.UNKNOWN)


def _judge(found: Conditions, want: int, ready: int, limits: Limits, now: datetime) -> Conditions:
    found = CONDITIONS.mark_true(found, SKS_READY, now)
    if ready >= limits.min_ready:
        found = CONDITIONS.mark_true(found, SCALE_TARGET_INITIALIZED, now)
    active = _active(found)
    if want == 0 or limits.min_ready == 0:
        if active.is_unknown and limits.min_ready > 0:
            # Only a failed activation goes from Unknown to zero. The reason stays until there is traffic again.
            return CONDITIONS.mark_false(found, ACTIVE, TIMED_OUT, "The target could not be activated.", now)
        return found if active.is_false else _inactive(found, now)
    if want < 0 and active.is_false:
        return found
    if ready < limits.min_ready:
        return CONDITIONS.mark_unknown(found, ACTIVE, QUEUED, _BUFFERED, now)
    return CONDITIONS.mark_true(found, ACTIVE, now)


def _judge_paused(found: Conditions, seen: ObservedPodAutoscaler, now: datetime) -> Conditions:
    """Active with a replica that is ready, whoever asked for it."""
    found = CONDITIONS.mark_true(found, SKS_READY, now)
    if seen.ready:
        found = CONDITIONS.mark_true(found, SCALE_TARGET_INITIALIZED, now)
        return CONDITIONS.mark_true(found, ACTIVE, now)
    if seen.replicas:
        return CONDITIONS.mark_unknown(found, ACTIVE, QUEUED, _BUFFERED, now)
    message = "The autoscaler is paused and the target has no replicas: requests wait until somebody scales it."
    return CONDITIONS.mark_false(found, ACTIVE, PAUSED, message, now)


def _shown(seen: ObservedPodAutoscaler, result: Wanted, step: Step) -> tuple[int | None, Explanation | None]:
    """The scale to tell people, and why it is that; None for what has been told. Until there is a decision it is what
    the Deployment was made with."""
    if result.want != UNDECIDED:
        return result.want, _why(seen, result, step)
    told = seen.pod_autoscaler.desired_scale
    if told is not None or seen.replicas is None:
        return told, None
    text = f"{seen.replicas} to begin with, by initial-scale; no report from a gateway tells the load yet."
    return seen.replicas, Explanation(INITIAL_SCALE, text)


def _explained(
    found: Conditions, pa: PodAutoscaler, scale: int | None, why: Explanation | None, now: datetime
) -> Conditions:
    """The numbers of the moment in which the scale, or the rule behind it, changed."""
    before = conditions.get(pa.conditions, SCALE_EXPLAINED)
    if why is None or (before and before.reason == why.reason and pa.desired_scale == scale):
        return found
    return CONDITIONS.mark_true(found, SCALE_EXPLAINED, now, *why)


def _inactive(found: Conditions, now: datetime) -> Conditions:
    return CONDITIONS.mark_false(found, ACTIVE, NO_TRAFFIC, "The target is not receiving traffic.", now)


# --- the control loop -------------------------------------------------------------------------------------------------


def observe(cache: Cache, key: Key, decisions: Decisions, drains: Drains) -> ObservedPodAutoscaler | None:
    """None when there is nothing to do: the object is gone or going."""
    obj = cache.get(kinds.POD_AUTOSCALER, key)
    if obj is None or is_deleting(obj):
        return None
    pa = parse(obj)
    deployment = cache.get(kinds.DEPLOYMENT, Key(key.namespace, pa.deployment))
    spec = deployment["spec"] if deployment else {}
    decision = decisions.decision(key)
    return ObservedPodAutoscaler(
        pod_autoscaler=pa,
        desired=decision.desired if decision else UNDECIDED,
        ready=decisions.ready(key),
        replicas=int(spec.get("replicas", 1)) if deployment else None,
        explanation=decisions.explanation(key) or _NOTHING_KNOWN,
        hpa=cache.get(kinds.HORIZONTAL_POD_AUTOSCALER, key),
        pods=tuple(cache.list(kinds.POD, key.namespace, spec["selector"]["matchLabels"])) if deployment else (),
        timeout=float(_pod_spec(spec).get("terminationGracePeriodSeconds") or _TIMEOUT),
        progress=drains.progress(key),
    )


def _pod_spec(spec: JsonObject) -> JsonObject:
    """Of a Deployment's spec. Its grace period is as long as a request may take."""
    return (spec.get("template") or {}).get("spec") or {}


_of_pod_autoscaler = owner_key(kinds.POD_AUTOSCALER)
_of_revision = owner_key(kinds.REVISION)  # a PodAutoscaler is named as the Revision it scales


def _of_endpoint_slice(obj: JsonObject, cache: Cache) -> Iterable[Key]:
    service = cache.get(kinds.CORE_SERVICE, Key(key_of(obj).namespace, labels_of(obj).get(SERVICE_NAME, "")))
    return _of_revision(service, cache) if service else ()


def controller(decisions: Decisions, drains: Drains) -> Controller[ObservedPodAutoscaler]:
    """The PodAutoscaler controller, following `decisions` and having `drains` carried out. The core Services are needed
    in the cache as well: watching them makes it so."""
    return Controller(
        kind=kinds.POD_AUTOSCALER,
        observe=lambda cache, key: observe(cache, key, decisions, drains),
        reconcile=reconcile,
        carry_out=drains.carry_out,
        watches={
            kinds.DEPLOYMENT: _of_revision,
            kinds.ENDPOINT_SLICE: _of_endpoint_slice,
            kinds.CORE_SERVICE: _of_revision,
            kinds.HORIZONTAL_POD_AUTOSCALER: _of_pod_autoscaler,
        },
    )
