"""The host's side of the kernels: tensors in, tensors out, grids and constants worked out here. Every call is capturable."""

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
import triton
from torch import Tensor

from guardrail.engine.cope.attention_cpu import Scoring
from guardrail.engine.cope.cuda import attention, kernels, vocabulary
from guardrail.engine.cope.cuda.worklist import Tiling
from guardrail.engine.cope.packed_weights import Projection, ScaledProjection

E4M3 = torch.float8_e4m3fn
_WORDS = 128  # vocabulary rows a program


@dataclass(frozen=True, slots=True)
class Dimensions:
    """A layer's sizes: `heads` key heads of `size`, `shared` query heads to each, hidden `width`.

    Raises ValueError where the kernels cannot cut them: they need powers of two, and a width of whole 16s.
    """

    heads: int
    shared: int
    size: int
    width: int

    def __post_init__(self) -> None:
        for name, value in (("head size", self.size), ("number of key heads", self.heads), ("number of query heads each", self.shared)):
            if value & (value - 1):
                raise ValueError(f"a {name} of {value} is not a power of two; run this model with the reference or flex runner")
        if self.width % 16:
            raise ValueError(f"a hidden width of {self.width} is not a multiple of 16; run this model with the reference or flex runner")


@dataclass(frozen=True, slots=True)
class Fed:
    """What a matrix product is fed: `values` [T, K], in e4m3 with `scales` [T] fp32 where the product asked for it."""

    values: Tensor
    scales: Tensor | None = None

    def to(self, projection: Projection) -> Tensor:
        """Apply it."""
        if self.scales is None:
            return projection(self.values)
        assert isinstance(projection, ScaledProjection)  # nobody else is fed scales
        return projection.scaled(self.values.to(E4M3), self.scales)


@dataclass(frozen=True, slots=True)
class Laid:
    """A pass on the device, all int32: see `attention.attend` and `kernels.rotate_and_keep`. `reads` [R] places in it."""

    ids: Tensor
    positions: Tensor
    row_starts: Tensor
    slots: Tensor
    reads: Tensor
    entries: Tensor

    @property
    def tokens(self) -> int:
        """Tokens of the bucket."""
        return len(self.ids)


def norm(hidden: Tensor, weight: Tensor, epsilon: float, *, fp8: bool = False) -> Fed:
    """rms(hidden) * weight, for hidden [T, N]."""
    return _add_rms(hidden, _Added(hidden, weight, hidden, None), (weight, epsilon), add=False, fp8=fp8)[1]


def add_norm(
    hidden: Tensor, delta: Tensor, weights: tuple[Tensor, Tensor, float], *, rows: Tensor | None = None, fp8: bool = False
) -> tuple[Tensor, Fed]:
    """`weights` (post, pre, epsilon): hidden += rms(delta) * post, in place, and rms(hidden) * pre.

    With `rows` [R] hidden is read at those places and delta, the new hidden and the result have R rows.
    """
    post, pre, epsilon = weights
    out = hidden if rows is None else torch.empty_like(delta)
    return _add_rms(hidden, _Added(delta, post, out, rows), (pre, epsilon), add=True, fp8=fp8)


def rotate_and_keep(qkv: Tensor, layer: Tensor, laid: Laid, angles: Tensor, sizes: Dimensions) -> None:
    """Rotate queries and keys of `qkv` [T, …] in place, and copy what is kept to `layer` [2, heads, slots, size] of the pool."""
    kernels.rotate_and_keep[(laid.tokens, sizes.heads)](
        qkv, layer, laid.positions, laid.slots, angles, layer.stride(0), layer.stride(1),
        heads=sizes.heads, shared=sizes.shared, size=sizes.size, **_options(2),
    )  # fmt: skip


def geglu(gate_up: Tensor, *, fp8: bool = False) -> Fed:
    """gelu(gate) * up of [T, 2 * inner]."""
    tokens, inner = gate_up.shape[0], gate_up.shape[1] // 2
    block = triton.next_power_of_2(inner) if fp8 else min(2048, triton.next_power_of_2(inner))
    fed = _fed(gate_up, tokens, inner, fp8)
    kernels.geglu[(tokens, triton.cdiv(inner, block))](
        gate_up, fed.values, _scales(fed), width=inner, block=block, fp8=fp8, **_options(16 if block > 4096 else 8)
    )
    return fed


@dataclass(frozen=True, slots=True)
class Finish:
    """What becomes of attention's sums: all tokens or `rows` [R] of them, in the model's dtype or `fp8`."""

    rows: Tensor | None = None
    fp8: bool = False


