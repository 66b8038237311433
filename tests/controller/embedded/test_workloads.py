"""Deployment → Pods and Service → EndpointSlices: tables, and the laws of a rolling update."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.apis import kinds, meta
from controller.apis.pods import DELETION_COST, is_ready
from controller.config.store import Config
from controller.embedded import workloads
from controller.embedded.workloads import ObservedDeployment, ObservedService

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def deployment(replicas=1, *, image="a", status=None, **spec):
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "n", "uid": "du", "generation": 3},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "x"}},
            "template": {
                "metadata": {"labels": {"app": "x"}, "annotations": {"k": "v"}},
                "spec": {"containers": [{"name": "c", "image": image}]},
            },
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"}},
            **spec,
        },
        **({"status": status} if status else {}),
    }


def plan_for(owner, pods=(), now=T0):
    return workloads.reconcile_deployment(ObservedDeployment(owner, tuple(pods)), Config(), now)


def ready(pod, is_ready=True, since=T0):
    pod = copy.deepcopy(pod)
    pod["metadata"].setdefault("creationTimestamp", meta.format_time(T0))
    pod["metadata"].setdefault("uid", "uid-" + pod["metadata"]["name"])
    state = {"type": "Ready", "status": str(is_ready), "lastTransitionTime": meta.format_time(since)}
    pod["status"] = {"phase": "Running", "conditions": [state], "podIP": "127.0.0.1"}
    return pod


def pods_of(owner, count, **given):
    return [ready(pod, **given) for pod in plan_for({**owner, "spec": {**owner["spec"], "replicas": count}}).create]


def condition(status, kind):
    return next(entry for entry in status["conditions"] if entry["type"] == kind)


def test_pods_carry_the_template_their_owner_and_the_template_hash():
    """A pod is its template plus owner, hash, node and a name of its own."""
    owner = deployment(2)
    first, second = plan_for(owner).create
    assert first["metadata"]["labels"] == {
        "app": "x",
        "pod-template-hash": workloads.template_hash(owner["spec"]["template"]),
    }
    assert first["metadata"]["annotations"] == {"k": "v"}
    assert meta.is_controlled_by(first, owner)
    assert first["spec"]["nodeName"] == "local"
    assert first["metadata"]["name"] != second["metadata"]["name"]
    assert len(first["metadata"]["name"]) == len("d-") + 5


def test_a_plan_from_a_stale_cache_names_the_same_pods():
    """So it fails with AlreadyExists instead of making a second set."""
    names = [[pod["metadata"]["name"] for pod in plan_for(deployment(3)).create] for _ in range(2)]
    assert names[0] == names[1]


def test_the_name_of_an_ending_pod_is_not_free():
    """A pod that is going does not count, but its name is taken until it is gone."""
    owner = deployment(1)
    ending = pods_of(owner, 1)[0]
    ending["metadata"]["deletionTimestamp"] = meta.format_time(T0)
    (pod,) = plan_for(owner, [ending]).create
    assert pod["metadata"]["name"] != ending["metadata"]["name"]


def test_a_deployment_that_is_going_makes_no_pods():
    """Else a deletion would race with the pods that replace its own."""
    owner = deployment(1)
    owner["metadata"]["deletionTimestamp"] = meta.format_time(T0)
    assert plan_for(owner).create == ()


def orphaned(pod):
    """The pod as `kubectl delete deployment --cascade=orphan` leaves it."""
    pod = copy.deepcopy(pod)
    del pod["metadata"]["ownerReferences"]
    pod["metadata"]["resourceVersion"] = "7"
    return pod


class CacheOf:
    """One namespace's Deployment and pods."""

    def __init__(self, owner, pods):
        self._objects = {kinds.DEPLOYMENT: [owner], kinds.POD: pods}

    def get(self, kind, key):
        return next((obj for obj in self._objects[kind] if meta.key_of(obj) == key), None)

    def list(self, kind, namespace=None, labels=None):
        return [obj for obj in self._objects[kind] if (labels or {}).items() <= meta.labels_of(obj).items()]


