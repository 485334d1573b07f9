"""`POST /v1/guard/check`: messages, a text or an answer in, the decision out. Nothing is generated and no upstream is asked.

The body holds one of `text`, `messages` and `choices`, and may hold `stage` (`input`, which is the default, or `output`), `model`,
`path` (`/v1/chat/completions`) and `route`. `messages` in the input stage are judged exactly as those of a chat completion request,
`choices` exactly as those of its answer; in the output stage each of the `messages` is taken for one choice's. Beside `choices`, `messages`
are the conversation that was answered: policies that judge answers with the prompt are shown it, and it is not judged.
"""

from collections.abc import Mapping

from guardrail.conversation import said_by_user
from guardrail.errors import UpstreamError, WireError
from guardrail.types import Decision, Part, Stage, Verdict
from guardrail.wire.chat import read_answer, read_request
from guardrail.wire.fields import read_object
from guardrail.wire.history import chat_history
from guardrail.wire.inquiry import Inquiry, Place, only, reply, text_field
from guardrail.wire.refusal import Reply, decision_word

_PLACE = frozenset({"stage", "model", "path", "route"})
_CONTENTS = ("text", "messages", "choices")
_KNOWN = _PLACE | frozenset(_CONTENTS)
_CHAT = "/v1/chat/completions"


def parse_check(body: bytes, headers: Mapping[str, str]) -> Inquiry:
    """The question in `body`. Raises WireError (400) for anything that it cannot be sure to understand."""
    del headers
    document = read_object(body)
    only(document, _KNOWN)
    given = [name for name in _CONTENTS if document.get(name) is not None]
    answered = given == ["messages", "choices"]
    if len(given) != 1 and not answered:
        raise WireError(400, "invalid_body", f"Give exactly one of {', '.join(_CONTENTS)}, or messages and the choices that answer them.")
    content = given[-1]
    stage = _stage(document, content)
    model, path, route = (text_field(document, name) for name in ("model", "path", "route"))
    if route is not None and (model is not None or path is not None):
        raise WireError(400, "invalid_route", "Give either a route, or the path and model that take one.", param="route")
    if path is not None and model is None:
        raise WireError(400, "invalid_model", "A path takes a route only together with a model.", param="model")
    place = Place(route, path or _CHAT if model is not None else None, model)
    history = chat_history(document) if content == "messages" and stage is Stage.INPUT else None
    said = (said_by_user(_parts(document, "messages", Stage.INPUT), chat_history(document)) or "") if answered else None
    return Inquiry(_parts(document, content, stage), check_reply, stage, place, scores=False, history=history, said=said)


def check_reply(decision: Decision) -> Reply:
    """The whole decision: `decision` in the words of the `x-guardrail-decision` header, `action` as enforced, every verdict."""
    outcome = decision.outcome
    return reply(
        {
            "id": decision.id,
            "object": "guardrail.decision",
            "decision": decision_word((decision,)),
            "action": decision.action.word,
            "shadow_action": outcome.shadow.word,
            "judged": bool(decision.verdicts),
            "flagged": bool(decision.violations),
            "unjudged": outcome.unjudged,
            "unavailable": outcome.unavailable,
            "stage": decision.stage.value,
            "route": decision.route,
            "tenant": decision.tenant,
            "generation": decision.generation,
            "policy_set": decision.policy_set,
            "duration_ms": round(decision.duration_s * 1000, 3),
            "unscannable": list(decision.unscannable),
            "verdicts": [_verdict(verdict) for verdict in decision.verdicts],
        }
    )


def _verdict(verdict: Verdict) -> dict[str, object]:
    span = verdict.span
    return {
        "policy": verdict.policy_id,
        "version": verdict.policy_version,
        "digest": verdict.policy_digest,
        "part": verdict.part,
        "choice": verdict.choice,
        "score": verdict.score,
        "error": verdict.error,
        "threshold": verdict.threshold,
        "violation": verdict.violation,
        "action": verdict.action.word,
        "mode": verdict.mode.value,
        "span": None if span is None else [span.start, span.end],
        "criterion": verdict.criterion,
        "reading": list(verdict.reading),
        "flags": list(verdict.flags),
        "classifier": verdict.classifier,
    }


def _stage(document: Mapping[str, object], content: str) -> Stage:
    value = document.get("stage", Stage.OUTPUT.value if content == "choices" else Stage.INPUT.value)
    if value not in {stage.value for stage in Stage} or (content == "choices" and value != Stage.OUTPUT.value):
        raise WireError(400, "invalid_stage", "stage must be input or output; choices are output.", param="stage")
    return Stage(value)


def _parts(document: Mapping[str, object], content: str, stage: Stage) -> tuple[Part, ...]:
    value = document[content]
    if content == "text":
        if not isinstance(value, str):
            raise WireError(400, "invalid_text", "text must be a string.", param="text")
        return (Part("text", value, role="user" if stage is Stage.INPUT else "assistant", choice=None if stage is Stage.INPUT else 0),)
    if stage is Stage.INPUT:
        return read_request({"model": "*", "messages": value}).parts
    choices = value
    if content == "messages":
        choices = [{"index": index, "message": message} for index, message in enumerate(value)] if isinstance(value, list) else None
    try:
        return read_answer({"choices": choices}).parts
    except UpstreamError as error:
        raise WireError(400, f"invalid_{content}", f"{content} is no list of an answer's: {error}.", param=content) from None
