"""The lanes of the engine's bench: the ways to judge one request after another or many at once, each with what it should take."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from guardrail.evaluation.engine_baselines import Transformers
from guardrail.evaluation.engine_llama import MICRO_BATCH, LlamaCpp
from guardrail.evaluation.engine_ours import PACKED, PASS_TOKENS, Ours
from guardrail.evaluation.engine_roofline import Pass, Roofline
from guardrail.evaluation.engine_rounds import Lane
from guardrail.evaluation.engine_served import Served
from guardrail.evaluation.engine_work import POLICIES, Answers, Lengths

NAIVE = "transformers, generate one by one"
OURS = "ours"

# How far an answer may be from the naive one. In bf16 both round, and a deep random model makes 0.05 of it for each; what is wrong in
# a path moves answers by more. llama.cpp rounds activations to 16 bits whatever the weights are.
BANDS = {torch.float32: 1e-3, torch.bfloat16: 0.2}
ROUGH_BAND = 0.05


@dataclass(frozen=True, slots=True)
class Terms:
    """What all lanes share: lengths, requests of the slow lanes in a round, the model's dtype, and what the machine could do."""

    lengths: Lengths
    requests: int
    dtype: torch.dtype
    roofline: Roofline

    @property
    def band(self) -> float:
        """Of exact lanes."""
        return BANDS[self.dtype]


def transformers_lanes(baseline: Transformers, terms: Terms, parts: Sequence[str]) -> list[Lane]:
    """Those of `generate`, `padded` and `cache` that are asked for."""
    lengths, requests = terms.lengths, terms.requests
    lanes = []
    if "generate" in parts:
        run = partial(baseline.judge_one_by_one, requests=requests)
        lanes.append(_lane(NAIVE, terms, (requests, 1), [Pass(1, lengths.whole, eager=True)], run))
    if "padded" in parts:
        run = partial(baseline.judge_padded, requests=requests)
        passes = [Pass(requests, lengths.whole, eager=True)]
        lanes.append(_lane(f"transformers, padded batch of {requests}", terms, (requests, requests), passes, run))
    if "cache" in parts:
        shape = terms.roofline.shape
        # Copied for the request, copied again where new keys are joined on, and spread out for the query heads that share them.
        copies = 2 + shape.num_attention_heads // shape.num_key_value_heads
        passes = [Pass(1, lengths.row, lengths.policy, eager=True, copied=copies * baseline.cache_bytes())]
        run = partial(baseline.judge_cached, requests=2 * requests)
        lanes.append(_lane("transformers, cache copied for each request", terms, (2 * requests, 1), passes, run))
    return lanes


def llama_lanes(llama: LlamaCpp, terms: Terms) -> list[Lane]:
    """The whole prompt and the kept policy."""
    lengths, requests = terms.lengths, terms.requests
    cuts = range(0, lengths.whole, MICRO_BATCH)
    whole = [Pass(1, min(MICRO_BATCH, lengths.whole - first), first) for first in cuts]
    kept = [Pass(1, lengths.row, lengths.policy)]
    lanes = [
        _lane("llama.cpp, whole prompt", terms, (requests, 1), whole, partial(llama.judge_whole, requests=requests)),
        _lane("llama.cpp, policy kept", terms, (2 * requests, 1), kept, partial(llama.judge_kept, requests=2 * requests)),
    ]
    return [replace(lane, band=ROUGH_BAND) for lane in lanes]


def our_lanes(ours: Ours, terms: Terms) -> list[Lane]:
    """Batches of 1, 8 and 32 under one policy, and of 32 under four."""
    lanes = []
    for batch, policies in ((1, 1), (8, 1), (PACKED, 1), (PACKED, POLICIES)):
        requests = batch * max(1, 2 * terms.requests // batch)
        run = partial(ours.judge, requests=requests, batch=batch, policies=policies)
        passes = packed(batch, terms.lengths, ours.runner.most_tokens)
        name = f"{OURS}, batch {batch}" + (f", {policies} policies" if policies > 1 else "")
        lanes.append(_lane(name, terms, (requests, batch), passes, run))
    return lanes


def served_lanes(engine: Served, terms: Terms, most_tokens: int) -> list[Lane]:
    """The whole engine: asked one request after the other, and 32 at once over four policies."""
    alone, together = 2 * terms.requests, PACKED
    one = partial(engine.judge, requests=alone, policies=1, manner="one by one")
    many = partial(engine.judge, requests=together, policies=POLICIES, manner="at once")
    return [
        _lane(f"{OURS}, engine asked one by one", terms, (alone, 1), packed(1, terms.lengths, most_tokens), one),
        _lane(f"{OURS}, engine asked {together} at once", terms, (together, together), packed(together, terms.lengths, most_tokens), many),
    ]


def packed(batch: int, lengths: Lengths, most_tokens: int) -> list[Pass]:
    """The passes of a batch of requests under resident policies."""
    rows = max(1, min(PASS_TOKENS, most_tokens) // lengths.row)
    return [Pass(min(rows, batch - first), lengths.row, lengths.policy) for first in range(0, batch, rows)]


def _lane(name: str, terms: Terms, counts: tuple[int, int], passes: Sequence[Pass], run: Callable[[int], Answers]) -> Lane:
    """`counts`: requests of a round, and those that the passes answer together."""
    requests, together = counts
    return Lane(
        name=name,
        requests=requests,
        run=run,
        passes=tuple(passes),
        together=together,
        tokens=terms.lengths.content,
        predicted_s=sum(terms.roofline.predict(some) for some in passes) / together,
        band=terms.band,
    )
