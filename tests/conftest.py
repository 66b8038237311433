"""Settings for every test."""

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine, not about the code: timings are benchmarks in load/.
settings.register_profile("zerogate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zerogate")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` writes the expected files under tests/golden anew; look at the diff as at code."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/**.out.yaml anew")
