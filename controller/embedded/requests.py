"""Requests taken apart: paths, query parameters and bodies become typed values, or a refusal that names the fault.

Paths are split by hand: a Kubernetes path is regular, and a router with a route per resource would cost more than the
rest of a small request. Bodies are JSON, or YAML where the content type says so, at most `BODY_LIMIT` bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import yaml

from controller.apis.labels import DEFAULT_CONTAINER
from controller.apis.meta import JsonObject, Key, annotations_of, parse_time
from controller.embedded import protobuf, selectors, status, views
from controller.embedded.credentials import USER
from controller.embedded.operations import DeleteOptions, WriteOptions
from controller.embedded.patch import JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web
    from multidict import MultiMapping

    from controller.embedded.resources import Resource
    from controller.embedded.selectors import Selector

BODY_LIMIT = 3 * 1024 * 1024
"""Bytes of a request body; what Kubernetes allows."""
APPLY_PATCH = "application/apply-patch+yaml"


class Target(NamedTuple):
    """A resource path taken apart. `namespace` None: all of them, or a cluster-scoped resource."""

    group: str
    version: str
    namespace: str | None
    plural: str
    name: str
    subresource: str


def parse_path(path: str) -> Target | None:
    """`/api/v1/…` and `/apis/GROUP/VERSION/…`; None if `path` is no resource path."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = None
    if rest[0] == "namespaces" and len(rest) > 2 and not (group == "" and rest[2] in ("status", "finalize")):
        namespace, rest = rest[1], rest[2:]
    if len(rest) > 3 or not all(rest) or namespace == "":
        return None
    plural, name, subresource = (*rest, "", "")[:3]
    return Target(group, version, namespace, plural, name, subresource)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One request for a resource: what every verb needs."""

    request: web.BaseRequest
    target: Target
    resource: Resource
    query: MultiMapping[str]

    @property
    def key(self) -> Key:
        """The object that the path names."""
        return Key(self.target.namespace or "", self.target.name)

    def view(self) -> views.View:
        """In what form the client takes its answer. Raises ApiError (406)."""
        return views.negotiate(self.request.headers.get("Accept", ""), self.query.get("includeObject", ""))

    def selector(self) -> Selector:
        """The label and field selectors of the query. Raises ApiError (400)."""
        try:
            return selectors.parse(
                self.query.get("labelSelector", ""), self.query.get("fieldSelector", ""), self.resource.kind
            )
        except selectors.SelectorError as error:
            raise status.bad_request(str(error)) from None

    def write_options(self) -> WriteOptions:
        """Who writes and how, from query and User-Agent. Raises ApiError (400)."""
        agent = self.request.headers.get("User-Agent", "unknown")
        validation = self.query.get("fieldValidation", "Warn")
        if validation not in ("Strict", "Warn", "Ignore"):
            raise status.bad_request(
                f'fieldValidation: Unsupported value: "{validation}": supported values: "Ignore", "Strict", "Warn"'
            )
        return WriteOptions(
            user=USER,
            manager=(self.query.get("fieldManager") or agent.partition("/")[0])[:128],
            dry_run=dry_run_asked(self.query.getall("dryRun", ())),
            field_validation=validation,
            force=self.query.get("force") in ("true", "1"),
        )


def is_in_scope(resource: Resource, target: Target) -> bool:
    """Whether the path has a namespace just where the kind does; lists of a namespaced kind may do without."""
    if not resource.kind.namespaced:
        return target.namespace is None
    return target.namespace is not None or not target.name


def number(query: MultiMapping[str], name: str) -> int | None:
    """A whole number of the query; None if it is absent. Raises ApiError (400)."""
    text = query.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise status.bad_request(f"{name}: Invalid value: {text!r}: must be a whole number")
    return int(text)


def since_seconds(query: MultiMapping[str]) -> int | None:
    """How far back a log is asked for, by sinceTime or sinceSeconds; None for all of it. Raises ApiError (400)."""
    text = query.get("sinceTime", "")
    if not text:
        return number(query, "sinceSeconds")
    try:
        return max(0, int((datetime.now(UTC) - parse_time(text)).total_seconds()))
    except (ValueError, TypeError):
        raise status.bad_request(f"sinceTime: Invalid value: {text!r}: must be a time in RFC 3339") from None


def dry_run_asked(values: Sequence[str]) -> bool:
    if any(value != "All" for value in values):
        raise status.bad_request('dryRun: Unsupported value: supported values: "All"')
    return bool(values)


async def _raw_body(request: web.BaseRequest, *, yaml_too: bool) -> Any:
    raw = await request.read()
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if not yaml_too:
            raise status.bad_request(f"the body is not JSON: {error}") from None
    return _parse_yaml(raw)


class _YamlLoader(yaml.CSafeLoader):
    """JSON's types only: a date stays text."""


_YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def _parse_yaml(raw: bytes) -> Any:
    """Aliases are refused: a few lines of them can stand for gigabytes."""
    try:
        for event in yaml.parse(raw, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise status.bad_request("the body uses YAML aliases; write the values out, or send JSON")
        return yaml.load(raw, Loader=_YamlLoader)
    except yaml.YAMLError as error:
        raise status.bad_request(f"the body is neither JSON nor YAML: {error}") from None


async def object_body(request: web.BaseRequest) -> JsonObject:
    """The object in the body: JSON, YAML or Kubernetes' protobuf. Raises ApiError (400, 415)."""
    content_type = request.content_type
    if content_type == protobuf.MEDIA_TYPE:
        try:
            return protobuf.decode(await request.read())
        except protobuf.ProtobufError as error:
            raise status.bad_request(str(error)) from None
    yaml_too = content_type.endswith(("yaml", "x-yaml"))
    if not yaml_too and content_type not in ("application/json", "application/octet-stream", "text/plain"):
        raise status.unsupported_media_type(("application/json", "application/yaml"))
    body = await _raw_body(request, yaml_too=yaml_too)
    if not isinstance(body, dict) or not all(isinstance(field, str) for field in body):
        raise status.bad_request("the body is not an object")
    return body


def patch_type(request: web.BaseRequest, resource: Resource) -> str:
    """The content type of a patch that the kind takes; custom ones take no strategic merge. Raises ApiError (415)."""
    accepted = (JSON_PATCH, MERGE_PATCH, *(() if resource.is_custom else (STRATEGIC_MERGE_PATCH,)), APPLY_PATCH)
    if request.content_type not in accepted:
        raise status.unsupported_media_type(accepted)
    return request.content_type


async def patch_body(request: web.BaseRequest, content_type: str) -> Any:
    """A patch: a list for JSON Patch, else an object. Raises ApiError (400)."""
    body = await _raw_body(request, yaml_too=False)
    if not isinstance(body, list if content_type == JSON_PATCH else dict):
        wanted = "a list of operations" if content_type == JSON_PATCH else "an object"
        raise status.bad_request(f"the body of a {content_type} must be {wanted}")
    return body


async def delete_options(call: Call) -> DeleteOptions:
    """DeleteOptions of the body, else of the query, as kubectl of either age sends them. Raises ApiError (400)."""
    body: JsonObject = {}
    if call.request.can_read_body:
        body = await object_body(call.request)
    query = call.query
    propagation = body.get("propagationPolicy") or query.get("propagationPolicy") or ""
    if not propagation:
        orphan = body.get("orphanDependents") is True or query.get("orphanDependents") == "true"
        propagation = "Orphan" if orphan else "Background"
    if propagation not in ("Background", "Foreground", "Orphan"):
        raise status.bad_request(
            f'propagationPolicy: Unsupported value: "{propagation}": supported values: "Background", "Foreground",'
            ' "Orphan"'
        )
    grace = body.get("gracePeriodSeconds", number(query, "gracePeriodSeconds"))
    if grace is not None and not isinstance(grace, int):
        raise status.bad_request("gracePeriodSeconds: must be a whole number of seconds")
    preconditions = body.get("preconditions") or {}
    return DeleteOptions(
        propagation=propagation,
        grace=grace,
        uid=preconditions.get("uid") or "",
        resource_version=preconditions.get("resourceVersion") or "",
        dry_run=dry_run_asked([*(body.get("dryRun") or ()), *query.getall("dryRun", ())]),
    )


def container_of(pod: JsonObject, asked: str) -> str:
    """The container whose log is meant: the one asked for, the default one, or the only one. Raises ApiError (400)."""
    name = pod["metadata"]["name"]
    spec = pod["spec"]
    names = [each["name"] for each in [*(spec.get("initContainers") or ()), *spec["containers"]]]
    if asked:
        if asked not in names:
            raise status.bad_request(f"container {asked} is not valid for pod {name}")
        return asked
    default = annotations_of(pod).get(DEFAULT_CONTAINER)
    if default in names:
        return str(default)
    if len(spec["containers"]) > 1:
        choice = " ".join(each["name"] for each in spec["containers"])
        raise status.bad_request(f"a container name must be specified for pod {name}, choose one of: [{choice}]")
    return str(spec["containers"][0]["name"])
