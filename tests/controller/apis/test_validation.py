"""What is refused, in which words, and at which field. One row for each rule."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from controller.apis import kinds, labels
from controller.apis.defaults import apply_defaults
from controller.apis.metaspec import validate_annotations
from controller.apis.validation import example_checksum, validate
from controller.config.store import Config, update

CREATOR = "serving.knative.dev/creator"
LAST_MODIFIER = "serving.knative.dev/lastModifier"
TEMPLATE = "spec.template.metadata.annotations"


def _features(**gates: str) -> Config:
    keys = {name.replace("__", ".").replace("_", "-"): value for name, value in gates.items()}
    return update(Config(), "config-features", keys)


def _object(kind: kinds.Kind, spec: Any, **meta: Any) -> dict[str, Any]:
    metadata = {"name": "hello", "namespace": "default", **meta}
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, "spec": spec}


def _service(traffic: list[dict[str, Any]] | None = None, **meta: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"template": {"spec": {"containers": [{"image": "hello"}]}}}
    if traffic is not None:
        spec["traffic"] = traffic
    return _object(kinds.SERVICE, spec, **meta)


def _texts(obj: dict[str, Any], old: dict[str, Any] | None = None, config: Config | None = None) -> list[str]:
    config = config or Config()
    return [str(error) for error in validate(apply_defaults(obj, old, config, "me"), old, config)]


def _firsts(obj: dict[str, Any], old: dict[str, Any] | None = None, config: Config | None = None) -> list[str]:
    """The errors without their details."""
    return [text.partition("\n")[0] for text in _texts(obj, old, config)]


# --- metadata -----------------------------------------------------------------------------------------------


def test_a_right_service() -> None:
    """A Service as people write it passes."""
    assert _texts(_service()) == []


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a" * 64, "must be no more than 63 characters"),
        ("Hello", "must consist of"),
        ("1hello", "start with a letter"),
        ("hello.world", "must consist of"),
    ],
)
def test_names(name: str, problem: str) -> None:
    """A name becomes a host name; the error says metadata.name."""
    [text] = _texts(_service(name=name))
    assert text.startswith("not a DNS 1035 label: [")
    assert problem in text
    assert text.endswith(f': metadata.name\nname: "{name}"')


def test_generated_names() -> None:
    """One of name and generateName is needed, and the prefix has to be the beginning of a name."""
    assert _firsts(_service(name="")) == ["name or generateName is required: metadata.name"]
    assert _texts(_service(name="", generateName="hello-")) == []
    [text] = _texts(_service(name="", generateName="Hello-"))
    assert text.startswith("not a DNS 1035 label prefix: [")


@pytest.mark.parametrize(
    ("annotations", "problem"),
    [
        (
            {"autoscaling.knative.dev/min-scale": "1"},
            'invalid key name "autoscaling.knative.dev/min-scale": metadata.annotations\n'
            'autoscaling annotations must be put under "spec.template.metadata.annotations" to work',
        ),
        (
            {"networking.knative.dev/other": "1"},
            'invalid key name "networking.knative.dev/other": metadata.annotations',
        ),
        (
            {"serving.knative.dev/rollout-duration": "1.5s"},
            "invalid value: 1.5s: metadata.annotations.serving.knative.dev/rollout-duration\n"
            "must be a whole number of seconds, and not negative",
        ),
        (
            {"serving.knative.dev/rollout-duration": "-1s"},
            "invalid value: -1s: metadata.annotations.serving.knative.dev/rollout-duration\n"
            "must be a whole number of seconds, and not negative",
        ),
    ],
)
def test_annotations_of_a_service(annotations: dict[str, str], problem: str) -> None:
    """A known prefix with an unknown key, an autoscaling key at the wrong place and a bad duration are told."""
    assert _texts(_service(annotations=annotations)) == [problem]


@pytest.mark.parametrize(
    "annotations",
    [
        {"networking.knative.dev/ingress.class": "x", "networking.knative.dev/ingress-class": "x"},
        {"networking.knative.dev/certificate.class": "x", "networking.knative.dev/certificate-class": "x"},
        {"networking.knative.dev/disableAutoTLS": "true", "networking.knative.dev/disable-auto-tls": "true"},
        {"networking.knative.dev/disable-external-domain-tls": "true"},
        {"networking.knative.dev/httpOption": "enabled", "networking.knative.dev/http-protocol": "enabled"},
        {"serving.knative.dev/rollout-duration": "2m"},
        {"example.com/mine": "anything"},
    ],
)
def test_annotations_that_are_right(annotations: dict[str, str]) -> None:
    """Knative's own keys in both spellings pass, and those of others whatever they say."""
    assert _texts(_service(annotations=annotations)) == []


