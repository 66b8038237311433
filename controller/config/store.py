"""All ConfigMaps as one immutable value.

Each module beside this one parses one ConfigMap of the control plane's namespace into a frozen dataclass; `Config`
is all of them together, handed to every reconcile. `update` makes the next value from one map; a bad map raises and
the caller keeps the old value, so that a typo never takes a running system down.

A key is parsed once something uses it. Knative's other keys (TLS, rollouts, garbage collection and so on) are ignored
like any key nobody knows, so Knative's own ConfigMaps apply unchanged, and no key is here that does nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from controller.config import autoscaler, defaults, deployment, domain, features, network
from controller.config.autoscaler import AutoscalerConfig
from controller.config.defaults import DefaultsConfig
from controller.config.deployment import DeploymentConfig
from controller.config.domain import DomainConfig
from controller.config.features import FeaturesConfig
from controller.config.network import NetworkConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMESPACE = "knative-serving"
"""Where the ConfigMaps live."""


@dataclass(frozen=True, slots=True)
class Config:
    """What every ConfigMap says; without any map, Knative's defaults."""

    autoscaler: AutoscalerConfig = field(default_factory=AutoscalerConfig)
    defaults: DefaultsConfig = field(default_factory=DefaultsConfig)
    domain: DomainConfig = field(default_factory=DomainConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    deployment: DeploymentConfig = field(default_factory=DeploymentConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)


CONFIG_MAP_NAMES: tuple[str, ...] = tuple(
    module.NAME for module in (autoscaler, defaults, domain, network, deployment, features)
)


def without(config: Config, name: str) -> Config:
    """`config` when the ConfigMap `name` is gone: Knative's defaults, and the domains as they were, as for those there
    is no default. (Without any every Route would leave its public host.)"""
    return config if name == domain.NAME else update(config, name, {})


def update(config: Config, name: str, data: Mapping[str, str]) -> Config:
    """`config` with the ConfigMap `name` read anew; empty data gives its defaults back. A map that is not one of
    CONFIG_MAP_NAMES changes nothing. Raises ConfigError, and then the old value still holds."""
    match name:
        case autoscaler.NAME:
            return replace(config, autoscaler=autoscaler.parse(data))
        case defaults.NAME:
            return replace(config, defaults=defaults.parse(data))
        case domain.NAME:
            return replace(config, domain=domain.parse(data))
        case network.NAME:
            return replace(config, network=network.parse(data))
        case deployment.NAME:
            return replace(config, deployment=deployment.parse(data))
        case features.NAME:
            return replace(config, features=features.parse(data))
        case _:
            return config
