"""Discovery documents: what is served, for kubectl's name resolution (pure).

Three shapes of one truth: the old per-group lists (`/api`, `/apis`, `/api/v1`, `/apis/GROUP/VERSION`), which every
client knows, and the aggregated lists (`apidiscovery.k8s.io`, v2 and v2beta1 alike) that kubectl since 1.27 asks for to
save a round trip per group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.apis.kinds import Kind

if TYPE_CHECKING:
    from controller.apis.meta import JsonObject
    from controller.embedded.resources import Registry, Resource

SCALE = Kind("autoscaling", "v1", "Scale", "scales")

VERSION: JsonObject = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.0+zerogate",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "",
}

# Reviews are answered but not stored, so they are no resources of the registry.
REVIEWS = (
    Kind("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", namespaced=False),
    Kind("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", namespaced=False),
    Kind("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", namespaced=False),
)


def review(group: str, version: str, plural: str) -> Kind | None:
    return next((kind for kind in REVIEWS if (kind.group, kind.version, kind.plural) == (group, version, plural)), None)


def core_versions() -> JsonObject:
    """`/api`."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group_list(registry: Registry) -> JsonObject:
    """`/apis`."""
    groups = [_group(name, versions) for name, versions in _all_groups(registry).items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(registry: Registry, name: str) -> JsonObject | None:
    """`/apis/GROUP`."""
    versions = _all_groups(registry).get(name)
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)} if versions and name else None


def resource_list(registry: Registry, group: str, version: str) -> JsonObject | None:
    """`/api/v1` and `/apis/GROUP/VERSION`."""
    served = [each for each in registry if (each.kind.group, each.kind.version) == (group, version)]
    reviews = [kind for kind in REVIEWS if (kind.group, kind.version) == (group, version)]
    if not served and not reviews:
        return None
    entries = [entry for each in served for entry in _entries(each)]
    entries += [
        {"name": kind.plural, "singularName": "", "namespaced": False, "kind": kind.kind, "verbs": ["create"]}
        for kind in reviews
    ]
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": entries}


def aggregated(registry: Registry, version: str, *, core: bool) -> JsonObject:
    """`/api` (core) or `/apis` as one APIGroupDiscoveryList of `apidiscovery.k8s.io/VERSION`."""
    items = [
        {
            "metadata": {"creationTimestamp": None} | ({"name": name} if name else {}),
            "versions": [_aggregated_version(registry, name, each) for each in versions],
        }
        for name, versions in _all_groups(registry).items()
        if (name == "") is core
    ]
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": items,
    }


def _all_groups(registry: Registry) -> dict[str, tuple[str, ...]]:
    return {**registry.groups(), **{kind.group: (kind.version,) for kind in REVIEWS}}


def _group(name: str, versions: tuple[str, ...]) -> JsonObject:
    entries = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": entries, "preferredVersion": entries[0]}


def _entries(resource: Resource) -> list[JsonObject]:
    kind = resource.kind
    entry: JsonObject = {
        "name": kind.plural,
        "singularName": resource.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    return [entry, *(_subresource(resource, name) for name in sorted(resource.subresources))]


def _subresource(resource: Resource, name: str) -> JsonObject:
    entry: JsonObject = {
        "name": f"{resource.kind.plural}/{name}",
        "singularName": "",
        "namespaced": resource.kind.namespaced,
        "kind": resource.kind.kind,
        "verbs": ["get"] if name == "log" else ["get", "patch", "update"],
    }
    if name == "scale":
        entry |= {"group": SCALE.group, "version": SCALE.version, "kind": SCALE.kind}
    return entry


def _aggregated_version(registry: Registry, group: str, version: str) -> JsonObject:
    served = [each for each in registry if (each.kind.group, each.kind.version) == (group, version)]
    resources = [_aggregated_resource(each) for each in served]
    resources += [
        {
            "resource": kind.plural,
            "responseKind": _response_kind(kind),
            "scope": "Cluster",
            "singularResource": "",
            "verbs": ["create"],
        }
        for kind in REVIEWS
        if (kind.group, kind.version) == (group, version)
    ]
    return {"version": version, "resources": resources, "freshness": "Current"}


def _aggregated_resource(resource: Resource) -> JsonObject:
    kind = resource.kind
    entry: JsonObject = {
        "resource": kind.plural,
        "responseKind": _response_kind(kind),
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    if resource.subresources:
        entry["subresources"] = [
            {
                "subresource": name,
                "responseKind": _response_kind(SCALE if name == "scale" else kind),
                "verbs": ["get"] if name == "log" else ["get", "patch", "update"],
            }
            for name in sorted(resource.subresources)
        ]
    return entry


def _response_kind(kind: Kind) -> JsonObject:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}
