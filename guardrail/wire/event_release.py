"""What the releases of protocols of named events have in common. Their answers are one message: choice 0."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from guardrail.types import Part
from guardrail.wire.answer import FilterResults
from guardrail.wire.collecting import EventCollector, parse_event
from guardrail.wire.document import readable
from guardrail.wire.passage import Document, Passage
from guardrail.wire.release import Said
from guardrail.wire.sse import SseDecoder, SseEvent


class EventRelease(ABC):
    """See `Release`. `collector` takes the same stream, and tells at its end what there is in it."""

    def __init__(self, collector: EventCollector, *, max_bytes: int) -> None:
        self._collected = collector
        self._decoder = SseDecoder(max_event_bytes=max_bytes, max_bytes=max_bytes)
        self._passage = Passage()
        self._texts: dict[str, list[str]] = {}
        self._own: set[str] = set()  # the paths of the parts that may be those texts
        self._reason: str | None = None
        self._redacted = False
        self._begun = False
        self.max_bytes = max_bytes

    @property
    def done(self) -> bool:
        """True once the stream's last event was seen."""
        return self._collected.done

    @property
    def finish_reasons(self) -> Mapping[int, str | None]:
        """See `Release`."""
        return {0: self._reason}

    def receive(self, chunk: bytes) -> list[Said]:
        """See `Release`."""
        return [said for event in self._decoder.feed(chunk) for said in self._feed(event)]

    def finish(self) -> list[Said]:
        """See `Release`. Raises UpstreamError("disconnect") when the answer is not whole."""
        said = [said for event in self._decoder.close() for said in self._feed(event)]
        self._collected.finish()
        return said

    def others(self) -> tuple[Part, ...]:
        """See `Release`. A text in several blocks was said in one: of its blocks, those that are not all of it are told here."""
        said = {readable("".join(texts)) for texts in self._texts.values()}
        return tuple(part for part in self._collected.parts() if part.text is None or part.text not in said or part.path not in self._own)

    def text(self, said: Said, place: int) -> bytes:
        """See `Release`."""
        return self._written(self._passage.text(said.path, said.text, place))

    def redacted(self, choice: int) -> None:
        """See `Release`."""
        del choice
        self._redacted = True

    def rest(self, choice: int) -> bytes:
        """See `Release`."""
        del choice
        return self._written(self._passage.rest(), begin=True)

    @abstractmethod
    def refused(self, choice: int, results: FilterResults, notice: str | None, *, released_chars: int) -> bytes:
        """See `Release`."""

    @abstractmethod
    def end(self, *, whole: bool) -> bytes:
        """See `Release`."""

    @abstractmethod
    def _take(self, kind: str, document: Document) -> list[Said]:
        """One event; the texts in it."""

    @abstractmethod
    def _start(self) -> list[Document]:
        """The events with which the stream begins."""

    @abstractmethod
    def _spelled(self, document: Document) -> bytes:
        """One event as it goes out."""

    def _feed(self, event: SseEvent) -> list[Said]:
        if self.done:
            return []
        self._collected.feed(event)
        if event.data is None or event.data.strip() == "[DONE]":
            return []
        document = parse_event(event.data)
        return self._take(str(document["type"]), document)

    def _say(self, path: str, text: str, kind: str) -> Said:
        self._texts.setdefault(path, []).append(text)
        self._passage.said(path, text)
        return Said(0, path, text, kind)

    def _written(self, documents: list[Document], *, begin: bool = False) -> bytes:
        if not self._begun and (documents or begin):
            self._begun = True
            documents = [*self._start(), *documents]
        return b"".join(map(self._spelled, documents))
