"""The shape of the kinds every cluster has, as zerogate's API server serves them.

What `kubectl explain pod.spec` prints, what kubectl 1.20 validates against before it sends anything, which unknown
field a strict request is refused for, how strategic merge patches and server-side apply tell list items apart, and
which values Kubernetes fills in: all of that is one table, written in a notation of a line per field, because the same
facts as JSON Schema would be some 3,000 lines that nobody reads.

    [core/v1]                                   the API package of the types that follow
    PodSpec: what it is                         a type; `atomic` before the colon: server-side apply owns it as a whole
      containers*: [name]Container -- text      a field; `*` marks it required, the text is what `explain` prints
      replicas: int32 = 1                       a default, in JSON
      type: string <ClusterIP|NodePort>         the values allowed

Types: `string bool int32 int64 number time quantity intstr any` and the names of other types. `{}T` is a map of T,
`{!}T` one that is owned as a whole; `[]T` is an atomic list, `[=]T` a set, `[name]T` a list of objects told apart by
those keys (the first is also the merge key of strategic merge patches). A trailing `~` is Kubernetes' `retainKeys`
strategy: members of the previous choice go when another is set. `any` is passed through: kinds of volumes, affinity
and other sections that nothing in zerogate reads.

Field names, list types and defaults follow Kubernetes 1.32's published OpenAPI; a test compares them with the models
of kubernetes_asyncio. Defaults that need more than the missing field itself (targetPort, imagePullPolicy) are left out.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Final

import orjson

from controller.apis import kinds

if TYPE_CHECKING:
    from controller.apis.kinds import Kind
    from controller.apis.meta import JsonObject

REF_PREFIX: Final = "#/definitions/"

_PACKAGES: Final = {
    "meta/v1": "io.k8s.apimachinery.pkg.apis.meta.v1.",
    "core/v1": "io.k8s.api.core.v1.",
    "apps/v1": "io.k8s.api.apps.v1.",
    "discovery/v1": "io.k8s.api.discovery.v1.",
    "autoscaling/v2": "io.k8s.api.autoscaling.v2.",
    "coordination/v1": "io.k8s.api.coordination.v1.",
    "apiextensions/v1": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.",
}

INT_OR_STRING: Final = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
QUANTITY: Final = "io.k8s.apimachinery.pkg.api.resource.Quantity"

_SCALARS: Final[dict[str, JsonObject]] = {
    "string": {"type": "string"},
    "bool": {"type": "boolean"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "number": {"type": "number"},
    "time": {"type": "string", "format": "date-time"},
    "quantity": {"$ref": REF_PREFIX + QUANTITY},
    "intstr": {"$ref": REF_PREFIX + INT_OR_STRING},
    "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
}

_TYPES: Final = """
[meta/v1]
ObjectMeta: What every stored object carries about itself.
  annotations: {}string -- Arbitrary text that tools attach to the object; it can't be selected by.
  creationTimestamp: time -- When the server created the object. Set by the server.
  deletionGracePeriodSeconds: int64 -- Seconds the object gets to end by itself. Set by the server.
  deletionTimestamp: time -- When deletion was asked for; the object goes when its finalizers are gone.
  finalizers: [=]string -- Who must agree before the object is removed.
  generateName: string -- A prefix from which the server makes a unique name if no name is given.
  generation: int64 -- Counts changes of the desired state. Set by the server.
  labels: {}string -- Key and value pairs by which objects are selected.
  managedFields: []ManagedFieldsEntry -- Which client owns which fields.
  name: string -- Unique within the namespace; can't change.
  namespace: string -- The namespace the name is unique in.
  ownerReferences: [uid]OwnerReference -- Objects this one depends on; it is removed when all of them are gone.
  resourceVersion: string -- The version of the object that clients compare and watch from.
  selfLink: string -- Deprecated; no longer set.
  uid: string -- Unique in time and space. Set by the server.

ListMeta: What a list carries about itself.
  continue: string -- Where the next page starts.
  remainingItemCount: int64 -- How many items follow this page.
  resourceVersion: string -- The version at which the list was read.
  selfLink: string -- Deprecated; no longer set.

ManagedFieldsEntry: The fields one client owns.
  apiVersion: string
  fieldsType: string
  fieldsV1: any
  manager: string
  operation: string
  subresource: string
  time: time

OwnerReference atomic: An object that another one depends on.
  apiVersion*: string
  blockOwnerDeletion: bool -- The owner can't be removed in the foreground before this object.
  controller: bool -- The owner is the one that controls this object.
  kind*: string
  name*: string
  uid*: string

