"""Deployment → Pods and Service → EndpointSlices: the two loops of kube-controller-manager that a single machine needs.

**Deployments** make their Pods directly. A cluster puts ReplicaSets between them, one per template, to remember old
templates for `rollout undo`; here Knative's Revisions are that memory, and a level less is a hop less on a cold start.
The label `pod-template-hash`, which a ReplicaSet would set, still tells the pods of one template from those of another
and carries the rolling update: at most replicas + maxSurge pods, at least replicas - maxUnavailable available ones.

Pod names are `<deployment>-<5 characters>`, the characters a hash of (Deployment uid, template hash, ordinal) and the
ordinal the lowest whose name is free. So a plan from a stale cache names the same pods again and fails with
AlreadyExists, where random names would make a second set.

Pods that a Deployment deleted with `--cascade=orphan` left behind are taken over by one that selects them, as its
ReplicaSet would be in a cluster: the template hash on them tells whether they are of its template or of an old one.

**Services** get EndpointSlices grouped by resolved ports, as Kubernetes groups pods whose named ports differ. On the
process runtime every replica listens on a port of its own (annotation `zerogate.dev/host-ports`), so there a slice
usually holds one endpoint. A Service without pods has no slice (Kubernetes keeps an empty one): nothing is written when
a revision goes to zero but the deletion, nor on its way back but the slice.

Status counters are written even when 0; conditions are kube-controller-manager's. `ReplicaFailure` is never set:
nothing here refuses a pod but validation of the template, which the runner reports as an event.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import orjson

from controller.apis import kinds, labels, meta
from controller.apis.meta import Key
from controller.apis.pods import deletion_rank, is_active, is_finished, is_ready
from controller.apis.references import label_reference
from controller.embedded.podphase import address, host_ports
from controller.reconcile.plan import Controller, Deletion, Event, Patch, Plan, owner_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from controller.apis.meta import JsonObject
    from controller.config.store import Config
    from controller.reconcile.plan import Cache

NODE = "local"
"""The name of the one node, this machine."""
TEMPLATE_HASH = "pod-template-hash"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "zerogate"

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # Kubernetes' for generated names: no vowels, so no words; nothing alike
_SUFFIX = 5
_HASH = 10
_PROGRESS_DEADLINE = 600
_SLICE_ENDPOINTS = 100  # Kubernetes' default --max-endpoints-per-slice


# --- Deployment → Pods ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ObservedDeployment:
    deployment: JsonObject
    pods: tuple[JsonObject, ...]
    """All pods the Deployment controls, ending ones too."""
    orphans: tuple[JsonObject, ...] = ()
    """Pods of a Deployment that is no more, for this one to take over."""


def observe_deployment(cache: Cache, key: Key) -> ObservedDeployment | None:
    deployment = cache.get(kinds.DEPLOYMENT, key)
    if deployment is None:
        return None
    selector = deployment["spec"]["selector"].get("matchLabels") or {}
    pods = cache.list(kinds.POD, key.namespace, selector)
    return ObservedDeployment(
        deployment,
        tuple(pod for pod in pods if meta.is_controlled_by(pod, deployment)),
        tuple(pod for pod in pods if _is_orphan(pod) and _selects(deployment, pod)),
    )


def _is_orphan(pod: JsonObject) -> bool:
    """Made by a Deployment, controlled by nobody, and still running."""
    owners = pod["metadata"].get("ownerReferences") or ()
    controlled = any(owner.get("controller") for owner in owners)
    return TEMPLATE_HASH in meta.labels_of(pod) and not (controlled or meta.is_deleting(pod) or is_finished(pod))


def _selects(deployment: JsonObject, pod: JsonObject) -> bool:
    """Nothing is taken over by matchExpressions: a pod too few is made up for, one too many is deleted."""
    selector = deployment["spec"]["selector"]
    wanted: JsonObject = selector.get("matchLabels") or {}
    return bool(wanted) and not selector.get("matchExpressions") and wanted.items() <= meta.labels_of(pod).items()


def _deployments_of(pod: JsonObject, cache: Cache) -> Iterable[Key]:
    """The Deployment that controls a pod; of an orphan, those that would take it over."""
    yield from _OWNER(pod, cache)
    if _is_orphan(pod):
        for deployment in cache.list(kinds.DEPLOYMENT, meta.namespace_of(pod)):
            if _selects(deployment, pod):
                yield meta.key_of(deployment)


_OWNER = owner_key(kinds.DEPLOYMENT)


def reconcile_deployment(seen: ObservedDeployment, _config: Config, now: datetime) -> Plan:
    """Pods to create and delete and the Deployment's status. One step at a time: readiness of the new pods brings the
    next."""
    deployment = seen.deployment
    if meta.is_deleting(deployment):
        return Plan()
    if seen.orphans:
        return Plan(patch=tuple(_adoption(deployment, pod) for pod in seen.orphans))
    rollout = _Rollout.of(seen, now)
    create = [_pod(deployment, rollout.template, name) for name in _names(seen, rollout.template, rollout.to_create())]
    doomed = rollout.to_delete()
    finished = [pod for pod in seen.pods if is_finished(pod) and not meta.is_deleting(pod)]
    status, requeue = _deployment_status(deployment, rollout, now)
    return Plan(
        create=tuple(create),
        delete=tuple(Deletion(kinds.POD, meta.key_of(pod), meta.uid_of(pod)) for pod in (*doomed, *finished)),
        status=None if status == deployment.get("status") else status,
        events=_scaling_events(deployment, len(create), len(doomed)),
        requeue_after=requeue,
    )


DEPLOYMENTS: Controller[ObservedDeployment] = Controller(
    kind=kinds.DEPLOYMENT,
    observe=observe_deployment,
    reconcile=reconcile_deployment,
    watches={kinds.POD: _deployments_of},
)


@dataclass(frozen=True, slots=True)
class _Rollout:
    """Where a rolling update stands. `new` and `old` are the pods of this and of other templates that are neither
    ending nor finished; `ending` is how many still are to go."""

    template: str
    replicas: int
    surge: int
    unavailable: int
    recreate: bool
    new: list[JsonObject]
    old: list[JsonObject]
    ending: int
    available: frozenset[str]
    """Names of the pods that are available."""
    next_available: float | None
    """Seconds until the next ready pod has been so for minReadySeconds."""

    @classmethod
    def of(cls, seen: ObservedDeployment, now: datetime) -> _Rollout:
        spec = seen.deployment["spec"]
        replicas = int(spec.get("replicas", 1))
        template = template_hash(spec["template"])
        active = [pod for pod in seen.pods if is_active(pod)]
        strategy = spec.get("strategy") or {}
        surge, unavailable = _bounds(strategy.get("rollingUpdate") or {}, replicas)
        waits = {meta.name_of(pod): _until_available(pod, int(spec.get("minReadySeconds") or 0), now) for pod in active}
        return cls(
            template=template,
            replicas=replicas,
            surge=surge,
            unavailable=unavailable,
            recreate=strategy.get("type") == "Recreate",
            new=[pod for pod in active if meta.labels_of(pod).get(TEMPLATE_HASH) == template],
            old=[pod for pod in active if meta.labels_of(pod).get(TEMPLATE_HASH) != template],
            ending=sum(meta.is_deleting(pod) for pod in seen.pods),
            available=frozenset(name for name, wait in waits.items() if wait == 0),
            next_available=min((wait for wait in waits.values() if wait), default=None),
        )

    def to_create(self) -> int:
        missing = self.replicas - len(self.new)
        if self.recreate:
            return max(0, missing) if not self.old and (not self.ending or self.new) else 0
        return max(0, min(missing, self.replicas + self.surge - len(self.new) - len(self.old)))

    def to_delete(self) -> list[JsonObject]:
        excess = sorted(self.new, key=deletion_rank)[: max(0, len(self.new) - self.replicas)]
        if self.recreate:
            return [*excess, *self.old]
        # What is not available gives no availability up.
        spare = len(self.available) - sum(self._is_available(pod) for pod in excess)
        spare -= max(0, self.replicas - self.unavailable)
        healthy = sorted((pod for pod in self.old if self._is_available(pod)), key=deletion_rank)
        return [*excess, *(pod for pod in self.old if not self._is_available(pod)), *healthy[: max(0, spare)]]

    def _is_available(self, pod: JsonObject) -> bool:
        return meta.name_of(pod) in self.available


def template_hash(template: JsonObject) -> str:
    """Ten characters that name a pod template; equal templates have equal ones."""
    return _encode(orjson.dumps(template, option=orjson.OPT_SORT_KEYS), _HASH)


def _conditions(obj: JsonObject) -> Sequence[JsonObject]:
    conditions: Sequence[JsonObject] = (obj.get("status") or {}).get("conditions") or ()
    return conditions


def _until_available(pod: JsonObject, min_ready: int, now: datetime) -> float | None:
    """Seconds until a pod counts as available: 0 now, None while it is not ready."""
    ready = next((c for c in _conditions(pod) if c["type"] == "Ready" and c["status"] == "True"), None)
    if ready is None:
        return None
    if not min_ready:
        return 0.0
    since = meta.parse_time(ready["lastTransitionTime"])
    return max(0.0, (since + timedelta(seconds=min_ready) - now).total_seconds())


def _bounds(rolling: JsonObject, replicas: int) -> tuple[int, int]:
    """maxSurge (rounded up) and maxUnavailable (rounded down); both 0 would never move, so then one may be missing."""
    surge = _share(rolling.get("maxSurge", "25%"), replicas, up=True)
    unavailable = _share(rolling.get("maxUnavailable", "25%"), replicas, up=False)
    return (surge, unavailable) if surge or unavailable else (0, 1)


def _share(value: int | str, whole: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    hundredths = int(value.rstrip("%")) * whole
    return -(-hundredths // 100) if up else hundredths // 100


def _names(seen: ObservedDeployment, template: str, count: int) -> Iterator[str]:
    """`count` free pod names, the same ones for the same pods."""
    taken = {meta.name_of(pod) for pod in seen.pods}
    base = meta.name_of(seen.deployment)[: meta.NAME_LIMIT - _SUFFIX - 1]
    ordinal = 0
    while count:
        name = f"{base}-{_encode(f'{meta.uid_of(seen.deployment)}/{template}/{ordinal}'.encode(), _SUFFIX)}"
        ordinal += 1
        if name not in taken:
            taken.add(name)
            count -= 1
            yield name


def _encode(data: bytes, length: int) -> str:
    digest = hashlib.sha256(data).digest()
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:length])


def _pod(deployment: JsonObject, template: str, name: str) -> JsonObject:
    spec = deployment["spec"]["template"]
    given = spec.get("metadata") or {}
    metadata: JsonObject = {
        "name": name,
        "namespace": meta.namespace_of(deployment),
        "labels": {**(given.get("labels") or {}), TEMPLATE_HASH: template},
        "ownerReferences": [_controller_ref(deployment)],
    }
    if annotations := given.get("annotations"):
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**spec["spec"], "nodeName": NODE}}


def _adoption(deployment: JsonObject, pod: JsonObject) -> Patch:
    """Makes the Deployment the pod's controller; fails where another one was quicker."""
    given = pod["metadata"]
    owners = [*(given.get("ownerReferences") or ()), _controller_ref(deployment)]
    metadata = {"uid": given["uid"], "resourceVersion": given["resourceVersion"], "ownerReferences": owners}
    return Patch(kinds.POD, meta.key_of(pod), {"metadata": metadata})


