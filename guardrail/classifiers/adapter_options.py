"""How a multilabel adapter's outputs become scores of policies: which category a policy means, and what a score says."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from guardrail.calibration import NEAREST, Calibration, Platt, digest
from guardrail.canary import Canary
from guardrail.engine.adapter.frame import BENIGN, Frame, key
from guardrail.errors import ClassifierError, ModelFileError
from guardrail.types import Policy, Stage

Scores = Literal["threshold", "calibrated", "plain"]


@dataclass(frozen=True, slots=True)
class KnownPair:
    """A text that certainly belongs to a category and one that certainly does not."""

    category: str
    violating: str
    benign: str


@dataclass(frozen=True, slots=True)
class AdapterOptions:
    """`categories` by policy id; other policies mean the category of their id's name.

    `scores`: `threshold` moves each category's own threshold to .5, on log-odds; `calibrated` applies the folder's calibrations;
    `plain` changes nothing. `batch_tokens` of one pass, padding included, at most.
    """

    categories: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    scores: Scores = "threshold"
    batch_tokens: int = 8192
    known_pair: KnownPair | None = None


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the head's outputs mean here: the place of each label among them, and the map from probability to score (None: none)."""

    frame: Frame
    options: AdapterOptions
    maps: Mapping[str, Calibration]

    @classmethod
    def of(cls, frame: Frame, calibrations: Mapping[str, Calibration], options: AdapterOptions) -> "Outputs":
        """Raises ModelFileError for a category that the adapter does not have, and for calibrations that are not there."""
        for policy, category in options.categories.items():
            _known(frame, category, f"policy {policy!r}")
        if options.known_pair is not None:
            _known(frame, options.known_pair.category, "the known pair")
        labels = [label for label in frame.labels if key(label) != key(BENIGN)]
        if options.scores == "plain":
            return cls(frame, options, MappingProxyType({}))
        if options.scores == "threshold":
            return cls(frame, options, MappingProxyType({label: at_half(frame.thresholds[label]) for label in labels}))
        if lacking := [label for label in labels if label not in calibrations]:
            raise ModelFileError(f"{frame.head.parent} has no calibration of {lacking[0]!r}; use `scores: threshold`, or `plain`")
        return cls(frame, options, calibrations)

    @property
    def suffix(self) -> str:
        """What the maps add to the classifier's id, so that a verdict can be replayed."""
        if not self.maps:
            return ""
        known = json.dumps([(label, digest(each)) for label, each in sorted(self.maps.items())])
        return f"+{self.options.scores}@sha256:{hashlib.sha256(known.encode()).hexdigest()[:16]}"

    def label(self, policy: Policy) -> str:
        """The category that stands for a policy. Raises ClassifierError (not_prepared) where there is none."""
        stated = self.options.categories.get(policy.id)
        found = self.frame.label(stated if stated is not None else policy.id)
        if found is None or key(found) == key(BENIGN):
            known = ", ".join(_harms(self.frame))
            raise ClassifierError(
                "not_prepared",
                f"no category of the adapter stands for policy {policy.id}: it reads no policies, it knows {known}; name one of them under "
                f"`categories: {{{policy.id}: …}}`, or judge by {policy.id} with another classifier",
            )
        return found

    def labels(self, policies: Sequence[Policy]) -> dict[tuple[str, str], str]:
        """The category of each policy, by the policy's key. Raises ClassifierError (not_prepared)."""
        return {policy.key: self.label(policy) for policy in policies}

    def score(self, label: str, probability: float) -> float:
        """Of a category's plain probability."""
        made = self.maps.get(label)
        return probability if made is None else made.apply(probability)

    def canary(self) -> Canary | None:
        """The known pair, asked by a policy of the category's name."""
        pair = self.options.known_pair
        if pair is None:
            return None
        label = _known(self.frame, pair.category, "the known pair")
        threshold = self.frame.thresholds[label] if self.options.scores == "plain" else 0.5
        return Canary(_policy(label), pair.violating, pair.benign, threshold)


def at_half(threshold: float) -> Platt:
    """The map that moves a threshold to .5 and keeps the order: log-odds less the threshold's."""
    inside = min(1 - NEAREST, max(NEAREST, threshold))
    return Platt(1.0, -(math.log(inside) - math.log1p(-inside)))


def _known(frame: Frame, category: str, what: str) -> str:
    found = frame.label(category)
    if found is None or key(found) == key(BENIGN):
        raise ModelFileError(f"{what} names the category {category!r}, which the adapter does not have; it has {', '.join(_harms(frame))}")
    return found


def _harms(frame: Frame) -> list[str]:
    return [label for label in frame.labels if key(label) != key(BENIGN)]


def _policy(label: str) -> Policy:
    body = f"The adapter's category {label}.\n"
    return Policy(
        id=key(label),
        version="0.0.0",
        title=label,
        label_code="",
        threshold=0.5,
        applies_to=frozenset(Stage),
        language="en",
        overview="",
        terms=(),
        interpretation="",
        labels=(),
        body=body,
        digest=f"sha256:{hashlib.sha256(body.encode()).hexdigest()}",
    )
