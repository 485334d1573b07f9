"""A parsed answer, whatever its protocol, read from strict JSON, with as many parts as may be judged at once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from guardrail.errors import UpstreamError
from guardrail.types import Part
from guardrail.wire.document import UnreadableError, parse_object
from guardrail.wire.parts import PartList, TooManyPartsError

FilterResults = Mapping[str, Mapping[str, object]]
"""What one choice was blocked for, in Azure's shape: policy id to `{"filtered": …, "detected": …, "score": …}`."""

UNREADABLE = Part("answer", None, role="assistant", kind="unknown")
"""What of an answer cannot be read, where it is judged only after it is out."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A parsed answer. `document` is the JSON as it came, `parts` carry their choice's index, `usage` is None where there is none.

    An answer that is one message has the choice 0.
    """

    document: Mapping[str, object]
    parts: tuple[Part, ...]
    finish_reasons: Mapping[int, str | None]
    usage: Mapping[str, object] | None


def answer_object(body: bytes) -> dict[str, object]:
    """The JSON object in an answer's body. Raises UpstreamError("malformed") for anything that two readers could read differently."""
    try:
        return parse_object(body)
    except UnreadableError as error:
        raise UpstreamError("malformed", f"the upstream's answer cannot be read: {error}") from None


@contextmanager
def answer_parts() -> Iterator[PartList]:
    """A list for what an answer holds, of choice 0 at first. Raises UpstreamError("too_large") for more than may be judged at once."""
    parts = PartList()
    parts.choice, parts.role = 0, "assistant"
    try:
        yield parts
    except TooManyPartsError as error:
        raise UpstreamError("too_large", f"the upstream's answer holds {error}") from None


def made(document: Mapping[str, object], parts: PartList, reasons: Mapping[int, object]) -> Answer:
    """The answer of what was read: reasons and usage that are none are None."""
    usage = document.get("usage")
    told = {index: reason if isinstance(reason, str) else None for index, reason in reasons.items()}
    return Answer(document, tuple(parts.found), told, usage if isinstance(usage, dict) else None)


def plain(results: FilterResults) -> dict[str, dict[str, object]]:
    """The same as a document holds it."""
    return {policy: dict(result) for policy, result in results.items()}
