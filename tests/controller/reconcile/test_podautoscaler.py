from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from controller.apis import conditions, kinds, labels
from controller.apis.conditions import FALSE, TRUE, UNKNOWN
from controller.apis.meta import Key
from controller.apis.podautoscaler import parse
from controller.autoscaler.explain import Explanation
from controller.autoscaler.kpa import Decision
from controller.config.autoscaler import AutoscalerConfig
from controller.config.store import Config
from controller.reconcile.drain import Progress
from controller.reconcile.plan import Patch, Plan
from controller.reconcile.podautoscaler import ObservedPodAutoscaler, controller, reconcile

if TYPE_CHECKING:
    from controller.apis.meta import JsonObject

WHY = Explanation("StableWindow", "300 requests in flight need 3 replicas.")
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
KEY = Key("default", "hello-00001")
OWNED = {
    "ownerReferences": [
        {"apiVersion": "serving.knative.dev/v1", "kind": "Revision", "name": KEY.name, "uid": "u", "controller": True}
    ]
}


def pod_autoscaler(
    *, reachability: str = "Reachable", status: JsonObject | None = None, **annotated: str
) -> JsonObject:
    return {
        "apiVersion": kinds.POD_AUTOSCALER.api_version,
        "kind": "PodAutoscaler",
        "metadata": {
            "namespace": KEY.namespace,
            "name": KEY.name,
            "generation": 1,
            "annotations": {
                f"autoscaling.knative.dev/{name.replace('_', '-')}": value for name, value in annotated.items()
            },
        },
        "spec": {
            "containerConcurrency": 0,
            "reachability": reachability,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "hello-00001-deployment"},
        },
        **({"status": status} if status else {}),
    }


def status(active: str, since: float = 0.0, *, reason: str = "", initialised: bool = True, **fields: Any) -> JsonObject:
    """A status whose Active has been as it is for `since` seconds."""
    moment = (NOW - timedelta(seconds=since)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "observedGeneration": 1,
        "serviceName": KEY.name,
        "conditions": [
            {"type": "Active", "status": active, "reason": reason, "lastTransitionTime": moment},
            {"type": "Ready", "status": active, "reason": reason, "lastTransitionTime": moment},
            {"type": "SKSReady", "status": TRUE, "lastTransitionTime": moment},
            {
                "type": "ScaleTargetInitialized",
                "status": TRUE if initialised else UNKNOWN,
                "lastTransitionTime": moment,
            },
        ],
        **fields,
    }


def plan(
    obj: JsonObject, desired: int, *, ready: int = 0, replicas: int | None = 1, config: AutoscalerConfig | None = None
) -> Plan:
    seen = ObservedPodAutoscaler(parse(obj), desired, ready, replicas, WHY)
    return reconcile(seen, Config(autoscaler=config or AutoscalerConfig()), NOW)


def scaled(result: Plan) -> int | None:
    """The replicas a plan patches, None if it leaves them."""
    if not result.patch:
        return None
    [patch] = result.patch
    replicas: int = patch.body["spec"]["replicas"]
    assert patch == Patch(
        kinds.DEPLOYMENT, Key("default", "hello-00001-deployment"), {"spec": {"replicas": replicas}}, "scale"
    )
    return replicas


def verdict(result: Plan, type_: str) -> tuple[str, str]:
    assert result.status is not None
    condition = conditions.get(conditions.from_status(result.status), type_)
    assert condition is not None
    return condition.status, condition.reason


@pytest.mark.parametrize(
    ("annotated", "desired", "expected"),
    [
        ({}, 5, 5),
        ({"min_scale": "3"}, 1, 3),
        ({"min_scale": "3"}, 0, 3),
        ({"max_scale": "3"}, 5, 3),
        ({"min_scale": "2", "max_scale": "4"}, 3, 3),
        ({"initial_scale": "9"}, 2, 2),
    ],
)
def test_bounds(annotated: dict[str, str], desired: int, expected: int) -> None:
    """The wish between min-scale and max-scale; the initial scale counts only until it was reached."""
    result = plan(pod_autoscaler(status=status(TRUE, 10), **annotated), desired, ready=1, replicas=99)
    assert scaled(result) == expected
    assert result.status is not None
    assert result.status["desiredScale"] == expected