def test_pods_that_a_deployment_left_behind_are_taken_over():
    """First of all, so that no pod is made in their place; and their change wakes the Deployment."""
    owner = deployment(2)
    pods = [orphaned(pod) for pod in pods_of(owner, 2)]
    cache = CacheOf(owner, pods)
    plan = workloads.reconcile_deployment(workloads.observe_deployment(cache, meta.key_of(owner)), Config(), T0)
    assert (plan.create, plan.delete, plan.status) == ((), (), None)
    assert [patch.key for patch in plan.patch] == [meta.key_of(pod) for pod in pods]
    for patch, pod in zip(plan.patch, pods, strict=True):
        assert meta.is_controlled_by({**pod, **patch.body}, owner)
        assert (patch.body["metadata"]["uid"], patch.body["metadata"]["resourceVersion"]) == (meta.uid_of(pod), "7")
    assert list(workloads.DEPLOYMENTS.watches[kinds.POD](pods[0], cache)) == [meta.key_of(owner)]


def test_only_what_a_deployment_made_and_nobody_controls_is_taken_over():
    """Not somebody's own pod with the same labels, not another's, none that is ending or finished."""
    owner = deployment(1)
    bare, others, ending, finished, unselected = (orphaned(pod) for pod in pods_of(owner, 5))
    del bare["metadata"]["labels"]["pod-template-hash"]
    others["metadata"]["ownerReferences"] = [{"kind": "Job", "uid": "ju", "name": "j", "controller": True}]
    ending["metadata"]["deletionTimestamp"] = meta.format_time(T0)
    finished["status"]["phase"] = "Succeeded"
    unselected["metadata"]["labels"]["app"] = "y"
    cache = CacheOf(owner, [bare, others, ending, finished, unselected])
    assert workloads.observe_deployment(cache, meta.key_of(owner)).orphans == ()
    owner["spec"]["selector"] = {"matchExpressions": [{"key": "app", "operator": "Exists"}]}
    assert (
        workloads.observe_deployment(CacheOf(owner, [orphaned(pods_of(owner, 1)[0])]), meta.key_of(owner)).orphans == ()
    )


def test_scale_down_takes_unready_then_cheap_then_young():
    """The order of Kubernetes' ReplicaSet: what costs least to lose goes first."""
    owner = deployment(4)
    unready, cheap, young, old = pods_of(owner, 4)
    unready = ready(unready, is_ready=False)
    cheap["metadata"]["annotations"] = {DELETION_COST: "-5"}
    young["metadata"]["creationTimestamp"] = meta.format_time(T0 + timedelta(seconds=9))
    for replicas, doomed in ((3, [unready]), (2, [unready, cheap]), (1, [unready, cheap, young])):
        plan = plan_for(deployment(replicas), [old, young, cheap, unready])
        assert [one.key.name for one in plan.delete] == [pod["metadata"]["name"] for pod in doomed]


def test_finished_pods_are_replaced_and_removed():
    """A pod that has ended serves nobody."""
    owner = deployment(1)
    (pod,) = pods_of(owner, 1)
    pod["status"]["phase"] = "Failed"
    plan = plan_for(owner, [pod])
    assert len(plan.create) == 1
    assert [one.key.name for one in plan.delete] == [pod["metadata"]["name"]]


def test_a_rolling_update_surges_by_at_least_one_and_waits_for_it():
    """An old pod goes only when a new one is ready in its place."""
    owner = deployment(2)
    old = pods_of(owner, 2)
    changed = deployment(2, image="b")
    plan = plan_for(changed, old)
    assert (len(plan.create), len(plan.delete)) == (1, 0)
    fresh = ready(plan.create[0], is_ready=False)
    assert plan_for(changed, [*old, fresh]).delete == ()
    after = plan_for(changed, [*old, ready(fresh)])
    assert (len(after.create), len(after.delete)) == (0, 1)


def test_recreate_waits_until_the_old_pods_are_gone():
    """Old and new never run at the same time, not even while the old one is ending."""
    owner = deployment(1)
    (old,) = pods_of(owner, 1)
    changed = deployment(1, image="b", strategy={"type": "Recreate"})
    plan = plan_for(changed, [old])
    assert (len(plan.create), len(plan.delete)) == (0, 1)
    old["metadata"]["deletionTimestamp"] = meta.format_time(T0)
    assert plan_for(changed, [old]).create == ()
    assert len(plan_for(changed, []).create) == 1


