"""Contradictory examples: steps in which the same text is positive under one policy and negative under another.

After CoPE's Contradictory Example Training (arXiv 2512.18027): a model that remembers what harm looks like cannot fit such a step, so it
has to read. The paper's proportions, order and step layout are unpublished: shares, kinds, mixture, balance and order here are our own
reconstruction, all of them parameters.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from guardrail.training import contrasts
from guardrail.training.labels import Aim, Target, target
from guardrail.training.packing import TOKENS_A_STEP, neighbours
from guardrail.training.rows import AREAS, TrainingRow

Order = Literal["mixed", "rising", "falling", "blocks"]
INVERTIBLE = ("hate_speech", "toxicity", "prompt_attack", "harassment", "illegal_activity")
# Never asked in training, so that a test can ask what was not learnt.
HELD_GROUPS = frozenset({"native_americans", "christians"})
HELD_USES = frozenset({"question"})
HELD_TOPICS = 0.15  # share of the topics, the last ones of the wordings file
MIX = {
    "group": 0.6, "use": 0.1, "area": 0.06, "combined": 0.1, "topic": 0.06, "ground": 0.02, "severity": 0.03, "votes": 0.01,
    "direct": 0.02,
}  # fmt: skip
OVERLAPPING = 0.7  # of the combined steps are about two areas that share texts
FEW = 20  # fewer texts than this are too few to ask about


@dataclass(frozen=True, slots=True)
class Contradictions:
    """What of a run are contradiction steps, and what one is made of; part of the recipe.

    `share`: of the steps. `order`: `mixed` draws each step by chance, `rising` (`falling`) lets the share grow from 0 to twice the share
    (or shrink from it), `blocks` puts one contradiction step at even distances. `mix`: weights of the kinds. `criteria`: groups, areas or
    topics a step sets against each other. `texts`: at most, of a step. `asked`: pairs of a text at most. `most_to_one`: pairs of a
    policy's commoner label for each of its rarer one, at most; the others are dropped.
    """

    share: float = 0.0
    order: Order = "mixed"
    mix: dict[str, float] = field(default_factory=lambda: dict(MIX))
    criteria: int = 4
    texts: int = 48
    asked: int = 9
    most_to_one: float = 3.0

    def __post_init__(self) -> None:
        """Raises ValueError on a share or a mixture that cannot be."""
        if not 0 <= self.share <= 1 or (self.order in ("rising", "falling") and self.share > 0.5):
            raise ValueError(f"a share of {self.share} cannot be had in order {self.order!r}: 0 to 1, and to 0.5 where it rises or falls")
        if unknown := set(self.mix) - set(MIX):
            raise ValueError(f"there are no contradiction steps of kind {', '.join(sorted(unknown))}; the kinds are {', '.join(MIX)}")
        if min(self.criteria, self.texts, self.asked) < 2 or self.most_to_one < 1:
            raise ValueError("criteria, texts and asked start at 2, most_to_one at 1: less sets nothing against anything")

    def falls_on(self, step: int, steps: int, seed: int) -> bool:
        """Whether a step of a run of `steps` is a contradiction step; the same answer for the same seed."""
        if self.order == "blocks":
            return int((step + 1) * self.share) > int(step * self.share)
        place = (step + 0.5) / max(steps, 1)
        share = {"mixed": self.share, "rising": 2 * self.share * place, "falling": 2 * self.share * (1 - place)}[self.order]
        return random.Random(f"order:{seed}:{step}").random() < share  # noqa: S311  (sampling, not secrecy)


@dataclass(frozen=True, slots=True)
class Step:
    """A contradiction step: `answers[text][aim]` is (label, weight), None where it is unknown or left out for balance."""

    kind: str
    rows: tuple[TrainingRow, ...]
    aims: tuple[Aim, ...]
    answers: tuple[tuple[Target | None, ...], ...]

    def opposed(self) -> int:
        """How many of the texts are positive under one of the policies and negative under another."""
        return sum(len({answer[0] for answer in row if answer is not None}) == 2 for row in self.answers)


class Builder:
    """Makes the steps from rows. `held_out` True asks only held-out groups, uses and topics, of the same texts."""

    def __init__(self, rows: Iterable[TrainingRow], topics: Sequence[str], recipe: Contradictions, *, held_out: bool = False) -> None:
        self._recipe = recipe
        self._pools: dict[str, list[TrainingRow]] = defaultdict(list)
        for row in rows:
            for name in _pools_of(row):
                self._pools[name].append(row)
        self._groups = self._asked("group:", lambda name: (name in HELD_GROUPS) == held_out, least=2 if held_out else FEW)
        last = set(topics[-max(1, round(len(topics) * HELD_TOPICS)) :])
        self._topics = [topic for topic in topics if (topic in last) == held_out and f"topic:{topic}" in self._pools]
        self._held_out = held_out
        self._makers: dict[str, Callable[[random.Random], tuple[list[TrainingRow], list[Aim]]]] = {}
        self._offer("group", self._by_group, len(self._groups) > 1)
        self._offer("area", self._by_area, len(self._asked("area:")) > 1)
        self._offer("combined", self._by_combined, len(self._asked("area:")) > 2)
        self._offer("topic", self._by_topic, len(self._topics) > 1)
        self._offer("ground", self._by_ground, len(self._asked("ground:")) > 1)
        self._offer("severity", self._by_severity, {"threat", "attack"} <= set(self._pools))
        self._offer("votes", self._by_votes, {"split", "unanimous"} <= set(self._pools))
        self._offer("direct", self._by_direct, {"direct", "general"} <= set(self._pools))
        self._offer("use", self._by_use, len(self._asked("use:", least=1)) > 1)
        if not self._makers:
            raise ValueError("no kind of contradiction step can be made from these rows; give more rows or another mixture")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that the rows suffice for and the mixture wants."""
        return tuple(self._makers)

    @property
    def topics(self) -> tuple[str, ...]:
        """The off-topic policies that are asked."""
        return tuple(self._topics)

    def step(self, seed: int, number: int) -> Step:
        """The step of a number: the same for the same seed, rows and recipe, whatever came before."""
        random_ = random.Random(f"contradiction:{seed}:{number}")  # noqa: S311  (sampling, not secrecy)
        kind = random_.choices(self.kinds, [self._recipe.mix[name] for name in self.kinds])[0]
        pool, aims = self._makers[kind](random_)
        chosen = neighbours(pool, self._recipe.texts, random_, tokens=TOKENS_A_STEP * 0.75)
        random_.shuffle(chosen)
        answers = self._balanced([[target(row, aim) for aim in aims] for row in chosen], random_)
        return Step(kind, tuple(chosen), tuple(aims), tuple(tuple(row) for row in answers))

    def _offer(self, kind: str, maker: Callable[[random.Random], tuple[list[TrainingRow], list[Aim]]], possible: bool) -> None:
        if possible and self._recipe.mix.get(kind, 0) > 0:
            self._makers[kind] = maker

    def _asked(self, prefix: str, wanted: Callable[[str], bool] = bool, *, least: int = FEW) -> list[str]:
        """The names after a prefix whose pools are large enough."""
        names = (name.removeprefix(prefix) for name in self._pools if name.startswith(prefix))
        return sorted(name for name in names if len(self._pools[prefix + name]) >= least and wanted(name))

    def _some(self, pool: str, count: int, random_: random.Random) -> list[TrainingRow]:
        found = self._pools.get(pool, [])
        return random_.sample(found, min(count, len(found)))

    def _several(self, names: Sequence[str], random_: random.Random) -> list[str]:
        return random_.sample(names, min(len(names), self._recipe.criteria))

    def _by_group(self, random_: random.Random) -> tuple[list[TrainingRow], list[Aim]]:
        groups = self._several(self._groups, random_)
        # Held-out groups are few: texts against other groups stand beside theirs.
        others = self._several(self._asked("group:"), random_) if self._held_out else []
        pool = [row for group in dict.fromkeys(groups + others) for row in self._some(f"group:{group}", 24, random_)]
        aims = [Aim("scoped", group) for group in groups] + [Aim("except_group", group) for group in groups]
        # Among hateful texts alone nothing but the target can lower the loss.
        if random_.random() < 0.7:
            return pool, aims
        return pool + self._some("clean", 24, random_), [*aims, Aim("area", "hate_speech"), Aim("inverted", "hate_speech")]

    def _by_area(self, random_: random.Random) -> tuple[list[TrainingRow], list[Aim]]:
        areas = self._several(self._asked("area:"), random_)
        pool = [row for area in areas for row in [*self._some(f"area:{area}", 16, random_), *self._some(f"not:{area}", 8, random_)]]
        turned = [Aim("inverted", area) for area in areas if area in INVERTIBLE] + [Aim("reversed", area) for area in areas]
        return pool, [Aim("area", area) for area in areas] + random_.sample(turned, min(len(turned), len(areas) + 1))

    def _by_combined(self, random_: random.Random) -> tuple[list[TrainingRow], list[Aim]]:
        """Areas that overlap: joined, one without the other, and each by itself."""
        pairs = self._asked("both:") or [f"{AREAS[0]}/{AREAS[1]}"]
        one, other = random_.choice(pairs).split("/") if random_.random() < OVERLAPPING else random_.sample(self._asked("area:"), 2)
        third = random_.choice([area for area in self._asked("area:") if area not in (one, other)])
        pool = self._some(f"both:{one}/{other}", 24, random_) + self._some(f"both:{other}/{one}", 24, random_)
        for area in (one, other, third):
            pool += [*self._some(f"area:{area}", 14, random_), *self._some(f"not:{area}", 6, random_)]
        aims = [Aim("area", one), Aim("area", other), Aim("either", f"{one}/{other}"), Aim("reversed", one)]
        aims += [Aim("without", f"{one}/{other}"), Aim("without", f"{other}/{one}"), Aim("without", f"{one}/{third}")]
        return pool, [*aims, Aim("either", f"{third}/{other}")]

    def _by_topic(self, random_: random.Random) -> tuple[list[TrainingRow], list[Aim]]:
        topics = self._several(self._topics, random_)
        pool = [row for topic in topics for row in [*self._some(f"topic:{topic}", 8, random_), *self._some(f"near:{topic}", 4, random_)]]
        areas = random_.sample(AREAS, 2)
        pool += [row for area in areas for row in self._some(f"area:{area}", 8, random_)]
        return pool + self._some("own", 24, random_), [Aim("topic", name) for name in topics] + [Aim("area", area) for area in areas]

    def _by_ground(self, random_: random.Random) -> tuple[list[TrainingRow], list[Aim]]:
        grounds = self._asked("ground:")
        pool = [row for ground in grounds for row in self._some(f"ground:{ground}", 24, random_)] + self._some("clean", 24, random_)
        return pool, [*(Aim("ground", ground) for ground in grounds), Aim("area", "hate_speech"), Aim("inverted", "hate_speech")]

    def _by_severity(self, random_: random.Random) -> tuple[list[TrainingRow], list[Aim]]:
        pool = [row for name in ("threat", "attack", "rude", "clean") for row in self._some(name, 24, random_)]
        aims = [Aim("threats_only"), Aim("profanity_allowed")]
        return pool, [*aims, *(Aim("area", area) for area in ("hate_speech", "toxicity", "violence")), Aim("inverted", "hate_speech")]

    def _by_votes(self, random_: random.Random) -> tuple[list[TrainingRow], list[Aim]]:
        pool = self._some("split", 48, random_) + self._some("unanimous", 24, random_) + self._some("none_voted", 24, random_)
        return pool, [Aim("strict"), Aim("permissive"), Aim("area", "toxicity"), Aim("inverted", "toxicity")]

    def _by_direct(self, random_: random.Random) -> tuple[list[TrainingRow], list[Aim]]:
        pool = self._some("direct", 24, random_) + self._some("general", 40, random_) + self._some("not:harassment", 24, random_)
        return pool, [Aim("direct_abuse_only"), Aim("area", "harassment"), Aim("inverted", "harassment")]

    def _by_use(self, random_: random.Random) -> tuple[list[TrainingRow], list[Aim]]:
        subjects = random_.sample(contrasts.subjects(), 2)
        pool: list[TrainingRow] = []
        aims: list[Aim] = []
        for subject in subjects:
            uses = [use for use in contrasts.functions(subject) if use != "plain" and (use in HELD_USES) == self._held_out]
            for kind in ("function_only", "function_counted", "mention_except"):
                aims += [Aim(kind, f"{subject}/{use}") for use in random_.sample(uses, min(2, len(uses)))]
            named = {aim.name.partition("/")[2] for aim in aims}
            for use in (*contrasts.functions(subject), contrasts.NEUTRAL):
                pool += self._some(f"use:{subject}/{use}", 12 if use in named or use == "plain" else 6, random_)
        return pool, [*aims, *(Aim("area", subject) for subject in subjects)]

    def _balanced(self, answers: list[list[Target | None]], random_: random.Random) -> list[list[Target | None]]:
        """Drop answers of each policy's commoner label until it is at most `most_to_one` times as common as the other."""
        for aim in range(len(answers[0])):
            places: dict[int, list[int]] = {0: [], 1: []}
            for text, row in enumerate(answers):
                if (answer := row[aim]) is not None:
                    places[answer[0]].append(text)
            rarer, commoner = sorted(places.values(), key=len)
            keep = int(self._recipe.most_to_one * max(1, len(rarer)))
            for text in random_.sample(commoner, max(0, len(commoner) - keep)):
                answers[text][aim] = None
        return answers


