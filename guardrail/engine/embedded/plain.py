"""The reference way to run a policy reader: the network's own modules, on padded batches. `fast` must agree with it, and is measured
against it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guardrail.engine.embedded.model import PolicyReader, Statements
from guardrail.engine.embedded.token_match import Encoded
from guardrail.engine.embedded.tokens import pad

PAIRS_A_READ = 256


@dataclass(frozen=True, slots=True)
class PlainResident:
    """A prepared policy: its K statements and their kinds [K]."""

    encoded: Encoded
    kinds: Tensor


class PlainReader:
    """Reads as training does; see `FastReader`, whose methods these are."""

    def __init__(self, model: PolicyReader) -> None:
        self._model = model

    def resident(self, encoded: Encoded, kinds: Tensor) -> PlainResident:
        """A policy's statements and their kinds [K], the label's first -> what is kept of it."""
        return PlainResident(encoded, kinds)

    def read(self, texts: Sequence[Sequence[int]], policies: Sequence[PlainResident], pairs: Sequence[tuple[int, int]]) -> list[float]:
        """Logits of the `pairs` (text, policy), in order."""
        found = [0.0] * len(pairs)
        with torch.inference_mode():
            statements = _stacked(policies)
            for group in _groups(texts):
                row = {text: place for place, text in enumerate(group)}
                ids, mask = pad([texts[text] for text in group])
                asked = [place for place, (text, _) in enumerate(pairs) if text in row]
                for first in range(0, len(asked), PAIRS_A_READ):
                    chosen = asked[first : first + PAIRS_A_READ]
                    rows = torch.tensor([(row[pairs[place][0]], pairs[place][1]) for place in chosen])
                    for place, logit in zip(chosen, self._model.read(rows, statements, ids, mask).float().tolist(), strict=True):
                        found[place] = logit
        return found


def _stacked(policies: Sequence[PlainResident]) -> Statements:
    width = max(len(policy.kinds) for policy in policies)
    layout = torch.zeros(len(policies), width, dtype=torch.long)
    kinds = torch.zeros_like(layout)
    present = torch.zeros(len(policies), width, dtype=torch.bool)
    first = 0
    for place, policy in enumerate(policies):
        size = len(policy.kinds)
        layout[place, :size] = torch.arange(first, first + size)
        kinds[place, :size], present[place, :size] = policy.kinds, True
        first += size
    return Statements(Encoded.joined([policy.encoded for policy in policies]), layout, kinds, present)


def _groups(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Texts of like length together, so that little is padding: none in a group is over twice as long as another."""
    groups: list[list[int]] = []
    for text in sorted(range(len(texts)), key=lambda text: len(texts[text])):
        if groups and len(texts[text]) <= max(32, 2 * len(texts[groups[-1][0]])):
            groups[-1].append(text)
        else:
            groups.append([text])
    return groups
