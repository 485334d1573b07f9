"""LiteLLM's generic guardrail API: its proxy asks `POST /beta/litellm_basic_guardrail_api` and does as the answer says.

Source: litellm 1.106, `proxy/guardrails/guardrail_hooks/generic_guardrail_api`. `structured_messages` repeats what `texts` holds, and
more: both are judged, equal texts once; what is said about the caller is not.
`additional_provider_specific_params: {route: NAME}` names one of the caller's routes; without it their first one answers.
"""

from collections.abc import Mapping

from guardrail.conversation import History, Speaker, said_by_user
from guardrail.errors import WireError
from guardrail.types import Action, Decision, Stage
from guardrail.wire.fields import read_object
from guardrail.wire.history import chat_history
from guardrail.wire.inquiry import Inquiry, Place, messages_field, reply, text_field, text_list
from guardrail.wire.parts import PartList
from guardrail.wire.refusal import Reply
from guardrail.wire.request import request_parts
from guardrail.wire.tools import add_offered

_MESSAGES = "structured_messages"
_REASON = "Blocked by content policy."
_NOT_JUDGED = frozenset(
    [
        *("input_type", "litellm_call_id", "litellm_trace_id", "litellm_version", "model", "request_data", "request_headers"),
        *("additional_provider_specific_params", "tools", "texts", _MESSAGES, "images", "tool_calls"),
    ]
)


def parse_generic_guardrail(body: bytes, headers: Mapping[str, str]) -> Inquiry:
    """The question in `body`. Raises WireError (400)."""
    del headers
    document = read_object(body)
    kind = document.get("input_type")
    if kind not in ("request", "response"):
        raise WireError(400, "invalid_input_type", "input_type must be request or response.", param="input_type")
    stage = Stage.INPUT if kind == "request" else Stage.OUTPUT
    extra = document.get("additional_provider_specific_params") or {}
    if not isinstance(extra, dict):
        raise WireError(400, "invalid_params", "additional_provider_specific_params must be an object.")
    with request_parts() as parts:
        parts.role, parts.choice = ("user", None) if stage is Stage.INPUT else ("assistant", 0)
        _collect(document, stage, parts)
    place = Place(route=text_field(extra, "route"))
    history, said = (_turns(document), None) if stage is Stage.INPUT else (None, _said(document))
    return Inquiry(tuple(parts.found), generic_guardrail_reply, stage, place, scores=False, history=history, said=said)


def generic_guardrail_reply(decision: Decision) -> Reply:
    """`BLOCKED` or `NONE`. Raises WireError (503) where something had to be blocked only because it could not be judged.

    LiteLLM takes any error for "the guardrail failed", and then its own `unreachable_fallback` and `fail_on_error` decide.
    """
    if decision.outcome.unavailable:
        raise WireError(503, "guardrail_unavailable", "The content could not be checked.")
    if decision.action < Action.REDACT:
        return reply({"action": "NONE", "blocked_reason": None})
    return reply({"action": "BLOCKED", "blocked_reason": _REASON})


def _turns(document: Mapping[str, object]) -> History:
    """The turns of a request. Whose each of its `texts` is, is not told: where there are no messages each counts as the user's."""
    told = chat_history(document, _MESSAGES)
    return (
        told if told is not None and told.turns else History("texts", (Speaker.USER,) * len(text_list(document, "texts", required=False)))
    )


def _said(document: Mapping[str, object]) -> str | None:
    """What the user said in the request that a response answers; None where LiteLLM does not tell it."""
    if document.get(_MESSAGES) is None:
        return None
    with request_parts(_MESSAGES) as parts:
        messages_field(document, _MESSAGES, parts)
    return said_by_user(parts.found, chat_history(document, _MESSAGES)) or ""


def _collect(document: Mapping[str, object], stage: Stage, parts: PartList) -> None:
    for number, text in enumerate(text_list(document, "texts", required=False)):
        parts.text(f"texts[{number}]", text)
    if document.get(_MESSAGES) is not None and stage is Stage.INPUT:  # with a response they are its request's
        messages_field(document, _MESSAGES, parts)
    parts.role = "user" if stage is Stage.INPUT else "assistant"
    for number, _ in enumerate(text_list(document, "images", required=False)):
        parts.opaque(f"images[{number}]", "image")
    if stage is Stage.INPUT:  # with a response they would be its request's, too
        add_offered(parts, document.get("tools"))
    calls = document.get("tool_calls")
    for number, call in enumerate(calls if isinstance(calls, list) else () if calls is None else (calls,)):
        parts.tool_call(f"tool_calls[{number}]", call)
    parts.rest("body", document, _NOT_JUDGED)