Condition: One aspect of an object's state.
  lastTransitionTime*: time -- When the status last changed.
  message*: string
  observedGeneration: int64
  reason*: string
  status*: string
  type*: string

LabelSelector atomic: Selects objects by their labels; all requirements must hold.
  matchExpressions: []LabelSelectorRequirement
  matchLabels: {}string

LabelSelectorRequirement: One requirement on one label.
  key*: string
  operator*: string -- In, NotIn, Exists or DoesNotExist.
  values: []string

[core/v1]
Namespace: A scope for names.
  apiVersion: string
  kind: string
  metadata: ObjectMeta
  spec: NamespaceSpec
  status: NamespaceStatus

NamespaceSpec: How the namespace ends.
  finalizers: []string

NamespaceStatus: Whether the namespace is in use.
  conditions: [type]NamespaceCondition
  phase: string -- Active or Terminating.

NamespaceCondition: One aspect of a namespace's state.
  lastTransitionTime: time
  message: string
  reason: string
  status*: string
  type*: string

Pod: Processes that start, live and end together on one node.
  apiVersion: string
  kind: string
  metadata: ObjectMeta
  spec: PodSpec -- What is to run.
  status: PodStatus -- What was last observed; written by the node agent.

PodTemplateSpec: The pods that a controller makes.
  metadata: ObjectMeta
  spec: PodSpec

PodSpec: What a pod is to run, and how.
  activeDeadlineSeconds: int64 -- Seconds after which the pod is ended and marked failed.
  affinity: any -- Scheduling constraints.
  automountServiceAccountToken: bool
  containers*: [name]Container -- The processes of the pod. There must be at least one.
  dnsConfig: PodDNSConfig
  dnsPolicy: string = "ClusterFirst"
  enableServiceLinks: bool = true -- Whether other Services appear as environment variables.
  ephemeralContainers: [name]EphemeralContainer
  hostAliases: [ip]HostAlias
  hostIPC: bool
  hostNetwork: bool
  hostPID: bool
  hostUsers: bool
  hostname: string
  hostnameOverride: string
  imagePullSecrets: [name]LocalObjectReference
  initContainers: [name]Container -- Processes that run to their end, one by one, before the containers start.
  nodeName: string -- The node the pod is bound to.
  nodeSelector: {!}string
  os: PodOS
  overhead: {}quantity
  preemptionPolicy: string
  priority: int32
  priorityClassName: string
  readinessGates: []PodReadinessGate
  resourceClaims: [name]PodResourceClaim~
  resources: ResourceRequirements
  restartPolicy: string = "Always" <Always|OnFailure|Never> -- Whether processes that end are started again.
  runtimeClassName: string
  schedulerName: string = "default-scheduler"
  schedulingGates: [name]PodSchedulingGate
  schedulingGroup: any
  securityContext: PodSecurityContext
  serviceAccount: string -- Deprecated spelling of serviceAccountName.
  serviceAccountName: string -- The ServiceAccount the pod runs as.
  setHostnameAsFQDN: bool
  shareProcessNamespace: bool
  subdomain: string
  terminationGracePeriodSeconds: int64 = 30 -- Seconds between SIGTERM and SIGKILL.
  tolerations: []Toleration
  topologySpreadConstraints: [topologyKey,whenUnsatisfiable]TopologySpreadConstraint
  volumes: [name]Volume~ -- Files that containers can mount.

PodDNSConfig: Resolver settings of a pod.
  nameservers: []string
  options: []PodDNSConfigOption
  searches: []string

PodDNSConfigOption: One resolver option.
  name: string
  value: string

PodOS: The operating system of a pod.
  name*: string

PodReadinessGate: A condition that must hold before the pod counts as ready.
  conditionType*: string

PodResourceClaim: A device the pod needs.
  name*: string
  resourceClaimName: string
  resourceClaimTemplateName: string

PodSchedulingGate: Holds a pod back from being scheduled.
  name*: string

HostAlias: Names for one address in the pod's hosts file.
  hostnames: []string
  ip*: string

Toleration: A taint the pod tolerates.
  effect: string
  key: string
  operator: string
  tolerationSeconds: int64
  value: string

TopologySpreadConstraint: How pods spread over the topology.
  labelSelector: LabelSelector
  matchLabelKeys: []string
  maxSkew*: int32
  minDomains: int32
  nodeAffinityPolicy: string
  nodeTaintsPolicy: string
  topologyKey*: string
  whenUnsatisfiable*: string

