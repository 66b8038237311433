"""config-gc: every key, its default and its bounds."""

import pytest

from controller.config.gc import GcConfig, parse


def test_defaults_are_knatives() -> None:
    assert parse({}) == GcConfig()


def test_every_key_is_read() -> None:
    keys = ("retain-since-create-time", "retain-since-last-active-time")
    config = parse({keys[0]: "1h", keys[1]: "30m", "min-non-active-revisions": "0", "max-non-active-revisions": "0"})
    assert config == GcConfig(3600.0, 1800.0, 0, 0)
    assert parse(dict.fromkeys((*keys, "max-non-active-revisions"), "Disabled")) == GcConfig(None, None, 20, None)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"retain-since-create-time": "-1h"}, "a duration"),
        ({"retain-since-last-active-time": "off"}, "a duration"),
        ({"min-non-active-revisions": "disabled"}, "a whole number"),
        ({"max-non-active-revisions": "19"}, "at least min-non-active-revisions, which is 20"),
    ],
)
def test_bounds(refusal, data: dict[str, str], words: str) -> None:
    """Out of bounds: the error names the map, the key and what would be right."""
    message = refusal(parse, data)
    assert message.startswith("config-gc: ")
    assert words in message
