"""All ConfigMaps together."""

import pytest

from controller.config.reading import ConfigError
from controller.config.store import CONFIG_MAP_NAMES, Config, update


@pytest.mark.parametrize("name", CONFIG_MAP_NAMES)
def test_an_empty_map_is_the_defaults(name: str) -> None:
    """A map without data, or with documentation only, says nothing."""
    assert update(Config(), name, {}) == Config()
    assert update(Config(), name, {"_example": "min-scale: what?"}) == Config()


def test_update_replaces_one_map() -> None:
    """Keys that are taken out of a map get their defaults back; other maps stay."""
    config = update(Config(), "config-gc", {"min-non-active-revisions": "3"})
    config = update(config, "config-autoscaler", {"min-scale": "2"})
    assert (config.gc.min_non_active_revisions, config.autoscaler.min_scale) == (3, 2)
    assert update(config, "config-gc", {}).gc == Config().gc


def test_a_bad_map_leaves_the_old_value() -> None:
    config = Config()
    with pytest.raises(ConfigError, match="config-autoscaler: min-scale"):
        update(config, "config-autoscaler", {"min-scale": "many"})
    assert config == Config()


def test_other_maps_are_not_ours() -> None:
    config = Config()
    assert update(config, "kube-root-ca.crt", {"ca.crt": "-----"}) is config