PodSecurityContext: Under which identity the pod's processes run.
  appArmorProfile: any
  fsGroup: int64
  fsGroupChangePolicy: string
  runAsGroup: int64
  runAsNonRoot: bool
  runAsUser: int64
  seLinuxChangePolicy: string
  seLinuxOptions: any
  seccompProfile: any
  supplementalGroups: []int64
  supplementalGroupsPolicy: string
  sysctls: []Sysctl
  windowsOptions: any

Sysctl: A kernel parameter.
  name*: string
  value*: string

SecurityContext: Under which identity and with which rights a container's process runs.
  allowPrivilegeEscalation: bool
  appArmorProfile: any
  capabilities: Capabilities
  privileged: bool
  procMount: string
  readOnlyRootFilesystem: bool
  runAsGroup: int64
  runAsNonRoot: bool
  runAsUser: int64
  seLinuxOptions: any
  seccompProfile: any
  windowsOptions: any

Capabilities: POSIX capabilities given and taken.
  add: []string
  drop: []string

Container: One process of a pod.
  args: []string -- Arguments of the command. $(NAME) is replaced by the variable's value.
  command: []string -- The program and its first arguments; the image's own if absent.
  env: [name]EnvVar -- Environment variables.
  envFrom: []EnvFromSource -- ConfigMaps and Secrets whose keys become environment variables.
  image: string -- What to run. zerogate's process runtime looks a command up by it (--image NAME=COMMAND).
  imagePullPolicy: string <Always|IfNotPresent|Never>
  lifecycle: Lifecycle
  livenessProbe: Probe -- The process is started again when this fails.
  name*: string -- Unique within the pod.
  ports: [containerPort,protocol]ContainerPort -- Ports the process listens on.
  readinessProbe: Probe -- The pod takes traffic only while this passes.
  resizePolicy: []ContainerResizePolicy
  resources: ResourceRequirements -- What the process needs and may use at most.
  restartPolicy: string
  restartPolicyRules: []any
  securityContext: SecurityContext
  startupProbe: Probe -- The other probes wait until this has passed once.
  stdin: bool
  stdinOnce: bool
  terminationMessagePath: string = "/dev/termination-log"
  terminationMessagePolicy: string = "File"
  tty: bool
  volumeDevices: [devicePath]VolumeDevice
  volumeMounts: [mountPath]VolumeMount -- Where the pod's volumes appear.
  workingDir: string -- The directory the process starts in.

EphemeralContainer: A process added to a running pod for debugging.
  args: []string
  command: []string
  env: [name]EnvVar
  envFrom: []EnvFromSource
  image: string
  imagePullPolicy: string
  lifecycle: Lifecycle
  livenessProbe: Probe
  name*: string
  ports: [containerPort,protocol]ContainerPort
  readinessProbe: Probe
  resizePolicy: []ContainerResizePolicy
  resources: ResourceRequirements
  restartPolicy: string
  restartPolicyRules: []any
  securityContext: SecurityContext
  startupProbe: Probe
  stdin: bool
  stdinOnce: bool
  targetContainerName: string
  terminationMessagePath: string
  terminationMessagePolicy: string
  tty: bool
  volumeDevices: [devicePath]VolumeDevice
  volumeMounts: [mountPath]VolumeMount
  workingDir: string

ContainerPort: A port a container listens on.
  containerPort*: int32 -- 1 to 65535.
  hostIP: string
  hostPort: int32
  name: string -- By which Services and probes can refer to the port.
  protocol: string = "TCP" <TCP|UDP|SCTP>

ContainerResizePolicy: What a change of a resource's amount does.
  resourceName*: string
  restartPolicy*: string

EnvVar: One environment variable.
  name*: string
  value: string -- $(NAME) is replaced by an earlier variable's value.
  valueFrom: EnvVarSource -- Where the value comes from, if it is not given.

EnvVarSource: Where a variable's value comes from.
  configMapKeyRef: ConfigMapKeySelector
  fieldRef: ObjectFieldSelector
  fileKeyRef: any
  resourceFieldRef: ResourceFieldSelector
  secretKeyRef: SecretKeySelector

EnvFromSource: A ConfigMap or Secret as environment variables.
  configMapRef: ConfigMapEnvSource
  prefix: string -- Put before each key.
  secretRef: SecretEnvSource

