"""Policies made from policies: with an exception, narrowed, mirrored, two joined, one without another.

A carve-out in a real policy is one line among many that stay as they are, and a turned-round policy is the same criteria under the other
heading. Variants drawn whole cannot teach that: here the base policy is kept, shipped ones included, and only what changes is added.
"""

import random
from collections.abc import Mapping, Sequence

from guardrail.engine.embedded.model import EXCLUDE, INCLUDE, LABEL
from guardrail.engine.embedded.statements import Statement
from guardrail.training.labels import Aim
from guardrail.training.variants import MOST, Draw, Variant, Wordings, shipped_variant
from guardrail.types import Policy

COMPOSED = ("reversed", "either", "without")  # aims that are always made from others
TARGETED = ("scoped", "except_group")  # aims that are made from a whole policy half of the time
SHIPPED = 0.4  # of the base policies that have a shipped one
ROOM = MOST + 6  # statements of a composed variant


class Composer:
    """Draws a variant of any aim, whole from the wordings or composed. `shipped` are policies by id."""

    def __init__(self, wordings: Wordings, shipped: Mapping[str, Policy]) -> None:
        self._wordings, self._shipped = wordings, shipped
        self._sentences: Mapping[str, Sequence[str]] = wordings.composed

    def draw(self, aim: Aim, random_: random.Random) -> Variant:
        """One variant of the aim."""
        if aim.kind == "reversed":
            return self._reversed(aim, random_)
        if aim.kind in ("either", "without"):
            return self._two(aim, random_)
        if aim.kind in TARGETED and random_.random() < 0.6:
            return self._targeted(aim, random_)
        return self._base(aim, random_)

    def _base(self, aim: Aim, random_: random.Random) -> Variant:
        if aim.kind == "area" and aim.name in self._shipped and random_.random() < SHIPPED:
            return shipped_variant(self._shipped[aim.name], random_)
        return self._wordings.draw(aim, random_)

    def _targeted(self, aim: Aim, random_: random.Random) -> Variant:
        """A whole hate-speech policy with one exception, or narrowed to one group; the group has one name throughout."""
        base = self._base(Aim("area", "hate_speech"), random_)
        name = random_.choice(self._wordings.group_names[aim.name]["names"])
        draw = self._draw(random_, group=name)
        kind = "exception" if aim.kind == "except_group" else "narrowing"
        label, *rest = base.statements
        in_overview, in_excludes = random_.choice(((True, True), (True, True), (False, True), (True, False)))
        if not rest:
            in_overview = True
        if in_overview:
            label = Statement(LABEL, f"{label.text} {draw.pick(self._sentences[f'{kind}_overviews'])}")
        if in_excludes:
            rest.insert(random_.randint(0, len(rest)), Statement(EXCLUDE, draw.pick(self._sentences[f"{kind}s"])))
        return Variant(aim, (label, *_room(rest)))

    def _reversed(self, aim: Aim, random_: random.Random) -> Variant:
        base = self._base(Aim("area", aim.name), random_)
        draw = self._draw(random_, name=self._name(aim.name, random_))
        title, overview = draw.pick(self._sentences["reversed_titles"]), draw.pick(self._sentences["reversed_overviews"])
        if len(base.statements) == 1:
            return Variant(aim, (Statement(LABEL, overview),))
        swapped = [Statement({INCLUDE: EXCLUDE, EXCLUDE: INCLUDE}[s.kind], s.text) for s in base.statements if s.kind in (INCLUDE, EXCLUDE)]
        if random_.random() < 0.7:
            swapped.insert(0, Statement(INCLUDE, draw.pick(self._sentences["reversed_includes"])))
        return Variant(aim, (Statement(LABEL, f"{title}. {overview}"), *_room(swapped)))

    def _two(self, aim: Aim, random_: random.Random) -> Variant:
        first, second = aim.name.split("/")
        one, other = (self._base(Aim("area", name), random_) for name in (first, second))
        draw = self._draw(random_, one=self._name(first, random_), other=self._name(second, random_))
        overview = draw.pick(self._sentences[f"{aim.kind}_overviews"])
        if len(one.statements) == 1 or len(other.statements) == 1:
            return Variant(aim, (Statement(LABEL, overview),))
        includes = [s for s in one.statements if s.kind == INCLUDE]
        excludes = [s for s in one.statements if s.kind == EXCLUDE]
        if aim.kind == "either":
            includes = [*includes[:6], *[s for s in other.statements if s.kind == INCLUDE][:6]]
            random_.shuffle(includes)
            excludes = []  # what one of the two leaves out the other may forbid
        else:
            spelled_out = [Statement(EXCLUDE, s.text) for s in other.statements if s.kind == INCLUDE][: random_.choice((0, 2, 4))]
            excludes = [Statement(EXCLUDE, draw.pick(self._sentences["without_exceptions"])), *spelled_out, *excludes[:3]]
        return Variant(aim, (Statement(LABEL, overview), *_room([*includes, *excludes])))

    def _name(self, area: str, random_: random.Random) -> str:
        return random_.choice(self._wordings.titles(area)).lower()

    def _draw(self, random_: random.Random, **fills: str) -> Draw:
        return Draw(random_, {gap: (form,) for gap, form in fills.items()}, held_out=self._wordings.held_out)


def _room(statements: Sequence[Statement]) -> tuple[Statement, ...]:
    return tuple(statements[: ROOM - 1])
