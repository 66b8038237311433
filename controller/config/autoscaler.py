"""config-autoscaler: how the KPA scales where a revision's own annotations say nothing."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from controller.apis.annotations import KPA_CLASS, TARGET_MIN, WINDOW_MAX, WINDOW_MIN
from controller.config.reading import ConfigError, Reader

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "config-autoscaler"


@dataclass(frozen=True, slots=True)
class AutoscalerConfig:
    """Times in seconds, percentages in percent (70.0 is 70 %). `max_scale` and `max_scale_limit` 0 mean none;
    `target_burst_capacity` -1 means unlimited."""

    enable_scale_to_zero: bool = True
    allow_zero_initial_scale: bool = False
    initial_scale: int = 1
    min_scale: int = 0
    max_scale: int = 0
    max_scale_limit: int = 0
    max_scale_up_rate: float = 1000.0
    max_scale_down_rate: float = 2.0
    container_concurrency_target_percentage: float = 70.0
    container_concurrency_target_default: float = 100.0
    requests_per_second_target_default: float = 200.0
    target_burst_capacity: float = 211.0
    activator_capacity: float = 100.0
    panic_window_percentage: float = 10.0
    panic_threshold_percentage: float = 200.0
    stable_window: float = 60.0
    scale_to_zero_grace_period: float = 30.0
    scale_to_zero_pod_retention_period: float = 0.0
    scale_down_delay: float = 0.0
    pod_autoscaler_class: str = KPA_CLASS


KEYS = tuple(field.name.replace("_", "-") for field in fields(AutoscalerConfig))
"""The keys that are read."""


def parse(data: Mapping[str, str]) -> AutoscalerConfig:
    """The map's values. Raises ConfigError."""
    read = Reader(NAME, data)
    config = AutoscalerConfig(
        enable_scale_to_zero=read.boolean("enable-scale-to-zero", True),
        allow_zero_initial_scale=read.boolean("allow-zero-initial-scale", False),
        initial_scale=read.integer("initial-scale", 1),
        min_scale=read.integer("min-scale", 0),
        max_scale=read.integer("max-scale", 0),
        max_scale_limit=read.integer("max-scale-limit", 0),
        max_scale_up_rate=read.number("max-scale-up-rate", 1000.0, low=1.0, above=True),
        max_scale_down_rate=read.number("max-scale-down-rate", 2.0, low=1.0, above=True),
        container_concurrency_target_percentage=_percentage(read),
        container_concurrency_target_default=read.number("container-concurrency-target-default", 100.0, low=TARGET_MIN),
        requests_per_second_target_default=read.number("requests-per-second-target-default", 200.0, low=TARGET_MIN),
        target_burst_capacity=_burst_capacity(read),
        activator_capacity=read.number("activator-capacity", 100.0, low=1.0),
        panic_window_percentage=read.number("panic-window-percentage", 10.0, low=1.0, high=100.0),
        # Only the annotation's twin is bounded (110-1000); Knative leaves the operator's own default alone.
        panic_threshold_percentage=read.number("panic-threshold-percentage", 200.0, low=0.0, above=True),
        stable_window=read.duration("stable-window", 60.0, low=WINDOW_MIN, high=WINDOW_MAX, whole=True),
        scale_to_zero_grace_period=read.duration("scale-to-zero-grace-period", 30.0, low=0.001),
        scale_to_zero_pod_retention_period=read.duration("scale-to-zero-pod-retention-period", 0.0),
        scale_down_delay=read.duration("scale-down-delay", 0.0, whole=True),
        pod_autoscaler_class=read.text("pod-autoscaler-class", KPA_CLASS),
    )
    _check(read, config)
    return config


def _percentage(read: Reader) -> float:
    value = read.number("container-concurrency-target-percentage", 70.0, low=0.0, high=100.0, above=True)
    # Old installations wrote the fraction 0.7; Knative still takes anything up to 1 as one.
    return value * 100.0 if value <= 1.0 else value


def _burst_capacity(read: Reader) -> float:
    value = read.number("target-burst-capacity", 211.0, low=-1.0)
    if -1.0 < value < 0.0:
        raise read.error("target-burst-capacity", "a number of at least 0, or -1 for no limit")
    return value


def _check(read: Reader, config: AutoscalerConfig) -> None:
    """The rules between keys."""
    if config.initial_scale == 0 and not config.allow_zero_initial_scale:
        raise read.error("initial-scale", "at least 1 while allow-zero-initial-scale is false")
    if config.max_scale_limit and not 1 <= config.max_scale <= config.max_scale_limit:
        raise read.error("max-scale", f"from 1 to max-scale-limit, which is {config.max_scale_limit}")
    if config.max_scale and config.min_scale > config.max_scale:
        raise read.error("min-scale", f"at most max-scale, which is {config.max_scale}")
    target = config.container_concurrency_target_default * config.container_concurrency_target_percentage / 100.0
    if target < TARGET_MIN:
        raise ConfigError(
            f"{NAME}: container-concurrency-target-percentage of container-concurrency-target-default is {target:g}, "
            f"must be at least {TARGET_MIN:g}"
        )
