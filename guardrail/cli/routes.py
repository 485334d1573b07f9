"""`guardrail routes`: which endpoints are served, by which routes, and what is judged in each."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from guardrail.asgi.judging import CHECK_ENDPOINTS
from guardrail.config.load import load
from guardrail.config.models import GUARDED_PATHS
from guardrail.types import Stage
from guardrail.wire.coverage import PARTS, Cell, coverage
from guardrail.wire.dialects import DIALECTS

_MARKS = {"judged": "yes", "unscannable": "unscannable", "refused": "refused", "unguarded": "NO"}


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--markdown", is_flag=True, help="Print the coverage table alone, as Markdown.")
def routes(file: Path | None, *, as_json: bool, markdown: bool) -> None:
    """Print the endpoints of a configuration FILE (without it: the defaults), and what is judged of each.

    The coverage is found out by putting a text into each part and asking the readers that guard it. Exits 1 if any is unguarded.
    """
    cells = coverage()
    if markdown:
        click.echo("\n".join(table(cells)))
    elif as_json:
        found = [{**asdict(cell), "stage": cell.stage.value} for cell in cells]
        click.echo(json.dumps({"routes": list(_served(file)), "checks": [e.path for e in CHECK_ENDPOINTS], "coverage": found}, indent=2))
    else:
        for line in _served(file):
            click.echo(line)
        click.echo("Checks, answered by the guard itself: " + ", ".join(endpoint.path for endpoint in CHECK_ENDPOINTS) + ".\n")
        click.echo("\n".join(table(cells)))
    if any(cell.outcome == "unguarded" for cell in cells):
        raise click.exceptions.Exit(1)


def table(cells: Sequence[Cell]) -> list[str]:
    """The coverage as lines of a Markdown table: a row for each endpoint and stage, a column for each part.

    Where the streamed and the whole form differ the cell names both, streamed last; `-` where the protocol has no such part. `route`: the
    route's stream.mode says when streams are let out.
    """
    rows = list(dict.fromkeys((cell.path, cell.stage) for cell in cells))
    streams = {cell.path for cell in cells if cell.stream}
    found = {(cell.path, cell.stage, cell.part, cell.stream): _MARKS[cell.outcome] for cell in cells}
    lines = ["| endpoint | stage | stream | " + " | ".join(PARTS) + " |", "|" + "---|" * (len(PARTS) + 3)]
    for path, stage in rows:
        marks = []
        for part in PARTS:
            both = [found[key] for stream in (False, True) if (key := (path, stage, part, stream)) in found]
            marks.append(" / ".join(dict.fromkeys(both)) or "-")
        held = "held" if DIALECTS[path].release is None else "route"
        lines.append(f"| `{path}` | {stage.value} | {held if path in streams else 'none'} | " + " | ".join(marks) + " |")
    return lines


def _served(file: Path | None) -> Iterator[str]:
    config = load(file)
    for path in GUARDED_PATHS:
        names = [route.name for route in config.routes if path in route.paths]
        yield f"{path}: " + (f"guarded by {', '.join(names)}" if names else "no route, so it is answered 404")
    for route in config.routes:
        if route.definitions == "trust":
            yield f"{route.name}: tool definitions and answer schemas are trusted, and not judged"
        for stage in Stage:
            policies = route.stage(stage).policies
            for use in () if policies == "all" else policies:
                if use.candidate is not None:
                    yield f"{route.name}, {stage.value}: {use.id} is judged beside its candidate {use.candidate}, which only records"