def _controller_ref(deployment: JsonObject) -> JsonObject:
    return meta.controller_ref({**deployment, "apiVersion": "apps/v1", "kind": "Deployment"})


def _scaling_events(deployment: JsonObject, created: int, deleted: int) -> tuple[Event, ...]:
    name = meta.name_of(deployment)
    events = [(created, "created"), (deleted, "deleted")]
    return tuple(
        Event("Normal", "ScalingReplicaSet", f"{what} {count} pod{'s' if count > 1 else ''} of deployment {name}")
        for count, what in events
        if count
    )


def _deployment_status(deployment: JsonObject, rollout: _Rollout, now: datetime) -> tuple[JsonObject, float | None]:
    """The status, and in how many seconds time alone could change it."""
    pods = [*rollout.new, *rollout.old]
    counts = {
        "replicas": len(pods),
        "updatedReplicas": len(rollout.new),
        "readyReplicas": sum(is_ready(pod) for pod in pods),
        "availableReplicas": len(rollout.available),
        "unavailableReplicas": max(0, max(rollout.replicas, len(pods)) - len(rollout.available)),
    }
    progressing, expires = _progressing(deployment, rollout, counts, now)
    status = {
        "observedGeneration": meta.generation_of(deployment),
        **counts,
        "conditions": [_available(deployment, rollout, now), progressing],
    }
    return status, min((wait for wait in (expires, rollout.next_available) if wait is not None), default=None)


