"""config-deployment: every key, its default and its bounds."""

import pytest

from controller.config.deployment import DeploymentConfig, parse

CLASSES = "plain: {}\nkata:\n  selector: {sandbox: 'yes'}\nb-kata:\n  selector: {sandbox: 'yes'}\n"


def test_defaults_are_knatives() -> None:
    """Without a sidecar and a tag resolver their keys are no settings; the rest is Knative's."""
    assert parse({"queue-sidecar-image": "ignored", "digest-resolution-timeout": "never"}) == DeploymentConfig()


def test_every_key_is_read() -> None:
    """Each key sets its field."""
    config = parse(
        {
            "progress-deadline": "2m",
            "default-affinity-type": "none",
            "runtime-class-name": CLASSES,
            "pod-is-always-schedulable": "true",
        }
    )
    assert config.progress_deadline == 120.0
    assert config.spread_over_nodes is False
    assert config.pod_is_always_schedulable is True


@pytest.mark.parametrize(("labels", "name"), [({"sandbox": "yes"}, "b-kata"), ({}, "plain")])
def test_runtime_class(labels: dict[str, str], name: str) -> None:
    """The longest selector wins, then the smallest name."""
    assert parse({"runtime-class-name": CLASSES}).runtime_class_for(labels) == name


def test_no_runtime_class() -> None:
    """Without the key a revision gets Kubernetes' own runtime class."""
    assert parse({}).runtime_class_for({}) is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"progress-deadline": "0s"}, "at least 1s"),
        ({"progress-deadline": "1500ms"}, "whole seconds"),
        ({"default-affinity-type": "spread"}, "one of prefer-spread-revision-over-nodes, none"),
        ({"runtime-class-name": "kata"}, "must be YAML"),
        ({"runtime-class-name": "kata: {selector: [a]}"}, "must be YAML"),
        ({"runtime-class-name": "kata: [a]"}, "must be YAML"),
        ({"runtime-class-name": "kata: {"}, "must be YAML"),
        ({"pod-is-always-schedulable": "2"}, "true or false"),
    ],
)
def test_bounds(refusal, data: dict[str, str], words: str) -> None:
    """Out of bounds: the error names the map, the key and what would be right."""
    message = refusal(parse, data)
    assert message.startswith("config-deployment: ")
    assert words in message
