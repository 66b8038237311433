"""What is written down when an object is stored."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.apis import kinds
from controller.apis.defaults import apply_defaults
from controller.apis.validation import FieldError, validate
from controller.config.store import Config, update

CREATOR, LAST_MODIFIER = "serving.knative.dev/creator", "serving.knative.dev/lastModifier"
A = "autoscaling.knative.dev/"
OWNER = {"kind": "Service", "name": "s", "uid": "u", "controller": True}


def _object(kind: kinds.Kind, spec: Any = None, **meta: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": "s", **meta}}
    return made if spec is None else {**made, "spec": spec}


def _service(pod_spec: dict[str, Any] | None = None, template_meta: dict[str, Any] | None = None) -> dict[str, Any]:
    template: dict[str, Any] = {"spec": pod_spec or {"containers": [{"image": "i"}]}}
    if template_meta:
        template["metadata"] = template_meta
    return _object(kinds.SERVICE, {"template": template})


def _spec(pod_spec: dict[str, Any], config: Config | None = None, old: dict[str, Any] | None = None) -> dict[str, Any]:
    """The revision spec after defaulting a Service with it."""
    done = apply_defaults(_service(pod_spec), old, config or Config(), "me")
    spec: dict[str, Any] = done["spec"]["template"]["spec"]
    return spec


def _containers(*containers: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _spec({"containers": list(containers), **more})["containers"]
    return found


def test_the_argument_is_left_alone() -> None:
    """Defaulting makes a new object; the caller's, which may be a cached one, stays as it was."""
    obj = _service()
    before = copy.deepcopy(obj)
    apply_defaults(obj, None, Config(), "me")
    assert obj == before


def test_whole_service() -> None:
    """The smallest Service, and all that is written down for it."""
    assert apply_defaults(_service(), None, Config(), "me") == {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "s", "annotations": {CREATOR: "me", LAST_MODIFIER: "me"}},
        "spec": {
            "template": {
                "spec": {
                    "timeoutSeconds": 300,
                    "containerConcurrency": 0,
                    "enableServiceLinks": False,
                    "containers": [
                        {
                            "image": "i",
                            "name": "user-container",
                            "readinessProbe": {"tcpSocket": {"port": 0}, "successThreshold": 1},
                        }
                    ],
                }
            },
            "traffic": [{"latestRevision": True, "percent": 100}],
        },
    }


# --- traffic ------------------------------------------------------------------------------------------------


def test_traffic_of_a_service() -> None:
    """latestRevision follows from revisionName; percent is 0."""
    obj = _service()
    obj["spec"]["traffic"] = [{"revisionName": "a", "percent": 100}, {"tag": "next"}]
    assert apply_defaults(obj, None, Config(), "me")["spec"]["traffic"] == [
        {"revisionName": "a", "percent": 100, "latestRevision": False},
        {"tag": "next", "percent": 0, "latestRevision": True},
    ]


def test_traffic_of_a_route() -> None:
    """A Route's targets are defaulted, but none is made up."""
    done = apply_defaults(_object(kinds.ROUTE, {"traffic": [{"configurationName": "c"}]}), None, Config(), "me")
    assert done["spec"]["traffic"] == [{"configurationName": "c", "latestRevision": True, "percent": 0}]
    assert apply_defaults(_object(kinds.ROUTE, {}), None, Config(), "me")["spec"] == {}


# --- who ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kinds.SERVICE, kinds.CONFIGURATION, kinds.ROUTE], ids=lambda kind: kind.kind)
def test_users(kind: kinds.Kind) -> None:
    """The creator stays; the last modifier is who changed the spec last; what a client claims is ignored."""
    spec = {"traffic": [{"configurationName": "c", "percent": 100}]}
    forged = {CREATOR: "root", LAST_MODIFIER: "root"}
    old = apply_defaults(_object(kind, spec, annotations=forged), None, Config(), "first")
    assert old["metadata"]["annotations"] == {CREATOR: "first", LAST_MODIFIER: "first"}
    relabelled = {**old, "metadata": {**old["metadata"], "labels": {"a": "b"}}}
    assert (
        apply_defaults(relabelled, old, Config(), "second")["metadata"]["annotations"] == old["metadata"]["annotations"]
    )
    changed = {**old, "spec": {**old["spec"], "traffic": [{"revisionName": "r", "percent": 100}]}}
    annotations = apply_defaults(changed, old, Config(), "second")["metadata"]["annotations"]
    assert annotations == {CREATOR: "first", LAST_MODIFIER: "second"}


def test_a_replaced_manifest_keeps_its_users() -> None:
    """Annotations that a client leaves out on update are carried over."""
    manifest = _service({"containers": [{"image": "i"}], "enableServiceLinks": False})
    old = apply_defaults(manifest, None, Config(), "first")
    again = apply_defaults(manifest, old, Config(), "second")
    assert again["metadata"]["annotations"] == {CREATOR: "first", LAST_MODIFIER: "first"}
    assert validate(again, old, Config()) == []


