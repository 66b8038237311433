"""Which volumes and mounts are refused, in which words."""

from __future__ import annotations

from typing import Any

import pytest

from controller.apis.volumespec import validate_mounts, validate_volumes
from controller.config.features import parse

V = "s.volumes[0]"
Spec = dict[str, Any]


def _features(*gates: str) -> Any:
    return parse({f"kubernetes.podspec-{gate}": "Enabled" for gate in gates})


def _volume(*gates: str, **source: Any) -> list[str]:
    """The errors of one volume that is mounted."""
    spec = {"containers": [{"volumeMounts": [{"name": "v"}]}], "volumes": [{"name": "v", **source}]}
    return [str(error).partition("\n")[0] for error in validate_volumes(spec, _features(*gates), "s")]


def _mount(volume: Spec, *gates: str, **fields: Any) -> list[str]:
    """The errors of one mount of `volume`."""
    mount = {"name": "v", "mountPath": "/data", "readOnly": True, **fields}
    errors = validate_mounts({"volumeMounts": [mount]}, {"v": volume}, _features(*gates), "c")
    return [str(error).partition("\n")[0] for error in errors]


@pytest.mark.parametrize(
    "source",
    [
        {"secret": {"secretName": "a", "items": [{"key": "k", "path": "a/b"}]}},
        {"configMap": {"name": "a"}},
        {"emptyDir": {}},
        {"emptyDir": {"medium": "Memory", "sizeLimit": "100M"}},
        {"projected": {"sources": [{"secret": {"name": "a"}}, {"serviceAccountToken": {"path": "t"}}]}},
        {"projected": {"sources": [{"downwardAPI": {"items": [{"path": "labels"}]}}, {"configMap": {"name": "a"}}]}},
    ],
)
def test_right(source: Spec) -> None:
    """The sources that Knative takes without a gate."""
    assert _volume(**source) == []


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({}, f"expected exactly one, got neither: {V}.secret, {V}.configMap, {V}.projected"),
        (
            {"secret": {"secretName": "a"}, "configMap": {"name": "a"}},
            f"expected exactly one, got both: {V}.secret, {V}.configMap",
        ),
        ({"secret": {}}, f"missing field(s): {V}.secret.secretName"),
        ({"configMap": {}}, f"missing field(s): {V}.configMap.name"),
        (
            {"configMap": {"name": "a", "items": [{"key": "k", "path": "../up"}]}},
            f"invalid value: ../up: {V}.configMap.items[0].path",
        ),
        ({"configMap": {"name": "a", "items": [{"path": "p"}]}}, f"missing field(s): {V}.configMap.items[0].key"),
        ({"projected": {}}, f"missing field(s): {V}.projected.sources"),
        (
            {"projected": {"sources": [{"serviceAccountToken": {"path": "/abs"}}]}},
            f"invalid value: /abs: {V}.projected.sources[0].serviceAccountToken.path",
        ),
        (
            {"projected": {"sources": [{"serviceAccountToken": {}}]}},
            f"missing field(s): {V}.projected.sources[0].serviceAccountToken.path",
        ),
        ({"emptyDir": {"medium": "Tape"}}, f"invalid value: Tape: {V}.emptyDir.medium"),
        ({"emptyDir": {"sizeLimit": 0}}, f"invalid value: 0: {V}.emptyDir.sizeLimit"),
        ({"emptyDir": {"sizeLimit": "big"}}, f"invalid value: big: {V}.emptyDir.sizeLimit"),
        ({"emptyDir": {"other": 1}}, f"must not set the field(s): {V}.emptyDir.other"),
    ],
)
def test_sources(source: Spec, problem: str) -> None:
    """A volume has one source, whole, with paths that stay inside the volume."""
    assert _volume(**source) == [problem]


def test_unknown_sources_are_named() -> None:
    """A source of Kubernetes that Knative has not is refused under its own name."""
    assert f"must not set the field(s): {V}.nfs" in _volume(nfs={"server": "a"})


