"""What a model's last logits say: a probability, or an error. Never a guess."""

import math

from guardrail.engine.cope.runner import Read
from guardrail.errors import ClassifierError

MOST_OUTSIDE = 0.5
"""Beyond it the model would sooner have said something else, and the ratio of its two digits means little."""


def probability(read: Read, *, most_outside: float = MOST_OUTSIDE) -> float:
    """p("1") / (p("0") + p("1")), in [0, 1].

    Raises ClassifierError: not_a_number where a logit is, malformed where more than `most_outside` of the probability lies on
    other tokens than the two digits.
    """
    if not (math.isfinite(read.zero) and math.isfinite(read.one) and math.isfinite(read.log_total)):
        raise ClassifierError("not_a_number", f"the model's logits are 0: {read.zero}, 1: {read.one}, total: {read.log_total}")
    rest = outside(read)
    if rest > most_outside:
        raise ClassifierError("malformed", f"the model gave {rest:.0%} to answers that are neither 0 nor 1; {most_outside:.0%} is allowed")
    return share(read)


def share(read: Read) -> float:
    """p("1") / (p("0") + p("1")), whatever else the model might have said; NaN where a logit is. To compare runners, not to judge."""
    gap = read.one - read.zero
    return 1.0 / (1.0 + math.exp(-gap)) if gap >= 0 else math.exp(gap) / (1.0 + math.exp(gap))


def outside(read: Read) -> float:
    """Probability mass on tokens other than the two digits, in [0, 1]."""
    high, low = max(read.zero, read.one), min(read.zero, read.one)
    both = high + math.log1p(math.exp(low - high))
    return min(1.0, max(0.0, -math.expm1(both - read.log_total)))
