"""`guardrail policy compare`: whose verdict changes between two versions of a policy."""

import json
from pathlib import Path

import click

from guardrail.cli.policy_texts import Texts, judge, text_options, versioned
from guardrail.errors import GuardrailError
from guardrail.evaluation.policy_comparison_report import document, markdown
from guardrail.policy.registry import shipped_folder


@click.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@text_options
@click.option(
    "--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Look ids up here (default: the shipped policies)."
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write policy_comparison.md and .json into this folder.")
@click.option("--show-text", is_flag=True, help="Quote the texts whose verdict changes; else they are named by their ids.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of Markdown.")
def compare(
    old: str,
    new: str,
    folder: Path | None,
    out: Path | None,
    *,
    show_text: bool,
    as_json: bool,
    names: tuple[str, ...],
    config_path: Path | None,
    **texts: object,
) -> None:
    """Compare two versions of a policy: a file, an id, or id@version each.

    Each text of --data or --audit is judged under both as the guard would; told are flips both ways and rates with intervals, for each
    --classifier. Changes nothing.
    """
    home = folder or shipped_folder()
    versions = versioned(old, home), versioned(new, home)
    asked = Texts(**texts).read(versions[1].id, config_path)  # type: ignore[arg-type]
    if not asked:
        raise GuardrailError("there is no text to judge; name some with --data or --audit")
    found = [each.comparison for each in judge(versions, asked, names, config_path)]
    told = json.dumps(document(found, texts=show_text), ensure_ascii=False, indent=1)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "policy_comparison.json").write_text(told + "\n", encoding="utf-8")
        (out / "policy_comparison.md").write_text(markdown(found, texts=show_text), encoding="utf-8")
    click.echo(told if as_json else markdown(found, texts=show_text), nl=as_json)
