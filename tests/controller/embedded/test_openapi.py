from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import yaml

from controller.apis import kinds
from controller.embedded import builtin_schemas, openapi, openapi_proto, resources

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.apis.meta import JsonObject

CRD: JsonObject = {
    "metadata": {"name": "things.example.dev"},
    "spec": {
        "group": "example.dev",
        "scope": "Namespaced",
        "names": {"kind": "Thing", "plural": "things"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "description": "A thing.",
                        "properties": {
                            "metadata": {"type": "object"},
                            "spec": {
                                "type": "object",
                                "description": "What it should be.",
                                "required": ["size"],
                                "properties": {
                                    "size": {"type": "integer", "format": "int32", "minimum": -1, "maximum": 9},
                                    "port": {"x-kubernetes-int-or-string": True, "description": "A port."},
                                    "maybe": {"type": "string", "nullable": True},
                                    "kept": {
                                        "type": "object",
                                        "x-kubernetes-preserve-unknown-fields": True,
                                        "required": ["a"],
                                        "properties": {"a": {"type": "string"}},
                                    },
                                    "one": {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
                                    "names": {"type": "array", "items": {"type": "string"}},
                                    "colours": {"type": "object", "additionalProperties": {"type": "string"}},
                                    "colour": {"type": "string", "enum": ["red"], "default": "red"},
                                },
                            },
                        },
                    }
                },
            }
        ],
    },
}
REGISTRY = resources.registry([CRD])
V2 = openapi.document_v2(REGISTRY)
V3 = openapi.documents_v3(REGISTRY)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def test_every_reference_leads_somewhere() -> None:
    """kubectl gives up on the whole document otherwise. Each document of v3 stands alone."""
    assert {each.removeprefix("#/definitions/") for each in references(V2)} <= V2["definitions"].keys()
    for document in V3.values():
        schemas = document["components"]["schemas"]
        assert {each.removeprefix("#/components/schemas/") for each in references(document)} <= schemas.keys()


def test_there_is_a_document_per_group_and_version() -> None:
    """Their paths are those under /openapi/v3."""
    assert V3.keys() == {
        "api/v1",
        "apis/apps/v1",
        "apis/apiextensions.k8s.io/v1",
        "apis/autoscaling/v2",
        "apis/coordination.k8s.io/v1",
        "apis/discovery.k8s.io/v1",
        "apis/example.dev/v1",
    }


@pytest.mark.parametrize("resource", tuple(REGISTRY), ids=lambda each: each.kind.kind)
def test_every_resource_is_found_by_its_kind(resource: resources.Resource) -> None:
    """By x-kubernetes-group-version-kind, in both versions: in the definition and in the PATCH."""
    kind = resource.kind
    identity = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    path = f"apis/{kind.group}/{kind.version}" if kind.group else f"api/{kind.version}"
    for document, schemas in ((V2, V2["definitions"]), (V3[path], V3[path]["components"]["schemas"])):
        [found] = [each for each in schemas.values() if each.get("x-kubernetes-group-version-kind") == [identity]]
        assert {"apiVersion", "kind", "metadata"} <= found["properties"].keys()
        patches = [each["patch"] for each in document["paths"].values() if "patch" in each]
        mine = [each for each in patches if each["x-kubernetes-group-version-kind"] == identity]
        assert len(mine) == ("patch" in resource.verbs)
        for each in mine:
            names = {parameter["name"] for parameter in each["parameters"]}
            assert {"dryRun", "fieldManager", "fieldValidation", "force"} <= names


def test_only_built_in_kinds_take_strategic_merge_patches() -> None:
    """kubectl sends a merge patch where the document does not list the media type."""
    strategic = "application/strategic-merge-patch+json"
    built_in = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
    custom = "/apis/example.dev/v1/namespaces/{namespace}/things/{name}"
    assert strategic in V3["apis/apps/v1"]["paths"][built_in]["patch"]["requestBody"]["content"]
    assert strategic not in V3["apis/example.dev/v1"]["paths"][custom]["patch"]["requestBody"]["content"]
    assert strategic in V2["paths"][built_in]["patch"]["consumes"]
    assert strategic not in V2["paths"][custom]["patch"]["consumes"]


