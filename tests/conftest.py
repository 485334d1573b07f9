"""What all tests share: examples may be slow to make on a busy machine; that says nothing about the code."""

from hypothesis import HealthCheck, settings

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
