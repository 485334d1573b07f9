"""What an engine is started with: plain values that a process can be handed as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """`model` is a folder written by `guardrail model merge` (or a plain transformers checkpoint).

    Bytes: `kv_bytes` for policies and streams together (None: what the device has left, less a reserve), `host_bytes` for policies that
    had to leave the device, `stream_bytes` of `kv_bytes` for growing answers. `batch_tokens` bounds the new tokens of one pass,
    `queue_tokens` what may wait. `tenant_floor_bytes`: KV of a tenant's policies that no other tenant's use evicts.
    """

    model: str
    device: Literal["auto", "cpu", "cuda"] = "auto"
    runner: Literal["auto", "reference", "cpu", "cuda", "flex"] = "auto"
    quantise: Literal["none", "int8", "fp8"] = "none"
    threads: int = 1
    kv_bytes: int | None = None
    host_bytes: int = 4 * GIB
    stream_bytes: int | None = None
    batch_tokens: int = 1024
    queue_tokens: int = 65_536
    prefill_chunk: int = 256
    tenant_floor_bytes: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    probe: str | None = None