@pytest.mark.parametrize(
    ("annotated", "expected"), [({"initial_scale": "3"}, 3), ({"initial_scale": "3", "min_scale": "5"}, 5)]
)
def test_initial_scale_is_a_floor_until_reached(annotated: dict[str, str], expected: int) -> None:
    """Without any decision too; then the revision is initialised for good."""
    result = plan(pod_autoscaler(**annotated), -1, replicas=0)
    assert scaled(result) == expected
    assert verdict(result, "ScaleTargetInitialized")[0] == UNKNOWN
    assert verdict(plan(pod_autoscaler(**annotated), -1, ready=expected), "ScaleTargetInitialized")[0] == TRUE


def test_nothing_is_patched_when_it_is_so_already() -> None:
    """Nor while there is no Deployment."""
    obj = pod_autoscaler(status=status(TRUE, 10))
    assert scaled(plan(obj, 2, ready=2, replicas=2)) is None
    assert scaled(plan(obj, 2, ready=0, replicas=None)) is None


def test_a_new_one_waits_for_its_first_replica() -> None:
    """Queued and not ready, named already, nothing scaled; when it comes: active, initialised, ready."""
    result = plan(pod_autoscaler(), -1)
    assert scaled(result) is None
    assert result.status is not None
    assert (result.status["serviceName"], result.status["actualScale"]) == (KEY.name, 0)
    assert (result.status["desiredScale"], verdict(result, "ScaleExplained")) == (1, (TRUE, "InitialScale"))
    assert verdict(result, "Active") == (UNKNOWN, "Queued")
    assert verdict(result, "Ready") == (UNKNOWN, "Queued")
    assert result.requeue_after == 630
    result = plan(pod_autoscaler(), -1, ready=1)
    assert [verdict(result, name)[0] for name in ("Active", "ScaleTargetInitialized", "SKSReady", "Ready")] == [
        TRUE
    ] * 4


def test_reconcile_is_a_fixed_point() -> None:
    """Planned again with the planned status, nothing is left to write."""
    obj = pod_autoscaler()
    obj["status"] = plan(obj, 1, ready=1).status
    again = plan(obj, 1, ready=1)
    assert (again.status, again.patch) == (None, ())


RETENTION = {"scale_to_zero_pod_retention_period": "1m"}


@pytest.mark.parametrize(
    ("active", "since", "annotated", "desired", "patched", "after", "turns"),
    [
        pytest.param(TRUE, 20, {}, 1, 1, 40.0, False, id="active for less than the window: one stays"),
        pytest.param(TRUE, 60, {}, 0, None, 3.0, True, id="active for the window: turns inactive"),
        pytest.param(TRUE, 20, {"window": "15s"}, 0, None, 3.0, True, id="own window"),
        pytest.param(TRUE, 60, RETENTION, 0, None, 60.0, True, id="turns inactive, comes back after the retention"),
        pytest.param(FALSE, 1, {}, 0, None, 2.0, False, id="inactive: the last reports may still come"),
        pytest.param(FALSE, 3, {}, 0, 0, None, False, id="inactive long enough: zero"),
        pytest.param(FALSE, 10, RETENTION, 0, None, 50.0, False, id="retention holds"),
        pytest.param(FALSE, 60, RETENTION, 0, 0, None, False, id="retention is over"),
    ],
)
def test_the_way_to_zero(
    active: str,
    since: float,
    annotated: dict[str, str],
    desired: int,
    patched: int | None,
    after: float | None,
    turns: bool,
) -> None:
    """Active for a window, then inactive for the retention period; the last replica goes at the end."""
    reason = "NoTraffic" if active == FALSE else ""
    before = status(active, since, reason=reason, desiredScale=desired, actualScale=2)
    result = plan(pod_autoscaler(status=before, **annotated), 0, ready=2, replicas=2)
    assert (scaled(result), result.requeue_after) == (patched, after)
    assert verdict(result, "Active") == ((FALSE, "NoTraffic") if turns or active == FALSE else (TRUE, ""))
    if not turns:
        again = plan(pod_autoscaler(status=result.status, **annotated), 0, ready=2, replicas=2)
        assert again.status is None


