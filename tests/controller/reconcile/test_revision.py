"""A Revision's children and what its conditions say of them."""

from __future__ import annotations

import copy

import pytest

from controller.apis import kinds, labels
from controller.apis.meta import Key, key_of
from controller.reconcile import revision

NAME = "hello-00001"
MIN_SCALE = labels.AUTOSCALING + "min-scale"


@pytest.fixture
def deploying(world, make_service):
    """A Service whose Revision has its children, of which nothing is known yet."""
    world.create(make_service())
    world.settle(cluster=False)
    return world


@pytest.fixture
def ready(deploying):
    """The same once it runs."""
    deploying.settle()
    return deploying


def condition(world, type_="Ready"):
    return world.condition(kinds.REVISION, NAME, type_)


def deployment_status(world, **fields):
    world.set_status(kinds.DEPLOYMENT, Key("default", f"{NAME}-deployment"), fields)


def progressing(status, reason="", message=""):
    return {"type": "Progressing", "status": status, "reason": reason, "message": message}


def autoscaler_status(world, *, ready, initialised, reason="", service=NAME):
    conditions = [
        {"type": "Ready", "status": ready, "reason": reason, "message": ""},
        {"type": "ScaleTargetInitialized", "status": "True" if initialised else "Unknown"},
    ]
    world.set_status(kinds.POD_AUTOSCALER, Key("default", NAME), {"conditions": conditions, "serviceName": service})


def pod(world, *, waiting=None, terminated=None, conditions=()):
    """A pod of the Revision that isn't ready."""
    template = world.find(kinds.DEPLOYMENT, f"{NAME}-deployment")["spec"]["template"]
    status = {"name": "user-container", "ready": False, "state": {"waiting": waiting} if waiting else {"running": {}}}
    if terminated:
        status["lastState"] = {"terminated": terminated}
    meta = {"name": f"{NAME}-pod", "namespace": "default", "labels": template["metadata"]["labels"]}
    if world.get(kinds.POD, Key("default", meta["name"])) is None:
        world.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]})
    body = {"phase": "Running", "conditions": list(conditions), "containerStatuses": [status]}
    world.set_status(kinds.POD, Key("default", meta["name"]), body)


def passes(world):
    world.reconcile(revision.CONTROLLER, NAME)
    return world


def test_children(deploying):
    """Deployment, autoscaler and private Service, all owned by the Revision."""
    uid = deploying.find(kinds.REVISION, NAME)["metadata"]["uid"]
    children = [
        deploying.find(kinds.DEPLOYMENT, f"{NAME}-deployment"),
        deploying.find(kinds.POD_AUTOSCALER, NAME),
        deploying.find(kinds.CORE_SERVICE, f"{NAME}-private"),
    ]
    for child in children:
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("Revision", uid, True)
        assert child["metadata"]["labels"][labels.REVISION_UID] == uid


def test_deploying(deploying):
    """Before anything is known all is Unknown."""
    assert condition(deploying)[:2] == ("Unknown", "Deploying")
    assert condition(deploying, "Active")[:2] == ("Unknown", "Deploying")


def test_progress_is_not_readiness(deploying):
    """A Deployment that progresses does not make resources available before the initial scale was reached."""
    deployment_status(deploying, conditions=[progressing("True")])
    autoscaler_status(deploying, ready="Unknown", initialised=False)
    assert condition(passes(deploying), "ResourcesAvailable")[:2] == ("Unknown", "Deploying")


def test_ready(ready):
    """Initial scale reached: both conditions are True, and replicas are reported."""
    assert condition(ready) == ("True", "", "")
    status = ready.find(kinds.REVISION, NAME)["status"]
    assert (status["actualReplicas"], status["desiredReplicas"]) == (1, 1)


def test_ready_at_zero(ready):
    """Scaled to zero a Revision stays Ready; Active says why there are no pods."""
    deployment_status(ready, conditions=[progressing("True")])
    autoscaler_status(ready, ready="False", reason="NoTraffic", initialised=True)
    passes(ready)
    assert condition(ready)[0] == "True"
    assert condition(ready, "Active")[:2] == ("False", "NoTraffic")


@pytest.mark.parametrize("reason", sorted(revision.HOPELESS))
def test_fails_fast(deploying, reason):
    """What time does not cure fails at once, in the kubelet's words; when it is cured the Revision recovers."""
    deployment_status(deploying, conditions=[progressing("True")])
    autoscaler_status(deploying, ready="Unknown", initialised=False)
    pod(deploying, waiting={"reason": reason, "message": "no such thing"})
    assert condition(passes(deploying)) == ("False", reason, "no such thing")
    deploying.settle()
    assert condition(deploying)[0] == "True"


