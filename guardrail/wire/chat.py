"""OpenAI chat completions, whole bodies: a request or an answer becomes parts to judge, and a blocked choice is replaced."""

from collections.abc import Mapping
from dataclasses import dataclass

from guardrail.types import Part

FilterResults = Mapping[str, Mapping[str, object]]
"""What one choice was blocked for, in Azure's shape: policy id to `{"filtered": …, "detected": …, "score": …}`."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What the guard needs to know of a request. `choices` is `n`; `parts` is everything in it that an upstream could read as text.

    `include_usage`: the client asked for a usage frame at the end of a stream.
    """

    model: str
    stream: bool
    choices: int
    include_usage: bool
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A parsed answer. `document` is the JSON as it came, `parts` carry their choice's index, `usage` is None where there is none."""

    document: Mapping[str, object]
    parts: tuple[Part, ...]
    finish_reasons: Mapping[int, str | None]
    usage: Mapping[str, object] | None


def parse_request(body: bytes) -> ChatRequest:
    """The request in `body`. Raises WireError (400) for anything that proxy and upstream could read differently."""
    raise NotImplementedError


def parse_answer(body: bytes) -> ChatAnswer:
    """The answer in `body`. Raises UpstreamError("malformed") for anything that is not a chat completion."""
    raise NotImplementedError


def replace_blocked(answer: ChatAnswer, blocked: Mapping[int, FilterResults], notice: str | None) -> bytes:
    """The answer with only the `blocked` choices (by index) replaced by `notice` (None: `content` is null); usage is kept."""
    raise NotImplementedError