@pytest.mark.parametrize("kind", [kinds.CONFIGURATION, kinds.ROUTE], ids=lambda kind: kind.kind)
def test_children_have_no_user(kind: kinds.Kind) -> None:
    """Creator and last modifier are people; an object that a controller owns gets neither."""
    done = apply_defaults(_object(kind, {}, ownerReferences=[OWNER]), None, Config(), "controller")
    assert "annotations" not in done["metadata"]


# --- numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_timeout", "timeout", "response_start"),
    [(None, 300, None), (0, 300, None), (600, 600, 300), (301, 301, 300), (100, 100, None)],
)
def test_timeouts(given_timeout: int | None, timeout: int, response_start: int | None) -> None:
    """A response-start timeout is written down only where it could fire before the whole request's."""
    spec = _spec({"containers": [{"image": "i"}], "timeoutSeconds": given_timeout})
    assert (spec["timeoutSeconds"], spec.get("responseStartTimeoutSeconds")) == (timeout, response_start)
    assert "idleTimeoutSeconds" not in spec


def test_configured_numbers() -> None:
    """config-defaults replaces the built-in numbers of a revision."""
    config = update(
        Config(),
        "config-defaults",
        {
            "revision-timeout-seconds": "100",
            "revision-idle-timeout-seconds": "20",
            "container-concurrency": "7",
            "enable-service-links": "true",
        },
    )
    spec = _spec({"containers": [{"image": "i"}]}, config)
    assert (spec["timeoutSeconds"], spec["idleTimeoutSeconds"], spec["containerConcurrency"]) == (100, 20, 7)
    assert spec["enableServiceLinks"] is True


def test_what_the_user_says_stays() -> None:
    """A field that is set keeps its value, zero included."""
    said = {
        "timeoutSeconds": 10,
        "responseStartTimeoutSeconds": 0,
        "idleTimeoutSeconds": 5,
        "containerConcurrency": 1,
        "enableServiceLinks": True,
    }
    spec = _spec({"containers": [{"image": "i"}], **said})
    assert {name: spec[name] for name in said} == said


def test_service_links_only_at_creation() -> None:
    """And not at all where Kubernetes' default is wanted."""
    assert "enableServiceLinks" not in _spec({"containers": [{"image": "i"}]}, old=_service())
    config = update(Config(), "config-defaults", {"enable-service-links": "default"})
    assert "enableServiceLinks" not in _spec({"containers": [{"image": "i"}]}, config)


# --- containers ---------------------------------------------------------------------------------------------


def test_container_names() -> None:
    """One container gets the plain name; several are numbered, around those that are taken."""
    assert [c["name"] for c in _containers({"image": "i"})] == ["user-container"]
    several = _containers({"image": "i", "ports": [{}]}, {"image": "i", "name": "user-container-1"}, {"image": "i"})
    assert [c["name"] for c in several] == ["user-container-0", "user-container-1", "user-container-2"]
    spec = _spec({"containers": [{"image": "i"}], "initContainers": [{"image": "i", "name": "user-container"}, {}]})
    assert [c["name"] for c in spec["containers"]] == ["user-container-0"]
    assert [c["name"] for c in spec["initContainers"]] == ["user-container", "init-container-0"]


def test_container_names_from_a_template() -> None:
    """A container without a name gets the one that config-defaults makes of the Service's."""
    config = update(Config(), "config-defaults", {"container-name-template": "{{.Name}}-main"})
    assert _spec({"containers": [{"image": "i"}]}, config)["containers"][0]["name"] == "s-main"


