"""What the commands of `guardrail evaluate` ask alike: which classifier, which policies, which data."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import click

from guardrail.assembly import open_classifier
from guardrail.cli import EMBEDDED_WEIGHTS
from guardrail.config.backends import CustomClassifier
from guardrail.config.environment import process_environment
from guardrail.config.load import load
from guardrail.errors import GuardrailError
from guardrail.evaluation.baseline_keywords import KeywordClassifier
from guardrail.evaluation.baseline_tfidf import Example, TfidfClassifier
from guardrail.evaluation.dataset import DataSet, open_set
from guardrail.interfaces import Classifier
from guardrail.policy import document
from guardrail.policy.registry import load_folder, shipped_folder
from guardrail.policy.sets import PolicySet
from guardrail.types import Policy

classifier_option = click.option(
    "--classifier",
    "name",
    default="embedded",
    show_default=True,
    help="Of --config, `embedded`, a .safetensors file of its weights, a baseline (`keywords`, `tfidf`), or a factory's import string.",
)
config_option = click.option(
    "--config", "config_path", type=click.Path(dir_okay=False, path_type=Path), help="Configuration that names the classifier."
)
policy_option = click.option(
    "--policy", "wanted", multiple=True, metavar="ID|FILE", help="Policy to judge by; repeatable (default: every shipped one)."
)


def chosen_classifier(name: str, config_path: Path | None, examples: Sequence[Example] = ()) -> AbstractAsyncContextManager[Classifier]:
    """A classifier of a configuration, or one that needs none; `tfidf` is trained on `examples`.

    Raises GuardrailError when there is none of the name.
    """
    known = load(config_path).classifiers if config_path is not None else {}
    if name in known:
        return open_classifier(known[name])
    if name in ("keywords", "tfidf"):
        return _baseline(name, examples)
    if name.endswith(".safetensors"):
        return open_classifier(CustomClassifier(kind="custom", factory=EMBEDDED_WEIGHTS, options={"file": name}))
    if config_path is None or name == "embedded" or ":" in name:
        return open_classifier(name)
    raise GuardrailError(f"{config_path} has no classifier {name!r}; there are: {', '.join(known) or 'none'}")


@asynccontextmanager
async def _baseline(name: str, examples: Sequence[Example]) -> AsyncIterator[Classifier]:
    yield TfidfClassifier.train(examples) if name == "tfidf" else KeywordClassifier()


def chosen_policies(wanted: Sequence[str]) -> tuple[Policy, ...]:
    """Policies by id (shipped ones) or file, all shipped ones for none. Raises GuardrailError for an unknown or repeated one."""
    shipped = {policy.id: policy for policy in load_folder(shipped_folder())}
    if not wanted:
        return tuple(shipped.values())
    found = []
    for name in wanted:
        if name.endswith(".md") or "/" in name:
            found.append(document.read(Path(name)))
        elif name in shipped:
            found.append(shipped[name])
        else:
            raise GuardrailError(f"there is no shipped policy {name!r}; there are: {', '.join(shipped)}; a file is named with its path")
    PolicySet.of(found)
    return tuple(found)


def chosen_sets(wanted: Sequence[str]) -> tuple[DataSet, ...]:
    """Data sets by name or file. Raises GuardrailError for one that is missing or malformed."""
    folder = process_environment().data_folder
    return tuple(open_set(name, folder) for name in wanted)
