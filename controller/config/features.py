"""config-features: which parts of the API beyond Knative's core are open.

A gate is Enabled, Allowed or Disabled. Allowed admits what the user writes without switching anything on by itself;
so a gate over a field tests `is not DISABLED` (`Gate.open`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING

from controller.config.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "config-features"


class Gate(Enum):
    """See the module."""

    ENABLED = "Enabled"
    ALLOWED = "Allowed"
    DISABLED = "Disabled"

    @property
    def open(self) -> bool:
        """Whether users may write the field."""
        return self is not Gate.DISABLED


class SecurePodDefaults(Enum):
    """How strictly containers are defaulted: not at all, all but runAsNonRoot, or all."""

    DISABLED = "Disabled"
    ALLOW_ROOT_BOUNDED = "AllowRootBounded"
    ENABLED = "Enabled"


@dataclass(frozen=True, slots=True)
class FeaturesConfig:
    """A field for each key; `podspec_x` is the key `kubernetes.podspec-x`, named as in `KEYS`."""

    multi_container: Gate = Gate.ENABLED
    multi_container_probing: Gate = Gate.DISABLED
    autodetect_http2: Gate = Gate.DISABLED
    tag_header_based_routing: Gate = Gate.DISABLED
    secure_pod_defaults: SecurePodDefaults = SecurePodDefaults.DISABLED
    containerspec_addcapabilities: Gate = Gate.DISABLED
    podspec_affinity: Gate = Gate.DISABLED
    podspec_topologyspreadconstraints: Gate = Gate.DISABLED
    podspec_hostaliases: Gate = Gate.DISABLED
    podspec_nodeselector: Gate = Gate.DISABLED
    podspec_tolerations: Gate = Gate.DISABLED
    podspec_fieldref: Gate = Gate.DISABLED
    podspec_runtimeclassname: Gate = Gate.DISABLED
    podspec_securitycontext: Gate = Gate.DISABLED
    podspec_shareprocessnamespace: Gate = Gate.DISABLED
    podspec_hostipc: Gate = Gate.DISABLED
    podspec_hostpid: Gate = Gate.DISABLED
    podspec_hostnetwork: Gate = Gate.DISABLED
    podspec_priorityclassname: Gate = Gate.DISABLED
    podspec_schedulername: Gate = Gate.DISABLED
    podspec_init_containers: Gate = Gate.DISABLED
    podspec_dnspolicy: Gate = Gate.DISABLED
    podspec_dnsconfig: Gate = Gate.DISABLED
    podspec_persistent_volume_claim: Gate = Gate.DISABLED
    podspec_persistent_volume_write: Gate = Gate.DISABLED
    podspec_volumes_emptydir: Gate = Gate.ENABLED
    podspec_volumes_hostpath: Gate = Gate.DISABLED
    podspec_volumes_csi: Gate = Gate.DISABLED
    podspec_volumes_ephemeral: Gate = Gate.DISABLED
    podspec_volumes_image: Gate = Gate.DISABLED
    podspec_volumes_mount_propagation: Gate = Gate.DISABLED


def key_of(name: str) -> str:
    """The ConfigMap key of a field of `FeaturesConfig`."""
    for prefix in ("podspec_", "containerspec_"):
        if name.startswith(prefix):
            rest = name.removeprefix(prefix).replace("_", "-")
            return f"kubernetes.{prefix.removesuffix('_')}-{rest}"
    return name.replace("_", "-")


def parse(data: Mapping[str, str]) -> FeaturesConfig:
    """The map's values. Raises ConfigError."""
    read = Reader(NAME, data)
    defaults = FeaturesConfig()
    values: dict[str, Gate | SecurePodDefaults] = {}
    for item in fields(FeaturesConfig):
        default: Gate | SecurePodDefaults = getattr(defaults, item.name)
        kind = type(default)
        values[item.name] = kind(read.choice(key_of(item.name), default.value, [choice.value for choice in kind]))
    return FeaturesConfig(**values)  # type: ignore[arg-type]  # each value has the type of its field's default