@dataclass(frozen=True, slots=True)
class Scratch:
    """Where programs leave their partial sums, fp32: `numerators` [most * size] and `denominators` [most]."""

    numerators: Tensor
    denominators: Tensor

    @classmethod
    def of(cls, most: int, sizes: Dimensions, device: torch.device) -> Self:
        """Room for `most` programs' query tokens (programs times tokens a block)."""
        places = most * sizes.heads * sizes.shared
        return cls(torch.empty(places * sizes.size, device=device), torch.empty(places, device=device))


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention of one bucket: how it is cut, its sizes, and scratch memory that buckets may share."""

    shape: Tiling
    sizes: Dimensions
    scratch: Scratch

    def __call__(self, qkv: Tensor, layer: Tensor, work: tuple[Laid, Tensor], scoring: Scoring, finish: Finish) -> Fed:
        """Attend over `layer` of the pool and the pass' own keys; `work` is the pass and the layer kind's programs."""
        laid, programs = work
        shape, sizes = self.shape, self.sizes
        direct = shape.splits == 1 and finish.rows is None and not finish.fp8
        wide = sizes.heads * sizes.shared * sizes.size
        cap = scoring.softcap
        assert cap is not None  # a runner without a soft-cap is refused
        fed = _fed(qkv, laid.tokens if finish.rows is None else len(finish.rows), wide, finish.fp8)
        attention.attend[(len(programs), sizes.heads)](
            qkv, layer, laid.entries, programs, laid.positions, laid.row_starts, fed.values,
            self.scratch.numerators, self.scratch.denominators, laid.tokens, shape.splits,
            2.0 * math.log2(math.e) * scoring.scale / cap, math.log2(math.e) * cap, scoring.window or 0, layer.stride(0), layer.stride(1),
            heads=sizes.heads, shared=sizes.shared, size=sizes.size, block=shape.block, tile=shape.tile,
            windowed=scoring.window is not None, direct=direct, **_options(shape.warps, shape.stages),
        )  # fmt: skip
        if not direct:
            self._merge(fed, laid, finish)
        return fed

    def _merge(self, fed: Fed, laid: Laid, finish: Finish) -> None:
        sizes = self.sizes
        part = sizes.heads if finish.fp8 else 1
        loaded = self.shape.splits * part * sizes.shared * sizes.size
        attention.merge[(len(fed.values), sizes.heads // part)](
            self.scratch.numerators, self.scratch.denominators, laid.reads if finish.rows is None else finish.rows,
            fed.values, _scales(fed),
            heads=sizes.heads, shared=sizes.shared, size=sizes.size, block=self.shape.block, splits=self.shape.splits,
            part=part, gather=finish.rows is not None, fp8=finish.fp8, **_options(min(16, max(1, loaded // 2048))),
        )  # fmt: skip


def read_answers(states: Tensor, rows: Tensor, words: Tensor, cap: float) -> Tensor:
    """[R, 3] fp32: logits of "0" and "1" and logsumexp over the vocabulary, for final states [R, N].

    `rows` [2, N] fp32 and `words` [V, N] are output embeddings, `cap` the final soft-cap.
    """
    reads, width = states.shape
    tiles = triton.cdiv(len(words), _WORDS)
    block = min(128, max(16, triton.next_power_of_2(reads)))
    sums = torch.empty(tiles, reads, device=states.device)
    out = torch.empty(reads, 3, device=states.device)
    step = math.gcd(width, 128 if block <= 32 else 64)
    vocabulary.exp_sums[(tiles, triton.cdiv(reads, block))](
        states, words, sums, reads, len(words), cap, width=width, block=block, tile=_WORDS, step=step,
        **_options(8 if block > 64 else 4, 3),
    )  # fmt: skip
    vocabulary.answer[(reads,)](
        states, rows, sums, out, reads, tiles, cap, width=width, block=triton.next_power_of_2(width),
        chunk=min(2048, triton.next_power_of_2(tiles)), **_options(8),
    )  # fmt: skip
    return out


@dataclass(frozen=True, slots=True)
class _Added:
    delta: Tensor
    post: Tensor
    out: Tensor
    rows: Tensor | None


def _add_rms(hidden: Tensor, added: _Added, weight: tuple[Tensor, float], *, add: bool, fp8: bool) -> tuple[Tensor, Fed]:
    pre, epsilon = weight
    width = hidden.shape[1]
    fed = _fed(hidden, len(added.delta), width, fp8)
    kernels.add_rms[(len(added.delta),)](
        hidden, added.delta, hidden if added.rows is None else added.rows, added.out, fed.values, _scales(fed), added.post, pre, epsilon,
        width=width, block=triton.next_power_of_2(width), add=add, gather=added.rows is not None, fp8=fp8, **_options(8),
    )  # fmt: skip
    return added.out, fed


def _fed(like: Tensor, rows: int, width: int, fp8: bool) -> Fed:
    # Triton's interpreter loses the carry when it rounds to e4m3, so without a GPU torch does the rounding (see `Fed.to`).
    narrow = E4M3 if like.is_cuda else torch.float32
    values = torch.empty(rows, width, dtype=narrow if fp8 else like.dtype, device=like.device)
    return Fed(values, torch.empty(rows, device=like.device) if fp8 else None)


def _scales(fed: Fed) -> Tensor:
    return fed.values if fed.scales is None else fed.scales  # a kernel that writes none still takes a pointer


def _options(warps: int, stages: int = 2) -> dict[str, Any]:
    return {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
