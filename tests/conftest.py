"""Settings for every test."""

from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine, not about the code: timings are benchmarks in load/.
settings.register_profile("zerogate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zerogate")
