"""A whole answer of which something may be taken out: judged, rewritten, and judged again, as a stream that is held is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from guardrail.asgi.streamed import UnjudgedError, results_of
from guardrail.guard_stream import AnswerJudge
from guardrail.types import Action, Decision, Fallback, Streaming, StreamMode
from guardrail.window import AnswerFlow, Bounds, Ruling, Step, StreamPart, joined
from guardrail.wire.answer import Answer, FilterResults
from guardrail.wire.rewriting import rewritable, rewritten


@dataclass(frozen=True, slots=True)
class Redacted:
    """What is left of an answer: its document, the choices that are to be replaced, and the decision."""

    document: Mapping[str, object]
    blocked: Mapping[int, FilterResults]
    decision: Decision


async def redact(answer: Answer, judge: AnswerJudge, placeholder: Callable[[str], str], *, unscannable: Fallback) -> Redacted:
    """Judge an answer's parts, with placeholders for what violates under `redact`, until what is left may pass.

    A part that is no text of its own in the document (a tool's arguments, several blocks read as one) cannot be rewritten: then its choice
    is blocked. Raises UnjudgedError where something could not be judged and the route blocks that.
    """
    longest = 4 * sum(len(part.text or "") for part in answer.parts) + 65_536
    flow = AnswerFlow(Streaming(StreamMode.HOLD), Bounds(longest=longest), placeholder=placeholder)
    texts: dict[StreamPart, str] = {}
    steps: list[Step] = []
    for part in answer.parts:
        choice = part.choice or 0
        if part.text is None:
            steps += [flow.block(choice, Ruling(Action.BLOCK))] if unscannable is Fallback.BLOCK else []
            continue
        key = StreamPart(choice, part.path, whole=not rewritable(answer.document, part))
        judge.kinds[part.path] = part.kind
        while key in texts:
            key = StreamPart(choice, f"{key.path}'", whole=True)
        texts[key] = part.text
        flow.feed(key, part.text, now=0.0)
    released, blocked = await _judged(flow, judge, joined([*steps, flow.close()]))
    changed = {part.path: text for part, text in released.items() if text != texts[part] and part.choice not in blocked}
    decision = await judge.recorded(judge.conclude([part for part in answer.parts if part.text is None]))
    if decision.outcome.unavailable:
        raise UnjudgedError
    document = rewritten(answer.document, changed) if changed else answer.document
    return Redacted(document, {choice: results_of(judge.violations(choice)) for choice in blocked}, decision)


async def _judged(flow: AnswerFlow, judge: AnswerJudge, step: Step) -> tuple[dict[StreamPart, str], set[int]]:
    released: dict[StreamPart, str] = {}
    blocked: set[int] = set()
    while True:
        for release in step.release:
            released[release.part] = released.get(release.part, "") + release.text
        for choice, ruled in step.blocked:
            if ruled.unavailable:
                raise UnjudgedError
            blocked.add(choice)
        if not step.judge:
            return released, blocked
        rulings: Sequence[Ruling] = await judge.judge(step.judge)
        step = joined(flow.settle(window, ruled) for window, ruled in zip(step.judge, rulings, strict=True))
