"""A `kind: cope` section of a configuration as the engine's settings. Imports no torch: who starts an engine's process needs it, too."""

from pathlib import Path

from guardrail.config.cope import CopeClassifier
from guardrail.engine.cope.settings import GIB, EngineSettings


def engine_settings(section: CopeClassifier, folder: Path) -> EngineSettings:
    """`folder` is what the section's relative paths are relative to; a model that is no folder there is one of the hub."""
    return EngineSettings(
        model=str(folder / section.model) if (folder / section.model).is_dir() else section.model,
        device=section.device,
        runner=section.runner,
        quantise=section.quantise,
        threads=section.threads,
        kv_bytes=_bytes(section.kv_gib),
        host_bytes=int(section.host_gib * GIB),
        stream_bytes=_bytes(section.stream_gib),
        batch_tokens=section.batch_tokens,
        queue_tokens=section.queue_tokens,
        tenant_floor_bytes={tenant: int(size * GIB) for tenant, size in section.tenant_floor_gib.items()},
        probe=None if section.probe is None else str(folder / section.probe),
    )


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * GIB)
