"""One request under the route that was pinned for it, and what has been decided about it so far."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from guardrail.asgi.mender import Mender
from guardrail.asgi.redaction import Redacted, redact
from guardrail.asgi.streamed import StreamedAnswer, Ways, redacts
from guardrail.asgi.traced_judge import TracedJudge
from guardrail.context import asks
from guardrail.conversation import said_by_user, scoped
from guardrail.errors import UpstreamError, WireError
from guardrail.events import AnswerHeld, EventFanout, UpstreamFailed
from guardrail.guard import Guard, Origin, Turn
from guardrail.guard_stream import AnswerJudge
from guardrail.placeholder import Placeholders, conversation_key
from guardrail.telemetry.tracing import Tracing
from guardrail.types import Action, Decision, Part, Route, Stage
from guardrail.wire.answer import Answer
from guardrail.wire.dialect import Dialect
from guardrail.wire.document import dump
from guardrail.wire.moderated import Moderation, without_moderation
from guardrail.wire.refusal import Headers, Pending, decision_headers
from guardrail.wire.release import Release
from guardrail.wire.request import Request

SCOPE_KEY = "guardrail"
"""Where the exchange lies in the ASGI scope of the app behind the guard."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What judging needs: the guard, the observers, and the tracing, None where nobody collects spans."""

    guard: Guard
    events: EventFanout
    tracing: Tracing | None = None
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    """What placeholders are made with."""

    async def judge(self, parts: Sequence[Part], turn: Turn) -> Decision:
        """The decision of one stage, in a span of its own where spans are collected."""
        if self.tracing is None:
            return await self.guard.decide(parts, turn)
        with self.tracing.guard(turn.route, turn.stage) as span:
            decision = await self.guard.decide(parts, turn)
            span.decided(decision, parts)
        return decision


@dataclass(slots=True)
class Exchange:
    """The request, its route, tenant and decisions. `started` and `called` (the upstream) are `time.monotonic()` instants."""

    request_id: str
    tenant: str
    route: Route
    dialect: Dialect
    request: Request
    body: bytes
    judgement: Judgement
    started: float
    called: float | None = None
    answered: float | None = None
    decisions: list[Decision] = field(default_factory=list)
    attentive: bool = False
    """The app behind the guard looks at `whole`, and then ends the answer itself."""
    whole: bool = False
    """Nothing that could still come belongs to the answer."""
    moderation: Moderation | None = None
    """What the client asked to be told beside the answer."""
    stored: tuple[Part, ...] = ()
    """The parts of the turns that the request continues and does not hold, the first turn's first."""
    handed_out: Callable[[Mapping[str, object]], None] | None = None
    """Told of an answer that is let out to the client as it is, where it may be continued by its id."""
    hang_up: Callable[[], None] | None = None
    """Makes an attentive app let go of its upstream at once, whatever it waits for. Set while it waits."""

    @property
    def asked(self) -> tuple[Part, ...]:
        """Everything that the upstream reads: the request, and the stored turns that it continues."""
        return (*self.stored, *self.request.parts)

    async def judge(self, stage: Stage, parts: Sequence[Part], *, released: bool = False) -> Decision | None:
        """The decision of one stage; None where the route checks nothing in it: then nothing is recorded as judged either.

        `released`: the parts are out already, so that they are recorded even where the judging is stopped.
        """
        if not self.route.checks(stage):
            return None
        decision = await self.judgement.judge(parts, replace(self._turn(stage), released=released))
        self.decisions.append(decision)
        return decision

    async def judge_request(self) -> Decision | None:
        """As `judge`, of the prompt. Where earlier turns are taken out because of what they hold, request and body are what is left."""
        if not self.route.checks(Stage.INPUT):
            return None
        mender, parts = (
            Mender(self.request, self.route, self.tenant, self.stored),
            scoped(self.request.parts, self.request.history, self.route.scope, self.stored),
        )
        turn = replace(self._turn(Stage.INPUT), released=self.route.timing == "parallel")
        decision = await self.judgement.judge(parts, turn if self.route.history == "block" else replace(turn, mend=mender))
        if decision.history and decision.action is Action.REDACT:
            self.request = mender.request
            self.body = (dump if self.moderation is None else without_moderation)(mender.request.document)
        self.decisions.append(decision)
        return decision

    def _turn(self, stage: Stage) -> Turn:
        origin = Origin(self.request_id, self.request.model, self.dialect.name, self.request.stream)
        asked = self.request
        said = said_by_user(asked.parts, asked.history, self.stored) if stage is Stage.OUTPUT and asks(self.route) else None
        return Turn(self.route, stage, self.tenant, origin, time.monotonic(), context=said)

    def streamed(self, ways: Ways, wire: Release) -> StreamedAnswer:
        """The way of an answer that is let out while it is judged."""
        placeholder = self._placeholders() if redacts(self.route) else None
        ways = replace(ways, choices=self.request.choices, unscannable=self.route.unscannable, placeholder=placeholder)
        return StreamedAnswer(self.route.streaming, self._judge(), wire, ways)

    async def redacted(self, answer: Answer) -> Redacted:
        """What is left of a whole answer. Raises UnjudgedError."""
        judge = self._judge()
        try:
            left = await redact(answer, judge, self._placeholders(), unscannable=self.route.unscannable)
        finally:
            await judge.aclose()
        self.decisions.append(left.decision)
        return left

    def _judge(self) -> AnswerJudge:
        turn = self._turn(Stage.OUTPUT)
        guard, tracing = self.judgement.guard, self.judgement.tracing
        if tracing is None:
            return AnswerJudge(guard, turn)
        return TracedJudge(guard, turn, tracing.guard(self.route, Stage.OUTPUT, growing=True))

    def _placeholders(self) -> Placeholders:
        """A conversation is known by its tenant and how it began."""
        try:
            began = next((part.text for part in self.request.parts if part.text is not None and part.role == "user"), "")
        except WireError:  # nothing in the request is judged, so that it was not taken apart before
            began = ""
        return Placeholders(conversation_key(self.judgement.secret, self.tenant, began))

    def held(self, characters: int) -> None:
        """Tell the observers how much of a streamed answer waited for its verdict at most."""
        if self.request.stream:
            self.judgement.events.emit(AnswerHeld(self.route.name, self.route.streaming.mode.value, characters))

    def told(self, pieces: tuple[bytes, ...], *, streamed: bool) -> tuple[bytes, ...]:
        """The answer's pieces with the results in them that the client asked for."""
        spelled = self.dialect.moderation
        if self.moderation is None or spelled is None:
            return pieces
        return spelled.put(pieces, spelled.told(self.decisions), streamed=streamed)

    def headers(self, taken: Action | None = None) -> Headers:
        """The decision headers as of now. `taken`: what was done so far to an answer that is not judged to its end."""
        pending = None if taken is None else Pending(taken, self.route.policy_set or str(self.route.generation))
        return decision_headers(self.decisions, overhead_s=self.overhead_s(), pending=pending)

    def overhead_s(self) -> float:
        """Seconds since the request came in that were not spent waiting for the upstream."""
        now = time.monotonic()
        waited = 0.0 if self.called is None else (self.answered or now) - self.called
        return max(0.0, now - self.started - waited)

    def upstream_failed(self, error: UpstreamError | int) -> None:
        """Tell the observers that the upstream broke (an error) or answered with an error status (a number)."""
        code = f"status_{error}" if isinstance(error, int) else error.code
        self.judgement.events.emit(UpstreamFailed(code, self.route.upstream, self.request_id, self.route.name))
