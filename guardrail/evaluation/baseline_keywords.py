"""A floor for every table: a text is as suspicious as it holds words of what a policy includes. Needs no weights and no training."""

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from guardrail.errors import ClassifierError
from guardrail.types import ClassifyRequest, Policy, Score, Span

HALF = 2  # so many different words of a policy make a score of .5
SHORTEST = 3  # letters of a word that counts
_WORD = re.compile(r"[^\W\d_]+")
_ENDINGS = ("ingly", "ing", "edly", "ed", "ies", "es", "ly", "s", "y", "e")
# What policies say of everything: function words, and how criteria are introduced.
_SAID_OF_ALL = frozenset(
    """
    about above across after again against all also although among and another any anybody anyone anything are around aside asks been
    before being below between both but can cannot content contain contains could definition describe describes did does doing done down
    during each either else etc even ever every everybody everyone everything example examples excludes few for from further given gives
    had has have having her here hers him his how however include includes including into its itself just label like made make makes many
    may message might more most much must naming neither nobody none nor not nothing off one ones only other others otherwise our ours out
    over own part people person policy same say says she should some somebody someone something still such text texts than that the their
    theirs them themselves then there these they thing things this those though through too under unless until upon use used uses using
    very was well were what when where whether which while who whole whom whose why will with within without would you your yours
    """.split()  # noqa: SIM905  (two hundred quoted words are harder to read)
)

Answer = Score | ClassifierError


@dataclass(frozen=True, slots=True)
class _Known:
    """A policy's words, as stems, each with the name of the criterion that has it first."""

    words: Mapping[str, str]


class KeywordClassifier:
    """n different words of a policy in a text score n / (n + 2); none scores 0. Words are compared by a crude stem, case aside.

    `words` gives a list for a policy, by its id. Any other policy is searched for its own: the names and texts of what it includes,
    without common words. What it excludes is not read: a list cannot.
    """

    def __init__(self, words: Mapping[str, Sequence[str]] | None = None) -> None:
        self._given = {policy: tuple(listed) for policy, listed in (words or {}).items()}
        self._known: dict[tuple[str, str], _Known] = {}
        spelled = json.dumps([HALF, SHORTEST, _ENDINGS, sorted(_SAID_OF_ALL), self._given], sort_keys=True)
        self._id = f"keywords@sha256:{hashlib.sha256(spelled.encode()).hexdigest()[:16]}"

    @property
    def id(self) -> str:
        """Name and digest of the rules and the given lists."""
        return self._id

    async def prepare(self, policies: Sequence[Policy]) -> None:
        """Find the policies' words."""
        self._known |= {policy.key: _Known(MappingProxyType(self._words(policy))) for policy in policies}

    async def classify(self, requests: Sequence[ClassifyRequest], *, deadline: float) -> list[Answer]:
        """Scores in order; see `Classifier`. `span` is the first word that was found, `criterion` what it stands for."""
        return [self._answer(request, deadline) for request in requests]

    async def aclose(self) -> None:
        """There is nothing to free."""

    def _words(self, policy: Policy) -> dict[str, str]:
        if policy.id in self._given:
            return {_stem(word.lower()): word for word in self._given[policy.id]}
        found: dict[str, str] = {}
        for criterion in (criterion for label in policy.labels for criterion in label.includes):
            for word in _WORD.findall(f"{criterion.name} {criterion.text}".lower()):
                if len(word) >= SHORTEST and word not in _SAID_OF_ALL:
                    found.setdefault(_stem(word), criterion.name)
        return found

    def _answer(self, request: ClassifyRequest, deadline: float) -> Answer:
        known = self._known.get(request.policy.key)
        if known is None:
            return ClassifierError("not_prepared", f"policy {request.policy.id} {request.policy.version} was not prepared")
        if time.monotonic() >= deadline:
            return ClassifierError("timeout", "the deadline passed before the text was searched")
        found: dict[str, Span] = {}
        for word in _WORD.finditer(request.text):
            stem = _stem(word[0].lower())
            if stem in known.words:
                found.setdefault(stem, Span(word.start(), word.end()))
        if not found:
            return Score(0.0, self._id)
        first, span = next(iter(found.items()))
        return Score(len(found) / (len(found) + HALF), self._id, span=span, criterion=known.words[first] or None)


def open_keywords(options: Mapping[str, Mapping[str, Sequence[str]]]) -> KeywordClassifier:
    """For a configuration's `kind: custom`; `options` may hold `words`: lists by policy id."""
    return KeywordClassifier(options.get("words"))


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= SHORTEST:
            return word[: -len(ending)]
    return word
