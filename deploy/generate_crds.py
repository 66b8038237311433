"""Writes the CRD files of deploy/crds: `python deploy/generate_crds.py`.

Four of the six kinds embed the same pod specification, so the schemas are made from one description; a test compares
the files with what this script gives. The rules it keeps:

- Structural schemas, as any Kubernetes cluster demands: a type for every field, nothing but properties inside.
- Unknown fields are never preserved where people type, so that a typo is found. The exceptions are whole Kubernetes
  structures behind a gate of config-features, which are passed through as they are.
- No bounds and no `required` where admission has a better sentence: a cluster checks the schema first, and Knative's
  users know Knative's messages. (A key of a map-list must be required; Kubernetes says so.)
- Kubernetes fields that Knative refuses are named, so that admission can refuse them instead of pruning them silently.
- Containers and ports are atomic lists for server-side apply: their merge keys (name, containerPort) are optional here.
  Traffic is atomic on purpose: percents only make sense together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]
CRDS = Path(__file__).parent / "crds"
HEADER = "# Made by deploy/generate_crds.py; change it there.\n"


# --- words of the schema language ---------------------------------------------------------------------------


def text(description: str, **more: Any) -> Schema:
    return {"description": description, "type": "string", **more}


def integer(description: str, bits: int = 64) -> Schema:
    return {"description": description, "type": "integer", "format": f"int{bits}"}


def boolean(description: str) -> Schema:
    return {"description": description, "type": "boolean"}


def struct(description: str, required: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    schema: Schema = {"description": description, "type": "object"}
    if required:
        schema["required"] = list(required)
    # A trailing underscore keeps Python's keywords apart: `from_`.
    return {**schema, "properties": {name.rstrip("_"): value for name, value in properties.items()}}


def items(description: str, item: Schema, *keys: str) -> Schema:
    """A list, merged by `keys` under server-side apply, or atomic without them."""
    schema: Schema = {"description": description, "type": "array", "items": item}
    if not keys:
        return {**schema, "x-kubernetes-list-type": "atomic"}
    return {**schema, "x-kubernetes-list-map-keys": list(keys), "x-kubernetes-list-type": "map"}


def strings(description: str) -> Schema:
    return items(description, {"type": "string"})


def mapping(description: str) -> Schema:
    return {"description": description, "type": "object", "additionalProperties": {"type": "string"}}


def int_or_string(description: str) -> Schema:
    return {
        "description": description,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "x-kubernetes-int-or-string": True,
    }


def quantities(description: str) -> Schema:
    amount = {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
    return {"description": description, "type": "object", "additionalProperties": amount}


def passed_through(description: str) -> Schema:
    """An object that is Kubernetes' business."""
    return {"description": description, "type": "object", "x-kubernetes-preserve-unknown-fields": True}


def anything(description: str) -> Schema:
    """A value of any type."""
    return {"description": description, "x-kubernetes-preserve-unknown-fields": True}


def gated(key: str, what: str) -> str:
    return f"{what} Open with kubernetes.podspec-{key} in config-features."


def refused(*names: str) -> dict[str, Schema]:
    """Fields of Kubernetes that Knative does not take."""
    return {name: anything("Refused: a Knative revision must not set this field.") for name in names}


# --- pod specification --------------------------------------------------------------------------------------


def local_reference(what: str) -> Schema:
    return struct(
        f"{what} in the revision's namespace.",
        name=text("Its name."),
        optional=boolean("Whether a missing one is no error."),
    )


def key_reference(what: str) -> Schema:
    return struct(
        f"One key of a {what} in the revision's namespace.",
        ("key",),
        name=text(f"The {what}'s name."),
        key=text("The key whose value is taken."),
        optional=boolean("Whether a missing object or key is no error."),
    )


