"""Settings for every test, and certificates for those that need some."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests.authority import Authority

# How long an example takes says something about the machine, not about the code: timings are benchmarks in load/.
settings.register_profile("zerogate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zerogate")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` writes the expected files under tests/golden anew; look at the diff as at code."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/**.out.yaml anew")


@pytest.fixture(scope="session")
def authority() -> Authority:
    """A certificate authority for tests."""
    return Authority()
