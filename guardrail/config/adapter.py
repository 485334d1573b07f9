"""The section of an adapter classifier: a multilabel head on a causal language model, which knows categories and reads no policy."""

from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from guardrail.config.fields import Folder, Named, Section

Category = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=4_096)]


class KnownPairConfig(Section):
    """What the classifier is asked at start and then on a schedule: `/readyz` fails while it tells the two apart wrongly."""

    category: Category = Field(description="The category that the first text belongs to and the second does not.")
    violating: Text = Field(description="A text that certainly belongs to it.")
    benign: Text = Field(description="A text that certainly does not.")


class AdapterClassifier(Section):
    """A multilabel adapter (LoRA and a linear head) on this machine's GPU or CPU. It does not read policies: each is one category."""

    kind: Literal["adapter"] = Field(
        description="A multilabel adapter, trained here or in OpenCC's format (pip extra `guardrail[cope]`). It does not read policy text."
    )
    model: Folder = Field(description="Folder that `guardrail train adapter` wrote, relative to this file, or an adapter of the hub.")
    base: Folder | None = Field(default=None, description="The base model's folder or hub id; default: the one that the adapter names.")
    categories: Named[Category] = Field(
        default_factory=lambda: MappingProxyType({}),
        description="Category that stands for a policy, by policy id; other policies mean the category of their own name. A policy without "
        "a category is refused at start.",
    )
    scores: Literal["threshold", "calibrated", "plain"] = Field(
        default="threshold",
        description="`threshold`: each category's own threshold becomes .5, so that a policy with threshold .5 decides as it says; "
        "`calibrated`: the probability calibrated on held-out units; `plain`: the head's own.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="`auto`: the GPU if there is one.")
    threads: int = Field(default=1, ge=1, le=256, description="CPU threads it may use, on a CPU.")
    longest_tokens: int | None = Field(
        default=None,
        ge=64,
        le=1_048_576,
        description="Most tokens of a text read at once; longer ones are judged in windows. Default: 4096.",
    )
    batch_tokens: int = Field(default=8_192, ge=64, le=1_048_576, description="Tokens of one pass, padding included, at most.")
    known_pair: KnownPairConfig | None = Field(
        default=None,
        description="Two texts whose verdicts are known; default: nothing is asked, since the categories are the adapter's own.",
    )
