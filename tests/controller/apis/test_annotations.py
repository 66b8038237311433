"""Autoscaling annotations: spellings, bounds, and what a running autoscaler makes of a bad one."""

import pytest

from controller.apis.annotations import (
    KEYS,
    AutoscalingAnnotations,
    parse_autoscaling,
    validate_autoscaling,
)
from controller.config.store import Config, update

A = "autoscaling.knative.dev/"
EVERYTHING = {
    A + "class": "kpa.autoscaling.knative.dev",
    A + "metric": "rps",
    A + "target": "12.5",
    A + "target-utilization-percentage": "80",
    A + "min-scale": "1",
    A + "max-scale": "10",
    A + "initial-scale": "3",
    A + "activation-scale": "4",
    A + "window": "2m",
    A + "panic-window-percentage": "20",
    A + "panic-threshold-percentage": "150",
    A + "target-burst-capacity": "-1",
    A + "scale-down-delay": "15m",
    A + "scale-to-zero-pod-retention-period": "1m30s",
    A + "metric-aggregation-algorithm": "weightedExponential",
    "autoscaling.zerogate.dev/paused": "true",
}
VALUES = AutoscalingAnnotations(
    autoscaler_class="kpa.autoscaling.knative.dev",
    metric="rps",
    target=12.5,
    target_utilization_percentage=80.0,
    min_scale=1,
    max_scale=10,
    initial_scale=3,
    activation_scale=4,
    window=120.0,
    panic_window_percentage=20.0,
    panic_threshold_percentage=150.0,
    target_burst_capacity=-1.0,
    scale_down_delay=900.0,
    scale_to_zero_pod_retention_period=90.0,
    metric_aggregation_algorithm="weighted-exponential",
    paused=True,
)


def _texts(annotations: dict[str, str], config: Config | None = None) -> list[str]:
    return [str(error) for error in validate_autoscaling(annotations, config or Config(), "annotations")]


def test_every_annotation() -> None:
    """Each key of autoscaling.knative.dev, and ours, is read into its field, in seconds and numbers, and is allowed."""
    assert parse_autoscaling(EVERYTHING, Config()) == VALUES
    assert _texts(EVERYTHING) == []


def test_legacy_spellings() -> None:
    """camelCase is read like kebab-case, and loses against it."""
    camel = {keys[-1]: EVERYTHING[keys[0]] for keys in KEYS.values()}
    assert parse_autoscaling(camel, Config()) == VALUES
    assert parse_autoscaling({A + "minScale": "5", A + "min-scale": "2"}, Config()).min_scale == 2


def test_nothing_annotated() -> None:
    """Other annotations are nobody's business here."""
    assert parse_autoscaling({"a": "b", A + "unknown": "c"}, Config()) == AutoscalingAnnotations()


