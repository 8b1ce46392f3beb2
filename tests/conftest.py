"""For all tests: property tests give the same examples each time, and no time limit of their own (the machines are noisy)."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("pybox", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("pybox")
