"""OpenAI's text completions, whole and streamed: one prompt or several, token ids unreadable, each choice judged by itself.

Judged beside the prompts is `suffix`, which the model reads too, and every string in a field that is not known. `echo` gives the prompt
back within the answer, where it is judged as part of it.
"""

from collections.abc import Mapping

from guardrail.errors import UpstreamError, WireError
from guardrail.types import Decision
from guardrail.wire import fields
from guardrail.wire.answer import Answer, FilterResults, plain
from guardrail.wire.chat import CHOICE_FIELDS, read_choices, replace_choices, spelled
from guardrail.wire.chat_stream import ChatStreamCollector, StreamShape
from guardrail.wire.definitions import add_definition, add_settings
from guardrail.wire.parts import PartList
from guardrail.wire.prompts import add_prompt, count
from guardrail.wire.refusal import Reply, choices_reply
from guardrail.wire.request import Request

_REQUEST_FIELDS = frozenset(
    [
        *("model", "prompt", "suffix", "stream", "stream_options", "n", "best_of", "echo", "logprobs", "max_tokens", "min_tokens"),
        *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias"),
        *("seed", "stop", "stop_token_ids", "user", "service_tier", "prompt_embeds", "prompt_token_ids", "priority"),
        "response_format",
    ]
)
_REQUEST_NAMES = fields.by_case(_REQUEST_FIELDS)
_UNREADABLE = ("prompt_embeds", "prompt_token_ids")
_CHOICE_FIELDS = (CHOICE_FIELDS - {"message"}) | {"text"}


def read_completion_request(document: Mapping[str, object]) -> Request:
    """The request in a parsed document; it will have `n` choices for each prompt. Raises WireError (400)."""
    fields.refuse_case_variants(document, _REQUEST_NAMES)
    choices = fields.choices(document) * count(document.get("prompt"))
    if choices > fields.MAX_CHOICES:
        message = f"n for each prompt must make no more than {fields.MAX_CHOICES} choices."
        raise WireError(400, "invalid_n", message, param="n")
    stream = fields.flag(document, "stream")
    return Request(fields.model(document), stream, document, "prompt", _add_request, choices, fields.include_usage(document))


def read_completion(document: Mapping[str, object]) -> Answer:
    """The answer in a parsed document, whole or collected from a stream.

    Raises UpstreamError: `malformed` for anything but a text completion, `too_large` for too many parts.
    """
    return read_choices(document, "text completion", _read_choice)


def replace_texts(answer: Answer, blocked: Mapping[int, FilterResults], notice: str | None) -> bytes:
    """The answer with only the `blocked` choices (by index) replaced by `notice` (None: an empty text); usage is kept."""
    return replace_choices(answer, {index: refused_text(index, results, notice) for index, results in blocked.items()})


def refused_text(index: int, results: FilterResults, notice: str | None) -> dict[str, object]:
    """A choice that says that its text was filtered, and nothing else."""
    end = {"logprobs": None, "finish_reason": "content_filter", "content_filter_results": plain(results)}
    return {"index": index, "text": notice or "", **end}


def completion_block_reply(decision: Decision, request: Request, notice: str, created: int) -> Reply:
    """`on_block: reply`: 200, `finish_reason: content_filter` and `notice`, an event stream if the request asked for one."""
    head = {"id": f"cmpl-{decision.id}", "object": "text_completion", "created": created}
    return choices_reply(decision, request, head, lambda index, results: (refused_text(index, results, notice),))


def _said(index: int, choice: Mapping[str, object]) -> Mapping[str, object]:
    text = choice.get("text")
    if text is not None and not isinstance(text, str):
        raise UpstreamError("malformed", f"choices[{index}].text in the upstream's stream is not a string")
    return {"text": text or ""}


def _refused(index: int, results: FilterResults, notice: str | None) -> tuple[dict[str, object], ...]:
    return (refused_text(index, results, notice),)


TEXT_CHUNKS = StreamShape("text_completion", {"text": ""}, _said, _CHOICE_FIELDS, read_completion, _refused)


def collect_completion(max_bytes: int) -> ChatStreamCollector:
    """What collects a streamed text completion."""
    return ChatStreamCollector(max_bytes=max_bytes, shape=TEXT_CHUNKS)


def _add_request(parts: PartList, document: Mapping[str, object]) -> None:
    add_prompt(parts, "prompt", document.get("prompt"))
    parts.unknown("suffix", document.get("suffix"), "text")
    for key in _UNREADABLE:
        if document.get(key) is not None:
            parts.opaque(key, "tokens")
    add_definition(parts, "response_format", document.get("response_format"))
    add_settings(parts, document, _REQUEST_FIELDS - {"prompt", "suffix", "response_format", *_UNREADABLE})
    parts.rest("body", document, _REQUEST_FIELDS)


def _read_choice(parts: PartList, index: int, choice: Mapping[str, object]) -> None:
    text = choice.get("text")
    parts.unknown(f"choices[{index}].text", text, "text" if isinstance(text, str) else "unknown")
    for kind, said in spelled(choice.get("logprobs")).items():
        if said != text:
            parts.text(f"choices[{index}].logprobs.{kind}", said)
    parts.rest(f"choices[{index}]", choice, _CHOICE_FIELDS)
