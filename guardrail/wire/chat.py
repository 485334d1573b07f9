"""OpenAI chat completions, whole bodies: a request or an answer becomes parts to judge, and a blocked choice is replaced.

Not judged: `metadata`, `stop` and identifiers, which no model reads. Every other string is, unknown fields included, and settings that are
no name.
"""

from collections.abc import Callable, Mapping

from guardrail.errors import UpstreamError, WireError
from guardrail.wire import fields
from guardrail.wire.answer import Answer, FilterResults, answer_parts, made, plain
from guardrail.wire.definitions import add_definition, add_settings
from guardrail.wire.document import dump
from guardrail.wire.history import chat_history
from guardrail.wire.parts import MESSAGE_FIELDS, PartList, is_prose, is_tokens, strings
from guardrail.wire.request import Request
from guardrail.wire.told import add_told, bare
from guardrail.wire.tools import FETCHING, add_tools

_SPELLED = ("content", "refusal", "tokens")
_ALTERNATIVES = frozenset({"top_logprobs", "token_logprobs", "text_offset"})
_TOKEN = frozenset({"token", "logprob", "bytes", "top_logprobs"})

_REQUEST_FIELDS = frozenset(
    [
        "model",
        "messages",
        "stream",
        "stream_options",
        "n",
        "tools",
        "tool_choice",
        "functions",
        "function_call",
        "response_format",
        "temperature",
        "top_p",
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "user",
        "safety_identifier",
        "seed",
        "store",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "metadata",
        "service_tier",
        "reasoning_effort",
        "verbosity",
        "modalities",
        "audio",
        "parallel_tool_calls",
        "prediction",
        "moderation",
        "stop_token_ids",
        "top_k",
        "min_p",
        "repetition_penalty",
    ]
)
_SETTINGS = _REQUEST_FIELDS - {"messages", "tools", "functions", "response_format", "prediction", "moderation"}  # those are read by others
_TOKEN_FIELDS = frozenset({"prompt", "input", "input_ids", "prompt_ids", "prompt_token_ids"})
_REQUEST_NAMES = fields.by_case(_REQUEST_FIELDS | _TOKEN_FIELDS | FETCHING)
_MESSAGE_NAMES = fields.by_case(MESSAGE_FIELDS)
ANSWER_FIELDS = frozenset({"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier"})
"""The top-level fields of an answer that stay when one of its choices was replaced."""
ANSWER_EXTRAS = frozenset(  # accounting of hosts and gateways: nothing of the model's text
    [
        "obfuscation",
        "prompt_filter_results",
        "prompt_annotations",
        "moderation",
        "provider",
        "timings",
        "time_info",
        "x_groq",
        "prompt_logprobs",
        "prompt_token_ids",
        "kv_transfer_params",
    ]
)
CHOICE_FIELDS = frozenset(
    [
        "index",
        "message",
        "finish_reason",
        "native_finish_reason",
        "stop_reason",
        "matched_stop",
        "logprobs",
        "token_ids",
        "content_filter_results",
        "content_filter_result",
        "content_filter_offsets",
    ]
)

WORDS = (ANSWER_FIELDS | ANSWER_EXTRAS) - {"choices", "prompt_logprobs", "prompt_token_ids"}
CHOICE_WORDS = CHOICE_FIELDS - {"index", "message", "logprobs", "token_ids"}
"""Of an answer and of its choices: what holds names and numbers, as hosts have it."""

TOLD_FIELDS = (CHOICE_FIELDS - {"token_ids"}) | {"text", "delta"}
"""The fields of a choice that stay when something was taken out of its text: nothing else, for it may be spelled there in numbers."""


def read_request(document: Mapping[str, object]) -> Request:
    """The request in a parsed document. Raises WireError (400) for anything that proxy and upstream could read differently.

    So is a known field of the body or of a message that is written in another case (`Stream`, `MESSAGES`): an upstream that reads
    names regardless of case might take it for the field itself. Other unknown fields are judged and passed on.
    """
    fields.refuse_case_variants(document, _REQUEST_NAMES)
    stream, model, choices = fields.flag(document, "stream"), fields.model(document), fields.choices(document)
    usage = fields.include_usage(document)
    return Request(model, stream, document, "messages", _add_request, choices, usage, turns=chat_history)


def read_answer(document: Mapping[str, object]) -> Answer:
    """The answer in a parsed document, whole or collected from a stream.

    Raises UpstreamError: `malformed` for anything but a chat completion, `too_large` for too many parts.
    """
    return read_choices(document, "chat completion", _read_choice)


def read_choices(document: Mapping[str, object], what: str, read: Callable[[PartList, int, Mapping[str, object]], None]) -> Answer:
    """An answer of choices, each of which `read` takes apart. Raises UpstreamError as `read_answer` does."""
    choices = document.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise UpstreamError("malformed", f"the upstream's answer is no {what}: it has no list of choices")
    reasons: dict[int, object] = {}
    with answer_parts() as parts:
        for position, choice in enumerate(choices):
            index = choice_index(choice, position)
            reasons[index] = choice.get("finish_reason")
            parts.choice = index
            read(parts, index, choice)
            add_told(parts, f"choices[{index}]", choice, CHOICE_WORDS)
        parts.choice = min(reasons, default=0)
        add_told(parts, "answer", document, WORDS)
        parts.rest("answer", document, ANSWER_FIELDS | ANSWER_EXTRAS)
    return made(document, parts, reasons)


def choice_index(choice: Mapping[str, object], position: int) -> int:
    """A choice's index; where the upstream left it out, its position. Raises UpstreamError("malformed") for a nonsensical one."""
    index = choice.get("index", position)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < fields.MAX_CHOICES:
        raise UpstreamError(
            "malformed", f"the upstream's answer has a choice whose index is not a number from 0 to {fields.MAX_CHOICES - 1}"
        )
    return index


def replace_blocked(answer: Answer, blocked: Mapping[int, FilterResults], notice: str | None) -> bytes:
    """The answer with only the `blocked` choices (by index) replaced by `notice` (None: `content` is null); usage is kept.

    Nothing of a replaced choice stays: no tool call, reasoning, audio, annotation or log probability. Top-level fields other than
    `ANSWER_FIELDS` go too, since what was judged with the choice may stand in them.
    """
    return replace_choices(answer, {index: refused_choice(index, results, notice) for index, results in blocked.items()})


def replace_choices(answer: Answer, refused: Mapping[int, Mapping[str, object]]) -> bytes:
    """The answer with the choices of these indexes replaced, see `replace_blocked`; untouched where there are none."""
    if not refused:
        return dump(answer.document)
    document = bare({key: value for key, value in answer.document.items() if key in ANSWER_FIELDS}, WORDS)
    choices = answer.document["choices"]
    kept: list[object] = []
    for position, choice in enumerate(choices if isinstance(choices, list) else ()):
        kept.append(refused.get(choice_index(choice, position), choice))
    return dump({**document, "choices": kept})


def refused_choice(index: int, results: FilterResults, notice: str | None) -> dict[str, object]:
    """A choice that says that its content was filtered, and nothing else."""
    return {
        "index": index,
        "message": {"role": "assistant", "content": notice, "refusal": None},
        "logprobs": None,
        "finish_reason": "content_filter",
        "content_filter_results": plain(results),
    }


def refused_deltas(index: int, results: FilterResults, notice: str | None) -> tuple[dict[str, object], ...]:
    """One refused choice as the choices of a stream's frames: role, notice if there is one, `finish_reason: content_filter`."""
    empty: dict[str, object] = {"index": index, "delta": {}, "logprobs": None, "finish_reason": None}
    end = {"finish_reason": "content_filter", "content_filter_results": plain(results)}
    said = ({**empty, "delta": {"content": notice}},) if notice else ()
    return ({**empty, "delta": {"role": "assistant"}}, *said, {**empty, **end})


def _add_request(parts: PartList, document: Mapping[str, object]) -> None:
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages:
        raise WireError(400, "invalid_messages", "messages must be a non-empty list.", param="messages")
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        if not isinstance(message, dict):
            raise WireError(400, "invalid_messages", f"{place} must be an object.", param=place)
        fields.refuse_case_variants(message, _MESSAGE_NAMES)
        content = message.get("content")
        if content is not None and not isinstance(content, str | list):
            raise WireError(400, "invalid_messages", f"{place}.content must be a string, a list or null.", param=f"{place}.content")
        parts.message(place, message)
    parts.role = "user"
    prediction = document.get("prediction")
    if isinstance(prediction, dict):
        parts.content("prediction.content", prediction.get("content"))
        parts.rest("prediction", prediction, ("content",))
    else:
        parts.unknown("prediction", prediction)
    add_tools(parts, document)
    add_definition(parts, "response_format", document.get("response_format"))
    add_settings(parts, document, _SETTINGS)
    for key in sorted(_TOKEN_FIELDS & document.keys()):
        if not is_prose(document[key]):
            parts.opaque(key, "tokens")
    parts.rest("body", {key: value for key, value in document.items() if not is_tokens(value)}, _REQUEST_FIELDS)


def _read_choice(parts: PartList, index: int, choice: Mapping[str, object]) -> None:
    message = choice.get("message")
    if not isinstance(message, dict):
        raise UpstreamError("malformed", f"choices[{index}] of the upstream's answer has no message")
    parts.message(f"choices[{index}].message", message, default_role="assistant")
    parts.role = "assistant"
    for kind, said in spelled(choice.get("logprobs")).items():
        if said not in (message.get("content"), message.get("refusal")):  # else it was judged there
            parts.text(f"choices[{index}].logprobs.{kind}", said)
    parts.rest(f"choices[{index}]", choice, CHOICE_FIELDS)


def spelled(logprobs: object) -> dict[str, str]:
    """The text that a choice's log probabilities spell token by token: a client can read it there, so it is judged if it differs."""
    found: dict[str, str] = {}
    held = logprobs if isinstance(logprobs, dict) else {"other": logprobs}
    others: list[object] = [{key: value for key, value in held.items() if key not in _SPELLED and key not in _ALTERNATIVES}]
    for kind in _SPELLED:
        tokens = held.get(kind)
        if not isinstance(tokens, list):
            others.append(tokens)
            continue
        words = [token.get("token") if isinstance(token, dict) else token for token in tokens]
        if said := "".join(word for word in words if isinstance(word, str)):
            found[kind] = said
        others += [{key: value for key, value in token.items() if key not in _TOKEN} for token in tokens if isinstance(token, dict)]
    if other := "\n".join(strings(others)):
        found["other"] = other
    return found
