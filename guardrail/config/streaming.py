"""The `stream` section of a route: when a streamed answer is let out."""

from typing import Literal

from pydantic import Field, model_validator

from guardrail.config.fields import Section


class StreamConfig(Section):
    """When the text of a streamed answer is let out, and in which pieces it is judged."""

    mode: Literal["hold", "window", "overlap", "watch"] = Field(
        default="hold",
        description=(
            "`hold`: once all of it is judged; `window`: each part of it once it is judged together with what came before; `overlap`: "
            "likewise, while the upstream goes on; `watch`: at once, and cut off when a block comes late."
        ),
    )
    window: int = Field(default=400, ge=20, le=100_000, description="Characters from one check to the next, at least.")
    overlap: int = Field(
        default=80, ge=0, le=10_000, description="Characters at the end of what was judged that wait until the next check covers them too."
    )
    first_ms: int = Field(
        default=500, ge=10, le=60_000, description="Longest wait for the first window to fill, in milliseconds: then it is judged as it is."
    )

    @model_validator(mode="after")
    def _overlap_fits(self) -> "StreamConfig":
        if self.overlap >= self.window:
            raise ValueError(f"overlap {self.overlap} is not smaller than window {self.window}, so a window would let nothing out")
        return self
