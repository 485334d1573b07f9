"""What `policy compare` and `policy promote` ask alike: which texts, which classifiers, which version; and the judging."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from guardrail.audit.keys import Secrets, open_keys
from guardrail.audit.store import AuditReader
from guardrail.cli.evaluate_options import chosen_classifier, chosen_sets
from guardrail.config.environment import process_environment
from guardrail.config.load import load
from guardrail.errors import GuardrailError
from guardrail.evaluation.policy_comparison import Asked, PolicyComparison, compared
from guardrail.evaluation.stored_texts import stored_texts
from guardrail.policy import document
from guardrail.policy.registry import load_folder
from guardrail.policy.sets import PolicySet
from guardrail.policy.trial import Trial, run_tests
from guardrail.types import Policy

MOST_STORED = 10_000


@dataclass(frozen=True, slots=True)
class Texts:
    """Where the texts come from."""

    data: tuple[str, ...]
    audit: Path | None
    most: int

    def read(self, policy: str, config_path: Path | None) -> list[Asked]:
        """All of them. Raises GuardrailError for a set or store that cannot be read, and a store that keeps no texts of the policy."""
        found = [
            Asked(f"{item.set}:{item.id}", item.text, item.stage, item.area, item.label, item.context)
            for data in chosen_sets(self.data)
            for item in data.items
        ]
        if self.audit is not None:
            stored = stored_texts(self._reader(self.audit, config_path), policy, most=self.most)
            if not stored:
                raise GuardrailError(
                    f"{self.audit} holds no text that was judged under {policy!r}; routes keep them with `audit: {{content: full}}`, and "
                    "encrypted ones are read with --config and its keys"
                )
            found += stored
        return found

    def _reader(self, path: Path, config_path: Path | None) -> AuditReader:
        section = None if config_path is None else load(config_path).audit
        environment = process_environment()
        names = (None, None) if section is None else (section.key_env, section.content_key_env)
        key, content = (environment.secret(name) if name else None for name in names)
        return AuditReader(path, open_keys(path, Secrets(key, content)))


def text_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options for texts and classifiers."""
    for option in reversed(
        (
            click.option(
                "--data", multiple=True, metavar="SET|FILE", help="Texts (.jsonl, .csv) as `guardrail evaluate run` reads them; repeatable."
            ),
            click.option("--audit", type=click.Path(dir_okay=False, path_type=Path), help="Audit store whose kept texts are judged again."),
            click.option(
                "--most", type=click.IntRange(1), default=MOST_STORED, show_default=True, help="Texts taken from the store, newest first."
            ),
            click.option("--classifier", "names", multiple=True, default=("embedded",), show_default=True, help="Who judges; repeatable."),
            click.option(
                "--config",
                "config_path",
                type=click.Path(dir_okay=False, path_type=Path),
                help="Configuration that names classifiers and keys.",
            ),
        )
    ):
        command = option(command)
    return command


def versioned(wanted: str, folder: Path) -> Policy:
    """A policy by file, id, or id@version. Raises GuardrailError when it is not there, or has another version."""
    if wanted.endswith(".md") or "/" in wanted:
        return document.read(Path(wanted))
    name, _, version = wanted.partition("@")
    known = PolicySet.of(load_folder(folder))
    if name not in known:
        raise GuardrailError(f"no policy {name!r} in {folder}; there are: {', '.join(known) or 'none'}; a file is named with its path")
    if version and known[name].version != version:
        raise GuardrailError(f"{known[name].path} is version {known[name].version}, not {version}; name the file of the other version")
    return known[name]


@dataclass(frozen=True, slots=True)
class Found:
    """What one classifier says of both versions, and of each one's own tests where they were run."""

    comparison: PolicyComparison
    before: Trial | None
    trial: Trial | None


def judge(
    versions: tuple[Policy, Policy], texts: Sequence[Asked], names: Sequence[str], config_path: Path | None, *, tests: bool = False
) -> list[Found]:
    """Ask each classifier about the old and the new version, with a progress bar on a terminal. `tests`: each one's own, too."""
    return asyncio.run(_judge(versions, texts, [(name, config_path) for name in dict.fromkeys(names)], tests=tests))


async def _judge(
    versions: tuple[Policy, Policy], texts: Sequence[Asked], classifiers: Sequence[tuple[str, Path | None]], *, tests: bool
) -> list[Found]:
    found = []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for name, config_path in classifiers:
            task = bar.add_task(name, total=len(texts))
            async with chosen_classifier(name, config_path) as classifier:
                before, trial = await run_tests(versions, classifier) if tests else (None, None)
                judged = []
                async with aclosing(compared(*versions, texts, classifier)) as each:
                    async for one in each:
                        judged.append(one)
                        bar.advance(task)
                found.append(Found(PolicyComparison(classifier.id, *versions, tuple(judged)), before, trial))
    return found
