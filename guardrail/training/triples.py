"""Contradictory examples on disk: (policy text, content, label) triples for any trainer, and a manifest of their making."""

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from guardrail.errors import GuardrailError
from guardrail.training import contradictory, contrasts
from guardrail.training.compositions import Composer
from guardrail.training.contradictory import Builder, Contradictions, Step
from guardrail.training.rows import TrainingRow
from guardrail.training.spellings import spelled
from guardrail.training.variants import Wordings

RECONSTRUCTION = (
    "CoPE's paper names contradictory examples but publishes neither their proportions nor their order; share, kinds, mixture, balance "
    "and order here are this project's reconstruction."
)
OWN_LICENCE = "Apache-2.0"
MANIFEST, TRIPLES = "manifest.json", "triples.jsonl"


def triples(steps: Iterable[Step], wordings: Wordings, *, seed: int, held_out: bool = False) -> Iterator[dict[str, Any]]:
    """One record a known pair: `policy` (CoPE-format text), `content`, `label`, `weight`, `aim`, `kind`, `source`, `unit`, `step`.

    Pairs of a step share its policies, so that texts with opposite labels stand together.
    """
    composer = Composer(wordings, {})
    for number, step in enumerate(steps):
        random_ = random.Random(f"triples:{seed}:{number}")  # noqa: S311  (sampling, not secrecy)
        policies = [spelled(composer.draw(aim, random_), random_, held_out=held_out) for aim in step.aims]
        for row, answers in zip(step.rows, step.answers, strict=True):
            for aim, policy, answer in zip(step.aims, policies, answers, strict=True):
                if answer is not None:
                    yield {
                        "step": number,
                        "kind": step.kind,
                        "aim": f"{aim.kind}:{aim.name}".rstrip(":"),
                        "policy": policy,
                        "content": row.text,
                        "label": answer[0],
                        "weight": answer[1],
                        "source": row.source,
                        "unit": row.unit,
                    }


def survey(steps: Iterable[Step]) -> dict[str, Any]:
    """What steps are made of: of each kind its steps, texts, texts with opposite labels and pairs; of each policy its labels."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    aims: dict[str, Counter[str]] = defaultdict(Counter)
    for step in steps:
        kinds[step.kind].update(steps=1, texts=len(step.rows), opposed=step.opposed())
        for answers in step.answers:
            for aim, answer in zip(step.aims, answers, strict=True):
                if answer is not None:
                    label = "positive" if answer[0] else "negative"
                    kinds[step.kind][label] += 1
                    aims[f"{aim.kind}:{aim.name}".rstrip(":")][label] += 1
    return {"kinds": _plain(kinds), "policies": _plain(aims)}


def manifest(rows: Sequence[TrainingRow], recipe: Contradictions, found: Mapping[str, Any], *, seed: int, data: Path) -> dict[str, Any]:
    """Everything that decided the examples. `found` is their survey, `data` the folder whose SETS.json names the licences.

    Raises GuardrailError when a row comes from a set that may not train shipped weights.
    """
    sets = {entry["name"]: entry for entry in json.loads((data / "SETS.json").read_text(encoding="utf-8"))}
    sources: dict[str, dict[str, Any]] = {}
    for name, count in sorted(Counter(row.source for row in rows).items()):
        own = name.startswith("own:")
        if not own and not sets.get(name, {}).get("train_ok"):
            raise GuardrailError(f"{data / 'SETS.json'}: {name} is not marked train_ok; it must not train shipped weights")
        sources[name] = {"rows": count, "licence": OWN_LICENCE if own else sets[name].get("licence", "unknown")}
    return {
        "note": RECONSTRUCTION,
        "seed": seed,
        "recipe": asdict(recipe),
        "rows_sha256": rows_digest(rows),
        "sources": sources,
        "held_out": {
            "groups": sorted(contradictory.HELD_GROUPS),
            "uses": sorted(contradictory.HELD_USES),
            "topics": f"the last {contradictory.HELD_TOPICS:.0%} of the topics",
            "wordings": "the last of each list, the last spelling, and the last core and frame of our own contrasts",
        },
        "uses": {subject: list(contrasts.functions(subject)) for subject in contrasts.subjects()},
        **found,
    }


def steps_of(builder: Builder, recipe: Contradictions, *, seed: int, steps: int) -> Iterator[Step]:
    """The contradiction steps of a run of `steps`, in its order: exactly those its sampler draws."""
    return (builder.step(seed, number) for number in range(steps) if recipe.falls_on(number, steps, seed))


def write(folder: Path, records: Iterable[Mapping[str, Any]], described: Mapping[str, Any]) -> int:
    """Write `triples.jsonl` and `manifest.json` (with the triples' count and sha256); returns the count."""
    folder.mkdir(parents=True, exist_ok=True)
    digest, count = hashlib.sha256(), 0
    with (folder / TRIPLES).open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            line = json.dumps(record, ensure_ascii=False) + "\n"
            digest.update(line.encode())
            file.write(line)
            count += 1
    write_manifest(folder / MANIFEST, {**described, "triples": {"count": count, "sha256": digest.hexdigest()}})
    return count


def write_manifest(path: Path, described: Mapping[str, Any]) -> str:
    """Write a manifest and return its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(described, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def rows_digest(rows: Iterable[TrainingRow]) -> str:
    """sha256 over all that the rows' labels follow from, in order."""
    digest = hashlib.sha256()
    for row in rows:
        told = [row.source, row.text, sorted(row.known.items()), sorted(row.groups), sorted(row.grounds), row.severity, row.topic, row.near]
        digest.update(json.dumps([*told, row.addressed, row.agreement, row.function, row.subject]).encode())
    return digest.hexdigest()


def _plain(counts: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {name: dict(sorted(count.items())) for name, count in sorted(counts.items())}
