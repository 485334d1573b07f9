"""`guardrail policy`: write, check, try and look at policies."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from guardrail.assembly import open_classifier
from guardrail.cli import POLICIES, LazyGroup
from guardrail.config.load import load
from guardrail.errors import Finding, PolicyError
from guardrail.policy import document, findings, frontmatter, prompt, writer
from guardrail.policy.lint import lint
from guardrail.policy.registry import load_folder, policy_files, shipped_folder
from guardrail.policy.sets import PolicySet
from guardrail.policy.trial import CaseResult, Trial, run_tests
from guardrail.types import Policy

MIN_RATE = 0.9

_folder = click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Look ids up in this folder (default: the shipped policies).",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


@click.group(cls=LazyGroup, table=POLICIES)
def policy() -> None:
    """Write, check, try and look at policies."""


@policy.command()
@click.argument("policy_id", metavar="ID")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write (default: ID.md in this folder).")
def new(policy_id: str, output: Path | None) -> None:
    """Write a skeleton policy; `lint` then lists what to fill in. Never overwrites a file."""
    if not frontmatter.ID.fullmatch(policy_id):
        raise click.BadParameter("use 2 to 64 lower-case letters, digits and `_`, starting with a letter", param_hint="ID")
    path = output or Path(f"{policy_id}.md")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(writer.skeleton(policy_id))
    except FileExistsError as error:
        raise click.UsageError(f"{path} already exists; choose another --output, or remove it first") from error
    except OSError as error:
        raise click.UsageError(f"{path} cannot be written: {error.strerror}") from error
    click.echo(f"{path} written. Fill in each TODO, then run: guardrail policy lint {path}")


@policy.command("lint")
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@_as_json
@click.option("--codes", is_flag=True, help="Print the table of codes, their meanings and remedies.")
def lint_command(paths: Sequence[Path], as_json: bool, codes: bool) -> None:
    """Check policy files or folders (default: the shipped policies). Exits 1 if anything is found."""
    if codes:
        click.echo(findings.table())
        return
    checked = 0
    found: list[Finding] = []
    try:
        files = _files(paths or [shipped_folder()])
    except PolicyError as error:
        files, found = [], list(error.findings)
    for path in files:
        checked += 1
        try:
            found += lint(document.read(path))
        except PolicyError as error:
            found += error.findings
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], ensure_ascii=False, indent=2))
    else:
        for finding in found:
            click.echo(str(finding))
        click.echo(f"{checked} policies checked, {len(found)} findings", err=True)
    if found:
        raise click.exceptions.Exit(1)


@policy.command()
@click.argument("wanted", metavar="ID|FILE")
@click.option("--text", default="", help="The content to judge (default: empty).")
@click.option("--template", type=click.Choice(list(prompt.TEMPLATES)), default="A", show_default=True, help="Spelling of the prompt.")
@_folder
def show(wanted: str, text: str, template: str, folder: Path | None) -> None:
    """Print the exact prompt a CoPE model reads for a policy and a text, to the byte."""
    chosen = _resolve([wanted], folder)[0]
    click.echo(prompt.render(chosen, text, template), nl=False)


@policy.command("test")
@click.argument("wanted", nargs=-1, metavar="[ID|FILE|FOLDER]...")
@click.option("--classifier", default="embedded", show_default=True, help="Name of the classifier to try.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Configuration file whose classifiers --classifier names.",
)
@click.option(
    "--min-rate", type=click.FloatRange(0, 1), default=MIN_RATE, show_default=True, help="Least share of tests each policy must pass."
)
@_as_json
@_folder
def test_command(
    wanted: Sequence[str], classifier: str, config_path: Path | None, min_rate: float, as_json: bool, folder: Path | None
) -> None:
    """Run policies' own tests through a classifier. Exits 1 if a policy passes less than --min-rate of its tests."""
    trials = asyncio.run(_try(_resolve(wanted, folder), classifier, config_path))
    click.echo(_as_document(trials) if as_json else _as_table(trials, min_rate))
    if any(trial.rate < min_rate for trial in trials):
        raise click.exceptions.Exit(1)


async def _try(policies: Sequence[Policy], name: str, config_path: Path | None) -> tuple[Trial, ...]:
    config = None if config_path is None else load(config_path)
    async with open_classifier(name, config) as classifier:
        return await run_tests(policies, classifier)


def _files(paths: Iterable[Path]) -> list[Path]:
    return [file for path in paths for file in (policy_files(path) if path.is_dir() else [path])]


def _resolve(wanted: Sequence[str], folder: Path | None) -> list[Policy]:
    """Policies by id, file or folder; all of `folder` (or all shipped ones) when nothing is named."""
    home = folder or shipped_folder()
    if not wanted:
        return load_folder(home)
    known = PolicySet() if all(map(_is_path, wanted)) else PolicySet.of(load_folder(home))
    return [found for name in wanted for found in _named(name, known, home)]


def _named(name: str, known: PolicySet, home: Path) -> list[Policy]:
    if _is_path(name):
        path = Path(name)
        return load_folder(path) if path.is_dir() else [document.read(path)]
    if name not in known:
        raise click.UsageError(f"no policy `{name}` in {home}; there are: {', '.join(known) or 'none'}")
    return [known[name]]


def _is_path(name: str) -> bool:
    return name.endswith(".md") or "/" in name or "\\" in name or Path(name).is_dir()


def _as_table(trials: Sequence[Trial], min_rate: float) -> str:
    width = max((len(trial.policy.id) for trial in trials), default=6)
    rows = [f"{'policy':<{width}}  version   passed      rate"]
    for trial in trials:
        passed = f"{len(trial.results) - len(trial.failures)}/{len(trial.results)}"
        short = "" if trial.rate >= min_rate else f"  under {min_rate:.0%}"
        rows.append(f"{trial.policy.id:<{width}}  {trial.policy.version:<8}  {passed:<8}  {trial.rate:>6.1%}{short}")
    failures = [(trial.policy, result) for trial in trials for result in trial.failures]
    rows += ["", f"{len(failures)} failures" + (":" if failures else "")]
    rows += [f"{owner.path}:{result.case.line}: {owner.id} {_outcome(result)} ({result.case.why})" for owner, result in failures]
    return "\n".join(rows)


def _outcome(result: CaseResult) -> str:
    said = f"score {result.score:.3f}" if result.score is not None else f"error {result.error}"
    return f"expected {result.case.expected}, {said}"


def _as_document(trials: Sequence[Trial]) -> str:
    return json.dumps(
        [
            {
                "policy": trial.policy.id,
                "version": trial.policy.version,
                "digest": trial.policy.digest,
                "tests": len(trial.results),
                "rate": round(trial.rate, 6),
                "failures": [
                    {
                        "path": trial.policy.path,
                        "line": result.case.line,
                        "expected": result.case.expected,
                        "score": result.score,
                        "error": result.error,
                        "why": result.case.why,
                    }
                    for result in trial.failures
                ],
            }
            for trial in trials
        ],
        ensure_ascii=False,
        indent=2,
    )
