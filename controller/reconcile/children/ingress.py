"""The KIngress of a Route: which hosts lead to which Revisions.

For each tag (and for the Route itself) there is one rule for the three in-cluster names, and one for the external host
unless the tag is private. A rule splits by percent; Revisions at 0 % are left out. With tag header routing the Route's
own rules begin with one path for each tag, taken by requests that carry `Knative-Serving-Tag: <tag>`; another value
falls through to the split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from controller.apis import kinds, labels
from controller.apis.meta import JsonObject, annotations_of, controller_ref, labels_of, name_of, namespace_of
from controller.apis.revision import H2C
from controller.reconcile import drift
from controller.reconcile.domains import DEFAULT_TAG

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.reconcile.traffic import Share

EXTERNAL_IP, CLUSTER_LOCAL = "ExternalIP", "ClusterLocal"
HTTP1_PORT, H2C_PORT = 80, 81

TAG_FIELD = "Knative-Serving-Tag"
DEFAULT_ROUTE_FIELD = "Knative-Serving-Default-Route"
REVISION_FIELD = "Knative-Serving-Revision"
NAMESPACE_FIELD = "Knative-Serving-Namespace"


@dataclass(frozen=True, slots=True)
class TagRules:
    """One tag's names and shares. `external_host` is "" for a tag that is visible inside the cluster only."""

    local_hosts: tuple[str, ...]
    external_host: str
    shares: tuple[Share, ...]


def ingress(
    route: JsonObject,
    tags: Mapping[str, TagRules],
    protocols: Mapping[str, str],
    *,
    ingress_class: str,
    http_option: str,
    tag_header_routing: bool,
) -> JsonObject:
    """The KIngress. `tags` holds "" and every tag, sorted; `protocols` is "http1" or "h2c" for each Revision;
    `http_option` is "Enabled", "Redirected" or "" (unset)."""
    split = _Splitter(namespace_of(route), protocols)
    spec: JsonObject = {
        "rules": [
            rule for tag, names in tags.items() for rule in _rules(names, _paths(tag, tags, split, tag_header_routing))
        ]
    }
    if http_option:
        spec["httpOption"] = http_option
    hosts = {tag: [names.external_host or names.local_hosts[-1]] for tag, names in tags.items() if tag}
    return {
        "apiVersion": kinds.INGRESS.api_version,
        "kind": kinds.INGRESS.kind,
        "metadata": {
            "name": name_of(route),
            "namespace": namespace_of(route),
            "labels": {
                **labels_of(route),
                labels.ROUTE: name_of(route),
                labels.ROUTE_NAMESPACE: namespace_of(route),
            },
            "annotations": {**_annotations(route, hosts), labels.INGRESS_CLASS: ingress_class},
            "ownerReferences": [controller_ref(route)],
        },
        "spec": spec,
    }


def updated(existing: JsonObject, desired: JsonObject) -> JsonObject | None:
    """The KIngress to write over `existing`, or None if it says the same; a spec that did not change keeps its
    generation, and the gateways their table."""
    have, want = existing["metadata"], desired["metadata"]
    if (
        drift.same(existing["spec"], desired["spec"])
        and drift.same(have.get("labels"), want["labels"])
        and drift.same(have.get("annotations"), want["annotations"])
    ):
        return None
    return drift.changed(existing, labels=want["labels"], annotations=want["annotations"], spec=desired["spec"])


def _annotations(route: JsonObject, hosts: Mapping[str, list[str]]) -> dict[str, str]:
    own = {key: value for key, value in annotations_of(route).items() if key != labels.LAST_APPLIED}
    return {**own, labels.TAG_TO_HOST: orjson.dumps(hosts, option=orjson.OPT_SORT_KEYS).decode()} if hosts else own


@dataclass(frozen=True, slots=True)
class _Splitter:
    namespace: str
    protocols: Mapping[str, str]

    def path(self, shares: tuple[Share, ...]) -> JsonObject:
        return {"splits": [self._split(share) for share in shares if share.percent]}

    def _split(self, share: Share) -> JsonObject:
        return {
            "serviceNamespace": self.namespace,
            "serviceName": share.revision,
            "servicePort": H2C_PORT if self.protocols.get(share.revision) == H2C else HTTP1_PORT,
            "percent": share.percent,
            "appendHeaders": {REVISION_FIELD: share.revision, NAMESPACE_FIELD: self.namespace},
        }


def _paths(tag: str, tags: Mapping[str, TagRules], split: _Splitter, tag_header_routing: bool) -> list[JsonObject]:
    path = split.path(tags[tag].shares)
    if not tag_header_routing:
        return [path]
    if tag != DEFAULT_TAG:
        return [{**path, "appendHeaders": {TAG_FIELD: tag}}]
    matching = [
        {**split.path(names.shares), "headers": {TAG_FIELD: {"exact": other}}} for other, names in tags.items() if other
    ]
    return [*matching, {**path, "appendHeaders": {DEFAULT_ROUTE_FIELD: "true"}}]


def _rules(names: TagRules, paths: list[JsonObject]) -> list[JsonObject]:
    rules = [_rule(list(names.local_hosts), CLUSTER_LOCAL, paths)]
    if names.external_host:
        rules.append(_rule([names.external_host], EXTERNAL_IP, paths))
    return rules


def _rule(hosts: list[str], visibility: str, paths: list[JsonObject]) -> JsonObject:
    return {"hosts": hosts, "visibility": visibility, "http": {"paths": paths}}