def test_grace_period_is_an_upper_bound() -> None:
    """A shorter one than the usual wait shortens it."""
    obj = pod_autoscaler(status=status(FALSE, 1, reason="NoTraffic"))
    assert scaled(plan(obj, 0, ready=1, config=AutoscalerConfig(scale_to_zero_grace_period=1))) == 0


def test_scale_to_zero_can_be_switched_off() -> None:
    """Then one replica stays."""
    obj = pod_autoscaler(status=status(TRUE, 999))
    assert scaled(plan(obj, 0, ready=2, replicas=2, config=AutoscalerConfig(enable_scale_to_zero=False))) == 1


@pytest.mark.parametrize(("since", "expected"), [(629, None), (630, 0)])
def test_activation_times_out(since: float, expected: int | None) -> None:
    """After the progress deadline and 30 s, and with a reason that stays."""
    obj = pod_autoscaler(status=status(UNKNOWN, since, reason="Queued", initialised=False))
    result = plan(obj, 0)
    assert scaled(result) == expected
    if expected is None:
        assert result.requeue_after == 1
        assert verdict(result, "Active") == (UNKNOWN, "Queued")
        return
    assert verdict(result, "Active") == (FALSE, "TimedOut")
    obj["status"] = result.status
    assert plan(obj, 0, replicas=0).status is None


def test_unreachable_ignores_floors_and_retention() -> None:
    """What no route reaches may go."""
    obj = pod_autoscaler(
        reachability="Unreachable",
        status=status(FALSE, 3, reason="NoTraffic"),
        min_scale="3",
        scale_to_zero_pod_retention_period="1h",
    )
    assert scaled(plan(obj, 0, ready=1)) == 0


def test_no_decision_leaves_the_scale_and_its_status() -> None:
    """Unknown never overwrites a known desired scale."""
    obj = pod_autoscaler(status=status(TRUE, 999, desiredScale=4, actualScale=4))
    result = plan(obj, -1, ready=3, replicas=4)
    assert scaled(result) is None
    assert result.status is not None
    assert (result.status["desiredScale"], result.status["actualScale"]) == (4, 3)


def test_a_floor_holds_without_a_decision() -> None:
    """Raised above what is ready it is activating, and is scaled in the same pass; lowered it waits for a decision."""
    obj = pod_autoscaler(status=status(TRUE, 999, desiredScale=1, actualScale=1), min_scale="3")
    result = plan(obj, -1, ready=1, replicas=1)
    assert scaled(result) == 3
    assert verdict(result, "Active") == (UNKNOWN, "Queued")
    obj["status"] = result.status
    again = plan(obj, -1, ready=1, replicas=3)
    assert (scaled(again), again.status) == (None, None)
    obj["status"] = status(TRUE, 999, desiredScale=4, actualScale=4)
    assert scaled(plan(obj, -1, ready=4, replicas=4)) is None


def test_from_zero() -> None:
    """A wish scales at once and queues; with the first ready replica it is active again."""
    obj = pod_autoscaler(status=status(FALSE, 999, reason="NoTraffic", desiredScale=0))
    result = plan(obj, 1, replicas=0)
    assert scaled(result) == 1
    assert verdict(result, "Active") == (UNKNOWN, "Queued")
    obj["status"] = result.status
    assert verdict(plan(obj, 1, ready=1), "Active") == (TRUE, "")


def test_zero_initial_scale() -> None:
    """A revision that starts at zero is initialised and inactive at once."""
    config = AutoscalerConfig(allow_zero_initial_scale=True)
    result = plan(pod_autoscaler(initial_scale="0"), -1, replicas=0, config=config)
    assert verdict(result, "Active") == (FALSE, "NoTraffic")
    assert verdict(result, "ScaleTargetInitialized")[0] == TRUE


