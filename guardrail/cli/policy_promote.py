"""`guardrail policy promote`: a version on trial is put into force, where its tests and the bounds allow it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from guardrail.cli.policy import MIN_RATE
from guardrail.cli.policy_texts import Found, Texts, judge, text_options, versioned
from guardrail.config.load import load
from guardrail.errors import GuardrailError
from guardrail.evaluation.policy_comparison import Bounds
from guardrail.policy import document, promotion, writer
from guardrail.policy.trial import Trial
from guardrail.types import Policy

_RATE = click.FloatRange(0, 1)


@click.command()
@click.argument("policy_id", metavar="ID")
@click.option(
    "--candidate", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True, help="File of the version on trial."
)
@click.option("--change", help="What changes and why, one line for `## Changes`; needed where the candidate's own entry is missing.")
@click.option(
    "--step",
    type=click.Choice(["major", "minor", "patch"]),
    default="minor",
    show_default=True,
    help="Version step, where the candidate's is not above.",
)
@text_options
@click.option(
    "--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of the policy (default: the configuration's)."
)
@click.option("--min-texts", type=click.IntRange(0), default=100, show_default=True, help="Texts that must be judged by both versions.")
@click.option(
    "--max-flips", type=_RATE, default=0.05, show_default=True, help="Share of verdicts that may change; unjudged texts count as changed."
)
@click.option("--min-agreement", type=click.FloatRange(-1, 1), help="Least Cohen's kappa of the two versions.")
@click.option(
    "--min-rate",
    type=_RATE,
    help=f"Least share of its own tests that the candidate must pass (default: {MIN_RATE}, or what the version in force passes of its own, "
    "if that is less).",
)
@click.option("--narrow", is_flag=True, help="Allow a candidate that leaves a stage (`applies_to`); what was flagged there is released.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
def promote(
    policy_id: str,
    candidate: Path,
    change: str | None,
    step: promotion.Step,
    folder: Path | None,
    *,
    min_texts: int,
    max_flips: float,
    min_agreement: float | None,
    min_rate: float | None,
    narrow: bool,
    dry_run: bool,
    names: tuple[str, ...],
    config_path: Path | None,
    **texts: object,
) -> None:
    """Put the --candidate of policy ID into force: its text takes the place of ID's file, under a new version, told in `## Changes`.

    Refused, with exit status 1 and nothing written, where the candidate fails its own tests or a bound for any --classifier. The file is
    replaced at once; a running proxy picks it up as any change.
    """
    home = _home(folder, config_path)
    current = versioned(policy_id, home)
    target, before = Path(current.path), Path(current.path).read_bytes()
    written = document.read_text(candidate)
    tried = document.parse(written, str(candidate))
    refused = list(promotion.faults(current, tried, narrow=narrow))
    if not refused:
        found = judge((current, tried), Texts(**texts).read(policy_id, config_path), names, config_path, tests=True)  # type: ignore[arg-type]
        bounds = Bounds(min_texts, max_flips, min_agreement)
        refused = [reason for each in found for reason in (*_failed(each, min_rate), *bounds.exceeded(each.comparison))]
    if refused:
        for reason in refused:
            click.echo(f"refused: {reason}", err=True)
        raise click.exceptions.Exit(1)
    version = promotion.next_version(current.version, tried.version, step)
    text = _told(written, tried, version, change, found)
    if dry_run:
        click.echo(f"{target} would become version {version} (now {current.version}).")
        return
    promotion.replace_file(target, text, before=before)
    click.echo(f"{target} is version {version} now (before: {current.version}). Remove `candidate` from the routes that tried it.")


def _home(folder: Path | None, config_path: Path | None) -> Path:
    """Where policies are written: never into the package."""
    home = folder or (None if config_path is None else load(config_path).policy_folder)
    if home is None:
        raise GuardrailError("name the folder of your policies with --folder, or a --config that has one in `policies: folder:`")
    return home


def _failed(found: Found, min_rate: float | None) -> list[str]:
    rate = _bar(found.before) if min_rate is None else min_rate
    trial, name = found.trial, found.comparison.classifier
    if trial is None or not trial.results:
        return [f"{name}: the candidate has no tests, which proves nothing; add a section `## Tests`"]
    if trial.rate >= rate:
        return []
    lines = ", ".join(str(result.case.line) for result in trial.failures)
    return [f"{name}: the candidate passes {_passed(trial)} of its tests, under {rate:.1%} (failing: {trial.policy.path}, lines {lines})"]


def _bar(before: Trial | None) -> float:
    """What is asked of a candidate: no more than the version in force does, where every one of its tests could be judged."""
    if before is None or not before.results or any(result.error for result in before.results):
        return MIN_RATE
    return min(MIN_RATE, before.rate)


def _passed(trial: Trial) -> str:
    return f"{len(trial.results) - len(trial.failures)} of {len(trial.results)}"


def _told(written: str, tried: Policy, version: str, change: str | None, found: Sequence[Found]) -> str:
    """The candidate's text, its version and history brought up to date. Raises GuardrailError where nobody says what changed."""
    if any(entry.version == version for entry in tried.changes) and tried.version == version:
        if change is not None:
            raise GuardrailError(f"{tried.path} has an entry of {version} already; leave --change out, or remove the entry")
        return written
    if change is None or not change.strip() or not change.isprintable():
        raise GuardrailError(f"say in one line what {version} changes and why, with --change")
    first = found[0]
    compared, trial = first.comparison, first.trial
    measured = f"own tests {_passed(trial)}" if trial is not None else ""
    if compared.complete:
        measured += f"; of {len(compared.complete):,} texts {compared.caught.hits:,} more flagged, {compared.released.hits:,} released"
    return writer.with_change(written, version, datetime.now(UTC).date().isoformat(), f"{change.strip()} ({measured}.)")
