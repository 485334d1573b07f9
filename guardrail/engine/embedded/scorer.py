"""Scoring with resident policies: any mix of texts and policies in short passes, so that a long text never holds up a short one."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from guardrail.calibration import Platt
from guardrail.engine.embedded.fast import FastReader
from guardrail.engine.embedded.model import PolicyReader
from guardrail.engine.embedded.statements import heading, statements_of
from guardrail.engine.embedded.token_match import Encoded
from guardrail.engine.embedded.tokens import Tokens, Window
from guardrail.types import Policy, Span

TOKENS_A_PASS = 2048  # of text; about a tenth of a second on one core
MOST_RESIDENT = 1024  # policies; beyond that those of the oldest generations go


_Key = tuple[str, str]


class Reader(Protocol):
    """A way to run the network: `FastReader`, or `PlainReader`, which it must agree with."""

    def resident(self, encoded: Encoded, kinds: Tensor) -> Any:
        """What is kept of a policy with these statements of these kinds [K]."""
        ...

    def read(self, texts: Sequence[Sequence[int]], policies: Sequence[Any], pairs: Sequence[tuple[int, int]]) -> list[float]:
        """Logits of the `pairs` (text, policy), none of them twice, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """The highest calibrated probability over a text's windows and the window it came from."""

    value: float
    span: Span


class Reading:
    """Texts on their way through the model, under the policies as they were when it began. Advanced by `Scorer.advance`."""

    def __init__(self, asked: Sequence[tuple[str, Policy]], resident: dict[_Key, Any], tokens: Tokens) -> None:
        self.policies: dict[_Key, Any] = {_key(policy): resident[_key(policy)] for _, policy in asked}
        self.wanted: dict[str, dict[_Key, list[int]]] = {}
        for place, (text, policy) in enumerate(asked):
            self.wanted.setdefault(text, {}).setdefault(_key(policy), []).append(place)
        self.best: list[tuple[float, Span]] = [(-math.inf, Span(0, 0))] * len(asked)
        self._tokens = tokens
        self._texts = deque(self.wanted)
        self._windows: deque[tuple[str, Window]] = deque()

    @property
    def finished(self) -> bool:
        """True when every window of every text was taken."""
        return not self._texts and not self._windows

    def take(self) -> tuple[str, Window] | None:
        """The next window; a text is tokenised when its turn comes. None at the end."""
        if not self._windows:
            if not self._texts:
                return None
            text = self._texts.popleft()
            self._windows.extend((text, window) for window in self._tokens.windows(text))
        return self._windows.popleft()

    def note(self, place: int, logit: float, span: Span) -> None:
        """Keep the highest logit. A NaN stays once it was seen: the caller must turn it into an error rather than lose it."""
        before = self.best[place][0]
        if not math.isnan(before) and not logit <= before:
            self.best[place] = (logit, span)


class Scorer:
    """Holds a model and its resident policies. Not safe for concurrent calls of `prepare`, nor of `advance`."""

    def __init__(
        self,
        model: PolicyReader,
        tokens: Tokens,
        calibration: Platt,
        *,
        dtype: torch.dtype = torch.float32,
        reader: Callable[[PolicyReader], Reader] = FastReader,
    ) -> None:
        self._model = model.eval().to(dtype)
        self._reader = reader(self._model)
        self._tokens = tokens
        self._calibration = calibration
        self._resident: dict[_Key, Any] = {}

    def prepare(self, policies: Sequence[Policy]) -> None:
        """Encode what is new. Policies of before stay, since exchanges may still be pinned to them, until there are very many."""
        known = dict(self._resident)
        with torch.inference_mode():
            for policy in policies:
                if _key(policy) not in known:
                    statements = statements_of(policy)
                    encoded = self._model.encode_statements(*self._tokens.statements([statement.text for statement in statements]))
                    known[_key(policy)] = self._reader.resident(encoded, torch.tensor([statement.kind for statement in statements]))
        wanted = {_key(policy) for policy in policies}
        spare = [key for key in known if key not in wanted][: max(0, len(known) - MOST_RESIDENT)]
        self._resident = {key: resident for key, resident in known.items() if key not in spare}

    def is_resident(self, policy: Policy) -> bool:
        """Whether `begin` can be asked about the policy."""
        return _key(policy) in self._resident

    def begin(self, asked: Sequence[tuple[str, Policy]]) -> Reading:
        """Start on (text, policy) pairs; cheap, nothing is computed yet. Raises KeyError for a policy that is not resident."""
        return Reading(asked, self._resident, self._tokens)

    def advance(self, readings: Sequence[Reading]) -> None:
        """One pass: windows are taken from the readings in turn until the pass is full, so that each gets on whatever the others hold."""
        taken: list[tuple[Reading, str, Window]] = []
        room, live = TOKENS_A_PASS, list(readings)
        while room > 0 and live:
            for reading in list(live):
                item = reading.take()
                if item is None:
                    live.remove(reading)
                elif room > 0:
                    taken.append((reading, *item))
                    room -= len(item[1].ids)
                if room <= 0:
                    break
        if taken:
            self._read(taken)

    def answers(self, reading: Reading) -> list[Found]:
        """What a finished reading found, in the order it was asked."""
        return [Found(self._probability(logit), span) for logit, span in reading.best]

    def score(self, asked: Sequence[tuple[str, Policy]]) -> list[Found]:
        """The probability for each (text, policy), in order, in one go.

        A text is read once however many policies are asked about it; a text longer than a window is read window by window and
        its highest window counts.
        """
        reading = self.begin(asked)
        while not reading.finished:
            self.advance([reading])
        return self.answers(reading)

    def _read(self, taken: Sequence[tuple[Reading, str, Window]]) -> None:
        # In one order whoever asks first: the same policies are then laid side by side once.
        asked_for = {key: resident for reading, _, _ in taken for key, resident in reading.policies.items()}
        policies = dict(sorted(asked_for.items()))
        column = {key: place for place, key in enumerate(policies)}
        asked = [(row, key) for row, (reading, text, _) in enumerate(taken) for key in reading.wanted[text]]
        pairs = [(row, column[key]) for row, key in asked]
        logits = self._reader.read([window.ids for _, _, window in taken], list(policies.values()), pairs)
        for (row, key), logit in zip(asked, logits, strict=True):
            reading, text, window = taken[row]
            for place in reading.wanted[text][key]:
                reading.note(place, logit, window.span)

    def _probability(self, logit: float) -> float:
        scaled = torch.tensor(self._calibration.slope * logit + self._calibration.offset, dtype=torch.float64)
        return float(torch.sigmoid(scaled))


def _key(policy: Policy) -> _Key:
    """Everything that the model reads of a policy: policies that it cannot tell apart are one."""
    return policy.digest, heading(policy)
