"""A streamed chat answer that is let out while it comes: what its frames say is told apart, and spelled again once it may go out.

Texts that stand in a delta as strings can go out piece by piece. All else (tool calls, log probabilities, audio, fields that nobody
knows, the finish reason) waits for the answer's end, where the answer is judged in whatever is not judged by then.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from guardrail.types import Part
from guardrail.wire.answer import FilterResults
from guardrail.wire.chat import ANSWER_EXTRAS, ANSWER_FIELDS, choice_index, refused_deltas
from guardrail.wire.chat_stream import ChatStreamCollector
from guardrail.wire.document import parse_object, readable
from guardrail.wire.sse import DONE, SseDecoder, SseEvent, frame

STREAMED = {"content": "text", "refusal": "refusal", "reasoning_content": "reasoning", "reasoning": "reasoning"}
"""The fields of a delta whose strings go out piece by piece, and the kinds of part that they are."""

_HEAD = ("id", "object", "created", "model", "system_fingerprint", "service_tier")


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of text that a frame adds to one field of one choice."""

    choice: int
    field: str
    text: str

    @property
    def path(self) -> str:
        """The path of the part that it belongs to, as the whole answer's part has it."""
        return f"choices[{self.choice}].message.{self.field}"


class ChatRelease:
    """Reads one stream. `receive` chunks until `done` or the upstream ends, then `finish`; write what its other methods give.

    Raises UpstreamError as `ChatStreamCollector` does.
    """

    def __init__(self, *, max_bytes: int = 32 * 1024 * 1024) -> None:
        self._collector = ChatStreamCollector(max_bytes=max_bytes)
        self._decoder = SseDecoder(max_event_bytes=max_bytes, max_bytes=max_bytes)
        self.max_bytes = max_bytes
        self._head: dict[str, object] = {}
        self._begun: set[int] = set()
        self._rest: dict[int, list[bytes]] = {}  # frames, which take less room than what is in them
        self._loose: list[bytes] = []
        self._usages: list[dict[str, object]] = []
        self._texts: dict[str, list[str]] = {}

    @property
    def done(self) -> bool:
        """True once `[DONE]` was seen."""
        return self._collector.done

    @property
    def usage(self) -> Mapping[str, object] | None:
        """The usage that the upstream reported, if it did by now."""
        return self._collector.usage

    @property
    def finish_reasons(self) -> Mapping[int, str | None]:
        """Finish reason by choice index."""
        return self._collector.finish_reasons

    @property
    def head(self) -> Mapping[str, object]:
        """What the frames say of the answer: `id` and `model` among it."""
        return self._collector.head

    def receive(self, chunk: bytes) -> list[Said]:
        """Take bytes as they came from the upstream, in any chunking; the texts in what they complete."""
        return [said for event in self._decoder.feed(chunk) for said in self._take(event)]

    def finish(self) -> list[Said]:
        """The upstream's stream ended. Raises UpstreamError("disconnect") when the answer is not whole."""
        said = [said for event in self._decoder.close() for said in self._take(event)]
        self._collector.finish()
        return said

    def others(self) -> tuple[Part, ...]:
        """The parts of the whole answer that did not come as text to go out piece by piece."""
        streamed = {path: readable("".join(texts)) for path, texts in self._texts.items()}
        return tuple(part for part in self._collector.parts() if part.text is None or streamed.get(part.path) != part.text)

    def text(self, choice: int, field: str, text: str) -> bytes:
        """A frame that lets text out."""
        return self._frame(choice, {field: text})

    def rest(self, choice: int) -> bytes:
        """What else there is of a choice that may pass, its finish reason last."""
        begin = b"" if choice in self._begun else self._frame(choice, {})
        return begin + b"".join(self._rest.pop(choice, ()))

    def refused(self, choice: int, results: FilterResults, notice: str | None, *, released_chars: int) -> bytes:
        """The end of a choice of which nothing more goes out: `finish_reason: content_filter`, and how much of it is out.

        The notice stands where nothing else does: behind half a sentence it would read as the model's own.
        """
        begun = choice in self._begun
        self._begun.add(choice)
        self._rest.pop(choice, None)
        *first, end = refused_deltas(choice, results, None if begun else notice)
        ended = {**end, "released_chars": released_chars}
        head = {**self._head, "object": "chat.completion.chunk"}
        return b"".join(frame({**head, "choices": [delta]}) for delta in [*([] if begun else first), ended])

    def end(self, *, whole: bool) -> bytes:
        """The end of the stream: usage and `[DONE]`. `whole`: nothing was blocked, so fields beside the choices may go out."""
        loose = self._loose if whole else []
        return b"".join((*loose, *map(frame, self._usages))) + DONE

    def _take(self, event: SseEvent) -> list[Said]:
        if self.done:
            return []
        self._collector.feed(event)
        if event.data is None or event.data.strip() == "[DONE]":
            return []
        document = parse_object(event.data.encode("utf-8"))
        self._head |= {key: document[key] for key in _HEAD if key in document and key not in self._head}
        said: list[Said] = []
        choices = document.get("choices")
        for position, choice in enumerate(choices if isinstance(choices, list) else ()):
            said += self._choice(choice_index(choice, position), choice)
        if isinstance(document.get("usage"), dict):
            self._usages = [{**self._head, "choices": [], "usage": document["usage"]}]
        if document.keys() - ANSWER_FIELDS - ANSWER_EXTRAS:
            self._loose.append(frame({**{key: value for key, value in document.items() if key != "usage"}, "choices": []}))
        return said

    def _choice(self, index: int, choice: Mapping[str, object]) -> Iterable[Said]:
        delta = choice.get("delta")
        fields = delta if isinstance(delta, dict) else {}
        said = [Said(index, field, text) for field in STREAMED if isinstance(text := fields.get(field), str)]
        for piece in said:
            self._texts.setdefault(piece.path, []).append(piece.text)
        kept = {key: value for key, value in fields.items() if value is not None and key != "role" and key not in {s.field for s in said}}
        beside = {key: value for key, value in choice.items() if key not in ("index", "delta") and value is not None}
        if kept or beside:
            rest = {"index": index, "delta": kept, "logprobs": None, "finish_reason": None} | beside
            self._rest.setdefault(index, []).append(frame({**self._head, "choices": [rest]}))
        return [piece for piece in said if piece.text]

    def _frame(self, choice: int, delta: Mapping[str, object]) -> bytes:
        role = {} if choice in self._begun else {"role": "assistant"}
        self._begun.add(choice)
        said = {"index": choice, "delta": {**role, **delta}, "logprobs": None, "finish_reason": None}
        return frame({**self._head, "choices": [said]})
