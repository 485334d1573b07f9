"""What a pass could take at best on this machine, from ceilings measured in the same run, and what it is predicted to take.

The floor of a pass is its matrix products at the best rate that this machine reaches with this model's own matrices at the pass's own
number of tokens (so reading the weights is in it), and its attention at the best rate of all. The prediction takes the rate of the
library that the pass goes through, and adds what is not matrix products: the exponentials of attention, what is materialised, what is
copied, and the small operations between the products.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from guardrail.engine import onednn
from guardrail.evaluation.engine_models import Shape

LARGEST_MEASURED = 1024  # tokens; beyond, products take time in proportion
PIECE = 256  # tokens: where many are slower than a few at a time, they can be multiplied a few at a time
REPEATS = 3
ELEMENTS = 1 << 20
COPIED_ON = {"cpu": 1 << 27, "cuda": 1 << 30}  # bytes: far beyond any cache
SMALL_OPERATIONS = 24  # hidden-wide reads and writes a token and layer: four norms, two residuals, rotation, the gated unit
EAGER_SIDE = 2048  # scores a side, written out whole: beyond caches


@dataclass(frozen=True, slots=True)
class Pass:
    """What one forward runs: `rows` of `new` tokens behind `prefix` resident ones.

    `eager`: scores over all keys are written out, hidden ones too, and the whole vocabulary is read. `copied`: bytes copied for it.
    """

    rows: int
    new: int
    prefix: int = 0
    eager: bool = False
    copied: int = 0

    @property
    def tokens(self) -> int:
        """New tokens of all rows."""
        return self.rows * self.new


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Tokens -> seconds for all matrices of the body: `plain` as torch multiplies them, `products` the best way that is known here.

    Rates a second: floating-point operations, bytes copied, scores capped and exponentiated (in cache, as here; `eager`: written out
    after each step, as transformers does).
    """

    plain: Mapping[int, float]
    products: Mapping[int, float]
    flops_per_s: float
    bytes_per_s: float
    scores_per_s: float
    eager_scores_per_s: float


@dataclass(frozen=True, slots=True)
class Roofline:
    """Floors and predictions, in seconds, of passes of one shape on one machine."""

    shape: Shape
    itemsize: int
    ceilings: Ceilings

    def floor(self, run: Pass) -> float:
        """Matrix products and attention, nothing else."""
        scores = run.rows * visible(run.new, run.prefix)
        return _at(self.ceilings.products, run.tokens) + self._attention_flops(scores) / self.ceilings.flops_per_s

    def predict(self, run: Pass) -> float:
        """The products as they are done, and the rest; made before anything is run."""
        shape, ceilings = self.shape, self.ceilings
        scores = run.rows * (run.new * (run.prefix + run.new) if run.eager else visible(run.new, run.prefix))
        per_layer = shape.num_attention_heads * shape.num_hidden_layers
        seconds = _at(ceilings.plain if run.eager else ceilings.products, run.tokens)
        seconds += self._attention_flops(scores) / ceilings.flops_per_s
        seconds += scores * per_layer / (ceilings.eager_scores_per_s if run.eager else ceilings.scores_per_s)
        moved = run.tokens * shape.hidden_size * shape.num_hidden_layers * SMALL_OPERATIONS * self.itemsize
        if run.eager:
            moved += shape.vocab_size * shape.hidden_size * self.itemsize
        return seconds + (moved / 2 + run.copied) / ceilings.bytes_per_s

    def _attention_flops(self, scores: int) -> float:
        return 4.0 * self.shape.num_attention_heads * self.shape.head_dim * self.shape.num_hidden_layers * scores


def visible(new: int, prefix: int) -> int:
    """(query, key) pairs of a row: each new token sees the prefix, and the new ones up to itself."""
    return new * prefix + new * (new + 1) // 2


