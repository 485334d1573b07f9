"""`guardrail evaluate card`: every published number of a classifier's quality, from one command."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from guardrail.cli.evaluate_options import chosen_classifier, chosen_policies, classifier_option, config_option
from guardrail.cli.training_examples import training_examples
from guardrail.config.environment import process_environment
from guardrail.errors import GuardrailError
from guardrail.evaluation.baseline_tfidf import TfidfClassifier
from guardrail.evaluation.card import CardRow, card, measured
from guardrail.evaluation.card_report import Card, document, markdown, write_block
from guardrail.evaluation.dataset import DataSet, open_set
from guardrail.evaluation.machine import describe
from guardrail.evaluation.predictions import PolicyUsed, RunInfo, SetUsed, read_run
from guardrail.evaluation.run import ask
from guardrail.evaluation.suite import Questions, Suite, questions, shipped_suite
from guardrail.interfaces import Classifier
from guardrail.types import Policy

BASELINES = ("keywords", "tfidf")


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked, whatever answers: a suite over its sets under policies."""

    suite: Suite
    data: tuple[DataSet, ...]
    policies: tuple[Policy, ...]
    asked: Questions
    info: RunInfo

    @classmethod
    def of(cls, suite: Suite, folder: Path, *, limit: int | None, seed: int, batch: int) -> "Job":
        """Read the sets of a suite. Raises GuardrailError for one that is missing."""
        data = tuple(open_set(name, folder) for name in suite.sets)
        policies = chosen_policies(())
        asked = questions(suite, data, policies, limit=limit, seed=seed)
        rows = {name: sum(item.set == name for item, _ in asked.asked) for name in suite.sets}
        info = RunInfo(
            classifier="",
            policies=tuple(map(PolicyUsed.of, policies)),
            sets=tuple(SetUsed(each.name, each.sha256, rows[each.name]) for each in data),
            seed=seed,
            batch=batch,
            limit=limit,
            machine=describe(),
        )
        return cls(suite, data, policies, asked, info)

    async def run(self, opening: AbstractAsyncContextManager[Classifier], out: Path, title: str) -> tuple[RunInfo, tuple[CardRow, ...]]:
        """Ask what is missing in the folder, and measure what is there then."""
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bar(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=None)
            async with opening as classifier:
                info = replace(self.info, classifier=classifier.id)
                async for progress in ask(classifier, self.asked.asked, info, out, growing=True):
                    bar.update(task, total=progress.total, completed=progress.done)
        return info, self.rows(out)

    def rows(self, out: Path) -> tuple[CardRow, ...]:
        """What the folder's answers make of the suite."""
        tasks = measured(self.suite, self.asked, read_run(out)[1], self.policies)
        return tuple(card(self.suite, tasks, self.info.thresholds()))


def _named(_: click.Context, __: click.Parameter, value: Sequence[str]) -> dict[str, Path]:
    pairs = [part.partition("=") for part in value]
    if not all(name and folder for name, _, folder in pairs):
        raise click.BadParameter("write NAME=FOLDER, as in before=runs/card-before")
    return {name: Path(folder) for name, _, folder in pairs}


@click.command("card")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Folder of the labelled sets (default: GUARDRAIL_DATA).")
@classifier_option
@config_option
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/card"), show_default=True, help="Answers; goes on."
)
@click.option("--sets", metavar="NAME,…", help="Only these sets of the suite (default: all).")
@click.option("--bars", is_flag=True, help="Only what has a bar.")
@click.option("--limit", type=click.IntRange(1), help="At most so many texts of each set, drawn by --seed (default: all).")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--batch", type=click.IntRange(1, 4096), default=64, show_default=True, help="Texts in one call.")
@click.option(
    "--baselines", is_flag=True, help="Beside the baselines, over the same texts: keywords, and TF-IDF trained on the training sets."
)
@click.option(
    "--beside", "others", multiple=True, callback=_named, metavar="NAME=FOLDER", help="Beside another card's answers; repeatable."
)
@click.option(
    "--write", "documents", multiple=True, type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Put the table there."
)
@click.option(
    "--results", type=click.Path(path_type=Path, file_okay=False), help="Also write DATE-evaluation.json and .md into this folder."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a Markdown table.")
def card_command(
    data: Path | None,
    name: str,
    config_path: Path | None,
    out: Path,
    sets: str | None,
    bars: bool,
    limit: int | None,
    seed: int,
    batch: int,
    baselines: bool,
    others: Mapping[str, Path],
    documents: Sequence[Path],
    results: Path | None,
    as_json: bool,
) -> None:
    """Measure a classifier under the shipped policies on the whole suite of labelled sets, held against the suite's bars.

    Texts are judged once under all policies they need. Called again with the same --out it asks only for what is missing: other sets, a
    higher limit, what failed. --write fills the lines between `<!-- evaluation -->` (or `<!-- evaluation: short -->`) and
    `<!-- /evaluation -->` of a document. Exits 1 when something could not be judged.
    """
    folder = data or process_environment().data_folder
    if folder is None:
        raise GuardrailError("no labelled data: give --data FOLDER or set GUARDRAIL_DATA")
    suite = shipped_suite().only([part.strip() for part in sets.split(",")] if sets else (), bars=bars)
    job = Job.of(suite, folder, limit=limit, seed=seed, batch=batch)
    found = asyncio.run(_all(job, chosen_classifier(name, config_path), out, folder if baselines else None))
    found = replace(found, beside={**found.beside, **{title: job.rows(place) for title, place in others.items()}})
    told = json.dumps(document(found), ensure_ascii=False, indent=1) + "\n"
    table = markdown(found)
    files: Mapping[Path, str] = {out / "card.json": told, out / "card.md": table + "\n"}
    if results is not None:
        results.mkdir(parents=True, exist_ok=True)
        stem = f"{datetime.now(UTC):%Y-%m-%d}-evaluation"
        files = {**files, results / f"{stem}.json": told, results / f"{stem}.md": table + "\n"}
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    for path in documents:
        write_block(path, found)
    click.echo(told if as_json else table, nl=not as_json)
    if found.failed:
        raise click.exceptions.Exit(1)


async def _all(job: Job, opening: AbstractAsyncContextManager[Classifier], out: Path, training: Path | None) -> Card:
    info, rows = await job.run(opening, out, "judging")
    others: dict[str, tuple[CardRow, ...]] = {}
    for name in BASELINES if training is not None else ():
        if name == "tfidf" and training is not None:
            learnt = _Trained(training)
            others[name] = (await job.run(learnt, out / name, name))[1]
        else:
            others[name] = (await job.run(chosen_classifier(name, None), out / name, name))[1]
    return Card(info, rows, job.asked.empty, others)


class _Trained(AbstractAsyncContextManager[Classifier]):
    """The TF-IDF baseline, trained when it is opened."""

    def __init__(self, data: Path) -> None:
        self._data = data

    async def __aenter__(self) -> Classifier:
        return TfidfClassifier.train(training_examples(self._data), folds=1)

    async def __aexit__(self, *_: object) -> None:
        return None