def probe(description: str) -> Schema:
    port = int_or_string("The port: a number, or the container port's name. Unset: the container's port.")
    header = struct("A header.", ("name", "value"), name=text("Its name."), value=text("Its value."))
    return struct(
        description,
        httpGet=struct(
            "Passes when a GET answers with a status from 200 to 399.",
            host=text("Host to connect to; unset, the pod's address."),
            path=text("Path of the request."),
            port=port,
            scheme=text("HTTP or HTTPS; unset, HTTP."),
            httpHeaders=items("Headers to send.", header),
        ),
        tcpSocket=struct(
            "Passes when a TCP connection opens.",
            host=text("Host to connect to; unset, the pod's address."),
            port=port,
        ),
        exec=struct(
            "Passes when a command in the container exits with 0.",
            command=strings("The command and its arguments; no shell is involved."),
        ),
        grpc=struct(
            "Passes when the gRPC health service answers SERVING.",
            port=integer("The port.", 32),
            service=text("The service name asked about.", nullable=True),
        ),
        initialDelaySeconds=integer("Seconds between the container's start and the first probe.", 32),
        periodSeconds=integer("Seconds between probes; 0 or unset on a readiness probe: as often as is useful.", 32),
        timeoutSeconds=integer("Seconds until a probe without an answer has failed.", 32),
        successThreshold=integer("Probes in a row that have to pass.", 32),
        failureThreshold=integer("Probes in a row that have to fail.", 32),
        terminationGracePeriodSeconds=integer("Seconds to stop in after a failed liveness probe."),
    )


def environment() -> Schema:
    source = struct(
        "Where the value comes from, in place of `value`.",
        configMapKeyRef=key_reference("ConfigMap"),
        secretKeyRef=key_reference("Secret"),
        fieldRef=passed_through(gated("fieldref", "A field of the pod.")),
        resourceFieldRef=passed_through(gated("fieldref", "A resource of the container.")),
    )
    variable = struct(
        "An environment variable. PORT, K_SERVICE, K_CONFIGURATION and K_REVISION are set by the platform.",
        ("name",),
        name=text("Its name."),
        value=text("Its value; $(NAME) stands for another variable."),
        valueFrom=source,
    )
    return items("Environment variables.", variable, "name")


def container_fields() -> dict[str, Schema]:
    env_source = struct(
        "All keys of a ConfigMap or Secret as variables.",
        prefix=text("Put before each key."),
        configMapRef=local_reference("A ConfigMap"),
        secretRef=local_reference("A Secret"),
    )
    port = struct(
        "The port that takes requests.",
        containerPort=integer("Where the container listens; unset, 8080. The process finds its own in $PORT.", 32),
        name=text("h2c for HTTP/2 without TLS; http1 or unset for HTTP/1.1."),
        protocol=text("TCP."),
        **refused("hostPort", "hostIP"),
    )
    mount = struct(
        "A volume in the container's file system.",
        ("name", "mountPath"),
        name=text("Name of a volume of this revision."),
        mountPath=text("Absolute path to mount it at."),
        subPath=text("Path within the volume to mount."),
        readOnly=boolean("Always true, except for emptyDir, ephemeral and persistent volumes."),
        mountPropagation=text(gated("volumes-mount-propagation", "None or HostToContainer.")),
    )
    return {
        "name": text("Name of the container; unset, user-container."),
        "image": text(
            "The image to run. Required; where the container runs as a local process with a command, any name does."
        ),
        "imagePullPolicy": text("Always, IfNotPresent or Never."),
        "command": strings("What to execute, in place of the image's entry point."),
        "args": strings("Arguments of the command."),
        "workingDir": text("Working directory of the command."),
        "env": environment(),
        "envFrom": items("Variables from ConfigMaps and Secrets.", env_source),
        "ports": items("At most one port, of exactly one container.", port),
        "readinessProbe": probe("Whether the container takes requests. Unset: a TCP connection to its port."),
        "livenessProbe": probe("Whether the container has to be restarted."),
        "startupProbe": probe("Whether the container has started; the other probes wait for it."),
        "resources": struct(
            "Compute resources.",
            requests=quantities("What is set aside for the container, by resource: cpu, memory, …"),
            limits=quantities("What the container may use at most, by resource."),
            **refused("claims"),
        ),
        "securityContext": struct(
            "Privileges of the container.",
            runAsUser=integer("User id of the process."),
            runAsGroup=integer("Group id of the process."),
            runAsNonRoot=boolean("Refuse to start as user 0."),
            readOnlyRootFilesystem=boolean("Mount the image read-only."),
            allowPrivilegeEscalation=boolean("Whether a process may get more privileges than its parent."),
            privileged=boolean("Only false is accepted."),
            capabilities=struct(
                "Linux capabilities.",
                drop=strings("Capabilities taken away."),
                add=strings("Capabilities given. Open with kubernetes.containerspec-addcapabilities."),
            ),
            seccompProfile=struct(
                "System calls the container may make.",
                type=text("RuntimeDefault, Unconfined or Localhost."),
                localhostProfile=text("File of a Localhost profile."),
            ),
            **refused("procMount", "seLinuxOptions", "windowsOptions", "appArmorProfile"),
        ),
        "terminationMessagePath": text("File whose content becomes the termination message."),
        "terminationMessagePolicy": text("File or FallbackToLogsOnError."),
        "volumeMounts": items("Volumes of this revision that the container sees.", mount, "mountPath"),
        **refused("lifecycle", "stdin", "stdinOnce", "tty", "volumeDevices", "restartPolicy", "resizePolicy"),
    }


