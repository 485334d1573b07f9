"""The shipped suite of `guardrail evaluate card`: rows of the table, the texts behind each, and what is asked about them."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from guardrail.errors import GuardrailError
from guardrail.evaluation.dataset import DataSet, Item, in_any_area
from guardrail.evaluation.predictions import Key
from guardrail.evaluation.run import ANY, AREAS
from guardrail.types import Policy
from guardrail.units import held_out, unit_of

FILE = Path(__file__).with_name("suite.yaml")
AT_MOST = frozenset({"flagged"})  # bars that are not to be exceeded; all others are to be reached
METRICS = frozenset({"f1", "auc", "auprc", "flagged"})

Place = tuple[str, str, str | None]


@dataclass(frozen=True, slots=True)
class Task:
    """A row of the table: the rows of a set in one area (ANY: each text once) under one policy, or (`asked` is ANY) under all."""

    set: str
    area: str
    asked: str
    bars: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    trained: bool = False

    @property
    def name(self) -> str:
        """Set, area and policy, unlike any other task's."""
        return f"{self.set}/{self.area}/{self.asked}"

    def policies(self, known: Sequence[Policy]) -> tuple[Policy, ...]:
        """Those that are asked, of all there are."""
        return tuple(policy for policy in known if self.asked in (ANY, policy.id))


@dataclass(frozen=True, slots=True)
class Suite:
    """Tasks, and the sets of harmless texts that are also counted together, with what is asked of them then."""

    tasks: tuple[Task, ...]
    benign: tuple[str, ...]
    benign_bars: Mapping[str, float]

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the sets, each once."""
        return tuple(dict.fromkeys(task.set for task in self.tasks))

    def only(self, sets: Iterable[str] = (), *, bars: bool = False) -> "Suite":
        """The tasks of some sets (none: of all) and, on request, those with a bar alone. Raises GuardrailError for an unknown set."""
        wanted = list(sets)
        if unknown := sorted(set(wanted) - set(self.sets)):
            raise GuardrailError(f"the suite has no set {', '.join(unknown)}; it has: {', '.join(self.sets)}")
        tasks = tuple(task for task in self.tasks if (not wanted or task.set in wanted) and (task.bars or not bars))
        if not tasks:
            raise GuardrailError("none of these sets has a bar in the suite; leave out --bars")
        kept = {task.set for task in tasks}
        return Suite(tasks, tuple(name for name in self.benign if name in kept), self.benign_bars)


@cache
def shipped_suite() -> Suite:
    """The suite that comes with the package."""
    return read_suite(FILE)


def read_suite(path: Path) -> Suite:
    """A suite file. Raises GuardrailError for one that is malformed."""
    try:
        told: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        tasks = tuple(_task(entry, frozenset(told["trained"])) for entry in told["tasks"])
        suite = Suite(tasks, tuple(told["benign"]["sets"]), _bars(told["benign"]["bars"]))
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise GuardrailError(f"{path}: this is no suite: {error}") from error
    if len({task.name for task in suite.tasks}) != len(suite.tasks):
        raise GuardrailError(f"{path}: two tasks are the same")
    return suite


def _task(entry: Mapping[str, Any], trained: frozenset[str]) -> Task:
    area = str(entry["area"])
    asked = str(entry.get("asked") or (ANY if area == ANY else AREAS.get(area, area)))
    if unknown := set(entry) - {"set", "area", "asked", "bars"}:
        raise ValueError(f"task {entry['set']}: unknown keys {', '.join(sorted(unknown))}")
    return Task(str(entry["set"]), area, asked, _bars(entry.get("bars", {})), entry["set"] in trained)


def _bars(told: Mapping[str, float]) -> Mapping[str, float]:
    if unknown := set(told) - METRICS:
        raise ValueError(f"no bar can be set for {', '.join(sorted(unknown))}; only for {', '.join(sorted(METRICS))}")
    return MappingProxyType({name: float(bar) for name, bar in told.items()})


@dataclass(frozen=True, slots=True)
class Questions:
    """What a suite asks. `items`: the rows of each task, by its name. `asked`: each text once with the policies it is asked under.

    `places` leads from a text (set, text, context) to the row under which its answers are kept: the set's first that has it.
    """

    items: Mapping[str, tuple[Item, ...]]
    asked: tuple[tuple[Item, tuple[Policy, ...]], ...]
    places: Mapping[Place, str]

    @property
    def empty(self) -> tuple[str, ...]:
        """Set and area of each task without a text to measure."""
        return tuple(name.rpartition("/")[0] for name, items in self.items.items() if not items)

    def key(self, item: Item, policy: Policy) -> Key:
        """Under which key the prediction about an item's text is found."""
        return (item.set, self.places[_place(item)], *policy.key)


def questions(suite: Suite, data: Iterable[DataSet], policies: Sequence[Policy], *, limit: int | None = None, seed: int = 0) -> Questions:
    """The texts of a suite's tasks and what is asked about each; a text of several tasks or areas is asked once under each policy.

    `limit`: so many texts of each set at most, drawn by `seed`; those of a lower limit are among those of a higher one.
    Raises GuardrailError when a task's policy is not there.
    """
    items: dict[str, tuple[Item, ...]] = {}
    asked: list[tuple[Item, tuple[Policy, ...]]] = []
    places: dict[Place, str] = {}
    known: set[tuple[Place, tuple[str, str]]] = set()
    for each in data:
        for item in each.items:
            places.setdefault(_place(item), item.id)
        tasks = [task for task in suite.tasks if task.set == each.name]
        of = {task.name: _rows(task, each) for task in tasks}
        kept = _drawn({_place(item) for rows in of.values() for item in rows}, limit, seed)
        items |= {name: tuple(item for item in rows if _place(item) in kept) for name, rows in of.items()}
        mine: dict[Place, list[tuple[Item, tuple[Policy, ...]]]] = {}
        for task in sorted(tasks, key=lambda task: task.asked == ANY):  # a label about one policy says more than one about any
            if not task.policies(policies):
                raise GuardrailError(f"the suite asks the policy {task.asked} about {task.set}, and it is not among the policies")
            for item in items[task.name]:
                place = _place(item)
                new = tuple(policy for policy in task.policies(policies) if (place, policy.key) not in known)
                known |= {(place, policy.key) for policy in new}
                if new:
                    mine.setdefault(place, []).append((replace(item, id=places[place]), new))
        asked += [question for about in mine.values() for question in about]
    return Questions(items, tuple(asked), places)


def _rows(task: Task, data: DataSet) -> list[Item]:
    rows = [item for item in data.items if item.lang == "en" and item.label is not None]
    if task.trained:
        rows = list(_never_trained_on(rows))
    if task.area == ANY:
        if not rows:
            return []
        merged = in_any_area(DataSet(data.name, data.sha256, tuple(rows))).items
        return [replace(item, set=data.name) for item in merged]
    return [item for item in rows if item.area == task.area]


def _never_trained_on(rows: Sequence[Item]) -> Iterator[Item]:
    """Training takes a text once, under the unit of the first row that has it; so does this."""
    first: dict[str, str] = {}
    for item in rows:
        first.setdefault(item.text, unit_of(item.set, item.unit, item.id))
    return (item for item in rows if held_out(first[item.text]))


def _place(item: Item) -> Place:
    return (item.set, item.text, item.context)


def _drawn(places: Iterable[Place], limit: int | None, seed: int) -> set[Place]:
    found = set(places)
    if limit is None or len(found) <= limit:
        return found
    return set(sorted(found, key=lambda place: hashlib.sha256(f"{seed}\0{place}".encode("utf-8", "surrogatepass")).digest())[:limit])
