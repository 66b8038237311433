"""OpenAPI documents of what the server serves: what kubectl explains, validates and asks about features by.

kubectl 1.20 knows `/openapi/v2` only, and only as protobuf (see `openapi_proto`); newer ones read `/openapi/v3`, a
JSON document per group and version, and fall back to v2. What they take from it, found by watching them:

- `explain` walks `definitions`/`components.schemas` from the one whose `x-kubernetes-group-version-kind` matches;
- validation before sending (1.20; 1.32 if the server can't do it) checks types, required and unknown fields;
- whether the server validates (`fieldValidation`) and has dry runs (`dryRun`) is read from the query parameters of the
  PATCH whose `x-kubernetes-group-version-kind` matches, and whether to send a strategic merge patch from its media
  types; so `paths` has the operations with exactly those parameters.

Definitions of built-in kinds are shared by reference; those of custom resources stand alone, as Kubernetes writes them.
Version 2 can't say all that a CRD may: like Kubernetes we drop there what old kubectls would misread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from controller.embedded import builtin_schemas, openapi_proto

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from controller.apis.kinds import Kind
    from controller.apis.meta import JsonObject
    from controller.embedded.resources import Resource

_INFO: Final[JsonObject] = {"title": "Kubernetes", "version": "v1.32.0"}
_OBJECT_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_V3_PREFIX: Final = "#/components/schemas/"
_GROUP_VERSION_KIND: Final = "x-kubernetes-group-version-kind"

_CUSTOM_PATCHES: Final = ("application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml")
_BUILT_IN_PATCHES: Final = (*_CUSTOM_PATCHES, "application/strategic-merge-patch+json")

_DRY_RUN: Final = ("dryRun", "string", "All: check and answer, but keep nothing.")
_FIELD_MANAGER: Final = ("fieldManager", "string", "Who makes this change, for metadata.managedFields.")
_FIELD_VALIDATION: Final = ("fieldValidation", "string", "Ignore, Warn or Strict: what an unknown field means.")
_FORCE: Final = ("force", "boolean", "An apply takes over fields that others own.")
_WRITE: Final = (_DRY_RUN, _FIELD_MANAGER, _FIELD_VALIDATION)

_QueryParameter = tuple[str, str, str]
"""Name, type, description."""


def document_v2(resources: Iterable[Resource]) -> JsonObject:
    """The Swagger 2.0 document of all resources (`/openapi/v2`)."""
    definitions = {name: _v2(schema) for name, schema in builtin_schemas.definitions().items()}
    paths: JsonObject = {}
    for resource in resources:
        name = definition_name(resource)
        definitions[name] = {**_v2(_root(resource)), _GROUP_VERSION_KIND: [_group_version_kind(resource.kind)]}
        paths.update(_paths(resource, _operation_v2))
    return {
        "swagger": "2.0",
        "info": _INFO,
        "paths": dict(sorted(paths.items())),
        "definitions": dict(sorted(definitions.items())),
    }


def documents_v3(resources: Iterable[Resource]) -> dict[str, JsonObject]:
    """One OpenAPI 3.0 document per group and version, by its path under `/openapi/v3`: `api/v1`, `apis/apps/v1`."""
    documents: dict[str, JsonObject] = {}
    for resource in resources:
        kind = resource.kind
        document = documents.setdefault(
            f"apis/{kind.group}/{kind.version}" if kind.group else f"api/{kind.version}",
            {"openapi": "3.0.0", "info": _INFO, "paths": {}, "components": {"schemas": {}}},
        )
        schemas = document["components"]["schemas"]
        root = _root(resource)
        for name in _reachable(root):
            schemas[name] = _v3(builtin_schemas.definitions()[name])
        schemas[definition_name(resource)] = {**_v3(root), _GROUP_VERSION_KIND: [_group_version_kind(kind)]}
        document["paths"].update(_paths(resource, _operation_v3))
    return documents


def protobuf_v2(document: JsonObject) -> bytes:
    """A document of `document_v2` in the only form kubectl takes `/openapi/v2` in."""
    return openapi_proto.encode(document)


def definition_name(resource: Resource) -> str:
    """`io.k8s.api.core.v1.Pod`; `dev.knative.serving.v1.Service` for the custom services.serving.knative.dev."""
    kind = resource.kind
    if resource.crd_version is None:
        return builtin_schemas.definition_name(kind)
    return ".".join([*reversed(kind.group.split(".")), kind.version, kind.kind])


def _group_version_kind(kind: Kind) -> JsonObject:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


def _root(resource: Resource) -> JsonObject:
    """A resource's schema; a custom resource's gets the members that each object has and its CRD does not describe."""
    if resource.crd_version is None:
        return builtin_schemas.definitions()[builtin_schemas.definition_name(resource.kind)]
    schema: JsonObject = (resource.crd_version.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"}
    properties = {
        "apiVersion": {"type": "string", "description": "Version of the schema of this object."},
        "kind": {"type": "string", "description": "Kind of this object."},
        **schema.get("properties", {}),
        "metadata": {
            "$ref": builtin_schemas.REF_PREFIX + _OBJECT_META,
            "description": "Name, labels and what else every object carries about itself.",
        },
    }
    return {**schema, "properties": properties}


# --- schemas --------------------------------------------------------------------------------------------------------


def _map_schemas(schema: JsonObject, convert: Callable[[JsonObject], JsonObject]) -> JsonObject:
    """`schema` with each schema within it converted."""
    mapped = dict(schema)
    if "properties" in schema:
        mapped["properties"] = {name: convert(each) for name, each in schema["properties"].items()}
    for keyword in ("items", "additionalProperties", "not"):
        if isinstance(schema.get(keyword), dict):
            mapped[keyword] = convert(schema[keyword])
    for keyword in ("allOf", "anyOf", "oneOf"):
        if keyword in schema:
            mapped[keyword] = [convert(each) for each in schema[keyword]]
    return mapped


def _v2(schema: JsonObject) -> JsonObject:
    """As Kubernetes publishes it for kubectls that know Swagger 2.0 only: no rules about values (`oneOf` and the like),
    and nothing within a field that may be null or keeps unknown fields, because they would refuse those."""
    if schema.get("x-kubernetes-int-or-string"):
        # A text in the eyes of these kubectls, which take a number for a text where one is due.
        text_format = {} if schema.get("format") == "quantity" else {"format": "int-or-string"}
        return {"type": "string", **text_format, **_described(schema)}
    converted = _map_schemas(schema, _v2)
    for keyword in ("allOf", "anyOf", "oneOf", "not", "nullable", "externalDocs"):
        converted.pop(keyword, None)
    if schema.get("nullable"):
        for keyword in ("type", "items", "properties", "additionalProperties"):
            converted.pop(keyword, None)
    elif schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("additionalProperties") is True:
        for keyword in ("items", "properties", "additionalProperties", "required"):
            converted.pop(keyword, None)
    return converted


def _v3(schema: JsonObject) -> JsonObject:
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(builtin_schemas.REF_PREFIX)
        rest = {keyword: each for keyword, each in schema.items() if keyword != "$ref"}
        # Beside a `$ref` everything is ignored in 3.0, so it goes into `allOf`.
        return {"allOf": [{"$ref": _V3_PREFIX + name}], **rest}
    if schema.get("x-kubernetes-int-or-string"):
        either = {"oneOf": [{"type": "integer"}, {"type": "string"}], **_described(schema)}
        return either if schema.get("format") == "quantity" else {**either, "format": "int-or-string"}
    return _map_schemas(schema, _v3)


def _described(schema: JsonObject) -> JsonObject:
    return {keyword: schema[keyword] for keyword in ("description", "default") if keyword in schema}


def _reachable(schema: JsonObject) -> set[str]:
    """The names of all definitions that a schema leads to."""
    found: set[str] = set()
    todo = list(_references(schema))
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += _references(builtin_schemas.definitions()[name])
    return found


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str):
            yield reference.removeprefix(builtin_schemas.REF_PREFIX)
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


# --- paths ----------------------------------------------------------------------------------------------------------


def _paths(
    resource: Resource, operation: Callable[[Resource, str, tuple[_QueryParameter, ...]], JsonObject]
) -> JsonObject:
    kind = resource.kind
    collection = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    if kind.namespaced:
        collection += "/namespaces/{namespace}"
    collection += f"/{kind.plural}"
    verbs = resource.verbs
    on_collection = {
        "get": operation(resource, "list", ()),
        **({"post": operation(resource, "post", _WRITE)} if "create" in verbs else {}),
    }
    on_item = {
        "get": operation(resource, "get", ()),
        **({"put": operation(resource, "put", _WRITE)} if "update" in verbs else {}),
        **({"patch": operation(resource, "patch", (*_WRITE, _FORCE))} if "patch" in verbs else {}),
        **({"delete": operation(resource, "delete", (_DRY_RUN,))} if "delete" in verbs else {}),
    }
    return {collection: on_collection, collection + "/{name}": on_item}


def _identity(resource: Resource, action: str) -> JsonObject:
    kind = resource.kind
    group = kind.group.split(".")[0].capitalize() or "Core"
    verb = {"post": "create", "put": "replace", "get": "read"}.get(action, action)
    scope = "Namespaced" if kind.namespaced else ""
    return {
        "operationId": f"{verb}{group}{kind.version.capitalize()}{scope}{kind.kind}",
        "x-kubernetes-action": action,
        _GROUP_VERSION_KIND: _group_version_kind(kind),
    }


def _path_parameters(resource: Resource, action: str) -> list[_QueryParameter]:
    found: list[_QueryParameter] = []
    if action not in ("list", "post"):
        found.append(("name", "string", f"Name of the {resource.kind.kind}."))
    if resource.kind.namespaced:
        found.append(("namespace", "string", "The namespace."))
    return found


def _patch_types(resource: Resource) -> tuple[str, ...]:
    return _BUILT_IN_PATCHES if resource.crd_version is None else _CUSTOM_PATCHES


def _operation_v2(resource: Resource, action: str, query: tuple[_QueryParameter, ...]) -> JsonObject:
    reference = {"$ref": builtin_schemas.REF_PREFIX + definition_name(resource)}
    parameters: list[JsonObject] = [
        {"name": name, "in": "path", "required": True, "type": type_, "description": text}
        for name, type_, text in _path_parameters(resource, action)
    ]
    if action in ("post", "put", "patch"):
        body = {"type": "object"} if action == "patch" else reference
        parameters.append({"name": "body", "in": "body", "required": True, "schema": body})
    parameters += [{"name": name, "in": "query", "type": type_, "description": text} for name, type_, text in query]
    return {
        **_identity(resource, action),
        "consumes": list(_patch_types(resource)) if action == "patch" else ["application/json"],
        "produces": ["application/json"],
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "schema": reference}},
    }


def _operation_v3(resource: Resource, action: str, query: tuple[_QueryParameter, ...]) -> JsonObject:
    reference = {"$ref": _V3_PREFIX + definition_name(resource)}
    operation: JsonObject = {
        **_identity(resource, action),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": type_}, "description": text}
            for name, type_, text in _path_parameters(resource, action)
        ]
        + [
            {"name": name, "in": "query", "schema": {"type": type_}, "description": text} for name, type_, text in query
        ],
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}},
    }
    if action == "patch":
        body = {"schema": {"type": "object"}}
        operation["requestBody"] = {"required": True, "content": dict.fromkeys(_patch_types(resource), body)}
    elif action in ("post", "put"):
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    return operation
