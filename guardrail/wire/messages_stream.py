"""A streamed Anthropic message, held until it is judged: it is collected into the same parts as a whole one."""

from collections.abc import Mapping

from guardrail.errors import UpstreamError
from guardrail.types import Part
from guardrail.wire.answer import Answer, FilterResults
from guardrail.wire.collecting import EventCollector, object_of, place_of
from guardrail.wire.document import UnreadableError, parse_object
from guardrail.wire.merge import MAX_ITEMS, Merged, Repeated
from guardrail.wire.messages import WORDS, read_message, refused_events
from guardrail.wire.told import TOLD, told

_DELTAS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
_KNOWN = {
    "message_start": frozenset({"type", "message"}),
    "content_block_start": frozenset({"type", "index", "content_block"}),
    "content_block_delta": frozenset({"type", "index", "delta"}),
    "content_block_stop": frozenset({"type", "index"}),
    "message_delta": frozenset({"type", "delta", "usage", "context_management"}),
    "message_stop": frozenset({"type"}),
    "ping": frozenset({"type"}),
}


class _Block:
    """One content block as it grows; a tool's input comes as pieces of JSON."""

    def __init__(self, start: Mapping[str, object]) -> None:
        self._start = Merged(start)
        self._json: list[str] = []

    def add(self, delta: Mapping[str, object]) -> None:
        kind = delta.get("type")
        said: dict[str, object]
        known: set[str]
        field = _DELTAS.get(kind) if isinstance(kind, str) else None
        if kind == "input_json_delta" and isinstance(delta.get("partial_json"), str):
            self._json.append(str(delta["partial_json"]))
            said, known = {}, {"type", "partial_json"}
        elif kind == "citations_delta":
            said, known = {"citations": [delta.get("citation")]}, {"type", "citation"}
        elif field is not None and isinstance(delta.get(field), str):
            said, known = {field: delta[field]}, {"type", field}
        else:
            said, known = {}, set()
        self._start.add(said)
        if rest := {key: value for key, value in delta.items() if key not in known}:
            self._start.add({"delta": rest})

    def value(self) -> dict[str, object]:
        """The block as a whole answer holds it; input that is no JSON, because the model was cut off in it, stays a string."""
        block = self._start.value()
        if spelled := "".join(self._json):
            started = block.get("input")
            try:
                block["input"] = parse_object(spelled.encode("utf-8", "replace"))
            except UnreadableError:
                block["input"] = spelled
            if started:  # a client may read either
                block["input"] = [started, block["input"]]
        return block


class MessageStreamCollector(EventCollector):
    """Holds one streamed message: `receive` chunks until the upstream ends, `finish`, judge `parts()`, then `release` or `replaced`."""

    def __init__(self, *, max_bytes: int = 32 * 1024 * 1024) -> None:
        super().__init__(max_bytes=max_bytes)
        self._head: dict[str, object] | None = None
        self._blocks: list[_Block] = []
        self._end = Merged()
        self._usage: dict[str, object] = {}
        self._beside = Repeated()
        self._answer: Answer | None = None

    @property
    def usage(self) -> Mapping[str, object] | None:
        """The usage the upstream reported, if it did."""
        return self._usage or None

    @property
    def finish_reasons(self) -> Mapping[int, str | None]:
        """The stop reason, of the only choice."""
        return self.answer().finish_reasons

    @property
    def head(self) -> Mapping[str, object]:
        """What the first event says of the message: `id` and `model` among it."""
        return self._head or {}

    def answer(self) -> Answer:
        """The same answer as one whole document."""
        if self._answer is None:
            head = self._head or {}
            started = head.get("content")
            content = [*(started if isinstance(started, list) else ()), *(block.value() for block in self._blocks)]
            said = {key: value for key, value in self._end.value().items() if value is not None}
            self._answer = read_message({**head, **said, **self._beside.value(), "content": content, "usage": self._usage or None})
        return self._answer

    def parts(self) -> tuple[Part, ...]:
        """What is to be judged: equal to the parts of the same answer sent whole."""
        return self.answer().parts

    def replaced(self, blocked: Mapping[int, FilterResults], notice: str | None) -> tuple[bytes, ...]:
        """The events of a refusal that says `notice`, with the usage of what was blocked."""
        if not blocked:
            return self.release()
        return refused_events({**(self._head or {}), "usage": self._usage or None}, blocked.get(0, {}), notice)

    def _take(self, kind: str, document: Mapping[str, object], beside: tuple[str, ...]) -> bool:
        self._answer = None
        self._beside.add({"sse": list(beside)})
        if said := told(document, ("usage", "context_management")):  # what comes later stands in its place
            self._beside.add({TOLD: said})
        if kind and kind not in _KNOWN:
            self._beside.add({"event_type": kind})
        self._beside.add({"event": {key: value for key, value in document.items() if key not in _KNOWN.get(kind, frozenset({"type"}))}})
        if kind == "error":
            raise UpstreamError("malformed", "the upstream reported an error within its stream")
        if kind == "message_start":
            if self._head is not None:
                raise UpstreamError("malformed", "the upstream's stream starts twice")
            self._head = object_of(document, "message")
            if said := told(self._head, WORDS):
                self._beside.add({TOLD: said})
            self._count(self._head.get("usage"))
        elif kind in _KNOWN and kind != "ping" and self._head is None:
            raise UpstreamError("malformed", "the upstream's stream does not start with message_start")
        elif kind == "content_block_start":
            if place_of(document, "index", MAX_ITEMS) != len(self._blocks):
                raise UpstreamError("malformed", "the content blocks of the upstream's stream are out of order")
            self._blocks.append(_Block(object_of(document, "content_block")))
        elif kind in ("content_block_delta", "content_block_stop"):
            block = self._blocks[place_of(document, "index", len(self._blocks))]
            if kind == "content_block_delta":
                block.add(object_of(document, "delta"))
        elif kind == "message_delta":
            self._end.add(object_of(document, "delta"))
            self._count(document.get("usage"))
        return kind == "message_stop"

    def _count(self, usage: object) -> None:
        if isinstance(usage, dict):
            self._usage |= {key: value for key, value in usage.items() if value is not None}
