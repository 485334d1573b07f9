"""The section of a CoPE classifier: a causal language model that reads a policy and answers 0 or 1."""

from typing import Annotated, Literal

from pydantic import Field

from guardrail.config.fields import Folder, Named, Section

GiB = Annotated[float, Field(gt=0, le=4_096)]


class CopeClassifier(Section):
    """A CoPE model (Gemma-2 with a merged adapter, or any causal language model tuned the same way) on this machine's GPU or CPU."""

    kind: Literal["cope"] = Field(description="A CoPE model on this machine's GPU or CPU (pip extra `guardrail[cope]`).")
    model: Folder = Field(description="Folder that `guardrail model merge` wrote, relative to this file, or a model of the hub.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="`auto`: the GPU if there is one.")
    runner: Literal["auto", "reference", "cpu", "cuda", "flex"] = Field(
        default="auto", description="How passes are computed; `auto` takes the fastest that serves this model on this device."
    )
    quantise: Literal["none", "int8", "fp8"] = Field(
        default="none", description="Smaller weights (int8 on a CPU, fp8 on a GPU); refused at start when the scores drift too far."
    )
    threads: int = Field(default=1, ge=1, le=256, description="CPU threads it may use, on a CPU.")
    kv_gib: GiB | None = Field(
        default=None, description="Memory for policies and growing answers, in GiB; default: what the device has left, less a reserve."
    )
    host_gib: Annotated[float, Field(ge=0, le=4_096)] = Field(
        default=4.0, description="Memory of the host for policies that had to leave the device, in GiB."
    )
    stream_gib: GiB | None = Field(default=None, description="Part of kv_gib that growing answers may take; default: a quarter.")
    batch_tokens: int = Field(default=1_024, ge=64, le=16_384, description="New tokens of one pass; more is faster overall, fewer sooner.")
    queue_tokens: int = Field(default=65_536, ge=1_024, le=16_777_216, description="Tokens that may wait; more are answered as overloaded.")
    tenant_floor_gib: Named[GiB] = Field(
        default_factory=dict, description="Memory of a tenant's policies that other tenants' use never takes, by tenant."
    )
    most_outside: float = Field(
        default=0.5, ge=0, le=1, description="Most probability that may lie outside of 0 and 1; beyond it the answer is an error."
    )
    probe: Folder | None = Field(
        default=None, description="Folder with a stream probe's four .npy files, relative to this file: an early warning between checks."
    )
    probe_threshold: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="Moving average of the stream probe from which a growing answer is judged at once."
    )
