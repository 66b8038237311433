"""config-features: every gate has a key, and the values are three words in any case."""

from dataclasses import fields

import pytest

from controller.config.features import FeaturesConfig, Gate, SecurePodDefaults, key_of, parse


def test_defaults_are_knatives() -> None:
    """Several containers and emptyDir volumes are open, everything else is closed."""
    config = parse({})
    assert config == FeaturesConfig()
    opened = {item.name for item in fields(config) if getattr(config, item.name) is Gate.ENABLED}
    assert opened == {"multi_container", "podspec_volumes_emptydir"}


@pytest.mark.parametrize("name", [item.name for item in fields(FeaturesConfig) if item.name != "secure_pod_defaults"])
def test_every_gate(name: str) -> None:
    """A gate's key sets its field only."""
    changed = parse({key_of(name): "allowed"})
    assert [item.name for item in fields(changed) if getattr(changed, item.name) is Gate.ALLOWED] == [name]
    assert getattr(changed, name).open


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("multi_container", "multi-container"),
        ("podspec_hostnetwork", "kubernetes.podspec-hostnetwork"),
        ("podspec_volumes_mount_propagation", "kubernetes.podspec-volumes-mount-propagation"),
        ("containerspec_addcapabilities", "kubernetes.containerspec-addcapabilities"),
    ],
)
def test_keys(name: str, key: str) -> None:
    """A field about pods or containers has Knative's prefix in its key."""
    assert key_of(name) == key


def test_secure_pod_defaults() -> None:
    """The one key with three words of its own, in any case."""
    assert (
        parse({"secure-pod-defaults": "allowrootbounded"}).secure_pod_defaults is SecurePodDefaults.ALLOW_ROOT_BOUNDED
    )


def test_other_words(refusal) -> None:
    """A word that is none of the three is refused, and the three are named."""
    message = refusal(parse, {"multi-container": "on"})
    assert message == 'config-features: multi-container is "on", must be one of Enabled, Allowed, Disabled'