@pytest.mark.parametrize(
    ("terminated", "reason", "message"),
    [
        ({"exitCode": 3, "message": "no database"}, "ExitCode3", "Container failed with: no database"),
        ({"exitCode": 0}, "ExitCode0", "Container failed with: container exited with no error"),
        ({"exitCode": 3}, "ExitCode3", "Container failed with: exit code 3 and no output"),
        ({"exitCode": 143, "signal": 15}, "ExitCode143", "Container failed with: killed by signal 15"),
        ({"exitCode": 137, "reason": "OOMKilled"}, "ExitCode137", "Container failed with: out of memory"),
    ],
)
def test_crash(deploying, terminated, reason, message):
    """A container that ended and was restarted fails the Revision with its exit code and last words."""
    deployment_status(deploying, conditions=[progressing("True")])
    autoscaler_status(deploying, ready="Unknown", initialised=False)
    pod(deploying, waiting={"reason": "CrashLoopBackOff", "message": "back-off"}, terminated=terminated)
    assert condition(passes(deploying)) == ("False", reason, message)
    assert deploying.find(kinds.POD_AUTOSCALER, NAME)["spec"]["reachability"] == "Unreachable"
    deploying.settle()
    assert condition(deploying)[0] == "True"
    assert deploying.find(kinds.POD_AUTOSCALER, NAME)["spec"]["reachability"] == "Reachable"


def test_cannot_be_started(deploying):
    """A command that isn't found is the same failure while it is tried and between two attempts."""
    deployment_status(deploying, conditions=[progressing("True")])
    autoscaler_status(deploying, ready="Unknown", initialised=False)
    pod(deploying, waiting={"reason": "RunContainerError", "message": "no such file"})
    assert condition(passes(deploying)) == ("False", "RunContainerError", "no such file")
    ended = {"exitCode": 128, "reason": "StartError", "message": "no such file"}
    pod(deploying, waiting={"reason": "CrashLoopBackOff", "message": "back-off"}, terminated=ended)
    assert condition(passes(deploying)) == ("False", "RunContainerError", "no such file")


def test_pods_that_cannot_start_are_not_waited_for(deploying):
    """Startable is False in a crash loop and when the image or configuration is wrong; not after one crash, which is
    restarted at once; and True again with the first ready pod."""
    deployment_status(deploying, conditions=[progressing("True")])
    autoscaler_status(deploying, ready="Unknown", initialised=False)
    assert "Startable" not in {one["type"] for one in deploying.find(kinds.REVISION, NAME)["status"]["conditions"]}
    ended = {"exitCode": 3, "message": "no database"}
    pod(deploying, terminated=ended)
    passes(deploying)
    assert "Startable" not in {one["type"] for one in deploying.find(kinds.REVISION, NAME)["status"]["conditions"]}
    pod(deploying, waiting={"reason": "CrashLoopBackOff", "message": "back-off"}, terminated=ended)
    assert condition(passes(deploying), "Startable") == (
        *("False", "CrashLoopBackOff", "Container failed with: no database"),
    )
    pod(deploying, terminated=ended)
    assert condition(passes(deploying), "Startable")[0] == "True"
    pod(deploying, waiting={"reason": "ErrImagePull", "message": "no such image"})
    assert condition(passes(deploying), "Startable") == ("False", "ErrImagePull", "no such image")
    deploying.settle()
    assert condition(deploying, "Startable")[0] == "True"


def test_never_listens(deploying):
    """A container that runs without listening fails at the progress deadline, with what its readiness says."""
    late = progressing("False", "ProgressDeadlineExceeded", "has timed out progressing")
    deployment_status(deploying, conditions=[late])
    autoscaler_status(deploying, ready="Unknown", initialised=False)
    unready = {"type": "Ready", "status": "False", "message": "nothing listens on port 8080"}
    pod(deploying, conditions=[unready])
    expected = ("False", "ProgressDeadlineExceeded", "nothing listens on port 8080")
    assert condition(passes(deploying), "ResourcesAvailable") == expected
    deploying.delete(kinds.POD, f"{NAME}-pod")
    assert condition(passes(deploying), "ResourcesAvailable") == expected


def test_not_listening_yet(deploying):
    """Before the deadline the same is told as what is being waited for; once there are ready pods it is gone."""
    deployment_status(deploying, conditions=[progressing("True")])
    autoscaler_status(deploying, ready="Unknown", initialised=False)
    pod(deploying, conditions=[{"type": "Ready", "status": "False", "message": "nothing listens on port 8080"}])
    assert condition(passes(deploying)) == ("Unknown", "Deploying", "nothing listens on port 8080")
    deploying.settle()
    assert condition(deploying) == ("True", "", "")


def test_progress_deadline(deploying):
    """Without a pod to ask, the Deployment's word is passed on."""
    late = progressing("False", "ProgressDeadlineExceeded", "has timed out progressing")
    deployment_status(deploying, conditions=[late])
    expected = ("False", "ProgressDeadlineExceeded", "has timed out progressing")
    assert condition(passes(deploying), "ResourcesAvailable") == expected


def test_waiting_after_the_deadline(deploying):
    """After the deadline any reason to wait is told."""
    deployment_status(deploying, conditions=[progressing("False", "ProgressDeadlineExceeded", "slow")])
    pod(deploying, waiting={"reason": "PodInitializing", "message": "still"})
    assert condition(passes(deploying)) == ("False", "PodInitializing", "still")


