"""What the embedded reader reads of a policy: a short list of statements, each small enough to be kept as one vector."""

import re
from dataclasses import dataclass

from guardrail.engine.embedded.model import EXCLUDE, INCLUDE, LABEL, TERM
from guardrail.types import Criterion, Policy

MAX_STATEMENTS = 48
_MARKUP = re.compile(r"\*\*|__|`")
_SPACE = re.compile(r"\s+")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+")
_LONG = 420  # characters, about 96 tokens: a longer criterion becomes several statements of its kind


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing a policy says. `kind` is LABEL, INCLUDE, EXCLUDE or TERM; `name` is the criterion's name."""

    kind: int
    text: str
    name: str = ""


def statements_of(policy: Policy) -> tuple[Statement, ...]:
    """The policy as statements, the label statement first, at most MAX_STATEMENTS of them.

    Read are: label names with the overview (in pieces where it is long), every Includes and Excludes (inline exceptions too), every
    defined term. Not read by this model: the section on interpreting language. When there are too many, terms go first, then the last
    criteria.
    """
    title = heading(policy)
    # The first piece's vector gives the answer; the rest of a long overview stands beside it.
    found = [Statement(LABEL, piece, title) for piece in _pieces(_plain(f"{title}. {policy.overview}"))]
    for label in policy.labels:
        found += _criteria(INCLUDE, label.includes)
        inline = [(c.name, piece) for c in label.includes if c.excludes for piece in _pieces(_plain(f"{c.name}: {c.excludes}"))]
        found += [Statement(EXCLUDE, piece, name) for name, piece in inline]
        found += _criteria(EXCLUDE, label.excludes)
    found += _criteria(TERM, policy.terms)
    return tuple(found[:MAX_STATEMENTS])


def heading(policy: Policy) -> str:
    """What the policy is about in a few words. The rest of its statements is of its text alone."""
    return " or ".join(label.name for label in policy.labels) or policy.title


def _criteria(kind: int, criteria: tuple[Criterion, ...]) -> list[Statement]:
    return [
        Statement(kind, piece, criterion.name)
        for criterion in criteria
        for piece in _pieces(_plain(f"{criterion.name}: {criterion.text}" if criterion.name else criterion.text))
    ]


def _plain(text: str) -> str:
    return _SPACE.sub(" ", _MARKUP.sub("", text)).strip()


def _pieces(text: str) -> list[str]:
    """Cut at sentence ends so that no piece is longer than a statement may be (a single longer sentence stays whole)."""
    pieces: list[str] = []
    for sentence in _SENTENCE.split(text):
        if pieces and len(pieces[-1]) + len(sentence) < _LONG:
            pieces[-1] += " " + sentence
        else:
            pieces.append(sentence)
    return pieces
