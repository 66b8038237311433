"""A running platform for each test that asks for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import Platform

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """A running platform with nothing on it."""
    platform = Platform(tmp_path)
    platform.start()
    yield platform
    platform.stop()


@pytest.fixture
def stopped_platform(tmp_path: Path) -> Iterator[Platform]:
    """A platform for the test to start."""
    platform = Platform(tmp_path)
    yield platform
    if platform.process is not None:
        platform.stop()
