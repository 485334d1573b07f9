"""How a CoPE model's answers are read, and how often a growing text is judged."""

from dataclasses import dataclass, field

from guardrail.cadence import Cadence
from guardrail.calibration import Calibration
from guardrail.engine.cope.answer import MOST_OUTSIDE


@dataclass(frozen=True, slots=True)
class CopeOptions:
    """How answers are read. `calibration` makes the score of the model's probability; None: it is the score."""

    most_outside: float = MOST_OUTSIDE
    calibration: Calibration | None = None
    cadence: Cadence = field(default_factory=Cadence)
    probe_threshold: float | None = None
