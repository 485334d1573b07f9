"""Texts of like length for one step, so that little of it is padding."""

import random
from collections.abc import Sequence

from guardrail.training.rows import TrainingRow

TOKENS_A_STEP = 2400  # padded text tokens of a step
TEXT_TOKENS = 128  # a longer training text is cut at a random place; at judging time it is windowed
LEAST = 16  # texts of a step, however long


def neighbours(drawn: Sequence[TrainingRow], texts: int, random_: random.Random, *, tokens: float = TOKENS_A_STEP) -> list[TrainingRow]:
    """At most `texts` of the drawn rows: sorted by length, from a random place on, until `tokens` are full."""
    ordered = sorted(drawn, key=lambda row: min(len(row.text), 4 * TEXT_TOKENS))
    first = random_.randrange(len(ordered))
    chosen: list[TrainingRow] = []
    longest = 0
    for row in ordered[first:] + ordered[:first][::-1]:
        longest = max(longest, min(len(row.text) // 4, TEXT_TOKENS) + 2)
        if len(chosen) == texts or (len(chosen) >= LEAST and longest * (len(chosen) + 1) > tokens):
            break
        chosen.append(row)
    return chosen
