"""How well a judge answers examples that it has not learnt."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from guardrail.ranking import curve
from guardrail.training.causal_data import Example

_NEAREST = 1e-7  # how near to 0 and 1 a score is told from them


def measures(found: Sequence[Example], scores: Sequence[float], outside: Sequence[float] = ()) -> dict[str, float]:
    """`accuracy`, `f1` of label 1 at one half, `auc` (ties half; only where both labels occur), `log_loss` in nats an example.

    `opposed`: of the contents that are 1 under one policy and 0 under another, the share whose every answer is right; only where there
    are such. `outside`: mean probability on tokens that are no answer. Empty without examples.
    """
    if not found:
        return {}
    labels, values = np.array([example.label for example in found]), np.asarray(scores, np.float64)
    flags = values >= 0.5
    hits = int((flags & (labels == 1)).sum())
    inside = np.clip(values, _NEAREST, 1 - _NEAREST)
    told = {
        "examples": float(len(found)),
        "positives": float(labels.sum()),
        "accuracy": float((flags == labels).mean()),
        "f1": 2 * hits / max(1, int(flags.sum() + labels.sum())),
        "log_loss": float(-np.log(np.where(labels == 1, inside, 1 - inside)).mean()),
    }
    if (area := curve(values, labels).auc()) is not None:
        told["auc"] = area
    right: dict[str, list[bool]] = defaultdict(list)
    asked: dict[str, set[int]] = defaultdict(set)
    for example, flag in zip(found, flags.tolist(), strict=True):
        right[example.content].append(flag == bool(example.label))
        asked[example.content].add(example.label)
    if opposed := [all(right[content]) for content, both in asked.items() if len(both) == 2]:
        told["opposed"] = float(np.mean(opposed))
    if len(outside):
        told["outside"] = float(np.mean(outside))
    return told
