"""What `guardrail bench` prints and writes."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from guardrail.evaluation.latency import Latency
from guardrail.evaluation.overhead import Load

TABLE_WIDTH = 130

Column = tuple[str, Callable[[Any], str]]

LOAD_COLUMNS: tuple[Column, ...] = (
    ("server", lambda row: row.server),
    ("connections", lambda row: str(row.connections)),
    ("requests/s", lambda row: _number(row.per_second, 0)),
    ("p50 ms", lambda row: _number(row.p50_ms)),
    ("p99 ms", lambda row: _number(row.p99_ms)),
    ("added p50 ms", lambda row: _number(row.added_p50_ms)),
    ("added p99 ms", lambda row: _number(row.added_p99_ms)),
    ("/ bare", lambda row: _number(row.ratio)),
    ("failures", lambda row: str(row.failures)),
)
LATENCY_COLUMNS: tuple[Column, ...] = (
    ("tokens", lambda row: f"up to {row.tokens}" if row.mixed else str(row.tokens)),
    ("texts", lambda row: str(row.at_once)),
    ("policies", lambda row: str(row.policies)),
    ("threads", lambda row: str(row.threads)),
    ("calls", lambda row: str(row.calls)),
    ("p50 ms", lambda row: _number(row.p50_ms)),
    ("p95 ms", lambda row: _number(row.p95_ms)),
    ("p99 ms", lambda row: _number(row.p99_ms)),
    ("texts/s", lambda row: _number(row.texts_per_s, 1)),
    ("reference p50 ms", lambda row: _number(row.reference_p50_ms)),
    ("times as fast", lambda row: _number(row.times_as_fast)),
)


@dataclass(frozen=True, slots=True)
class Report:
    """One measurement: its kind (also the file's name), the rows, how it was taken, and on what. `notes` are sentences."""

    kind: str
    title: str
    rows: Sequence[Load | Latency]
    settings: Mapping[str, object]
    machine: Mapping[str, object]
    notes: Sequence[str] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """How a row is spelled."""
        return LATENCY_COLUMNS if all(isinstance(row, Latency) for row in self.rows) else LOAD_COLUMNS


def show(report: Report, *, as_json: bool) -> None:
    """Print it."""
    if as_json:
        click.echo(to_json(report))
        return
    console = Console(width=max(Console().width, TABLE_WIDTH))  # not a terminal: rich would squeeze it into 80 columns
    table = Table(title=report.title, title_justify="left")
    for place, (heading, _) in enumerate(report.columns):
        table.add_column(heading, justify="left" if place == 0 and heading == "server" else "right", no_wrap=True)
    for row in report.rows:
        table.add_row(*(spell(row) for _, spell in report.columns))
    console.print(table)
    for sentence in (*report.notes, machine_line(report.machine)):
        click.echo(sentence)


def write(report: Report, folder: Path) -> list[Path]:
    """Write `DATE-KIND.json` and `.md` into the folder, over those of the same day."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{datetime.now(UTC):%Y-%m-%d}-{report.kind}"
    written = []
    for suffix, text in ((".json", to_json(report)), (".md", to_markdown(report))):
        path = folder / (stem + suffix)
        path.write_text(text + "\n", encoding="utf-8")
        written.append(path)
    return written


def to_json(report: Report) -> str:
    """The measurement as one JSON object; what is not a number (nothing was answered) is null."""
    rows = [{key: _plain(value) for key, value in asdict(row).items()} for row in report.rows]
    document = {
        "kind": report.kind,
        "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "settings": dict(report.settings),
        "machine": dict(report.machine),
        "rows": rows,
        "notes": list(report.notes),
    }
    return json.dumps(document, indent=2)


def to_markdown(report: Report) -> str:
    """The measurement as a page."""
    heads = [heading for heading, _ in report.columns]
    lines = [f"# {report.title}", "", f"{datetime.now(UTC):%Y-%m-%d}. {machine_line(report.machine)}", ""]
    lines += [f"Settings: {', '.join(f'{key} {_listed(value)}' for key, value in report.settings.items())}.", ""]
    lines += [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    lines += [f"| {' | '.join(spell(row) for _, spell in report.columns)} |" for row in report.rows]
    return "\n".join([*lines, "", *report.notes])


def machine_line(machine: Mapping[str, object]) -> str:
    """Machine and versions in a sentence."""
    found = machine["versions"]
    versions = ", ".join(f"{name} {number}" for name, number in found.items() if number) if isinstance(found, Mapping) else ""
    load = machine["load_average"]
    return (
        f"Machine: {machine['cpu']}, {machine['cores']} cores (load {_listed(load)} before), {machine['system']}, "
        f"Python {machine['python']}, {versions}."
    )


def _listed(value: object) -> str:
    return "/".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)


def _plain(value: object) -> object:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value


def _number(value: float, digits: int = 2) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else "-"