ConfigMapEnvSource: The ConfigMap whose keys become variables.
  name: string
  optional: bool

SecretEnvSource: The Secret whose keys become variables.
  name: string
  optional: bool

ConfigMapKeySelector atomic: One key of a ConfigMap.
  key*: string
  name: string
  optional: bool -- Whether the ConfigMap or the key may be missing.

SecretKeySelector atomic: One key of a Secret.
  key*: string
  name: string
  optional: bool -- Whether the Secret or the key may be missing.

ObjectFieldSelector atomic: A field of the pod.
  apiVersion: string = "v1"
  fieldPath*: string

ResourceFieldSelector atomic: A resource of a container.
  containerName: string
  divisor: quantity
  resource*: string

ResourceRequirements: What a process needs and may use at most.
  claims: [name]ResourceClaim
  limits: {}quantity -- At most.
  requests: {}quantity -- At least.

ResourceClaim: A device named in the pod's resourceClaims.
  name*: string
  request: string

Lifecycle: What happens at a container's start and end.
  postStart: LifecycleHandler
  preStop: LifecycleHandler
  stopSignal: string

LifecycleHandler: One action.
  exec: ExecAction
  httpGet: HTTPGetAction
  sleep: SleepAction
  tcpSocket: TCPSocketAction

Probe: How to find out about a process's health.
  exec: ExecAction
  failureThreshold: int32 = 3
  grpc: GRPCAction
  httpGet: HTTPGetAction
  initialDelaySeconds: int32
  periodSeconds: int32 = 10
  successThreshold: int32 = 1
  tcpSocket: TCPSocketAction
  terminationGracePeriodSeconds: int64
  timeoutSeconds: int32 = 1

ExecAction: A command; its exit status counts.
  command: []string

GRPCAction: A call of grpc.health.v1.
  port*: int32
  service: string

HTTPGetAction: An HTTP GET; a status from 200 to 399 counts as success.
  host: string
  httpHeaders: []HTTPHeader
  path: string
  port: intstr
  scheme: string = "HTTP"

HTTPHeader: One request header.
  name*: string
  value*: string

TCPSocketAction: A connection that is opened and closed.
  host: string
  port: intstr

SleepAction: A pause.
  seconds*: int64

VolumeDevice: A block device in a container.
  devicePath*: string
  name*: string

VolumeMount: Where a volume appears in a container.
  mountPath*: string
  mountPropagation: string
  name*: string
  readOnly: bool
  recursiveReadOnly: string
  subPath: string
  subPathExpr: string

Volume: Files that containers of the pod can mount.
  awsElasticBlockStore: any
  azureDisk: any
  azureFile: any
  cephfs: any
  cinder: any
  configMap: ConfigMapVolumeSource
  csi: any
  downwardAPI: DownwardAPIVolumeSource
  emptyDir: EmptyDirVolumeSource
  ephemeral: any
  fc: any
  flexVolume: any
  flocker: any
  gcePersistentDisk: any
  gitRepo: any
  glusterfs: any
  hostPath: HostPathVolumeSource
  image: any
  iscsi: any
  name*: string -- Unique within the pod.
  nfs: any
  persistentVolumeClaim: PersistentVolumeClaimVolumeSource
  photonPersistentDisk: any
  portworxVolume: any
  projected: ProjectedVolumeSource
  quobyte: any
  rbd: any
  scaleIO: any
  secret: SecretVolumeSource
  storageos: any
  vsphereVolume: any

ConfigMapVolumeSource: A ConfigMap's keys as files.
  defaultMode: int32 = 420
  items: []KeyToPath
  name: string
  optional: bool

SecretVolumeSource: A Secret's keys as files.
  defaultMode: int32 = 420
  items: []KeyToPath
  optional: bool
  secretName: string

EmptyDirVolumeSource: An empty folder that lives as long as the pod.
  medium: string
  sizeLimit: quantity

HostPathVolumeSource: A path of the node.
  path*: string
  type: string

PersistentVolumeClaimVolumeSource: A claimed volume.
  claimName*: string
  readOnly: bool

DownwardAPIVolumeSource: Fields of the pod as files.
  defaultMode: int32 = 420
  items: []DownwardAPIVolumeFile

DownwardAPIVolumeFile: One field as one file.
  fieldRef: ObjectFieldSelector
  mode: int32
  path*: string
  resourceFieldRef: ResourceFieldSelector