@pytest.mark.parametrize(
    ("gate", "source"),
    [
        ("volumes-hostpath", {"hostPath": {"path": "/"}}),
        ("volumes-csi", {"csi": {"driver": "a"}}),
        ("volumes-ephemeral", {"ephemeral": {"volumeClaimTemplate": {}}}),
        ("volumes-image", {"image": {"reference": "a"}}),
        ("persistent-volume-claim", {"persistentVolumeClaim": {"claimName": "a", "readOnly": True}}),
    ],
)
def test_gated_sources(gate: str, source: Spec) -> None:
    """Each of these is closed until its gate in config-features opens it."""
    [field] = source
    assert _volume(**source) == [f"must not set the field(s): {V}.{field}"]
    assert _volume(gate, **source) == []


def test_empty_dir_can_be_closed() -> None:
    """The gate that is open by default closes as well."""
    features = parse({"kubernetes.podspec-volumes-emptydir": "Disabled"})
    spec = {"containers": [{"volumeMounts": [{"name": "v"}]}], "volumes": [{"name": "v", "emptyDir": {}}]}
    [error] = validate_volumes(spec, features, "s")
    assert str(error) == f"must not set the field(s): {V}.emptyDir"


def test_writing_to_claims_has_its_own_gate() -> None:
    """An open claim is for reading; writing needs the second gate."""
    claim = {"persistentVolumeClaim": {"claimName": "a"}}
    assert _volume("persistent-volume-claim", **claim) == [f"must be true: {V}.persistentVolumeClaim.readOnly"]
    assert _volume("persistent-volume-claim", "persistent-volume-write", **claim) == []


def test_volume_names() -> None:
    """Named, unique, and mounted by somebody, be it an init container."""
    volumes = [{"emptyDir": {}}, {"name": "A", "emptyDir": {}}, *({"name": "a", "emptyDir": {}} for _ in range(2))]
    spec = {
        "initContainers": [{"volumeMounts": [{"name": "a"}]}],
        "volumes": [*volumes, {"name": "b", "emptyDir": {}}],
    }
    assert [str(error).partition("\n")[0] for error in validate_volumes(spec, _features(), "s")] == [
        "missing field(s): s.volumes[0].name",
        "invalid value: A: s.volumes[1].name",
        'duplicate volume name "a": s.volumes[3].name',
        'volume with name "b" not mounted: s.volumes[4].name',
    ]


M = "c.volumeMounts[0]"
SECRET = {"secret": {"secretName": "a"}}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"name": ""}, f"missing field(s): {M}.name"),
        ({"name": "other"}, f"volumeMount has no matching volume: {M}.name"),
        ({"mountPath": ""}, f"missing field(s): {M}.mountPath"),
        ({"mountPath": "data"}, f"invalid value: data: {M}.mountPath"),
        ({"mountPath": "/"}, f'mountPath "/" is a reserved path: {M}.mountPath'),
        ({"mountPath": "/dev/"}, f'mountPath "/dev" is a reserved path: {M}.mountPath'),
        ({"mountPath": "//dev/./log"}, f'mountPath "/dev/log" is a reserved path: {M}.mountPath'),
        ({"readOnly": False}, f"invalid value: false: {M}.readOnly"),
        ({"subPathExpr": "a"}, f"must not set the field(s): {M}.subPathExpr"),
        ({"mountPropagation": "None"}, f"must not set the field(s): {M}.mountPropagation"),
    ],
)
def test_mounts(fields: Spec, problem: str) -> None:
    """A mount names a volume and an absolute path that the system does not need; read-only sources stay so."""
    assert _mount(SECRET, **fields) == [problem]


def test_mounts_that_are_right() -> None:
    """What is a replica's own may be written."""
    assert _mount(SECRET, subPath="a", mountPath="/dev/shm") == []
    assert _mount({"emptyDir": {}}, readOnly=False) == []


def test_mount_propagation() -> None:
    """With its gate open, mounts may come in from the host, never go out to it."""
    gate = "volumes-mount-propagation"
    assert _mount(SECRET, gate, mountPropagation="HostToContainer") == []
    assert _mount(SECRET, gate, mountPropagation="Bidirectional") == [
        f"invalid value: Bidirectional: {M}.mountPropagation"
    ]


def test_mount_paths_are_unique() -> None:
    """Paths are compared after cleaning: a slash at the end makes no other place."""
    mounts = [{"name": "v", "mountPath": path} for path in ("/data", "/data/", "/data/x")]
    errors = validate_mounts({"volumeMounts": mounts}, {"v": {"emptyDir": {}}}, _features(), "c")
    assert [str(error) for error in errors] == ['"/data" must be unique: c.volumeMounts[1].mountPath']
