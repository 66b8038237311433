"""The ConfigMaps: each key is explained, and what the explanation shows is the default."""

from __future__ import annotations

from collections import UserDict
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.apis.validation import example_checksum
from controller.config.store import CONFIG_MAP_NAMES, NAMESPACE, Config, update

CONFIG = Path(__file__).parents[2] / "deploy" / "config"


class Asked(UserDict[str, str]):
    """A ConfigMap's data that remembers which keys it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.keys_seen: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.keys_seen.add(key)
        return super().get(key, default)


@pytest.fixture(params=CONFIG_MAP_NAMES)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def config_map(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CONFIG / f"{name}.yaml").read_text())
    return found


def test_there_is_one_for_each() -> None:
    """Each map that the code reads has its file, and no other map has one."""
    assert {path.stem for path in CONFIG.glob("*.yaml")} == set(CONFIG_MAP_NAMES)


def test_place(name: str, config_map: dict[str, Any]) -> None:
    """Each lies where the controllers look, under the name of its file."""
    meta = config_map["metadata"]
    assert (config_map["kind"], meta["name"], meta["namespace"]) == ("ConfigMap", name, NAMESPACE)
    assert meta["labels"]["app.kubernetes.io/part-of"] == "knative-serving"


def test_as_delivered_it_changes_nothing(name: str, config_map: dict[str, Any]) -> None:
    """Installing the files sets nothing: they document."""
    assert update(Config(), name, config_map["data"]) == Config()


def test_the_example_shows_the_defaults(name: str, config_map: dict[str, Any]) -> None:
    """Whoever copies a line out of the example changes nothing by it, and knows the default."""
    example = yaml.safe_load(config_map["data"]["_example"]) or {}
    assert all(isinstance(value, str) for value in example.values())
    assert update(Config(), name, example) == Config()


def test_every_key_is_explained(name: str, config_map: dict[str, Any]) -> None:
    """The example names each key the code reads, and no other."""
    asked = Asked()
    update(Config(), name, asked)
    example = yaml.safe_load(config_map["data"]["_example"]) or {}
    assert set(example) == asked.keys_seen


def test_the_checksum_is_the_examples(config_map: dict[str, Any]) -> None:
    """Admission compares the two; whoever changes an example changes its checksum."""
    checksum = config_map["metadata"]["annotations"]["knative.dev/example-checksum"]
    assert checksum == example_checksum(config_map["data"]["_example"])
