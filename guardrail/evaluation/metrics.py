"""Binary metrics over scores. Ranks through scikit-learn, which the `train` extra brings and only measuring imports."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
    from sklearn.metrics import average_precision_score, roc_auc_score  # noqa: PLC0415  (of the `train` extra alone)

    truth, flag = np.asarray(labels), np.asarray(flags)
    both = 0 < truth.sum() < len(truth)
    hits = int((flag & (truth == 1)).sum())
    precision = hits / int(flag.sum()) if flag.any() else 0.0
    recall = hits / int(truth.sum()) if truth.any() else 0.0
    return Quality(
        rows=len(truth),
        positives=int(truth.sum()),
        auc=float(roc_auc_score(truth, scores)) if both else None,
        auprc=float(average_precision_score(truth, scores)) if both else None,
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if hits else 0.0,
        flagged=float(flag.mean()),
    )