def volume() -> Schema:
    file = struct(
        "A key and the file it becomes.",
        ("key", "path"),
        key=text("The key."),
        path=text("Relative path of the file, without `..`."),
        mode=integer("Permission bits of the file.", 32),
    )
    files = items("Which keys, and where; unset, every key under its own name.", file)
    mode = integer("Permission bits of files that have none of their own.", 32)
    optional = boolean("Whether a missing object or key is no error.")
    token = struct(
        "A token of the pod's service account.",
        ("path",),
        audience=text("Who the token is for."),
        expirationSeconds=integer("How long it is valid."),
        path=text("Relative path of the file."),
    )
    config_map = struct(
        "Files from a ConfigMap.", name=text("Its name."), items=files, optional=optional, defaultMode=mode
    )
    secret = struct(
        "Files from a Secret.", secretName=text("Its name."), items=files, optional=optional, defaultMode=mode
    )
    source = struct(
        "One source.",
        configMap=struct("Files from a ConfigMap.", name=text("Its name."), items=files, optional=optional),
        secret=struct("Files from a Secret.", name=text("Its name."), items=files, optional=optional),
        serviceAccountToken=token,
        downwardAPI=passed_through("Fields of the pod as files."),
    )
    return struct(
        "A volume; exactly one source has to be set.",
        ("name",),
        name=text("What mounts call it."),
        configMap=config_map,
        secret=secret,
        projected=struct("Several sources in one directory.", sources=items("The sources.", source), defaultMode=mode),
        emptyDir=struct(
            gated("volumes-emptydir", "A directory that is empty when the pod starts."),
            medium=text("Memory, or unset for the disk."),
            sizeLimit=int_or_string("How large it may grow."),
        ),
        persistentVolumeClaim=struct(
            gated("persistent-volume-claim", "A claim in the revision's namespace."),
            ("claimName",),
            claimName=text("The claim's name."),
            readOnly=boolean("Mount it read-only; false needs kubernetes.podspec-persistent-volume-write."),
        ),
        hostPath=passed_through(gated("volumes-hostpath", "A path of the node.")),
        csi=passed_through(gated("volumes-csi", "An inline CSI volume.")),
        ephemeral=passed_through(gated("volumes-ephemeral", "A claim that lives as long as the pod.")),
        image=passed_through(gated("volumes-image", "An image mounted as a volume.")),
    )


def open_list(description: str) -> Schema:
    return items(description, {"type": "object", "x-kubernetes-preserve-unknown-fields": True})


