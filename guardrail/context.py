"""An answer judged with what the user said last (`judge_with: prompt`): how the two are shown to a classifier, and the way back.

The form is this project's own, not CoPE's: `[user]: …`, an empty line, `[assistant]: …`, as one text. Classifiers need know nothing of it.
"""

from dataclasses import replace

from guardrail.types import ClassifyRequest, Policy, Route, Score, Span, Stage

MOST = 1_000
"""Characters of the context that are shown: its last ones. They leave room for policy and answer however they are tokenised."""

_CUT = "… "


def asks(route: Route) -> bool:
    """Whether any policy of a route judges answers with the prompt."""
    return any(check.policy.judge_with == "prompt" for check in route.output)


def context_for(policy: Policy, stage: Stage, said: str | None) -> str | None:
    """What a policy is to be judged with: the end of what the user `said` where it asks for that; prompts are judged alone."""
    if said is None or policy.judge_with != "prompt" or stage is not Stage.OUTPUT or not said.strip():
        return None
    return said if len(said) <= MOST else _CUT + said[-MOST:]


def opening(context: str | None) -> str:
    """What stands before the answer; nothing without a context."""
    return "" if context is None else f"[user]: {context}\n\n[assistant]: "


def shown(request: ClassifyRequest) -> ClassifyRequest:
    """The request as a classifier is asked it: the context as a part of its text."""
    return request if request.context is None else replace(request, text=opening(request.context) + request.text, context=None)


def within(score: Score, before: int) -> Score:
    """The score with its span in the answer, `before` characters of the shown text being none of it; no span for one in those alone."""
    if score.span is None or not before:
        return score
    start, end = max(0, score.span.start - before), score.span.end - before
    return replace(score, span=Span(start, end) if start < end else None)
