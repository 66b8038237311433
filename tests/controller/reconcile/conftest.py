"""A world in memory: it holds objects, carries plans out as an API server would, and plays the parts that are not
ours here (kubelet, autoscaler, ingress)."""

from __future__ import annotations

import copy
import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from controller.apis import kinds
from controller.apis.meta import JsonObject, Key, generation_of, is_deleting, key_of, labels_of
from controller.apis.references import references
from controller.config.domain import Domain, DomainConfig
from controller.config.store import Config
from controller.reconcile import configuration, labeler, revision, route, service
from controller.reconcile.plan import Event, Patch, Plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from controller.apis.kinds import Kind
    from controller.reconcile.plan import Controller

CONTROLLERS: tuple[Controller[Any], ...] = (
    service.CONTROLLER,
    configuration.CONTROLLER,
    revision.CONTROLLER,
    route.CONTROLLER,
    labeler.CONTROLLER,
)
KINDS = {(kind.api_version, kind.kind): kind for kind in (*kinds.KNATIVE_KINDS, *kinds.BUILT_IN_KINDS)}
START = datetime(2026, 1, 1, tzinfo=UTC)


class World:
    """The objects, a clock that moves a second for each pass, and the events that were written."""

    def __init__(self) -> None:
        self.config = Config(domain=DomainConfig((Domain("example.com"),)))
        self.now = START
        self.events: list[Event] = []
        self.errors: list[str] = []
        self.broken = False
        """Pods that aren't ready yet crash."""
        self._objects: dict[tuple[Kind, Key], JsonObject] = {}
        self._serial = itertools.count(1)

    # -- Cache

    def get(self, kind: Kind, key: Key) -> JsonObject | None:
        return self._objects.get((kind, key))

    def list(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[JsonObject]:
        return [
            obj
            for (of, key), obj in sorted(self._objects.items(), key=lambda item: item[0][1])
            if of == kind
            and namespace in (None, key.namespace)
            and all(labels_of(obj).get(name) == value for name, value in (labels or {}).items())
        ]

    def referring(self, kind: Kind, namespace: str, reference: str) -> Sequence[JsonObject]:
        return [obj for obj in self.list(kind, namespace) if reference in references(obj)]

    # -- the API server

    def find(self, kind: Kind, name: str) -> JsonObject:
        obj = self.get(kind, Key("default", name))
        assert obj is not None, f"there is no {kind.kind} {name}; there are {[key for of, key in self._objects]}"
        return obj

    def names(self, kind: Kind) -> list[str]:
        return [key_of(obj).name for obj in self.list(kind)]

    def create(self, obj: JsonObject) -> JsonObject:
        kind = KINDS[obj["apiVersion"], obj["kind"]]
        meta = {"namespace": "default", **obj["metadata"], "generation": 1, "uid": f"uid-{next(self._serial)}"}
        new = copy.deepcopy({**obj, "metadata": meta})
        assert (kind, key_of(new)) not in self._objects, f"{kind.kind} {key_of(new)} exists"
        self.put(kind, new)
        return new

    def update(self, obj: JsonObject) -> None:
        kind = KINDS[obj["apiVersion"], obj["kind"]]
        old = self._objects[kind, key_of(obj)]
        assert obj["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"], "a conflict"
        new = copy.deepcopy(obj)
        changed = new.get("spec") != old.get("spec")
        new["metadata"]["generation"] = generation_of(old) + changed
        self.put(kind, new)

    def set_status(self, kind: Kind, key: Key, status: JsonObject) -> None:
        self.put(kind, {**self._objects[kind, key], "status": copy.deepcopy(status)})

    def patch(self, patch: Patch) -> None:
        self.update(_merged(self._objects[patch.kind, patch.key], patch.body))
        obj = self._objects[patch.kind, patch.key]
        if is_deleting(obj) and not obj["metadata"].get("finalizers"):
            self._remove(patch.kind, patch.key)

    def delete(self, kind: Kind, name: str) -> None:
        key = Key("default", name)
        obj = self._objects[kind, key]
        if obj["metadata"].get("finalizers"):
            self.put(kind, {**obj, "metadata": {**obj["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}})
        else:
            self._remove(kind, key)

    def put(self, kind: Kind, obj: JsonObject) -> None:
        """The object as it is, at a new resourceVersion."""
        obj["metadata"] = {**obj["metadata"], "resourceVersion": str(next(self._serial))}
        self._objects[kind, key_of(obj)] = obj

    def _remove(self, kind: Kind, key: Key) -> None:
        gone = self._objects.pop((kind, key))["metadata"]["uid"]
        for (of, child), obj in list(self._objects.items()):
            owners = obj["metadata"].get("ownerReferences") or ()
            if any(owner["uid"] == gone for owner in owners) and (of, child) in self._objects:
                self.delete(of, child.name)

    # -- the runner

    def apply(self, kind: Kind, key: Key, plan: Plan) -> None:
        for obj in plan.create:
            self.create(obj)
        for obj in plan.update:
            self.update(obj)
        for patch in plan.patch:
            self.patch(patch)
        for deletion in plan.delete:
            self.delete(deletion.kind, deletion.key.name)
        if plan.status is not None:
            self.set_status(kind, key, plan.status)
        self.events += plan.events

    def reconcile(self, controller: Controller[Any], name: str) -> Plan:
        """One pass of one controller over one object, carried out; an empty plan if there is nothing to observe."""
        key = Key("default", name)
        before = copy.deepcopy(self._objects)
        seen = controller.observe(self, key)
        plan = controller.reconcile(seen, self.config, self.now) if seen is not None else Plan()
        assert self._objects == before, "a reconcile changed an object of the cache"
        if plan.error:
            self.errors.append(plan.error)
        self.apply(controller.kind, key, plan)
        if not (plan.create or plan.update or plan.patch or plan.delete):
            self._check_rest(controller, key)
        return plan

    def _check_rest(self, controller: Controller[Any], key: Key) -> None:
        """The runner relies on it: a status of its own making gives a controller nothing more to do."""
        seen = controller.observe(self, key)
        if seen is not None:
            again = controller.reconcile(seen, self.config, self.now)
            assert again.status in (None, self._objects[controller.kind, key].get("status"))
            assert not any((again.create, again.update, again.patch, again.delete))

    def settle(self, *, cluster: bool = True) -> None:
        """Passes over everything until nothing changes. `cluster` plays kubelet, autoscaler and ingress as well."""
        for _ in range(40):
            if not any(does_something(plan) for plan in self.pass_over(cluster=cluster)):
                return
        raise AssertionError("the controllers never come to rest")

    def pass_over(self, *, cluster: bool = True) -> list[Plan]:
        """One pass over every object, a second later."""
        self.now += timedelta(seconds=1)
        if cluster:
            self.play()
        return [self.reconcile(controller, name) for controller, name in self._keys()]

    def _keys(self) -> Iterable[tuple[Controller[Any], str]]:
        return [(controller, name) for controller in CONTROLLERS for name in self.names(controller.kind)]

    # -- the parts of others

    def play(self) -> None:
        """Deployments whose pods aren't broken are available, autoscalers initialised, ingresses programmed."""
        for obj in self.list(kinds.DEPLOYMENT):
            crashing = self.broken and not (obj.get("status") or {}).get("readyReplicas")
            self._status(kinds.DEPLOYMENT, obj, crashed() if crashing else running(obj["spec"]["replicas"]))
        for obj in self.list(kinds.POD_AUTOSCALER):
            deployment = self.find(kinds.DEPLOYMENT, obj["spec"]["scaleTargetRef"]["name"])
            if (deployment.get("status") or {}).get("readyReplicas"):
                self._status(kinds.POD_AUTOSCALER, obj, scaled(key_of(obj).name, 1))
        for obj in self.list(kinds.INGRESS):
            self._status(kinds.INGRESS, obj, ready(generation_of(obj)))

    def _status(self, kind: Kind, obj: JsonObject, status: JsonObject) -> None:
        if obj.get("status") != status:
            self.set_status(kind, key_of(obj), status)

    def condition(self, kind: Kind, name: str, type_: str = "Ready") -> tuple[str, str, str]:
        """(status, reason, message)"""
        found = {item["type"]: item for item in self.find(kind, name)["status"]["conditions"]}[type_]
        return found["status"], found.get("reason", ""), found.get("message", "")


def does_something(plan: Plan) -> bool:
    changes = (plan.create, plan.update, plan.patch, plan.delete, plan.events)
    return any(changes) or plan.status is not None


def _merged(old: JsonObject, body: JsonObject) -> JsonObject:
    new = dict(old)
    for name, value in body.items():
        if value is None:
            new.pop(name, None)
        elif isinstance(value, dict):
            new[name] = _merged(new.get(name) or {}, value)
        else:
            new[name] = value
    return new


def running(replicas: int) -> JsonObject:
    """The status of a Deployment whose pods are all ready."""
    conditions = [{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}]
    return {"conditions": conditions, "replicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas}


def crashed() -> JsonObject:
    """The status of a Deployment that has given up."""
    return {"conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]}


def scaled(name: str, replicas: int) -> JsonObject:
    """The status of a PodAutoscaler that reached its initial scale."""
    conditions = [{"type": type_, "status": "True"} for type_ in ("Active", "Ready", "ScaleTargetInitialized")]
    return {"conditions": conditions, "serviceName": name, "actualScale": replicas, "desiredScale": replicas}


def ready(generation: int) -> JsonObject:
    return {"conditions": [{"type": "Ready", "status": "True"}], "observedGeneration": generation}


def hello(name: str = "hello", image: str = "app:1", **template: Any) -> JsonObject:
    """A Service with one container; `template` is merged into the template's metadata."""
    container = {"name": "user-container", "image": image, "readinessProbe": {"tcpSocket": {"port": 0}}}
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "template": {
                "metadata": template,
                "spec": {"containers": [container], "containerConcurrency": 0, "timeoutSeconds": 300},
            },
            "traffic": [{"latestRevision": True, "percent": 100}],
        },
    }


def edited(world: World, name: str, **spec: Any) -> None:
    """Changes a Service's spec as a user would: `image`, `template_name`, `traffic`."""
    obj = copy.deepcopy(world.find(kinds.SERVICE, name))
    template = obj["spec"]["template"]
    if "image" in spec:
        template["spec"]["containers"][0]["image"] = spec["image"]
    if "template_name" in spec:
        template["metadata"] = {"name": spec["template_name"]} if spec["template_name"] else {}
    if "traffic" in spec:
        obj["spec"]["traffic"] = spec["traffic"]
    world.update(obj)


@pytest.fixture
def world() -> World:
    """An empty world."""
    return World()


@pytest.fixture(scope="session")
def make_service() -> Any:
    """`hello(name, image, **template metadata)` → a Service object."""
    return hello


@pytest.fixture(scope="session")
def world_class() -> type[World]:
    """For tests that need a new world for each example."""
    return World


@pytest.fixture(scope="session")
def edit_of() -> Any:
    """`edit_of(world)` → `edit` for that world."""
    return lambda world: lambda name, **spec: edited(world, name, **spec)


@pytest.fixture
def edit(world: World) -> Any:
    """`edit(name, image=…, template_name=…, traffic=…)` changes a Service's spec."""

    def change(name: str, **spec: Any) -> None:
        edited(world, name, **spec)

    return change
