"""How a CoPE model's answers are read, and how often a growing text is judged."""

from collections.abc import Callable
from dataclasses import dataclass, field

from guardrail.cadence import Cadence
from guardrail.engine.cope.answer import MOST_OUTSIDE
from guardrail.types import Policy

Calibration = Callable[[Policy, float], float]


@dataclass(frozen=True, slots=True)
class CopeOptions:
    """How answers are read. `calibration` maps a policy and the model's probability to the score; None: as it is."""

    most_outside: float = MOST_OUTSIDE
    calibration: Calibration | None = None
    cadence: Cadence = field(default_factory=Cadence)
    probe_threshold: float | None = None
