"""The `breakers` section: when a classifier or an upstream that fails is left alone for a while."""

from pydantic import Field

from guardrail.config.fields import Section


class BreakerConfig(Section):
    """When what fails is left alone, and for how long."""

    failures: int = Field(default=20, ge=1, le=10_000, description="Failures in a row, without a success between them, that open it.")
    window_s: float = Field(default=10.0, gt=0, le=3_600, description="Seconds within which they must fall.")
    open_s: float = Field(default=5.0, gt=0, le=3_600, description="Seconds that nothing is asked; then one call tries.")


class BreakersConfig(Section):
    """Circuit breakers; each classifier and each upstream has its own. `null` for none."""

    classifiers: BreakerConfig | None = Field(
        default_factory=BreakerConfig,
        description="Of classifiers: while open all they are asked is an error at once, and on_error decides.",
    )
    upstreams: BreakerConfig | None = Field(
        default_factory=BreakerConfig, description="Of upstreams: while open requests are answered 503 with Retry-After."
    )
