"""The `audit` section, of the whole and of a route: whether decisions are kept, for how long, and with which text."""

from typing import Literal

from pydantic import Field

from guardrail.config.fields import Section, Variable


class RetentionConfig(Section):
    """How long records are kept. What goes, goes in whole segments, and leaves a signed mark."""

    days: float | None = Field(default=None, gt=0, le=36_500, description="Longest age of a record, in days; default: no bound.")
    content_days: float | None = Field(
        default=None, gt=0, le=36_500, description="Longest age of a kept text, in days; default: as its record."
    )
    max_mb: int | None = Field(
        default=None, ge=10, le=10_000_000, description="Largest size of the store, in megabytes; default: no bound."
    )


class AuditConfig(Section):
    """The store of decisions, one file. Without this section no store is written."""

    path: str = Field(
        default="audit.db", min_length=1, max_length=1_024, description="The store's file, relative to this file; its folder must be there."
    )
    key_env: Variable | None = Field(
        default=None,
        description="Environment variable with the key of the chain and of the texts' hashes: without it, whoever can write can forge.",
    )
    content_key_env: Variable | None = Field(
        default=None, description="Environment variable with the key that kept texts are encrypted with; default: they are not encrypted."
    )
    queue: int = Field(default=10_000, ge=1, le=1_000_000, description="Most records that wait to be written.")
    wait_ms: int = Field(
        default=2_000, ge=10, le=60_000, description="Longest that a request waits for its record under when_full: wait, in milliseconds."
    )
    synchronous: Literal["full", "normal", "off"] = Field(
        default="full", description="`full`: a kept record survives a power cut; `normal` and `off`: a killed process only."
    )
    segment_records: int = Field(
        default=10_000, ge=10, le=1_000_000, description="Most records of one segment, which is kept or dropped whole."
    )
    segment_hours: float = Field(default=24.0, gt=0, le=8_760, description="Longest time that a segment is open, in hours.")
    retention: RetentionConfig = Field(default_factory=RetentionConfig, description="How long records are kept; default: for ever.")


class RouteAuditConfig(Section):
    """How a route's decisions are kept."""

    content: Literal["none", "redacted", "full"] = Field(
        default="none", description="Which text is kept: none, all but what violates or was not judged, or all."
    )
    when_full: Literal["drop", "wait"] = Field(
        default="drop",
        description="`drop`: what the store cannot take is left out, and counted; `wait`: nothing is released before its record is kept.",
    )
