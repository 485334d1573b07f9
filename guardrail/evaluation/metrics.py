"""Binary metrics over scores and the flags that thresholds make of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from guardrail.ranking import curve


@dataclass(frozen=True, slots=True)
class Quality:
    """How scores sort and a threshold cuts. `auc` and `auprc` are None where only one label occurs."""

    rows: int
    positives: int
    auc: float | None
    auprc: float | None
    precision: float
    recall: float
    f1: float
    flagged: float

    @property
    def false_positive_rate(self) -> float:
        """Share of the negatives that were flagged."""
        negatives = self.rows - self.positives
        return (self.flagged * self.rows - self.recall * self.positives) / negatives if negatives else 0.0


def quality(scores: Sequence[float], labels: Sequence[int], flags: Sequence[bool]) -> Quality:
    """Measure scores and the flags that thresholds made of them against 0/1 labels, all of one length."""
    truth, flag = np.asarray(labels), np.asarray(flags)
    ranked = curve(scores, labels)
    hits = int((flag & (truth == 1)).sum())
    precision = hits / int(flag.sum()) if flag.any() else 0.0
    recall = hits / int(truth.sum()) if truth.any() else 0.0
    return Quality(
        rows=len(truth),
        positives=int(truth.sum()),
        auc=ranked.auc(),
        auprc=ranked.average_precision(),
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if hits else 0.0,
        flagged=float(flag.mean()),
    )
