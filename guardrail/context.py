"""An answer judged with what the user said (`judge_with: prompt`): how the two are shown to a classifier, and the way back.

The form is this project's own, not CoPE's: `[user]: …`, an empty line, `[assistant]: …`, as one text. Classifiers need know nothing of it.
What is too long to be shown at once is shown piece by piece, each time with its end and the whole answer, so that nothing is out of sight
because of what was said before or after it. The strongest verdict counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from guardrail.errors import WireError
from guardrail.types import ClassifyRequest, Mode, Part, Policy, Route, Score, Span, Stage

MOST = 1_000
"""Characters of the context that are shown at a time. They leave room for policy and answer however they are tokenised."""
PIECES = 256
"""Pieces that a context is shown in at most. What would need more is judged by nobody, and so an error."""

_LAST = 300  # characters at the end, which every piece is shown with
_SHARED = 100  # characters that two neighbouring pieces share, so that a sentence cut in one is whole in the other
_CUT = "… "


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer to be judged, and what the user said before it, `""` for nothing: policies with `judge_with: prompt` need that."""

    prompt: str
    answer: str | Sequence[Part]


def asks(route: Route) -> bool:
    """Whether any policy of a route judges answers with the prompt."""
    return any(check.policy.judge_with == "prompt" for check in route.output)


def without_prompt(route: Route) -> Route:
    """The route as it can judge an answer whose prompt nobody tells: without shadow policies that judge with it.

    Raises WireError (422, `prompt_needed`) for an enforced one: of an answer alone it would say something else.
    """
    if not asks(route):
        return route
    for check in route.output:
        if check.policy.judge_with == "prompt" and check.mode is Mode.ENFORCE:
            raise WireError(422, "prompt_needed", f"The policy {check.policy.id!r} judges answers with the prompt, and none is given.")
    return replace(route, output=tuple(check for check in route.output if check.policy.judge_with != "prompt"))


def contexts_for(policy: Policy, stage: Stage, said: str | None) -> tuple[str | None, ...]:
    """What a policy is to be judged with, one after the other: the end of what the user `said` first, then what came before it.

    None alone where it does not ask for that; prompts are judged alone. Nothing at all for what would take more than `PIECES`.
    """
    if said is None or policy.judge_with != "prompt" or stage is not Stage.OUTPUT or not said.strip():
        return (None,)
    if len(said) <= MOST:
        return (said,)
    length, last = MOST - _LAST, said[-_LAST:]
    found = [_CUT + said[-MOST:]]
    end = len(said) - MOST + _SHARED
    while end > _SHARED:
        if len(found) == PIECES:
            return ()
        begin = max(0, end - length)
        found.append((_CUT if begin else "") + said[begin:end] + _CUT + last)
        end = begin + _SHARED
    return tuple(found)


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
