"""What the engine's bench judges: random token ids of given lengths, and the answers that are compared."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ZERO, ONE = 10, 11  # the ids that stand for the two answers
FIRST_ID = 16  # below are special tokens, the answers and the header's
CONTENTS = 32
POLICIES = 4

Ids = NDArray[np.int32]
Answers = Mapping[tuple[int, int], float]  # (policy, content) -> probability of a violation


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens: of a policy, of a content, and of the answer header behind each content."""

    policy: int = 1500
    content: int = 100
    header: int = 5

    @property
    def row(self) -> int:
        """New tokens of one request whose policy is resident."""
        return self.content + self.header

    @property
    def whole(self) -> int:
        """Tokens of the full prompt."""
        return self.policy + self.row


@dataclass(frozen=True, slots=True)
class Work:
    """`policies` differ from their first token on; `rows` are contents with the header behind them."""

    lengths: Lengths
    policies: tuple[Ids, ...]
    rows: tuple[Ids, ...]

    def prompt(self, policy: int, content: int) -> Ids:
        """The whole prompt that a request without resident policies runs."""
        return np.concatenate([self.policies[policy], self.rows[content]])


def work(vocabulary: int, lengths: Lengths, *, seed: int = 0) -> Work:
    """Four policies and 32 contents, the same for the same seed."""
    ids = random.Random(seed)  # noqa: S311  (work to measure with, not a secret)
    return Work(
        lengths,
        tuple(tokens(ids, vocabulary, lengths.policy) for _ in range(POLICIES)),
        tuple(np.concatenate([tokens(ids, vocabulary, lengths.content), header(lengths.header)]) for _ in range(CONTENTS)),
    )


def tokens(ids: random.Random, vocabulary: int, count: int) -> Ids:
    """`count` random ids."""
    return np.array([ids.randrange(FIRST_ID, vocabulary) for _ in range(count)], np.int32)


def header(count: int) -> Ids:
    """An answer header of `count` tokens, always the same one."""
    return np.array([3 + place % 6 for place in range(count)], np.int32)
