"""The judging of an answer that is let out while it is judged, told to a span that lasts as long as the answer."""

from collections.abc import Sequence

from guardrail.guard import Guard, Turn
from guardrail.guard_stream import AnswerJudge
from guardrail.telemetry.tracing import GuardSpan
from guardrail.types import Decision, Part
from guardrail.window import Ruling, Window


class TracedJudge(AnswerJudge):
    """Judges as `AnswerJudge` does. The span begins with it, has an event for each window, and ends when it is closed."""

    def __init__(self, guard: Guard, turn: Turn, span: GuardSpan) -> None:
        super().__init__(guard, turn)
        self._span = span.__enter__()
        self._open = True

    async def judge(self, windows: Sequence[Window]) -> list[Ruling]:
        """See `AnswerJudge`."""
        rulings = await super().judge(windows)
        for window, ruled in zip(windows, rulings, strict=True):
            self._span.window(window.number, window.end, ruled.action, unjudged=ruled.unavailable)
        return rulings

    def conclude(self, others: Sequence[Part] = ()) -> Decision:
        """See `AnswerJudge`."""
        decision = super().conclude(others)
        self._span.decided(decision, tuple(self._parts.values()))
        return decision

    async def aclose(self) -> None:
        """See `AnswerJudge`."""
        await super().aclose()
        if self._open:
            self._open = False
            self._span.__exit__(None, None, None)
