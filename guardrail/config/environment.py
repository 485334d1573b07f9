"""The process environment: the only place that reads it, and the list of what is read.

| variable | meaning |
|---|---|
| the name in an upstream's or classifier's `api_key_env` | its API key |
| the names in `audit: key_env` and `content_key_env` | the keys of the audit store |
| GUARDRAIL_DATA | folder of labelled evaluation data |
| OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT | whether telemetry may carry content |

Every other OTEL_* variable is read by OpenTelemetry itself.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Environment:
    """A snapshot of environment variables; tests and embedding programs may pass their own."""

    variables: Mapping[str, str] = field(repr=False)

    def secret(self, name: str) -> str | None:
        """The value of a variable named in the configuration; None where it is not set or blank."""
        return self.variables.get(name, "").strip() or None

    @property
    def data_folder(self) -> Path | None:
        """The folder of evaluation data, None where it is not set."""
        folder = self.secret("GUARDRAIL_DATA")
        return Path(folder) if folder else None


def process_environment() -> Environment:
    """The variables of this process as they are now."""
    return Environment(MappingProxyType(dict(os.environ)))


def export_to(collector: str) -> None:
    """Set OTEL_EXPORTER_OTLP_ENDPOINT for this process, before its app is made."""
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector


def keep_litellm_offline() -> None:
    """Set LITELLM_LOCAL_MODEL_COST_MAP before litellm is imported: without it the import fetches a price list from the network."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
