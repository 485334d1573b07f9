"""`POST /v1/moderations`, in OpenAI's shape, answered by our own policies: each category is one of them, by its id.

`input` is a string, a list of strings (one result each) or a list of text and image parts (one result together). `model` names one of
the caller's routes, whose input policies answer; any other name, OpenAI's own among them, means their first route.
"""

from collections.abc import Mapping

from guardrail.errors import WireError
from guardrail.types import Decision, Part, Verdict
from guardrail.wire.fields import read_object
from guardrail.wire.inquiry import Inquiry, Place, enforced, judged_whole, only, reply, text_field
from guardrail.wire.parts import MAX_PARTS
from guardrail.wire.refusal import Reply
from guardrail.wire.request import request_parts

_KNOWN = frozenset({"input", "model"})


def parse_moderation(body: bytes, headers: Mapping[str, str]) -> Inquiry:
    """The question in `body`. Raises WireError (400)."""
    del headers
    document = read_object(body)
    only(document, _KNOWN)
    model = text_field(document, "model")
    given = document.get("input")
    if isinstance(given, str):
        groups: tuple[tuple[Part, ...], ...] = ((Part("input", given),),)
    elif isinstance(given, list) and given and all(isinstance(item, str) for item in given):
        groups = tuple((Part(f"input[{number}]", str(item)),) for number, item in enumerate(given))
    elif isinstance(given, list) and given and all(isinstance(item, dict) for item in given):
        groups = (_content_parts(given),)
    else:
        raise WireError(400, "invalid_input", "input must be a string, a list of strings or a list of content parts.", param="input")
    if len(groups) > MAX_PARTS:
        raise WireError(400, "too_many_parts", f"The request holds more than {MAX_PARTS} inputs.", param="input")

    def answer(decision: Decision) -> Reply:
        return moderation_reply(decision, groups)

    return Inquiry(tuple(part for group in groups for part in group), answer, place=Place(preferred=model))


def moderation_reply(decision: Decision, groups: tuple[tuple[Part, ...], ...]) -> Reply:
    """One result for each group of parts. Raises WireError: 422 where an image would have to be read, 503 where a classifier failed."""
    judged_whole(decision)
    verdicts = enforced(decision.verdicts)
    by_part: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_part.setdefault(verdict.part, []).append(verdict)
    categories = tuple(dict.fromkeys(verdict.policy_id for verdict in verdicts))
    results = [category_result([verdict for part in group for verdict in by_part.get(part.path, ())], categories) for group in groups]
    model = next((verdict.classifier for verdict in verdicts), "guardrail")
    return reply({"id": f"modr-{decision.id}", "model": model, "results": results})


def category_result(verdicts: list[Verdict], categories: tuple[str, ...]) -> dict[str, object]:
    """Which policies a text violates, and its scores. One that says nothing is not judged: score 0 everywhere, no applied input type."""
    scores = dict.fromkeys(categories, 0.0)
    flagged = dict.fromkeys(categories, False)
    for verdict in verdicts:
        scores[verdict.policy_id] = max(scores[verdict.policy_id], verdict.score or 0.0)
        flagged[verdict.policy_id] = flagged[verdict.policy_id] or verdict.violation
    applied = {verdict.policy_id for verdict in verdicts}
    return {
        "flagged": any(flagged.values()),
        "categories": flagged,
        "category_scores": scores,
        "category_applied_input_types": {category: ["text"] if category in applied else [] for category in categories},
    }


def _content_parts(items: list[object]) -> tuple[Part, ...]:
    with request_parts("input") as parts:
        parts.content("input", items)
    return tuple(parts.found)
