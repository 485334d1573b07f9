"""The records every other module speaks in: frozen, comparable, and free of behaviour beyond their own invariants."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Literal


class Stage(StrEnum):
    """Which half of an exchange is judged."""

    INPUT = "input"
    OUTPUT = "output"


class Action(IntEnum):
    """What is done about a text; the strongest of several wins, so the order is the meaning."""

    PASS = 0
    ANNOTATE = 1
    REDACT = 2
    BLOCK = 3

    @property
    def word(self) -> str:
        """The lower-case name used in configuration, headers and records."""
        return _WORDS[self]


_WORDS = tuple(action.name.lower() for action in Action)


class Mode(StrEnum):
    """`enforce` acts; `shadow` decides and records but changes nothing."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class Fallback(StrEnum):
    """What happens to a text that could not be judged (`on_error`, `unscannable`): block it, or let it pass and record it."""

    BLOCK = "block"
    PASS = "pass"  # noqa: S105  (a word, not a password)


@dataclass(frozen=True, slots=True)
class Span:
    """Character range [start, end) in one part's text."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Part:
    """One text-bearing piece of an exchange.

    `path` names its place (`messages[2].content[0].text`), `kind` what it is (text, name, tool_arguments, tool_result, refusal,
    reasoning, definition, image, audio, file, tokens, unknown; tool_server, url, container: what a provider fetches for the model).
    `text` is None where something cannot be read as text, `choice` the answer's choice index, None for the request. `pieces` is what a
    joined text was joined of: the path of each, where it begins in `text`, and how many characters of its own beginning are not in it.
    """

    path: str
    text: str | None
    role: str = "user"
    kind: str = "text"
    choice: int | None = None
    pieces: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Criterion:
    """A named Includes or Excludes entry (or a defined term) and the line it stands on. `excludes` holds an inline exception."""

    name: str
    text: str
    line: int
    excludes: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """One label of a policy: `### (CODE): Name` with its criteria."""

    code: str
    name: str
    includes: tuple[Criterion, ...]
    excludes: tuple[Criterion, ...]
    line: int


@dataclass(frozen=True, slots=True)
class PolicyTest:
    """A policy's own test case: the text, 1 (violates) or 0, why, and the name of the criterion that decides where it is given."""

    text: str
    expected: Literal[0, 1]
    why: str
    line: int
    criterion: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of a policy's `## Changes`."""

    version: str
    date: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed policy file.

    `body` is exactly what reaches a model that reads the whole policy (no front matter, tests or changes), `digest` is `sha256:` over it
    and what it is judged with: equal ones mean equal text to judge by. `judge_with`: `prompt` judges an answer with what the user said.
    `threshold` is that of answers, too, unless there is an `output_threshold`. `lines` are those of front-matter keys and sections.
    """

    id: str
    version: str
    title: str
    label_code: str
    threshold: float
    applies_to: frozenset[Stage]
    language: str
    overview: str
    terms: tuple[Criterion, ...]
    interpretation: str
    labels: tuple[Label, ...]
    body: str
    digest: str
    tests: tuple[PolicyTest, ...] = ()
    changes: tuple[Change, ...] = ()
    path: str = "<text>"
    judge_with: Literal["nothing", "prompt"] = "nothing"
    output_threshold: float | None = None
    lines: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}), compare=False, hash=False)

    @property
    def key(self) -> tuple[str, str]:
        """Under which answers are kept: its id too, since some classifiers go by that, and what another's text scored is not its score."""
        return self.id, self.digest

    def threshold_at(self, stage: Stage) -> float:
        """From which score a prompt, or an answer, violates."""
        return self.threshold if stage is Stage.INPUT or self.output_threshold is None else self.output_threshold


