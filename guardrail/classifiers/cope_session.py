"""A growing text under CoPE: only its new tokens are run, then the question behind them, which is forgotten again."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from guardrail.classifiers.cope_options import CopeOptions
from guardrail.engine.cope.messages import Ask, EngineClient, Priority, Told
from guardrail.engine.cope.probe import ProbeAlarm
from guardrail.engine.cope.tokens import PromptTokens, RowTokens
from guardrail.errors import ClassifierError
from guardrail.types import Policy, Score
from guardrail.windows import OVERLAP

Answer = Score | ClassifierError


class Reader(Protocol):
    """What a session needs of its classifier."""

    @property
    def options(self) -> CopeOptions:
        """How answers are read, and how often."""
        ...

    def resident(self, policy: Policy) -> str:
        """The engine's name of a prepared policy."""
        ...

    def fitting(self, policy: Policy, row: RowTokens) -> RowTokens:
        """The row, where it fits beside the policy."""
        ...

    def scored(self, told: Told | ClassifierError, row: RowTokens) -> Answer:
        """An answer of the engine as a score."""
        ...


class CopeSession:
    """See `Session`. Checks follow the cadence; with a stream probe they also come when its average crosses the threshold.

    All policies are asked at once, and the engine packs what is due together, of this and of every other session. A text that outgrows
    the model goes on in a new window, which begins some sentences before what was judged last; the highest score of all windows counts.
    """

    def __init__(self, reader: Reader, engine: EngineClient, prompt: PromptTokens, policies: Sequence[Policy], *, tenant: str) -> None:
        self._reader = reader
        self._engine = engine
        self._prompt = prompt
        self._policies = tuple(policies)
        self._tenant = tenant
        self._name = uuid.uuid4().hex
        self._text = ""  # of the window that is resident
        self._judged = 0  # characters of it that every policy's last score covers
        self._last: list[Answer] = []  # those scores
        self._before: list[Score] = []  # the highest of earlier windows
        self._added = ""  # since the last check
        self._unheard = ""  # since the last check or the last tokens that only the probe heard
        self._row: RowTokens | None = None  # of the text as it was last tokenised
        self._checked = time.monotonic()
        threshold = reader.options.probe_threshold
        self._alarms = [ProbeAlarm(threshold=threshold) for _ in policies] if threshold is not None else []
        self.tokens_run = 0
        self.checks = 0

    @property
    def warning(self) -> float | None:
        """The highest average of the stream probe under any policy, or None without a probe. A warning, never a verdict."""
        return max((alarm.average for alarm in self._alarms), default=None)

    async def extend(self, text: str, *, deadline: float, final: bool = False) -> list[Answer] | None:
        """See `Session.extend`."""
        self._text += text
        self._added += text
        self._unheard += text
        if not final and not self._due() and not await self._warned(deadline):
            return None
        rows = self._rows()
        told = await self._ask(rows, deadline=deadline)
        self._heard(told)
        self._added = ""
        self._checked = time.monotonic()
        self.checks += 1
        answers = [
            self._reader.scored(answer, row) if isinstance(row, RowTokens) else row
            for policy, answer, row in zip(self._policies, told, rows, strict=True)
        ]
        if all(isinstance(answer, Score) for answer in answers):
            self._judged, self._last = len(self._text), answers
        return [_higher(answer, before) for answer, before in zip(answers, self._before, strict=True)] if self._before else answers

    async def aclose(self) -> None:
        """Forget the text's keys and values."""
        self._engine.forget(self._name)

    def _due(self) -> bool:
        cadence = self._reader.options.cadence
        tokens = self._prompt.count(self._added) if self._added else 0
        return cadence.due(tokens=tokens, seconds=time.monotonic() - self._checked, text=self._added)

    async def _warned(self, deadline: float) -> bool:
        """Run the new tokens without the question; whether the probe's average crossed its threshold under a policy."""
        if not self._alarms or self._prompt.count(self._unheard) < self._reader.options.cadence.least_tokens:
            return False
        rows = [replace(row, tokens=row.tokens[: row.keep]) if isinstance(row, RowTokens) and row.keep else row for row in self._rows()]
        return self._heard(await self._ask(rows, deadline=deadline))

    def _heard(self, told: Sequence[Told | ClassifierError]) -> bool:
        """Feed the probe's scores of newly kept tokens to the alarms; whether one of them rang."""
        self._unheard = ""
        heard = [alarm.feed(answer.read.probe) for alarm, answer in zip(self._alarms, told, strict=False) if isinstance(answer, Told)]
        return any(heard)

    def _rows(self) -> list[RowTokens | ClassifierError]:
        rows = self._window_rows()
        if self._judged and any(isinstance(row, ClassifierError) and row.code == "too_long" for row in rows):
            self._move()
            rows = self._window_rows()
        return rows

    def _move(self) -> None:
        """Begin a new window with what no score covers yet, and some of what one does."""
        scores = [answer for answer in self._last if isinstance(answer, Score)]
        self._before = [max(pair, key=_value) for pair in zip(scores, self._before or scores, strict=True)]
        self._engine.forget(self._name)
        self._name = uuid.uuid4().hex
        self._text = self._text[max(0, self._judged - OVERLAP) :]
        self._judged, self._row = 0, None

    def _window_rows(self) -> list[RowTokens | ClassifierError]:
        """What is run for each policy, or why nothing is; one and the same row for all where the tokenizer has a safe cut."""
        shared: RowTokens | None = None
        rows: list[RowTokens | ClassifierError] = []
        for policy in self._policies:
            try:
                if self._prompt.seam == "whole":
                    row = self._prompt.row(self._text, policy.body)
                else:
                    row = shared = shared or self._prompt.row(self._text, earlier=self._row)
                rows.append(self._reader.fitting(policy, row))
            except ClassifierError as error:
                rows.append(error)
        self._row = shared or self._row
        return rows

    async def _ask(self, rows: Sequence[RowTokens | ClassifierError], *, deadline: float) -> list[Told | ClassifierError]:
        """The engine's answers, all asked at once; a row that could not be made is its own answer."""
        probe = bool(self._alarms)
        asks = [
            Ask(self._reader.resident(policy), row.tokens, deadline, Priority.STREAM, self._tenant, self._name, row.keep, probe)
            for policy, row in zip(self._policies, rows, strict=True)
            if isinstance(row, RowTokens)
        ]
        told = iter(await self._engine.ask(asks) if asks else [])
        answers = [next(told) if isinstance(row, RowTokens) else row for row in rows]
        self.tokens_run += sum(answer.tokens_run for answer in answers if isinstance(answer, Told))
        return answers


def _higher(answer: Answer, before: Score) -> Answer:
    """An error stays one: part of the text is unjudged, whatever the rest scored."""
    return answer if isinstance(answer, ClassifierError) else max(answer, before, key=_value)


def _value(score: Score) -> float:
    return score.value
