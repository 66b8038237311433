"""All ConfigMaps together."""

import pytest

from controller.config.reading import ConfigError
from controller.config.store import CONFIG_MAP_NAMES, Config, update, without


@pytest.mark.parametrize("name", CONFIG_MAP_NAMES)
def test_an_empty_map_is_the_defaults(name: str) -> None:
    """A map without data, or with documentation only, says nothing."""
    assert update(Config(), name, {}) == Config()
    assert update(Config(), name, {"_example": "min-scale: what?"}) == Config()


def test_update_replaces_one_map() -> None:
    """Keys that are taken out of a map get their defaults back; other maps stay."""
    config = update(Config(), "config-network", {"external-port": "8080"})
    config = update(config, "config-autoscaler", {"min-scale": "2"})
    assert (config.network.external_port, config.autoscaler.min_scale) == (8080, 2)
    assert update(config, "config-network", {}).network == Config().network


def test_a_map_that_is_deleted_gives_defaults_back_but_no_route_loses_its_domain() -> None:
    """There is no default domain, so the old ones stay until a new map names others."""
    config = update(Config(), "config-domain", {"example.com": ""})
    config = update(config, "config-network", {"external-port": "8080"})
    assert without(config, "config-network").network == Config().network
    assert without(config, "config-domain") == config


def test_a_bad_map_leaves_the_old_value() -> None:
    """It raises; what the caller held still stands."""
    config = Config()
    with pytest.raises(ConfigError, match="config-autoscaler: min-scale"):
        update(config, "config-autoscaler", {"min-scale": "many"})
    assert config == Config()


def test_other_maps_are_not_ours() -> None:
    """A map that nothing here reads changes nothing, whether Knative has one of its name or not."""
    config = Config()
    assert update(config, "kube-root-ca.crt", {"ca.crt": "-----"}) is config
    assert update(config, "config-gc", {"min-non-active-revisions": "many"}) is config


def test_knatives_other_keys_are_ignored() -> None:
    """What Knative knows and nothing here uses may stand in a map, with any value."""
    assert update(Config(), "config-network", {"rollout-duration": "soon", "external-domain-tls": "?"}) == Config()
