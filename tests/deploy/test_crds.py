"""The CRD files: made by their script, and acceptable to a real cluster."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from controller.apis.kinds import KNATIVE_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.apis.kinds import Kind

CRDS = Path(__file__).parents[2] / "deploy" / "crds"
FORBIDDEN = {"$ref", "definitions", "dependencies", "deprecated", "discriminator", "id", "patternProperties"} | {
    "readOnly",
    "writeOnly",
    "xml",
    "uniqueItems",
}
VALUE_ONLY = {"description", "type", "default", "additionalProperties", "nullable"}


def _load() -> dict[str, dict[str, Any]]:
    documents = [yaml.safe_load(path.read_text()) for path in sorted(CRDS.glob("*.yaml"))]
    return {document["metadata"]["name"]: document for document in documents}


DEFINITIONS = _load()


def _root(document: dict[str, Any]) -> dict[str, Any]:
    [version] = document["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def _walk(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from _walk(child, f"{path}.{name}")
    if "items" in schema:
        yield from _walk(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _walk(schema["additionalProperties"], f"{path}{{}}")


@pytest.fixture(params=KNATIVE_KINDS, ids=lambda kind: kind.kind)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def document(kind: Kind) -> dict[str, Any]:
    return DEFINITIONS[f"{kind.plural}.{kind.group}"]


def test_files_are_what_the_script_makes() -> None:
    """Nobody edits a CRD by hand, and nobody forgets to run the script."""
    made: dict[str, str] = runpy.run_path(str(CRDS.parent / "generate_crds.py"))["files"]()
    assert {path.name: path.read_text() for path in CRDS.glob("*.yaml")} == made


def test_names_match_the_code(kind: Kind, document: dict[str, Any]) -> None:
    """A CRD names its kind, plural and version as controller.apis.kinds does."""
    spec = document["spec"]
    assert spec["names"]["kind"] == kind.kind
    assert spec["scope"] == "Namespaced"
    assert [version["name"] for version in spec["versions"]] == [kind.version]
    assert spec["versions"][0]["subresources"] == {"status": {}}


SURFACE = {
    "Service": (["kservice", "ksvc"], ["URL", "LatestCreated", "LatestReady", "Ready", "Reason"]),
    "Route": (["rt"], ["URL", "Ready", "Reason"]),
    "Configuration": (["config", "cfg"], ["LatestCreated", "LatestReady", "Ready", "Reason"]),
    "Revision": (
        ["rev"],
        ["Config Name", "Generation", "Ready", "Reason", "Actual Replicas", "Desired Replicas"],
    ),
    "PodAutoscaler": (["kpa", "pa"], ["DesiredScale", "ActualScale", "Ready", "Reason"]),
    "Ingress": (["kingress", "king"], ["Ready", "Reason"]),
}


def test_kubectl_surface(kind: Kind, document: dict[str, Any]) -> None:
    """Short names and printer columns are Knative's."""
    short_names, columns = SURFACE[kind.kind]
    assert document["spec"]["names"]["shortNames"] == short_names
    [version] = document["spec"]["versions"]
    assert [column["name"] for column in version["additionalPrinterColumns"]] == columns


def test_schema_is_structural(document: dict[str, Any]) -> None:
    """Every field has a type, and nothing a cluster refuses in a structural schema is used."""
    for path, schema in _walk(_root(document), ""):
        assert not FORBIDDEN & schema.keys(), path
        untyped = schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
        assert untyped or schema.get("type"), path
        assert not (schema.get("properties") and "additionalProperties" in schema), path
        assert schema.get("additionalProperties") is not False, path
        if schema.get("x-kubernetes-int-or-string"):
            assert schema["anyOf"] == [{"type": "integer"}, {"type": "string"}], path
        for junctor in ("allOf", "anyOf", "oneOf"):
            if not schema.get("x-kubernetes-int-or-string"):
                assert not any(VALUE_ONLY & branch.keys() for branch in schema.get(junctor, ())), path


def test_list_keys_are_required_scalars(document: dict[str, Any]) -> None:
    """A key of a map-list is a scalar that every item has, as a cluster demands."""
    for path, schema in _walk(_root(document), ""):
        keys = schema.get("x-kubernetes-list-map-keys", [])
        assert bool(keys) == (schema.get("x-kubernetes-list-type") == "map"), path
        for key in keys:
            item = schema["items"]
            assert item["type"] == "object", path
            assert key in item["required"], path
            assert item["properties"][key]["type"] in {"string", "integer"}, path


def test_required_fields_exist(document: dict[str, Any]) -> None:
    """What a schema requires it also describes."""
    for path, schema in _walk(_root(document), ""):
        assert set(schema.get("required", ())) <= schema.get("properties", {}).keys(), path


def test_every_field_is_explained(document: dict[str, Any]) -> None:
    """`kubectl explain` has a sentence for each field."""
    for path, schema in _walk(_root(document), ""):
        for name, child in schema.get("properties", {}).items():
            if f"{path}.{name}" != ".metadata":
                assert child.get("description"), f"{path}.{name}"


def test_typos_are_found(document: dict[str, Any]) -> None:
    """Nothing preserves unknown fields where a person types its name."""
    schemas = dict(_walk(_root(document), ""))
    for path in ("", ".spec", ".spec.template", ".spec.template.spec", ".spec.template.spec.containers[]", ".status"):
        assert "x-kubernetes-preserve-unknown-fields" not in schemas.get(path, {}), path


def test_traffic_is_atomic() -> None:
    """Two appliers cannot each own a half of the percents."""
    for name in ("services.serving.knative.dev", "routes.serving.knative.dev"):
        schemas = dict(_walk(_root(DEFINITIONS[name]), ""))
        assert schemas[".spec.traffic"]["x-kubernetes-list-type"] == "atomic"