def revision_spec(description: str) -> Schema:
    container = struct("A container; the one with `ports` serves.", **container_fields())
    init_container = struct("A container that runs to its end before the others start.", **container_fields())
    return struct(
        description,
        containerConcurrency=integer("Requests one replica works on at a time; 0 is no limit."),
        timeoutSeconds=integer("Seconds a request may take."),
        responseStartTimeoutSeconds=integer("Seconds until the response has to begin."),
        idleTimeoutSeconds=integer("Seconds without a byte either way after which a request ends."),
        containers=items("The containers of a replica. One of them serves requests.", container),
        initContainers=items(gated("init-containers", "Containers run before the others."), init_container),
        volumes=items("Volumes that containers mount.", volume(), "name"),
        serviceAccountName=text("Service account the replicas run as."),
        automountServiceAccountToken=boolean("Only false is accepted: no token in the containers."),
        imagePullSecrets=items(
            "Secrets with credentials for the images' registries.",
            struct("A Secret.", ("name",), name=text("Its name.")),
            "name",
        ),
        enableServiceLinks=boolean("Whether other Services appear as environment variables; false by default."),
        affinity=passed_through(gated("affinity", "Which nodes and neighbours are preferred.")),
        nodeSelector={
            **mapping(gated("nodeselector", "Labels a node has to have.")),
            "x-kubernetes-map-type": "atomic",
        },
        tolerations=open_list(gated("tolerations", "Taints of nodes that are tolerated.")),
        topologySpreadConstraints=open_list(
            gated("topologyspreadconstraints", "How replicas spread over the cluster.")
        ),
        hostAliases=open_list(gated("hostaliases", "Lines added to /etc/hosts.")),
        runtimeClassName=text(gated("runtimeclassname", "Which container runtime to use.")),
        securityContext=passed_through(gated("securitycontext", "Privileges of the whole pod.")),
        shareProcessNamespace=boolean(gated("shareprocessnamespace", "Whether containers see each other's processes.")),
        hostIPC=boolean(gated("hostipc", "Share the node's IPC namespace.")),
        hostPID=boolean(gated("hostpid", "Share the node's process namespace.")),
        hostNetwork=boolean(gated("hostnetwork", "Share the node's network.")),
        priorityClassName=text(gated("priorityclassname", "Scheduling priority.")),
        schedulerName=text(gated("schedulername", "Which scheduler places the pods.")),
        dnsPolicy=text(gated("dnspolicy", "How names are resolved.")),
        dnsConfig=passed_through(gated("dnsconfig", "Resolver settings.")),
        **refused(
            "activeDeadlineSeconds",
            "ephemeralContainers",
            "hostUsers",
            "hostname",
            "nodeName",
            "os",
            "overhead",
            "preemptionPolicy",
            "priority",
            "readinessGates",
            "resourceClaims",
            "restartPolicy",
            "schedulingGates",
            "setHostnameAsFQDN",
            "subdomain",
            "terminationGracePeriodSeconds",
        ),
    )


def template() -> Schema:
    return struct(
        "What the next revision looks like. A change makes a new revision.",
        metadata=struct(
            "Name, labels and annotations of the revision. Autoscaling annotations belong here.",
            name=text("Name of the revision, <parent>-<something>; unset, it is made up."),
            namespace=text("The parent's namespace, if it is set at all."),
            creationTimestamp=text("Ignored; some clients send null.", format="date-time", nullable=True),
            labels=mapping("Labels of the revision and its pods."),
            annotations=mapping("Annotations of the revision and its pods."),
            finalizers=strings("Finalizers of the revision."),
        ),
        spec=revision_spec("The revision's spec."),
    )


def traffic(where: str, *, status: bool) -> Schema:
    fields = {
        "revisionName": text("The revision that gets the requests."),
        "latestRevision": boolean("Whether this target follows the latest ready revision."),
        "percent": integer("Share of the requests; the percents of all targets sum to 100."),
        "tag": text("Gives this target a host name of its own, <tag>-<route>."),
        "url": text("The tag's URL." if status else "Set in status only."),
        "configurationName": text("The Configuration whose latest ready revision gets the requests; Routes only."),
    }
    return items(where, struct("A share of the requests.", **fields))


# --- status -------------------------------------------------------------------------------------------------


def status(**fields: Schema) -> Schema:
    condition = struct(
        "An aspect of the object's state.",
        ("type", "status"),
        type=text("Which aspect; Ready sums up the others."),
        status=text("True, False or Unknown."),
        reason=text("Why, as one word."),
        message=text("Why, for people."),
        severity=text("Info where the condition does not count towards Ready."),
        lastTransitionTime=text("When any of this last changed."),
    )
    return struct(
        "What was observed; written by the controllers.",
        observedGeneration=integer("The metadata.generation this status speaks of."),
        conditions=items("Whether things are as the spec says.", condition, "type"),
        annotations=mapping("Notes of controllers."),
        **fields,
    )


def address() -> Schema:
    return struct("Where the Route answers inside the cluster.", url=text("Its URL."))


