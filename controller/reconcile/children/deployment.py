"""The Deployment that runs a Revision.

The pod spec is the user's; we add what the platform needs and nothing else:

* the serving container's port is called `user-port`, so that the Revision's Service finds it by name wherever it is;
* `PORT`, `K_SERVICE`, `K_CONFIGURATION` and `K_REVISION` (Knative's runtime contract), after the user's own variables;
* probes name the port by number. Knative's `periodSeconds: 0` asks for aggressive probing; a kubelet can do no better
  than once a second, and the gateway probes faster by itself;
* `preStop: sleep 2`: a pod that others delete leaves the EndpointSlice first, and the gateways stop sending to it
  before SIGTERM reaches the application (those that the autoscaler takes away have drained by then, see
  `reconcile.drain`);
* a grace period as long as the longest request.

There is no queue-proxy: limits, time-outs and statistics are the gateway's.

Of the Revision's labels the routing state stays behind: it changes with every rollout, and a changed pod label would
restart the pods of the very Revision that traffic is moving away from. For the same reason the Deployment is only
updated when the hash of what we would write differs from the one it carries: an operator's manual edit is kept, and a
new version of this program restarts nothing unless its rendering changed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import orjson

from controller.apis import kinds, labels
from controller.apis.annotations import parse_autoscaling
from controller.apis.durations import parse_duration
from controller.apis.meta import (
    JsonObject,
    annotations_of,
    child_name,
    controller_ref,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)
from controller.apis.revision import USER_PORT_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.apis.revision import Revision
    from controller.config.store import Config

PRE_STOP_SECONDS = 2

_NOT_FOR_PODS = {labels.LAST_PINNED, labels.NO_GC, labels.ROUTING_STATE_MODIFIED, labels.ROUTES}
_HANDLERS = ("httpGet", "tcpSocket", "grpc")


def deployment_name(revision_name: str) -> str:
    """Name of a revision's Deployment, shortened with a hash where it would be too long."""
    return child_name(revision_name, "-deployment")


def deployment(revision: Revision, config: Config) -> JsonObject:
    """The Deployment as it is created. It carries the hash of its own spec."""
    spec = _spec(revision, config)
    return {
        "apiVersion": kinds.DEPLOYMENT.api_version,
        "kind": kinds.DEPLOYMENT.kind,
        "metadata": {
            "name": deployment_name(name_of(revision.obj)),
            "namespace": namespace_of(revision.obj),
            "labels": {**child_labels(revision.obj), labels.DEPLOYMENT_HASH: spec_hash(spec)},
            "annotations": _annotations(revision.obj),
            "ownerReferences": [controller_ref(revision.obj)],
        },
        "spec": spec,
    }


def updated(existing: JsonObject, desired: JsonObject) -> JsonObject | None:
    """The Deployment to write over `existing`, or None if its hash says that nothing of ours changed.

    The replicas are the autoscaler's, the selector is immutable, and labels and annotations of others stay."""
    if labels_of(existing).get(labels.DEPLOYMENT_HASH) == labels_of(desired)[labels.DEPLOYMENT_HASH]:
        return None
    kept = {key: existing["spec"][key] for key in ("replicas", "selector") if key in existing["spec"]}
    return {
        **existing,
        "metadata": {
            **existing["metadata"],
            "labels": {**labels_of(existing), **labels_of(desired)},
            "annotations": {**annotations_of(existing), **annotations_of(desired)},
        },
        "spec": {**desired["spec"], **kept},
    }


def child_labels(revision: JsonObject) -> dict[str, str]:
    """The labels of whatever belongs to a Revision."""
    own = {key: value for key, value in labels_of(revision).items() if key not in (labels.ROUTE, labels.ROUTING_STATE)}
    own.setdefault(labels.APP, name_of(revision))
    return {**own, labels.REVISION: name_of(revision), labels.REVISION_UID: uid_of(revision)}


