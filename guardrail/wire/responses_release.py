"""A streamed response that is let out while it comes.

The text of messages and the summaries and texts of reasoning go out piece by piece, those of one item judged as the one text that a reader
sees. Every other item (a function's call, say), and all that says anything else, waits for the end of the response, and what follows it
in the stream waits with it. What goes out at the end of a text repeats what went out of it, and not what the upstream repeats.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from guardrail.errors import UpstreamError
from guardrail.wire.answer import FilterResults
from guardrail.wire.collecting import object_of
from guardrail.wire.event_release import EventRelease
from guardrail.wire.items import add_item
from guardrail.wire.messages import named_event
from guardrail.wire.parts import MAX_PARTS, PartList
from guardrail.wire.passage import Document, Stretch
from guardrail.wire.release import Said
from guardrail.wire.responses import ECHOED, WORDS, refused_events, refused_response
from guardrail.wire.responses_stream import LAST, ResponseStreamCollector
from guardrail.wire.rewriting import unspelled
from guardrail.wire.told import bare

_NAME = re.compile(r"[\w.:|/+=-]{0,128}", re.ASCII)
_HEADS = frozenset({"response.created", "response.in_progress", "response.queued"})


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one kind of text is spelled: its events' names, the item's list that holds it, the field that counts it, and what it is."""

    text: str
    part: str
    holder: str
    index: str
    kind: str
    joiner: str


_KINDS = {
    "output_text": _Kind("response.output_text", "response.content_part", "content", "content_index", "text", ""),
    "summary_text": _Kind(
        "response.reasoning_summary_text", "response.reasoning_summary_part", "summary", "summary_index", "reasoning", "\n"
    ),
    "reasoning_text": _Kind("response.reasoning_text", "response.content_part", "content", "content_index", "reasoning", "\n"),
}
_BY_TEXT = {kind.text: kind for kind in _KINDS.values()}
_PART_ADDED = {f"{kind.part}.added" for kind in _KINDS.values()}
_PART_DONE = {f"{kind.part}.done" for kind in _KINDS.values()}

_TOLD = {"response.output_item.added", "response.output_item.done", *_HEADS, *LAST, *_PART_ADDED, *_PART_DONE} | {
    f"{name}.{end}" for name in (*_BY_TEXT, "response.function_call_arguments") for end in ("delta", "done")
}
"""The events that are told of an answer of which something was taken out."""

Key = tuple[object, str, object]


@dataclass(slots=True)
class _Text:
    """One content part: where it stands, how it began, and the events that end it, which wait for each other."""

    kind: _Kind
    place: Document
    part: Document
    stretch: Stretch
    ending: list[Document] = field(default_factory=list)
    ended: bool = False


