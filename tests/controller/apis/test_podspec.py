"""Which pod specs are refused, in which words."""

from __future__ import annotations

from typing import Any

import pytest

from controller.apis.podspec import validate_pod_spec
from controller.config.features import parse

Spec = dict[str, Any]


def _firsts(spec: Spec, **gates: str) -> list[str]:
    """The errors of a pod spec at `s`, without their details; gates by key with `_` for `-` and `__` for `.`."""
    features = parse({name.replace("__", ".").replace("_", "-"): value for name, value in gates.items()})
    return [str(error).partition("\n")[0] for error in validate_pod_spec(spec, features, "s")]


def _one(**fields: Any) -> Spec:
    return {"containers": [{"image": "hello", **fields}]}


C = "s.containers[0]"


def test_right() -> None:
    """An image that exists nowhere is fine: next to a command it is a name only."""
    assert _firsts(_one()) == []
    assert _firsts(_one(command=["a"], args=["b"], workingDir="/", imagePullPolicy="Always")) == []


# --- the pod ------------------------------------------------------------------------------------------------

GATED: dict[str, tuple[str, Any]] = {
    "affinity": ("affinity", {}),
    "topologyspreadconstraints": ("topologySpreadConstraints", [{}]),
    "hostaliases": ("hostAliases", [{}]),
    "nodeselector": ("nodeSelector", {"a": "b"}),
    "tolerations": ("tolerations", [{}]),
    "runtimeclassname": ("runtimeClassName", "x"),
    "securitycontext": ("securityContext", {"fsGroup": 1}),
    "shareprocessnamespace": ("shareProcessNamespace", True),
    "priorityclassname": ("priorityClassName", "x"),
    "schedulername": ("schedulerName", "x"),
    "init-containers": ("initContainers", [{"image": "a", "name": "init"}]),
    "dnspolicy": ("dnsPolicy", "None"),
    "dnsconfig": ("dnsConfig", {}),
    "hostipc": ("hostIPC", True),
    "hostpid": ("hostPID", True),
    "hostnetwork": ("hostNetwork", True),
}


@pytest.mark.parametrize("gate", GATED)
def test_gated_fields(gate: str) -> None:
    """A field behind a gate is refused until the gate is Enabled or Allowed."""
    field, value = GATED[gate]
    spec = {**_one(), field: value}
    assert _firsts(spec) == [f"must not set the field(s): s.{field}"]
    for state in ("Enabled", "Allowed"):
        assert _firsts(spec, **{f"kubernetes__podspec_{gate}": state}) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("restartPolicy", "Never"),
        ("terminationGracePeriodSeconds", 1),
        ("nodeName", "a"),
        ("hostname", "a"),
        ("anything", 1),
    ],
)
def test_fields_that_are_never_open(field: str, value: Any) -> None:
    """Fields of a pod that Knative does not pass on are refused, whatever the gates."""
    assert _firsts({**_one(), field: value}) == [f"must not set the field(s): s.{field}"]


def test_service_accounts() -> None:
    """The account's name is a subdomain; a token may be declined, but not asked for."""
    assert _firsts({**_one(), "serviceAccountName": "a.b", "automountServiceAccountToken": False}) == []
    assert _firsts({**_one(), "serviceAccountName": "foo@bar.baz"}) == [
        "invalid value: foo@bar.baz: s.serviceAccountName"
    ]
    assert _firsts({**_one(), "automountServiceAccountToken": True}) == [
        "invalid value: true: s.automountServiceAccountToken"
    ]


def test_pod_security_context_under_secure_defaults() -> None:
    """With secure-pod-defaults a part of it is open."""
    secure = {"secure_pod_defaults": "Enabled"}
    assert _firsts({**_one(), "securityContext": {"runAsNonRoot": True, "seccompProfile": {}}}, **secure) == []
    assert _firsts({**_one(), "securityContext": {"fsGroup": 1}}, **secure) == [
        "must not set the field(s): s.securityContext.fsGroup"
    ]


# --- containers ---------------------------------------------------------------------------------------------


def test_how_many_containers() -> None:
    """One at least; several while the gate is open, and then exactly one has the port."""
    assert _firsts({}) == ["missing field(s): s.containers"]
    pair = {"containers": [{"image": "a", "name": "a", "ports": [{}]}, {"image": "b", "name": "b"}]}
    assert _firsts(pair) == []
    assert _firsts(pair, multi_container="Disabled") == ["multi-container is off, but found 2 containers: s.containers"]
    pair["containers"][1]["ports"] = [{}]
    assert _firsts(pair) == ["more than one container port is set: s.containers.ports"]
    del pair["containers"][0]["ports"], pair["containers"][1]["ports"]
    assert _firsts(pair) == ["missing field(s): s.containers.ports"]


