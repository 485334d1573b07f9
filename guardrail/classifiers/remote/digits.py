"""What the probabilities of a next token say of "0" and "1": a score, a score within a stated bound, or an error. Never a guess.

A server shows the k likeliest tokens. When both digits are among them the score is p1 / (p0 + p1). When one is missing it is at most as
likely as the k-th: the score then is the bound that this gives, provided that the bound leaves no more than `slack` of doubt. A digit
that is missing is never taken for impossible.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from guardrail.errors import ClassifierError

BOUNDED = "digit_bounded"
"""The flag of a score that rests on a bound."""

_ROUNDING = 0.01  # by which probabilities of lower precision may add up to more than one
_NO_DOUBT = 1e-6

Digit = Literal["0", "1"]


@dataclass(frozen=True, slots=True)
class Shown:
    """The tokens a server showed: (which digit it spells or None, its log probability) each.

    `merged`: tokens that read alike may have been put under one name with only one of their probabilities, so a digit may be likelier
    than it seems, by as much as all that is not shown.
    """

    tokens: Sequence[tuple[Digit | None, float]]
    merged: bool = False


@dataclass(frozen=True, slots=True)
class Strictness:
    """`most_outside`: most probability that may lie on tokens other than the digits; `slack`: most doubt that a bound may leave."""

    most_outside: float = 0.5
    slack: float = 0.01


@dataclass(frozen=True, slots=True)
class Answered:
    """The probability of "1" against "0", what neither of them got, and whether it rests on a bound."""

    value: float
    outside: float
    bounded: bool = False


def spelled(token: str) -> Digit | None:
    """The digit that a token's text is, spaces and SentencePiece's mark for one aside."""
    match token.strip(" ▁"):
        case "0":
            return "0"
        case "1":
            return "1"
        case _:
            return None


def read(shown: Shown, strictness: Strictness) -> Answered:
    """The answer in what was shown.

    Raises ClassifierError: not_a_number for NaN; malformed for what are no log probabilities, for an answer that is neither digit, for
    too much probability outside of them and for a bound that leaves too much doubt.
    """
    weights = [(digit, _weight(logprob)) for digit, logprob in shown.tokens]
    seen = math.fsum(weight for _, weight in weights)
    if seen > 1 + _ROUNDING:
        raise ClassifierError("malformed", f"the tokens' probabilities add up to {seen:.3g}: these are no log probabilities")
    zero, one = _sum(weights, "0"), _sum(weights, "1")
    if zero is None and one is None:
        raise ClassifierError("malformed", "neither 0 nor 1 is among the likeliest tokens: the model did not answer the question")
    if zero == 0 or one == 0:
        raise ClassifierError("malformed", "a digit has no probability at all: the server shows what it chose, not how likely it was")
    least = min(weight for _, weight in weights)
    if zero is not None and one is not None:
        hidden = max(0.0, 1 - seen) if shown.merged else 0.0
        answered = answer(zero, one, strictness)
        low, high = one / (one + zero + hidden), (one + hidden) / (one + hidden + zero)
        return _within(Answered(answered.value, answered.outside, bounded=high - low > _NO_DOUBT), low, high, strictness)
    if least == 0:
        raise ClassifierError("malformed", "a digit is missing and the least likely token shown has no probability, so nothing bounds it")
    if one is not None:
        answered = answer(0.0, one, strictness)
        return _within(Answered(one / (one + least), answered.outside, bounded=True), one / (one + least), 1.0, strictness)
    assert zero is not None
    answered = answer(zero, 0.0, strictness)
    return _within(Answered(least / (least + zero), answered.outside, bounded=True), 0.0, least / (least + zero), strictness)


def answer(zero: float, one: float, strictness: Strictness) -> Answered:
    """The answer of two probabilities over the whole vocabulary. Raises ClassifierError as `read` does."""
    if math.isnan(zero) or math.isnan(one):
        raise ClassifierError("not_a_number", "the digits' probabilities are not numbers")
    if not (zero >= 0 and one >= 0 and 0 < zero + one <= 1 + _ROUNDING):
        raise ClassifierError("malformed", f"0 has probability {zero:.3g} and 1 has {one:.3g}, which cannot be")
    outside = max(0.0, 1 - (zero + one))
    if outside > strictness.most_outside:
        allowed = f"{strictness.most_outside:.0%} is allowed"
        raise ClassifierError("malformed", f"the model gave {outside:.0%} to answers that are neither 0 nor 1; {allowed}")
    return Answered(one / (zero + one), outside)


def _within(answered: Answered, low: float, high: float, strictness: Strictness) -> Answered:
    if high - low > strictness.slack:
        said = f"the score lies between {low:.3g} and {high:.3g}, which is too wide: a digit is missing, or tokens that read alike hide it"
        raise ClassifierError("malformed", f"{said}; ask for more logprobs, or name the model's tokenizer")
    return answered


def _weight(logprob: float) -> float:
    if math.isnan(logprob):
        raise ClassifierError("not_a_number", "a token's log probability is not a number")
    if logprob > _ROUNDING:
        raise ClassifierError("malformed", f"a token's log probability is {logprob:.3g}, above zero")
    return math.exp(min(logprob, 0.0))


def _sum(weights: Iterable[tuple[Digit | None, float]], digit: Digit) -> float | None:
    """All tokens that spell the digit, None where there is none."""
    found = [weight for spelling, weight in weights if spelling == digit]
    return math.fsum(found) if found else None
