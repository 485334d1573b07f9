"""One stage's parts as rows of one classify call, under every disguise undone, and what the answers to them come to for each part."""

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from guardrail.context import contexts_for
from guardrail.conversation import located
from guardrail.errors import ClassifierError
from guardrail.escalation import Answer
from guardrail.normalize import Reading, Readings, readings
from guardrail.types import Check, ClassifyRequest, Part, Policy, ReadingLimits, Score, Stage, Verdict
from guardrail.windows import Partial

TRUNCATED = "readings_truncated"
"""Flag of a verdict on a text of which the limits left some reading unread. It blocks nothing: the raw text was judged whole, and long
benign texts meet limits too. What ends a reading early because of the deadline is an error instead."""


def readings_of(texts: Iterable[str], limits: ReadingLimits | None, *, deadline: float) -> dict[str, Readings]:
    """The readings of each text, the raw one alone without limits; none from where the deadline (a `time.monotonic()`) came on."""
    found: dict[str, Readings] = {}
    with contextlib.suppress(TimeoutError):
        for text in texts:
            if limits is None:
                found[text] = Readings((Reading(text),))
            elif time.monotonic() < deadline:
                found[text] = readings(text, limits=limits, deadline=deadline)
    return found


Question = tuple[tuple[str, str], str, str | None]
"""A policy's key, a text, and what it is judged with."""

_LONG_PROMPT = ClassifierError("too_long", "the prompt is too long to judge an answer with")


class Questions:
    """The rows of one classify call; equal questions are one. `raw` False leaves the raw texts out: others have judged them.

    `said` is what the user said, for policies that judge an answer with it, in several rows where it is long.
    """

    def __init__(self, checks: Sequence[Check], stage: Stage, tenant: str, *, raw: bool = True, said: str | None = None) -> None:
        self.requests: list[ClassifyRequest] = []
        self._checks = checks
        self._stage = stage
        self._tenant = tenant
        self._first = 0 if raw else 1
        self._rows: dict[str, int] = {}
        policies = distinct(checks)
        columns: dict[tuple[str, str], range] = {}
        self._policies: list[tuple[Policy, str | None]] = []
        for key, policy in policies.items():
            first = len(self._policies)
            self._policies += [(policy, context) for context in contexts_for(policy, stage, said)]
            columns[key] = range(first, len(self._policies))
        self._columns = tuple(columns[check.policy.key] for check in checks)

    def add(self, known: Readings) -> None:
        """Ask for every reading that was not asked for yet."""
        for reading in self._asked(known):
            if self._rows.setdefault(reading.text, len(self.requests)) == len(self.requests):
                self.requests += [
                    ClassifyRequest(policy, reading.text, context, self._stage, self._tenant) for policy, context in self._policies
                ]

    def verdicts(self, part: Part, known: Readings | None, answers: Sequence[Answer | Partial], classifier: str) -> list[Verdict]:
        """One verdict for each check, in order, of all readings of a part; an error for each where it could not be read in time."""
        if known is None:
            late = ClassifierError("timeout", "the text was not read before the deadline")
            return [verdict_of(part, check, late, classifier) for check in self._checks]
        asked = [(reading, self._rows[reading.text]) for reading in self._asked(known)]
        if not asked:
            return []
        found = []
        for check, columns in zip(self._checks, self._columns, strict=True):
            each = [read_verdict(part, check, answers[row + column], classifier, reading) for reading, row in asked for column in columns]
            found.append(placed(part, flagged(strongest(each or [verdict_of(part, check, _LONG_PROMPT, classifier)]), known)))
        return found

    def _asked(self, known: Readings) -> list[Reading]:
        return [reading for reading in known.found[self._first :] if reading.text.strip()]


def question_of(request: ClassifyRequest) -> Question:
    """What tells a request from every other one of its batch."""
    return request.policy.key, request.text, request.context


def distinct(checks: Iterable[Check]) -> dict[tuple[str, str], Policy]:
    """The policies of the checks by their keys, in order."""
    found: dict[tuple[str, str], Policy] = {}
    for check in checks:
        found.setdefault(check.policy.key, check.policy)
    return found


def strongest(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict of several on readings of one text under one check, all of their flags on it.

    What violates wins, by its score; then what could not be judged, since it might have; then the highest score. The first of equals.
    """
    found = max(verdicts, key=lambda verdict: (verdict.violation, verdict.error is not None, verdict.score or 0.0))
    flags = tuple(sorted({flag for verdict in verdicts for flag in verdict.flags}))
    return found if flags == found.flags else replace(found, flags=flags)


def placed(part: Part, verdict: Verdict) -> Verdict:
    """The verdict with the piece of a joined text that its span lies in."""
    if not part.pieces:
        return verdict
    path, span = located(part, verdict.span)
    return replace(verdict, part=path, span=span)


def flagged(verdict: Verdict, known: Readings) -> Verdict:
    """The verdict, marked where limits left some reading of its text unread."""
    if not known.truncated or TRUNCATED in verdict.flags:
        return verdict
    return replace(verdict, flags=tuple(sorted({*verdict.flags, TRUNCATED})))


def read_verdict(part: Part, check: Check, answer: Answer | Partial, classifier: str, reading: Reading) -> Verdict:
    """What an answer to one reading of a part means: the span is one of the raw text."""
    verdict = verdict_of(part, check, answer, classifier)
    if not reading.steps:
        return verdict
    return replace(verdict, span=None if verdict.span is None else reading.raw(verdict.span), reading=reading.trace)


def unanswered(parts: Iterable[Part], checks: Sequence[Check], classifier: str) -> tuple[Verdict, ...]:
    """The verdicts on parts that nobody waits for any more."""
    left = ClassifierError("abandoned", "the client left before it was judged")
    texts = [part for part in parts if part.text and part.text.strip()]
    return tuple(placed(part, verdict_of(part, check, left, classifier)) for part in texts for check in checks)


def verdict_of(part: Part, check: Check, answer: Answer | Partial, classifier: str) -> Verdict:
    """What a classifier's answer means under a check."""
    policy = check.policy
    if isinstance(answer, Partial):  # what was read settles it only when that alone violates
        violates = answer.score is not None and answer.score.value >= check.threshold
        answer = answer.score if violates and answer.score is not None else answer.error
    score, error = (answer, None) if isinstance(answer, Score) else (None, answer)
    return Verdict(
        policy_id=policy.id,
        policy_version=policy.version,
        policy_digest=policy.digest,
        threshold=check.threshold,
        part=part.path,
        classifier=score.classifier if score else classifier,
        score=score.value if score else None,
        error=error.code if error else None,
        span=score.span if score else None,
        criterion=score.criterion if score else None,
        choice=part.choice,
        action=check.action,
        mode=check.mode,
        flags=score.flags if score else (),
        provenance=score.provenance if score else None,
    )
