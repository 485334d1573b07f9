"""One decision as it is kept: plain frozen values, an allow-list of them, and no text of an exchange unless the route keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from guardrail.types import Part, Provenance, Span

DECISION = "decision"
NOTE = "note"
"""The two kinds of records: a decision, and a note of the store about itself (records lost or left out, segments pruned)."""

Content = Literal["none", "redacted", "full"]


@dataclass(frozen=True, slots=True)
class VerdictRecord:
    """What one policy said of one part; exactly one of `score` and `error` is set. `reading` names the steps that undid a disguise."""

    policy: str
    version: str
    digest: str
    threshold: float
    action: str
    mode: str
    part: str
    classifier: str
    score: float | None = None
    error: str | None = None
    span: Span | None = None
    criterion: str | None = None
    choice: int | None = None
    flags: tuple[str, ...] = ()
    reading: tuple[str, ...] = ()
    provenance: Provenance | None = None

    @property
    def violation(self) -> bool:
        """True when the score reaches the threshold."""
        return self.score is not None and self.score >= self.threshold


def came_to(action: str, shadow: str, *, unjudged: bool, unavailable: bool, violated: bool) -> str:
    """What a decision came to, in one word: `unjudged` where nothing but a failure decided, `shadow` where more would have been done than
    was, else its action. `violated`: anything was over its threshold, enforced or not."""
    if unavailable or (unjudged and not violated):
        return "unjudged"
    return "shadow" if shadow != action else action


@dataclass(frozen=True, slots=True)
class PartRecord:
    """One judged part without its text: `hmac` is the start of the keyed hash of the text, "" where it is no text.

    `pieces` is what a joined text was joined of, as in `Part`.
    """

    path: str
    role: str
    kind: str
    choice: int | None
    characters: int
    hmac: str
    pieces: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One decision, or a note (`kind`).

    `sequence` counts from 1 without a gap; `time` is in seconds since 1970. `action` is what was enforced, `shadow` the strongest of it
    and what shadow checks would have done, `mode` is `shadow` where the two differ. `timings` are seconds by name (`judging`).
    `text_hmac` is the keyed hash of everything that was judged. `keeps` says which content was to be kept; `content` is there only
    where it was asked for, is not dropped and can be decrypted. `history` says what became of earlier turns. `note` holds what a note says.
    `genuine` says whether its row is the one that was written; None: not looked at, or the key that tells is not at hand.
    """

    id: str
    time: float
    sequence: int = 0
    kind: str = DECISION
    tenant: str = ""
    route: str = ""
    stage: str = ""
    mode: str = ""
    action: str = ""
    shadow: str = ""
    unjudged: bool = False
    unavailable: bool = False
    verdicts: tuple[VerdictRecord, ...] = ()
    unscannable: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
    classifier: str = ""
    generation: int = 0
    timings: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    request_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    model: str = ""
    protocol: str = ""
    stream: bool = False
    parts: tuple[PartRecord, ...] = ()
    characters: int = 0
    text_hmac: str = ""
    keeps: Content = "none"
    content_digest: str = ""
    content: tuple[Part, ...] | None = None
    note: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    genuine: bool | None = field(default=None, compare=False)

    @property
    def duration_s(self) -> float:
        """How long the judging took."""
        return self.timings.get("judging", 0.0)

    @property
    def word(self) -> str:
        """What it came to, in one word."""
        violated = any(each.violation for each in self.verdicts)
        return came_to(self.action, self.shadow, unjudged=self.unjudged, unavailable=self.unavailable, violated=violated)

    @property
    def violations(self) -> tuple[VerdictRecord, ...]:
        """Verdicts over their thresholds, strongest score first."""
        return tuple(sorted((each for each in self.verdicts if each.violation), key=lambda each: -(each.score or 0.0)))