def test_merge_keys_are_published() -> None:
    """kubectl computes strategic merge patches by them."""
    containers = V2["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]
    assert containers["x-kubernetes-patch-merge-key"] == "name"
    assert containers["x-kubernetes-patch-strategy"] == "merge"


def test_a_custom_resource_in_version_2_says_no_more_than_old_kubectls_understand() -> None:
    """Nothing within what may be null or keeps unknown fields, no oneOf, a text for a number or text."""
    spec = V2["definitions"]["dev.example.v1.Thing"]["properties"]["spec"]
    assert spec["properties"] == {
        "size": {"type": "integer", "format": "int32", "minimum": -1, "maximum": 9},
        "port": {"type": "string", "format": "int-or-string", "description": "A port."},
        "maybe": {},
        "kept": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "one": {"type": "object"},
        "names": {"type": "array", "items": {"type": "string"}},
        "colours": {"type": "object", "additionalProperties": {"type": "string"}},
        "colour": {"type": "string", "enum": ["red"], "default": "red"},
    }
    assert spec["required"] == ["size"]


def test_a_custom_resource_in_version_3_is_its_schema() -> None:
    """With the metadata every object has, by reference."""
    thing = V3["apis/example.dev/v1"]["components"]["schemas"]["dev.example.v1.Thing"]
    spec = thing["properties"]["spec"]["properties"]
    assert spec["kept"]["properties"] == {"a": {"type": "string"}}
    assert spec["maybe"] == {"type": "string", "nullable": True}
    assert spec["port"]["oneOf"] == [{"type": "integer"}, {"type": "string"}]
    meta = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    assert thing["properties"]["metadata"]["allOf"] == [{"$ref": meta}]


def test_documents_do_not_change_the_schemas_they_are_made_of() -> None:
    """The tables are shared with validation."""
    definitions = builtin_schemas.definitions()
    before = orjson.dumps(definitions)
    orjson.dumps(openapi.document_v2(REGISTRY))
    orjson.dumps(openapi.documents_v3(REGISTRY))
    assert orjson.dumps(definitions) == before
    assert builtin_schemas.schema(kinds.SERVICE) is None


# --- protobuf


def varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def decode(data: bytes) -> dict[int, list[Any]]:
    """Field number → values of one message: ints, floats, or bytes that are a text or another message."""
    found: dict[int, list[Any]] = {}
    place = 0
    while place < len(data):
        tag, place = varint(data, place)
        value: Any
        if tag & 7 == 0:
            value, place = varint(data, place)
        elif tag & 7 == 1:
            [value] = struct.unpack_from("<d", data, place)
            place += 8
        else:
            assert tag & 7 == 2
            length, place = varint(data, place)
            value, place = data[place : place + length], place + length
        found.setdefault(tag >> 3, []).append(value)
    assert place == len(data)
    return found


def named(entries: list[bytes]) -> dict[str, dict[int, list[Any]]]:
    """(name = 1, message = 2) entries as a map."""
    parts = [decode(each) for each in entries]
    return {each[1][0].decode(): decode(each[2][0]) for each in parts}


def test_the_protobuf_holds_the_document() -> None:
    """Decoded by the numbers of gnostic's OpenAPIv2.proto."""
    document = decode(openapi.protobuf_v2(V2))
    assert document[1] == [b"2.0"]
    definitions = named(decode(document[9][0])[1])
    assert definitions.keys() == V2["definitions"].keys()
    thing = definitions["dev.example.v1.Thing"]
    assert thing[4] == [b"A thing."]
    extensions = named(thing[31])
    assert orjson.loads(extensions["x-kubernetes-group-version-kind"][2][0]) == [
        {"group": "example.dev", "version": "v1", "kind": "Thing"}
    ]
    spec = named(decode(thing[25][0])[1])["spec"]
    assert spec[19] == [b"size"]
    properties = named(decode(spec[25][0])[1])
    assert properties["size"] == {22: [b"\n\x07integer"], 2: [b"int32"], 9: [-1.0], 7: [9.0]}
    [items] = decode(properties["names"][23][0])[1]
    assert decode(items) == {22: [b"\n\x06string"]}
    [values] = decode(properties["colours"][21][0])[1]
    assert decode(values) == {22: [b"\n\x06string"]}
    assert decode(properties["colour"][5][0]) == {2: [b'"red"']}
    assert decode(properties["colour"][20][0]) == {2: [b'"red"']}
    paths = named(decode(document[8][0])[2])
    patch = decode(paths["/apis/example.dev/v1/namespaces/{namespace}/things/{name}"][8][0])
    parameters = [decode(decode(each)[1][0]) for each in patch[8]]
    query = [decode(decode(each[2][0])[3][0]) for each in parameters if 2 in each and 3 in decode(each[2][0])]
    assert [each[4][0] for each in query] == [b"dryRun", b"fieldManager", b"fieldValidation", b"force"]
    assert [each[6][0] for each in query] == [b"string", b"string", b"string", b"boolean"]


def test_numbers_of_all_sizes_are_encoded() -> None:
    """Negative and large integers take the varint's full length."""
    document = {
        "definitions": {"T": {"maxLength": 300, "minLength": -1, "uniqueItems": True, "additionalProperties": True}}
    }
    [entry] = decode(decode(openapi_proto.encode(document))[9][0])[1]
    schema = decode(decode(entry)[2][0])
    assert schema == {11: [300], 12: [2**64 - 1], 16: [1], 21: [b"\x10\x01"]}


def test_a_member_without_a_number_is_an_error() -> None:
    """What the document gains, the encoder has to learn; dropping it silently would mislead kubectl."""
    with pytest.raises(KeyError):
        openapi_proto.encode({"definitions": {"T": {"patternProperties": {}}}})


def test_the_definitions_we_ship_can_be_encoded() -> None:
    """Whatever keywords the files of deploy/crds use."""
    folder = Path(__file__).parents[3] / "deploy" / "crds"
    crds = [each for file in sorted(folder.glob("*.yaml")) for each in yaml.safe_load_all(file.read_text())]
    served = resources.registry(crds)
    assert len(crds) >= len(kinds.KNATIVE_KINDS)
    document = openapi.document_v2(served)
    assert "dev.knative.serving.v1.Service" in named(decode(decode(openapi.protobuf_v2(document))[9][0])[1])
    assert "apis/serving.knative.dev/v1" in openapi.documents_v3(served)
