from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from kubernetes_asyncio.client import models

from controller.apis import kinds
from controller.embedded import builtin_schemas
from controller.embedded.schema import StructuralSchema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.apis.kinds import Kind
    from controller.apis.meta import JsonObject


def schema(spec: JsonObject, **root: Any) -> StructuralSchema:
    """A custom resource whose `spec` has the given schema."""
    source = {"type": "object", "properties": {"spec": spec}, **root}
    return StructuralSchema.from_crd({"schema": {"openAPIV3Schema": source}})


def obj(spec: Any) -> JsonObject:
    return {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": spec}


def fields(**properties: JsonObject) -> JsonObject:
    return {"type": "object", "properties": properties}


STRING, INTEGER, BOOLEAN, NUMBER = ({"type": name} for name in ("string", "integer", "boolean", "number"))
PRESERVE = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
INT_OR_STRING = {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}


# --- pruning


@pytest.mark.parametrize(
    ("spec", "value", "left", "unknown"),
    [
        pytest.param(fields(a=STRING), {"a": "x", "b": 1}, {"a": "x"}, ["spec.b"], id="a member"),
        pytest.param(
            fields(a={"type": "array", "items": fields(x=STRING)}),
            {"a": [{"x": "1"}, {"y": 2}, {"x": "3", "z": 4}]},
            {"a": [{"x": "1"}, {}, {"x": "3"}]},
            ["spec.a[1].y", "spec.a[2].z"],
            id="members of items",
        ),
        pytest.param(
            fields(m={"type": "object", "additionalProperties": fields(x=STRING)}),
            {"m": {"k": {"x": "1", "y": "2"}}},
            {"m": {"k": {"x": "1"}}},
            ["spec.m.k.y"],
            id="members of a map's values",
        ),
        pytest.param(PRESERVE, {"a": {"b": [1]}}, {"a": {"b": [1]}}, [], id="preserved"),
        pytest.param(
            {**fields(a=fields(x=STRING)), "x-kubernetes-preserve-unknown-fields": True},
            {"a": {"y": 1}, "b": 2},
            {"a": {}, "b": 2},
            ["spec.a.y"],
            id="preserved, but a known member is pruned within",
        ),
        pytest.param(
            fields(t={**PRESERVE, "x-kubernetes-embedded-resource": True}),
            {"t": {"kind": "X", "metadata": {"name": "n", "nonsense": 1}, "spec": {"a": 1}}},
            {"t": {"kind": "X", "metadata": {"name": "n"}, "spec": {"a": 1}}},
            ["spec.t.metadata.nonsense"],
            id="an embedded resource has metadata",
        ),
        pytest.param({"type": "object"}, {"a": 1}, {}, ["spec.a"], id="an object without members"),
        pytest.param(fields(a=STRING), {"a": None}, {}, [], id="a null goes without mention"),
        pytest.param(fields(a={**STRING, "nullable": True}), {"a": None}, {"a": None}, [], id="a null that may be"),
        pytest.param(fields(a=INT_OR_STRING), {"a": None}, {}, [], id="a null for a number or text"),
        pytest.param(fields(a=STRING), "text", "text", [], id="a wrong type is for validation"),
    ],
)
def test_unknown_fields_are_dropped_and_named(spec: JsonObject, value: Any, left: Any, unknown: list[str]) -> None:
    """kubectl shows the paths as `unknown field "spec.b"`."""
    given_ = obj(value)
    kept = copy.deepcopy(given_)
    assert schema(spec).prune(given_) == (obj(left), unknown)
    assert given_ == kept


def test_every_object_has_metadata() -> None:
    """A definition does not describe apiVersion, kind and metadata; they are there, and metadata is checked."""
    thing = {**obj({}), "metadata": {"name": "t", "labels": {"a": 1}, "lables": {}}, "other": 1}
    pruned, unknown = schema(fields()).prune(thing)
    assert unknown == ["metadata.lables", "other"]
    assert schema(fields()).validate(pruned) == [
        'metadata.labels.a: Invalid value: "integer": metadata.labels.a in body must be of type string: "integer"'
    ]


def test_without_a_schema_everything_is_kept() -> None:
    """As for the definitions of old."""
    thing = obj({"a": {"b": 1}})
    assert StructuralSchema.from_crd({"name": "v1"}).prune(thing) == (thing, [])


def test_an_object_that_needs_nothing_comes_back_itself() -> None:
    """No copy on the common path."""
    thing = obj({"a": "x"})
    compiled = schema(fields(a=STRING))
    assert compiled.prune(thing)[0] is thing
    assert compiled.default(thing) is thing


# --- defaulting


@pytest.mark.parametrize(
    ("spec", "value", "filled"),
    [
        pytest.param(fields(a={**STRING, "default": "x"}), {}, {"a": "x"}, id="absent"),
        pytest.param(fields(a={**STRING, "default": "x"}), {"a": "y"}, {"a": "y"}, id="present"),
        pytest.param(fields(a={**STRING, "default": "x"}), {"a": None}, {"a": "x"}, id="null counts as absent"),
        pytest.param(
            fields(a={**STRING, "default": "x", "nullable": True}), {"a": None}, {"a": None}, id="unless it may be null"
        ),
        pytest.param(fields(a=fields(b={**INTEGER, "default": 1})), {}, {}, id="an absent parent stays absent"),
        pytest.param(
            fields(a={**fields(b={**INTEGER, "default": 1}), "default": {}}), {}, {"a": {"b": 1}}, id="unless defaulted"
        ),
        pytest.param(
            fields(a={"type": "array", "items": fields(b={**INTEGER, "default": 1})}),
            {"a": [{}, {"b": 2}]},
            {"a": [{"b": 1}, {"b": 2}]},
            id="items",
        ),
        pytest.param(
            fields(a={"type": "object", "additionalProperties": fields(b={**INTEGER, "default": 1})}),
            {"a": {"k": {}}},
            {"a": {"k": {"b": 1}}},
            id="a map's values",
        ),
    ],
)
def test_defaults(spec: JsonObject, value: Any, filled: Any) -> None:
    """Absent fields get their default; the input stays as it was."""
    given_ = obj(value)
    kept = copy.deepcopy(given_)
    assert schema(spec).default(given_) == obj(filled)
    assert given_ == kept


def test_a_default_is_not_shared_between_objects() -> None:
    """Changing one object must not change the next."""
    compiled = schema(fields(a={"type": "object", "additionalProperties": STRING, "default": {"k": "v"}}))
    compiled.default(obj({}))["spec"]["a"]["k"] = "changed"
    assert compiled.default(obj({}))["spec"]["a"] == {"k": "v"}


# --- validating


@pytest.mark.parametrize(
    ("member", "value", "finding"),
    [
        (STRING, 1, 'Invalid value: "integer": spec.f in body must be of type string: "integer"'),
        (INTEGER, "1", 'Invalid value: "string": spec.f in body must be of type integer: "string"'),
        (INTEGER, True, 'Invalid value: "boolean": spec.f in body must be of type integer: "boolean"'),
        (INTEGER, 1.5, 'Invalid value: "number": spec.f in body must be of type integer: "number"'),
        (INTEGER, 2.0, None),
        (NUMBER, 1, None),
        (BOOLEAN, 0, 'Invalid value: "integer": spec.f in body must be of type boolean: "integer"'),
        (fields(), [], 'Invalid value: "array": spec.f in body must be of type object: "array"'),
        (
            {"type": "array", "items": STRING},
            {},
            'Invalid value: "object": spec.f in body must be of type array: "object"',
        ),
        (STRING, None, 'Invalid value: "null": spec.f in body must be of type string: "null"'),
        ({**STRING, "nullable": True}, None, None),
        (INT_OR_STRING, 1, None),
        (INT_OR_STRING, "1", None),
        (
            INT_OR_STRING,
            True,
            'Invalid value: "boolean": spec.f in body must be of type integer,string: "boolean"',
        ),
        ({**INTEGER, "minimum": 0}, -1, "Invalid value: -1: spec.f in body should be greater than or equal to 0"),
        (
            {**INTEGER, "minimum": 0, "exclusiveMinimum": True},
            0,
            "Invalid value: 0: spec.f in body should be greater than 0",
        ),
        ({**INTEGER, "maximum": 100}, 101, "Invalid value: 101: spec.f in body should be less than or equal to 100"),
        (
            {**NUMBER, "maximum": 1, "exclusiveMaximum": True},
            1,
            "Invalid value: 1: spec.f in body should be less than 1",
        ),
        ({**INTEGER, "multipleOf": 5}, 7, "Invalid value: 7: spec.f in body should be a multiple of 5"),
        ({**INTEGER, "multipleOf": 5}, 15, None),
        ({**STRING, "pattern": "^a+$"}, "b", "Invalid value: \"b\": spec.f in body should match '^a+$'"),
        ({**STRING, "pattern": "a"}, "bab", None),
        ({**STRING, "minLength": 1}, "", 'Invalid value: "": spec.f in body should be at least 1 chars long'),
        ({**STRING, "maxLength": 2}, "abc", "Too long: may not be more than 2 bytes"),
        ({**STRING, "enum": ["b", "a"]}, "c", 'Unsupported value: "c": supported values: "a", "b"'),
        ({**INTEGER, "enum": [1]}, True, 'Invalid value: "boolean": spec.f in body must be of type integer: "boolean"'),
        (
            {"type": "array", "items": STRING, "minItems": 1},
            [],
            "Invalid value: 0: spec.f in body should have at least 1 items",
        ),
        ({"type": "array", "items": STRING, "maxItems": 1}, ["a", "b"], "Too many: 2: must have at most 1 items"),
        ({**PRESERVE, "maxProperties": 1}, {"a": 1, "b": 2}, "Too many: 2: must have at most 1 items"),
        (
            {**PRESERVE, "minProperties": 1},
            {},
            "Invalid value: 0: spec.f in body should have at least 1 properties",
        ),
        (
            {**INTEGER, "format": "int32"},
            2**31,
            "Invalid value: 2147483648: Checked value must be of type integer with format int32 in spec.f",
        ),
        ({**INTEGER, "format": "int32"}, -(2**31), None),
        ({**STRING, "format": "date-time"}, "2026-01-02T03:04:05.123456789Z", None),
        ({**STRING, "format": "date-time"}, "2026-01-02T03:04:05+01:00", None),
        (
            {**STRING, "format": "date-time"},
            "2026-13-02T03:04:05Z",
            'Invalid value: "2026-13-02T03:04:05Z": spec.f in body must be of type date-time: "2026-13-02T03:04:05Z"',
        ),
        (
            {**STRING, "format": "date-time"},
            "yesterday",
            'Invalid value: "yesterday": spec.f in body must be of type date-time: "yesterday"',
        ),
        ({**STRING, "format": "fancy"}, "x", None),
        (
            {**PRESERVE, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            {},
            'Invalid value: {}: "spec.f" must validate one and only one schema (oneOf). Found none valid',
        ),
        (
            {**PRESERVE, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            {"a": 1, "b": 2},
            'Invalid value: {"a":1,"b":2}: "spec.f" must validate one and only one schema (oneOf). '
            "Found 2 valid alternatives",
        ),
        ({**PRESERVE, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"a": 1}, None),
        (
            {**INTEGER, "anyOf": [{"minimum": 5}, {"maximum": 1}]},
            3,
            'Invalid value: 3: "spec.f" must validate at least one schema (anyOf)',
        ),
        ({**INTEGER, "anyOf": [{"minimum": 5}, {"maximum": 1}]}, 1, None),
        (
            {**INTEGER, "allOf": [{"minimum": 1}, {"maximum": 2}]},
            3,
            'Invalid value: 3: "spec.f" must validate all the schemas (allOf)',
        ),
        ({**INTEGER, "not": {"enum": [3]}}, 3, 'Invalid value: 3: "spec.f" must not validate the schema (not)'),
        ({**INTEGER, "not": {"enum": [3]}}, 4, None),
    ],
)
def test_findings_are_worded_as_in_kubernetes(member: JsonObject, value: Any, finding: str | None) -> None:
    """One sentence per finding, beginning with the field."""
    found = schema(fields(f=member)).validate(obj({"f": value}))
    assert found == ([] if finding is None else [f"spec.f: {finding}"])


def test_findings_lead_to_the_place() -> None:
    """Through lists and maps, all of them at once; a missing field is named where it should be."""
    target = {**fields(percent={**INTEGER, "maximum": 100}, tag=STRING), "required": ["percent"]}
    spec = fields(
        traffic={"type": "array", "items": target},
        labels={"type": "object", "additionalProperties": {"type": "array", "items": STRING}},
    )
    value = {"traffic": [{"percent": "x"}, {"tag": "t"}, {"percent": 101}], "labels": {"a": ["b", 1]}}
    assert schema(spec).validate(obj(value)) == [
        'spec.traffic[0].percent: Invalid value: "string": spec.traffic[0].percent in body must be of type integer: '
        '"string"',
        "spec.traffic[1].percent: Required value",
        "spec.traffic[2].percent: Invalid value: 101: spec.traffic[2].percent in body should be less than or equal to "
        "100",
        'spec.labels.a[1]: Invalid value: "integer": spec.labels.a[1] in body must be of type string: "integer"',
    ]


def test_keys_and_set_items_are_unique() -> None:
    """Duplicates are found where the second one is."""
    keyed = {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["p"],
        "items": fields(p=INTEGER),
    }
    distinct = {"type": "array", "x-kubernetes-list-type": "set", "items": STRING}
    found = schema(fields(k=keyed, s=distinct)).validate(obj({"k": [{"p": 1}, {"p": 2}, {"p": 1}], "s": ["a", "a"]}))
    assert found == ['spec.k[2]: Duplicate value: {"p":1}', 'spec.s[1]: Duplicate value: "a"']


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (fields(a={**STRING, "pattern": "("}), r"spec\.a: pattern '\(' is no regular expression"),
        (fields(a={"$ref": "#/elsewhere"}), r"spec\.a: \$ref is not allowed in a structural schema"),
    ],
)
def test_a_schema_that_can_not_be_used_is_refused(spec: JsonObject, complaint: str) -> None:
    """At start, with the place."""
    with pytest.raises(ValueError, match=complaint):
        schema(spec)


# --- laws

_leaves = st.sampled_from([STRING, INTEGER, BOOLEAN, {**STRING, "default": "d"}, {**INTEGER, "default": 3}, PRESERVE])
_schemas = st.recursive(
    _leaves,
    lambda inner: (
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(lambda each: fields(**each))
        | inner.map(lambda each: {"type": "array", "items": each})
        | inner.map(lambda each: {"type": "object", "additionalProperties": each})
    ),
    max_leaves=8,
)
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from("xy"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=10,
)


@given(_schemas, _values, _values)
def test_what_is_known_may_be_passed_over(spec: JsonObject, value: Any, other: Any) -> None:
    """An object made from a sound one gets the same treatment with and without it."""
    compiled = schema(spec)
    known = compiled.default(compiled.prune(obj(value))[0])
    assume(not compiled.validate(known))
    former = known.get("spec")
    inner = {**former, "b": other} if isinstance(former, dict) else other
    changed = {**known, "spec": inner}
    assert compiled.prune(changed, known) == compiled.prune(changed)
    pruned = compiled.prune(changed)[0]
    assert compiled.default(pruned, known) == compiled.default(pruned)
    filled = compiled.default(pruned)
    assert compiled.validate(filled, known) == compiled.validate(filled)
    assert compiled.validate(known, known) == []


@given(_schemas, _values)
def test_pruning_and_defaulting_are_idempotent(spec: JsonObject, value: Any) -> None:
    """What is pruned has nothing left to prune, and what is defaulted nothing left to fill in."""
    compiled = schema(spec)
    pruned, _ = compiled.prune(obj(value))
    assert compiled.prune(pruned) == (pruned, [])
    filled = compiled.default(pruned)
    assert compiled.default(filled) is filled
    assert compiled.prune(filled) == (filled, [])


# --- the built-in kinds


def built_in(kind: Kind) -> StructuralSchema:
    found = StructuralSchema.built_in(kind)
    assert found is not None
    return found


def test_every_built_in_kind_has_a_schema() -> None:
    """And a custom kind has none."""
    for kind in kinds.BUILT_IN_KINDS:
        assert {"apiVersion", "kind", "metadata"} <= built_in(kind).root.properties.keys()
    assert StructuralSchema.built_in(kinds.SERVICE) is None


def _models() -> Iterator[tuple[str, Any]]:
    """(definition name, generated model) of all types both sides know."""
    special = {"Event": "CoreV1Event", "EventSeries": "CoreV1EventSeries", "EndpointPort": "DiscoveryV1EndpointPort",
               "ResourceClaim": "CoreV1ResourceClaim"}  # fmt: skip
    for name in builtin_schemas.definitions():
        short = name.rpartition(".")[2]
        version = "V2" if ".autoscaling." in name else "V1"
        model = getattr(models, special.get(short, version + short), None)
        if model is not None:
            yield name, model


@pytest.mark.parametrize(("name", "model"), [pytest.param(*each, id=each[0].rpartition(".")[2]) for each in _models()])
def test_built_in_fields_are_those_of_kubernetes(name: str, model: Any) -> None:
    """Names and types agree with the models generated from Kubernetes' own OpenAPI document. A field Kubernetes gained
    since may be missing; one that does not exist may not be there."""
    types = {model.attribute_map[python]: type_ for python, type_ in model.openapi_types.items()}
    properties = builtin_schemas.definitions()[name]["properties"]
    assert properties.keys() <= types.keys()
    for field, property_ in properties.items():
        assert _is_like(property_, types[field]), f"{field}: {property_} is not {types[field]}"


def _is_like(property_: JsonObject, type_: str) -> bool:
    if type_.startswith("list["):
        return property_["type"] == "array" and _is_like(property_["items"], type_[5:-1])
    if type_.startswith("dict("):
        return property_["type"] == "object" and _is_like(property_["additionalProperties"], type_[5:-1].split(", ")[1])
    reference = property_.get("$ref", "").rpartition(".")[2]
    match type_:
        case "str":
            return property_.get("type") == "string" or reference == "Quantity"
        case "int":
            return property_.get("type") == "integer"
        case "bool":
            return property_.get("type") == "boolean"
        case "datetime":
            return property_.get("format") == "date-time"
        case "object":
            return reference == "IntOrString" or property_.get("type") == "object"
        case _:
            passed_through = property_.get("x-kubernetes-preserve-unknown-fields", False)
            return bool(passed_through) or type_.endswith(reference)


def test_a_pod_is_pruned_defaulted_and_validated() -> None:
    """Unknown fields are named, Kubernetes' defaults filled in, numbers taken as quantities."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "creationTimestamp": None},
        "spec": {
            "foo": 1,
            "containers": [
                {
                    "name": "c",
                    "ports": [{"containerPort": 80}],
                    "resources": {"limits": {"cpu": 0.5, "memory": "1Gi"}},
                    "readinessProbe": {"httpGet": {"port": "http"}},
                    "bar": 2,
                }
            ],
        },
    }
    schema_ = built_in(kinds.POD)
    pruned, unknown = schema_.prune(pod)
    assert unknown == ["spec.foo", "spec.containers[0].bar"]
    filled = schema_.default(pruned)
    assert schema_.validate(filled) == []
    spec = filled["spec"]
    assert (spec["restartPolicy"], spec["terminationGracePeriodSeconds"]) == ("Always", 30)
    container = spec["containers"][0]
    assert container["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert container["readinessProbe"]["periodSeconds"] == 10
    assert container["readinessProbe"]["httpGet"] == {"port": "http", "scheme": "HTTP"}
    spec["containers"][0]["ports"][0]["containerPort"] = "80"
    spec["restartPolicy"] = "Sometimes"
    assert schema_.validate(filled) == [
        'spec.containers[0].ports[0].containerPort: Invalid value: "string": '
        'spec.containers[0].ports[0].containerPort in body must be of type integer: "string"',
        'spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure"',
    ]


def test_a_deployment_gets_its_strategy() -> None:
    """And ConfigMaps take texts only."""
    filled = built_in(kinds.DEPLOYMENT).default({"spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}})
    assert filled["spec"]["replicas"] == 1
    assert filled["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": "25%", "maxUnavailable": "25%"}
    assert built_in(kinds.CONFIG_MAP).validate({"data": {"a": 1}}) == [
        'data.a: Invalid value: "integer": data.a in body must be of type string: "integer"'
    ]