def test_a_class_of_somebody_elses_is_left_alone() -> None:
    """Nothing is planned."""
    assert plan(pod_autoscaler(**{"class": "scaler.example.com"}), 3) == Plan()


HPA = {"class": "hpa.autoscaling.knative.dev"}


def hpa_plan(hpa: JsonObject | None, ready: int = 0, **annotated: str) -> Plan:
    obj = pod_autoscaler(**HPA, **annotated)
    obj["metadata"]["uid"] = "pa"
    seen = ObservedPodAutoscaler(parse(obj), 50, ready, 1, hpa=hpa)
    return reconcile(seen, Config(), NOW)


def test_the_hpa_class_hands_its_scale_over() -> None:
    """One HorizontalPodAutoscaler is made; always active, ready with the first ready replica; no scale of ours."""
    first = hpa_plan(None, min_scale="2")
    [made] = first.create
    assert (made["kind"], made["metadata"]["name"], made["spec"]["minReplicas"]) == (
        "HorizontalPodAutoscaler",
        KEY.name,
        2,
    )
    assert first.patch == ()
    assert verdict(first, "Active") == (TRUE, "")
    assert verdict(first, "Ready")[0] == UNKNOWN
    made["status"] = {"desiredReplicas": 4, "currentReplicas": 3}
    later = hpa_plan(made, ready=3, min_scale="2")
    assert (later.create, later.update, later.patch) == ((), (), ())
    assert later.status is not None
    assert (later.status["desiredScale"], later.status["actualScale"]) == (4, 3)
    assert verdict(later, "Ready") == (TRUE, "")
    [changed] = hpa_plan(made, min_scale="5").update
    assert changed["spec"]["minReplicas"] == 5


def test_a_revision_that_leaves_the_hpa_class_takes_its_scaler_along() -> None:
    """Two would scale one Deployment; one that is not ours stays."""
    [made] = hpa_plan(None).create
    made["metadata"]["uid"] = "h"
    obj = pod_autoscaler()
    obj["metadata"]["uid"] = "pa"

    def deleted(hpa: JsonObject) -> list[str]:
        plan = reconcile(ObservedPodAutoscaler(parse(obj), 1, 1, 1, hpa=hpa), Config(), NOW)
        return [deletion.uid for deletion in plan.delete]

    assert deleted(made) == ["h"]
    assert deleted({**made, "metadata": {**made["metadata"], "ownerReferences": []}}) == []


def test_a_horizontal_pod_autoscaler_of_that_name_that_is_not_ours() -> None:
    """Is left alone, and that is said."""
    result = hpa_plan({"metadata": {"name": KEY.name}, "spec": {}})
    assert (result.create, result.update) == ((), ())
    assert "do not own" in result.error
    assert verdict(result, "Ready") == (FALSE, "NotOwned")


def paused(value: str, **fields: Any) -> JsonObject:
    obj = pod_autoscaler(**fields)
    obj["metadata"]["annotations"][labels.AUTOSCALING_PAUSED] = value
    return obj


@pytest.mark.parametrize("replicas", [0, 1, 7])
def test_a_paused_revision_keeps_the_scale_it_was_given(replicas: int) -> None:
    """Whatever the load asks for and min-scale says; the status shows what is there and why."""
    obj = paused("true", status=status(TRUE, 999, desiredScale=2), min_scale="3")
    result = plan(obj, 50, ready=replicas, replicas=replicas)
    assert (scaled(result), result.requeue_after) == (None, None)
    assert result.status is not None
    assert (result.status["desiredScale"], result.status["actualScale"]) == (replicas, replicas)
    assert verdict(result, "ScaleExplained") == (TRUE, "Paused")
    assert verdict(result, "Active") == ((TRUE, "") if replicas else (FALSE, "Paused"))
    assert scaled(plan(paused("false", status=status(TRUE, 999)), 50, ready=replicas, replicas=replicas)) == 50


