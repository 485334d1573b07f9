"""The command line: one file a command, each imported only when it is used."""

import importlib
import logging
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import click

from guardrail import __version__
from guardrail.errors import DocumentError, GuardrailError

logger = logging.getLogger("guardrail")

# Command -> (where it lives, its line in `--help`). Written out here so that `--help` imports none of them.
COMMANDS = {
    "serve": ("guardrail.cli.serve:serve", "Run the guarding proxy."),
    "demo": ("guardrail.cli.demo:demo", "Guard a built-in model and show what happens to a few exchanges."),
    "check": ("guardrail.cli.check:check", "Judge one text."),
    "routes": ("guardrail.cli.routes:routes", "Print which endpoints are guarded, and what is judged in each."),
    "policy": ("guardrail.cli.policy:policy", "Write, lint and test policies."),
    "audit": ("guardrail.cli.audit:audit", "Look at recorded decisions, verify and replay them."),
    "config": ("guardrail.cli.config:config", "Check a configuration and print its schema."),
    "model": ("guardrail.cli.model:model", "Make and check the models of CoPE classifiers."),
    "train": ("guardrail.cli.train:train", "Train classifiers: the embedded one, and your own."),
    "evaluate": ("guardrail.cli.evaluate:evaluate", "Measure how well classifiers judge."),
    "bench": ("guardrail.cli.bench:bench", "Measure accuracy and overhead."),
}
EVALUATIONS = {
    "run": ("guardrail.cli.evaluate_run:run", "Judge labelled data and report how well."),
    "card": ("guardrail.cli.evaluate_card:card_command", "Measure a classifier on the whole suite and fill a model card's tables."),
    "thresholds": ("guardrail.cli.evaluate_thresholds:thresholds", "Choose the policies' thresholds together, within a budget."),
    "compare": ("guardrail.cli.evaluate_compare:compare_runs", "Compare two runs over the same texts."),
    "steer": ("guardrail.cli.evaluate_steer:steer", "Probe whether a classifier follows the policy it is given."),
    "obfuscate": ("guardrail.cli.evaluate_obfuscate:obfuscate", "Measure what is still found of disguised texts."),
    "calibrate": ("guardrail.cli.evaluate_calibrate:calibrate_run", "Make scores say what they mean, from a run."),
}
# Those below `policy` that measure, which the others do without.
POLICIES = {
    "compare": ("guardrail.cli.policy_compare:compare", "Compare two versions of a policy over texts."),
    "promote": ("guardrail.cli.policy_promote:promote", "Put a version on trial into force, within bounds."),
}
# Those below `train` whose extra the others do without.
TRAININGS = {
    "cope": ("guardrail.cli.train_cope:cope", "Fine-tune a causal language model into a CoPE."),
    "sweep": ("guardrail.cli.train_sweep:sweep", "Search over the settings of a trainer, with a leaderboard."),
    "adapter": ("guardrail.cli.train_adapter:adapter", "Train a multilabel adapter for the categories of your data."),
}
# Those below `audit` that need more than the store.
AUDITS = {
    "replay": ("guardrail.cli.audit_replay:replay", "Judge a recorded decision again, and print the difference."),
    "export": ("guardrail.cli.audit_export:export", "Write decisions as JSON lines or Parquet."),
}
EMBEDDED_WEIGHTS = "guardrail.classifiers.embedded:open_weights"
# Those below `bench` that load torch themselves, which the others have no use for.
BENCHES = {
    "engine": ("guardrail.cli.bench_engine:engine", "Compare the CoPE engine with other ways to run its model."),
    "fuzz": ("guardrail.cli.bench_fuzz:fuzz", "Try the stream guard with random chunkings."),
    "stream": ("guardrail.cli.bench_stream:stream", "Measure what each streaming mode costs."),
}


_EXTRAS = {"transformers": "cope", "peft": "cope", "sklearn": "train"}


class LazyGroup(click.Group):
    """A group whose commands come from a table, so that `--help` is quick and a broken one does not break the others."""

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str]] = MappingProxyType(COMMANDS), **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Those that were added, then those of the table, in its order."""
        return [*super().list_commands(ctx), *self._table]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command. Raises UsageError when something it needs is not installed."""
        if cmd_name not in self._table:
            return super().get_command(ctx, cmd_name)
        place, attribute = self._table[cmd_name][0].split(":")
        try:
            command: click.Command = getattr(importlib.import_module(place), attribute)
        except ModuleNotFoundError as error:
            needs = f"`{ctx.command_path} {cmd_name}` needs the Python module {error.name!r}, which is not installed"
            extra = _EXTRAS.get(str(error.name).partition(".")[0])
            raise click.UsageError(needs + (f"; run: pip install 'guardrail[{extra}]'" if extra else "")) from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Print the table without importing what it names."""
        here = [(name, command.get_short_help_str(80)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl([*here, *((name, text) for name, (_, text) in self._table.items())])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="guardrail")
def commands() -> None:
    """Guards chat LLM APIs: judges prompts and answers against policies written in plain English."""


def main(argv: list[str] | None = None, **extra: Any) -> None:
    """The program. Exits 0, 1 (a command's own "no"), or 2 with one sentence on stderr for a mistake the caller can mend."""
    try:
        commands.main(args=argv, prog_name="guardrail", standalone_mode=True, **extra)
    except DocumentError as error:
        for finding in error.findings:
            click.echo(str(finding), err=True)
        sys.exit(2)
    except GuardrailError as error:
        click.echo(f"guardrail: {error}", err=True)
        sys.exit(2)
    except Exception as error:  # border: a defect is logged with its trace and still answered in one line
        logger.exception("unexpected failure")
        click.echo(f"guardrail: unexpected {type(error).__name__}: {error}", err=True)
        sys.exit(2)
