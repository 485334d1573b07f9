"""The stream probe: a logistic regression on final hidden states that warns of a growing answer token by token.

Its four files are numpy arrays as scikit-learn leaves them: `coef.npy` and `scaler_mean.npy`, `scaler_scale.npy` of one number for each
hidden dimension, `intercept.npy` of one. p = sigmoid(coef . (h - mean) / scale + intercept).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from guardrail.errors import ModelFileError


@dataclass(frozen=True, slots=True, eq=False)
class ProbeWeights:
    """p = sigmoid(weight . h + bias): the scaler is folded into `weight` [N] fp32 and `bias`."""

    weight: NDArray[np.float32]
    bias: float

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read a probe's folder without pickle. Raises ModelFileError for a file that is missing, of another shape or not finite."""
        place = Path(folder)
        coef, intercept, mean, scale = (_read(place / f"{name}.npy") for name in ("coef", "intercept", "scaler_mean", "scaler_scale"))
        if intercept.size != 1 or coef.size == 0 or not coef.size == mean.size == scale.size:
            sizes = f"{coef.size}, {intercept.size}, {mean.size} and {scale.size}"
            raise ModelFileError(f"{place}: coef, intercept, scaler_mean and scaler_scale hold {sizes} numbers; expected N, 1, N and N")
        if (scale == 0).any():
            raise ModelFileError(f"{place / 'scaler_scale.npy'}: a scale of 0 divides by nothing; export the probe again")
        weight = coef / scale
        return cls(weight.astype(np.float32), float(intercept[0] - weight @ mean))


class ProbeAlarm:
    """A moving average over one answer's probe scores: `average = (1 - decay) * average + decay * score`, from 0.

    The probe's card gives "EMA, decay about 0.3" and not which side it weighs; here it is the weight of the newest score, the reading
    that smooths more (one stray token at 1 leaves an average of 0.3). A score that is not a number rings: it must not pass as calm.
    """

    def __init__(self, decay: float = 0.3, threshold: float = 0.5) -> None:
        if not (0 < decay <= 1 and 0 < threshold < 1):
            raise ValueError(f"a probe alarm needs 0 < decay <= 1 and 0 < threshold < 1, not {decay} and {threshold}")
        self._decay = decay
        self._threshold = threshold
        self.average = 0.0

    def feed(self, scores: tuple[float, ...]) -> bool:
        """Count the newest tokens' scores, oldest first; True where the average reached the threshold at any of them."""
        rang = False
        for score in scores:
            self.average += self._decay * (score - self.average)
            rang |= not self.average < self._threshold
        return rang


def _read(path: Path) -> NDArray[np.float64]:
    try:
        with path.open("rb") as file:
            values = npy.read_array(file, allow_pickle=False)  # type: ignore[no-untyped-call]
        flat = np.asarray(values, np.float64).reshape(-1)
    except (OSError, ValueError, TypeError) as error:
        raise ModelFileError(f"{path}: not a readable numpy array ({error}); a probe's folder holds four of them") from error
    if not np.isfinite(flat).all():
        raise ModelFileError(f"{path}: holds a number that is not finite; export the probe again")
    return flat
