"""What the TF-IDF baseline learns from when it must not learn from the benchmark: rows that the shipped weights may learn from."""

import hashlib
from pathlib import Path

from guardrail.evaluation.baseline_tfidf import Example
from guardrail.training.rows import AREAS, TrainingRow, load_rows
from guardrail.units import held_out

MOST = 3000  # rows of one label under one policy: seconds, where all rows take minutes


def training_examples(data: Path, *, most: int = MOST) -> list[Example]:
    """Rows of the training sets and our own text whose units are not held out: `most` of each label under each shipped policy.

    Drawn by a hash of the text. Raises FileNotFoundError without the sets.
    """
    order = sorted((row for row in load_rows(data) if not held_out(row.unit)), key=_drawn)
    found: list[Example] = []
    for area in AREAS:
        for label in (0, 1):
            rows = [row for row in order if row.known.get(area, (None, 0.0))[0] == label]
            found += [Example(row.text, label, row.unit, area) for row in rows[:most]]
    return found


def _drawn(row: TrainingRow) -> bytes:
    return hashlib.sha256(row.text.encode("utf-8", "surrogatepass")).digest()