LATEST = {
    "latestCreatedRevisionName": text("The newest revision."),
    "latestReadyRevisionName": text("The newest revision that became ready."),
}


def route_status() -> dict[str, Schema]:
    return {
        "url": text("Where the Route answers."),
        "address": address(),
        "traffic": traffic("The traffic as it is, resolved to revisions.", status=True),
    }


def container_statuses(what: str) -> Schema:
    digest = struct("A container's image.", name=text("The container."), imageDigest=text("The image, by digest."))
    return items(what, digest)


def load_balancer(which: str) -> Schema:
    entry = struct(
        "One of its addresses.",
        ip=text("Its IP address."),
        domain=text("Its host name."),
        domainInternal=text("Its host name inside the cluster."),
        meshOnly=boolean("Whether only a service mesh reaches it."),
    )
    return struct(f"The {which} load balancer.", ingress=items("Its addresses.", entry))


def ingress_spec() -> Schema:
    split = struct(
        "A share of the requests.",
        ("serviceNamespace", "serviceName", "servicePort"),
        serviceNamespace=text("The Ingress' own namespace."),
        serviceName=text("The backend: a revision's name."),
        servicePort=int_or_string("The backend's port."),
        percent=integer("Share of the requests; unset on a single split, 100."),
        appendHeaders=mapping("Headers set on requests that take this split."),
    )
    match = struct("What the header has to be.", exact=text("Exactly this value."))
    path = struct(
        "Requests under a path.",
        ("splits",),
        path=text("Path prefix; unset, every path."),
        rewriteHost=text("Host the backend sees."),
        headers={
            "description": "Headers a request has to have.",
            "type": "object",
            "additionalProperties": match,
        },
        appendHeaders=mapping("Headers set on every request."),
        splits=items("Where the requests go.", split),
    )
    rule = struct(
        "Hosts and what they serve.",
        hosts=strings("Host names."),
        visibility=text("ExternalIP or ClusterLocal."),
        http=struct("The rule for HTTP.", ("paths",), paths=items("Paths, tried longest first.", path)),
    )
    tls = struct(
        "A certificate.",
        ("secretName", "secretNamespace"),
        hosts=strings("Hosts it is for."),
        secretName=text("Secret that holds it."),
        secretNamespace=text("That Secret's namespace."),
    )
    return struct(
        "The hosts of a Route and where their requests go.",
        httpOption=text("Enabled, or Redirected: plain HTTP is sent to HTTPS where there is a certificate."),
        tls=items("Certificates.", tls),
        rules=items("Rules by host.", rule),
    )


def pod_autoscaler_spec() -> Schema:
    return struct(
        "What to scale, and for whom.",
        ("scaleTargetRef",),
        containerConcurrency=integer("Requests one replica works on at a time; 0 is no limit."),
        protocolType=text("http1 or h2c."),
        reachability=text("Reachable, Unreachable, or empty where nobody knows yet."),
        scaleTargetRef=struct(
            "The object with a scale subresource.",
            ("apiVersion", "kind", "name"),
            apiVersion=text("Its apiVersion."),
            kind=text("Its kind."),
            name=text("Its name."),
        ),
    )


# --- the six definitions ------------------------------------------------------------------------------------


def column(name: str, path: str, type_: str = "string") -> Schema:
    return {"name": name, "type": type_, "jsonPath": path}


READY = column("Ready", ".status.conditions[?(@.type=='Ready')].status")
REASON = column("Reason", ".status.conditions[?(@.type=='Ready')].reason")
URL = column("URL", ".status.url")
LATEST_COLUMNS = [
    column("LatestCreated", ".status.latestCreatedRevisionName"),
    column("LatestReady", ".status.latestReadyRevisionName"),
]
SERVING = ("serving.knative.dev", "v1", ["all", "knative", "serving"])
AUTOSCALING = ("autoscaling.internal.knative.dev", "v1alpha1", ["knative-internal", "autoscaling"])
NETWORKING = ("networking.internal.knative.dev", "v1alpha1", ["knative-internal", "networking"])