def test_status_counts_what_is_there():
    """Replicas are those that exist; unavailable counts also those still missing."""
    owner = deployment(3)
    first, second = pods_of(owner, 2)
    status = plan_for(owner, [first, ready(second, is_ready=False)]).status
    counts = {name: value for name, value in status.items() if name.endswith("Replicas") or name == "replicas"}
    assert counts == {
        "replicas": 2,
        "updatedReplicas": 2,
        "readyReplicas": 1,
        "availableReplicas": 1,
        "unavailableReplicas": 2,
    }
    assert status["observedGeneration"] == 3
    assert condition(status, "Available")["reason"] == "MinimumReplicasUnavailable"


def test_min_ready_seconds_delays_availability():
    """A pod is available when it was ready that long, and the plan asks to look again just then."""
    owner = deployment(1, minReadySeconds=30)
    pods = pods_of(owner, 1, since=T0)
    plan = plan_for(owner, pods, T0 + timedelta(seconds=10))
    assert plan.status["availableReplicas"] == 0
    assert plan.requeue_after == 20
    assert plan_for(owner, pods, T0 + timedelta(seconds=30)).status["availableReplicas"] == 1


def test_progress_deadline():
    """NewReplicaSetCreated, then ProgressDeadlineExceeded after progressDeadlineSeconds without progress; readiness
    turns it True again."""
    owner = deployment(1, progressDeadlineSeconds=60)
    first = plan_for(owner)
    assert condition(first.status, "Progressing")["reason"] == "NewReplicaSetCreated"
    assert first.requeue_after == 60
    pods = [ready(first.create[0], is_ready=False)]
    owner["status"] = first.status
    second = plan_for(owner, pods, T0 + timedelta(seconds=20))
    assert condition(second.status, "Progressing")["reason"] == "ReplicaSetUpdated"
    assert second.requeue_after == 60
    owner["status"] = second.status
    assert plan_for(owner, pods, T0 + timedelta(seconds=79)).requeue_after == 1
    late = plan_for(owner, pods, T0 + timedelta(seconds=80))
    told = condition(late.status, "Progressing")
    assert (told["status"], told["reason"]) == ("False", "ProgressDeadlineExceeded")
    assert late.requeue_after is None
    owner["status"] = late.status
    assert plan_for(owner, pods, T0 + timedelta(seconds=500)).status is None
    up = plan_for(owner, [ready(pods[0])], T0 + timedelta(seconds=501))
    assert condition(up.status, "Progressing")["reason"] == "NewReplicaSetAvailable"


def test_scaling_a_completed_rollout_is_no_new_rollout():
    """From zero and back the deadline does not run: Kubernetes' rule."""
    owner = deployment(0)
    owner["status"] = plan_for(owner).status
    assert condition(owner["status"], "Progressing")["reason"] == "NewReplicaSetAvailable"
    owner["spec"]["replicas"] = 1
    plan = plan_for(owner, now=T0 + timedelta(hours=1))
    assert condition(plan.status, "Progressing")["reason"] == "NewReplicaSetAvailable"
    assert plan.requeue_after is None