def _pools_of(row: TrainingRow) -> Iterable[str]:
    """The pools a text is drawn from."""
    if row.function:
        yield f"use:{row.subject}/{row.function}"
    hate, toxic = row.known.get("hate_speech"), row.known.get("toxicity")
    if hate is not None and hate[0]:
        yield from (f"group:{group}" for group in row.groups)
        yield from (f"ground:{ground}" for ground in row.grounds)
    elif hate is not None and hate[1] >= 0.8 and not row.complete:
        yield "clean"
    if hate is not None and not hate[0] and toxic is not None and toxic[0]:
        yield "rude"
    if row.severity is not None:
        yield row.severity
    for area, (label, weight) in row.known.items():
        if area in AREAS and weight >= 0.7 and not row.function:
            yield f"area:{area}" if label else f"not:{area}"
    violated = [area for area, (label, weight) in row.known.items() if label and weight >= 0.5 and area in AREAS and not row.function]
    yield from (f"both:{one}/{other}" for one in violated for other in violated if one < other)
    if row.topic or row.near:
        yield f"topic:{row.topic}" if row.topic else f"near:{row.near}"
    elif row.complete:
        yield "own"
    if row.agreement is not None:
        yield "split" if 0 < row.agreement < 1 else "unanimous" if row.agreement else "none_voted"
    if row.addressed is not None:
        yield "direct" if row.addressed else "general"
