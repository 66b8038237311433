"""Every kind zerogate reads or writes, named once."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """A resource as the REST paths spell it. `group` is "" for core."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


SERVING_GROUP = "serving.knative.dev"
AUTOSCALING_GROUP = "autoscaling.internal.knative.dev"
NETWORKING_GROUP = "networking.internal.knative.dev"

SERVICE = Kind(SERVING_GROUP, "v1", "Service", "services")
CONFIGURATION = Kind(SERVING_GROUP, "v1", "Configuration", "configurations")
REVISION = Kind(SERVING_GROUP, "v1", "Revision", "revisions")
ROUTE = Kind(SERVING_GROUP, "v1", "Route", "routes")
POD_AUTOSCALER = Kind(AUTOSCALING_GROUP, "v1alpha1", "PodAutoscaler", "podautoscalers")
INGRESS = Kind(NETWORKING_GROUP, "v1alpha1", "Ingress", "ingresses")

NAMESPACE = Kind("", "v1", "Namespace", "namespaces", namespaced=False)
POD = Kind("", "v1", "Pod", "pods")
CORE_SERVICE = Kind("", "v1", "Service", "services")
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps")
SECRET = Kind("", "v1", "Secret", "secrets")
EVENT = Kind("", "v1", "Event", "events")
SERVICE_ACCOUNT = Kind("", "v1", "ServiceAccount", "serviceaccounts")
DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments")
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
HORIZONTAL_POD_AUTOSCALER = Kind("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")
CUSTOM_RESOURCE_DEFINITION = Kind(
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)

KNATIVE_KINDS = (SERVICE, CONFIGURATION, REVISION, ROUTE, POD_AUTOSCALER, INGRESS)
BUILT_IN_KINDS = (
    NAMESPACE,
    POD,
    CORE_SERVICE,
    CONFIG_MAP,
    SECRET,
    EVENT,
    SERVICE_ACCOUNT,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    HORIZONTAL_POD_AUTOSCALER,
    LEASE,
    CUSTOM_RESOURCE_DEFINITION,
)