ProjectedVolumeSource: Several sources in one folder.
  defaultMode: int32 = 420
  sources: []VolumeProjection

VolumeProjection: One source of a projected volume.
  clusterTrustBundle: any
  configMap: ConfigMapProjection
  downwardAPI: DownwardAPIProjection
  podCertificate: any
  secret: SecretProjection
  serviceAccountToken: ServiceAccountTokenProjection

ConfigMapProjection: A ConfigMap's keys as files.
  items: []KeyToPath
  name: string
  optional: bool

SecretProjection: A Secret's keys as files.
  items: []KeyToPath
  name: string
  optional: bool

DownwardAPIProjection: Fields of the pod as files.
  items: []DownwardAPIVolumeFile

ServiceAccountTokenProjection: A token as a file.
  audience: string
  expirationSeconds: int64
  path*: string

KeyToPath: One key as one file.
  key*: string
  mode: int32
  path*: string

PodStatus: What the node agent last observed.
  allocatedResources: {}quantity
  conditions: [type]PodCondition
  containerStatuses: []ContainerStatus
  ephemeralContainerStatuses: []ContainerStatus
  extendedResourceClaimStatus: any
  hostIP: string
  hostIPs: []HostIP
  initContainerStatuses: []ContainerStatus
  message: string
  nodeAllocatableResourceClaimStatuses: []any
  nominatedNodeName: string
  observedGeneration: int64
  phase: string -- Pending, Running, Succeeded, Failed or Unknown.
  podIP: string
  podIPs: [ip]PodIP
  qosClass: string
  reason: string
  resize: string
  resourceClaimStatuses: []any
  resources: ResourceRequirements
  startTime: time

PodCondition: One aspect of a pod's state.
  lastProbeTime: time
  lastTransitionTime: time
  message: string
  observedGeneration: int64
  reason: string
  status*: string
  type*: string

PodIP: An address of the pod.
  ip*: string

HostIP: An address of the node.
  ip*: string

ContainerStatus: What was last observed of a process.
  allocatedResources: {}quantity
  allocatedResourcesStatus: []any
  containerID: string
  image: string
  imageID: string
  lastState: ContainerState
  name*: string
  ready: bool
  resources: ResourceRequirements
  restartCount: int32
  started: bool
  state: ContainerState
  stopSignal: string
  user: any
  volumeMounts: [mountPath]VolumeMountStatus

VolumeMountStatus: A mount as observed.
  mountPath*: string
  name*: string
  readOnly: bool
  recursiveReadOnly: string
  volumeStatus: any

ContainerState: One of waiting, running and terminated.
  running: ContainerStateRunning
  terminated: ContainerStateTerminated
  waiting: ContainerStateWaiting

ContainerStateRunning: Since when it runs.
  startedAt: time

ContainerStateTerminated: How it ended.
  containerID: string
  exitCode*: int32
  finishedAt: time
  message: string
  reason: string
  signal: int32
  startedAt: time

ContainerStateWaiting: Why it does not run.
  message: string
  reason: string

LocalObjectReference atomic: An object of the same namespace.
  name: string

ObjectReference atomic: An object, possibly of another namespace.
  apiVersion: string
  fieldPath: string
  kind: string
  name: string
  namespace: string
  resourceVersion: string
  uid: string

Service: A name for the pods that a selector finds.
  apiVersion: string
  kind: string
  metadata: ObjectMeta
  spec: ServiceSpec
  status: ServiceStatus

ServiceSpec: Which pods, and on which ports.
  allocateLoadBalancerNodePorts: bool
  clusterIP: string
  clusterIPs: []string
  externalIPs: []string
  externalName: string
  externalTrafficPolicy: string
  healthCheckNodePort: int32
  internalTrafficPolicy: string
  ipFamilies: []string
  ipFamilyPolicy: string
  loadBalancerClass: string
  loadBalancerIP: string
  loadBalancerSourceRanges: []string
  ports: [port,protocol]ServicePort
  publishNotReadyAddresses: bool
  selector: {!}string -- Labels of the pods that serve.
  sessionAffinity: string = "None" <ClientIP|None>
  sessionAffinityConfig: SessionAffinityConfig
  trafficDistribution: string
  type: string = "ClusterIP" <ClusterIP|ExternalName|LoadBalancer|NodePort>

ServicePort: One port of a Service.
  appProtocol: string
  name: string
  nodePort: int32
  port*: int32
  protocol: string = "TCP" <SCTP|TCP|UDP>
  targetPort: intstr -- Number or name of the pods' port.

