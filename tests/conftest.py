"""What every test of the repository shares."""

from hypothesis import HealthCheck, settings

# On a machine that is busy with the other tests nothing is told by how long something takes.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
