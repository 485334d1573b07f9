"""guardrail: a guard in front of chat LLM APIs that judges prompts and answers against written policies."""

from guardrail.errors import ClassifierError, ConfigError, GuardrailError, PolicyError
from guardrail.types import (
    Action,
    Check,
    ClassifyRequest,
    Decision,
    Mode,
    Part,
    Policy,
    Route,
    Score,
    Stage,
    Verdict,
)

__version__ = "0.1.0"

__all__ = [
    "Action",
    "Check",
    "ClassifierError",
    "ClassifyRequest",
    "ConfigError",
    "Decision",
    "GuardrailError",
    "Mode",
    "Part",
    "Policy",
    "PolicyError",
    "Route",
    "Score",
    "Stage",
    "Verdict",
    "__version__",
]