SessionAffinityConfig: Settings of session affinity.
  clientIP: ClientIPConfig

ClientIPConfig: Settings of affinity by client address.
  timeoutSeconds: int32

ServiceStatus: What was last observed.
  conditions: [type]Condition
  loadBalancer: LoadBalancerStatus

LoadBalancerStatus: Where a load balancer answers.
  ingress: []LoadBalancerIngress

LoadBalancerIngress: One address of a load balancer.
  hostname: string
  ip: string
  ipMode: string
  ports: []PortStatus

PortStatus: A port of a load balancer.
  error: string
  port*: int32
  protocol*: string

ConfigMap: Settings for programs, as keys and values.
  apiVersion: string
  binaryData: {}string -- Values in base64.
  data: {}string -- Values in UTF-8.
  immutable: bool
  kind: string
  metadata: ObjectMeta

Secret: Values to keep from others, as keys and values.
  apiVersion: string
  data: {}string -- Values in base64.
  immutable: bool
  kind: string
  metadata: ObjectMeta
  stringData: {}string -- Values in clear; the server moves them into data.
  type: string = "Opaque"

Event: Something that happened to an object.
  action: string
  apiVersion: string
  count: int32
  eventTime: time
  firstTimestamp: time
  involvedObject*: ObjectReference
  kind: string
  lastTimestamp: time
  message: string
  metadata*: ObjectMeta
  reason: string
  related: ObjectReference
  reportingComponent: string
  reportingInstance: string
  series: EventSeries
  source: EventSource
  type: string -- Normal or Warning.

EventSeries: How often it happened.
  count: int32
  lastObservedTime: time

EventSource: Who reports it.
  component: string
  host: string

ServiceAccount: An identity for pods.
  apiVersion: string
  automountServiceAccountToken: bool
  imagePullSecrets: []LocalObjectReference
  kind: string
  metadata: ObjectMeta
  secrets: [name]ObjectReference

[apps/v1]
Deployment: A number of pods made from one template.
  apiVersion: string
  kind: string
  metadata: ObjectMeta
  spec: DeploymentSpec
  status: DeploymentStatus

DeploymentSpec: Which pods, and how many.
  minReadySeconds: int32
  paused: bool
  progressDeadlineSeconds: int32 = 600 -- Seconds without progress after which the rollout counts as failed.
  replicas: int32 = 1 -- How many pods.
  revisionHistoryLimit: int32 = 10
  selector*: LabelSelector -- Must match the template's labels; can't change.
  strategy: DeploymentStrategy~ = {"type":"RollingUpdate","rollingUpdate":{"maxSurge":"25%","maxUnavailable":"25%"}}
  template*: PodTemplateSpec

DeploymentStrategy: How new pods take the place of old ones.
  rollingUpdate: RollingUpdateDeployment
  type: string = "RollingUpdate" <Recreate|RollingUpdate>

RollingUpdateDeployment: The bounds of a rolling update.
  maxSurge: intstr
  maxUnavailable: intstr

DeploymentStatus: What was last observed.
  availableReplicas: int32
  collisionCount: int32
  conditions: [type]DeploymentCondition
  observedGeneration: int64
  readyReplicas: int32
  replicas: int32
  terminatingReplicas: int32
  unavailableReplicas: int32
  updatedReplicas: int32

DeploymentCondition: One aspect of a Deployment's state.
  lastTransitionTime: time
  lastUpdateTime: time
  message: string
  reason: string
  status*: string
  type*: string

[discovery/v1]
EndpointSlice: Addresses that serve a Service.
  addressType*: string <FQDN|IPv4|IPv6>
  apiVersion: string
  endpoints: []Endpoint
  kind: string
  metadata: ObjectMeta
  ports: []EndpointPort

Endpoint: One pod's addresses.
  addresses*: []string
  conditions: EndpointConditions
  deprecatedTopology: {}string
  hints: any
  hostname: string
  nodeName: string
  targetRef: ObjectReference
  zone: string

EndpointConditions: Whether the endpoint takes traffic.
  ready: bool
  serving: bool
  terminating: bool

EndpointPort: One port of all endpoints of the slice.
  appProtocol: string
  name: string
  port: int32
  protocol: string = "TCP"

[autoscaling/v2]
HorizontalPodAutoscaler: Scales a Deployment with its pods' metrics; a cluster's controller manager follows it.
  apiVersion: string
  kind: string
  metadata: ObjectMeta
  spec: HorizontalPodAutoscalerSpec
  status: HorizontalPodAutoscalerStatus

