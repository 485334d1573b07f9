"""A floor for every table: TF-IDF of words and word pairs, and logistic regression. It has never read a policy.

It is trained on labelled rows when it is made, ships no weights, and needs scikit-learn, which the `train` extra brings.
"""

import asyncio
import hashlib
import importlib.util
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from guardrail.errors import ClassifierError, GuardrailError
from guardrail.evaluation.run import Plan
from guardrail.types import ClassifyRequest, Policy, Score

POOLED = ""  # in place of a policy's id: all rows together
FOLDS = 5
VECTORS = {
    "sublinear_tf": True,
    "ngram_range": (1, 2),
    "max_features": 200_000,
    "strip_accents": "unicode",
    "token_pattern": r"(?u)\b\w+\b",
}
REGRESSION = {"C": 10.0, "class_weight": "balanced", "max_iter": 1000}

Answer = Score | ClassifierError


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled text (0 or 1). Texts of one `unit` leak into each other; `policy` is the id of the policy that the label is about."""

    text: str
    label: int
    unit: str = ""
    policy: str = POOLED


def examples(plan: Plan) -> list[Example]:
    """The texts of a plan with the policy that they are asked under, where it is one."""
    found = []
    for data in plan.sets:
        for item in plan.items(data):
            asked = plan.asked(item.area)
            unit = f"{item.set}:{item.unit}" if item.unit else ""
            found.append(Example(item.text, item.label or 0, unit, asked[0].id if len(asked) == 1 else POOLED))
    return found


@dataclass(frozen=True, slots=True)
class _Model:
    """Vectoriser and regression, or a constant where there is nothing to tell labels apart by; what its own rows score by others."""

    parts: tuple[Any, Any] | None
    constant: float
    own: Mapping[str, float]

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Probabilities of texts, in order."""
        found = dict(self.own)
        missing = list(dict.fromkeys(text for text in texts if text not in found))
        if self.parts is None:
            found |= dict.fromkeys(missing, self.constant)
        elif missing:
            vectors, regression = self.parts
            # The positive class's column; numbers a rounding beyond 1 would be refused as scores.
            found |= dict(zip(missing, np.clip(regression.predict_proba(vectors.transform(missing))[:, 1], 0, 1).tolist(), strict=True))
        return [found[text] for text in texts]


class TfidfClassifier:
    """One model for each policy id that rows are about, and one for all rows, which judges under every other policy.

    Whatever a policy says, a text scores the same under it. A text of its own training rows is scored by a model that has not seen its
    unit, so that it can be measured on the rows that it was trained on. Make one with `train`.
    """

    def __init__(self, models: Mapping[str, _Model], *, name: str) -> None:
        self._models = dict(models)
        self._id = name
        self._prepared: set[str] = set()

    @classmethod
    def train(cls, rows: Sequence[Example], *, folds: int = FOLDS) -> "TfidfClassifier":
        """Train on labelled rows; blocks, for seconds on ten thousand of them. Deterministic.

        With one fold its own rows are scored by the model that has seen them, which takes a sixth of the time: for measuring on others.

        Raises GuardrailError without scikit-learn, and for rows of one label.
        """
        if importlib.util.find_spec("sklearn") is None:
            raise GuardrailError("the TF-IDF baseline needs scikit-learn: pip install 'guardrail[train]'")
        if {row.label for row in rows} != {0, 1}:
            raise GuardrailError(f"the TF-IDF baseline learns from rows with label 0 and with label 1; these {len(rows)} have not both")
        policies = sorted({row.policy for row in rows} - {POOLED})
        models = {policy: _trained([row for row in rows if row.policy == policy], folds) for policy in policies}
        models[POOLED] = _trained(rows, folds)
        return cls(models, name=f"tfidf@sha256:{_digest(rows, folds)[:16]}")

    @property
    def id(self) -> str:
        """Name and digest of rows, settings and scikit-learn's version."""
        return self._id

    async def prepare(self, policies: Sequence[Policy]) -> None:
        """Nothing is read of a policy but its id."""
        self._prepared |= {policy.digest for policy in policies}

    async def classify(self, requests: Sequence[ClassifyRequest], *, deadline: float) -> list[Answer]:
        """Scores in order; see `Classifier`."""
        if time.monotonic() >= deadline:
            return [ClassifierError("timeout", "the deadline passed before the texts were read")] * len(requests)
        return await asyncio.to_thread(self._answers, requests)

    async def aclose(self) -> None:
        """There is nothing to free."""

    def _answers(self, requests: Sequence[ClassifyRequest]) -> list[Answer]:
        answers: dict[int, Answer] = {}
        places: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            if request.policy.digest in self._prepared:
                places.setdefault(request.policy.id if request.policy.id in self._models else POOLED, []).append(place)
            else:
                answers[place] = ClassifierError("not_prepared", f"policy {request.policy.id} {request.policy.version} was not prepared")
        for policy, mine in places.items():
            found = self._models[policy].scores([requests[place].text for place in mine])
            answers |= {place: Score(value, self._id) for place, value in zip(mine, found, strict=True)}
        return [answers[place] for place in range(len(requests))]


def _trained(rows: Sequence[Example], folds: int) -> _Model:
    fold = _folds(rows, folds)
    own: dict[str, float] = {}
    for chosen in sorted(set(fold)) if folds > 1 else ():
        others = _fitted([row for row, of in zip(rows, fold, strict=True) if of != chosen])
        texts = [row.text for row, of in zip(rows, fold, strict=True) if of == chosen]
        own |= dict(zip(texts, others.scores(texts), strict=True))
    whole = _fitted(rows)
    return _Model(whole.parts, whole.constant, own)


def _fitted(rows: Sequence[Example]) -> _Model:
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415  (of the `train` extra alone)
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    labels = [row.label for row in rows]
    constant = (sum(labels) + 1) / (len(labels) + 2)
    vectors = TfidfVectorizer(**VECTORS)
    worded = any(vectors.build_analyzer()(row.text) for row in rows)
    if len(set(labels)) < 2 or not worded:
        return _Model(None, constant, {})
    found = vectors.fit_transform([row.text for row in rows])
    return _Model((vectors, LogisticRegression(**REGRESSION).fit(found, labels)), constant, {})


def _folds(rows: Sequence[Example], folds: int) -> list[int]:
    """Units dealt out in the order of a hash; units that share a text count as one."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    for row in rows:
        parent[root(f"unit {row.unit}" if row.unit else f"text {row.text}")] = root(f"text {row.text}")
    roots = [root(f"text {row.text}") for row in rows]
    order = sorted(set(roots), key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest())
    place = {name: number % max(2, folds) for number, name in enumerate(order)}
    return [place[name] for name in roots]


def _digest(rows: Sequence[Example], folds: int) -> str:
    from sklearn import __version__  # noqa: PLC0415  (of the `train` extra alone)

    digest = hashlib.sha256(json.dumps([__version__, folds, VECTORS, REGRESSION]).encode())
    for row in rows:
        digest.update(json.dumps(asdict(row)).encode())
    return digest.hexdigest()
