"""config-autoscaler: every key, its default and its bounds."""

import pytest

from controller.config.autoscaler import AutoscalerConfig, parse


def test_defaults_are_knatives() -> None:
    """An empty map gives the numbers of Knative's own config-autoscaler."""
    config = parse({})
    assert config == AutoscalerConfig()
    assert (config.stable_window, config.max_scale_up_rate, config.target_burst_capacity) == (60.0, 1000.0, 211.0)


def test_every_key_is_read() -> None:
    """Each key sets its field; durations become seconds."""
    config = parse(
        {
            "_example": "ignored",
            "unknown": "ignored too",
            "enable-scale-to-zero": "false",
            "allow-zero-initial-scale": "true",
            "initial-scale": "0",
            "min-scale": "1",
            "max-scale": "9",
            "max-scale-limit": "10",
            "max-scale-up-rate": "10",
            "max-scale-down-rate": "1.5",
            "container-concurrency-target-percentage": "80",
            "container-concurrency-target-default": "50",
            "requests-per-second-target-default": "300",
            "target-burst-capacity": "-1",
            "activator-capacity": "50",
            "panic-window-percentage": "20",
            "panic-threshold-percentage": "150",
            "stable-window": "2m",
            "scale-to-zero-grace-period": "1m30s",
            "scale-to-zero-pod-retention-period": "500ms",
            "scale-down-delay": "1h",
            "pod-autoscaler-class": "mine.example.com",
        }
    )
    assert config == AutoscalerConfig(
        enable_scale_to_zero=False,
        allow_zero_initial_scale=True,
        initial_scale=0,
        min_scale=1,
        max_scale=9,
        max_scale_limit=10,
        max_scale_up_rate=10.0,
        max_scale_down_rate=1.5,
        container_concurrency_target_percentage=80.0,
        container_concurrency_target_default=50.0,
        requests_per_second_target_default=300.0,
        target_burst_capacity=-1.0,
        activator_capacity=50.0,
        panic_window_percentage=20.0,
        panic_threshold_percentage=150.0,
        stable_window=120.0,
        scale_to_zero_grace_period=90.0,
        scale_to_zero_pod_retention_period=0.5,
        scale_down_delay=3600.0,
        pod_autoscaler_class="mine.example.com",
    )


@pytest.mark.parametrize(("value", "percent"), [("0.7", 70.0), ("1.0", 100.0), ("70", 70.0), ("1.5", 1.5)])
def test_target_percentage_may_be_a_fraction(value: str, percent: float) -> None:
    """Up to 1 it is a fraction, as old installations wrote it."""
    found = parse({"container-concurrency-target-percentage": value}).container_concurrency_target_percentage
    assert found == pytest.approx(percent)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"enable-scale-to-zero": "yes"}, "must be true or false"),
        ({"initial-scale": "0"}, "at least 1 while allow-zero-initial-scale is false"),
        ({"initial-scale": "-1"}, "a whole number of at least 0"),
        ({"min-scale": "1_0"}, "a whole number"),
        ({"activator-capacity": "0.5"}, "a number of at least 1"),
        ({"min-scale": "3", "max-scale": "2"}, "at most max-scale, which is 2"),
        ({"max-scale-limit": "5"}, 'max-scale is "", must be from 1 to max-scale-limit, which is 5'),
        ({"max-scale-limit": "5", "max-scale": "6"}, "from 1 to max-scale-limit"),
        ({"max-scale-up-rate": "1.0"}, "a number above 1"),
        ({"max-scale-down-rate": "1"}, "a number above 1"),
        ({"container-concurrency-target-percentage": "0"}, "above 0 and at most 100"),
        ({"container-concurrency-target-percentage": "101"}, "above 0 and at most 100"),
        ({"container-concurrency-target-default": "0"}, "at least 0.01"),
        ({"container-concurrency-target-default": "0.01"}, "must be at least 0.01"),
        ({"requests-per-second-target-default": "nan"}, "at least 0.01"),
        ({"target-burst-capacity": "-0.5"}, "or -1 for no limit"),
        ({"target-burst-capacity": "-2"}, "must be"),
        ({"panic-window-percentage": "0.5"}, "at least 1 and at most 100"),
        ({"panic-threshold-percentage": "0"}, "above 0"),
        ({"stable-window": "5s"}, "at least 6s and at most 1h0m0s"),
        ({"stable-window": "61m"}, "at most 1h0m0s"),
        ({"stable-window": "6.5s"}, "whole seconds"),
        ({"scale-to-zero-grace-period": "0s"}, "a duration"),
        ({"scale-to-zero-pod-retention-period": "-1s"}, "a duration"),
        ({"scale-down-delay": "1500ms"}, "whole seconds"),
        ({"scale-down-delay": "soon"}, 'such as "90s"'),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bounds(refusal, data: dict[str, str], words: str) -> None:
    """Out of bounds: the error names the map, the key and what would be right."""
    message = refusal(parse, data)
    assert message.startswith("config-autoscaler: ")
    assert words in message
