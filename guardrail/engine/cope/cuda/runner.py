"""The GPU runner: ten launches a layer, static buffers for a few buckets of tokens, one captured graph for each.

A pass is laid out on the host while the one before it may still run (`submit`), travels in one copy, runs as one graph and is waited for
through an event.
"""

import itertools
from dataclasses import dataclass, replace
from enum import Enum

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from guardrail.engine.cope.cuda.buckets import Bucket, Staging, Views, sizes_up_to
from guardrail.engine.cope.cuda.launch import (
    Attention,
    Dimensions,
    Fed,
    Finish,
    Scratch,
    add_norm,
    geglu,
    norm,
    read_answers,
    rotate_and_keep,
)
from guardrail.engine.cope.head import AnswerHead
from guardrail.engine.cope.kv import KVPool
from guardrail.engine.cope.packed_weights import PackedLayer, PackedWeights, ScaledProjection
from guardrail.engine.cope.rows import Plan
from guardrail.engine.cope.runner import Computed

_LARGEST_CAP = 64.0  # e^64 * 8,192 keys * values of thousands still fit fp32, and bf16 has its range


@dataclass(frozen=True, slots=True)
class Limits:
    """`longest` bounds a sequence, `most_tokens` a pass (rounded up to 16). `processors`: the GPU's multiprocessors, asked if None."""

    longest: int = 8192
    most_tokens: int = 1024
    processors: int | None = None


class Tail(Enum):
    """What the last layer does beyond keys and values: nothing, the read rows alone, or every token (for the stream probe)."""

    NOTHING = "nothing"
    READS = "reads"
    EVERYWHERE = "everywhere"


@dataclass(frozen=True, slots=True)
class Variant:
    """What a graph is for: its bucket, whether a key of the pass can be too far away to be seen, what is read and in how many places."""

    bucket: Bucket
    windowed: bool
    tail: Tail
    reads: int


@dataclass(frozen=True, slots=True)
class _Outcome:
    answers: Tensor | None  # [reads, 3] fp32: "0", "1", logsumexp
    probe: Tensor | None  # [T] fp32


class Pending:
    """A pass under way."""

    def __init__(self, planned: Plan, variant: Variant, outcome: _Outcome, *, on_gpu: bool) -> None:
        self._reads, self._tokens, self._bucket = len(planned.reads), planned.tokens, variant.bucket.tokens
        # From a GPU these copies go to pinned memory and do not wait.
        self._answers = None if outcome.answers is None else outcome.answers.to("cpu", non_blocking=True)
        self._probe = None if outcome.probe is None else outcome.probe.to("cpu", non_blocking=True)
        self._done = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        if self._done is not None:
            self._done.record()

    def result(self) -> Computed:
        """Wait for it. Other threads run meanwhile."""
        if self._done is not None:
            self._done.synchronize()
        answers = torch.empty(0, 3) if self._answers is None else self._answers
        found = answers[: self._reads].numpy()
        return Computed(
            logits=found[:, :2],
            log_total=found[:, 2],
            probe=None if self._probe is None else self._probe[: self._tokens].numpy(),
            bucket=self._bucket,
        )