def definition(
    kind: str,
    plural: str,
    short_names: list[str],
    place: tuple[str, str, list[str]],
    columns: list[Schema],
    description: str,
    spec: Schema,
    status_: Schema,
) -> Schema:
    group, version, categories = place
    kind_fields = {
        "apiVersion": text("Version of the schema of this object."),
        "kind": text("Kind of this object."),
        "metadata": {"type": "object"},
    }
    schema = struct(description, **kind_fields, spec=spec, status=status_)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            "labels": {"app.kubernetes.io/part-of": "knative-serving", "knative.dev/crd-install": "true"},
        },
        "spec": {
            "group": group,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": short_names,
                "categories": categories,
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def service() -> Schema:
    return definition(
        "Service",
        "services",
        ["kservice", "ksvc"],
        SERVING,
        [URL, *LATEST_COLUMNS, READY, REASON],
        "Runs a program that answers requests: keeps a Configuration and a Route of the same name.",
        struct(
            "What runs, and who gets its requests.",
            template=template(),
            traffic=traffic("Who gets the requests; unset, the latest ready revision.", status=False),
        ),
        status(**LATEST, **route_status()),
    )


def configuration() -> Schema:
    return definition(
        "Configuration",
        "configurations",
        ["config", "cfg"],
        SERVING,
        [*LATEST_COLUMNS, READY, REASON],
        "The newest state of a program; every change of its template makes a Revision.",
        struct("What runs.", template=template()),
        status(**LATEST),
    )


def revision() -> Schema:
    label = ".metadata.labels.serving\\.knative\\.dev/{}"
    return definition(
        "Revision",
        "revisions",
        ["rev"],
        SERVING,
        [
            column("Config Name", label.format("configuration")),
            column("Generation", label.format("configurationGeneration")),
            READY,
            REASON,
            column("Actual Replicas", ".status.actualReplicas", "integer"),
            column("Desired Replicas", ".status.desiredReplicas", "integer"),
        ],
        "A program at one point in time. Its spec never changes.",
        revision_spec("What runs. It cannot be changed."),
        status(
            logUrl=text("Where its logs are."),
            containerStatuses=container_statuses("Images of the containers."),
            initContainerStatuses=container_statuses("Images of the init containers."),
            actualReplicas=integer("Replicas that run.", 32),
            desiredReplicas=integer("Replicas that should run.", 32),
        ),
    )


def route() -> Schema:
    return definition(
        "Route",
        "routes",
        ["rt"],
        SERVING,
        [URL, READY, REASON],
        "Gives revisions host names and splits requests between them.",
        struct("Who gets the requests.", traffic=traffic("Targets; their percents sum to 100.", status=False)),
        status(**route_status()),
    )


def pod_autoscaler() -> Schema:
    return definition(
        "PodAutoscaler",
        "podautoscalers",
        ["kpa", "pa"],
        AUTOSCALING,
        [
            column("DesiredScale", ".status.desiredScale", "integer"),
            column("ActualScale", ".status.actualScale", "integer"),
            READY,
            REASON,
        ],
        "Scales a revision with its load. Made by the controllers.",
        pod_autoscaler_spec(),
        status(
            serviceName=text("The name requests for the revision go by."),
            metricsServiceName=text("Unused: statistics come from the gateways."),
            desiredScale=integer("Replicas the autoscaler wants; -1 while it does not know.", 32),
            actualScale=integer("Replicas that are ready.", 32),
        ),
    )


def ingress() -> Schema:
    return definition(
        "Ingress",
        "ingresses",
        ["kingress", "king"],
        NETWORKING,
        [READY, REASON],
        "The hosts of a Route as the gateways see them. Made by the controllers.",
        ingress_spec(),
        status(publicLoadBalancer=load_balancer("public"), privateLoadBalancer=load_balancer("cluster-local")),
    )


class _Dumper(yaml.SafeDumper):
    """YAML without anchors: people and other tools read these files."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def files() -> dict[str, str]:
    """File name to content."""
    kinds = {
        "service": service,
        "configuration": configuration,
        "revision": revision,
        "route": route,
        "podautoscaler": pod_autoscaler,
        "ingress": ingress,
    }
    return {
        f"{name}.yaml": HEADER + yaml.dump(make(), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
        for name, make in kinds.items()
    }


if __name__ == "__main__":
    for name, content in files().items():
        (CRDS / name).write_text(content)
