"""The autoscaling annotations of a revision: read, and refused where they make no sense.

One table holds every annotation: its spellings (kebab-case before the legacy camelCase; with both, kebab-case wins)
and the function that turns its text into a value. Validation reports what such a function refuses, with Knative's
bounds; `parse_autoscaling` takes a refused value for an absent one, because a pod autoscaler must go on scaling even
if its annotations were written before a bound was tightened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from controller.apis.durations import format_duration, parse_duration
from controller.apis.fielderror import FieldError, invalid, join, out_of_bounds
from controller.apis.labels import AUTOSCALING, AUTOSCALING_PAUSED
from controller.apis.quantities import parse_integer, parse_number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from controller.config.store import Config

__all__ = ["KEYS", "AutoscalingAnnotations", "parse_autoscaling", "parse_duration", "validate_autoscaling"]

KPA_CLASS = "kpa.autoscaling.knative.dev"
HPA_CLASS = "hpa.autoscaling.knative.dev"
CONCURRENCY, RPS = "concurrency", "rps"
CPU, MEMORY = "cpu", "memory"
LINEAR, WEIGHTED_EXPONENTIAL = "linear", "weighted-exponential"

INT32_MAX = 2**31 - 1
TARGET_MIN = 0.01
"""The least target per pod; below it a single request would ask for hundreds of pods."""
WINDOW_MIN, WINDOW_MAX = 6.0, 3600.0
"""Bounds of a stable window in seconds: shorter than 6 s, its panic window would be less than one 1 s bucket."""
PANIC_THRESHOLD_MIN, PANIC_THRESHOLD_MAX = 110.0, 1000.0


@dataclass(frozen=True, slots=True)
class AutoscalingAnnotations:
    """What is annotated; None leaves it to config-autoscaler. Times in seconds, percentages in percent, `max_scale` 0
    no maximum, `target_burst_capacity` -1 unlimited."""

    autoscaler_class: str | None = None
    metric: str | None = None
    target: float | None = None
    target_utilization_percentage: float | None = None
    min_scale: int | None = None
    max_scale: int | None = None
    initial_scale: int | None = None
    activation_scale: int | None = None
    window: float | None = None
    panic_window_percentage: float | None = None
    panic_threshold_percentage: float | None = None
    target_burst_capacity: float | None = None
    scale_down_delay: float | None = None
    scale_to_zero_pod_retention_period: float | None = None
    metric_aggregation_algorithm: str | None = None
    paused: bool | None = None


class _Refused(ValueError):
    """A value that does not fit; carries the rest of a FieldError."""

    def __init__(self, error: FieldError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class _Context:
    """What a value's bounds depend on."""

    annotations: Mapping[str, str]
    config: Config

    @property
    def autoscaler_class(self) -> str:
        return self.annotations.get(AUTOSCALING + "class", self.config.autoscaler.pod_autoscaler_class)


def _autoscaler_class(text: str, path: str, _context: _Context) -> str:
    # The domain is reserved for Knative's own classes; anybody else's autoscaler is named under its own.
    if not text or (text.endswith(".knative.dev") and text not in (KPA_CLASS, HPA_CLASS)):
        raise _Refused(invalid(path, text))
    return text


def _metric(text: str, path: str, context: _Context) -> str:
    if not text or (context.autoscaler_class == KPA_CLASS and text not in (CONCURRENCY, RPS)):
        raise _Refused(invalid(path, text, f"the {KPA_CLASS} class scales on {CONCURRENCY} or {RPS}"))
    return text


def _number(text: str, path: str) -> float:
    try:
        return parse_number(text)
    except ValueError:
        raise _Refused(invalid(path, text)) from None


def _target(text: str, path: str, _context: _Context) -> float:
    value = _number(text, path)
    if value < TARGET_MIN:
        raise _Refused(FieldError(path, f"target {text} should be at least {TARGET_MIN:g}"))
    return value


def _between(low: float, high: float) -> Callable[[str, str, _Context], float]:
    def read(text: str, path: str, _context: _Context) -> float:
        value = _number(text, path)
        if not low <= value <= high:
            raise _Refused(out_of_bounds(path, text, f"{low:g}", f"{high:g}"))
        return value

    return read


def _burst_capacity(text: str, path: str, _context: _Context) -> float:
    value = _number(text, path)
    if value < 0 and value != -1:
        raise _Refused(FieldError(path, f"expected -1 or at least 0, got {text}"))
    return value


def _scale(text: str, path: str, low: int, high: int = INT32_MAX) -> int:
    try:
        value = parse_integer(text)
    except ValueError:
        raise _Refused(invalid(path, text, "must be a whole number")) from None
    if not low <= value <= high:
        raise _Refused(out_of_bounds(path, value, low, high))
    return value


def _min_scale(text: str, path: str, _context: _Context) -> int:
    return _scale(text, path, 0)


def _max_scale(text: str, path: str, context: _Context) -> int:
    limit = context.config.autoscaler.max_scale_limit
    return _scale(text, path, 1, limit) if limit else _scale(text, path, 0)


def _initial_scale(text: str, path: str, context: _Context) -> int:
    value = _scale(text, path, 0)
    if value == 0 and not context.config.autoscaler.allow_zero_initial_scale:
        raise _Refused(invalid(path, text, f"{AUTOSCALING}initial-scale=0 not allowed by cluster"))
    return value


def _activation_scale(text: str, path: str, _context: _Context) -> int:
    return _scale(text, path, 2)


