"""The windows of one streamed answer, judged: by sessions where the classifier has them, else by checks of the whole text so far."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from guardrail.context import contexts_for, opening, within
from guardrail.errors import ClassifierError
from guardrail.escalation import Answer, Ask
from guardrail.guard import Guard, Turn, cleaned
from guardrail.interfaces import Session, SupportsSessions
from guardrail.questions import distinct, strongest, unanswered, verdict_of
from guardrail.types import Action, ClassifyRequest, Decision, Part, Policy, Score, Verdict
from guardrail.window import Ruling, StreamPart, Window, ruling

_MOST_OPENINGS = 4  # sessions of one policy, which hold memory each; a prompt in more pieces is shown with the whole text each time


@dataclass(slots=True)
class _Growing:
    """A part's session under some of the policies: how much of which version of the text it has. One window at a time.

    `opening` is what it reads before the text: the prompt, or a piece of it, for policies that judge an answer with it.
    """

    policies: tuple[Policy, ...]
    opening: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    session: Session | None = None
    has: int = 0
    version: int = 0


class AnswerJudge:
    """Judges one answer while it comes. `kinds` names the kind of part (text, reasoning, …) by its path; it may grow.

    No event is emitted before `conclude`, which makes one decision of the last verdicts on each part, as if the answer had been judged
    whole: those on all of it, or those that blocked it, or that something was taken out for. Close it; sessions hold memory.
    """

    def __init__(self, guard: Guard, turn: Turn, kinds: Mapping[str, str] | None = None) -> None:
        self._guard = guard
        self._turn = turn
        self.kinds = dict(kinds or {})
        self._classifier = guard.growing(turn.route)
        checks = turn.route.checks(turn.stage)
        self._groups: dict[str, tuple[Policy, ...]] = {}
        for policy in distinct(checks).values():
            contexts = contexts_for(policy, turn.stage, turn.context)
            if not 0 < len(contexts) <= _MOST_OPENINGS:
                self._classifier = None
            for beginning in map(opening, contexts):
                self._groups[beginning] = (*self._groups.get(beginning, ()), policy)
        self._growing: dict[tuple[StreamPart, str], _Growing] = {}
        self._parts: dict[str, Part] = {}
        self._verdicts: dict[str, tuple[Verdict, ...]] = {}
        self._numbers: dict[str, int] = {}
        self._ended: set[str] = set()
        self._redacting: dict[tuple[str, int], Verdict] = {}  # by the part's path and the check's place
        self._recordable = False

    @property
    def resident(self) -> bool:
        """Whether a window costs its new text only."""
        return self._classifier is not None

    async def judge(self, windows: Sequence[Window]) -> list[Ruling]:
        """A ruling for each window, in order. Never raises for a classifier's failure; windows without sessions are one batch."""
        if not self._recordable and not await self._guard.recordable(self._turn.route):
            return [Ruling(Action.BLOCK, unavailable=True)] * len(windows)
        self._recordable = True
        parts = [self._part(window) for window in windows]
        whole = [place for place, window in enumerate(windows) if self._classifier is None or window.part.whole]
        batch = self._guard.judge([parts[place] for place in whole], self._turn)
        growing = {
            place: self._read(self._classifier, window, parts[place])
            for place, window in enumerate(windows)
            if self._classifier is not None and not window.part.whole
        }
        together, *each = await asyncio.gather(batch, *growing.values())
        by_path: dict[str, list[Verdict]] = {}
        for verdict in together:
            by_path.setdefault(verdict.part, []).append(verdict)
        found = {place: tuple(by_path.get(parts[place].path, ())) for place in whole} | dict(zip(growing, each, strict=True))
        return [self._ruled(window, parts[place], found[place]) for place, window in enumerate(windows)]

    def conclude(self, others: Sequence[Part] = ()) -> Decision:
        """The one decision on the answer, which is emitted. `others` are parts that could not be read, and are no window."""
        verdicts = tuple(
            verdict if verdict.violation else self._redacting.get((path, check), verdict)
            for path, found in self._verdicts.items()
            for check, verdict in enumerate(found)
        )
        return self._guard.conclude((*self._parts.values(), *others), verdicts, self._turn)

    async def broken_off(self, out: Sequence[Window]) -> Decision | None:
        """The decision on an answer that goes no further, emitted even where this is stopped; None where nothing was judged and nothing is
        `out`: released, and not judged yet. That is judged by now, or recorded as unjudged."""
        try:
            if out:
                await self.judge(out)
        finally:
            for window in out:
                self._give_up(window)
            decision = self.conclude() if self._verdicts else None
        return decision

    async def recorded(self, decision: Decision) -> Decision:
        """The decision once it is recorded, where the route waits for that; a block in its place when it is not."""
        return await self._guard.recorded(decision, self._turn.route)

    def violations(self, choice: int) -> list[Verdict]:
        """What was found in a choice so far, strongest score first."""
        found = [verdict for verdicts in self._verdicts.values() for verdict in verdicts if verdict.choice == choice and verdict.violation]
        return sorted(found, key=lambda verdict: -(verdict.score or 0.0))

    async def aclose(self) -> None:
        """Give the sessions back. Idempotent."""
        growing = [each for each in self._growing.values() if each.session is not None]
        self._growing.clear()
        for each in growing:
            if each.session is not None:
                await each.session.aclose()

    def _part(self, window: Window) -> Part:
        path = window.part.path
        return cleaned(Part(path, window.text, "assistant", self.kinds.get(path, "text"), window.part.choice))

    def _ruled(self, window: Window, part: Part, verdicts: tuple[Verdict, ...]) -> Ruling:
        path, ruled = part.path, ruling(verdicts, window.part, on_error=self._turn.route.on_error)
        blocks = ruled.action is Action.BLOCK
        if path not in self._ended and (blocks or window.number >= self._numbers.get(path, -1)):
            self._numbers[path], self._parts[path], self._verdicts[path] = window.number, part, verdicts
        if ruled.action is Action.REDACT:
            found = ((check, verdict) for check, verdict in enumerate(verdicts) if verdict.violation and verdict.action is Action.REDACT)
            self._redacting |= {(path, check): verdict for check, verdict in found}
        if blocks:
            self._ended.add(path)  # a window behind it that passes later is no answer to it
        return ruled

    def _give_up(self, window: Window) -> None:
        """A window that nobody waits for any more, unless it was judged. What was found in the beginning of its text stays found."""
        part = self._part(window)
        path, before = part.path, self._verdicts.get(part.path)
        if path in self._ended or self._numbers.get(path) == window.number:
            return
        left = unanswered((part,), self._turn.route.checks(self._turn.stage), self._turn.route.classifier)
        self._parts[path], self._verdicts[path] = part, tuple(map(strongest, zip(before, left, strict=True))) if before else left

    async def _read(self, classifier: SupportsSessions, window: Window, part: Part) -> tuple[Verdict, ...]:
        """The session's verdicts, and those on what the text so far says in disguise where that is stronger."""
        said, read = await asyncio.gather(self._extend(classifier, window, part), self._guard.judge((part,), self._turn, raw=False))
        return tuple(map(strongest, zip(said, read, strict=True))) if read else said

    async def _extend(self, classifier: SupportsSessions, window: Window, part: Part) -> tuple[Verdict, ...]:
        text = part.text or ""
        if not text.strip():
            return ()  # there is nothing to judge, as in a part of a whole answer
        groups = [
            self._growing.setdefault((window.part, beginning), _Growing(policies, beginning))
            for beginning, policies in self._groups.items()
        ]
        answered = await asyncio.gather(*(self._caught_up(classifier, growing, window, text) for growing in groups))
        name = self._turn.route.classifier
        known: dict[tuple[str, str], list[Answer]] = {}
        for growing, answers in zip(groups, answered, strict=True):
            for policy, answer in zip(growing.policies, answers, strict=True):
                known.setdefault(policy.key, []).append(answer)
        checks = self._turn.route.checks(self._turn.stage)
        return tuple(strongest([verdict_of(part, check, answer, name) for answer in known[check.policy.key]]) for check in checks)

    async def _caught_up(self, classifier: SupportsSessions, growing: _Growing, window: Window, text: str) -> list[Answer]:
        async with growing.lock:
            if growing.session is None or growing.version != window.version or growing.has > window.end:
                await self._restart(classifier, growing, window.version)
            return await self._answers(growing, text)

    async def _restart(self, classifier: SupportsSessions, growing: _Growing, version: int) -> None:
        if growing.session is not None:
            await growing.session.aclose()
        growing.session, growing.has, growing.version = classifier.session(growing.policies, tenant=self._turn.tenant), 0, version

    async def _answers(self, growing: _Growing, text: str) -> list[Answer]:
        deadline = time.monotonic() + self._turn.route.deadline_s
        requests = tuple(ClassifyRequest(policy, text, stage=self._turn.stage, tenant=self._turn.tenant) for policy in growing.policies)
        session = growing.session
        assert session is not None
        said = text[growing.has :] if growing.has else growing.opening + text
        call = _checked(session, said, deadline)
        growing.has = len(text)
        answers = await self._guard.answered(Ask(self._turn.route.classifier, requests), call, deadline=deadline)
        if not all(isinstance(answer, Score) for answer in answers):
            await session.aclose()  # what it has read is not known: the next window begins anew, with all of the text
            growing.session = None
        return [within(answer, len(growing.opening)) if isinstance(answer, Score) else answer for answer in answers]


async def _checked(session: Session, text: str, deadline: float) -> list[Answer]:
    answers = await session.extend(text, deadline=deadline, final=True)
    if answers is None:
        raise ClassifierError("malformed", "the classifier's session gave no answer where one was due")
    return answers
