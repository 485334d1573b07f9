"""A decision in the few low-cardinality words that spans, metrics and log lines share, so that they cannot disagree."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Final

from guardrail.telemetry import names
from guardrail.types import Action, Decision, Mode, Outcome, Verdict

_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Words:
    """`decision` is what the policies said (`unjudged` where nothing but a failure decided), `enforced` what was done about it,
    `mode` is `shadow` where the decision was stronger than what was done."""

    decision: str
    enforced: str
    mode: Mode


def words(outcome: Outcome) -> Words:
    """Put an outcome into words. A technical failure is never worded as a block or a pass by policy."""
    return _words(outcome.action, outcome.shadow, outcome.unjudged, outcome.unavailable)


@cache
def _words(action: Action, shadow: Action, unjudged: bool, unavailable: bool) -> Words:
    strongest = max(action, shadow)
    if unavailable or (unjudged and strongest is Action.PASS):
        return Words(names.UNJUDGED_WORD, action.word, Mode.ENFORCE)
    return Words(strongest.word, action.word, Mode.SHADOW if strongest > action else Mode.ENFORCE)


def findings(decision: Decision, *, everything: bool = False) -> tuple[Verdict, ...]:
    """One verdict for each policy, and each version on trial, that fired (its highest score), one for each that erred (its first error).

    A policy that did both appears twice. `everything` adds the policies that did neither, with their highest score.
    """
    judged, failed = told_apart(decision)
    fired = [verdict for verdict in judged if everything or verdict.violation]
    return tuple(sorted(fired, key=_rank, reverse=True)) + tuple(failed)


def told_apart(decision: Decision) -> tuple[list[Verdict], list[Verdict]]:
    """Of each policy, and each version on trial, the verdict with its highest score, and that with its first error, in no order."""
    strongest: dict[tuple[object, ...], Verdict] = {}
    failed: dict[tuple[object, ...], Verdict] = {}
    for verdict in decision.verdicts:
        # A version on trial must not hide the one that it is tried beside, which may be in shadow too.
        key = verdict.policy_id, verdict.policy_version, verdict.policy_digest, verdict.threshold, verdict.mode
        if verdict.score is None:
            failed.setdefault(key, verdict)
        elif (best := strongest.get(key)) is None or _rank(verdict) > _rank(best):
            strongest[key] = verdict
    return list(strongest.values()), list(failed.values())


def error_code(error: str | None) -> str:
    """A low-cardinality code. Anything that does not look like one is `other`: a message could quote what was judged."""
    return error if error is not None and _CODE.fullmatch(error) else names.OTHER


def reading_word(verdict: Verdict) -> str | None:
    """What was undone to read the judged text so, in order, in one word; None for the text as it stands."""
    return "+".join(verdict.reading) or None


def short(text: str, limit: int = 128) -> str:
    """An identifier on one printable line of at most `limit` characters."""
    cut = text[:limit]
    if cut.isprintable():  # nearly always
        return cut
    return "".join(character if character.isprintable() else "?" for character in cut)


def _rank(verdict: Verdict) -> tuple[bool, float]:
    return verdict.violation, verdict.score or 0.0
