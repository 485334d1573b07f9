"""The guard: drives one stage's judging against its deadline and hands out exactly one decision, whatever the classifiers do."""

import asyncio
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from guardrail.blame import Effort
from guardrail.breaker import Breaker
from guardrail.context import opening, shown, within, without_prompt
from guardrail.decision import decide
from guardrail.errors import ClassifierError
from guardrail.escalation import Answer, Ask, flow
from guardrail.events import ClassifierAsked, DecisionMade, EventFanout
from guardrail.interfaces import Classifier, Recorder, SupportsSessions
from guardrail.questions import Question, Questions, question_of, unanswered
from guardrail.reading import read
from guardrail.recall import recalled
from guardrail.types import Action, ClassifyRequest, Decision, Mode, Outcome, Part, Route, Score, Stage, Verdict
from guardrail.verdict_cache import VerdictCache
from guardrail.windows import Partial, windowed

logger = logging.getLogger("guardrail")

UNRECORDED = Outcome(Action.BLOCK, Action.BLOCK, MappingProxyType({}), unjudged=True, unavailable=True)
"""What is done about a decision that had to be recorded and could not be."""

_TURN = 2_000  # verdicts built at a stretch: some milliseconds


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the judged parts came from; written into the event, never used to decide."""

    request_id: str = ""
    model: str = ""
    protocol: str = "library"
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """One stage of an exchange under its route, and whose it is. `started` is a `time.monotonic()` instant.

    `mend` is asked about a block: what can go on instead, or None. `context`: what the user said, for policies that ask for it.
    `released`: what is judged is out already, so that there is a decision on it even where the judging is stopped.
    """

    route: Route
    stage: Stage
    tenant: str
    origin: Origin
    started: float
    mend: "Mend | None" = None
    context: str | None = None
    released: bool = False


@dataclass(frozen=True, slots=True)
class Mended:
    """What a request holds once earlier turns were taken out of it or replaced in it, and what was done (`drop messages[2]`)."""

    parts: tuple[Part, ...]
    changes: tuple[str, ...]


Mend = Callable[[Sequence[Verdict], Sequence[Part]], Mended | None]
"""What a blocked request becomes, given its verdicts and the parts that could not be read but had to be."""


class Guard:
    """Judges parts under a route. Safe to share between any number of concurrent exchanges: it keeps no state of theirs.

    With `cache` a question that was answered with a score is not asked again; without it, every one is asked. A classifier whose breaker is
    open is not asked: each answer is an error at once.
    """

    def __init__(
        self,
        classifiers: Mapping[str, Classifier],
        events: EventFanout | None = None,
        recorder: Recorder | None = None,
        *,
        cache: VerdictCache | None = None,
        breakers: Mapping[str, Breaker] | None = None,
    ) -> None:
        self._classifiers = dict(classifiers)
        self._events = events or EventFanout()
        self._recorder = recorder
        self._cache = cache
        self._breakers = breakers or {}
        self._efforts = {name: Effort(classifier) for name, classifier in self._classifiers.items()}

    def unobserved(self) -> "Guard":
        """The same classifiers without observers, records and remembered scores: for texts that somebody tries out, never for traffic."""
        return Guard(self._classifiers, recorder=_NoRecords())

    async def check(
        self,
        parts: Sequence[Part] | str,
        *,
        route: Route,
        stage: Stage = Stage.INPUT,
        tenant: str = "default",
        origin: Origin | None = None,
    ) -> Decision:
        """Judge one stage of an exchange (or one text) and emit one `DecisionMade`.

        All parts, as they stand and as a reader sees them (`Route.normalize`), and all checks go to the classifier as one batch; a text
        that is too long for it is judged in overlapping windows.
        A classifier that raises, hangs beyond `route.deadline_s` (seconds), answers too few or gives something that is no score yields
        error verdicts, which `route.on_error` turns into a block or a recorded pass; it never raises for that. A lone surrogate, which
        no classifier can encode, is judged and recorded as `?`. Cancelling the caller cancels the judging. Where the route waits for
        records and there can be none the decision is a block, as of something unjudged. No prompt is told with an answer: raises WireError
        where a policy has to judge it with one.
        """
        route = without_prompt(route) if stage is Stage.OUTPUT else route
        turn = Turn(route, stage, tenant, origin or Origin(), started=time.monotonic())
        return await self.decide((Part("text", parts),) if isinstance(parts, str) else tuple(parts), turn)

    async def decide(self, parts: Sequence[Part], turn: "Turn") -> Decision:
        """As `check`. What `turn.mend` makes of a blocked request is judged like one, and what was blocked stays so unless that passes."""
        decision = None
        try:
            decision = await self._decide(parts, turn)
        finally:
            if decision is None and turn.released:
                self.conclude(parts, unanswered(parts, turn.route.checks(turn.stage), turn.route.classifier), turn)
        return await self.recorded(decision, turn.route)

    async def _decide(self, parts: Sequence[Part], turn: "Turn") -> Decision:
        """The decision, emitted at the very end: who is stopped here has told nothing yet."""
        if not await self.recordable(turn.route):
            return self._made(parts, (), UNRECORDED, turn)
        verdicts = await self.judge(parts, turn, started=turn.started)
        outcome = _outcome(parts, verdicts, turn)
        blocked = outcome.action is Action.BLOCK and not outcome.unavailable
        mended = turn.mend(verdicts, _unreadable(parts, turn)) if blocked and turn.mend is not None else None
        changes: tuple[str, ...] = ()
        if mended is not None:
            after = _outcome(mended.parts, await self.judge(mended.parts, turn, started=turn.started), turn)
            if after.action < Action.REDACT:
                outcome, changes = replace(after, action=Action.REDACT, shadow=max(Action.REDACT, after.shadow)), mended.changes
        return self._made(parts, verdicts, outcome, turn, changes)

    async def recordable(self, route: Route) -> bool:
        """Whether a decision under this route can be recorded, where it has to be."""
        return not route.audit.wait or (self._recorder is not None and await self._recorder.ready())

    async def recorded(self, decision: Decision, route: Route) -> Decision:
        """The decision once it is recorded, where it has to be; a block in its place when it is not."""
        unkept = route.audit.wait and decision.outcome is not UNRECORDED
        if not unkept or (self._recorder is not None and await self._recorder.kept(decision.id)):
            return decision
        return replace(decision, outcome=UNRECORDED)

    async def judge(self, parts: Sequence[Part], turn: "Turn", *, started: float | None = None, raw: bool = True) -> tuple[Verdict, ...]:
        """The verdicts on parts alone: for a text that is judged time and again while it grows. `started` is now, or when it was.

        `raw` False judges nothing but what the parts say in disguise, none for a part without any: for who judges the raw texts otherwise.
        """
        deadline = (time.monotonic() if started is None else started) + turn.route.deadline_s
        return await self._judge([cleaned(part) for part in parts if part.text and part.text.strip()], turn, deadline=deadline, raw=raw)

    def conclude(self, parts: Sequence[Part], verdicts: tuple[Verdict, ...], turn: "Turn") -> Decision:
        """The decision that the verdicts on these parts come to; emits it."""
        return self._made(parts, verdicts, _outcome(parts, verdicts, turn), turn)

    def _made(
        self, parts: Sequence[Part], verdicts: tuple[Verdict, ...], outcome: Outcome, turn: "Turn", history: tuple[str, ...] = ()
    ) -> Decision:
        route, stage = turn.route, turn.stage
        decision = Decision(
            id=uuid.uuid4().hex,
            stage=stage,
            outcome=outcome,
            verdicts=verdicts,
            unscannable=tuple(part.path for part in _unreadable(parts, turn)),
            route=route.name,
            tenant=turn.tenant,
            generation=route.generation,
            duration_s=time.monotonic() - turn.started,
            history=history,
            policy_set=route.policy_set,
        )
        origin, judged = turn.origin, tuple(cleaned(part) for part in parts)
        self._events.emit(DecisionMade(decision, origin.request_id, origin.model, origin.protocol, origin.stream, judged, route.audit))
        return decision

    def growing(self, route: Route) -> SupportsSessions | None:
        """The route's classifier, where its sessions can judge a growing text: one that escalates asks several, which have no session."""
        classifier: object = self._classifiers.get(route.classifier)
        return classifier if isinstance(classifier, SupportsSessions) and route.escalation is None else None

    async def _judge(self, parts: Sequence[Part], turn: "Turn", *, deadline: float, raw: bool) -> tuple[Verdict, ...]:
        """One verdict for each (part, check), in that order, of all readings of the part; equal questions are asked once."""
        route = turn.route
        checks = route.checks(turn.stage)
        if not parts or not checks:
            return ()
        known = await read({part.text or "": None for part in parts}, route.normalize, deadline=deadline)
        questions = Questions(checks, turn.stage, turn.tenant, raw=raw, said=turn.context)
        async for part in _paced(parts, len(checks)):
            if (readings := known.get(part.text or "")) is not None:
                questions.add(readings)
        answers = await self._drive(questions.requests, route, deadline=deadline)
        verdicts: list[Verdict] = []
        async for part in _paced(parts, len(checks)):
            verdicts += questions.verdicts(part, known.get(part.text or ""), answers, route.classifier)
        return tuple(verdicts)

    async def _drive(self, requests: Sequence[ClassifyRequest], route: Route, *, deadline: float) -> list[Answer | Partial]:
        steps = flow(requests, classifier=route.classifier, escalation=route.escalation)
        partial: dict[Question, Partial] = {}
        try:
            ask = next(steps)
            while True:
                ask = steps.send(await self._whole(ask, partial, deadline=deadline))
        except StopIteration as stop:
            answers: list[Answer] = stop.value
        known = [(answer, partial.get(question_of(request))) for answer, request in zip(answers, requests, strict=True)]
        return [part if part is not None and answer is part.error else answer for answer, part in known]

    async def _whole(self, ask: Ask, partial: dict[Question, Partial], *, deadline: float) -> list[Answer]:
        """One classifier's answers, texts that it finds too long judged in windows. What remains in part unjudged goes to `partial`."""
        steps = windowed(ask.requests, await self._ask(ask, deadline=deadline))
        try:
            windows = next(steps)
            while True:
                windows = steps.send(await self._ask(Ask(ask.classifier, windows), deadline=deadline))
        except StopIteration as stop:
            found: list[Answer | Partial] = stop.value
        for place, answer in enumerate(found):
            if isinstance(answer, Partial):
                partial[question_of(ask.requests[place])] = answer
        return [answer.error if isinstance(answer, Partial) else answer for answer in found]

    async def _ask(self, ask: Ask, *, deadline: float) -> list[Answer]:
        """One classifier call turned into one answer a request, whatever happens in there."""
        classifier = self._classifiers.get(ask.classifier)
        if classifier is None:
            return _failed(ask, ClassifierError("crash", f"classifier {ask.classifier!r} is not running"))

        async def put(rest: Ask) -> list[Answer]:
            asked = tuple(map(shown, rest.requests))
            told = await self.answered(rest, classifier.classify(asked, deadline=deadline), deadline=deadline)
            before = [len(opening(request.context)) for request in rest.requests]
            return [within(answer, at) if isinstance(answer, Score) else answer for answer, at in zip(told, before, strict=True)]

        if self._cache is None:
            return await put(ask)
        answers, used = await recalled(ask, classifier.id, self._cache, put)
        self._events.emit(used)
        return answers

    async def answered(self, ask: Ask, call: Coroutine[Any, Any, list[Answer]], *, deadline: float) -> list[Answer]:
        """One answer a request of what a call to a classifier comes to before the deadline; without the call while its breaker is open."""
        breaker, effort = self._breakers.get(ask.classifier), self._efforts[ask.classifier]
        ticket = None if breaker is None else breaker.begin()
        if breaker is not None and ticket is None:
            call.close()
            message = f"classifier {ask.classifier!r} failed again and again, and is not asked now"
            return _failed(ask, ClassifierError("circuit_open", message))
        began, worked = effort.begin(), None
        try:
            answers = await answered(ask, call, deadline=deadline)
            worked = effort.worked(ask, answers, began=began, deadline=deadline)
        finally:
            if breaker is not None and ticket is not None:
                breaker.end(ticket, worked)
        self._events.emit(ClassifierAsked(ask.classifier, len(ask.requests), time.monotonic() - began))
        return answers