def _period(low: float, high: float, *, whole: bool) -> Callable[[str, str, _Context], float]:
    def read(text: str, path: str, _context: _Context) -> float:
        try:
            value = parse_duration(text)
        except ValueError as error:
            raise _Refused(invalid(path, text, str(error))) from None
        if not low <= value <= high:
            raise _Refused(out_of_bounds(path, text, format_duration(low), format_duration(high)))
        if whole and value % 1:
            raise _Refused(invalid(path, text, "must be a whole number of seconds"))
        return value

    return read


def _algorithm(text: str, path: str, context: _Context) -> str:
    # Another class may bring its own algorithms, so only an explicit KPA class is held to these.
    known = {LINEAR: LINEAR, WEIGHTED_EXPONENTIAL: WEIGHTED_EXPONENTIAL, "weightedExponential": WEIGHTED_EXPONENTIAL}
    if text not in known and context.annotations.get(AUTOSCALING + "class") == KPA_CLASS:
        raise _Refused(invalid(path, text, f"must be {LINEAR} or {WEIGHTED_EXPONENTIAL}"))
    return known.get(text, text)


def _boolean(text: str, path: str, _context: _Context) -> bool:
    if text not in ("true", "false"):
        raise _Refused(invalid(path, text, 'must be "true" or "false"'))
    return text == "true"


def _spellings(name: str) -> tuple[str, ...]:
    first, *rest = name.split("-")
    camel = first + "".join(word.capitalize() for word in rest)
    return (AUTOSCALING + name,) if camel == name else (AUTOSCALING + name, AUTOSCALING + camel)


_RULES: dict[str, tuple[tuple[str, ...], Callable[[str, str, _Context], Any]]] = {
    "autoscaler_class": ((AUTOSCALING + "class",), _autoscaler_class),
    "metric": ((AUTOSCALING + "metric",), _metric),
    "target": ((AUTOSCALING + "target",), _target),
    "target_utilization_percentage": (_spellings("target-utilization-percentage"), _between(1, 100)),
    "min_scale": (_spellings("min-scale"), _min_scale),
    "max_scale": (_spellings("max-scale"), _max_scale),
    "initial_scale": (_spellings("initial-scale"), _initial_scale),
    "activation_scale": ((AUTOSCALING + "activation-scale",), _activation_scale),
    "window": ((AUTOSCALING + "window",), _period(WINDOW_MIN, WINDOW_MAX, whole=True)),
    "panic_window_percentage": (_spellings("panic-window-percentage"), _between(1, 100)),
    "panic_threshold_percentage": (
        _spellings("panic-threshold-percentage"),
        _between(PANIC_THRESHOLD_MIN, PANIC_THRESHOLD_MAX),
    ),
    "target_burst_capacity": (_spellings("target-burst-capacity"), _burst_capacity),
    "scale_down_delay": (_spellings("scale-down-delay"), _period(0.0, WINDOW_MAX, whole=True)),
    "scale_to_zero_pod_retention_period": (
        _spellings("scale-to-zero-pod-retention-period"),
        _period(0.0, WINDOW_MAX, whole=False),
    ),
    "metric_aggregation_algorithm": (_spellings("metric-aggregation-algorithm"), _algorithm),
    "paused": ((AUTOSCALING_PAUSED,), _boolean),
}

KEYS: dict[str, tuple[str, ...]] = {name: spellings for name, (spellings, _) in _RULES.items()}
"""The annotation keys of each field of `AutoscalingAnnotations`, the preferred spelling first."""


def parse_autoscaling(annotations: Mapping[str, str], config: Config) -> AutoscalingAnnotations:
    """The typed values; one that does not fit counts as absent."""
    values, _ = _read(annotations, config, "")
    return AutoscalingAnnotations(**values)


def validate_autoscaling(annotations: Mapping[str, str], config: Config, path: str) -> list[FieldError]:
    """What is wrong with the annotations at `path` (`spec.template.metadata.annotations`)."""
    values, errors = _read(annotations, config, path)
    return [*errors, *_between_annotations(AutoscalingAnnotations(**values), path)]


def _read(annotations: Mapping[str, str], config: Config, path: str) -> tuple[dict[str, Any], list[FieldError]]:
    context = _Context(annotations, config)
    values: dict[str, Any] = {}
    errors: list[FieldError] = []
    for name, (spellings, read) in _RULES.items():
        key = next((spelling for spelling in spellings if spelling in annotations), None)
        if key is None:
            continue
        try:
            values[name] = read(annotations[key], join(path, key), context)
        except _Refused as refused:
            errors.append(refused.error)
    return values, errors


def _between_annotations(values: AutoscalingAnnotations, path: str) -> list[FieldError]:
    low, high, activation = values.min_scale or 0, values.max_scale or 0, values.activation_scale
    keys = {name: join(path, KEYS[name][0]) for name in ("min_scale", "max_scale", "activation_scale")}
    errors = []
    if high and high < low:
        message = f"max-scale={high} is less than min-scale={low}"
        errors.append(FieldError(f"{keys['max_scale']}, {keys['min_scale']}", message))
    if activation is not None and activation < low:
        message = f"activation-scale={activation} is less than min-scale={low}"
        errors.append(FieldError(f"{keys['activation_scale']}, {keys['min_scale']}", message))
    if activation is not None and high and activation > high:
        message = f"activation-scale={activation} is greater than max-scale={high}"
        errors.append(FieldError(f"{keys['activation_scale']}, {keys['max_scale']}", message))
    return errors