@given(
    old=st.lists(st.booleans(), max_size=6),
    new=st.lists(st.booleans(), max_size=6),
    replicas=st.integers(0, 6),
    surge=st.one_of(st.integers(0, 3), st.sampled_from(["0%", "25%", "100%"])),
    unavailable=st.one_of(st.integers(0, 3), st.sampled_from(["0%", "25%", "100%"])),
    readiness=st.randoms(use_true_random=False),
)
def test_a_rolling_update_keeps_its_bounds_and_arrives(old, new, replicas, surge, unavailable, readiness):
    """At no step more pods than before or replicas + surge; never fewer available ones than before or replicas -
    maxUnavailable because of a deletion; at the end exactly `replicas` pods of the new template, and nothing to do."""
    bounds = {"strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}
    before, after = deployment(image="a", **bounds), deployment(replicas, image="b", **bounds)
    pods = {}
    for owner, states in ((before, old), (after, new)):
        for pod, state in zip(pods_of(owner, len(states)), states, strict=True):
            pods[meta.name_of(pod)] = ready(pod, is_ready=state)
    allowed, missing = workloads._bounds(after["spec"]["strategy"]["rollingUpdate"], replicas)
    for _ in range(40):
        plan = plan_for(after, pods.values())
        if plan.status is not None:
            after["status"] = plan.status
        available = sum(is_ready(pod) for pod in pods.values())
        count = len(pods)
        doomed = {one.key.name for one in plan.delete}
        created = {meta.name_of(pod): ready(pod, is_ready=False) for pod in plan.create}
        assert len(pods | created) <= max(count, replicas + allowed)
        pods = {name: pod for name, pod in pods.items() if name not in doomed} | created
        assert sum(is_ready(pod) for pod in pods.values()) >= min(available, replicas - missing)
        for name in [name for name in pods if not is_ready(pods[name]) and readiness.random() < 0.5]:
            pods[name] = ready(pods[name])
    for name in pods:
        pods[name] = ready(pods[name])
    for _ in range(20):
        plan = plan_for(after, pods.values())
        doomed = {one.key.name for one in plan.delete}
        pods = {name: pod for name, pod in pods.items() if name not in doomed}
        pods |= {meta.name_of(pod): ready(pod) for pod in plan.create}
        after["status"] = plan.status or after["status"]
    final = plan_for(after, pods.values())
    assert (final.create, final.delete, final.status) == ((), (), None)
    wanted = workloads.template_hash(after["spec"]["template"])
    assert [pod["metadata"]["labels"]["pod-template-hash"] for pod in pods.values()] == [wanted] * replicas


# --- Services ---------------------------------------------------------------------------------------------------------


def service(**spec):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s", "namespace": "n", "uid": "su", "labels": {"l": "1"}},
        "spec": {
            "selector": {"app": "x"},
            "ports": [{"name": "http", "port": 80, "targetPort": "user-port", "protocol": "TCP"}],
            **spec,
        },
    }


def backend(name, *, host_port=None, is_ready=True, ip="127.0.0.1", deleting=False, phase="Running"):
    pod = {
        "metadata": {"name": name, "namespace": "n", "uid": "u-" + name, "labels": {"app": "x"}},
        "spec": {
            "nodeName": "local",
            "containers": [{"name": "c", "ports": [{"name": "user-port", "containerPort": 8080}]}],
        },
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": str(is_ready)}]},
    }
    if ip:
        pod["status"]["podIP"] = ip
    if host_port:
        pod["metadata"]["annotations"] = {"zerogate.dev/host-ports": f'{{"8080": {host_port}}}'}
    if deleting:
        pod["metadata"]["deletionTimestamp"] = meta.format_time(T0)
    return pod


def slices_for(owner, *pods, present=()):
    return workloads.reconcile_service(ObservedService(owner, pods, tuple(present)), Config(), T0)


def test_one_slice_per_distinct_port_set():
    """A slice has one set of ports, so pods on different host ports are in different slices."""
    plan = slices_for(service(), backend("a", host_port=20001), backend("b", host_port=20002))
    assert sorted((p["ports"][0]["port"], p["endpoints"][0]["targetRef"]["name"]) for p in plan.create) == [
        (20001, "a"),
        (20002, "b"),
    ]
    (piece, _) = plan.create
    assert piece["metadata"]["labels"] == {
        "l": "1",
        "kubernetes.io/service-name": "s",
        "endpointslice.kubernetes.io/managed-by": "zerogate",
    }
    assert piece["metadata"]["ownerReferences"][0]["kind"] == "Service"
    assert piece["ports"] == [{"name": "http", "port": 20001, "protocol": "TCP"}]


