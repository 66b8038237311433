"""Worlds in virtual time, for stories and laws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from controller.config import autoscaler
from controller.config.store import Config
from controller.simulation.world import Arrival, Settings, World

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def make_world() -> Callable[..., World]:
    def build(
        *,
        limit: int = 0,
        cold_start: float = 1.0,
        replicas: int = 1,
        annotations: dict[str, str] | None = None,
        configured: dict[str, str] | None = None,
    ) -> World:
        config = Config(autoscaler=autoscaler.parse(configured or {}))
        settings = Settings(annotations or {}, limit, config, queue_limit=100_000, timeout=36_000.0)
        return World(settings, cold_start=lambda: cold_start, replicas=replicas)

    return build


@pytest.fixture
def make_arrival() -> type[Arrival]:
    return Arrival
