"""Every label and annotation key of Knative Serving that zerogate reads or writes, once."""

from __future__ import annotations

from controller.apis.meta import JsonObject, annotations_of

_SERVING = "serving.knative.dev/"
_NETWORKING = "networking.knative.dev/"
_NETWORKING_INTERNAL = "networking.internal.knative.dev/"
AUTOSCALING = "autoscaling.knative.dev/"

# labels
SERVICE = _SERVING + "service"
SERVICE_UID = _SERVING + "serviceUID"
CONFIGURATION = _SERVING + "configuration"
CONFIGURATION_UID = _SERVING + "configurationUID"
CONFIGURATION_GENERATION = _SERVING + "configurationGeneration"
REVISION = _SERVING + "revision"
REVISION_UID = _SERVING + "revisionUID"
ROUTE = _SERVING + "route"
ROUTE_NAMESPACE = _SERVING + "routeNamespace"
ROUTING_STATE = _SERVING + "routingState"
DEPLOYMENT_HASH = _SERVING + "deployment-hash"
VISIBILITY = _NETWORKING + "visibility"
CLUSTER_LOCAL = "cluster-local"
APP = "app"

# annotations
ROUTES = _SERVING + "routes"
ROUTING_STATE_MODIFIED = _SERVING + "routingStateModified"
LAST_PINNED = _SERVING + "lastPinned"
NO_GC = _SERVING + "no-gc"
ROLLOUT_DURATION = _SERVING + "rollout-duration"
ROLLOUT_DURATION_LEGACY = _SERVING + "rolloutDuration"
CREATOR = _SERVING + "creator"
LAST_MODIFIER = _SERVING + "lastModifier"
PROGRESS_DEADLINE = _SERVING + "progress-deadline"
PROGRESS_DEADLINE_LEGACY = _SERVING + "progressDeadline"
INGRESS_CLASS = _NETWORKING + "ingress.class"
INGRESS_CLASS_ALIAS = _NETWORKING + "ingress-class"
HTTP_OPTION = _NETWORKING + "httpOption"
HTTP_PROTOCOL = _NETWORKING + "http-protocol"
TAG_TO_HOST = _NETWORKING_INTERNAL + "tag-to-host"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"

AUTOSCALING_PAUSED = "autoscaling.zerogate.dev/paused"
"""Ours: "true" on a Revision leaves its scale to whoever sets it by hand."""

QUEUE_TIMEOUT = "queue.zerogate.dev/timeout"
"""Ours, on a Revision: how long a request may wait for a replica, as a Go duration."""

# finalizers
ROUTE_FINALIZER = "routes.serving.knative.dev"

# values of ROUTING_STATE
ACTIVE = "active"
RESERVE = "reserve"
PENDING = "pending"

# discovery.k8s.io
SERVICE_NAME = "kubernetes.io/service-name"

INGRESS_CLASS_NAME = "zerogate.ingress.networking.knative.dev"
"""The ingress class our gateway answers to; a KIngress of another class is left alone."""


def lookup(obj: JsonObject, *spellings: str) -> str | None:
    """The first of several spellings that is annotated (kebab-case before legacy camelCase)."""
    annotations = annotations_of(obj)
    return next((annotations[key] for key in spellings if key in annotations), None)
