"""A streamed chat answer, held until it is judged: it is collected into the same parts as a whole answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from guardrail.errors import UpstreamError
from guardrail.types import Part
from guardrail.wire.answer import Answer, FilterResults
from guardrail.wire.chat import (
    ANSWER_EXTRAS,
    ANSWER_FIELDS,
    CHOICE_FIELDS,
    CHOICE_WORDS,
    WORDS,
    choice_index,
    read_answer,
    refused_deltas,
    spelled,
)
from guardrail.wire.collecting import StreamCollector, parse_event
from guardrail.wire.merge import Merged, Repeated
from guardrail.wire.sse import DONE, SseDecoder, SseEvent, frame
from guardrail.wire.told import TOLD, bare, told

_KNOWN_FIELDS = ANSWER_FIELDS | ANSWER_EXTRAS


@dataclass(frozen=True, slots=True)
class _Frame:
    """One event as it came: the indexes it speaks of, whether nothing else was judged of it (`plain`) and whether it reports usage."""

    raw: bytes
    choices: frozenset[int] = frozenset()
    plain: bool = True
    usage: bool = False


@dataclass(frozen=True, slots=True)
class StreamShape:
    """How one protocol spells the choices of a stream: `said` is what a frame's choice adds to the one that `read` reads at the end.

    `skipped` are the fields of a frame's choice that `said` has looked at or that say nothing; `refused` gives the choices of the frames
    that stand for a blocked one.
    """

    kind: str
    empty: Mapping[str, object]
    said: Callable[[int, Mapping[str, object]], Mapping[str, object]]
    skipped: frozenset[str]
    read: Callable[[Mapping[str, object]], Answer]
    refused: Callable[[int, FilterResults, str | None], tuple[dict[str, object], ...]]


def _delta(index: int, choice: Mapping[str, object]) -> Mapping[str, object]:
    delta = choice.get("delta")
    if delta is not None and not isinstance(delta, dict):
        raise UpstreamError("malformed", f"choices[{index}].delta in the upstream's stream is not an object")
    return {"message": delta or {}}


CHAT_CHUNKS = StreamShape(
    "chat.completion.chunk", {"message": {}}, _delta, (CHOICE_FIELDS - {"message"}) | {"delta"}, read_answer, refused_deltas
)


class ChatStreamCollector(StreamCollector):
    """Holds one streamed answer: `receive` chunks until the upstream ends, `finish`, judge `parts()`, then `release` or `replaced`.

    Raises UpstreamError from `receive`, `feed`, `finish` and `parts`: `malformed` (garbage, or an error frame of the upstream),
    `too_large`, `disconnect` (ended without `[DONE]` and without every choice's finish_reason). Nothing must be released then;
    the one answer is `refusal.upstream_failure(error)`, as an event where bytes were sent already.
    """

    def __init__(self, *, max_bytes: int = 32 * 1024 * 1024, shape: StreamShape = CHAT_CHUNKS) -> None:
        super().__init__(max_bytes=max_bytes)
        self._shape = shape
        self._frames: list[_Frame] = []
        self._choices: dict[int, Merged] = {}
        self._spelled: dict[int, dict[str, list[str]]] = {}
        self._told: dict[int, set[str]] = {}
        self._top = Repeated()
        self._head: dict[str, object] = {}
        self._usage: Mapping[str, object] | None = None
        self._answer: Answer | None = None

    @property
    def usage(self) -> Mapping[str, object] | None:
        """The usage the upstream reported, if it did."""
        return self._usage

    @property
    def finish_reasons(self) -> Mapping[int, str | None]:
        """Finish reason by choice index."""
        return self.answer().finish_reasons

    @property
    def head(self) -> Mapping[str, object]:
        """What the frames say of the answer: `id` and `model` among it."""
        return self._head

    def feed(self, event: SseEvent) -> None:
        """Take one decoded event (`receive` does this itself)."""
        if self._done:
            return
        self._answer = None
        self._top.add({"sse": list(event.beside)})
        if event.data is None:
            self._frames.append(_Frame(event.raw, plain=not event.beside))
        elif event.data.strip() == "[DONE]":
            self._done = True
            self._frames.append(_Frame(event.raw))
        else:
            self._frames.append(self._read(event, parse_event(event.data)))

    def _ended(self) -> None:
        reasons = self.finish_reasons
        if not self._done and not (reasons and all(reasons.values())):
            raise UpstreamError("disconnect", "the upstream's stream ended without [DONE] and without a finish_reason for each choice")

    def answer(self) -> Answer:
        """The same answer as one whole document."""
        if self._answer is None:
            choices = [
                {**choice.value(), "logprobs": self._spelled.get(index), "index": index} for index, choice in sorted(self._choices.items())
            ]
            self._answer = self._shape.read({**self._head, **self._top.value(), "choices": choices, "usage": self._usage})
        return self._answer

    def parts(self) -> tuple[Part, ...]:
        """What is to be judged: equal to the parts of the same answer sent whole."""
        return self.answer().parts

    def release(self) -> tuple[bytes, ...]:
        """The frames untouched, `[DONE]` last: nothing was blocked."""
        frames = tuple(held.raw for held in self._frames)
        return frames if self._done else (*frames, DONE)

    def replaced(self, blocked: Mapping[int, FilterResults], notice: str | None, *, include_usage: bool = True) -> tuple[bytes, ...]:
        """The frames with the blocked choices' frames replaced by role, optional notice and `finish_reason: content_filter`.

        The other choices' frames come first and untouched where they can, then the replacements, the usage and `[DONE]`.
        """
        frames: list[bytes] = []
        usage_dropped = False
        for held in self._frames:
            kept = self._without(held, blocked)
            frames += [kept] if kept is not None else []
            usage_dropped = kept is None if held.usage else usage_dropped
        head = {**bare(self._head, WORDS), "object": self._shape.kind}
        for index in sorted(blocked):
            frames += [frame({**head, "choices": [choice]}) for choice in self._shape.refused(index, blocked[index], notice)]
        if include_usage and usage_dropped:
            frames.append(frame({**head, "choices": [], **bare({"usage": self._usage}, WORDS)}))
        return (*frames, DONE)

    def _read(self, event: SseEvent, document: dict[str, object]) -> _Frame:
        if document.get("error"):
            raise UpstreamError("malformed", "the upstream reported an error within its stream")
        choices = document.get("choices", [])
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise UpstreamError("malformed", "a frame of the upstream's stream is no chat completion chunk")
        for key in ("id", "object", "created", "model", "system_fingerprint", "service_tier"):
            if key in document:
                self._head.setdefault(key, document[key])
        usage = document.get("usage")
        if isinstance(usage, dict):
            self._usage = usage
        said = told(document, WORDS)
        self._top.add({**{key: value for key, value in document.items() if key not in _KNOWN_FIELDS}, **({TOLD: said} if said else {})})
        indexes = []
        for position, choice in enumerate(choices):
            indexes.append(choice_index(choice, position))
            self._merge(indexes[-1], choice)
        plain = document.keys() <= ANSWER_FIELDS and "choices" in document and not event.beside and not said
        return _Frame(event.raw, frozenset(indexes), plain, isinstance(usage, dict))

    def _merge(self, index: int, choice: Mapping[str, object]) -> None:
        added = self._shape.said(index, choice)
        merged = self._choices.setdefault(index, Merged(self._shape.empty))
        merged.add(added)
        merged.add({key: value for key, value in choice.items() if key not in self._shape.skipped})
        for kind, said in spelled(choice.get("logprobs")).items():
            self._spelled.setdefault(index, {}).setdefault(kind, []).append(said)
        for words in told(choice, CHOICE_WORDS):
            if words not in (known := self._told.setdefault(index, set())):
                known.add(words)
                merged.add({TOLD: [f"{words}\n"]})
        if choice.get("finish_reason") is not None:
            merged.put("finish_reason", choice["finish_reason"])

    def _without(self, held: _Frame, blocked: Mapping[int, FilterResults]) -> bytes | None:
        """What stays of a frame when some choices are blocked."""
        if held.usage and not held.choices:
            return None  # it goes behind the replacements
        if held.plain and not held.choices & blocked.keys():
            return None if _data(held.raw) == "[DONE]" else held.raw
        document = parse_event(_data(held.raw) or "{}")
        choices = document.get("choices")
        kept = (
            [choice for place, choice in enumerate(choices) if choice_index(choice, place) not in blocked]
            if isinstance(choices, list)
            else []
        )
        if not kept:
            return None
        return frame({**bare({key: value for key, value in document.items() if key in ANSWER_FIELDS}, WORDS), "choices": kept})


def _data(raw: bytes) -> str | None:
    decoder = SseDecoder(max_event_bytes=len(raw))
    data = (decoder.feed(raw) or decoder.close())[0].data
    return None if data is None else data.strip()
