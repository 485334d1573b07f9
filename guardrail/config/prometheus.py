"""The `telemetry.prometheus` section: whether metrics are served, where, and to whom."""

from typing import Annotated

from pydantic import Field, StringConstraints

from guardrail.config.fields import KeyHash, Section

METRICS_PATH = r"^(/[A-Za-z0-9._-]+)+$"


class PrometheusConfig(Section):
    """Metrics for Prometheus to fetch of the proxy's own port. Off unless asked for; each worker process tells its own numbers."""

    enabled: bool = Field(default=False, description="Serve them: to clients on this machine, and with `key` to whoever has that.")
    path: Annotated[str, StringConstraints(pattern=METRICS_PATH, max_length=128)] = Field(
        default="/metrics", description="Where; none of the proxy's own paths."
    )
    key: KeyHash | None = Field(
        default=None,
        description="Hash of the key that Prometheus sends (`Authorization: Bearer …`), made with `guardrail config hash-key`. "
        "No tenant's key. Default: clients on this machine alone may fetch them; a reverse proxy on it must then set X-Forwarded-For.",
    )
