"""What a streamed answer that is let out while it comes has to do, whatever its protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from guardrail.types import Part
from guardrail.wire.answer import FilterResults


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of one of the texts that go out piece by piece, by the path of the whole answer's part, and the kind of part that it is.

    `complete`: for now nothing more of this text is expected, so that it is judged to its end.
    """

    choice: int
    path: str
    text: str
    kind: str = "text"
    complete: bool = False


class Release(Protocol):
    """Reads one stream, and spells it again as far as it may go out: `receive` chunks until `done` or the upstream ends, then `finish`.

    All but the texts that were `said` waits for the end of its choice. Raises UpstreamError as the protocol's collector does.
    """

    @property
    def max_bytes(self) -> int:
        """The bytes that it takes at most."""
        ...

    @property
    def done(self) -> bool:
        """Whether nothing that could still come belongs to the answer."""
        ...

    @property
    def head(self) -> Mapping[str, object]:
        """The answer's id, model and the like, as far as they are known."""
        ...

    @property
    def usage(self) -> Mapping[str, object] | None:
        """Token counts as far as the upstream has reported them."""
        ...

    @property
    def finish_reasons(self) -> Mapping[int, str | None]:
        """The choices that there are so far, with their finish reasons. Cheap to ask."""
        ...

    def receive(self, chunk: bytes) -> Sequence[Said]:
        """Take bytes as they came from the upstream, in any chunking; the texts in what they complete."""
        ...

    def finish(self) -> Sequence[Said]:
        """The upstream's stream ended."""
        ...

    def others(self) -> tuple[Part, ...]:
        """The parts of the whole answer that were not `said`."""
        ...

    def text(self, said: Said, place: int) -> bytes:
        """The text of a `Said` that goes out, behind what went out of its path before; with it `place` characters of that are out."""
        ...

    def redacted(self, choice: int) -> None:
        """Something was taken out of a choice's text: what would spell it again, log probabilities say, must not go out."""
        ...

    def rest(self, choice: int) -> bytes:
        """All else of a choice that may pass."""
        ...

    def refused(self, choice: int, results: FilterResults, notice: str | None, *, released_chars: int) -> bytes:
        """The end of a choice of which nothing more goes out. The notice is said where nothing else was."""
        ...

    def end(self, *, whole: bool) -> bytes:
        """The end of the stream. `whole`: nothing was blocked, so what belongs to no choice may go out."""
        ...
