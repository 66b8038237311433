"""config-gc: when a revision that nothing routes to is deleted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.config.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "config-gc"
_DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class GcConfig:
    """Times in seconds; None means disabled."""

    retain_since_create_time: float | None = 48 * 3600.0
    retain_since_last_active_time: float | None = 15 * 3600.0
    min_non_active_revisions: int = 20
    max_non_active_revisions: int | None = 1000


def parse(data: Mapping[str, str]) -> GcConfig:
    """The map's values. Raises ConfigError."""
    read = Reader(NAME, data)
    config = GcConfig(
        retain_since_create_time=_retention(read, "retain-since-create-time", 48 * 3600.0),
        retain_since_last_active_time=_retention(read, "retain-since-last-active-time", 15 * 3600.0),
        min_non_active_revisions=read.integer("min-non-active-revisions", 20),
        max_non_active_revisions=_maximum(read),
    )
    maximum = config.max_non_active_revisions
    if maximum is not None and maximum < config.min_non_active_revisions:
        raise read.error(
            "max-non-active-revisions", f"at least min-non-active-revisions, which is {config.min_non_active_revisions}"
        )
    return config


def _retention(read: Reader, key: str, default: float) -> float | None:
    return None if read.text(key, "").lower() == _DISABLED else read.duration(key, default)


def _maximum(read: Reader) -> int | None:
    key = "max-non-active-revisions"
    return None if read.text(key, "").lower() == _DISABLED else read.integer(key, 1000)
