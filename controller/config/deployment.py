"""config-deployment: how a revision becomes a Deployment.

Knative's `queue-sidecar-*` keys are not read: there is no sidecar, its limits and statistics are the gateway's. Nor
are those about resolving tags: images are passed on as they are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from controller.config.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "config-deployment"
PREFER_SPREAD = "prefer-spread-revision-over-nodes"


@dataclass(frozen=True, slots=True)
class RuntimeClass:
    """A runtimeClassName for the revisions whose labels contain `selector`."""

    name: str
    selector: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class DeploymentConfig:
    """Times in seconds."""

    progress_deadline: float = 600.0
    spread_over_nodes: bool = True
    runtime_classes: tuple[RuntimeClass, ...] = ()
    pod_is_always_schedulable: bool = False

    def runtime_class_for(self, revision_labels: Mapping[str, str]) -> str | None:
        """The class with the longest matching selector, the smallest name among equals; None for Kubernetes' own."""
        for choice in self.runtime_classes:
            if all(revision_labels.get(key) == value for key, value in choice.selector):
                return choice.name
        return None


def parse(data: Mapping[str, str]) -> DeploymentConfig:
    """The map's values. Raises ConfigError."""
    read = Reader(NAME, data)
    affinity = read.choice("default-affinity-type", PREFER_SPREAD, (PREFER_SPREAD, "none"))
    return DeploymentConfig(
        progress_deadline=read.duration("progress-deadline", 600.0, low=1.0, whole=True),
        spread_over_nodes=affinity == PREFER_SPREAD,
        runtime_classes=_runtime_classes(read),
        pod_is_always_schedulable=read.boolean("pod-is-always-schedulable", False),
    )


def _runtime_classes(read: Reader) -> tuple[RuntimeClass, ...]:
    key = "runtime-class-name"
    wanted = 'YAML: runtime class names, each with an optional "selector" (a map of labels)'
    try:
        value = yaml.safe_load(read.data.get(key, "")) or {}
    except yaml.YAMLError as error:
        raise read.error(key, wanted) from error
    if not isinstance(value, dict):
        raise read.error(key, wanted)
    classes = []
    for name, body in value.items():
        selector = (body or {}).get("selector") or {} if isinstance(body, dict | None) else None
        texts = None if not isinstance(selector, dict) else [name, *selector, *selector.values()]
        if selector is None or texts is None or not all(isinstance(text, str) for text in texts):
            raise read.error(key, wanted)
        classes.append(RuntimeClass(name, tuple(sorted(selector.items()))))
    return tuple(sorted(classes, key=lambda choice: (-len(choice.selector), choice.name)))