def test_resources() -> None:
    """Configured resources fill the gaps; none are configured out of the box."""
    config = update(Config(), "config-defaults", {"revision-cpu-request": "100m", "revision-memory-limit": "1Gi"})
    [container] = _spec({"containers": [{"resources": {"requests": {"cpu": "1"}}}]}, config)["containers"]
    assert container["resources"] == {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}}
    assert "resources" not in _containers({"image": "i"})[0]


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        (None, {"tcpSocket": {"port": 0}, "successThreshold": 1}),
        ({}, {"tcpSocket": {"port": 0}, "successThreshold": 1}),
        ({"httpGet": {"path": "/"}}, {"httpGet": {"path": "/"}, "successThreshold": 1}),
        (
            {"httpGet": {}, "periodSeconds": 2},
            {"httpGet": {}, "periodSeconds": 2, "successThreshold": 1, "failureThreshold": 3, "timeoutSeconds": 1},
        ),
        ({"grpc": {"port": 1}}, {"grpc": {"port": 1, "service": ""}, "successThreshold": 1}),
        (
            {"exec": {"command": ["a"]}, "successThreshold": 2, "initialDelaySeconds": 1},
            {"exec": {"command": ["a"]}, "successThreshold": 2, "initialDelaySeconds": 1},
        ),
    ],
)
def test_readiness_probe(probe: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    """The serving container is probed by TCP unless the user says otherwise; a period brings its own numbers."""
    assert _containers({"image": "i", "readinessProbe": probe})[0]["readinessProbe"] == expected


def test_probes_of_sidecars() -> None:
    """A sidecar gets no probe; one that it has gets its numbers."""
    plain, probed = _containers(
        {"image": "i"}, {"image": "i", "readinessProbe": {"httpGet": {"port": 1}}}, {"image": "i", "ports": [{}]}
    )[:2]
    assert "readinessProbe" not in plain
    assert probed["readinessProbe"] == {"httpGet": {"port": 1}, "successThreshold": 1}


def test_mounts_are_read_only() -> None:
    """Except for what is made to be written."""
    volumes = [{"name": "secret", "secret": {}}, {"name": "empty", "emptyDir": {}}]
    mounts = [{"name": "secret", "mountPath": "/a"}, {"name": "empty", "mountPath": "/b"}]
    [container] = _containers({"image": "i", "volumeMounts": mounts}, volumes=volumes)
    assert [mount.get("readOnly") for mount in container["volumeMounts"]] == [True, None]


def test_secure_pod_defaults() -> None:
    """Least privilege where the user says nothing, with root or without, or not at all."""
    port = [{"containerPort": 80}]
    for level, non_root in (("AllowRootBounded", {}), ("Enabled", {"runAsNonRoot": True})):
        config = update(Config(), "config-features", {"secure-pod-defaults": level})
        [container] = _spec({"containers": [{"ports": port}]}, config)["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "seccompProfile": {"type": "RuntimeDefault"},
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
            **non_root,
        }
        said = {"allowPrivilegeEscalation": True, "capabilities": {}, "runAsNonRoot": False}
        pod = {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}
        [container] = _spec({"containers": [{"securityContext": said}], **pod}, config)["containers"]
        assert container["securityContext"] == said
    assert "securityContext" not in _containers({"ports": port})[0]


# --- when nothing is written down ---------------------------------------------------------------------------------


def test_a_revision_name_that_stays_freezes_the_template() -> None:
    """A changed default must not change a template whose name does not change."""
    old = apply_defaults(_service(template_meta={"name": "s-1"}), None, Config(), "me")
    config = update(Config(), "config-defaults", {"container-concurrency": "7"})
    del old["spec"]["template"]["spec"]["containerConcurrency"]
    assert apply_defaults(old, old, config, "me")["spec"] == old["spec"]
    renamed = copy.deepcopy(old)
    renamed["spec"]["template"]["metadata"]["name"] = "s-2"
    assert apply_defaults(renamed, old, config, "me")["spec"]["template"]["spec"]["containerConcurrency"] == 7


@pytest.mark.parametrize("level", ["Disabled", "Enabled"])
def test_a_named_revisions_manifest_can_be_sent_again(level: str) -> None:
    """Whole, as replace and server-side apply send it, it gets its defaults again and is the same."""
    config = update(Config(), "config-features", {"secure-pod-defaults": level})
    manifest = _service(template_meta={"name": "s-1"})
    old = apply_defaults(manifest, None, config, "me")
    again = apply_defaults(manifest, old, config, "other")
    assert again == old
    assert validate(again, old, config) == []


def test_a_stored_revision_is_left_alone() -> None:
    """A revision gets its defaults once, when it is made: later ones would change what runs."""
    revision = _object(kinds.REVISION, {"containers": [{"image": "i"}]})
    assert apply_defaults(revision, revision, Config(), "me") == revision
    done = apply_defaults(revision, None, Config(), "me")
    assert done["spec"]["timeoutSeconds"] == 300
    assert "annotations" not in done["metadata"]


def test_other_kinds() -> None:
    """What is not Knative's passes unchanged."""
    pod = _object(kinds.POD, {"containers": [{}]})
    assert apply_defaults(pod, None, Config(), "me") == pod


# --- internal kinds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, {A + "class": "kpa.autoscaling.knative.dev", A + "metric": "concurrency"}),
        (
            {A + "class": "hpa.autoscaling.knative.dev"},
            {A + "class": "hpa.autoscaling.knative.dev", A + "metric": "cpu"},
        ),
        ({A + "class": "mine.example.com"}, {A + "class": "mine.example.com"}),
        ({A + "metric": "rps"}, {A + "class": "kpa.autoscaling.knative.dev", A + "metric": "rps"}),
    ],
)
def test_pod_autoscaler(annotations: dict[str, str], expected: dict[str, str]) -> None:
    """No class is the KPA; the metric's default follows the class, and a class of somebody else gets none."""
    obj = _object(kinds.POD_AUTOSCALER, {}, annotations=annotations)
    assert apply_defaults(obj, None, Config(), "me")["metadata"]["annotations"] == expected


