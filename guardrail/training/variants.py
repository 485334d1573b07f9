"""Policy variants: the same aim in many wordings, lengths and orders, cut into the statements the reader sees."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from guardrail.engine.embedded.model import EXCLUDE, INCLUDE, LABEL, TERM
from guardrail.engine.embedded.statements import Statement, statements_of
from guardrail.training.labels import Aim
from guardrail.training.rows import AREAS, TrainingRow
from guardrail.types import Policy

FOLDER = Path(__file__).parent
# Topics whose examples may also fall under an area: what they are there is left unknown.
_DOUBTFUL = frozenset(
    {
        "academic_cheating",
        "spam_links",
        "licence_keys",
        "vaccine_misinformation",
        "private_data",
        "crypto_promotion",
        "diet_ads",
        "medical_dosage",
    }
)
USES = ("function_only", "function_counted", "mention_except")
CARVED = ("except_group", "mention_except")  # their first Excludes is the carve-out and is never left out
WHOLE = ("function_only", "function_counted")  # their Includes are few and all needed
MOST = 12  # statements of one variant in a training step; at judging time a policy may have more


@dataclass(frozen=True, slots=True)
class Variant:
    """A policy variant as the reader sees it, and what it is about."""

    aim: Aim
    statements: tuple[Statement, ...]


class Wordings:
    """The wordings file. `held_out` True draws the last wording of each list, which training never sees where a list has three or more."""

    def __init__(self, document: Mapping[str, Any], *, held_out: bool = False) -> None:
        self._document = document
        self.held_out = held_out
        self.groups: tuple[str, ...] = tuple(document["groups"])
        self.group_names: Mapping[str, Any] = document["groups"]
        self.digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
        self.composed: Mapping[str, Sequence[str]] = document["composed"]
        self.topics: dict[str, Mapping[str, Any]] = {topic["key"]: topic for topic in document.get("topics", ())}

    @classmethod
    def load(cls, *, held_out: bool = False) -> "Wordings":
        """The wordings that come with the package."""
        document: dict[str, Any] = {}
        for path in sorted(FOLDER.glob("wordings*.yaml")):
            document |= yaml.safe_load(path.read_text(encoding="utf-8"))
        return cls(document, held_out=held_out)

    def titles(self, area: str) -> Sequence[str]:
        """What an area may be called; the last name is kept for testing."""
        found: Sequence[str] = self._document["areas"][area]["titles"]
        return found[-1:] if self.held_out else found[:-1]

    def topic_rows(self) -> list[TrainingRow]:
        """The topics' own example texts as training rows."""
        rows = []
        for key, topic in self.topics.items():
            benign: dict[str, tuple[int, float]] = {} if key in _DOUBTFUL else dict.fromkeys(AREAS, (0, 0.7))
            rows += [TrainingRow(text, benign, "own:topics", f"topic:{key}", topic=key) for text in topic["examples_positive"]]
            rows += [TrainingRow(text, benign, "own:topics", f"topic:{key}", near=key) for text in topic["examples_near"]]
        return rows

    def draw(self, aim: Aim, random_: random.Random) -> Variant:
        """One variant of an aim: a single sentence, a short policy or a full one."""
        part = self._part(aim)
        draw = Draw(random_, self._fills(aim, random_), held_out=self.held_out)
        form = random_.choices(("line", "short", "full"), (0.2, 0.35, 0.45))[0]
        if form == "line" and part.get("one_liners"):
            return Variant(aim, (Statement(LABEL, draw.pick(part["one_liners"])),))
        most_in, most_out, terms = (4, 3, 0) if form == "short" else (7, 7, random_.choice((0, 0, 2)))
        found = [Statement(LABEL, f"{draw.pick(part['titles'])}. {draw.pick(part['overviews'])}")]
        found += draw.criteria(INCLUDE, part["includes"], len(part["includes"]) if aim.kind in WHOLE else random_.randint(2, most_in))
        found += draw.criteria(EXCLUDE, part["excludes"], random_.randint(1, most_out), first=aim.kind in CARVED)
        found += [Statement(TERM, text) for text in list(part.get("terms", ()))[:terms]]
        return Variant(aim, tuple(found[:MOST]))

    def _fills(self, aim: Aim, random_: random.Random) -> Mapping[str, Sequence[str]]:
        """What stands for the gaps of the wordings. A use keeps one name throughout a policy, so that its criteria mean one thing."""
        if aim.kind in ("scoped", "except_group"):
            return {"group": self._document["groups"][aim.name]["names"]}
        if aim.kind == "ground":
            return {"ground": self._document["grounds"][aim.name]["names"]}
        if aim.kind in USES:
            subject, _, use = aim.name.partition("/")
            name = Draw(random_, {}, held_out=self.held_out).pick(self._document["functions"][use]["names"])
            return {"subject": self._document["subjects"][subject]["names"], "function": (name,)}
        return {}

    def _part(self, aim: Aim) -> Mapping[str, Any]:
        if aim.kind == "area":
            return self._document["areas"][aim.name]  # type: ignore[no-any-return]
        if aim.kind == "inverted":
            return self._document["areas"][aim.name]["inverted"]  # type: ignore[no-any-return]
        if aim.kind == "topic":
            return self.topics[aim.name]
        return self._document[aim.kind]  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Draw:
    """One variant's random choices. `fills` are the forms that may stand in a gap such as {group}."""

    random: random.Random
    fills: Mapping[str, Sequence[str]]
    held_out: bool

    def pick(self, wordings: Sequence[str]) -> str:
        if len(wordings) == 1 or self.held_out:
            chosen = wordings[-1]
        else:
            chosen = self.random.choice(wordings[:-1] if len(wordings) > 2 else wordings)
        for gap, forms in self.fills.items():
            if f"{{{gap}}}" in chosen:
                chosen = chosen.replace(f"{{{gap}}}", self.random.choice(forms))
        return chosen

    def criteria(self, kind: int, concepts: Sequence[Sequence[str]], count: int, *, first: bool = False) -> list[Statement]:
        """`count` of the concepts in random order, one wording each; `first`: the first concept is always among them."""
        chosen = self.random.sample(range(len(concepts)), min(count, len(concepts)))
        if first and 0 not in chosen:
            chosen[0] = 0
        return [Statement(kind, self.pick(concepts[place])) for place in chosen]


def shipped_variant(policy: Policy, random_: random.Random) -> Variant:
    """A shipped policy as it is, with all its Includes and as many Excludes and terms as a step has room for."""
    statements = statements_of(policy)
    label, includes = statements[:1], [s for s in statements if s.kind == INCLUDE]
    rest = [s for s in statements if s.kind == EXCLUDE]
    random_.shuffle(rest)
    if random_.random() < 0.3:
        rest += [s for s in statements if s.kind == TERM]
    return Variant(Aim("area", policy.id), (*label, *includes, *rest)[: MOST + 4])