class _NoRecords:
    """In the place of a recorder, where nothing is to be recorded and so nothing has to be waited for."""

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass

    async def ready(self) -> bool:
        return True

    async def kept(self, decision_id: str) -> bool:
        return bool(decision_id)


def _outcome(parts: Sequence[Part], verdicts: Sequence[Verdict], turn: Turn) -> Outcome:
    return decide(
        verdicts,
        unscannable=_unreadable(parts, turn),
        on_error=turn.route.on_error,
        on_unscannable=turn.route.unscannable,
        enforcing=any(check.mode is Mode.ENFORCE for check in turn.route.checks(turn.stage)),
    )


def _unreadable(parts: Sequence[Part], turn: Turn) -> tuple[Part, ...]:
    return tuple(part for part in parts if part.text is None) if turn.route.checks(turn.stage) else ()


async def _paced(parts: Sequence[Part], checks: int) -> AsyncIterator[Part]:
    """The parts, with a turn for the event loop's other work after every `_TURN` (part, check) pairs."""
    step = max(1, _TURN // checks)
    for start in range(0, len(parts), step):
        if start:
            await asyncio.sleep(0)
        for part in parts[start : start + step]:
            yield part


def cleaned(part: Part) -> Part:
    """The part, its text such that every classifier can encode it. The length stays."""
    if part.text is None or (text := _encodable(part.text)) == part.text:
        return part
    return replace(part, text=text)


def _encodable(text: str) -> str:
    """One text that cannot be encoded would fail the whole batch it is in. The length stays."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


async def answered(ask: Ask, call: Coroutine[Any, Any, list[Answer]], *, deadline: float) -> list[Answer]:
    """One answer a request of what a classifier's call comes to before the deadline, whatever happens in there."""
    task = asyncio.ensure_future(call)
    task.add_done_callback(_drain)  # an exception that comes in the very turn in which the caller leaves must not be logged as lost
    try:
        # asyncio.wait, not wait_for: a classifier that swallows its cancellation must not hold the request past its deadline.
        done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - time.monotonic()))
    finally:
        task.cancel()
    if not done:
        return _failed(ask, ClassifierError("timeout", f"classifier {ask.classifier!r} did not answer before the deadline"))
    return _answers(ask, task)


