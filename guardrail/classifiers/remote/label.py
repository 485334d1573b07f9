"""Zentropi's label API, and whatever speaks it: `POST /label` with a text and criteria (or a labeler), a label and its confidence back.

Request and answer as documented at https://zentropi.ai/api: `{content_text, criteria_text | labeler_id + labeler_version_id, model}` is
answered with `{"label": "0" | "1", "confidence": 0.5 … 1.0}`. Self-hosted CoPE servers that speak it give the label as a number.
Read there, not run against either. A policy goes as its criteria, or as the labeler that stands for it there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from guardrail.classifiers.remote.connection import Connection
from guardrail.classifiers.remote.said import model_name, number
from guardrail.errors import ClassifierError
from guardrail.types import ClassifyRequest, Policy, Score

PATH = "/label"


@dataclass(frozen=True, slots=True)
class Labeler:
    """What stands for a policy on the server, and which version of it."""

    id: str
    version: str = "latest"


@dataclass(frozen=True, slots=True)
class LabelSettings:
    """`model`: its name on the server, None for the server's own. `labelers`: by policy id; other policies are sent as criteria."""

    model: str | None = None
    labelers: Mapping[str, Labeler] = field(default_factory=lambda: MappingProxyType({}))


class Labels:
    """An `Api`; see the module."""

    def __init__(self, settings: LabelSettings) -> None:
        self._settings = settings

    @property
    def id(self) -> str:
        """Kind and model name."""
        return f"label:{self._settings.model or 'default'}"

    async def score(self, request: ClassifyRequest, server: Connection, *, deadline: float) -> Score:
        """See `Api.score`."""
        question: dict[str, object] = {"content_text": request.text, **self._criteria(request.policy)}
        if self._settings.model is not None:
            question["model"] = self._settings.model
        body = await server.post(PATH, question, deadline=deadline)
        label, confidence = _label(body), _confidence(body)
        return Score(confidence if label else 1.0 - confidence, f"{self.id}@{model_name(body)}")

    def close(self) -> None:
        """Nothing to free."""

    def _criteria(self, policy: Policy) -> dict[str, object]:
        labeler = self._settings.labelers.get(policy.id)
        if labeler is None:
            return {"criteria_text": policy.body}
        return {"labeler_id": labeler.id, "labeler_version_id": labeler.version}


def _label(body: Mapping[str, object]) -> bool:
    match body.get("label"):
        case bool():
            pass
        case "1" | 1:
            return True
        case "0" | 0:
            return False
    raise ClassifierError("malformed", "the answer's label is neither 0 nor 1")


def _confidence(body: Mapping[str, object]) -> float:
    """How sure the server is of the label it gave; a stand-in for "unknown" is an error, never a number made up here."""
    confidence = number(body.get("confidence"))
    if confidence is None:
        raise ClassifierError("malformed", "the answer has no confidence; a server that cannot tell one cannot be used as a classifier")
    if not 0.5 <= confidence <= 1.0:
        raise ClassifierError("out_of_range", f"the answer's confidence is {confidence:.3g}, not 0.5 to 1 as of the label that was given")
    return confidence