def test_ingress() -> None:
    """A rule is public, and a single split gets everything."""
    rules = [
        {"http": {"paths": [{"splits": [{"serviceName": "a"}]}]}},
        {"visibility": "ClusterLocal", "http": {"paths": [{"splits": [{"serviceName": "a"}, {"serviceName": "b"}]}]}},
    ]
    done = apply_defaults(_object(kinds.INGRESS, {"rules": rules}), None, Config(), "me")["spec"]["rules"]
    assert done[0] == {
        "visibility": "ExternalIP",
        "http": {"paths": [{"splits": [{"serviceName": "a", "percent": 100}]}]},
    }
    assert done[1] == rules[1]


# --- laws -------------------------------------------------------------------------------------------------------------

_NAMES = st.sampled_from(["", "a", "b", "user-container", "user-container-0"])
_PROBES = st.fixed_dictionaries(
    {},
    optional={
        "httpGet": st.just({"path": "/"}),
        "tcpSocket": st.just({}),
        "periodSeconds": st.integers(0, 3),
        "timeoutSeconds": st.integers(0, 3),
        "successThreshold": st.integers(0, 2),
    },
)
_CONTAINERS = st.fixed_dictionaries(
    {"image": st.just("hello")},
    optional={
        "name": _NAMES,
        "readinessProbe": _PROBES,
        "ports": st.sampled_from([[], [{}], [{"containerPort": 80}]]),
        "volumeMounts": st.just([{"name": "v", "mountPath": "/v"}]),
        "resources": st.sampled_from([{}, {"limits": {"cpu": 1}}]),
    },
)
_SPECS = st.fixed_dictionaries(
    {"containers": st.lists(_CONTAINERS, max_size=3)},
    optional={
        "initContainers": st.lists(_CONTAINERS, max_size=2),
        "volumes": st.sampled_from([[{"name": "v", "secret": {"secretName": "s"}}], [{"name": "v", "emptyDir": {}}]]),
        "timeoutSeconds": st.integers(0, 600),
        "containerConcurrency": st.integers(0, 1000),
    },
)
_CONFIGS = st.builds(
    lambda level, defaults: update(
        update(Config(), "config-features", {"secure-pod-defaults": level}), "config-defaults", defaults
    ),
    st.sampled_from(["Disabled", "AllowRootBounded", "Enabled"]),
    st.sampled_from([{}, {"revision-idle-timeout-seconds": "9", "revision-cpu-limit": "2"}]),
)


@given(_SPECS, _CONFIGS)
def test_defaulting_is_idempotent(spec: dict[str, Any], config: Config) -> None:
    """What is defaulted once has nothing left to default, at creation and at update."""
    once = apply_defaults(_service(spec), None, config, "me")
    assert apply_defaults(once, None, config, "me") == once
    assert apply_defaults(once, once, config, "other") == once


@given(_SPECS)
def test_a_valid_object_stays_valid(spec: dict[str, Any]) -> None:
    """Defaults never make wrong what was right without them."""
    bare = _object(kinds.REVISION, spec)
    done = apply_defaults(bare, None, Config(), "me")
    if all(_made_right(error) for error in validate(bare, None, Config())):
        assert validate(done, None, Config()) == []
        assert validate(done, done, Config()) == []


def _made_right(error: FieldError) -> bool:
    """Whether defaulting is what makes it right: mounts become read-only, a probe gets a handler and its numbers."""
    return "readOnly" in error.path or error.message.startswith(
        ("expected exactly one, got neither", "expected 1 <= 0")
    )


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "template",
                    "metadata",
                    "spec",
                    "containers",
                    "ports",
                    "name",
                    "env",
                    "traffic",
                    "rules",
                    "http",
                    "volumes",
                    "volumeMounts",
                    "readinessProbe",
                    "httpGet",
                    "port",
                    "securityContext",
                    "annotations",
                    "paths",
                    "splits",
                    "secret",
                    "projected",
                    "sources",
                    "emptyDir",
                    "sizeLimit",
                    "resources",
                    "limits",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.sampled_from([*kinds.KNATIVE_KINDS, kinds.CONFIG_MAP]), _JSON, _JSON)
def test_any_json_is_survived(kind: kinds.Kind, spec: Any, meta: Any) -> None:
    """Whatever a client sends, defaults and rules look through it; the schema says what its shape should be."""
    metadata = {**meta, "name": "n"} if isinstance(meta, dict) else {"name": "n"}
    obj = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, "spec": spec}
    done = apply_defaults(obj, None, Config(), "me")
    validate(done, None, Config())
    validate(done, obj, Config())
