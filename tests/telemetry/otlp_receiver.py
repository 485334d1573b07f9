"""A receiver that speaks OTLP/HTTP, in place of a collector: it keeps what is posted and reads it as protobuf."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Receiver(ThreadingHTTPServer):
    """Keeps what is posted."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[tuple[str, str | None, bytes]] = []

    @property
    def everything(self) -> bytes:
        """All bodies in one."""
        return b"".join(body for _, _, body in self.received)

    @property
    def resources(self) -> list[dict[str, Any]]:
        """The resource of each span batch and each metric batch."""
        batches = [*self._traced(), *self._measured()]
        return [attributes(batch.resource.attributes) for batch in batches]

    @property
    def spans(self) -> list[Any]:
        """Every span, as protobuf."""
        return [span for batch in self._traced() for scope in batch.scope_spans for span in scope.spans]

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of the last batch by name, as protobuf."""
        return {metric.name: metric for batch in self._measured() for scope in batch.scope_metrics for metric in scope.metrics}

    def _traced(self) -> list[Any]:
        bodies = [body for path, _, body in self.received if path == "/v1/traces"]
        return [batch for body in bodies for batch in ExportTraceServiceRequest.FromString(body).resource_spans]

    def _measured(self) -> list[Any]:
        bodies = [body for path, _, body in self.received if path == "/v1/metrics"]
        return [batch for body in bodies for batch in ExportMetricsServiceRequest.FromString(body).resource_metrics]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append((self.path, self.headers.get("x-tenant"), body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """One for the length of the block."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def attributes(pairs: Any) -> dict[str, Any]:
    """Attributes of protobuf as Python values."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
