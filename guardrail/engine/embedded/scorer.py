"""Scoring with resident policies: any mix of texts and policies in few passes over the texts."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guardrail.engine.embedded.model import PolicyReader, Statements
from guardrail.engine.embedded.statements import statements_of
from guardrail.engine.embedded.tokens import Tokens, Window, pad
from guardrail.engine.embedded.weights import Calibration
from guardrail.types import Policy, Span

TOKENS_A_PASS = 4096  # padded text tokens a pass; bounds memory, not the number of texts
PAIRS_A_PASS = 256


@dataclass(frozen=True, slots=True)
class Resident:
    """A prepared policy: its statement vectors [K, D] and kinds [K]."""

    vectors: Tensor
    kinds: Tensor


@dataclass(frozen=True, slots=True)
class Found:
    """The highest calibrated probability over a text's windows and the window it came from."""

    value: float
    span: Span


class Scorer:
    """Holds a model and its resident policies. Not safe for concurrent calls of `prepare`; `score` only reads."""

    def __init__(self, model: PolicyReader, tokens: Tokens, calibration: Calibration, *, dtype: torch.dtype = torch.float32) -> None:
        self._model = model.eval().to(dtype)
        self._tokens = tokens
        self._calibration = calibration
        self._resident: dict[str, Resident] = {}

    def prepare(self, policies: Sequence[Policy]) -> None:
        """Encode what is new; policies that are no longer asked about stay until `forget`."""
        with torch.inference_mode():
            for policy in policies:
                if policy.digest not in self._resident:
                    statements = statements_of(policy)
                    vectors = self._model.encode_statements(*self._tokens.statements([statement.text for statement in statements]))
                    kinds = torch.tensor([statement.kind for statement in statements])
                    self._resident = {**self._resident, policy.digest: Resident(vectors, kinds)}

    def forget(self, keep: Sequence[Policy]) -> None:
        """Drop every resident policy but these."""
        digests = {policy.digest for policy in keep}
        self._resident = {digest: resident for digest, resident in self._resident.items() if digest in digests}

    def is_resident(self, policy: Policy) -> bool:
        """Whether `score` can be asked about the policy."""
        return policy.digest in self._resident

    def score(self, asked: Sequence[tuple[str, Policy]], *, deadline: float = math.inf) -> list[Found]:
        """The probability for each (text, policy), in order. Raises KeyError for a policy that is not resident.

        Raises TimeoutError once `time.monotonic()` has passed `deadline`, looked at between passes.

        A text is read once however many policies are asked about it; a text longer than a window is read window by window and
        its highest window counts.
        """
        resident = self._resident
        digests = list(dict.fromkeys(policy.digest for _, policy in asked))
        statements = _stacked([resident[digest] for digest in digests])
        column = {digest: place for place, digest in enumerate(digests)}
        wanted: dict[str, dict[int, list[int]]] = {}
        for place, (text, policy) in enumerate(asked):
            wanted.setdefault(text, {}).setdefault(column[policy.digest], []).append(place)
        windows = sorted(((text, window) for text in wanted for window in self._tokens.windows(text)), key=lambda item: len(item[1].ids))
        best: list[tuple[float, Span]] = [(float("-inf"), Span(0, 0))] * len(asked)
        with torch.inference_mode():
            for group in _groups(windows):
                if time.monotonic() > deadline:
                    raise TimeoutError
                pairs = [(row, place) for row, (text, _) in enumerate(group) for place in wanted[text]]
                for (row, policy_place), logit in zip(pairs, self._logits(group, pairs, statements), strict=True):
                    text, window = group[row]
                    for place in wanted[text][policy_place]:
                        # `not <=` lets a NaN through, which the caller must turn into an error rather than lose.
                        if not logit <= best[place][0]:
                            best[place] = (logit, window.span)
        return [Found(self._probability(logit), span) for logit, span in best]

    def _logits(self, group: Sequence[tuple[str, Window]], pairs: Sequence[tuple[int, int]], statements: Statements) -> list[float]:
        ids, mask = pad([window.ids for _, window in group])
        states = self._model.encode(ids, mask)
        found: list[float] = []
        for first in range(0, len(pairs), PAIRS_A_PASS):
            chosen = torch.tensor(pairs[first : first + PAIRS_A_PASS])
            found += self._model.read(chosen, statements, states, mask).float().tolist()
        return found

    def _probability(self, logit: float) -> float:
        scaled = torch.tensor(self._calibration.slope * logit + self._calibration.offset, dtype=torch.float64)
        return float(torch.sigmoid(scaled))


def _stacked(policies: Sequence[Resident]) -> Statements:
    width = max(len(policy.kinds) for policy in policies)
    vectors = torch.zeros(len(policies), width, policies[0].vectors.shape[1], dtype=policies[0].vectors.dtype)
    kinds = torch.zeros(len(policies), width, dtype=torch.long)
    present = torch.zeros(len(policies), width, dtype=torch.bool)
    for place, policy in enumerate(policies):
        size = len(policy.kinds)
        vectors[place, :size], kinds[place, :size], present[place, :size] = policy.vectors, policy.kinds, True
    return Statements(vectors, kinds, present)


def _groups(windows: Sequence[tuple[str, Window]]) -> list[list[tuple[str, Window]]]:
    """Neighbours in length, until their padded size is a pass full."""
    groups: list[list[tuple[str, Window]]] = []
    for item in windows:
        if groups and (len(groups[-1]) + 1) * len(item[1].ids) <= TOKENS_A_PASS:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups
