"""OpenAI's text completions, whole and streamed: one prompt or several, token ids unreadable, each choice judged by itself.

Judged beside the prompts is `suffix`, which the model reads too, and every string in a field that is not known. `echo` gives the prompt
back within the answer, where it is judged as part of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from guardrail.errors import UpstreamError, WireError
from guardrail.types import Decision, Part
from guardrail.wire import fields
from guardrail.wire.chat import (
    ANSWER_EXTRAS,
    ANSWER_FIELDS,
    CHOICE_FIELDS,
    ChatAnswer,
    FilterResults,
    choice_index,
    replace_choices,
    spelled,
)
from guardrail.wire.chat_stream import ChatStreamCollector, StreamShape
from guardrail.wire.document import UnreadableError, dump, parse_object
from guardrail.wire.parts import PartList, TooManyPartsError
from guardrail.wire.prompts import add_prompt, count
from guardrail.wire.refusal import EVENTS, JSON, Reply, block_results
from guardrail.wire.sse import DONE, frame

_REQUEST_FIELDS = frozenset(
    [
        *("model", "prompt", "suffix", "stream", "stream_options", "n", "best_of", "echo", "logprobs", "max_tokens", "min_tokens"),
        *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias"),
        *("seed", "stop", "stop_token_ids", "user", "service_tier", "prompt_embeds", "prompt_token_ids", "priority"),
    ]
)
_REQUEST_NAMES = fields.by_case(_REQUEST_FIELDS)
_UNREADABLE = ("prompt_embeds", "prompt_token_ids")
_CHOICE_FIELDS = (CHOICE_FIELDS - {"message"}) | {"text"}
_EXTRAS = ANSWER_EXTRAS | {"prompt_filter_results"}


@dataclass(frozen=True)
class CompletionRequest:
    """What the guard needs to know of a request. `choices` is how many there will be: `n` for each prompt."""

    model: str
    stream: bool
    choices: int
    include_usage: bool
    document: Mapping[str, object] = field(repr=False)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Everything in it that an upstream could read. Raises WireError (400)."""
        parts = PartList()
        try:
            add_prompt(parts, "prompt", self.document.get("prompt"))
            parts.unknown("suffix", self.document.get("suffix"), "text")
            for key in _UNREADABLE:
                if self.document.get(key) is not None:
                    parts.opaque(key, "tokens")
            parts.rest("body", self.document, _REQUEST_FIELDS)
        except TooManyPartsError as error:
            raise WireError(400, "too_many_parts", f"The request holds {error}.", param="prompt") from None
        return tuple(parts.found)


def parse_completion_request(body: bytes) -> CompletionRequest:
    """The request in `body`. Raises WireError (400)."""
    document = fields.read_object(body)
    fields.refuse_case_variants(document, _REQUEST_NAMES)
    choices = fields.choices(document) * count(document.get("prompt"))
    if choices > fields.MAX_CHOICES:
        message = f"n for each prompt must make no more than {fields.MAX_CHOICES} choices."
        raise WireError(400, "invalid_n", message, param="n")
    stream = fields.flag(document, "stream")
    return CompletionRequest(fields.model(document), stream, choices, fields.include_usage(document), document)


def parse_completion(body: bytes) -> ChatAnswer:
    """The answer in `body`. Raises UpstreamError: `malformed` for anything but a text completion, `too_large` for too many parts."""
    try:
        document = parse_object(body)
    except UnreadableError as error:
        raise UpstreamError("malformed", f"the upstream's answer cannot be read: {error}") from None
    return read_completion(document)


def read_completion(document: Mapping[str, object]) -> ChatAnswer:
    """The answer in a parsed document, whole or collected from a stream. Raises UpstreamError as `parse_completion` does."""
    choices = document.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise UpstreamError("malformed", "the upstream's answer is no text completion: it has no list of choices")
    reasons: dict[int, str | None] = {}
    parts = PartList()
    parts.role = "assistant"
    try:
        for position, choice in enumerate(choices):
            index = choice_index(choice, position)
            reason = choice.get("finish_reason")
            reasons[index] = reason if isinstance(reason, str) else None
            _read_choice(parts, index, choice)
        parts.choice = min(reasons, default=0)
        parts.rest("answer", document, ANSWER_FIELDS | _EXTRAS)
    except TooManyPartsError as error:
        raise UpstreamError("too_large", f"the upstream's answer holds {error}") from None
    usage = document.get("usage")
    return ChatAnswer(document, tuple(parts.found), reasons, usage if isinstance(usage, dict) else None)


def replace_texts(answer: ChatAnswer, blocked: Mapping[int, FilterResults], notice: str | None) -> bytes:
    """The answer with only the `blocked` choices (by index) replaced by `notice` (None: an empty text); usage is kept."""
    return replace_choices(answer, {index: refused_text(index, results, notice) for index, results in blocked.items()})


def refused_text(index: int, results: FilterResults, notice: str | None) -> dict[str, object]:
    """A choice that says that its text was filtered, and nothing else."""
    filtered = {policy: dict(result) for policy, result in results.items()}
    return {"index": index, "text": notice or "", "logprobs": None, "finish_reason": "content_filter", "content_filter_results": filtered}


def completion_block_reply(decision: Decision, request: CompletionRequest, notice: str, created: int) -> Reply:
    """`on_block: reply`: 200, `finish_reason: content_filter` and `notice`, an event stream if the request asked for one."""
    results = block_results(decision)
    head = {"id": f"cmpl-{decision.id}", "object": "text_completion", "created": created, "model": request.model}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    choices = [refused_text(index, results, notice) for index in range(request.choices)]
    if not request.stream:
        return Reply(200, JSON, dump({**head, "choices": choices, "usage": usage}))
    frames = [frame({**head, "choices": [choice]}) for choice in choices]
    if request.include_usage:
        frames.append(frame({**head, "choices": [], "usage": usage}))
    return Reply(200, EVENTS, b"".join((*frames, DONE)))


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


def _read_choice(parts: PartList, index: int, choice: Mapping[str, object]) -> None:
    parts.choice = index
    text = choice.get("text")
    parts.unknown(f"choices[{index}].text", text, "text" if isinstance(text, str) else "unknown")
    for kind, said in spelled(choice.get("logprobs")).items():
        if said != text:
            parts.text(f"choices[{index}].logprobs.{kind}", said)
    parts.rest(f"choices[{index}]", choice, _CHOICE_FIELDS)
