"""`guardrail evaluate compare`: two runs over the same texts, side by side."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click

from guardrail.config.environment import process_environment
from guardrail.evaluation.comparison import Place, Run, compare
from guardrail.evaluation.comparison_plot import picture
from guardrail.evaluation.comparison_report import document, markdown
from guardrail.evaluation.dataset import Item, read_file
from guardrail.evaluation.predictions import RunInfo, read_run

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command("compare")
@click.argument("first", type=FOLDER, metavar="A")
@click.argument("second", type=FOLDER, metavar="B")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write comparison.md, .json and .svg into this folder.")
@click.option("--versions", is_flag=True, help="Policies of one id may have different texts: compare versions of a policy.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of Markdown.")
def compare_runs(first: Path, second: Path, out: Path | None, versions: bool, seed: int, as_json: bool) -> None:
    """Compare two runs of `guardrail evaluate run`: flips both ways, McNemar's test, Cohen's kappa, curves side by side.

    Intervals are drawn by unit where the runs' sets are found unaltered in GUARDRAIL_DATA, else by text.
    """
    ours, theirs = Run(*read_run(first)), Run(*read_run(second))
    folder = process_environment().data_folder
    items = items_of(ours.info, folder) if folder is not None else {}
    units = {place: item.unit for place, item in items.items()}
    comparison = compare(_staged(ours, items), _staged(theirs, items), units, versions=versions, seed=seed)
    found = json.dumps(document(comparison), ensure_ascii=False, indent=1)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "comparison.svg").write_text(picture(comparison), encoding="utf-8")
        (out / "comparison.json").write_text(found + "\n", encoding="utf-8")
        (out / "comparison.md").write_text(markdown(comparison, plot="comparison.svg"), encoding="utf-8")
    click.echo(found if as_json else markdown(comparison), nl=as_json)


def _staged(run: Run, items: Mapping[Place, Item]) -> Run:
    """The run with what its texts are, prompts or answers, where an older one does not say."""
    found = {
        key: replace(each, stage=items[place].stage) if each.stage is None and (place := (each.set, each.item)) in items else each
        for key, each in run.found.items()
    }
    return Run(run.info, found)


def items_of(info: RunInfo, folder: Path) -> Mapping[Place, Item]:
    """The rows of sets that are there as they were."""
    found: dict[Place, Item] = {}
    for each in info.sets:
        path = folder / f"{each.name}.jsonl.gz"
        if path.is_file() and (data := read_file(path, each.name)).sha256 == each.sha256:
            found |= {(item.set, item.id): item for item in data.items}
    return found