def test_a_paused_revision_is_active_with_the_first_replica_scaled_by_hand() -> None:
    """Until then its requests wait."""
    obj = paused("true", status=status(FALSE, 9, reason="Paused"))
    assert verdict(plan(obj, 0, replicas=2), "Active") == (UNKNOWN, "Queued")
    assert verdict(plan(obj, 0, ready=1, replicas=2), "Active") == (TRUE, "")


@pytest.mark.parametrize(
    ("annotated", "active", "since", "desired", "reason"),
    [
        ({}, TRUE, 99, 5, "StableWindow"),
        ({"min_scale": "7"}, TRUE, 99, 5, "MinScale"),
        ({"max_scale": "2"}, TRUE, 99, 5, "MaxScale"),
        ({}, TRUE, 5, 0, "JustActivated"),
        ({}, TRUE, 99, 0, "NoTraffic"),
        ({}, FALSE, 99, 0, "NoTraffic"),
        ({}, UNKNOWN, 999, 0, "TimedOut"),
    ],
)
def test_the_status_says_why(annotated: dict[str, str], active: str, since: float, desired: int, reason: str) -> None:
    """The rule that made the scale, in a condition that Ready does not depend on."""
    result = plan(pod_autoscaler(status=status(active, since), **annotated), desired, ready=1)
    assert verdict(result, "ScaleExplained") == (TRUE, reason)


def test_the_explanation_changes_with_the_scale_and_not_with_the_numbers() -> None:
    """A status is not written for each average."""
    obj = pod_autoscaler(status=status(TRUE, 99))
    obj["status"] = plan(obj, 3, ready=3, replicas=3).status
    later = ObservedPodAutoscaler(parse(obj), 3, 3, 3, Explanation("StableWindow", "299 requests in flight need 3."))
    assert reconcile(later, Config(), NOW).status is None
    panic = replace(later, explanation=Explanation("PanicWindow", "Panic: 300 requests in flight need 3."))
    written = reconcile(panic, Config(), NOW).status
    assert written is not None
    assert verdict(reconcile(panic, Config(), NOW), "ScaleExplained") == (TRUE, "PanicWindow")


class Objects:
    """A cache of a few objects."""

    def __init__(self, *objects: tuple[Any, JsonObject]) -> None:
        self.objects = {(kind, obj["metadata"]["name"]): obj for kind, obj in objects}

    def get(self, kind: Any, key: Key) -> JsonObject | None:
        return self.objects.get((kind, key.name))

    def list(self, kind: Any, namespace: str | None = None, labels: Any = None) -> list[JsonObject]:
        return [
            obj
            for (of, _), obj in self.objects.items()
            if of == kind and (labels or {}).items() <= (obj["metadata"].get("labels") or {}).items()
        ]


ASKED = Progress(is_shrinking=True)


class Drains:
    def progress(self, key: Key) -> Progress:
        assert key == KEY
        return ASKED

    def carry_out(self, key: Key, plan: Plan) -> None:
        raise AssertionError


def pod(name: str, **meta: Any) -> JsonObject:
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **meta,
        },
        "spec": {"nodeName": "n"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }


def shrinking(desired: int, progress: Progress, *names: str, replicas: int = 3, **meta: Any) -> Plan:
    """Three pods, and a load that needs fewer."""
    pods = tuple(pod(name, **(meta if name in names else {})) for name in ("a", "b", "c"))
    obj = pod_autoscaler(status=status(TRUE, 999, desiredScale=3, actualScale=3))
    seen = ObservedPodAutoscaler(parse(obj), desired, 3, replicas, WHY, pods=pods, timeout=30.0, progress=progress)
    return reconcile(seen, Config(), NOW)


