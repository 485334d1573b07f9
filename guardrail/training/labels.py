"""What a text's label is under a policy variant: the heart of training on policies that disagree.

The idea of showing one text under policies with opposite answers is CoPE's Contradictory Example Training (arXiv 2512.18027); its
proportions and order are unpublished. Which variants we build and how often is our own reconstruction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from guardrail.training.rows import WEAK, TrainingRow
from guardrail.training.targets import aimed_at, aimed_only_at

Kind = Literal[
    "area", "inverted", "scoped", "except_group", "threats_only", "profanity_allowed", "topic",
    "ground", "direct_abuse_only", "strict", "permissive", "function_only", "function_counted", "mention_except",
    "reversed", "either", "without",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Aim:
    """What a policy variant is about: its kind and the area, group, topic or ground it names.

    `subject/use` where a use decides, `area/area` where two areas are joined (`either`) or the second overrides the first (`without`).
    """

    kind: Kind
    name: str = ""


Target = tuple[int, float]


def target(row: TrainingRow, aim: Aim) -> Target | None:
    """(label, weight) of a text under a variant, None where it is not known."""
    return _RULES[aim.kind](row, aim.name)


def _area(row: TrainingRow, area: str) -> Target | None:
    return row.known.get(area)


def _inverted(row: TrainingRow, area: str) -> Target | None:
    """Only texts that a rater judged for this very area can be turned round; others are simply elsewhere."""
    found = row.known.get(area)
    if found is None or found[1] < 0.8 or (row.complete and not found[0]):
        return None
    return (0, 1.0) if found[0] else (1, 0.5)


def _hate(row: TrainingRow) -> Target | None:
    return row.known.get("hate_speech")


def _scoped(row: TrainingRow, group: str) -> Target | None:
    if group == "women" and "sexism" in row.known:
        return row.known["sexism"]
    hate = _hate(row)
    if hate is None or hate[0] == 0:
        return hate
    aimed = aimed_at(row.groups, group) if row.groups else None
    return None if aimed is None else (int(aimed), 1.0)


def _except(row: TrainingRow, group: str) -> Target | None:
    hate = _hate(row)
    if hate is None or hate[0] == 0:
        return hate
    aimed = aimed_at(row.groups, group) if row.groups else None
    if aimed is None:
        return None
    if not aimed:
        return (1, 1.0)
    return (0, 1.0) if aimed_only_at(row.groups, group) else None


def _threats(row: TrainingRow, _: str) -> Target | None:
    if row.severity is not None:
        return (int(row.severity == "threat"), 1.0)
    violence = row.known.get("violence")
    if violence is not None and violence[0]:
        return None  # a threat, praise or a plan: which of them, nobody said
    hate = _hate(row)
    return hate if hate is not None and hate[0] == 0 else None


def _profanity_allowed(row: TrainingRow, _: str) -> Target | None:
    hate = _hate(row)
    if hate is None:
        return None
    toxic = row.known.get("toxicity", (0, 0.0))
    return (hate[0], max(hate[1], 0.8) if toxic[0] else hate[1])


def _topic(row: TrainingRow, topic: str) -> Target | None:
    if row.topic is not None:
        return (int(row.topic == topic), 1.0)
    if row.near is not None:
        return (0, 1.0 if row.near == topic else WEAK)
    return None if row.complete and not any(label for label, _ in row.known.values()) else (0, WEAK)


_GROUND = {  # what a group is attacked for; a group that could be attacked for either is in no list
    "race": {"black_people", "asians", "latinos", "native_americans"},
    "religion": {"muslims", "christians"},
    "gender": {"women", "men"},
}


def _ground(row: TrainingRow, ground: str) -> Target | None:
    hate = _hate(row)
    if hate is None or hate[0] == 0:
        return hate
    if row.grounds:
        return (int(ground in row.grounds), 0.7)
    sure = {name for name, groups in _GROUND.items() if row.groups & groups}
    if ground in sure:
        return (1, 1.0)
    return (0, 1.0) if row.groups and row.groups <= set().union(*_GROUND.values()) else None


def _direct(row: TrainingRow, _: str) -> Target | None:
    if row.addressed is not None:
        return (int(row.addressed), 1.0)
    found = row.known.get("harassment")
    return found if found is not None and found[0] == 0 else None


def _strict(row: TrainingRow, _: str) -> Target | None:
    """One rater is enough."""
    return None if row.agreement is None else (int(row.agreement > 0), 0.8)


def _permissive(row: TrainingRow, _: str) -> Target | None:
    """No rater may differ."""
    return None if row.agreement is None else (int(row.agreement == 1), 0.8)


def _function_only(row: TrainingRow, name: str) -> Target | None:
    return _by_use(row, name, lambda use, named: use == named)


def _function_counted(row: TrainingRow, name: str) -> Target | None:
    return _by_use(row, name, lambda use, named: use in ("plain", named))


def _mention_except(row: TrainingRow, name: str) -> Target | None:
    return _by_use(row, name, lambda use, named: use not in ("neutral", named))


def _reversed(row: TrainingRow, area: str) -> Target | None:
    """Everything but the area violates: whatever a rater, or we for our own text, said of it is turned round."""
    found = row.known.get(area)
    return None if found is None or found[1] < 0.5 else (1 - found[0], found[1] if found[0] else found[1] * 0.6)


def _either(row: TrainingRow, areas: str) -> Target | None:
    one, other = (row.known.get(area) for area in areas.split("/"))
    positive = [found for found in (one, other) if found is not None and found[0]]
    if positive:
        return max(positive, key=lambda found: found[1])
    return None if one is None or other is None else (0, min(one[1], other[1]))


def _without(row: TrainingRow, areas: str) -> Target | None:
    """The first area's texts, save those that fall under the second too: an Excludes overrides an Includes."""
    one, other = (row.known.get(area) for area in areas.split("/"))
    if one is None or not one[0]:
        return one
    return None if other is None else (1 - other[0], min(one[1], other[1]))


def _by_use(row: TrainingRow, name: str, violates: Callable[[str, str], bool]) -> Target | None:
    """`name` is `subject/use`. Our own texts alone say what they do with a statement; a text of another subject is outside."""
    if not row.function:
        return None
    subject, _, use = name.partition("/")
    return (int(row.subject == subject and violates(row.function, use)), 1.0)


_RULES = {
    "area": _area,
    "inverted": _inverted,
    "scoped": _scoped,
    "except_group": _except,
    "threats_only": _threats,
    "profanity_allowed": _profanity_allowed,
    "topic": _topic,
    "ground": _ground,
    "direct_abuse_only": _direct,
    "strict": _strict,
    "permissive": _permissive,
    "function_only": _function_only,
    "function_counted": _function_counted,
    "mention_except": _mention_except,
    "reversed": _reversed,
    "either": _either,
    "without": _without,
}
