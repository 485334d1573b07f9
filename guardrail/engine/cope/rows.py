"""The engine's one unit of work, and the plan that lays any mix of them out for one forward pass.

A row is: spans that are resident already, new tokens behind them, how many of the new ones stay resident, and where the answer is read.
Policy prefill has no chain, keeps all and reads nothing. A one-shot check has the policy as its chain, keeps nothing and reads its last
token. A stream's step has policy and stream as its chain, keeps the content and not the question behind it, and reads its last token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guardrail.engine.cope.kv import KVSpan


@dataclass(frozen=True, slots=True)
class Row:
    """`tokens` [n] int32 stand behind the spans of `chain`, in order; the first `keep` of them are appended to `into`.

    `read`: the two answer logits are read at the last token. `probe`: the stream probe scores each kept token.
    `into` is the last span of the chain, or a new one that is still empty and starts where the chain ends.
    """

    tokens: NDArray[np.int32]
    chain: tuple[KVSpan, ...] = ()
    into: KVSpan | None = None
    keep: int = 0
    read: bool = True
    probe: bool = False

    @property
    def start(self) -> int:
        """Position of its first new token in its sequence."""
        return sum(span.length for span in self.chain)


@dataclass(frozen=True, slots=True)
class Group:
    """Packed tokens [start, stop) of rows [first, last) that share the first span of their chains (None: they have no chain)."""

    start: int
    stop: int
    first: int
    last: int
    span: KVSpan | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows laid side by side, those with the same policy next to one another.

    `order[i]` is the caller's place of packed row i; `starts` [rows + 1] the packed places of their first tokens; `ids`, `positions` and
    `row_of` [T] describe each packed token; `reads` are the packed places where answers are read, `read_rows` their packed rows.
    """

    rows: tuple[Row, ...]
    order: tuple[int, ...]
    starts: NDArray[np.int64]
    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    row_of: NDArray[np.int32]
    groups: tuple[Group, ...]
    reads: NDArray[np.int64]
    read_rows: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """How many tokens the pass runs."""
        return len(self.ids)


def plan(rows: Sequence[Row]) -> Plan:
    """Lay rows out. Raises ValueError for none at all, or for a row without tokens."""
    if not rows or any(len(row.tokens) == 0 for row in rows):
        raise ValueError("a pass needs rows, and each row at least one token")
    order = sorted(range(len(rows)), key=lambda place: (id(rows[place].chain[0]) if rows[place].chain else 0, place))
    packed = tuple(rows[place] for place in order)
    lengths = np.array([len(row.tokens) for row in packed], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    read_rows = tuple(number for number, row in enumerate(packed) if row.read)
    return Plan(
        rows=packed,
        order=tuple(order),
        starts=starts,
        ids=np.concatenate([row.tokens for row in packed]).astype(np.int64),
        positions=np.concatenate([np.arange(row.start, row.start + len(row.tokens)) for row in packed]),
        row_of=np.repeat(np.arange(len(packed), dtype=np.int32), lengths),
        groups=_groups(packed, starts),
        reads=starts[1:][list(read_rows)] - 1,
        read_rows=read_rows,
    )


def _groups(rows: Sequence[Row], starts: NDArray[np.int64]) -> tuple[Group, ...]:
    groups: list[Group] = []
    first = 0
    for number in range(1, len(rows) + 1):
        head = rows[first].chain[0] if rows[first].chain else None
        if number < len(rows) and head is not None and rows[number].chain and rows[number].chain[0] is head:
            continue
        groups.append(Group(int(starts[first]), int(starts[number]), first, number, head))
        first = number
    return tuple(groups)