HorizontalPodAutoscalerSpec: What to scale, between which bounds, by which metrics.
  behavior: HorizontalPodAutoscalerBehavior
  maxReplicas*: int32
  metrics: []MetricSpec
  minReplicas: int32
  scaleTargetRef*: CrossVersionObjectReference

CrossVersionObjectReference: The object with a scale subresource.
  apiVersion: string
  kind*: string
  name*: string

HorizontalPodAutoscalerBehavior: How fast it scales.
  scaleDown: HPAScalingRules
  scaleUp: HPAScalingRules

HPAScalingRules: How fast it scales in one direction.
  policies: []any
  selectPolicy: string
  stabilizationWindowSeconds: int32
  tolerance: quantity

MetricSpec: One metric and its target.
  containerResource: any
  external: any
  object: any
  pods: PodsMetricSource
  resource: ResourceMetricSource
  type*: string

PodsMetricSource: A metric of each pod, averaged.
  metric*: MetricIdentifier
  target*: MetricTarget

MetricIdentifier: A metric by name.
  name*: string
  selector: LabelSelector

ResourceMetricSource: The CPU or memory of each pod, averaged.
  name*: string
  target*: MetricTarget

MetricTarget: What the metric should be.
  averageUtilization: int32
  averageValue: quantity
  type*: string
  value: quantity

HorizontalPodAutoscalerStatus: What was last observed.
  conditions: [type]HorizontalPodAutoscalerCondition
  currentMetrics: []any
  currentReplicas: int32
  desiredReplicas*: int32
  lastScaleTime: time
  observedGeneration: int64

HorizontalPodAutoscalerCondition: One aspect of its state.
  lastTransitionTime: time
  message: string
  reason: string
  status*: string
  type*: string

[coordination/v1]
Lease: Who leads, and until when.
  apiVersion: string
  kind: string
  metadata: ObjectMeta
  spec: LeaseSpec

LeaseSpec: Who leads, and until when.
  acquireTime: time
  holderIdentity: string
  leaseDurationSeconds: int32
  leaseTransitions: int32
  preferredHolder: string
  renewTime: time
  strategy: string

[apiextensions/v1]
CustomResourceDefinition: A kind that the API server serves beyond its own.
  apiVersion: string
  kind: string
  metadata: ObjectMeta
  spec*: CustomResourceDefinitionSpec
  status: CustomResourceDefinitionStatus

CustomResourceDefinitionSpec: The kind's names and versions.
  conversion: any
  group*: string
  names*: CustomResourceDefinitionNames
  preserveUnknownFields: bool
  scope*: string <Cluster|Namespaced>
  versions*: []CustomResourceDefinitionVersion

CustomResourceDefinitionNames: How the kind is spelled.
  categories: []string
  kind*: string
  listKind: string
  plural*: string
  shortNames: []string
  singular: string

CustomResourceDefinitionVersion: One version of the kind.
  additionalPrinterColumns: []CustomResourceColumnDefinition
  deprecated: bool
  deprecationWarning: string
  name*: string
  schema: any
  selectableFields: []any
  served*: bool
  storage*: bool
  subresources: any

CustomResourceColumnDefinition: A column that `kubectl get` prints.
  description: string
  format: string
  jsonPath*: string
  name*: string
  priority: int32
  type*: string

CustomResourceDefinitionStatus: What was last observed.
  acceptedNames: CustomResourceDefinitionNames
  conditions: [type]CustomResourceDefinitionCondition
  storedVersions: []string

CustomResourceDefinitionCondition: One aspect of a definition's state.
  lastTransitionTime: time
  message: string
  observedGeneration: int64
  reason: string
  status*: string
  type*: string