class CudaRunner:
    """Runs plans on a GPU over packed weights; on the CPU too, under Triton's interpreter, which is for tests.

    Weights and pool are in bf16 (under the interpreter in fp32). A graph is captured when it is first wanted, or beforehand by `warm`.
    Raises ValueError for a model that the kernels do not cover.
    """

    name = "cuda"

    def __init__(self, weights: PackedWeights, pool: KVPool, head: AnswerHead, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        device = pool.kv.device
        self.pool = pool
        self._weights, self._head = weights, head
        self._window, self._cap = _checked(weights, pool, head)
        self._sizes = Dimensions(
            weights.kv_heads, weights.heads // weights.kv_heads, size=weights.head_dim, width=weights.embedding.shape[1]
        )
        processors = limits.processors or _processors(device)
        self.buckets = tuple(
            Bucket.of(size, heads=weights.kv_heads, processors=processors, longest=limits.longest)
            for size in sizes_up_to(limits.most_tokens)
        )
        self.most_tokens = self.buckets[-1].tokens
        self._longest = limits.longest
        self._angles = _angles(weights.inv_freq.to(device), limits.longest)
        self._staging = Staging(self.buckets, device)
        self._scratch = Scratch.of(max(bucket.programs * bucket.shape.block for bucket in self.buckets), self._sizes, device)
        self._graphs: dict[Variant, tuple[torch.cuda.CUDAGraph, _Outcome]] = {}
        self._memory = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def forward(self, planned: Plan) -> Computed:
        """Run one pass; see `Runner`."""
        return self.submit(planned).result()

    @torch.inference_mode()
    def submit(self, planned: Plan) -> Pending:
        """Start a pass and return while it runs. Raises ValueError for one that is too long."""
        farthest = int(planned.positions.max())
        if planned.tokens > self.most_tokens or farthest >= self._longest:
            raise ValueError(
                f"a pass of {planned.tokens} tokens that reaches position {farthest} does not fit: at most {self.most_tokens} tokens run "
                f"at a time, in sequences of at most {self._longest}"
            )
        variant = self.variant(planned, farthest)
        self._staging.send(planned, variant.bucket, self._window if variant.windowed else None)
        return Pending(planned, variant, self._run(variant), on_gpu=self.pool.kv.is_cuda)

    def variant(self, planned: Plan, farthest: int) -> Variant:
        """Which graph a pass takes, by its length, what it reads, and the `farthest` position it reaches."""
        bucket = next(bucket for bucket in self.buckets if bucket.tokens >= planned.tokens)
        tail = Tail.READS if len(planned.reads) else Tail.NOTHING
        if self._head.probe is not None and any(row.probe for row in planned.rows):
            tail = Tail.EVERYWHERE
        reads = bucket.reads if len(planned.reads) <= bucket.reads else bucket.tokens
        return Variant(bucket, self._window is not None and farthest >= self._window, tail, reads)

    @torch.inference_mode()
    def warm(self) -> int:
        """Capture every graph that uncrowded passes take, and return how many there are. On the CPU there are none."""
        if self._memory is None:
            return 0
        windows = (False,) if self._window is None else (False, True)
        tails = [tail for tail in Tail if tail is not Tail.EVERYWHERE or self._head.probe is not None]
        for bucket, windowed, tail in itertools.product(reversed(self.buckets), windows, tails):
            variant = Variant(bucket, windowed, tail, bucket.reads)
            if variant not in self._graphs:
                self._staging.idle(bucket)
                self._capture(variant)
        return len(self._graphs)

    def _run(self, variant: Variant) -> _Outcome:
        # A crowded pass has more reads than any real one; it is not worth a graph.
        if self._memory is None or variant.reads > variant.bucket.reads:
            return self.compute(variant)
        if variant not in self._graphs:
            self._capture(variant)
        graph, outcome = self._graphs[variant]
        graph.replay()
        return outcome

    def _capture(self, variant: Variant) -> None:
        self.compute(variant)  # compiles and loads every kernel, which must not happen during a capture
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            outcome = self.compute(variant)
        self._graphs[variant] = (graph, outcome)

    def compute(self, variant: Variant) -> _Outcome:
        """Enqueue the kernels of one pass over what was staged; what a graph captures."""
        weights, views = self._weights, Views.of(self._staging.table, variant.bucket)
        hidden = F.embedding(views.laid.ids, weights.embedding) * weights.embed_scale
        fed = norm(hidden, weights.layers[0].before_attention, weights.eps, fp8=_scaled(weights.layers[0].qkv))
        for number, layer in enumerate(weights.layers):
            last = number == len(weights.layers) - 1
            qkv = fed.to(layer.qkv)
            rotate_and_keep(qkv, self.pool.kv[number], views.laid, self._angles, self._sizes)
            if last and variant.tail is Tail.NOTHING:
                return _Outcome(None, None)
            rows = views.laid.reads[: variant.reads] if last and variant.tail is Tail.READS else None
            attended = self._attend(number, qkv, (variant, views), rows)
            following = weights.final_norm if last else weights.layers[number + 1].before_attention
            wants_fp8 = not last and _scaled(weights.layers[number + 1].qkv)
            hidden, fed = self._after(layer, hidden, attended, rows=rows, following=(following, wants_fp8))
        return self._read(fed.values, variant, views)

    def _attend(self, number: int, qkv: Tensor, staged: tuple[Variant, Views], rows: Tensor | None) -> Fed:
        variant, views = staged
        layer = self._weights.layers[number]
        windowed = variant.windowed and layer.scoring.window is not None
        scoring = layer.scoring if windowed else replace(layer.scoring, window=None)
        attention = Attention(variant.bucket.shape, self._sizes, self._scratch)
        work = (views.laid, views.windowed if windowed else views.everywhere)
        return attention(qkv, self.pool.kv[number], work, scoring, Finish(rows, fp8=_scaled(layer.o)))

    def _after(
        self, layer: PackedLayer, hidden: Tensor, attended: Fed, *, rows: Tensor | None, following: tuple[Tensor, bool]
    ) -> tuple[Tensor, Fed]:
        eps = self._weights.eps
        post = (layer.after_attention, layer.before_mlp, eps)
        hidden, fed = add_norm(hidden, attended.to(layer.o), post, rows=rows, fp8=_scaled(layer.gate_up))
        inner = geglu(fed.to(layer.gate_up), fp8=_scaled(layer.down))
        return add_norm(hidden, inner.to(layer.down), (layer.after_mlp, following[0], eps), fp8=following[1])

    def _read(self, states: Tensor, variant: Variant, views: Views) -> _Outcome:
        probe = None
        if variant.tail is Tail.EVERYWHERE:
            probe = self._head.probe_scores(states)
            states = states.index_select(0, views.laid.reads[: variant.reads])
        return _Outcome(read_answers(states, self._head.rows, self._head.vocabulary, self._cap), probe)


def _checked(weights: PackedWeights, pool: KVPool, head: AnswerHead) -> tuple[int | None, float]:
    """The model's window and final soft-cap."""
    # fp32 tiles do not fit a program's shared memory; the interpreter knows no such limit, but bf16 it computes wrongly.
    wanted = torch.bfloat16 if pool.kv.is_cuda else torch.float32
    if weights.embedding.dtype != wanted or pool.kv.dtype != wanted:
        raise ValueError(
            f"on this device the GPU runner wants weights and KV in {wanted}, not {weights.embedding.dtype} and {pool.kv.dtype}; the flex "
            f"and reference runners take others"
        )
    caps = {head.softcap, *(layer.scoring.softcap for layer in weights.layers)}
    if any(cap is None or cap > _LARGEST_CAP for cap in caps):
        raise ValueError(
            f"the GPU runner sums exponentials without a maximum, for which every soft-cap must be at most {_LARGEST_CAP:.0f}; "
            f"this model's are {sorted(caps, key=str)}; the flex and reference runners need none"
        )
    windows = {layer.scoring.window for layer in weights.layers} - {None}
    if len(windows) > 1:
        raise ValueError(f"the GPU runner knows one sliding window, not {sorted(windows, key=str)}; use the reference runner")
    assert head.softcap is not None  # refused above
    return next(iter(windows), None), head.softcap


def _angles(inv_freq: Tensor, longest: int) -> Tensor:
    """[longest, head size] fp32: cosines of every position's angles, then sines. The model rounds them to its dtype; here nothing does."""
    angles = torch.arange(longest, device=inv_freq.device).float()[:, None] * inv_freq
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _scaled(projection: object) -> bool:
    return isinstance(projection, ScaledProjection)
