"""A streamed Anthropic message that is let out while it comes.

Text and thinking go out piece by piece, the texts of all blocks judged as the one that a reader sees. A tool's input, and every block that
says anything else, waits for the end of the message, and what follows it in the stream waits with it.
"""

from collections.abc import Mapping

from guardrail.errors import UpstreamError
from guardrail.wire.answer import FilterResults
from guardrail.wire.blocks import add_block
from guardrail.wire.collecting import object_of
from guardrail.wire.event_release import EventRelease
from guardrail.wire.messages import KEPT, WORDS, named_event, refused_end, refused_events
from guardrail.wire.messages_stream import MessageStreamCollector
from guardrail.wire.parts import PartList
from guardrail.wire.passage import Document, Stretch
from guardrail.wire.release import Said
from guardrail.wire.rewriting import unspelled
from guardrail.wire.told import bare

_FIELDS = {"text": "text", "thinking": "thinking"}
_KINDS = {"text": "text", "thinking": "reasoning"}


class MessageRelease(EventRelease):
    """See `Release`."""

    def __init__(self, *, max_bytes: int = 32 * 1024 * 1024) -> None:
        self._collector = MessageStreamCollector(max_bytes=max_bytes)
        super().__init__(self._collector, max_bytes=max_bytes)
        self._live = True
        self._blocks: dict[object, tuple[Document, Stretch]] = {}  # by index: how it began, with all that it said but for its text
        self._ended: set[object] = set()

    @property
    def head(self) -> Mapping[str, object]:
        """See `Release`."""
        return self._collector.head

    @property
    def usage(self) -> Mapping[str, object] | None:
        """See `Release`."""
        return self._collector.usage

    def refused(self, choice: int, results: FilterResults, notice: str | None, *, released_chars: int) -> bytes:
        """See `Release`: `stop_reason: refusal`, and how much of the texts is out. `message_stop` is the end of the stream."""
        del choice
        documents: list[Document] = []
        begin = b""
        if self._begun:
            index = next((index for index, (_, stretch) in self._blocks.items() if stretch is self._passage.open), None)
            documents += [] if index is None else [{"type": "content_block_stop", "index": index}]
        else:
            begin, self._begun = b"".join(refused_events(self.head, results, notice)[:-2]), True
        delta = {**refused_end(results), "released_chars": released_chars}
        documents.append(
            {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 0, **bare(self.usage or {}, self.usage or {})}}
        )
        return begin + self._written(documents)

    def end(self, *, whole: bool) -> bytes:
        """See `Release`."""
        del whole
        return named_event({"type": "message_stop"})

    def _start(self) -> list[Document]:
        if not self._live:
            return []
        head = bare(self.head, WORDS)
        kept = {key: head[key] for key in KEPT if isinstance(head.get(key), str)}
        empty = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": head.get("usage")}
        return [{"type": "message_start", "message": {"type": "message", **kept, "role": "assistant", **empty}}]

    def _spelled(self, document: Document) -> bytes:
        return named_event(unspelled(document) if self._redacted else document)

    def _take(self, kind: str, document: Document) -> list[Said]:
        index = document.get("index")
        if kind == "message_start":
            if object_of(document, "message").get("content"):  # there is something in it to be judged, so that nothing goes out before
                self._live = False
                self._passage.withhold(document)
        elif kind == "content_block_start":
            return self._begin(index, document)
        elif kind in ("content_block_delta", "content_block_stop") and index in self._blocks:
            if index in self._ended:
                raise UpstreamError("malformed", "a content block of the upstream's stream goes on after its end")
            return self._add(index, document) if kind == "content_block_delta" else self._close(index)
        elif kind not in ("ping", "message_stop"):
            if kind == "message_delta":
                reason = object_of(document, "delta").get("stop_reason")
                self._reason = reason if isinstance(reason, str) else self._reason
            self._passage.withhold(document)
        return []

    def _begin(self, index: object, document: Document) -> list[Said]:
        block = object_of(document, "content_block")
        field = _FIELDS.get(str(block.get("type")))
        text = block.get(field) if field else None
        if not self._live or field is None or not isinstance(text, str) or not _harmless({**block, field: ""}):
            self._passage.withhold(document)
            return []

        def spell(said: str) -> Document:
            return {"type": "content_block_delta", "index": index, "delta": {"type": f"{field}_delta", field: said}}

        opening: Document = {"type": "content_block_start", "index": index, "content_block": unspelled({**block, field: ""})}
        path = "content[*]" if field == "text" else f"content[{index}].{field}"
        self._own |= {path, f"content[{index}].{field}"}
        stretch = self._passage.begin(path, [opening], spell)
        self._blocks[index] = ({**block, field: ""}, stretch)
        return [self._say(stretch.path, text, _KINDS[field])] if text else []

    def _add(self, index: object, document: Document) -> list[Said]:
        block, stretch = self._blocks[index]
        field, delta = _FIELDS[str(block["type"])], object_of(document, "delta")
        text = delta.get(field)
        if delta.get("type") != f"{field}_delta" or not isinstance(text, str):
            stretch.beside.append(document)
            return []
        if delta.keys() - {"type", field}:
            stretch.beside.append({**document, "delta": {**delta, field: ""}})
        return [self._say(stretch.path, text, _KINDS[field])] if text else []

    def _close(self, index: object) -> list[Said]:
        block, stretch = self._blocks[index]
        self._ended.add(index)
        stop: Document = {"type": "content_block_stop", "index": index}
        signatures = [signature for event in stretch.beside if (signature := _signature(event)) is not None]
        known = len(signatures) == len(stretch.beside) and (not signatures or block["type"] == "thinking")
        if known and _harmless({**block, **({"signature": "".join(signatures)} if signatures else {})}):
            deltas = [{"type": "signature_delta", "signature": signature} for signature in signatures]
            events: list[Document] = [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
            self._passage.close(stretch, lambda _: [*events, stop])
        else:
            self._passage.close(stretch)
            self._passage.withhold(*stretch.beside, stop)
        return [Said(0, stretch.path, "", _KINDS[_FIELDS[str(block["type"])]], complete=True)]


def _signature(event: Document) -> str | None:
    """The signature in a delta that says nothing else. What stands beside the delta is judged at the end, and not told."""
    delta = event.get("delta")
    if not isinstance(delta, dict) or delta.keys() != {"type", "signature"} or delta["type"] != "signature_delta":
        return None
    signature = delta["signature"]
    return signature if isinstance(signature, str) else None


def _harmless(block: Document) -> bool:
    """Whether a block has nothing in it that would be judged."""
    parts = PartList()
    parts.choice = 0
    add_block(parts, "block", block)
    return not parts.found
