"""Whether the judged text itself may appear in telemetry, and how it is written there when it may."""

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from guardrail.types import Part

CONTENT_LIMIT: Final = 16_384  # characters of content in one attribute; what is longer is cut and says so
MAX_MESSAGES: Final = 256


class Capture(StrEnum):
    """Where content may go: nowhere, on spans, on events, or both."""

    OFF = "no_content"
    SPAN = "span_only"
    EVENT = "event_only"
    BOTH = "span_and_event"

    @property
    def on_span(self) -> bool:
        """True when attributes of spans may hold content."""
        return self in (Capture.SPAN, Capture.BOTH)

    @property
    def on_event(self) -> bool:
        """True when attributes of events may hold content."""
        return self in (Capture.EVENT, Capture.BOTH)


def parse_capture(value: str | None) -> Capture:
    """Read `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`; `true` (the older spelling) means both places.

    Anything that is not a known word captures nothing: a typing error must not publish prompts.
    """
    word = (value or "").strip().lower()
    if word == "true":
        return Capture.BOTH
    return next((capture for capture in Capture if capture.value == word), Capture.OFF)


def cut(text: str, limit: int = CONTENT_LIMIT) -> str:
    """At most `limit` characters, with the number of characters left out."""
    return text if len(text) <= limit else f"{text[:limit]}…[{len(text) - limit} more]"


def messages_json(parts: Sequence[Part]) -> str:
    """The parts as the conventions' JSON list of messages, one message a part; bounded in number and in total length."""
    messages: list[dict[str, object]] = []
    room = CONTENT_LIMIT
    for part in parts[:MAX_MESSAGES]:
        if room <= 0:
            break
        body: dict[str, object] = {"type": part.kind}
        if part.text is not None:
            body["content"] = cut(part.text, room)
            room -= len(part.text)
        messages.append({"role": part.role, "parts": [body]})
    return json.dumps(messages, ensure_ascii=False)
