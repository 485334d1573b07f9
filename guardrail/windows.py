"""Texts too long for a classifier, cut into overlapping windows that are judged one by one: nothing is truncated, nothing is left out."""

import re
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from guardrail.errors import ClassifierError
from guardrail.types import ClassifyRequest, Score, Span

Answer = Score | ClassifierError

OVERLAP = 400  # characters that two neighbouring windows share, about, so that a sentence cut in one is whole in the other
SMALLEST = 800  # some 3,200 tokens at the worst, of letters spelled byte by byte: beyond it the policy leaves no room
MOST = 256  # windows of one text; what would need more stays an error

_GAP = re.compile(r"\s")


@dataclass(frozen=True, slots=True)
class Partial:
    """What is known of a text of which some window could not be judged: the error, and the highest score of the others, if any.

    Neither alone is the answer: a score over the threshold settles that the text violates; one below it settles nothing.
    """

    error: ClassifierError
    score: Score | None


Windows = Generator[tuple[ClassifyRequest, ...], Sequence[Answer], list["Answer | Partial"]]


def windowed(requests: Sequence[ClassifyRequest], answers: Sequence[Answer]) -> Windows:
    """Answers with every `too_long` among them replaced by what its windows say.

    Yields the windows of all such texts as one batch, and again the halves of those that are still too long, and must be sent one
    answer for each. A text that cannot be cut any further, or would need more than `MOST` windows, keeps its error.
    """
    found: list[Answer | Partial] = list(answers)
    settled: dict[int, list[tuple[Span, Answer]]] = {}
    pending = [(place, Span(0, len(requests[place].text)), error) for place, error in enumerate(answers) if _too_long(error)]
    while pending:
        windows: list[tuple[int, Span]] = []
        asked = Counter[int]()
        for place, span, error in pending:
            known = settled.setdefault(place, [])
            cut = halves(requests[place].text, span)
            if cut is None or len(known) + asked[place] + 2 > MOST:
                known.append((span, error))
            else:
                windows += [(place, half) for half in cut]
                asked[place] += len(cut)
        if not windows:
            break
        told = yield tuple(_window(requests[place], span) for place, span in windows)
        pending = []
        for (place, span), answer in zip(windows, told, strict=True):
            if _too_long(answer):
                pending.append((place, span, answer))
            else:
                settled[place].append((span, answer))
    for place, parts in settled.items():
        found[place] = merged(parts)
    return found


def halves(text: str, span: Span) -> tuple[Span, Span] | None:
    """Two windows that cover `span` and overlap, or None when it is not worth cutting. They end between words where that is near."""
    if span.end - span.start <= SMALLEST:
        return None
    middle = (span.start + span.end) // 2
    return Span(span.start, _between_words(text, middle + OVERLAP // 2)), Span(_between_words(text, middle - OVERLAP // 2), span.end)


def merged(windows: Sequence[tuple[Span, Score | ClassifierError]]) -> Score | ClassifierError | Partial:
    """One answer of all windows of a text: the highest score, its span within the text; an error among them is never lost.

    Raises ValueError for no windows.
    """
    if not windows:
        raise ValueError("a text has one window at least")
    scores = [_placed(score, span) for span, score in windows if isinstance(score, Score)]
    highest = max(scores, key=lambda score: score.value, default=None)
    if highest is not None:
        highest = replace(highest, flags=tuple(sorted({flag for score in scores for flag in score.flags})))
    error = next((answer for _, answer in windows if isinstance(answer, ClassifierError)), None)
    if error is not None:
        return Partial(error, highest)
    assert highest is not None
    return highest


def _too_long(answer: Answer) -> bool:
    return isinstance(answer, ClassifierError) and answer.code == "too_long"


def _window(request: ClassifyRequest, span: Span) -> ClassifyRequest:
    return replace(request, text=request.text[span.start : span.end])


def _placed(score: Score, window: Span) -> Score:
    inner = score.span
    return replace(score, span=Span(window.start + inner.start, window.start + inner.end) if inner is not None else window)


def _between_words(text: str, place: int) -> int:
    """The end of the first gap between words at or behind `place`, or `place` where the next hundred characters have none."""
    found = _GAP.search(text, place, place + 100)
    return found.end() if found else place
