"""Whatever users and pods do, the controllers come to rest, and what they rest at is what was asked for."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.apis import conditions, kinds, labels
from controller.apis.meta import Key, labels_of, name_of
from controller.reconcile import revision


@st.composite
def traffic(draw):
    """A Service's `traffic`, not always one that can be carried out."""
    names = st.sampled_from([None, "hello-00001", "hello-00002", "hello-b", "nowhere"])
    targets = [draw(names) for _ in range(draw(st.integers(1, 3)))]
    share = 100 // len(targets)
    percents = [100 - share * (len(targets) - 1), *[share] * (len(targets) - 1)]
    return [
        {
            "latestRevision": name is None,
            "percent": percent,
            **({"revisionName": name} if name else {}),
            **({"tag": f"t{place}"} if draw(st.booleans()) else {}),
        }
        for place, (name, percent) in enumerate(zip(targets, percents, strict=True))
    ]


actions = st.one_of(
    st.tuples(st.just("image"), st.sampled_from(["app:1", "app:2", "app:3"])),
    st.tuples(st.just("template_name"), st.sampled_from([None, "hello-a", "hello-b"])),
    st.tuples(st.just("traffic"), traffic()),
    st.tuples(st.just("label"), st.sampled_from([None, labels.CLUSTER_LOCAL])),
    st.tuples(st.just("break"), st.booleans()),
    st.tuples(st.just("forget"), st.sampled_from(["hello-00001", "hello-00002", "hello-a"])),
)


def perform(world, edit, action, value):
    """Carries out one action of a user, or of fate."""
    if action == "label":
        obj = copy.deepcopy(world.find(kinds.SERVICE, "hello"))
        obj["metadata"]["labels"] = {labels.VISIBILITY: value} if value else {}
        world.update(obj)
    elif action == "break":
        world.broken = value
    elif action == "forget":
        if world.get(kinds.REVISION, Key("default", value)) is not None:
            world.delete(kinds.REVISION, value)
    else:
        edit("hello", **{action: value})


@settings(max_examples=12)
@given(steps=st.lists(actions, min_size=1, max_size=4))
def test_comes_to_rest(world_class, make_service, edit_of, steps):
    """After each step every plan becomes empty; a pass later it still is, and Ready says what the children say."""
    world = world_class()
    world.create(make_service())
    world.settle()
    for action, value in steps:
        perform(world, edit_of(world), action, value)
        world.settle()
        consistent(world)


def consistent(world):
    obj = world.find(kinds.SERVICE, "hello")
    for kind in (kinds.CONFIGURATION, kinds.ROUTE):
        assert conditions.is_current(world.find(kind, "hello"))
    children = [world.condition(kinds.SERVICE, "hello", name)[0] for name in ("ConfigurationsReady", "RoutesReady")]
    worst = next(status for status in ("False", "Unknown", "True") if status in children)
    assert world.condition(kinds.SERVICE, "hello")[0] == worst
    if worst == "True":
        programmed(world, obj)


def programmed(world, obj):
    """The KIngress sends as much to each Revision as the status says, and every Revision named is active."""
    reported = obj["status"]["traffic"]
    shares = {}
    for target in reported:
        shares[target["revisionName"]] = shares.get(target["revisionName"], 0) + target["percent"]
        state = labels_of(world.find(kinds.REVISION, target["revisionName"]))[labels.ROUTING_STATE]
        assert state == labels.ACTIVE
    splits = world.find(kinds.INGRESS, "hello")["spec"]["rules"][0]["http"]["paths"][0]["splits"]
    assert {split["serviceName"]: split["percent"] for split in splits} == {
        name: percent for name, percent in shares.items() if percent
    }


@pytest.mark.parametrize("count", [1, 3])
def test_revisions_apart(world, make_service, count):
    """Services of different names don't get in each other's way."""
    for number in range(count):
        world.create(make_service(f"app-{number}"))
    world.settle()
    assert {name_of(obj) for obj in world.list(kinds.SERVICE)} == {f"app-{number}" for number in range(count)}
    for obj in world.list(kinds.SERVICE):
        assert conditions.is_ready(obj)
        assert not world.reconcile(revision.CONTROLLER, f"{name_of(obj)}-00001").status
