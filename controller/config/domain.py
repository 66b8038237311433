"""config-domain: which domain a Route's host names end in.

Each key is a domain; its value is empty or YAML with a `selector` (labels, all of which a Route must have). The most
specific match wins, ties go to the smallest domain; a domain without a selector is the default. With no default a Route
that nothing selects is visible inside the cluster only. Knative's `type` is about certificates and ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from controller.apis import labels
from controller.config.reading import ConfigError, Reader

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "config-domain"
CLUSTER_DOMAIN = "cluster.local"
"""The suffix of in-cluster names."""
CLUSTER_LOCAL = f"svc.{CLUSTER_DOMAIN}"
"""The "domain" of a Route that is visible inside the cluster only."""
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_LENGTH = 253


@dataclass(frozen=True, slots=True)
class Domain:
    """One entry: `selector` are the labels and values that a Route must have, sorted; none selects every Route."""

    name: str
    selector: tuple[tuple[str, str], ...] = ()

    def selects(self, route_labels: Mapping[str, str]) -> bool:
        """Whether a Route with these labels belongs to this domain, were it the only one."""
        return all(route_labels.get(key) == value for key, value in self.selector)


@dataclass(frozen=True, slots=True)
class DomainConfig:
    """The entries, sorted as they are tried: longest selector first, then by name."""

    domains: tuple[Domain, ...] = ()

    def domain_for(self, route_labels: Mapping[str, str]) -> str:
        """The domain of a Route with these labels; `CLUSTER_LOCAL` if its visibility label or the lack of a default
        says so."""
        if route_labels.get(labels.VISIBILITY) == labels.CLUSTER_LOCAL:
            return CLUSTER_LOCAL
        return next((domain.name for domain in self.domains if domain.selects(route_labels)), CLUSTER_LOCAL)


def parse(data: Mapping[str, str]) -> DomainConfig:
    """The map's values. Raises ConfigError."""
    read = Reader(NAME, data)
    domains = [_domain(read, key) for key in data if not key.startswith("_")]
    return DomainConfig(tuple(sorted(domains, key=lambda domain: (-len(domain.selector), domain.name))))


def _domain(read: Reader, key: str) -> Domain:
    if len(key) > _LENGTH or not _DOMAIN.fullmatch(key):
        raise ConfigError(f'{NAME}: "{key}" is not a domain name, must be one such as example.com in lower case')
    wanted = 'empty, or YAML with "selector" (a map of labels)'
    try:
        value = yaml.safe_load(read.data[key]) or {}
    except yaml.YAMLError as error:
        raise read.error(key, wanted) from error
    if not isinstance(value, dict):
        raise read.error(key, wanted)
    selector = value.get("selector") or {}
    if not isinstance(selector, dict) or not all(isinstance(v, str) for pair in selector.items() for v in pair):
        raise read.error(key, wanted)
    return Domain(key, tuple(sorted(selector.items())))