@pytest.mark.parametrize(
    ("value", "detail"), [("soon", "duration"), ("0s", "longer than 0"), ("-1s", "longer than 0"), ("30", "duration")]
)
def test_the_queue_time_out_is_a_duration(value: str, detail: str) -> None:
    """Longer than nothing."""
    [error] = map(str, validate_annotations({labels.QUEUE_TIMEOUT: value}, "metadata.annotations"))
    assert error.startswith(f"invalid value: {value}: metadata.annotations.queue.zerogate.dev/timeout\n")
    assert detail in error


def test_annotations_of_a_template() -> None:
    """Autoscaling and deadlines belong to the template, and have their bounds there."""
    obj = _service()
    obj["spec"]["template"]["metadata"] = {
        "annotations": {"autoscaling.knative.dev/min-scale": "-1", "serving.knative.dev/progress-deadline": "soon"}
    }
    assert _firsts(obj) == [
        f"expected 0 <= -1 <= 2147483647: {TEMPLATE}.autoscaling.knative.dev/min-scale",
        f"invalid value: soon: {TEMPLATE}.serving.knative.dev/progress-deadline",
    ]


def test_visibility() -> None:
    """The label is cluster-local or absent: a typo must not publish a private service."""
    label = "networking.knative.dev/visibility"
    assert _texts(_service(labels={label: "cluster-local"})) == []
    assert _firsts(_service(labels={label: "public"})) == [f"invalid value: public: metadata.labels.{label}"]


@pytest.mark.parametrize(
    ("kind", "label", "owner"),
    [
        (kinds.ROUTE, "serving.knative.dev/service", "Service"),
        (kinds.CONFIGURATION, "serving.knative.dev/service", "Service"),
        (kinds.REVISION, "serving.knative.dev/configuration", "Configuration"),
    ],
    ids=lambda value: value.kind if isinstance(value, kinds.Kind) else "",
)
def test_owner_labels(kind: kinds.Kind, label: str, owner: str) -> None:
    """A label that names the owner needs that owner."""
    spec = _service()["spec"]["template"]["spec"] if kind is kinds.REVISION else _service()["spec"]
    if kind is kinds.ROUTE:
        spec = {"traffic": [{"revisionName": "a", "percent": 100}]}
    labels = {label: "mine"}
    reference = {"kind": owner, "name": "mine", "controller": True}
    assert _texts(_object(kind, spec, labels=labels, ownerReferences=[reference])) == []
    for references in ([], [{**reference, "name": "other"}], [{**reference, "controller": False}]):
        obj = _object(kind, spec, labels=labels, ownerReferences=references)
        assert _firsts(obj) == [f"missing owner references: metadata.labels.{label}"]


def test_users_are_immutable() -> None:
    """The creator for ever, the last modifier as long as the spec is."""
    old = apply_defaults(_service(), None, Config(), "first")
    forged = copy.deepcopy(old)
    forged["metadata"]["annotations"] = {CREATOR: "x", LAST_MODIFIER: "x"}
    assert _texts(forged, old) == [
        f"annotation value is immutable: metadata.annotations.{CREATOR}, metadata.annotations.{LAST_MODIFIER}"
    ]
    changed = copy.deepcopy(old)
    changed["spec"]["template"]["spec"]["timeoutSeconds"] = 10
    changed["metadata"]["annotations"][LAST_MODIFIER] = "x"
    assert _texts(changed, old) == []


def test_a_childs_users_follow_its_owner() -> None:
    """A Service's annotations are copied to its children."""
    owner = [{"kind": "Service", "name": "hello", "controller": True}]
    spec = {"traffic": [{"revisionName": "a", "percent": 100}]}
    old = _object(kinds.ROUTE, spec, ownerReferences=owner, annotations={LAST_MODIFIER: "first"})
    old = apply_defaults(old, None, Config(), "controller")
    new = copy.deepcopy(old)
    new["metadata"]["annotations"][LAST_MODIFIER] = "second"
    assert _texts(new, old) == []


# --- when a spec is judged ----------------------------------------------------------------------------------


def test_a_deleted_object_is_not_judged() -> None:
    """Rules that came later must not keep an object from losing its finalizers."""
    obj = _service([{"percent": 1}], deletionTimestamp="2026-01-01T00:00:00Z")
    assert _texts(obj) == []


def test_an_unchanged_spec_is_not_judged_again() -> None:
    """A gate that was closed since does not keep anybody from labelling what runs."""
    open_ = _features(**{"kubernetes__podspec_hostnetwork": "Enabled"})
    obj = _service()
    obj["spec"]["template"]["spec"]["hostNetwork"] = True
    old = apply_defaults(obj, None, open_, "me")
    assert validate(old, None, open_) == []
    labelled = copy.deepcopy(old)
    labelled["metadata"]["labels"] = {"a": "b"}
    assert validate(labelled, old, Config()) == []
    labelled["spec"]["template"]["spec"]["timeoutSeconds"] = 1
    assert [str(error) for error in validate(labelled, old, Config())] == [
        "must not set the field(s): spec.template.spec.hostNetwork"
    ]


