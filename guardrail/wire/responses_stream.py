"""A streamed response, held until it is judged: what its last event holds, and whatever the events before it said otherwise.

A client may read the pieces as they come or the whole that is repeated at the end. An honest upstream says the same in both, and then the
parts are those of the same answer sent whole; what differs is judged beside them.
"""

import re
from collections.abc import Iterator, Mapping

from guardrail.errors import UpstreamError
from guardrail.types import Part
from guardrail.wire.answer import Answer, FilterResults
from guardrail.wire.collecting import EventCollector, object_of
from guardrail.wire.document import readable
from guardrail.wire.items import add_item
from guardrail.wire.parts import PartList, TooManyPartsError, strings
from guardrail.wire.responses import read_response, refused_events

LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})
_SNAPSHOTS = frozenset({"response.created", "response.in_progress", "response.queued"}) | LAST
_PLACE = ("output_index", "content_index", "summary_index", "item_id")
_SAY_NOTHING = frozenset({"type", "sequence_number", "obfuscation", "annotation_index", "command_index", "partial_image_index", *_PLACE})
_IDENTIFIER = re.compile(r"[\w.:|/+=-]{0,128}", re.ASCII)


class ResponseStreamCollector(EventCollector):
    """Holds one streamed response: `receive` chunks until the upstream ends, `finish`, judge `parts()`, then `release` or `replaced`."""

    def __init__(self, *, max_bytes: int = 32 * 1024 * 1024) -> None:
        super().__init__(max_bytes=max_bytes)
        self._growing: dict[tuple[object, ...], list[str]] = {}
        self._beside = PartList()
        self._beside.choice, self._beside.role = 0, "assistant"
        self._response: dict[str, object] | None = None
        self._answer: Answer | None = None

    @property
    def usage(self) -> Mapping[str, object] | None:
        """The usage the upstream reported, if it did."""
        return self.answer().usage

    @property
    def finish_reasons(self) -> Mapping[int, str | None]:
        """The status, or why it is incomplete, of the only choice."""
        return self.answer().finish_reasons

    @property
    def head(self) -> Mapping[str, object]:
        """The response of the last event: `id` and `model` among it."""
        return self._response or {}

    def answer(self) -> Answer:
        """The answer as its last event tells it."""
        if self._answer is None:
            if self._response is None:
                raise UpstreamError("disconnect", "the upstream's stream has not ended")
            self._answer = read_response(self._response)
        return self._answer

    def parts(self) -> tuple[Part, ...]:
        """What is to be judged: the parts of the whole answer, once it is there, and what the events said beside it."""
        whole = self.answer().parts if self._response is not None else ()
        told = {part.text for part in whole if part.text is not None}
        lines = {line for text in told for line in text.split("\n")}
        extra = [part for part in self._beside.found if part.text is None or part.text not in told | lines]
        for key, pieces in self._growing.items():
            text = readable("".join(pieces))
            if text and text not in told | lines:
                extra.append(Part(f"events.{key[0]}", text, "assistant", "text", 0))
        return (*whole, *dict.fromkeys(extra))

    def replaced(self, blocked: Mapping[int, FilterResults], notice: str | None) -> tuple[bytes, ...]:
        """The events of an incomplete response that says `notice`, with the usage of what was blocked."""
        if not blocked:
            return self.release()
        return refused_events(self._response or {}, blocked.get(0, {}), notice)

    def _take(self, kind: str, document: Mapping[str, object], beside: tuple[str, ...]) -> bool:
        if kind == "error":
            raise UpstreamError("malformed", "the upstream reported an error within its stream")
        try:
            for text in beside:
                self._beside.text("events.sse", text)
            return self._read(kind, document)
        except TooManyPartsError as error:
            raise UpstreamError("too_large", f"the upstream's stream holds {error}") from None

    def _read(self, kind: str, document: Mapping[str, object]) -> bool:
        if kind in LAST and "response" not in document:
            raise UpstreamError("malformed", "the last event of the upstream's stream holds no response")
        place = kind if _IDENTIFIER.fullmatch(kind) else "?"
        if (kind and not kind.startswith("response.")) or place == "?":
            self._beside.text("events.type", kind)
        self._strings(place, {key: document[key] for key in _PLACE if key in document})
        for key, value in document.items():
            if key == "response" and kind in _SNAPSHOTS:
                self._snapshot(object_of(document, "response"), last=kind in LAST)
            elif key == "item" and isinstance(value, dict):
                found = self._read_item(value)
                self._beside.found += [part for part in found if part not in self._beside.found[-64:]]
            elif key == "delta" and isinstance(value, str):
                self._grow((place, *(document.get(name) for name in _PLACE)), value)
            elif key == "logprobs" and isinstance(value, list):
                tokens = value
                self._strings(place, [token if not isinstance(token, dict) else _beside(token) for token in tokens])
                said = "".join(str(token.get("token", "")) for token in tokens if isinstance(token, dict))
                self._grow((f"{place}.logprobs", *(document.get(name) for name in _PLACE)), said)
            elif key == "partial_image_b64":
                self._beside.opaque(f"events.{place}", "image")
            elif key not in _SAY_NOTHING:
                self._strings(place, value if _IDENTIFIER.fullmatch(key) else {key: value})
        return kind in LAST

    def _snapshot(self, response: dict[str, object], *, last: bool) -> None:
        if last:
            self._response = response
        else:
            self._beside.found += read_response({"output": [], **response}).parts

    def _read_item(self, item: dict[str, object]) -> list[Part]:
        parts = PartList()
        parts.choice, parts.role = 0, "assistant"
        add_item(parts, "events.item", item, "assistant")
        return parts.found

    def _strings(self, place: str, value: object) -> None:
        """Each string by itself, so that it is found again in the whole answer."""
        for text in _said(value):
            self._beside.text(f"events.{place}", text)

    def _grow(self, key: tuple[object, ...], piece: str) -> None:
        try:
            self._growing.setdefault(key, []).append(piece)
        except TypeError:
            raise UpstreamError("malformed", "an event of the upstream's stream has a place that is no name or number") from None


def _said(value: object) -> Iterator[str]:
    """The strings that are no names of types or identifiers."""
    if isinstance(value, dict):
        value = {key: child for key, child in value.items() if not (key in ("type", "id", "item_id", "status") and _plain(child))}
    yield from (text for text in strings(value) if not _plain_id(text))


def _beside(token: Mapping[str, object]) -> dict[str, object]:
    """What a token's log probability holds beside its usual fields."""
    return {key: value for key, value in token.items() if key not in ("token", "logprob", "bytes", "top_logprobs")}


def _plain(value: object) -> bool:
    return isinstance(value, str) and _IDENTIFIER.fullmatch(value) is not None


def _plain_id(text: str) -> bool:
    return text == "" or (text.startswith(("msg_", "fc_", "rs_", "resp_")) and _IDENTIFIER.fullmatch(text) is not None)
