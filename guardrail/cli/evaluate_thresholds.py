"""`guardrail evaluate thresholds`: the policies' thresholds chosen together, from a card's stored judgements."""

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import click

from guardrail.cli.evaluate_card import Job
from guardrail.cli.evaluate_outputs import OF, rewrite_threshold
from guardrail.config.environment import process_environment
from guardrail.errors import GuardrailError
from guardrail.evaluation.card import Measured, measured
from guardrail.evaluation.joint import Sheet
from guardrail.evaluation.joint_report import answer_sheets, document, joint, markdown, prompt_sheet, sheets, texts
from guardrail.evaluation.predictions import RunInfo, read_run
from guardrail.evaluation.suite import shipped_suite
from guardrail.policy.lint import USUAL
from guardrail.types import Policy, Stage

NAMES = {Stage.INPUT: "prompts", Stage.OUTPUT: "answers"}


@click.command("thresholds")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="CARD")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Folder of the labelled sets (default: GUARDRAIL_DATA).")
@click.option(
    "--stage", type=click.Choice([each.value for each in Stage]), default="input", show_default=True, help="Of prompts, or answers."
)
@click.option("--sets", metavar="NAME,…", help="Sets whose F1 counts (default: all of the card). Harmless ones always limit prompts.")
@click.option(
    "--budget", type=click.FloatRange(0, 1), default=0.015, show_default=True, help="Share of harmless texts that may be flagged."
)
@click.option("--each", type=click.FloatRange(0, 1), help="Also of every harmless set (default: of all together alone).")
@click.option(
    "--prompts", "share", type=click.FloatRange(0, 1), help="For answers: share of the harmless prompts that may be flagged as if answers."
)
@click.option("--lower", is_flag=True, help="Choose none above what it is now: nothing that is flagged today is let through.")
@click.option("--folds", type=click.IntRange(2, 20), default=5, show_default=True, help="Parts that the units are dealt into.")
@click.option(
    "--write",
    "policies_folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Put them into this folder's policies.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of Markdown.")
def thresholds(
    folder: Path,
    data: Path | None,
    stage: str,
    sets: str | None,
    budget: float,
    each: float | None,
    share: float | None,
    lower: bool,
    folds: int,
    policies_folder: Path | None,
    as_json: bool,
) -> None:
    """Propose thresholds of all policies at once: the best mean F1 over labelled sets within a budget of flagged harmless texts.

    CARD is the folder of `guardrail evaluate card`. Every policy weighs the same, however many sets are about it. Nothing is judged.
    For prompts (and posts), harmless are the suite's benign sets; --stage output chooses from answers alone, where harmless are those that
    the sets say violate nothing. Only that stage's thresholds are proposed and written, none raised above what lint accepts. Exits 1 when
    no thresholds keep the limits.
    """
    where = data or process_environment().data_folder
    if where is None:
        raise GuardrailError("no labelled data: give --data FOLDER or set GUARDRAIL_DATA")
    info, found = read_run(folder)
    job = _job(info, where)
    wanted = {part.strip() for part in sets.split(",")} if sets else set(job.suite.sets)
    job.suite.only(wanted)
    of = Stage(stage)
    if share is not None and of is Stage.INPUT:
        raise click.UsageError("--prompts is for --stage output; prompts have --budget and --each")
    goals = _goals(measured(job.suite, job.asked, found, job.policies), job, wanted, Budgets(of, budget, each, share))
    if not any(sheet.limit is None for sheet in goals):
        raise GuardrailError(
            f"{folder} holds no set of {NAMES[of]} with both labels to choose thresholds on; run `guardrail evaluate card` over some first,"
            " or choose for the other --stage"
        )
    proposed = joint(goals, {policy.id: policy.threshold_at(of) for policy in job.policies}, folds=folds, highest=USUAL[1], lower=lower)
    click.echo(json.dumps(document(proposed), indent=1) if as_json else markdown(proposed))
    if policies_folder is not None:
        for line in _write(policies_folder, job.policies, proposed.proposed, of):
            click.echo(line, err=True)
    if not proposed.kept:
        raise click.exceptions.Exit(1)


def _job(info: RunInfo, data: Path) -> Job:
    """The part of the suite that the card is about. Raises GuardrailError when its sets or policies are no longer what they were."""
    known = [name for name in shipped_suite().sets if name in {each.name for each in info.sets}]
    job = Job.of(shipped_suite().only(known), data, limit=None, seed=0, batch=info.batch)
    same = RunInfo(info.classifier, job.info.policies, job.info.sets)
    if differing := same.differences(info, growing=True):
        raise GuardrailError(f"the card was made of something else ({', '.join(differing)} differed); run `guardrail evaluate card` again")
    return job


@dataclass(frozen=True, slots=True)
class Budgets:
    """Shares of harmless texts that may be flagged in a stage: of all together, of each set, and for answers of the prompts."""

    stage: Stage
    budget: float
    each: float | None
    prompts: float | None


def _goals(tasks: Sequence[Measured], job: Job, wanted: Set[str], asked: Budgets) -> list[Sheet]:
    """What is to be reached within the budgets. Raises GuardrailError where one of them would limit nothing."""
    names = [policy.id for policy in job.policies]
    mine = texts(tasks, lambda item: item.stage is asked.stage)
    if asked.stage is Stage.INPUT:
        limited = [task for task in mine if task.task.set in wanted or "flagged" in task.task.bars or task.task.area == "benign"]
        return sheets(limited, job.suite, names, budget=asked.budget, each=asked.each)
    goals = answer_sheets([task for task in mine if task.task.set in wanted], names, budget=asked.budget, each=asked.each)
    if goals and all(sheet.limit is None for sheet in goals):
        raise GuardrailError("no set says of answers that they violate nothing, so the budget would limit none; add one to --sets")
    benign = [task for task in tasks if task.task.set in job.suite.benign and task.task.area == "benign"]
    if asked.prompts is not None and not benign:
        raise GuardrailError(f"the card holds no harmless prompts for --prompts; measure {', '.join(shipped_suite().benign)} into it, too")
    return goals if asked.prompts is None else [*goals, prompt_sheet(benign, names, asked.prompts)]


def _write(folder: Path, policies: Sequence[Policy], proposed: Mapping[str, float], stage: Stage) -> Iterator[str]:
    for policy in policies:
        path = folder / f"{policy.id}.md"
        if not path.is_file():
            raise GuardrailError(f"{path}: there is no such policy; --write takes the folder with the policies' files")
        rewrite_threshold(path, proposed[policy.id], stage)
        yield f"{path}: threshold {policy.threshold_at(stage):g} -> {proposed[policy.id]:g} {OF[stage]}"
