"""The metrics as Prometheus fetches them. Needs the extra `prometheus`; import it only where that is asked for.

The format's own library has no exemplars for histograms that come from OpenTelemetry: those leave by OTLP alone.
"""

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from guardrail.telemetry import names


class Exposition:
    """Give `reader` to the meter provider, then `read`. Names are spelled as Prometheus does: `guardrail_requests_total`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self.reader = PrometheusMetricReader(
            scope_info_enabled=False, registry=self._registry, resource_attribute_filter=lambda name: name == names.WORKER
        )

    def read(self, accept: str) -> tuple[bytes, str]:
        """Everything measured so far, and its content type, in the format that an `Accept` header prefers. Takes milliseconds."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
