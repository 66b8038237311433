"""The host names and URLs of a Route and of its tags.

A Route's external host comes from config-network's templates and config-domain's domain; each tag replaces the name
in it by `<tag>-<route>`. Inside the cluster every tag has three more names (`n.ns`, `n.ns.svc`, `n.ns.svc.<cluster
domain>`), which no template changes. A tag is cluster-local if the Route's domain is the cluster's own, or if somebody
labelled the tag's placeholder Service with a visibility.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from controller.apis.meta import annotations_of, labels_of, name_of, namespace_of
from controller.config.domain import CLUSTER_LOCAL

if TYPE_CHECKING:
    from controller.apis.meta import JsonObject
    from controller.config.store import Config

DEFAULT_TAG = ""

_HOST_LIMIT = 253
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class DomainError(ValueError):
    """The configured templates make no valid host name for this Route; the text is for the user."""


def tag_name(route: JsonObject, tag: str, config: Config) -> str:
    """The name of a tag's placeholder Service, which is also its first DNS label: `<route>`, `<tag>-<route>`.
    Raises DomainError."""
    if tag == DEFAULT_TAG:
        return name_of(route)
    name = config.network.tag_template.render({"Name": name_of(route), "Tag": tag})
    return _checked(name, name, "tag-template")


def external_host(route: JsonObject, tag: str, config: Config) -> str:
    """The host of a tag in the Route's domain. Raises DomainError."""
    name = tag_name(route, tag, config)
    domain = config.domain.domain_for(labels_of(route))
    if domain == CLUSTER_LOCAL:
        return f"{name}.{namespace_of(route)}.{CLUSTER_LOCAL}"
    host = config.network.domain_template.render(
        {"Name": name, "Namespace": namespace_of(route), "Domain": domain}, annotations_of(route), labels_of(route)
    )
    return _checked(host, name, "domain-template")


def local_hosts(route: JsonObject, tag: str, config: Config) -> tuple[str, ...]:
    """The three names of a tag inside the cluster, the shortest first. Raises DomainError."""
    base = f"{tag_name(route, tag, config)}.{namespace_of(route)}"
    return (base, f"{base}.svc", f"{base}.{CLUSTER_LOCAL}")


def is_cluster_local(route: JsonObject, config: Config) -> bool:
    """The Route as a whole is visible inside the cluster only: by its label, or because no domain selects it."""
    return config.domain.domain_for(labels_of(route)) == CLUSTER_LOCAL


def url(route: JsonObject, tag: str, cluster_local: bool, config: Config) -> str:
    """The URL of a tag. Inside the cluster it is plain HTTP. Raises DomainError."""
    if cluster_local:
        return f"http://{local_hosts(route, tag, config)[-1]}"
    network = config.network
    scheme = network.default_external_scheme
    port = network.external_https_port if scheme == "https" else network.external_port
    return f"{scheme}://{external_host(route, tag, config)}" + (f":{port}" if port else "")


def address_url(route: JsonObject) -> str:
    """Where other workloads of the cluster reach the Route."""
    return f"http://{name_of(route)}.{namespace_of(route)}.{CLUSTER_LOCAL}"


def _checked(host: str, name: str, template: str) -> str:
    label = next((label for label in host.split(".") if not _LABEL.fullmatch(label)), None)
    if label is not None:
        raise DomainError(
            f'{template} makes "{host}", whose part "{label}" is not a DNS label: '
            "1 to 63 letters, digits and inner dashes"
        )
    if len(host) > _HOST_LIMIT:
        raise DomainError(f'{template} makes "{host}" of "{name}", over {_HOST_LIMIT} characters')
    return host