# --- revisions ----------------------------------------------------------------------------------------------


def _revision(**spec: Any) -> dict[str, Any]:
    return _object(kinds.REVISION, {"containers": [{"image": "hello"}], **spec})


def test_a_revision_never_changes() -> None:
    """The error shows what would have changed; metadata may change."""
    old = apply_defaults(_revision(), None, Config(), "me")
    new = copy.deepcopy(old)
    new["spec"]["timeoutSeconds"] = 9
    assert _texts(new, old) == ["Immutable fields changed (-old +new): spec\n-timeoutSeconds: 300\n+timeoutSeconds: 9"]
    annotated = copy.deepcopy(old)
    annotated["metadata"]["annotations"] = {"autoscaling.knative.dev/min-scale": "2"}
    assert _texts(annotated, old) == []


def test_annotations_of_a_live_revision_have_bounds() -> None:
    """A revision's spec is fixed, its autoscaling annotations are not: they are checked at each write."""
    old = apply_defaults(_revision(), None, Config(), "me")
    new = copy.deepcopy(old)
    new["metadata"]["annotations"] = {"autoscaling.knative.dev/window": "1s"}
    [text] = _texts(new, old)
    assert text == "expected 6s <= 1s <= 1h0m0s: metadata.annotations.autoscaling.knative.dev/window"


@pytest.mark.parametrize(
    ("field", "value", "bounds"),
    [
        ("containerConcurrency", -1, "expected 0 <= -1 <= 1000"),
        ("containerConcurrency", 1001, "expected 0 <= 1001 <= 1000"),
        ("timeoutSeconds", 601, "expected 0 <= 601 <= 600"),
        ("timeoutSeconds", -1, "expected 0 <= -1 <= 600"),
        ("responseStartTimeoutSeconds", -1, "expected 0 <= -1 <= 2147483647"),
        ("idleTimeoutSeconds", -1, "expected 0 <= -1 <= 2147483647"),
    ],
)
def test_numbers(field: str, value: int, bounds: str) -> None:
    """Concurrency and timeouts have the bounds that config-defaults sets."""
    assert _texts(_revision(**{field: value})) == [f"{bounds}: spec.{field}"]


def test_unlimited_concurrency_may_be_forbidden() -> None:
    """With allow-container-concurrency-zero false, 0 is below the bounds."""
    data = {"allow-container-concurrency-zero": "false", "container-concurrency": "1"}
    config = update(Config(), "config-defaults", data)
    assert _texts(_revision(containerConcurrency=0), config=config) == [
        "expected 1 <= 0 <= 1000: spec.containerConcurrency"
    ]


# --- revision names of the user's choice --------------------------------------------------------------------


def _named(revision: str, image: str = "hello", **meta: Any) -> dict[str, Any]:
    obj = _service(**meta)
    obj["spec"]["template"] = {"metadata": {"name": revision}, "spec": {"containers": [{"image": image}]}}
    return obj


def test_revision_names() -> None:
    """A revision's name begins with its parent's, is a label, and cannot be given under generateName."""
    path = "spec.template.metadata.name"
    assert _texts(_named("hello-green")) == []
    assert _texts(_named("green")) == [
        f'invalid value: green: {path}\nthe name of a revision must start with its parent\'s: "hello-"'
    ]
    assert _firsts(_named("hello-Green")) == [f"invalid value: hello-Green: {path}"]
    assert _firsts(_named("hello-x1-green", name="hello-x1", generateName="hello-")) == [
        f"must not set the field(s): {path}"
    ]


def test_a_revision_name_means_one_template() -> None:
    """Another template needs another name; going back to an old name is fine."""
    old = apply_defaults(_named("hello-a"), None, Config(), "me")
    changed = copy.deepcopy(old)
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = "new"
    assert _texts(changed, old) == [
        "Saw the following changes without a name change (-old +new): spec.template.metadata.name\n"
        '-spec.containers[0].image: "hello"\n+spec.containers[0].image: "new"'
    ]
    assert _texts(_named("hello-b", image="new"), old) == []


# --- Configurations and Routes ------------------------------------------------------------------------------


def test_configuration() -> None:
    """A Configuration is judged by its template, as a Service is."""
    spec = {"template": {"spec": {}}}
    assert _texts(_object(kinds.CONFIGURATION, spec)) == ["missing field(s): spec.template.spec.containers"]
    assert _texts(_object(kinds.CONFIGURATION, _service()["spec"])) == []


# --- internal kinds -----------------------------------------------------------------------------------------

TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "hello-deployment"}


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (
            {"scaleTargetRef": {"kind": "x"}},
            "missing field(s): spec.scaleTargetRef.apiVersion, spec.scaleTargetRef.name",
        ),
        ({"containerConcurrency": -1}, "expected 0 <= -1 <= 1000: spec.containerConcurrency"),
        ({"reachability": "Maybe"}, "invalid value: Maybe: spec.reachability"),
        ({"protocolType": "h3"}, "invalid value: h3: spec.protocolType"),
    ],
)
def test_pod_autoscaler(spec: dict[str, Any], problem: str) -> None:
    """A PodAutoscaler names whole what it scales; reachability and protocol are words we know."""
    right = {"scaleTargetRef": TARGET, "reachability": "", "protocolType": "http1"}
    assert _texts(_object(kinds.POD_AUTOSCALER, right)) == []
    assert _firsts(_object(kinds.POD_AUTOSCALER, {**right, **spec})) == [problem]


def test_pod_autoscaler_annotations() -> None:
    """Its annotations have the same bounds as a revision's."""
    obj = _object(kinds.POD_AUTOSCALER, {"scaleTargetRef": TARGET}, annotations={"autoscaling.knative.dev/target": "x"})
    assert _firsts(obj) == ["invalid value: x: metadata.annotations.autoscaling.knative.dev/target"]


def _split(**fields: Any) -> dict[str, Any]:
    return {"serviceNamespace": "default", "serviceName": "a", "servicePort": 80, "percent": 100, **fields}


def _rule(*splits: dict[str, Any]) -> dict[str, Any]:
    return {"hosts": ["a"], "http": {"paths": [{"splits": list(splits)}]}}


PATH = "spec.rules[0].http.paths"


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({}, "missing field(s): spec.rules"),
        ({"rules": [{"hosts": ["a"]}]}, f"missing field(s): {PATH}"),
        ({"rules": [_rule()]}, f"missing field(s): {PATH}[0].splits"),
        ({"rules": [_rule(_split(serviceName=""))]}, f"missing field(s): {PATH}[0].splits[0].serviceName"),
        ({"rules": [_rule(_split(servicePort=None))]}, f"missing field(s): {PATH}[0].splits[0].servicePort"),
        ({"rules": [_rule(_split(serviceNamespace=""))]}, f"missing field(s): {PATH}[0].splits[0].serviceNamespace"),
        (
            {"rules": [_rule(_split(serviceNamespace="other"))]},
            f"invalid value: other: {PATH}[0].splits[0].serviceNamespace",
        ),
        (
            {"rules": [_rule(_split(percent=50), _split(percent=49))]},
            f"Traffic split percentage must total to 100, but was 99: {PATH}[0].splits",
        ),
        (
            {"rules": [_rule(_split(percent=101), _split(percent=-1))]},
            f"expected 0 <= -1 <= 100: {PATH}[0].splits[1].percent",
        ),
        ({"rules": [{**_rule(_split()), "visibility": "All"}]}, "invalid value: All: spec.rules[0].visibility"),
        ({"rules": [_rule(_split())], "httpOption": "Off"}, "invalid value: Off: spec.httpOption"),
        (
            {"rules": [_rule(_split())], "tls": [{}]},
            "missing field(s): spec.tls[0].secretName, spec.tls[0].secretNamespace",
        ),
    ],
)
def test_ingress(spec: dict[str, Any], problem: str) -> None:
    """Each path has splits to ports of its own namespace that sum to 100; words and secrets are whole."""
    assert problem in _firsts(_object(kinds.INGRESS, spec))
    assert _texts(_object(kinds.INGRESS, {"rules": [_rule(_split())]})) == []


# --- ConfigMaps ---------------------------------------------------------------------------------------------


def _config_map(name: str, data: dict[str, str], namespace: str = "knative-serving", **meta: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, **meta}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def test_config_maps() -> None:
    """A map of the control plane has to parse; others are nobody's business."""
    bad = {"min-scale": "x"}
    assert _texts(_config_map("config-autoscaler", bad)) == [
        'config-autoscaler: min-scale is "x", must be a whole number of at least 0: data'
    ]
    assert _texts(_config_map("config-autoscaler", {"min-scale": "1"})) == []
    assert _texts(_config_map("config-autoscaler", bad, namespace="default")) == []
    assert _texts(_config_map("mine", bad)) == []


def test_the_example_of_a_config_map_is_not_to_be_edited() -> None:
    """Where the checksum is there: nothing would read what is typed into the example."""
    annotations = {"knative.dev/example-checksum": example_checksum("# a\nb: c\n")}
    same = _config_map("config-features", {"_example": "# a  \r\nb: c"}, annotations=annotations)
    assert _texts(same) == []
    edited = _config_map("config-features", {"_example": "# a\nb: d\n"}, annotations=annotations)
    assert _firsts(edited) == ["the example must not be edited: data._example"]