"""

_ROOT_PACKAGES: Final = {
    "": "core/v1",
    "apps": "apps/v1",
    "autoscaling": "autoscaling/v2",
    "discovery.k8s.io": "discovery/v1",
    "coordination.k8s.io": "coordination/v1",
    "apiextensions.k8s.io": "apiextensions/v1",
}

_TYPE = re.compile(r"(?P<name>\w+)(?P<atomic> atomic)?: (?P<text>.+)")
_FIELD = re.compile(
    r"  (?P<name>\w+)(?P<required>\*)?: (?P<list>\[[^\]]*\]|\{!?\})?(?P<type>\w+)(?P<retain>~)?"
    r"(?: = (?P<default>\S+))?(?: <(?P<enum>[^>]+)>)?(?: -- (?P<text>.+))?"
)


@cache
def definitions() -> dict[str, JsonObject]:
    """Every type by its Kubernetes name (`io.k8s.api.core.v1.PodSpec`), as JSON Schema whose `$ref`s lead into this
    same table. Shared: never change it."""
    found: dict[str, JsonObject] = {
        INT_OR_STRING: {"x-kubernetes-int-or-string": True, "description": "A whole number or a text."},
        QUANTITY: {
            "x-kubernetes-int-or-string": True,
            "format": "quantity",
            "description": "A number with an optional suffix: 500m, 1.5, 64Mi.",
        },
    }
    names: dict[str, str] = {}
    for package, name, atomic, text, lines in _blocks():
        names[name] = _PACKAGES[package] + name
        schema: JsonObject = {"type": "object", "description": text, "properties": {}}
        if atomic:
            schema["x-kubernetes-map-type"] = "atomic"
        found[names[name]] = schema
        for line in lines:
            _add_field(schema, line)
    for schema in found.values():
        for field in schema.get("properties", {}).values():
            _resolve(field, names)
    return found


def definition_name(kind: Kind) -> str:
    """`io.k8s.api.core.v1.Pod` of a built-in kind. Raises KeyError for another."""
    return _PACKAGES[_ROOT_PACKAGES[kind.group]] + kind.kind


@cache
def schema(kind: Kind) -> JsonObject | None:
    """The JSON Schema of a built-in kind (with `$ref`s into `definitions`), None for any other kind."""
    return definitions()[definition_name(kind)] if kind in kinds.BUILT_IN_KINDS else None


def _blocks() -> list[tuple[str, str, bool, str, list[str]]]:
    """(package, type name, atomic, description, field lines) of every type."""
    found: list[tuple[str, str, bool, str, list[str]]] = []
    package = ""
    for line in _TYPES.splitlines():
        if line.startswith("["):
            package = line.strip("[]")
        elif line.startswith("  "):
            found[-1][4].append(line)
        elif line:
            parts = _TYPE.fullmatch(line)
            if parts is None:
                raise ValueError(f"not a type: {line!r}")
            found.append((package, parts["name"], bool(parts["atomic"]), parts["text"], []))
    return found


def _add_field(owner: JsonObject, line: str) -> None:
    parts = _FIELD.fullmatch(line)
    if parts is None:
        raise ValueError(f"not a field: {line!r}")
    field = _value(parts["type"])
    if parts["list"]:
        field = _container(parts["list"], field, retain=bool(parts["retain"]))
    elif parts["retain"]:
        field["x-kubernetes-patch-strategy"] = "retainKeys"
    if parts["default"]:
        field["default"] = orjson.loads(parts["default"])
    if parts["enum"]:
        field["enum"] = parts["enum"].split("|")
    if parts["text"]:
        field["description"] = parts["text"]
    if parts["required"]:
        owner.setdefault("required", []).append(parts["name"])
    owner["properties"][parts["name"]] = field


def _value(name: str) -> JsonObject:
    return dict(_SCALARS[name]) if name in _SCALARS else {"$ref": name}


def _container(mark: str, items: JsonObject, *, retain: bool) -> JsonObject:
    if mark == "{}":
        return {"type": "object", "additionalProperties": items}
    if mark == "{!}":
        return {"type": "object", "additionalProperties": items, "x-kubernetes-map-type": "atomic"}
    if mark == "[]":
        return {"type": "array", "items": items, "x-kubernetes-list-type": "atomic"}
    if mark == "[=]":
        return {
            "type": "array",
            "items": items,
            "x-kubernetes-list-type": "set",
            "x-kubernetes-patch-strategy": "merge",
        }
    keys = mark.strip("[]").split(",")
    return {
        "type": "array",
        "items": items,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": keys,
        "x-kubernetes-patch-merge-key": keys[0],
        "x-kubernetes-patch-strategy": "merge,retainKeys" if retain else "merge",
    }


def _resolve(field: JsonObject, names: dict[str, str]) -> None:
    """Spell the short type names of `$ref`s in full, now that all types are known."""
    for part in (field, field.get("items", {}), field.get("additionalProperties", {})):
        reference = part.get("$ref")
        if reference is not None and not reference.startswith(REF_PREFIX):
            part["$ref"] = REF_PREFIX + names[reference]