def _available(deployment: JsonObject, rollout: _Rollout, now: datetime) -> JsonObject:
    if len(rollout.available) >= rollout.replicas - rollout.unavailable:
        told = ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    else:
        told = ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    return _condition(deployment, "Available", *told, now=now)


def _progressing(
    deployment: JsonObject, rollout: _Rollout, counts: dict[str, int], now: datetime
) -> tuple[JsonObject, float | None]:
    """The Progressing condition and the seconds until its deadline. As in Kubernetes, a rollout that has completed
    stays so while the same template is scaled; only a new one runs against the deadline again."""
    name = meta.name_of(deployment)
    before = next((c for c in _conditions(deployment) if c["type"] == "Progressing"), None)
    done = before is not None and before["reason"] == "NewReplicaSetAvailable" and not rollout.old
    complete = counts["replicas"] == counts["updatedReplicas"] == counts["availableReplicas"] == rollout.replicas
    if done or complete:
        text = f'Deployment "{name}" has successfully progressed.'
        return _condition(deployment, "Progressing", "True", "NewReplicaSetAvailable", text, now=now), None
    if before is None:
        text = f'Deployment "{name}" has been created.'
        moved = _condition(deployment, "Progressing", "True", "NewReplicaSetCreated", text, now=now)
    elif _has_progressed(deployment.get("status") or {}, counts) or before["reason"] == "NewReplicaSetAvailable":
        text = f'Deployment "{name}" is progressing.'
        moved = _condition(deployment, "Progressing", "True", "ReplicaSetUpdated", text, now=now, touch=True)
    elif before["status"] == "False":
        return before, None
    else:
        moved = before
    allowed = int(deployment["spec"].get("progressDeadlineSeconds") or _PROGRESS_DEADLINE)
    left = (meta.parse_time(moved["lastUpdateTime"]) + timedelta(seconds=allowed) - now).total_seconds()
    if left > 0:
        return moved, left
    text = f'Deployment "{name}" has timed out progressing.'
    return _condition(deployment, "Progressing", "False", "ProgressDeadlineExceeded", text, now=now), None