def ceilings(model: Any, lengths: Iterable[int]) -> Ceilings:
    """Measure the machine with the model's own matrices, at each of the numbers of tokens (1,024 at most)."""
    parameter = next(model.parameters())
    device = parameter.device
    counts = sorted({min(length, LARGEST_MEASURED) for length in lengths} | {PIECE, LARGEST_MEASURED})
    layers = [_matrices(layer) for layer in model.model.layers]
    with torch.inference_mode():
        plain = {count: _products(layers, count, functional.linear) for count in counts}
        best = plain
        if onednn.usable(parameter):
            laid_out = [[(onednn.pack(matrix), width) for matrix, width in matrices] for matrices in layers]
            best = {count: min(plain[count], _products(laid_out, count, onednn.linear)) for count in counts}
        weights = sum(matrix.numel() for matrices in layers for matrix, _ in matrices)
        source = torch.empty(COPIED_ON[device.type] // 4, dtype=torch.float32, device=device).fill_(1.0)
        copied = _best(partial(torch.empty_like(source).copy_, source), device)
        scores = torch.randn(ELEMENTS, device=device)
        capped = _best(lambda: scores.mul_(0.5).sigmoid_().mul_(0.5).sub_(0.5).exp2_().sum(), device)
        side = torch.randn(EAGER_SIDE, EAGER_SIDE, device=device).to(parameter.dtype)
        eager = _best(partial(_eager_scores, side), device)
    return Ceilings(
        plain=plain,
        products=_in_pieces(best),
        flops_per_s=max(2.0 * weights * count / seconds for count, seconds in best.items()),
        bytes_per_s=source.nbytes / copied,
        scores_per_s=ELEMENTS / capped,
        eager_scores_per_s=side.numel() / eager,
    )


def better(first: Ceilings, second: Ceilings) -> Ceilings:
    """The best of two measurements: what else runs on a machine only ever takes away."""
    return Ceilings(
        plain={count: min(seconds, second.plain[count]) for count, seconds in first.plain.items()},
        products=_in_pieces({count: min(seconds, second.products[count]) for count, seconds in first.products.items()}),
        flops_per_s=max(first.flops_per_s, second.flops_per_s),
        bytes_per_s=max(first.bytes_per_s, second.bytes_per_s),
        scores_per_s=max(first.scores_per_s, second.scores_per_s),
        eager_scores_per_s=max(first.eager_scores_per_s, second.eager_scores_per_s),
    )


def _in_pieces(products: Mapping[int, float]) -> dict[int, float]:
    """No count takes longer than the same tokens in smaller portions."""
    return {count: min(known * count / some for some, known in products.items() if some <= count) for count in products}


def _eager_scores(scores: Tensor) -> Tensor:
    """What transformers does with them between its two products: scale, cap, mask, softmax in fp32 and back."""
    capped = torch.tanh(scores * 0.5 / 50.0) * 50.0
    return functional.softmax(capped + scores, dim=-1, dtype=torch.float32).to(scores.dtype)


def _at(known: Mapping[int, float], tokens: int) -> float:
    """Measured, or drawn out from the two measurements around it, or in proportion beyond the largest."""
    below = max((count for count in known if count <= tokens), default=min(known))
    above = min((count for count in known if count >= tokens), default=max(known))
    if below >= above:
        return known[below] * max(1.0, tokens / below)
    return known[below] + (known[above] - known[below]) * (tokens - below) / (above - below)


def _matrices(layer: Any) -> list[tuple[Tensor, int]]:
    """Each matrix of a layer, and how wide its input is."""
    attention, unit = layer.self_attn, layer.mlp
    used = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, unit.gate_proj, unit.up_proj, unit.down_proj)
    return [(module.weight, module.in_features) for module in used]


def _products(layers: Sequence[Sequence[tuple[Tensor, int]]], tokens: int, multiply: Callable[[Tensor, Tensor], Tensor]) -> float:
    first = layers[0][0][0]
    inputs = {width: torch.randn(tokens, width, device=first.device).to(first.dtype) for matrices in layers for _, width in matrices}

    def run() -> None:
        for matrices in layers:
            for matrix, width in matrices:
                multiply(inputs[width], matrix)

    return _best(run, first.device)


def _best(run: Callable[[], object], device: torch.device) -> float:
    run()
    best = float("inf")
    for _ in range(REPEATS):
        wait(device)
        began = time.perf_counter()
        run()
        wait(device)
        best = min(best, time.perf_counter() - began)
    return best


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