def test_unschedulable(deploying):
    """A pod that fits nowhere fails with the scheduler's words."""
    deployment_status(deploying, conditions=[progressing("True")])
    nowhere = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    pod(deploying, conditions=[nowhere])
    assert condition(passes(deploying)) == ("False", "Unschedulable", "0/3 nodes")


def test_quota(deploying):
    """A quota that keeps pods from being made fails the Revision."""
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"}
    deployment_status(deploying, conditions=[progressing("True"), failure])
    assert condition(passes(deploying)) == ("False", "FailedCreate", "quota")


def test_initial_scale_never_reached(deploying):
    """An autoscaler that gave up fails the Revision for want of a better reason."""
    deployment_status(deploying, conditions=[progressing("True")])
    autoscaler_status(deploying, ready="False", reason="TimedOut", initialised=False)
    expected = ("False", "ProgressDeadlineExceeded", "Initial scale was never achieved")
    assert condition(passes(deploying), "ResourcesAvailable") == expected


def test_giving_up_keeps_the_better_reason(deploying):
    """When the autoscaler gives up on an image that doesn't exist, the image is still what is wrong."""
    deployment_status(deploying, conditions=[progressing("True")])
    pod(deploying, waiting={"reason": "ErrImagePull", "message": "no such image"})
    passes(deploying)
    deploying.delete(kinds.POD, f"{NAME}-pod")
    autoscaler_status(deploying, ready="False", reason="TimedOut", initialised=False)
    assert condition(passes(deploying)) == ("False", "ErrImagePull", "no such image")


def test_foreign_deployment(world, make_service):
    """A Deployment of somebody else is left alone, and named."""
    meta = {"name": f"{NAME}-deployment", "namespace": "default"}
    world.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": {"replicas": 1}})
    world.create(make_service())
    world.settle(cluster=False)
    message = f'There is an existing Deployment "{NAME}-deployment" that we do not own.'
    assert condition(world) == ("False", "NotOwned", message)
    assert world.errors


def test_manual_edits_are_kept(ready):
    """A Deployment edited by hand stays as edited: only what we render decides."""
    obj = copy.deepcopy(ready.find(kinds.DEPLOYMENT, f"{NAME}-deployment"))
    obj["spec"].update(replicas=7, paused=True)
    ready.update(obj)
    ready.settle()
    spec = ready.find(kinds.DEPLOYMENT, f"{NAME}-deployment")["spec"]
    assert (spec["replicas"], spec["paused"]) == (7, True)


def test_new_rendering_keeps_the_scale(ready):
    """A rendering that changed is written, with the autoscaler's replicas and others' labels."""
    obj = copy.deepcopy(ready.find(kinds.DEPLOYMENT, f"{NAME}-deployment"))
    obj["spec"]["replicas"] = 5
    obj["metadata"]["labels"] |= {labels.DEPLOYMENT_HASH: "of an older version", "theirs": "1"}
    obj["spec"]["template"]["spec"]["containers"][0]["image"] = "old"
    ready.update(obj)
    ready.settle()
    after = ready.find(kinds.DEPLOYMENT, f"{NAME}-deployment")
    assert after["spec"]["replicas"] == 5
    assert after["metadata"]["labels"]["theirs"] == "1"
    assert after["spec"]["template"]["spec"]["containers"][0]["image"] == "app:1"


def test_autoscaling_annotations_are_live(ready):
    """Annotations added to and removed from a Revision reach its autoscaler; a defaulted class stays."""
    autoscaler = copy.deepcopy(ready.find(kinds.POD_AUTOSCALER, NAME))
    autoscaler["metadata"]["annotations"][labels.AUTOSCALING + "class"] = "kpa.autoscaling.knative.dev"
    ready.update(autoscaler)
    for value in ("3", None):
        obj = copy.deepcopy(ready.find(kinds.REVISION, NAME))
        obj["metadata"]["annotations"].pop(MIN_SCALE, None)
        obj["metadata"]["annotations"] |= {MIN_SCALE: value} if value else {}
        ready.update(obj)
        ready.settle()
        annotations = ready.find(kinds.POD_AUTOSCALER, NAME)["metadata"]["annotations"]
        assert annotations.get(MIN_SCALE) == value
        assert annotations[labels.AUTOSCALING + "class"] == "kpa.autoscaling.knative.dev"


def test_a_pod_wakes_its_revision(ready):
    """A change of a pod concerns the Revision it is labelled with."""
    pod(ready)
    (found,) = ready.list(kinds.POD)
    assert list(revision.CONTROLLER.watches[kinds.POD](found, ready)) == [Key("default", NAME)]
    assert list(revision.CONTROLLER.watches[kinds.POD]({"metadata": {"name": "other"}}, ready)) == []
    assert key_of(found).name == f"{NAME}-pod"