def test_a_bad_value_counts_as_absent() -> None:
    """The autoscaler goes on with what is left."""
    found = parse_autoscaling({A + "min-scale": "many", A + "max-scale": "3"}, Config())
    assert (found.min_scale, found.max_scale) == (None, 3)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("class", "new.autoscaling.knative.dev", "invalid value: new.autoscaling.knative.dev"),
        ("class", "", "invalid value: "),
        ("metric", "cpu", "invalid value: cpu"),
        ("target", "0.001", "target 0.001 should be at least 0.01"),
        ("target", "NaN", "invalid value: NaN"),
        ("target-utilization-percentage", "0", "expected 1 <= 0 <= 100"),
        ("target-utilization-percentage", "100.1", "expected 1 <= 100.1 <= 100"),
        ("min-scale", "-1", "expected 0 <= -1 <= 2147483647"),
        ("min-scale", "1.5", "invalid value: 1.5"),
        ("max-scale", "9999999999", "expected 0 <= 9999999999 <= 2147483647"),
        ("initial-scale", "0", "invalid value: 0"),
        ("initial-scale", "-1", "expected 0 <= -1 <= 2147483647"),
        ("activation-scale", "1", "expected 2 <= 1 <= 2147483647"),
        ("window", "5s", "expected 6s <= 5s <= 1h0m0s"),
        ("window", "61m", "expected 6s <= 61m <= 1h0m0s"),
        ("window", "6500ms", "invalid value: 6500ms"),
        ("window", "6", "invalid value: 6"),
        ("panic-window-percentage", "0.9", "expected 1 <= 0.9 <= 100"),
        ("panic-threshold-percentage", "109", "expected 110 <= 109 <= 1000"),
        ("panic-threshold-percentage", "1001", "expected 110 <= 1001 <= 1000"),
        ("target-burst-capacity", "-2", "expected -1 or at least 0, got -2"),
        ("scale-down-delay", "-1s", "expected 0s <= -1s <= 1h0m0s"),
        ("scale-down-delay", "1.5s", "invalid value: 1.5s"),
        ("scale-to-zero-pod-retention-period", "2h", "expected 0s <= 2h <= 1h0m0s"),
    ],
)
def test_bounds(key: str, value: str, problem: str) -> None:
    """Out of bounds: the error names the annotation, in the spelling that was used."""
    [text] = _texts({A + key: value})
    assert text.split("\n")[0] == f"{problem}: annotations.{A}{key}"
    assert parse_autoscaling({A + key: value}, Config()) == AutoscalingAnnotations()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("class", "mine.example.com"),
        ("class", "hpa.autoscaling.knative.dev"),
        ("max-scale", "0"),
        ("target-burst-capacity", "0"),
        ("window", "6s"),
        ("window", "1h"),
        ("scale-to-zero-pod-retention-period", "1500ms"),
        ("metric-aggregation-algorithm", "anything"),
    ],
)
def test_inside_the_bounds(key: str, value: str) -> None:
    """The ends of each range belong to it; classes and algorithms of others are not ours to judge."""
    assert _texts({A + key: value}) == []


def test_metric_depends_on_the_class() -> None:
    """Only the KPA is limited to concurrency and rps."""
    assert _texts({A + "class": "hpa.autoscaling.knative.dev", A + "metric": "cpu"}) == []
    assert _texts({A + "class": "kpa.autoscaling.knative.dev", A + "metric": "cpu"})[0].startswith("invalid value: cpu")


def test_algorithm_depends_on_the_class() -> None:
    """Only an explicit KPA class limits the algorithm."""
    algorithm = {A + "metric-aggregation-algorithm": "guess"}
    assert _texts({**algorithm, A + "class": "kpa.autoscaling.knative.dev"})[0].startswith("invalid value: guess")


@pytest.mark.parametrize(
    ("annotations", "problem"),
    [
        ({"min-scale": "5", "max-scale": "3"}, "max-scale=3 is less than min-scale=5"),
        ({"min-scale": "5", "activation-scale": "3"}, "activation-scale=3 is less than min-scale=5"),
        ({"max-scale": "2", "activation-scale": "3"}, "activation-scale=3 is greater than max-scale=2"),
    ],
)
def test_between_annotations(annotations: dict[str, str], problem: str) -> None:
    """Scales that contradict one another are refused, naming both."""
    [text] = _texts({A + key: value for key, value in annotations.items()})
    assert text.startswith(problem)


def test_bounds_that_the_operator_sets() -> None:
    """max-scale-limit bounds an explicit max-scale; allow-zero-initial-scale admits 0."""
    limited = update(Config(), "config-autoscaler", {"max-scale-limit": "5", "max-scale": "5"})
    assert _texts({A + "max-scale": "6"}, limited) == [f"expected 1 <= 6 <= 5: annotations.{A}max-scale"]
    assert _texts({A + "max-scale": "0"}, limited) == [f"expected 1 <= 0 <= 5: annotations.{A}max-scale"]
    zero = update(Config(), "config-autoscaler", {"allow-zero-initial-scale": "true"})
    assert _texts({A + "initial-scale": "0"}, zero) == []
