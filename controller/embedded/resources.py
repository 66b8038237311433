"""The registry of served resources: the built-in kinds and whatever the CRD files define.

A `Resource` is what discovery, OpenAPI, printing and the write path need to know about one REST resource. Names,
short names and categories are Kubernetes' own, so that `kubectl get deploy` and `kubectl get all` resolve as on a
cluster. Each CRD contributes every version it serves; zerogate's own CRDs serve one version each, so there is no
conversion: a definition with several served versions is refused at start.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from controller.apis import kinds
from controller.apis.kinds import Kind
from controller.embedded.schema import StructuralSchema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from controller.apis.meta import JsonObject

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
READ_VERBS = ("get", "list", "watch")


class DefinitionError(ValueError):
    """A CustomResourceDefinition that this server can't serve; the text names the file's object and the field."""


class ResourceId(NamedTuple):
    """A resource's identity in the store; versions of one group share it."""

    group: str
    plural: str


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """One REST resource. `crd_version` is the CRD's `spec.versions[i]`, None for a built-in kind; `schema` its
    structural schema. `subresources` are a subset of status, scale and log. `tracks_generation`: spec changes count
    up metadata.generation."""

    kind: Kind
    singular: str
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: frozenset[str] = frozenset()
    verbs: tuple[str, ...] = ALL_VERBS
    tracks_generation: bool = False
    crd_version: JsonObject | None = None
    schema: StructuralSchema | None = None
    id: ResourceId = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", ResourceId(self.kind.group, self.kind.plural))

    @property
    def list_kind(self) -> str:
        """The kind of a list of these objects."""
        return self.kind.kind + "List"

    @property
    def is_custom(self) -> bool:
        """Whether a CRD defines it."""
        return self.crd_version is not None


_STATUS = frozenset({"status"})

BUILT_IN = (
    Resource(kinds.CONFIG_MAP, "configmap", ("cm",)),
    Resource(kinds.EVENT, "event", ("ev",)),
    Resource(kinds.NAMESPACE, "namespace", ("ns",), subresources=_STATUS),
    Resource(kinds.POD, "pod", ("po",), ("all",), frozenset({"status", "log"})),
    Resource(kinds.SECRET, "secret"),
    Resource(kinds.SERVICE_ACCOUNT, "serviceaccount", ("sa",)),
    Resource(kinds.CORE_SERVICE, "service", ("svc",), ("all",), _STATUS),
    Resource(
        kinds.DEPLOYMENT, "deployment", ("deploy",), ("all",), frozenset({"status", "scale"}), tracks_generation=True
    ),
    Resource(kinds.ENDPOINT_SLICE, "endpointslice", tracks_generation=True),
    Resource(
        kinds.HORIZONTAL_POD_AUTOSCALER, "horizontalpodautoscaler", ("hpa",), ("all",), _STATUS, tracks_generation=True
    ),
    Resource(kinds.LEASE, "lease"),
    # Definitions come from files, not through REST: what is served is fixed when the server starts.
    Resource(
        kinds.CUSTOM_RESOURCE_DEFINITION,
        "customresourcedefinition",
        ("crd", "crds"),
        ("api-extensions",),
        verbs=READ_VERBS,
        tracks_generation=True,
    ),
)


class Registry:
    """Lookup by REST path and by kind; iteration in group order, core first."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self._resources = tuple(sorted(resources, key=lambda each: (each.kind.group, each.kind.plural)))
        self._by_path = {(each.kind.group, each.kind.version, each.kind.plural): each for each in self._resources}
        self._by_kind = {(each.kind.api_version, each.kind.kind): each for each in self._resources}
        self._by_id = {each.id: each for each in self._resources}

    def __iter__(self) -> Iterator[Resource]:
        return iter(self._resources)

    def by_path(self, group: str, version: str, plural: str) -> Resource | None:
        """What a path of the API names; None if nothing is served there."""
        return self._by_path.get((group, version, plural))

    def by_kind(self, api_version: str, kind: str) -> Resource | None:
        """What an object says it is; None if it is not served."""
        return self._by_kind.get((api_version, kind))

    def by_id(self, resource_id: ResourceId) -> Resource:
        return self._by_id[resource_id]

    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Group → its versions, core ("") first."""
        found: dict[str, list[str]] = {}
        for each in self._resources:
            versions = found.setdefault(each.kind.group, [])
            if each.kind.version not in versions:
                versions.append(each.kind.version)
        return {group: tuple(versions) for group, versions in found.items()}


def registry(crds: Sequence[JsonObject]) -> Registry:
    """Built-in kinds plus `crds` (CustomResourceDefinition objects). Raises DefinitionError."""
    built_in = (replace(each, schema=StructuralSchema.built_in(each.kind)) for each in BUILT_IN)
    return Registry([*built_in, *(custom_resource(crd) for crd in crds)])


def custom_resource(crd: JsonObject) -> Resource:
    """The resource a CustomResourceDefinition (apiextensions.k8s.io/v1) defines. Raises DefinitionError."""
    name = crd.get("metadata", {}).get("name", "?")
    try:
        spec, names = crd["spec"], crd["spec"]["names"]
        version = _served_version(spec["versions"])
        return Resource(
            kind=Kind(spec["group"], version["name"], names["kind"], names["plural"], spec["scope"] == "Namespaced"),
            singular=names.get("singular") or names["kind"].lower(),
            short_names=tuple(names.get("shortNames") or ()),
            categories=tuple(names.get("categories") or ()),
            subresources=_STATUS if "status" in (version.get("subresources") or {}) else frozenset(),
            tracks_generation=True,
            crd_version=version,
            schema=StructuralSchema.from_crd(version),
        )
    except KeyError as error:
        raise DefinitionError(f"CustomResourceDefinition {name}: missing field {error.args[0]!r}") from error
    except ValueError as error:
        raise DefinitionError(f"CustomResourceDefinition {name}: {error}") from error


def _served_version(versions: list[JsonObject]) -> JsonObject:
    served = [version for version in versions if version.get("served")]
    if len(served) != 1:
        raise ValueError(f"spec.versions: exactly one version must be served, not {len(served)}")
    return served[0]