def test_replicas_finish_before_they_go() -> None:
    """Asked about, drained, marked, taken away: the scale is shown as wanted all along, and what it waits for."""
    first = shrinking(2, Progress())
    assert (first.draining, first.patch, first.requeue_after) == (frozenset(), (), 1.0)
    assert first.status is not None
    assert (first.status["desiredScale"], first.status["actualScale"]) == (2, 3)
    loads = {"a": 9, "b": 2, "c": 9}
    chosen = shrinking(2, Progress(is_shrinking=True, loads=loads))
    assert (chosen.draining, chosen.patch) == ({"b"}, ())
    waiting = shrinking(2, Progress(is_shrinking=True, draining={"b": 10.0}, loads=loads))
    assert (waiting.draining, waiting.patch, waiting.requeue_after) == ({"b"}, (), 20.0)
    assert verdict(waiting, "ScaleExplained") == (TRUE, "Draining")
    done = Progress(is_shrinking=True, draining={"b": 12.0}, loads={}, quiet=frozenset("b"))
    [mark] = shrinking(2, done).patch
    cost = {"controller.kubernetes.io/pod-deletion-cost": "-2147483648"}
    assert mark == Patch(kinds.POD, Key("default", "b"), {"metadata": {"uid": "uid-b", "annotations": cost}})
    last = shrinking(2, done, "b", annotations=cost)
    assert (scaled(last), last.draining) == (2, {"b"})


def test_load_that_comes_back_ends_the_drain() -> None:
    """Nothing is scaled, for nothing was taken away; so does a pause."""
    plan = shrinking(3, Progress(is_shrinking=True, draining={"b": 10.0}, loads={"b": 1}))
    assert (plan.draining, plan.patch) == (None, ())
    obj = paused("true", status=status(TRUE, 999))
    drains = Progress(is_shrinking=True, draining={"a": 1.0})
    seen = ObservedPodAutoscaler(parse(obj), 0, 1, 1, WHY, pods=(pod("a"),), progress=drains)
    assert reconcile(seen, Config(), NOW).draining is None


class Decisions:
    def decision(self, key: Key) -> Decision | None:
        return Decision(3, -100) if key == KEY else None

    def explanation(self, key: Key) -> Explanation | None:
        return WHY if key == KEY else None

    def ready(self, key: Key) -> int:
        return 2


def test_observe() -> None:
    """The decision, the ready replicas, and what the Deployment asks for; None when the object is gone."""
    spec = {
        "replicas": 4,
        "selector": {"matchLabels": {"of": "hello"}},
        "template": {"spec": {"terminationGracePeriodSeconds": 60}},
    }
    deployment = {"metadata": {"name": "hello-00001-deployment", "namespace": "default"}, "spec": spec}
    mine, other = pod("mine", labels={"of": "hello"}), pod("other", labels={"of": "another"})
    one = controller(Decisions(), Drains())
    cache = Objects(
        (kinds.POD_AUTOSCALER, pod_autoscaler()), (kinds.DEPLOYMENT, deployment), (kinds.POD, mine), (kinds.POD, other)
    )
    seen = one.observe(cache, KEY)
    assert seen is not None
    assert (seen.desired, seen.ready, seen.replicas, seen.explanation) == (3, 2, 4, WHY)
    assert (seen.pods, seen.timeout, seen.progress) == ((mine,), 60.0, ASKED)
    assert one.observe(Objects(), KEY) is None


def test_watches_lead_to_the_revisions_key() -> None:
    """From a Deployment, and from an EndpointSlice by way of its Service."""
    watches = controller(Decisions(), Drains()).watches
    service = {"metadata": {"name": "hello-00001-private", "namespace": "default", **OWNED}}
    cache = Objects((kinds.CORE_SERVICE, service))
    deployment = {"metadata": {"name": "hello-00001-deployment", "namespace": "default", **OWNED}}
    endpoint_slice = {
        "metadata": {
            "name": "x",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "hello-00001-private"},
        }
    }
    assert list(watches[kinds.DEPLOYMENT](deployment, cache)) == [KEY]
    assert list(watches[kinds.ENDPOINT_SLICE](endpoint_slice, cache)) == [KEY]
    endpoint_slice["metadata"]["labels"] = {}
    assert list(watches[kinds.ENDPOINT_SLICE](endpoint_slice, cache)) == []
