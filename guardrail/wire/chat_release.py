"""A streamed answer of choices (chat or text completions) that is let out while it comes: told apart, and spelled again once it may go out.

Texts that stand in a choice as strings can go out piece by piece. All else (tool calls, log probabilities, audio, fields that nobody
knows, the finish reason) waits for the answer's end, where the answer is judged in whatever is not judged by then.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from guardrail.types import Part
from guardrail.wire.answer import FilterResults
from guardrail.wire.chat import ANSWER_EXTRAS, ANSWER_FIELDS, WORDS, choice_index, refused_deltas
from guardrail.wire.chat_stream import CHAT_CHUNKS, ChatStreamCollector, StreamShape
from guardrail.wire.completions import TEXT_CHUNKS, refused_text
from guardrail.wire.document import parse_object, readable
from guardrail.wire.release import Said
from guardrail.wire.rewriting import unspelled_choice
from guardrail.wire.sse import DONE, SseDecoder, SseEvent, frame
from guardrail.wire.told import bare

_HEAD = ("id", "object", "created", "model", "system_fingerprint", "service_tier")

Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ReleaseShape:
    """How one protocol spells the texts of a choice.

    `streamed` are the fields whose strings go out piece by piece, and the kinds of part that they are; `inside` is the object of a choice
    that holds them ("": the choice itself), `path` where they lie in a whole answer's choice. `begun` is what a choice's first frame says
    beside, `refused` makes the frames' choices of a blocked one.
    """

    chunks: StreamShape
    streamed: Mapping[str, str]
    inside: str
    path: str
    begun: Fields
    empty: Fields
    refused: Callable[[int, FilterResults, str | None], tuple[dict[str, object], ...]]


CHAT = ReleaseShape(
    CHAT_CHUNKS,
    {"content": "text", "refusal": "refusal", "reasoning_content": "reasoning", "reasoning": "reasoning"},
    "delta",
    ".message.",
    {"role": "assistant"},
    {},
    refused_deltas,
)
TEXT = ReleaseShape(
    TEXT_CHUNKS, {"text": "text"}, "", ".", {}, {"text": ""}, lambda index, results, notice: (refused_text(index, results, notice),)
)


class ChatRelease:
    """See `Release`. `shape`: whether it is a chat's."""

    def __init__(self, *, max_bytes: int = 32 * 1024 * 1024, shape: ReleaseShape = CHAT) -> None:
        self._shape = shape
        self._collector = ChatStreamCollector(max_bytes=max_bytes, shape=shape.chunks)
        self._decoder = SseDecoder(max_event_bytes=max_bytes, max_bytes=max_bytes)
        self.max_bytes = max_bytes
        self._head: dict[str, object] = {}
        self._begun: set[int] = set()
        self._redacted: set[int] = set()
        self._reasons: dict[int, str | None] = {}
        self._rest: dict[int, list[bytes]] = {}  # frames, which take less room than what is in them
        self._loose: list[bytes] = []
        self._usages: list[dict[str, object]] = []
        self._texts: dict[str, list[str]] = {}

    @property
    def done(self) -> bool:
        """True once `[DONE]` was seen."""
        return self._collector.done

    @property
    def head(self) -> Mapping[str, object]:
        """See `Release`."""
        return self._head

    @property
    def usage(self) -> Mapping[str, object] | None:
        """The usage that the upstream reported, if it did by now."""
        return self._collector.usage

    @property
    def finish_reasons(self) -> Mapping[int, str | None]:
        """Finish reason by choice index."""
        return self._reasons

    def receive(self, chunk: bytes) -> list[Said]:
        """See `Release`."""
        return [said for event in self._decoder.feed(chunk) for said in self._take(event)]

    def finish(self) -> list[Said]:
        """See `Release`. Raises UpstreamError("disconnect") when the answer is not whole."""
        said = [said for event in self._decoder.close() for said in self._take(event)]
        self._collector.finish()
        return said

    def others(self) -> tuple[Part, ...]:
        """See `Release`."""
        streamed = {path: readable("".join(texts)) for path, texts in self._texts.items()}
        return tuple(part for part in self._collector.parts() if part.text is None or streamed.get(part.path) != part.text)

    def text(self, said: Said, place: int) -> bytes:
        """See `Release`."""
        del place
        return self._frame(said.choice, {said.path.rpartition(".")[2]: said.text})

    def redacted(self, choice: int) -> None:
        """See `Release`."""
        self._redacted.add(choice)

    def rest(self, choice: int) -> bytes:
        """See `Release`. The finish reason comes last."""
        begin = b"" if choice in self._begun else self._frame(choice, {})
        frames = self._rest.pop(choice, [])
        if choice in self._redacted:
            frames = [_without_spelled(piece) for piece in frames]
        return begin + b"".join(frames)

    def refused(self, choice: int, results: FilterResults, notice: str | None, *, released_chars: int) -> bytes:
        """See `Release`: `finish_reason: content_filter`, and how much of the choice is out.

        The notice stands where nothing else does: behind half a sentence it would read as the model's own.
        """
        begun = choice in self._begun
        self._begun.add(choice)
        self._rest.pop(choice, None)
        *first, end = self._shape.refused(choice, results, None if begun else notice)
        ended = {**end, "released_chars": released_chars}
        head = {**self._head, "object": self._shape.chunks.kind}
        return b"".join(frame({**head, "choices": [delta]}) for delta in [*([] if begun else first), ended])

    def end(self, *, whole: bool) -> bytes:
        """See `Release`: usage and `[DONE]`."""
        loose = self._loose if whole and not self._redacted else []  # they may spell what was taken out
        return b"".join((*loose, *map(frame, self._usages))) + DONE

    def _take(self, event: SseEvent) -> list[Said]:
        if self.done:
            return []
        self._collector.feed(event)
        if event.data is None or event.data.strip() == "[DONE]":
            return []
        document = parse_object(event.data.encode("utf-8"))
        self._head |= bare({key: document[key] for key in _HEAD if key in document and key not in self._head}, WORDS)
        said: list[Said] = []
        choices = document.get("choices")
        for position, choice in enumerate(choices if isinstance(choices, list) else ()):
            said += self._choice(choice_index(choice, position), choice)
        if isinstance(document.get("usage"), dict):
            self._usages = [{**self._head, "choices": [], **bare({"usage": document["usage"]}, WORDS)}]
        if document.keys() - ANSWER_FIELDS - ANSWER_EXTRAS:
            self._loose.append(frame({**{key: value for key, value in document.items() if key != "usage"}, "choices": []}))
        return said

    def _choice(self, index: int, choice: Fields) -> list[Said]:
        shape = self._shape
        reason = choice.get("finish_reason")
        self._reasons[index] = reason if isinstance(reason, str) else self._reasons.get(index)
        inner = choice.get(shape.inside) if shape.inside else choice
        fields = inner if isinstance(inner, dict) else {}
        said: dict[str, Said] = {}
        for field, kind in shape.streamed.items():
            if isinstance(text := fields.get(field), str):
                said[field] = Said(index, f"choices[{index}]{shape.path}{field}", text, kind)
        for piece in said.values():
            self._texts.setdefault(piece.path, []).append(piece.text)
        kept = {key: value for key, value in fields.items() if value is not None and key != "role" and key not in said}
        beside = {key: value for key, value in choice.items() if key not in ("index", shape.inside) and value is not None}
        if not shape.inside:
            kept, beside = {}, {key: value for key, value in beside.items() if key not in said}
        if kept or beside:
            rest = self._spelled(index, kept) | beside
            self._rest.setdefault(index, []).append(frame({**self._head, "choices": [rest]}))
        return [piece for piece in said.values() if piece.text]

    def _spelled(self, index: int, fields: Fields) -> dict[str, object]:
        inside = {self._shape.inside: dict(fields)} if self._shape.inside else {**self._shape.empty, **fields}
        return {"index": index, **inside, "logprobs": None, "finish_reason": None}

    def _frame(self, choice: int, fields: Fields) -> bytes:
        begun = {} if choice in self._begun else self._shape.begun
        self._begun.add(choice)
        return frame({**self._head, "choices": [self._spelled(choice, {**begun, **fields})]})


def _without_spelled(piece: bytes) -> bytes:
    """A frame of one choice, as `frame` spells it, without what may spell its text again."""
    document = parse_object(piece.removeprefix(b"data: "))
    choices = document["choices"]
    assert isinstance(choices, list)
    return frame({**document, "choices": [unspelled_choice(choice) for choice in choices]})
