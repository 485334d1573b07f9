"""`guardrail bench quality`: how well a classifier judges labelled data at the shipped thresholds."""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from guardrail.assembly import open_classifier
from guardrail.config.environment import process_environment
from guardrail.errors import GuardrailError
from guardrail.evaluation.benchmark import TASKS, Line, markdown, score_tasks
from guardrail.policy.registry import load_folder, shipped_folder


@click.command()
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Folder of the labelled sets (default: GUARDRAIL_DATA).")
@click.option("--classifier", "name", default="embedded", show_default=True, help="`embedded`, or a factory's import string.")
@click.option("--limit", type=click.IntRange(1), help="At most so many texts of each set, evenly spaced (default: all).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a Markdown table.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the Markdown table into this file.")
def quality(data: Path | None, name: str, limit: int | None, as_json: bool, out: Path | None) -> None:
    """Measure a classifier under the shipped policies and their thresholds on labelled sets, and print the table."""
    where = data or process_environment().data_folder
    if where is None:
        raise GuardrailError("no labelled data: give --data FOLDER or set GUARDRAIL_DATA")
    classifier_id, lines = asyncio.run(_measure(where, name, limit))
    text = f"Classifier `{classifier_id}`.\n\n{markdown(lines)}"
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    if as_json:
        click.echo(json.dumps({"classifier": classifier_id, "lines": [asdict(line) for line in lines]}, indent=1))
    else:
        click.echo(text)


async def _measure(data: Path, name: str, limit: int | None) -> tuple[str, list[Line]]:
    policies = load_folder(shipped_folder())
    thresholds = {policy.id: policy.threshold for policy in policies}
    lines: list[Line] = []
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("sets", total=len(TASKS))
        async with open_classifier(name) as classifier:
            async for scored in score_tasks(classifier, policies, data, limit=limit):
                lines.append(scored.line(thresholds))
                bar.update(task, advance=1, description=scored.task.set)
            return classifier.id, lines