def test_container_names() -> None:
    """Names are unique among containers and init containers together."""
    names = [{"image": "a", "name": "a", "ports": [{}]}, {"image": "b", "name": "a"}]
    assert _firsts({"containers": names}) == ['duplicate container name "a": s.containers[1].name']
    init = {**_one(name="a"), "initContainers": [{"image": "a", "name": "a"}]}
    assert _firsts(init, kubernetes__podspec_init_containers="Enabled") == [
        'duplicate container name "a": s.initContainers[0].name'
    ]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"image": ""}, f"missing field(s): {C}.image"),
        ({"image": "Hello World"}, f"failed to parse image reference: {C}.image"),
        ({"name": "queue-proxy"}, f'"queue-proxy" is a reserved container name: {C}.name'),
        ({"name": "A"}, f"invalid value: A: {C}.name"),
        ({"imagePullPolicy": "Sometimes"}, f"invalid value: Sometimes: {C}.imagePullPolicy"),
        ({"terminationMessagePolicy": "x"}, f"invalid value: x: {C}.terminationMessagePolicy"),
        ({"lifecycle": {}}, f"must not set the field(s): {C}.lifecycle"),
        ({"stdin": True}, f"must not set the field(s): {C}.stdin"),
        ({"stdinOnce": True}, f"must not set the field(s): {C}.stdinOnce"),
        ({"tty": True}, f"must not set the field(s): {C}.tty"),
        ({"volumeDevices": []}, f"must not set the field(s): {C}.volumeDevices"),
        ({"restartPolicy": "Always"}, f"must not set the field(s): {C}.restartPolicy"),
        ({"ports": [{}, {}]}, "more than one container port is set: s.containers.ports"),
        ({"ports": [{"hostPort": 1}]}, f"must not set the field(s): {C}.ports[0].hostPort"),
        ({"ports": [{"hostIP": "a"}]}, f"must not set the field(s): {C}.ports[0].hostIP"),
        ({"ports": [{"protocol": "UDP"}]}, f"invalid value: UDP: {C}.ports[0].protocol"),
        ({"ports": [{"name": "http"}]}, f"Port name http is not allowed: {C}.ports[0].name"),
        ({"ports": [{"containerPort": 65536}]}, f"expected 0 <= 65536 <= 65535: {C}.ports[0].containerPort"),
        ({"ports": [{"containerPort": -1}]}, f"expected 0 <= -1 <= 65535: {C}.ports[0].containerPort"),
        ({"ports": [{"containerPort": 8012}]}, f"invalid value: 8012: {C}.ports[0].containerPort"),
        ({"resources": {"claims": []}}, f"must not set the field(s): {C}.resources.claims"),
        ({"resources": {"limits": {"cpu": "much"}}}, f"invalid value: much: {C}.resources.limits.cpu"),
        ({"resources": {"requests": {"cpu": -1}}}, f"invalid value: -1: {C}.resources.requests.cpu"),
        ({"securityContext": {"procMount": "x"}}, f"must not set the field(s): {C}.securityContext.procMount"),
        ({"securityContext": {"runAsUser": -1}}, f"expected 0 <= -1 <= 2147483647: {C}.securityContext.runAsUser"),
        (
            {"securityContext": {"runAsGroup": 2**31}},
            f"expected 0 <= 2147483648 <= 2147483647: {C}.securityContext.runAsGroup",
        ),
        ({"securityContext": {"privileged": True}}, f"invalid value: true: {C}.securityContext.privileged"),
        (
            {"securityContext": {"capabilities": {"add": ["ALL"]}}},
            f"must not set the field(s): {C}.securityContext.capabilities.add",
        ),
        (
            {"securityContext": {"capabilities": {"keep": ["ALL"]}}},
            f"must not set the field(s): {C}.securityContext.capabilities.keep",
        ),
    ],
)
def test_container_fields(fields: Spec, problem: str) -> None:
    """Each mistake in a container is one error, at its path, in Knative's words."""
    assert _firsts(_one(**fields)) == [problem]


