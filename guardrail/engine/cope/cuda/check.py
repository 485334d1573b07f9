"""Before a fast runner serves anybody, it answers fixed questions as the reference does, or it does not serve.

The questions are made of arbitrary tokens: what they mean is of no account, that both runners compute the same is. Some share a resident
prefix, one grows, one is read beyond the sliding window.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from guardrail.engine.cope.answer import share
from guardrail.engine.cope.kv import PAGE, KVSpan
from guardrail.engine.cope.messages import Read
from guardrail.engine.cope.rows import Row
from guardrail.engine.cope.runner import Runner, execute
from guardrail.errors import ClassifierError

_PREFIXES = (5, 90, 333)
_QUESTION = 24
_SEED = 20_260_101


@dataclass(frozen=True, slots=True)
class Band:
    """How far apart two runners may be: in the probability of "1", and in the logits and logsumexp it comes from (saturated
    probabilities hide what logits show).
    """

    probability: float
    logit: float


# bf16: a stock and an exact forward of one small model were measured 0.03 from its fp32 answers; this leaves room for depth. A wrong
# mask, position or scale moves logits by whole units.
BANDS = {torch.bfloat16: Band(0.06, 1.0), torch.float32: Band(1e-3, 0.02)}


@dataclass(frozen=True, slots=True)
class Agreement:
    """The largest differences over `questions` questions, and the `farthest` position that was read at."""

    probability: float
    logit: float
    questions: int
    farthest: int


def agrees(candidate: Runner, reference: Runner, *, vocabulary: int, window: int | None = None, band: Band | None = None) -> Agreement:
    """Ask both runners the same fixed questions over `vocabulary` ids; each needs free pages of its pool for them and gives them back.

    One question reaches beyond `window` where the candidate's pool has room. `band`: by the pool's dtype if None.
    Raises ClassifierError (canary) naming the largest difference and the band when the candidate is outside of it.
    """
    allowed = band or BANDS[candidate.pool.kv.dtype]
    prompts = _prompts(vocabulary, window, room=min(candidate.pool.free_pages, reference.pool.free_pages))
    told = _ask_resident(candidate, prompts)
    expected = [_ask_whole(reference, prompt) for prompt in prompts]
    pairs = list(zip(told, expected, strict=True))
    found = Agreement(
        probability=max(abs(share(left) - share(right)) for left, right in pairs),
        logit=max(_apart(left, right) for left, right in pairs),
        questions=len(pairs),
        farthest=max(map(len, prompts)) - 1,
    )
    # Written so that a NaN is outside of any band.
    if not (found.probability <= allowed.probability and found.logit <= allowed.logit):
        raise ClassifierError(
            "canary",
            f"the {candidate.name} runner answers {len(pairs)} fixed questions with probabilities up to {found.probability:.3g} and logits "
            f"up to {found.logit:.3g} from the {reference.name} runner's; {allowed.probability:g} and {allowed.logit:g} are allowed, so it "
            f"does not start; choose another runner",
        )
    return found


def _prompts(vocabulary: int, window: int | None, room: int) -> list[NDArray[np.int32]]:
    generator = np.random.default_rng(_SEED)
    lengths = [*_PREFIXES] if window is None else [*_PREFIXES, window + 40]
    # Beside the prefixes a question's own page; the reference keeps nothing.
    fits = [length for length in lengths if sum(-(-shorter // PAGE) for shorter in lengths if shorter <= length) + 1 <= room]
    return [generator.integers(0, vocabulary, length + _QUESTION, dtype=np.int32) for length in fits]


def _ask_resident(runner: Runner, prompts: list[NDArray[np.int32]]) -> list[Read]:
    """Prefixes first, in portions; then every question in one pass, the last one grown in two steps."""
    spans: list[KVSpan] = []
    try:
        for prompt in prompts:
            spans.append(KVSpan(runner.pool))
            _fill(runner, spans[-1], prompt[:-_QUESTION])
        half = _QUESTION // 2
        grown, last = KVSpan(runner.pool, first=spans[-1].length), prompts[-1]
        spans.append(grown)
        first = Row(last[-_QUESTION:-half], (spans[-2],), grown, half, read=False)
        rows = [Row(prompt[-_QUESTION:], (span,)) for prompt, span in zip(prompts[:-1], spans, strict=False)]
        passes = [[*rows, first]] if _QUESTION * len(prompts) <= runner.most_tokens else [[row] for row in (*rows, first)]
        told = [read for laid in passes for read in execute(runner, laid)]
        told[-1] = execute(runner, [Row(last[-half:], (spans[-2], grown))])[0]
        return [read for read in told if read is not None]
    finally:
        for span in spans:
            span.drop()


def _fill(runner: Runner, span: KVSpan, tokens: NDArray[np.int32]) -> None:
    for start in range(0, len(tokens), runner.most_tokens):
        portion = tokens[start : start + runner.most_tokens]
        execute(runner, [Row(portion, (span,) if span.length else (), span, len(portion), read=False)])


def _ask_whole(runner: Runner, prompt: NDArray[np.int32]) -> Read:
    (read,) = execute(runner, [Row(prompt)])
    assert read is not None  # a row that is read is answered
    return read


def _apart(left: Read, right: Read) -> float:
    pairs = ((left.zero, right.zero), (left.one, right.one), (left.log_total, right.log_total))
    return float(np.abs(np.subtract(*np.array(pairs).T)).max())
