from __future__ import annotations

import pytest

from controller.simulation.settings import SettingsError, parse_settings


def test_annotations_limit_and_configuration() -> None:
    """Each key goes where it belongs."""
    name, settings = parse_settings("quick:target=10,window=30s,container-concurrency=5,max-scale-up-rate=2")
    assert name == "quick"
    assert settings.annotations == {"target": "10", "window": "30s"}
    assert settings.container_concurrency == 5
    assert settings.config.autoscaler.max_scale_up_rate == 2.0


def test_a_name_alone_is_the_defaults() -> None:
    """With or without its colon."""
    assert parse_settings("default:")[1].annotations == parse_settings("default")[1].annotations == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("window=30s", ["NAME:KEY=VALUE"]),
        ("", ["NAME:KEY=VALUE"]),
        ("a:window", ["'window'", "KEY=VALUE"]),
        ("a:windows=30s", ["'windows'", "window"]),
        ("a:window=1s", ["a:", "6s"]),
        ("a:class=hpa.autoscaling.knative.dev", ["'class'"]),
        ("a:pod-autoscaler-class=hpa.autoscaling.knative.dev", ["'pod-autoscaler-class'"]),
        ("a:container-concurrency=-1", ["whole number"]),
        ("a:max-scale-up-rate=0.5", ["max-scale-up-rate", "above 1"]),
        ("a:min-scale=5,max-scale=2", ["max-scale=2 is less than min-scale=5"]),
    ],
)
def test_what_is_no_settings(text: str, words: list[str]) -> None:
    """Is refused as admission would, in one line."""
    with pytest.raises(SettingsError) as caught:
        parse_settings(text)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