@dataclass(frozen=True, slots=True)
class ClassifyRequest:
    """One question to a classifier: does `text` violate `policy`? `context` is what came before it, where a classifier can use it.

    `stage` and `tenant` say whose turn it is where many wait; they never change a score.
    """

    policy: Policy
    text: str
    context: str | None = None
    stage: Stage = Stage.INPUT
    tenant: str = "*"


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a score needs to be computed again, bit for bit where `bucket` is the same. Empty, 0 and None: a server does not tell.

    `template`, `tokenizer`, `model`, `adapter` are versions or digests, `dtype` names the weights' and the arithmetic's, `bucket` is the
    number of tokens the pass was padded to, `outside` the probability mass that the model gave to neither answer.
    """

    template: str
    tokenizer: str
    model: str
    adapter: str
    dtype: str
    bucket: int
    outside: float | None


@dataclass(frozen=True, slots=True)
class Score:
    """Calibrated probability in [0, 1] that the text violates the policy.

    `span` is the window of the text that scored highest, `criterion` the name of the criterion that drove the score where the
    classifier knows it, `classifier` its id with the weights' digest, so that a verdict can be replayed. `flags` are codes of what is odd
    about the text (`header_lookalike`: it imitates the prompt's headers). Raises ValueError on what is no probability: no guess is a score.
    """

    value: float
    classifier: str
    span: Span | None = None
    criterion: str | None = None
    flags: tuple[str, ...] = ()
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and 0.0 <= self.value <= 1.0):
            raise ValueError(f"a score is a probability in [0, 1], not {self.value!r}")


@dataclass(frozen=True, slots=True)
class Check:
    """One policy as one route applies it to one stage."""

    policy: Policy
    threshold: float
    action: Action = Action.BLOCK
    mode: Mode = Mode.ENFORCE


@dataclass(frozen=True, slots=True)
class ReadingLimits:
    """How far a text's disguises are undone: `readings` of it at most, the raw one included, of `characters` together beside the raw one
    (and no longer raw one is looked at), `depth` disguises of one kind one upon the other."""

    readings: int = 4
    characters: int = 1_000_000
    depth: int = 8


@dataclass(frozen=True, slots=True)
class Escalation:
    """Scores in [low, high] are asked again of `classifier`, whose answer replaces the first one."""

    classifier: str
    low: float
    high: float


class StreamMode(StrEnum):
    """When a streamed answer's text is let out: once all of it, once what contains it, or before it was judged (`watch`).

    `overlap` does as `window` does while the next text is generated and judged; `watch` cuts an answer off when a block comes late.
    """

    HOLD = "hold"
    WINDOW = "window"
    OVERLAP = "overlap"
    WATCH = "watch"


@dataclass(frozen=True, slots=True)
class Streaming:
    """How a streamed answer is let out.

    `window`: characters from one check to the next, at least. `overlap`: characters at the end of what was judged that wait for the next
    check, so that nothing shorter that violates only together with what follows is out by then. `first_s`: seconds after which the first
    window is judged though it is not full. Raises ValueError for what is no such number.
    """

    mode: StreamMode = StreamMode.HOLD
    window: int = 400
    overlap: int = 80
    first_s: float = 0.5

    def __post_init__(self) -> None:
        if self.window < 1 or self.overlap < 0 or not self.first_s > 0:
            raise ValueError("a window has at least one character, an overlap none or more, and a deadline is above 0 seconds")


@dataclass(frozen=True, slots=True)
class Audit:
    """How a route's decisions are kept: with which text, and what a full or failing store leads to. `wait`: what was judged is held until
    its record is kept, and refused (503) where that takes too long; else the record is left out and counted."""

    content: Literal["none", "redacted", "full"] = "none"
    wait: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """What happens to an exchange, fixed for its whole life; `input` and `output` hold the checks with their policies pinned.

    `path`, `model` (glob) and `tenant` say what it matches (`*`: any). `deadline_s` bounds one stage's judging. `timing`: `before` judges
    the prompt before the upstream is called, `parallel` beside it. `stored_turns`: turns that a request continues by an id are refused, or
    fetched of the upstream and judged with it. `definitions`: what tools and the schema of the answer are said to be is judged, or trusted.
    `streaming` says when a streamed answer is let out. `scope` says which turns of a conversation are judged, `history` what is done about
    one before the latest that violates. `generation` is the number of the policy set it was compiled from, `policy_set` its digest.
    `normalize` bounds how far disguises of a text are undone; None judges texts as they stand alone.
    """

    name: str
    path: str
    model: str
    tenant: str
    upstream: str
    classifier: str
    input: tuple[Check, ...]
    output: tuple[Check, ...]
    on_error: Fallback = Fallback.BLOCK
    unscannable: Fallback = Fallback.BLOCK
    deadline_s: float = 5.0
    timing: Literal["before", "parallel"] = "before"
    streaming: Streaming = Streaming()
    on_block: Literal["error", "reply"] = "error"
    stored_turns: Literal["refuse", "resolve"] = "refuse"
    definitions: Literal["judge", "trust"] = "judge"
    scope: Literal["all", "each", "latest_turn"] = "all"
    history: Literal["block", "redact", "drop"] = "block"
    escalation: Escalation | None = None
    generation: int = 0
    policy_set: str = ""
    audit: Audit = Audit()
    normalize: ReadingLimits | None = ReadingLimits()

    def checks(self, stage: Stage) -> tuple[Check, ...]:
        """The checks of one stage."""
        return self.input if stage is Stage.INPUT else self.output


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one policy says of one part: a score or an error, never both, never neither.

    Raises ValueError when that does not hold. `criterion` and `span` explain the score where the classifier can; `flags` and
    `provenance` are the score's. `reading` names what was undone to read the part so, in order; it is empty for the part as it stands,
    and `span` is one of that in any case. The flag `readings_truncated` says that limits left some reading of it unread.
    """

    policy_id: str
    policy_version: str
    policy_digest: str
    threshold: float
    part: str
    classifier: str
    score: float | None = None
    error: str | None = None
    span: Span | None = None
    criterion: str | None = None
    choice: int | None = None
    action: Action = Action.BLOCK
    mode: Mode = Mode.ENFORCE
    flags: tuple[str, ...] = ()
    provenance: Provenance | None = None
    reading: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.score is None) == (self.error is None):
            raise ValueError(f"verdict of {self.policy_id} on {self.part}: exactly one of score and error must be set")

    @property
    def violation(self) -> bool:
        """True when the score reaches the threshold. An error is not a violation; `decide` treats it by `on_error`."""
        return self.score is not None and self.score >= self.threshold


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `decide` made of the verdicts of one stage.

    `action` is what is enforced, `shadow` what shadow checks would have done on top. `choices` holds the enforced action for
    each choice of an answer. `unjudged`: something was not judged (error or unscannable), whatever was done about it;
    `unavailable`: the action is BLOCK only because something could not be judged, not because anything violated a policy.
    """

    action: Action
    shadow: Action
    choices: Mapping[int, Action]
    unjudged: bool
    unavailable: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """All verdicts of one stage folded into one outcome, with what is needed to find and replay it.

    `history` names the earlier turns that were taken out of the request, or replaced in it, because of what they hold (`drop messages[2]`):
    the verdicts on them stand among the others, and the outcome is that of the request as it went on.
    """

    id: str
    stage: Stage
    outcome: Outcome
    verdicts: tuple[Verdict, ...]
    unscannable: tuple[str, ...]
    route: str
    tenant: str
    generation: int
    duration_s: float
    history: tuple[str, ...] = ()
    policy_set: str = ""

    @property
    def action(self) -> Action:
        """The enforced action."""
        return self.outcome.action

    @property
    def violations(self) -> tuple[Verdict, ...]:
        """Verdicts over their thresholds, strongest score first."""
        found = [verdict for verdict in self.verdicts if verdict.violation]
        return tuple(sorted(found, key=lambda verdict: -(verdict.score or 0.0)))
