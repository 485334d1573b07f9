"""A sweep's trial as a command: any trainer that takes its settings as arguments and leaves its numbers in a JSON file."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from guardrail.errors import GuardrailError
from guardrail.training.sweep import STEPS, Parameter, Value

SHIPPED = Path(__file__).with_name("sweeps")
PLACE = re.compile(r"\{(\w+)\}")
KINDS = ("uniform", "log", "integer", "choice")
OUTPUT = "output.txt"
GIVEN = frozenset({STEPS, "seed", "folder"})


@dataclass(frozen=True, slots=True)
class Spec:
    """A trainer's command with places for settings in braces, its file of numbers, what to rank by, and what may be tried.

    A file in YAML: `command` (a list of words; `guardrail` is this one), `metrics` (the JSON file), `metric` (the name of a number in it,
    with dots into objects and lists), `goal` (highest or lowest), `parameters`: each `uniform: [low, high]`, `log: [low, high]`,
    `integer: [low, high]` or `choice: [...]`, and perhaps `default`. Always there: {steps}, {seed}, {folder}.
    """

    command: tuple[str, ...]
    metrics: str
    metric: str
    highest: bool
    parameters: tuple[Parameter, ...]


def read_spec(wanted: str) -> Spec:
    """A spec by the path of its file, or one that ships by its name. Raises GuardrailError for one that is missing or malformed."""
    path = Path(wanted) if wanted.endswith((".yaml", ".yml")) else SHIPPED / f"{wanted}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in SHIPPED.glob("*.yaml")))
        raise GuardrailError(f"{path}: there is no such sweep; name a .yaml file, or one of {known}")
    try:
        told: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        spec = Spec(
            tuple(map(str, told["command"])),
            str(told["metrics"]),
            str(told["metric"]),
            {"highest": True, "lowest": False}[told.get("goal", "highest")],
            tuple(_parameter(name, entry) for name, entry in told["parameters"].items()),
        )
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise GuardrailError(f"{path}: this is no sweep: {error}") from error
    asked = {name for word in (*spec.command, spec.metrics) for name in PLACE.findall(word)}
    names = {each.name for each in spec.parameters}
    if unknown := sorted(asked - names - GIVEN):
        raise GuardrailError(f"{path}: the command asks for {', '.join(unknown)}, which is no parameter")
    if idle := sorted(names - asked):
        raise GuardrailError(f"{path}: the command has no place for {', '.join(idle)}; write it in braces")
    return spec


def _parameter(name: str, entry: Mapping[str, Any]) -> Parameter:
    kinds = [kind for kind in KINDS if kind in entry]
    if len(kinds) != 1 or set(entry) - {*KINDS, "default"}:
        raise ValueError(f"{name} needs one of {', '.join(KINDS)}, and perhaps a default")
    kind, values = kinds[0], entry[kinds[0]]
    if kind == "choice":
        return Parameter(name, kind, choices=tuple(values), default=entry.get("default"))
    low, high = map(float, values)
    if not low < high or (kind == "log" and low <= 0):
        raise ValueError(f"{name} needs two rising numbers{', both above 0' if kind == 'log' else ''}")
    return Parameter(name, kind, low, high, default=entry.get("default"))


@dataclass(frozen=True, slots=True)
class CommandTrial:
    """Runs a spec's command in a process of its own, with `more` words behind it, and reads the numbers it leaves beside `metric`."""

    spec: Spec
    metric: str
    more: Sequence[str] = ()

    def __call__(self, settings: Mapping[str, Value], seed: int, folder: Path) -> Mapping[str, float]:
        """The numbers of a trial by name. Raises GuardrailError when the command fails or leaves none; `output.txt` holds what it said."""
        folder.mkdir(parents=True, exist_ok=True)
        known = {**settings, "seed": seed, "folder": folder}
        words = [PLACE.sub(lambda found: str(known[found[1]]), word) for word in self.spec.command]
        command = [*([sys.executable, "-m", "guardrail"] if words[0] == "guardrail" else words[:1]), *words[1:], *self.more]
        with (folder / OUTPUT).open("w", encoding="utf-8") as output:
            try:
                done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)  # noqa: S603  (the operator's own words)
            except OSError as error:
                raise GuardrailError(f"{command[0]}: cannot be run: {error}") from error
        if done.returncode:
            said = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise GuardrailError(f"it exited with {done.returncode}: {said[-1].strip() if said else 'without a word'}")
        path = Path(PLACE.sub(lambda found: str(known[found[1]]), self.spec.metrics))
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise GuardrailError(f"{path}: the numbers cannot be read: {error}") from error
        return _chosen(dict(_numbers(told, "")), self.metric)


def _numbers(told: object, name: str) -> Iterator[tuple[str, float]]:
    """Every number of a document by its path; the last of a list also as -1."""
    if isinstance(told, bool):
        return
    if isinstance(told, int | float):
        yield name, float(told)
    elif isinstance(told, Mapping):
        for key, inner in told.items():
            yield from _numbers(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(told, list) and told:
        yield from _numbers(told[-1], f"{name}.-1")


def _chosen(found: Mapping[str, float], metric: str) -> dict[str, float]:
    """The metric and the numbers beside it in the same object; a document may hold hundreds."""
    place = metric.rpartition(".")[0]
    return {name: value for name, value in found.items() if name.rpartition(".")[0] == place}