class ResponseRelease(EventRelease):
    """See `Release`."""

    def __init__(self, *, max_bytes: int = 32 * 1024 * 1024) -> None:
        self._collector = ResponseStreamCollector(max_bytes=max_bytes)
        super().__init__(self._collector, max_bytes=max_bytes)
        self._response: Document = {}
        self._heads: list[Document] = []
        self._prelude: list[Document] = []  # harmless, and out with what follows
        self._items: dict[object, Document] = {}  # by index: how it began
        self._ended: dict[object, Document] = {}  # and how it ended
        self._texts_of: dict[Key, _Text] = {}
        self._texts_in: dict[object, dict[Key, _Text]] = {}  # the same, by item
        self._open_items: set[int] = set()  # begun and not ended in what is out
        self._number = 0

    @property
    def finish_reasons(self) -> Mapping[int, str | None]:
        """See `Release`."""
        return self._collector.finish_reasons if self.done else super().finish_reasons

    @property
    def head(self) -> Mapping[str, object]:
        """See `Release`."""
        return self._response

    @property
    def usage(self) -> Mapping[str, object] | None:
        """See `Release`: known at the end alone."""
        return self._collector.usage if self.done else None

    def refused(self, choice: int, results: FilterResults, notice: str | None, *, released_chars: int) -> bytes:
        """See `Release`: `response.incomplete`, with what is out for its output."""
        del choice
        document = {**self._response, "usage": self.usage}
        if not self._begun:
            self._begun = True
            return b"".join(refused_events(document, results, notice))
        documents = list(self._closed())
        shown = list(self._shown())
        response = {**refused_response(document, results, None), "output": shown, "released_chars": released_chars}
        return self._written([*documents, {"type": "response.incomplete", "response": response}])

    def end(self, *, whole: bool) -> bytes:
        """See `Release`: a response ends with its last event."""
        del whole
        return b""

    def rest(self, choice: int) -> bytes:
        """See `Release`."""
        for text in self._texts_of.values():
            if not text.ended:
                self._passage.close(text.stretch)
                self._passage.withhold(*text.stretch.beside, *text.ending)
        self._passage.withhold(*self._prelude)
        self._prelude = []
        return super().rest(choice)

    def _start(self) -> list[Document]:
        return self._heads

    def _spelled(self, document: Document) -> bytes:
        if self._redacted:
            if document["type"] not in _TOLD:
                return b""  # it may repeat what was taken out
            document = unspelled(self._without(document))
        index = document.get("output_index")
        if document["type"] == "response.output_item.added" and isinstance(index, int):
            self._open_items.add(index)
        elif document["type"] == "response.output_item.done":
            self._open_items.discard(index)
        number, self._number = self._number, self._number + 1
        return named_event({**document, "sequence_number": number})

    def _take(self, kind: str, document: Document) -> list[Said]:
        index = _number(document, "output_index")
        found = self._texts_of.get(_key(kind, document) or (None, "", None))
        stem, _, end = kind.rpartition(".")
        if kind in _HEADS:
            self._begin(kind, object_of(document, "response"))
        elif kind == "response.output_item.added" and _harmless(item := object_of(document, "item")) and index is not None:
            self._items[index] = item
            _count(self._items)
            self._prelude.append({"type": kind, "output_index": index, "item": unspelled(item)})
        elif kind in _PART_ADDED and index in self._items and found is None:
            return self._open(document)
        elif found is not None and not found.ended and stem in _BY_TEXT and end == "delta" and isinstance(document.get("delta"), str):
            said = str(document["delta"])
            return [self._say(found.stretch.path, said, found.kind.kind)] if said else []
        elif found is not None and not found.ended and stem in _BY_TEXT and end == "done":
            found.ending.append({"type": kind, **found.place, "text": document.get("text"), **_logprobs(found.kind)})
        elif found is not None and not found.ended and kind in _PART_DONE:
            return self._close(found, document)
        elif kind == "response.output_item.done" and index in self._items and index not in self._ended:
            self._done_item(index, document)
        elif found is not None and not found.ended:
            found.stretch.beside.append(document)
        else:
            self._withhold(document)
        return []

    def _begin(self, kind: str, response: Document) -> None:
        told = {key: value for key, value in bare(response, WORDS).items() if key in ECHOED} | {"output": [], "usage": None, "error": None}
        self._response = self._response or {"id": None, **told}
        self._heads.append({"type": kind, "response": told})

    def _open(self, document: Document) -> list[Said]:
        index, part = document["output_index"], object_of(document, "part")
        kind = _KINDS.get(str(part.get("type")))
        key = _key(str(document["type"]), document)
        place = {name: document.get(name) for name in ("item_id", "output_index", *((kind.index,) if kind else ()))}
        text = part.get("text")
        named = isinstance(place["item_id"], str) and _NAME.fullmatch(place["item_id"])
        holder = {"type": self._items[index]["type"], kind.holder: [{**part, "text": ""}]} if kind else None
        if kind is None or key is None or not named or not isinstance(text, str) or holder is None or not _harmless(holder):
            self._withhold(document)
            return []
        path = f"output[{index}].{kind.holder}" + ("[*]" if kind.kind == "text" else "")
        joiner = [self._say(path, kind.joiner, kind.kind)] if kind.joiner and path in self._own else []
        empty = unspelled({**part, "text": ""})

        def spell(said: str) -> Document:
            return {"type": f"{kind.text}.delta", **place, "delta": said, **_logprobs(kind)}

        self._own |= {path, f"output[{index}].{kind.holder}[{document.get(kind.index)}].text"}
        opening = [*self._prelude, {"type": document["type"], **place, "part": empty}]
        self._prelude = []
        self._texts_of[key] = _Text(kind, place, empty, self._passage.begin(path, opening, spell))
        self._texts_in.setdefault(index, {})[key] = self._texts_of[key]
        _count(self._texts_of)
        return [*joiner, *([self._say(path, text, kind.kind)] if text else [])]

    def _close(self, text: _Text, document: Document) -> list[Said]:
        text.ended = True
        part = object_of(document, "part")
        holder = {"type": self._items[text.place["output_index"]]["type"], text.kind.holder: [{**part, "text": ""}]}
        text.ending.append({"type": document["type"], **text.place, "part": part})
        if text.stretch.beside or not _harmless(holder):
            self._passage.close(text.stretch)
            self._passage.withhold(*text.stretch.beside, *text.ending)
        else:
            self._passage.close(text.stretch, lambda told: [_retold(event, told) for event in text.ending])
        return [Said(0, text.stretch.path, "", text.kind.kind, complete=True)]

    def _done_item(self, index: object, document: Document) -> None:
        """An item ended: behind its last text, if there is nothing else in it; else it waits."""
        item = self._ended[index] = object_of(document, "item")
        texts = self._texts_in.get(index, {})
        blank = _with_texts(item, dict.fromkeys(texts, ""))
        last = next(reversed(texts.values()), None)
        if not _harmless(blank) or any(not each.ended or each.stretch.closing is None for each in texts.values()):
            self._withhold(document)
        elif last is None:
            self._prelude.append({"type": document["type"], "output_index": index, "item": item})
        elif self._passage.last is last.stretch:
            last.ending.append({"type": document["type"], "output_index": index, "item": item})
            ending = last.ending
            self._passage.close(last.stretch, lambda told: [self._retold_item(_retold(event, told)) for event in ending])
        elif self._passage.idle:
            self._prelude.append(self._retold_item({"type": document["type"], "output_index": index, "item": item}))
        else:
            self._withhold(document)

    def _withhold(self, document: Document) -> None:
        self._passage.withhold(*self._prelude, document)
        self._prelude = []

    def _retold_item(self, event: Document) -> Document:
        if event["type"] != "response.output_item.done":
            return event
        return {**event, "item": _with_texts(object_of(event, "item"), self._told(event["output_index"]))}

    def _without(self, document: Document) -> Document:
        """An event that repeats texts, as they are now that something was taken out of one."""
        kind, index = str(document["type"]), document.get("output_index")
        if kind in LAST:
            response = object_of(document, "response")
            output = response.get("output")
            items = output if isinstance(output, list) else []
            told = [_with_texts(item, self._told(place), logprobs=False) for place, item in enumerate(items)]
            return {**document, "response": {**response, "output": told}}
        if kind == "response.output_item.done" and isinstance(document.get("item"), dict):
            return {**document, "item": _with_texts(object_of(document, "item"), self._told(index), logprobs=False)}
        found = self._texts_of.get(_key(kind, document) or (None, "", None))
        return document if found is None or kind.endswith((".added", ".delta")) else _retold(document, found.stretch.told)

    def _told(self, index: object) -> dict[Key, str]:
        """What is out of the texts of one item."""
        return {key: each.stretch.told for key, each in self._texts_in.get(index, {}).items()}

    def _closed(self) -> Iterator[Document]:
        """What ends the text that is being told, and its item."""
        for text in self._texts_of.values():
            if text.stretch is self._passage.open:
                told = text.stretch.told
                yield {"type": f"{text.kind.text}.done", **text.place, "text": told, **_logprobs(text.kind)}
                yield {"type": f"{text.kind.part}.done", **text.place, "part": {**text.part, "text": told}}
        for index in sorted(self._open_items):
            yield {"type": "response.output_item.done", "output_index": index, "item": self._shown_item(index)}

    def _shown(self) -> Iterator[Document]:
        for index in self._items:
            if any(each.stretch.opened for each in self._texts_in.get(index, {}).values()):
                yield self._shown_item(index)

    def _shown_item(self, index: object) -> Document:
        texts = [each for each in self._texts_in.get(index, {}).values() if each.stretch.opened]
        holders: dict[str, list[Document]] = {}
        for each in texts:
            holders.setdefault(each.kind.holder, []).append({**each.part, "text": each.stretch.told})
        ended = None if index in self._open_items else self._ended.get(index)
        return {**(ended or self._items[index]), **holders, **({} if ended else {"status": "incomplete"})}


