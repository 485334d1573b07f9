"""Whether a changed model still judges alike: fixed mild prompts scored before and after, and a band that the change must stay in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from guardrail.engine.cope.head import AnswerHead
from guardrail.engine.cope.tokens import PromptTokens
from guardrail.errors import ModelFileError

POLICIES = (
    (
        "# Policy\n\n### (RU): Rude Messages\n\n#### Includes\n\n- **Name calling**: content that calls a person a silly name.\n\n"
        "#### Excludes\n\n- **Quotes**: content that reports what somebody else said.\n"
    ),
    "# Policy\n\n### (AD): Advertising\n\nIncludes: content that praises something for sale. Excludes: asking for advice on what to buy.\n",
    "Content that gives away the ending of a book or a film.",
)
CONTENTS = (
    "Good morning! The library opens at nine today.",
    "You silly goose, you left the window open again.",
    "Buy our garden chairs now, the best you have ever sat on!",
    "In the last chapter we learn that the gardener had written the letters himself.\n\n- Anna",
)


@dataclass(frozen=True, slots=True)
class Band:
    """The most that scores may differ: each, and on average."""

    largest: float
    mean: float


# bf16 against fp32 of the same weights differs by 0.02 to 0.03 at most; eight bits may cost a few times that near one half.
BANDS = {
    "int8": Band(0.10, 0.03),
    "fp8": Band(0.10, 0.03),
    "bfloat16": Band(0.05, 0.02),
    "float16": Band(0.05, 0.02),
    "float32": Band(1e-4, 1e-4),
}


@dataclass(frozen=True, slots=True)
class Agreement:
    """How scores differ: the largest and mean absolute difference, and how many crossed one half, of `count`."""

    largest: float
    mean: float
    flips: int
    count: int

    @classmethod
    def between(cls, before: Sequence[float], after: Sequence[float]) -> "Agreement":
        """Compare in order. A score that is not a number is as far away as can be."""
        first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
        apart = np.nan_to_num(np.abs(first - second), nan=1.0)
        flips = int(((first >= 0.5) != (second >= 0.5)).sum())
        return cls(float(apart.max()), float(apart.mean()), flips, len(apart))

    def within(self, band: Band) -> bool:
        """Whether it stays in a band."""
        return self.largest <= band.largest and self.mean <= band.mean

    def require(self, band: Band, what: str) -> None:
        """Raises ModelFileError where it does not stay in the band, with both."""
        if not self.within(band):
            raise ModelFileError(f"{what} is refused: {self}, and at most {band.largest:g} (mean {band.mean:g}) is allowed")

    def __str__(self) -> str:
        return f"scores differ by up to {self.largest:.2g} (mean {self.mean:.2g}), {self.flips} of {self.count} crossed one half"


def prompts(tokens: PromptTokens) -> list[NDArray[np.int32]]:
    """The ids of every probe policy with every probe content."""
    return [tokens.whole(policy, content) for policy in POLICIES for content in CONTENTS]


@torch.inference_mode()
def scores(model: Any, tokens: PromptTokens) -> list[float]:
    """p("1") against p("0") of each probe prompt by the whole forward of a transformers model, its answer rows read in fp32."""
    head = AnswerHead.of(model, tokens.zero, tokens.one)
    found = []
    for ids in prompts(tokens):
        states = model.base_model(input_ids=torch.from_numpy(ids.astype(np.int64)).to(model.device)[None], use_cache=False)
        hidden = states.last_hidden_state[0, -1:]
        logits = head(hidden, torch.zeros(1, dtype=torch.int64, device=hidden.device))[0][0]
        found.append(float(torch.sigmoid(logits[1] - logits[0])))
    return found