def spec_hash(spec: JsonObject) -> str:
    """64 bits of the spec's SHA-256, fit for a label; replicas don't count. Knative's is FNV-1a in base 36; this one
    takes microseconds in Python, and a Revision is looked at several times in each cold start."""
    hashed = {key: part for key, part in spec.items() if key != "replicas"}
    return hashlib.sha256(orjson.dumps(hashed, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def _spec(revision: Revision, config: Config) -> JsonObject:
    uid = uid_of(revision.obj)
    return {
        "replicas": _initial_scale(revision.obj, config),
        "progressDeadlineSeconds": progress_deadline(revision.obj, config),
        "revisionHistoryLimit": 0,
        "selector": {"matchLabels": {labels.REVISION_UID: uid}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0}},
        "template": {
            "metadata": {"labels": child_labels(revision.obj), "annotations": _pod_annotations(revision)},
            "spec": _pod_spec(revision, config),
        },
    }


def _initial_scale(revision: JsonObject, config: Config) -> int:
    annotated = parse_autoscaling(annotations_of(revision), config).initial_scale
    return config.autoscaler.initial_scale if annotated is None else annotated


def progress_deadline(revision: JsonObject, config: Config) -> int:
    """Seconds a Deployment may go without progress: the Revision's annotation, else config-deployment's. Admission
    refused an annotation that is no duration; one that got past it counts as absent."""
    text = labels.lookup(revision, labels.PROGRESS_DEADLINE, labels.PROGRESS_DEADLINE_LEGACY)
    try:
        return int(parse_duration(text) if text else config.deployment.progress_deadline)
    except ValueError:
        return int(config.deployment.progress_deadline)


def _annotations(revision: JsonObject) -> dict[str, str]:
    return {
        key: value
        for key, value in annotations_of(revision).items()
        if key not in _NOT_FOR_PODS and not key.startswith(labels.AUTOSCALING)
    }


def _pod_annotations(revision: Revision) -> dict[str, str]:
    serving = revision.pod_spec["containers"][revision.serving_container]
    return {**_annotations(revision.obj), labels.DEFAULT_CONTAINER: serving["name"]}


def _pod_spec(revision: Revision, config: Config) -> JsonObject:
    containers = [
        _serving(container, revision) if index == revision.serving_container else _beside(container, revision)
        for index, container in enumerate(revision.pod_spec["containers"])
    ]
    spec = {
        **revision.pod_spec,
        "containers": containers,
        "terminationGracePeriodSeconds": revision.timeout_seconds,
    }
    if "initContainers" in spec:
        spec["initContainers"] = [_with_env(container, revision) for container in spec["initContainers"]]
    if "affinity" not in spec and config.deployment.spread_over_nodes:
        spec["affinity"] = _spread(name_of(revision.obj))
    runtime_class = config.deployment.runtime_class_for(labels_of(revision.obj))
    if runtime_class and "runtimeClassName" not in spec:
        spec["runtimeClassName"] = runtime_class
    return spec


def _serving(container: JsonObject, revision: Revision) -> JsonObject:
    serving = _with_env(container, revision, {"PORT": str(revision.port)})
    serving["ports"] = [{"name": USER_PORT_NAME, "containerPort": revision.port, "protocol": "TCP"}]
    serving["lifecycle"] = {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}}
    if "readinessProbe" in container:
        serving["readinessProbe"] = _readiness(container["readinessProbe"], revision.port)
    if "startupProbe" in container:
        serving["startupProbe"] = _at_port(container["startupProbe"], revision.port)
    if "livenessProbe" in container:
        serving["livenessProbe"] = _at_port(container["livenessProbe"], revision.port, always=True)
    return serving


def _beside(container: JsonObject, revision: Revision) -> JsonObject:
    return _with_env(container, revision)


def _with_env(container: JsonObject, revision: Revision, first: Mapping[str, str] | None = None) -> JsonObject:
    of = labels_of(revision.obj)
    platform = {
        **(first or {}),
        "K_REVISION": name_of(revision.obj),
        "K_CONFIGURATION": of.get(labels.CONFIGURATION, ""),
        "K_SERVICE": of.get(labels.SERVICE, ""),
    }
    added = [{"name": name, "value": value} for name, value in platform.items()]
    return {
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **container,
        "env": [*(container.get("env") or ()), *added],
    }


def _readiness(probe: JsonObject, port: int) -> JsonObject:
    return {**_at_port(probe, port), "periodSeconds": probe.get("periodSeconds") or 1}


def _at_port(probe: JsonObject, port: int, *, always: bool = False) -> JsonObject:
    """The probe with its port as a number: the user port where it names none (0, absent, by name) or `always`."""
    for handler in _HANDLERS:
        if handler in probe and (always or not _is_number(probe[handler].get("port"))):
            return {**probe, handler: {**probe[handler], "port": port}}
    return probe


def _is_number(port: object) -> bool:
    return isinstance(port, int) and port > 0


def _spread(revision_name: str) -> JsonObject:
    """Prefer another node than one that runs this Revision already."""
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {labels.REVISION: revision_name}},
    }
    return {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]
        }
    }
