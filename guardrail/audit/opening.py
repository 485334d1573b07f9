"""The store of a configuration, for writing and for reading."""

from collections.abc import Callable

from guardrail.audit.keys import Secrets, StoreKeys, open_keys
from guardrail.audit.ledger import SegmentSize
from guardrail.audit.retention import Retention
from guardrail.audit.sink import AuditSink, SinkSettings
from guardrail.audit.store import AuditReader
from guardrail.audit.writer import WriterSettings
from guardrail.config.audit import AuditConfig
from guardrail.config.environment import Environment
from guardrail.config.models import Config
from guardrail.errors import GuardrailError
from guardrail.events import AuditTroubled

_MB = 1_000_000
_SEGMENTS = 8  # at least, in a store that is bounded in size: so that not all of it goes at once


def open_sink(config: Config, environment: Environment, told: Callable[[AuditTroubled], None]) -> AuditSink:
    """What records the decisions. Raises GuardrailError for a key that is too short, or no store in the configuration."""
    section, path = _section(config), config.audit_path
    assert path is not None
    kept = retention_of(section)
    size = SegmentSize(section.segment_records, section.segment_hours * 3_600.0)
    if kept.bytes is not None:
        size = SegmentSize(size.records, size.seconds, kept.bytes // _SEGMENTS)
    writer = WriterSettings(queue=section.queue, synchronous=section.synchronous, segment=size, retention=kept)
    return AuditSink(path, secrets_of(section, environment), SinkSettings(section.wait_ms / 1_000, writer), told)


def open_reader(config: Config, environment: Environment) -> AuditReader | None:
    """What reads them; None where no store is configured."""
    if config.audit is None or config.audit_path is None:
        return None
    return AuditReader(config.audit_path, store_keys(config, environment))


def store_keys(config: Config, environment: Environment) -> StoreKeys:
    """The keys of the store, as far as they are at hand."""
    section, path = _section(config), config.audit_path
    assert path is not None
    return open_keys(path, secrets_of(section, environment))


def secrets_of(section: AuditConfig, environment: Environment) -> Secrets:
    """What the environment gives for the keys."""
    return Secrets(*(environment.secret(name) if name else None for name in (section.key_env, section.content_key_env)))


def retention_of(section: AuditConfig) -> Retention:
    """How long records are kept."""
    kept = section.retention
    return Retention(kept.days, kept.content_days, None if kept.max_mb is None else kept.max_mb * _MB)


def _section(config: Config) -> AuditConfig:
    if config.audit is None:
        raise GuardrailError(f"{config.source.path} configures no audit store; add a section `audit: {{path: audit.db}}`")
    return config.audit