def _has_progressed(before: JsonObject, counts: dict[str, int]) -> bool:
    """More new pods, more of them ready or available, or fewer old ones than the status last said."""
    grown = any(
        counts[field] > int(before.get(field, 0)) for field in ("updatedReplicas", "readyReplicas", "availableReplicas")
    )
    old_before = int(before.get("replicas", 0)) - int(before.get("updatedReplicas", 0))
    return grown or counts["replicas"] - counts["updatedReplicas"] < old_before


def _condition(
    obj: JsonObject, kind: str, status: str, reason: str, message: str, *, now: datetime, touch: bool = False
) -> JsonObject:
    """A Deployment condition: the transition time moves with the status, the update time with the reason too, or when
    told to (`touch`)."""
    before = next((c for c in _conditions(obj) if c["type"] == kind), None)
    stamp = meta.format_time(now)
    same = before is not None and before["status"] == status
    kept = same and before is not None and before["reason"] == reason and not touch
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": before["lastTransitionTime"] if same and before is not None else stamp,
        "lastUpdateTime": before["lastUpdateTime"] if kept and before is not None else stamp,
    }


# --- Service → EndpointSlices -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ObservedService:
    """A core Service with the pods it selects; none where it has no selector."""

    service: JsonObject
    pods: tuple[JsonObject, ...]
    slices: tuple[JsonObject, ...]
    """The slices this controller has made for the Service."""


class _Port(NamedTuple):
    """A Service port as a pod answers it."""

    name: str
    port: int
    protocol: str
    app_protocol: str


def observe_service(cache: Cache, key: Key) -> ObservedService | None:
    service = cache.get(kinds.CORE_SERVICE, key)
    if service is None:
        return None
    selector = service["spec"].get("selector")
    return ObservedService(
        service,
        tuple(cache.list(kinds.POD, key.namespace, selector)) if selector else (),
        tuple(cache.list(kinds.ENDPOINT_SLICE, key.namespace, {labels.SERVICE_NAME: key.name, MANAGED_BY: MANAGER})),
    )


def reconcile_service(seen: ObservedService, _config: Config, _now: datetime) -> Plan:
    """The slices of a Service with a selector; one without, or an ExternalName, has its endpoints made by others."""
    if meta.is_deleting(seen.service):
        return Plan()
    wanted = {meta.name_of(piece): piece for piece in _slices(seen)}
    present = {meta.name_of(piece): piece for piece in seen.slices}
    return Plan(
        create=tuple(piece for name, piece in wanted.items() if name not in present),
        update=tuple(
            update
            for name, piece in wanted.items()
            if name in present and (update := _updated(present[name], piece)) is not None
        ),
        delete=tuple(
            Deletion(kinds.ENDPOINT_SLICE, meta.key_of(piece), meta.uid_of(piece))
            for name, piece in present.items()
            if name not in wanted and not meta.is_deleting(piece)
        ),
    )