def _key(kind: str, document: Mapping[str, object]) -> Key | None:
    """Which content part an event speaks of."""
    holder, name = ("summary", "summary_index") if "summary" in kind else ("content", "content_index")
    index, number = _number(document, "output_index"), _number(document, name)
    return (index, holder, number) if index is not None and number is not None else None


def _count(held: Mapping[Any, object]) -> None:
    """Raises UpstreamError("too_large") for more than an answer may have."""
    if len(held) > MAX_PARTS:
        raise UpstreamError("too_large", f"the upstream's stream holds more than {MAX_PARTS} items or texts")


def _number(document: Mapping[str, object], name: str) -> int | None:
    value = document.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _logprobs(kind: _Kind) -> Document:
    return {"logprobs": []} if kind.kind == "text" else {}


def _retold(event: Document, told: str) -> Document:
    """An event that repeats one text, with what went out of it."""
    if isinstance(part := event.get("part"), dict):
        return {**event, "part": {**part, "text": told, **({"logprobs": []} if "logprobs" in part else {})}}
    return {**event, "text": told, **({"logprobs": []} if "logprobs" in event else {})} if "text" in event else event


def _with_texts(item: object, texts: Mapping[Key, str], *, logprobs: bool = True) -> Document:
    """An item with these texts in place of its own."""
    if not isinstance(item, dict):
        return {"item": item}
    found = dict(item)
    for (_, holder, number), text in texts.items():
        parts = found.get(holder)
        if isinstance(parts, list) and isinstance(number, int) and 0 <= number < len(parts) and isinstance(parts[number], dict):
            bare = {**parts[number], "text": text} | ({} if logprobs or "logprobs" not in parts[number] else {"logprobs": []})
            found[holder] = changed = list(parts) if parts is item[holder] else parts
            changed[number] = bare
    return found


def _harmless(item: Document) -> bool:
    """Whether an item is a message or reasoning with nothing in it that would be judged."""
    if item.get("type") not in ("message", "reasoning"):
        return False
    parts = PartList()
    parts.choice, parts.role = 0, "assistant"
    add_item(parts, "item", item, "assistant")
    return not parts.found