def _answers(ask: Ask, task: "asyncio.Future[list[Answer]]") -> list[Answer]:
    try:
        found = list(task.result())
    except asyncio.CancelledError:
        return _failed(ask, ClassifierError("crash", f"classifier {ask.classifier!r} cancelled itself"))
    except ClassifierError as error:
        return _failed(ask, error)
    except Exception as error:  # border: a classifier is foreign code; its failure is an error verdict, never a crash or a pass
        logger.exception("classifier %s raised", ask.classifier)
        return _failed(ask, ClassifierError("crash", f"classifier {ask.classifier!r} raised {type(error).__name__}"))
    if len(found) != len(ask.requests):
        message = f"classifier {ask.classifier!r} gave {len(found)} answers to {len(ask.requests)} requests"
        return _failed(ask, ClassifierError("malformed", message))
    return [_checked(answer, ask.classifier) for answer in found]


def _checked(answer: object, classifier: str) -> Answer:
    if isinstance(answer, Score | ClassifierError):
        return answer
    if isinstance(answer, float) and not math.isfinite(answer):
        return ClassifierError("not_a_number", f"classifier {classifier!r} answered with {answer}, which is no number")
    kind = type(answer).__name__
    return ClassifierError("malformed", f"classifier {classifier!r} answered with {kind}, neither Score nor ClassifierError")


def _failed(ask: Ask, error: ClassifierError) -> list[Answer]:
    return [error] * len(ask.requests)


def _drain(task: "asyncio.Future[list[Answer]]") -> None:
    """Look at a late result so that the event loop does not report it as never retrieved."""
    if not task.cancelled():
        task.exception()