def _services_of_pod(pod: JsonObject, cache: Cache) -> Iterable[Key]:
    carried = meta.labels_of(pod).items()
    for label in carried:
        for service in cache.referring(kinds.CORE_SERVICE, meta.namespace_of(pod), label_reference(*label)):
            if service["spec"]["selector"].items() <= carried:
                yield meta.key_of(service)


def _service_of_slice(piece: JsonObject, _cache: Cache) -> Iterable[Key]:
    name = meta.labels_of(piece).get(labels.SERVICE_NAME)
    if name and meta.labels_of(piece).get(MANAGED_BY) == MANAGER:
        yield Key(meta.namespace_of(piece), name)


SERVICES: Controller[ObservedService] = Controller(
    kind=kinds.CORE_SERVICE,
    observe=observe_service,
    reconcile=reconcile_service,
    watches={kinds.POD: _services_of_pod, kinds.ENDPOINT_SLICE: _service_of_slice},
)


def _slices(seen: ObservedService) -> Iterator[JsonObject]:
    groups: defaultdict[tuple[_Port, ...], list[JsonObject]] = defaultdict(list)
    for pod in seen.pods:
        if address(pod) and not is_finished(pod):
            groups[_resolved(seen.service, pod)].append(pod)
    for ports, pods in sorted(groups.items()):
        ordered = sorted(pods, key=meta.name_of)
        for number, start in enumerate(range(0, len(ordered), _SLICE_ENDPOINTS)):
            yield _slice(seen.service, ports, number, ordered[start : start + _SLICE_ENDPOINTS])


def _resolved(service: JsonObject, pod: JsonObject) -> tuple[_Port, ...]:
    """The Service's ports on this pod; one whose target name the pod doesn't declare is left out."""
    mapped = host_ports(pod)
    ports = []
    for port in service["spec"].get("ports") or ():
        protocol = port.get("protocol") or "TCP"
        number = _target(pod, port.get("targetPort") or port["port"], protocol)
        if number is not None:
            number = mapped.get(number, number)
            ports.append(_Port(port.get("name") or "", number, protocol, port.get("appProtocol") or ""))
    return tuple(ports)


def _target(pod: JsonObject, target: int | str, protocol: str) -> int | None:
    if isinstance(target, int):
        return target
    for container in pod["spec"]["containers"]:
        for port in container.get("ports") or ():
            if port.get("name") == target and (port.get("protocol") or "TCP") == protocol:
                return int(port["containerPort"])
    return None


def _slice(service: JsonObject, ports: tuple[_Port, ...], number: int, pods: Sequence[JsonObject]) -> JsonObject:
    seed = orjson.dumps([meta.uid_of(service), [list(port) for port in ports], number])
    name = f"{meta.name_of(service)[: meta.NAME_LIMIT - _SUFFIX - 1]}-{_encode(seed, _SUFFIX)}"
    own = {labels.SERVICE_NAME: meta.name_of(service), MANAGED_BY: MANAGER}
    open_early = bool(service["spec"].get("publishNotReadyAddresses"))
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": meta.namespace_of(service),
            "labels": {**meta.labels_of(service), **own},
            "ownerReferences": [meta.controller_ref({**service, "apiVersion": "v1", "kind": "Service"})],
        },
        "addressType": "IPv4",
        "ports": [_slice_port(port) for port in ports],
        "endpoints": [_endpoint(pod, open_early=open_early) for pod in pods],
    }


def _slice_port(port: _Port) -> JsonObject:
    told: JsonObject = {"name": port.name, "port": port.port, "protocol": port.protocol}
    if port.app_protocol:
        told["appProtocol"] = port.app_protocol
    return told


def _endpoint(pod: JsonObject, *, open_early: bool) -> JsonObject:
    serving = is_ready(pod)
    terminating = meta.is_deleting(pod)
    endpoint: JsonObject = {
        "addresses": [address(pod)],
        "conditions": {
            "ready": open_early or (serving and not terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "targetRef": {
            "kind": "Pod",
            "namespace": meta.namespace_of(pod),
            "name": meta.name_of(pod),
            "uid": meta.uid_of(pod),
        },
    }
    if node := pod["spec"].get("nodeName"):
        endpoint["nodeName"] = node
    return endpoint


def _updated(present: JsonObject, wanted: JsonObject) -> JsonObject | None:
    """`present` changed into `wanted`; None if it is."""
    same = all(present.get(field) == wanted[field] for field in ("addressType", "ports", "endpoints"))
    if same and meta.labels_of(present) == wanted["metadata"]["labels"]:
        return None
    return {**wanted, "metadata": {**present["metadata"], **wanted["metadata"]}}