def test_a_new_pod_that_has_its_port_is_an_endpoint_before_its_status_says_so():
    """Not ready: gateways find that out by themselves, and begin to while the process starts."""
    (piece,) = slices_for(service(), backend("a", ip=None, host_port=20001, is_ready=False, phase="Pending")).create
    (endpoint,) = piece["endpoints"]
    assert (endpoint["addresses"], piece["ports"][0]["port"]) == (["127.0.0.1"], 20001)
    assert not endpoint["conditions"]["ready"]


def test_without_host_ports_pods_share_a_slice_on_the_container_port():
    """Where pods have addresses of their own the slice is the usual one."""
    (piece,) = slices_for(service(), backend("a", ip="10.0.0.1"), backend("b", ip="10.0.0.2")).create
    assert piece["ports"][0]["port"] == 8080
    assert [one["addresses"] for one in piece["endpoints"]] == [["10.0.0.1"], ["10.0.0.2"]]


@pytest.mark.parametrize(
    ("target", "port"),
    [({"targetPort": 9090}, 9090), ({"targetPort": 8080}, 20001), ({}, 80), ({"targetPort": "no"}, None)],
)
def test_target_ports_by_number_name_and_default(target, port):
    """A targetPort that the pod has is its host port; another number stays as it is; an unknown name gives none."""
    owner = service(ports=[{"port": 80, **target}])
    (piece,) = slices_for(owner, backend("a", host_port=20001)).create
    assert [entry["port"] for entry in piece["ports"]] == ([port] if port else [])


@pytest.mark.parametrize(
    ("given", "conditions"),
    [
        ({}, (True, True, False)),
        ({"is_ready": False}, (False, False, False)),
        ({"deleting": True}, (False, True, True)),
    ],
)
def test_endpoint_conditions(given, conditions):
    """Ready, serving and terminating say what Kubernetes says of a pod in that state."""
    (piece,) = slices_for(service(), backend("a", **given)).create
    told = piece["endpoints"][0]["conditions"]
    assert (told["ready"], told["serving"], told["terminating"]) == conditions


def test_pods_without_address_and_finished_ones_are_no_endpoints():
    """Nothing could be sent to them."""
    plan = slices_for(service(), backend("a", ip=""), backend("b", phase="Succeeded"))
    assert plan.create == ()


def test_publish_not_ready_addresses():
    """The Service's flag calls every endpoint ready."""
    (piece,) = slices_for(service(publishNotReadyAddresses=True), backend("a", is_ready=False)).create
    assert piece["endpoints"][0]["conditions"]["ready"] is True


def test_slices_follow_the_pods_and_then_rest():
    """Create, update in place with the resourceVersion it had, delete, nothing."""
    owner = service()
    made = [
        {**p, "metadata": {**p["metadata"], "uid": "e", "resourceVersion": "7"}}
        for p in slices_for(owner, backend("a", host_port=20001, is_ready=False)).create
    ]
    plan = slices_for(owner, backend("a", host_port=20001), present=made)
    (update,) = plan.update
    assert update["metadata"]["resourceVersion"] == "7"
    assert update["endpoints"][0]["conditions"]["ready"] is True
    quiet = slices_for(owner, backend("a", host_port=20001), present=[update])
    assert (quiet.create, quiet.update, quiet.delete) == ((), (), ())
    gone = slices_for(owner, present=[update])
    assert [one.key.name for one in gone.delete] == [update["metadata"]["name"]]


def test_a_hundred_endpoints_fill_a_slice():
    """Kubernetes' limit; the next one opens another slice."""
    plan = slices_for(service(), *(backend(f"p{n}", ip=f"10.0.0.{n}") for n in range(101)))
    assert sorted(len(piece["endpoints"]) for piece in plan.create) == [1, 100]


def test_a_pod_concerns_the_services_that_select_it():
    """Found by one label of the pod, then checked against the whole selector."""

    class Cache:
        def get(self, kind, key):
            return None

        def referring(self, kind, namespace, reference):
            other = service(selector={"app": "x", "tier": "other"})
            return [service(), other] if kind == kinds.CORE_SERVICE and reference == "label app=x" else []

    assert list(workloads.SERVICES.watches[kinds.POD](backend("a"), Cache())) == [meta.Key("n", "s")]
