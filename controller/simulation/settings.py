"""Settings to compare, as a person writes them: `NAME:KEY=VALUE,KEY=VALUE…`.

A key is an autoscaling annotation without its prefix (`target=10`, `window=30s`), `container-concurrency`, or a key of
config-autoscaler (`max-scale-up-rate=2`). They are checked as admission checks them. The class is no setting: it is
the KPA that is simulated.
"""

from __future__ import annotations

from controller.apis.annotations import KEYS, validate_autoscaling
from controller.apis.labels import AUTOSCALING
from controller.config import autoscaler
from controller.config.reading import ConfigError
from controller.config.store import Config
from controller.simulation.world import Settings

__all__ = ["SettingsError", "parse_settings"]

_LIMIT = "container-concurrency"
_ANNOTATIONS = {
    key.removeprefix(AUTOSCALING) for keys in KEYS.values() for key in keys if key.startswith(AUTOSCALING)
} - {"class"}
_CONFIG_KEYS = set(autoscaler.KEYS) - {"pod-autoscaler-class"}
_LIMIT_MAX = 1000


class SettingsError(ValueError):
    """A text that is no settings; says what would be right."""


def parse_settings(text: str) -> tuple[str, Settings]:
    """The name and what it stands for. Raises SettingsError."""
    name, _, rest = text.partition(":")
    if not name or "=" in name:
        raise SettingsError(f"{text!r} should be NAME:KEY=VALUE,…, like fast:window=30s,target=10")
    annotations: dict[str, str] = {}
    configured: dict[str, str] = {}
    limit = 0
    for pair in rest.split(",") if rest else ():
        key, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"{pair!r} of {name} should be KEY=VALUE")
        if key == _LIMIT:
            limit = _limit(name, value)
        elif key in _ANNOTATIONS:
            annotations[key] = value
        elif key in _CONFIG_KEYS:
            configured[key] = value
        else:
            known = ", ".join(sorted({_LIMIT, *_ANNOTATIONS, *_CONFIG_KEYS}))
            raise SettingsError(f"{name}: there is no setting {key!r}; there are: {known}")
    config = _config(name, configured)
    errors = validate_autoscaling({AUTOSCALING + key: value for key, value in annotations.items()}, config, "")
    if errors:
        raise SettingsError(f"{name}: " + "; ".join(" ".join(str(error).split()) for error in errors))
    return name, Settings(annotations, limit, config)


def _limit(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 5 and int(value) <= _LIMIT_MAX):
        raise SettingsError(f"{name}: {_LIMIT} is {value!r}, must be a whole number from 0 to {_LIMIT_MAX}")
    return int(value)


def _config(name: str, data: dict[str, str]) -> Config:
    try:
        return Config(autoscaler=autoscaler.parse(data))
    except ConfigError as error:
        raise SettingsError(f"{name}: {error}") from error
