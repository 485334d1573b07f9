"""The seam between the engine and the tensors: a runner computes one plan; `execute` keeps the spans' books around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from guardrail.engine.cope.kv import KVPool
from guardrail.engine.cope.messages import Read as Read
from guardrail.engine.cope.rows import Plan, Row, plan


@dataclass(frozen=True, slots=True)
class Computed:
    """What a pass gave, in packed order.

    `logits` [reads, 2] fp32: final logits of "0" and "1", soft-capped where the model is. `log_total` [reads] fp32: logsumexp over the
    whole vocabulary, from which the mass outside {0, 1} follows. `probe` [T] fp32: the stream probe at every token, or None without one.
    `bucket`: tokens the pass was padded to (its true number where nothing is padded); two runs in one bucket are bit-equal.
    """

    logits: NDArray[np.float32]
    log_total: NDArray[np.float32]
    probe: NDArray[np.float32] | None
    bucket: int


class Runner(Protocol):
    """One way to compute a plan. Not thread-safe; the engine's thread owns it."""

    @property
    def name(self) -> str:
        """`reference`, `cpu`, `cuda` and the like."""
        ...

    @property
    def pool(self) -> KVPool:
        """Where it reads and writes keys and values."""
        ...

    @property
    def most_tokens(self) -> int:
        """New tokens that fit one pass."""
        ...

    def forward(self, planned: Plan) -> Computed:
        """Run the pass and write kept keys and values to their (already reserved) slots. Changes no span's books."""
        ...


def execute(runner: Runner, rows: Sequence[Row]) -> list[Read | None]:
    """Run rows as one pass and count what stays; one entry a row, in order, None where nothing is read.

    All pages are reserved before anything is computed. Raises OutOfPages, or whatever the runner raised; then every span is as it was.
    """
    done = False
    try:
        for row in rows:
            if row.into is not None and row.keep:
                row.into.reserve(row.into.length + row.keep)
        planned = plan(rows)
        computed = runner.forward(planned)
        done = True
    finally:
        if not done:
            _give_back(rows)
    for row in rows:
        if row.into is not None and row.keep:
            row.into.append(row.tokens[: row.keep])
    return _reads(planned, computed)


def _give_back(rows: Sequence[Row]) -> None:
    for row in rows:
        if row.into is not None:
            row.into.truncate(row.into.length)


def _reads(planned: Plan, computed: Computed) -> list[Read | None]:
    found: list[Read | None] = [None] * len(planned.rows)
    for place, number in enumerate(planned.read_rows):
        row, start = planned.rows[number], int(planned.starts[number])
        probe: tuple[float, ...] = ()
        if row.probe and computed.probe is not None:
            probe = tuple(float(value) for value in computed.probe[start : start + row.keep])
        zero, one = (float(value) for value in computed.logits[place])
        found[planned.order[number]] = Read(zero, one, float(computed.log_total[place]), computed.bucket, probe)
    return found