@pytest.mark.parametrize(
    "fields",
    [
        {"ports": [{"containerPort": 8112, "name": "h2c", "protocol": "TCP"}]},
        {"ports": [{"name": "http1"}]},
        {"resources": {"requests": {"cpu": 1, "memory": "64Mi"}, "limits": {"example.com/gpu": "1"}}},
        {"securityContext": {"runAsUser": 0, "privileged": False, "capabilities": {"drop": ["ALL"]}}},
        {"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}, "readOnlyRootFilesystem": True}},
        {"terminationMessagePolicy": "File", "terminationMessagePath": "/x"},
    ],
)
def test_container_fields_that_are_right(fields: Spec) -> None:
    """What Knative allows in a container passes."""
    assert _firsts(_one(**fields)) == []


def test_added_capabilities() -> None:
    """Open with their gate; NET_BIND_SERVICE alone is open where containers are secured by default."""
    low_port = _one(securityContext={"capabilities": {"add": ["NET_BIND_SERVICE"]}})
    refused = [f"must not set the field(s): {C}.securityContext.capabilities.add"]
    assert _firsts(low_port) == refused
    assert _firsts(low_port, secure_pod_defaults="AllowRootBounded") == []
    more = _one(securityContext={"capabilities": {"add": ["NET_BIND_SERVICE", "SYS_ADMIN"]}})
    assert _firsts(more, secure_pod_defaults="Enabled") == refused
    assert _firsts(more, kubernetes__containerspec_addcapabilities="Enabled") == []


def test_init_containers() -> None:
    """They run to their end, so nothing probes them; PORT is theirs to set."""
    gate = {"kubernetes__podspec_init_containers": "Enabled"}
    init: Spec = {"image": "a", "env": [{"name": "PORT", "value": "1"}], "ports": [{"containerPort": 1}]}
    assert _firsts({**_one(), "initContainers": [init]}, **gate) == []
    init["readinessProbe"] = {"tcpSocket": {}}
    assert _firsts({**_one(), "initContainers": [init]}, **gate) == [
        "field not allowed in an init container: s.initContainers[0].readinessProbe"
    ]


def test_probes_of_sidecars() -> None:
    """Closed until their gate is open, and then they say their port."""
    sidecar = {"image": "b", "name": "b", "livenessProbe": {"tcpSocket": {}}}
    pair = {"containers": [{"image": "a", "name": "a", "ports": [{}]}, sidecar]}
    path = "s.containers[1].livenessProbe"
    assert _firsts(pair) == [f"must not set the field(s): {path}"]
    open_ = {"multi_container_probing": "Enabled"}
    assert _firsts(pair, **open_) == [f"Probe port must be specified: {path}.tcpSocket.port"]
    sidecar["livenessProbe"] = {"tcpSocket": {"port": 1}}
    assert _firsts(pair, **open_) == []


# --- environment --------------------------------------------------------------------------------------------

E = f"{C}.env[0]"
KEY = {"name": "a", "key": "b"}


@pytest.mark.parametrize(
    ("variable", "problem"),
    [
        *[
            ({"name": name}, f'"{name}" is a reserved environment variable: {E}.name')
            for name in ("PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION")
        ],
        ({}, f"missing field(s): {E}.name"),
        ({"name": "A=B"}, f"invalid value: A=B: {E}.name"),
        ({"name": "A", "other": 1}, f"must not set the field(s): {E}.other"),
        ({"name": "A", "valueFrom": {"fieldRef": {}}}, f"must not set the field(s): {E}.valueFrom.fieldRef"),
        (
            {"name": "A", "valueFrom": {}},
            f"expected exactly one, got neither: {E}.valueFrom.configMapKeyRef, {E}.valueFrom.secretKeyRef",
        ),
        (
            {"name": "A", "valueFrom": {"configMapKeyRef": KEY, "secretKeyRef": KEY}},
            f"expected exactly one, got both: {E}.valueFrom.configMapKeyRef, {E}.valueFrom.secretKeyRef",
        ),
        (
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "a"}}},
            f"missing field(s): {E}.valueFrom.secretKeyRef.key",
        ),
        (
            {"name": "A", "value": "x", "valueFrom": {"secretKeyRef": KEY}},
            f"may not be specified when `value` is not empty: {E}.valueFrom",
        ),
    ],
)
def test_environment(variable: Spec, problem: str) -> None:
    """A variable has a name that is not the platform's own, and a value or one whole source."""
    assert _firsts(_one(env=[variable])) == [problem]


def test_field_references_have_a_gate() -> None:
    """fieldRef is closed until config-features opens it."""
    spec = _one(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}])
    assert _firsts(spec, kubernetes__podspec_fieldref="Enabled") == []


def test_sidecars_may_set_port() -> None:
    """Nobody else tells them where to listen."""
    sidecar: Spec = {"image": "b", "name": "b", "env": [{"name": "PORT", "value": "1"}]}
    pair = {"containers": [{"image": "a", "name": "a", "ports": [{}]}, sidecar]}
    assert _firsts(pair) == []
    sidecar["env"] = [{"name": "K_SERVICE"}]
    assert _firsts(pair) == ['"K_SERVICE" is a reserved environment variable: s.containers[1].env[0].name']


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (
            {"prefix": "A"},
            f"expected exactly one, got neither: {C}.envFrom[0].configMapRef, {C}.envFrom[0].secretRef",
        ),
        ({"secretRef": {}}, f"missing field(s): {C}.envFrom[0].secretRef.name"),
        ({"otherRef": {}}, f"must not set the field(s): {C}.envFrom[0].otherRef"),
    ],
)
def test_environment_sources(source: Spec, problem: str) -> None:
    """envFrom names one ConfigMap or Secret, and nothing else."""
    assert _firsts(_one(envFrom=[source])) == [problem]
    assert _firsts(_one(envFrom=[{"prefix": "A", "configMapRef": {"name": "a"}}])) == []
