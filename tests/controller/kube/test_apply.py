import pytest

from controller.apis import kinds
from controller.apis.meta import Key, key_of
from controller.kube.apply import apply, merge_changes
from controller.kube.errors import AlreadyExists, Conflict, Forbidden, KubeError, NotFound
from controller.kube.informer import Caches
from controller.reconcile.plan import Deletion, Patch, Plan


class Recording:
    """A Kube that answers what it is asked for, refuses what `refuse` says, and remembers the verbs."""

    def __init__(self, refuse=None):
        self.calls, self.refuse = [], refuse or {}

    def _do(self, verb, key, answer):
        self.calls.append((verb, str(key)))
        if verb in self.refuse:
            raise self.refuse[verb]
        return answer

    async def create(self, kind, obj):
        return self._do("create", key_of(obj), obj)

    async def update(self, kind, obj, *, subresource=""):
        return self._do(f"update {subresource}".strip(), key_of(obj), obj)

    async def patch(self, kind, key, body, *, subresource="", **_):
        kind_name = "Scale" if subresource == "scale" else kind.kind
        return self._do(f"patch {subresource}".strip(), key, {"kind": kind_name, "metadata": {"name": key.name}})

    async def delete(self, kind, key, *, uid="", **_):
        return self._do("delete", key, {})


def deployment(name, replicas=1, version="5"):
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"namespace": "ns", "name": name, "resourceVersion": version, "labels": {"a": "b"}},
        "spec": {"replicas": replicas},
    }


SUBJECT = {
    "apiVersion": "serving.knative.dev/v1",
    "kind": "Revision",
    "metadata": {"namespace": "ns", "name": "r", "resourceVersion": "1"},
    "status": {"x": 1},
}


async def run(plan, kube=None):
    kube, offered = kube or Recording(), []
    cache = Caches([kinds.DEPLOYMENT])
    cache.kinds[kinds.DEPLOYMENT].replace([deployment("d")], "5")
    error = None
    try:
        await apply(kube, kinds.REVISION, SUBJECT, plan, cache, *[lambda kind, obj: offered.append(obj)] * 2)
    except KubeError as raised:
        error = raised
    return kube.calls, offered, error


async def test_steps_come_in_order_and_the_status_last():
    """Creates, updates, patches, deletes, status; answers that are the object itself are offered to the cache."""
    key = Key("ns", "d")
    plan = Plan(
        create=(deployment("new"),),
        update=(deployment("d", 2),),
        patch=(Patch(kinds.DEPLOYMENT, key, {"spec": {"replicas": 3}}, "scale"),),
        delete=(Deletion(kinds.DEPLOYMENT, Key("ns", "old"), "u"),),
        status={"x": 2},
    )
    calls, offered, error = await run(plan)
    assert calls == [
        ("create", "ns/new"),
        ("update", "ns/d"),
        ("patch scale", "ns/d"),
        ("delete", "ns/old"),
        ("update status", "ns/r"),
    ]
    assert [obj["kind"] for obj in offered] == ["Deployment", "Deployment", "Revision"]
    assert offered[-1]["status"] == {"x": 2}
    assert error is None


async def test_a_plan_that_changes_nothing_makes_no_request():
    """An equal update, a patch of what is so already, the same status."""
    plan = Plan(
        update=(deployment("d"),),
        patch=(Patch(kinds.DEPLOYMENT, Key("ns", "d"), {"metadata": {"labels": {"a": "b", "gone": None}}}),),
        status={"x": 1},
    )
    assert await run(plan) == ([], [], None)


@pytest.mark.parametrize(
    ("refusal", "status_written"),
    [
        (Forbidden(403, "", "quota"), True),
        (AlreadyExists(409, "AlreadyExists", "taken"), False),
        (Conflict(409, "Conflict", "changed"), False),
        (NotFound(404, "NotFound", "namespace"), False),
    ],
)
async def test_a_failed_step_stops_no_other_and_a_stale_picture_writes_no_status(refusal, status_written):
    """The error is raised in the end; the status is written unless the plan came from an old picture."""
    plan = Plan(create=(deployment("a"), deployment("b")), status={"x": 2})
    calls, _, error = await run(plan, Recording({"create": refusal}))
    assert [verb for verb, _ in calls[:2]] == ["create", "create"]
    assert (("update status", "ns/r") in calls) == status_written
    assert error is refusal


async def test_deleting_what_is_gone_is_a_success():
    """Deletion is about the end, not about who did it."""
    plan = Plan(delete=(Deletion(kinds.DEPLOYMENT, Key("ns", "old")),))
    _, _, error = await run(plan, Recording({"delete": NotFound(404, "NotFound", "")}))
    assert error is None


async def test_a_real_failure_is_raised_before_a_stale_one():
    """What a person has to repair must not hide behind "look again"."""
    refusals = {"create": Conflict(409, "Conflict", ""), "delete": Forbidden(403, "", "no")}
    plan = Plan(create=(deployment("a"),), delete=(Deletion(kinds.DEPLOYMENT, Key("ns", "old")),))
    _, _, error = await run(plan, Recording(refusals))
    assert isinstance(error, Forbidden)


@pytest.mark.parametrize(
    ("target", "patch", "changes"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"a": 1}, {"a": 2}, True),
        ({"a": 1}, {"b": None}, False),
        ({"a": 1}, {"a": None}, True),
        ({"a": {"b": 1}}, {"a": {"b": 1}}, False),
        ({}, {"a": {}}, True),
        ({"a": 1}, {"a": {"b": None}}, True),
        ({"a": [1]}, {"a": [1]}, False),
    ],
)
def test_would_a_merge_patch_change_anything(target, patch, changes):
    """RFC 7386: null removes, lists are replaced whole."""
    assert merge_changes(target, patch) == changes
