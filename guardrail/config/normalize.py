"""The `normalize` setting of a route: how far disguises of a text are undone before it is judged."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from guardrail.config.fields import Section
from guardrail.types import ReadingLimits

OFF = "off"
_DEFAULT = ReadingLimits()


class NormalizeConfig(Section):
    """Bounds on reading a text as a reader would see it: encodings, lookalikes, invisible characters and odd spellings undone."""

    readings: int = Field(
        default=_DEFAULT.readings, ge=2, le=16, description="Readings of one text that are judged, at most, itself included."
    )
    characters: int = Field(
        default=_DEFAULT.characters,
        ge=1_000,
        le=10_000_000,
        description="Characters of a text whose disguises are looked for, at most, and of all its other readings together.",
    )
    depth: int = Field(default=_DEFAULT.depth, ge=1, le=16, description="Layers of one kind of disguise that are undone, at most.")


def _off_or_bounds(value: Any) -> str:
    return OFF if isinstance(value, str) else "bounds"


NormalizeSetting = Annotated[Annotated[Literal["off"], Tag(OFF)] | Annotated[NormalizeConfig, Tag("bounds")], Discriminator(_off_or_bounds)]


def limits_of(setting: NormalizeConfig | Literal["off"]) -> ReadingLimits | None:
    """The limits that a route's setting means; None where it is off."""
    return ReadingLimits(setting.readings, setting.characters, setting.depth) if isinstance(setting, NormalizeConfig) else None
