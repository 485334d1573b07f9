"""The detector API of the FMS guardrails orchestrator: texts in, detections out; the orchestrator decides what to do about them.

Source: its detector API (`/api/v1/text/contents`, `/chat`, `/context/doc`, `/generation`). The header `detector-id` names one of the
caller's policies; without it, or with `guardrail`, the policies of their first route answer. `detector_params` change nothing: the
orchestrator applies its thresholds itself, to detections that reached the policy's own.
"""

from collections.abc import Mapping
from functools import partial

from guardrail.errors import WireError
from guardrail.types import Decision, Part, Stage, Verdict
from guardrail.wire.fields import read_object
from guardrail.wire.history import chat_history
from guardrail.wire.inquiry import Inquiry, enforced, judged_whole, messages_field, only, reply, text_list
from guardrail.wire.parts import MAX_PARTS
from guardrail.wire.refusal import Reply
from guardrail.wire.request import request_parts
from guardrail.wire.tools import add_offered

HEADER = "detector-id"
EVERY_POLICY = "guardrail"


def parse_contents(body: bytes, headers: Mapping[str, str]) -> Inquiry:
    """`{contents}`: a list of detections for each text, with its place in it. Raises WireError (400)."""
    document = read_object(body)
    only(document, frozenset({"contents", "detector_params"}))
    texts = text_list(document, "contents")
    if len(texts) > MAX_PARTS:
        raise WireError(400, "too_many_parts", f"The request holds more than {MAX_PARTS} contents.", param="contents")
    parts = tuple(Part(f"contents[{number}]", text) for number, text in enumerate(texts))
    return Inquiry(parts, partial(_contents_reply, parts=parts), policies=_policies(headers))


def parse_chat_detection(body: bytes, headers: Mapping[str, str]) -> Inquiry:
    """`{messages, tools}`: detections of the conversation, and of what its tools are said to be. Raises WireError (400)."""
    document = read_object(body)
    only(document, frozenset({"messages", "tools", "detector_params"}))
    with request_parts("messages") as parts:
        messages_field(document, "messages", parts)
        parts.role = "user"
        add_offered(parts, document.get("tools"))
    return Inquiry(tuple(parts.found), _detections_reply, policies=_policies(headers), history=chat_history(document))


def parse_generation_detection(body: bytes, headers: Mapping[str, str]) -> Inquiry:
    """`{prompt, generated_text}`: detections of the generated text. Raises WireError (400)."""
    document = read_object(body)
    only(document, frozenset({"prompt", "generated_text", "detector_params"}))
    return _answer(document, "generated_text", headers, said=_text(document, "prompt"))


def parse_context_detection(body: bytes, headers: Mapping[str, str]) -> Inquiry:
    """`{content, context_type, context}`: detections of the content. Raises WireError (400)."""
    document = read_object(body)
    only(document, frozenset({"content", "context_type", "context", "detector_params"}))
    text_list(document, "context")
    return _answer(document, "content", headers, said=None)


def _answer(document: Mapping[str, object], name: str, headers: Mapping[str, str], *, said: str | None) -> Inquiry:
    parts = (Part(name, _text(document, name), role="assistant", choice=0),)
    return Inquiry(parts, _detections_reply, Stage.OUTPUT, policies=_policies(headers), said=said)


def _contents_reply(decision: Decision, *, parts: tuple[Part, ...]) -> Reply:
    judged_whole(decision)
    found: dict[str, list[Verdict]] = {}
    for verdict in enforced(decision.violations):
        found.setdefault(verdict.part, []).append(verdict)
    return reply([[_placed(verdict, part.text or "") for verdict in found.get(part.path, ())] for part in parts])


def _detections_reply(decision: Decision) -> Reply:
    judged_whole(decision)
    strongest: dict[str, Verdict] = {}
    for verdict in enforced(decision.violations):  # strongest first
        strongest.setdefault(verdict.policy_id, verdict)
    return reply([_detection(verdict) for verdict in strongest.values()])


def _placed(verdict: Verdict, text: str) -> dict[str, object]:
    start, end = (0, len(text)) if verdict.span is None else (verdict.span.start, verdict.span.end)
    return {"start": start, "end": end, "text": text[start:end], **_detection(verdict)}


def _detection(verdict: Verdict) -> dict[str, object]:
    return {"detection": verdict.criterion or verdict.policy_id, "detection_type": verdict.policy_id, "score": verdict.score}


def _policies(headers: Mapping[str, str]) -> tuple[str, ...] | None:
    name = headers.get(HEADER, EVERY_POLICY)
    return None if name == EVERY_POLICY else (name,)


def _text(document: Mapping[str, object], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str):
        raise WireError(400, f"invalid_{name}", f"{name} must be a string.", param=name)
    return value
