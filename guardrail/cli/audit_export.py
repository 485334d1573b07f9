"""`guardrail audit export`: recorded decisions as JSON lines or Parquet."""

from pathlib import Path
from typing import Any, BinaryIO, cast

import click

from guardrail.audit.export import write_jsonl, write_parquet
from guardrail.cli.audit_options import filter_of, opened, which_records, which_store

WRITERS = {"jsonl": write_jsonl, "parquet": write_parquet}


@click.command()
@which_store
@which_records
@click.option("--format", "form", type=click.Choice(list(WRITERS)), default="jsonl", show_default=True, help="JSON lines, or Parquet.")
@click.option("--output", type=click.File("wb", lazy=True, atomic=True), default="-", help="File to write (default: standard output).")
@click.option("--content", is_flag=True, help="With the texts, where they are kept and their key is set.")
def export(store: Path | None, config_path: Path | None, *, form: str, output: Any, content: bool, **wanted: Any) -> None:
    """Write decisions out, oldest first. Parquet needs the extra `parquet`."""
    reader, _ = opened(store, config_path)
    count = WRITERS[form](reader.walk(filter_of(wanted), content=content), cast("BinaryIO", output))
    click.echo(f"{count} decisions", err=True)
