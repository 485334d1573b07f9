"""`guardrail audit`: look at the decisions that were recorded, prove that they are what was recorded, and drop old ones."""

import json
from pathlib import Path
from typing import Any

import click

from guardrail.audit.document import document, instant
from guardrail.audit.keys import StoreKeys
from guardrail.audit.ledger import Ledger, connect
from guardrail.audit.made import plain
from guardrail.audit.opening import retention_of
from guardrail.audit.record import NOTE, AuditRecord, VerdictRecord
from guardrail.audit.retention import Retention, prune
from guardrail.audit.verify import Anchor, Report, verify
from guardrail.cli import AUDITS, LazyGroup
from guardrail.cli.audit_options import configuration, filter_of, opened, which_records, which_store
from guardrail.errors import GuardrailError

CHANGED = "this is not what was written: see `guardrail audit verify`"
_MB = 1_000_000
_LONGEST = 10_000  # characters of a line of a kept text; and none that a terminal would obey


@click.group(cls=LazyGroup, table=AUDITS)
def audit() -> None:
    """Look at recorded decisions, verify them, replay them, export them, and drop old ones."""


@audit.command("list")
@which_store
@which_records
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Most records.")
@click.option("--before", type=click.IntRange(1), help="Only those with a smaller number than this: the next page.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines instead of a table.")
def list_records(store: Path | None, config_path: Path | None, *, limit: int, before: int | None, as_json: bool, **wanted: Any) -> None:
    """The newest decisions, newest first."""
    reader, _ = opened(store, config_path)
    found = reader.find(filter_of(wanted), limit, before)
    for record in found:
        click.echo(json.dumps(document(record)) if as_json else _line(record))
    if not found and not as_json:
        click.echo("No decision fits.")


@audit.command("show")
@click.argument("id")
@which_store
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def show(id: str, store: Path | None, config_path: Path | None, *, as_json: bool) -> None:  # noqa: A002
    """One decision, by its ID (the header x-guardrail-decision-id) or its number: every verdict, and the text if it is kept."""
    reader, _ = opened(store, config_path)
    record = reader.get(id)
    if record is None:
        raise GuardrailError(f"there is no decision {id!r} in {reader.path}; it may have been pruned")
    click.echo(json.dumps(document(record), indent=2) if as_json else "\n".join(_lines(record)))


@audit.command("verify")
@which_store
@click.option("--anchor", metavar="NUMBER:HASH", help="A head printed earlier: proves that the store was not put back or made again.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def verify_store(store: Path | None, config_path: Path | None, *, anchor: str | None, as_json: bool) -> None:
    """Read the whole store and say whether every record is there as it was written, in its order.

    Exits 0 when it is, 1 with the first record that is not, 2 when it cannot be told. Write the head down elsewhere: a later run with
    --anchor finds a store that was put back to an earlier state, which nothing in the file itself can show.
    """
    reader, keys = opened(store, config_path)
    report = verify(reader, keys.chains, anchor=_anchor(anchor))
    damage = report.damage
    if as_json:
        plain = {name: getattr(report, name) for name in Report.__slots__ if name != "damage"}
        told = damage and {"kind": damage.kind, "sequence": damage.sequence, "detail": damage.detail}
        click.echo(json.dumps({"ok": damage is None, **plain, "damage": told}, indent=2))
    else:
        for line in _said(report, keys):
            click.echo(line)
    if damage is not None:
        raise click.exceptions.Exit(1)


@audit.command("prune")
@which_store
@click.option("--days", type=click.FloatRange(min=0), help="Drop records older than this (default: the configuration's retention).")
@click.option("--content-days", type=click.FloatRange(min=0), help="Drop kept texts older than this.")
@click.option("--max-mb", type=click.IntRange(1), help="Drop the oldest until the store is no larger than this.")
def prune_store(
    store: Path | None, config_path: Path | None, *, days: float | None, content_days: float | None, max_mb: int | None
) -> None:
    """Drop what is too old or too much, in whole segments. Signed marks stay: `verify` passes, and says what is gone.

    Exits 1 where something of it was not what had been written: it goes all the same, and `verify` goes on saying so.
    """
    reader, keys = opened(store, config_path)
    wanted = Retention(days, content_days, None if max_mb is None else max_mb * _MB)
    if wanted == Retention() and config_path is not None:
        section = configuration(config_path).audit
        wanted = wanted if section is None else retention_of(section)
    if wanted == Retention():
        raise GuardrailError("nothing says what to drop; give --days, --content-days or --max-mb, or set `audit: retention`")
    reader.count()  # it is a store
    ledger = Ledger(connect(reader.path), keys)
    try:
        taken = prune(ledger, wanted)
    finally:
        ledger.close()
    click.echo(f"Dropped {taken.records} records in {taken.segments} segments, and {taken.contents} texts.")
    for damaged in taken.damaged:
        click.echo(f"What was dropped was not what had been written: {damaged}.", err=True)
    if taken.damaged:
        raise click.exceptions.Exit(1)


def _anchor(text: str | None) -> Anchor | None:
    if text is None:
        return None
    number, _, hashed = text.partition(":")
    if not number.isdecimal() or len(hashed) != 64:
        raise click.UsageError("--anchor is a number, a colon and 64 hexadecimal digits, as `guardrail audit verify` prints them")
    return Anchor(int(number), hashed.lower())


def _said(report: Report, keys: StoreKeys) -> list[str]:
    lines = [f"Damaged: {report.damage}."] if report.damage is not None else []
    if report.damage is None:
        lines.append(f"Sound: {report.records} decisions, {report.notes} notes, {report.contents} kept texts.")
    lines += [f"Records {first} to {last} were pruned." for first, last in report.pruned]
    lines += [f"Records {first} to {last} were not what was written when they went: {what}." for first, last, what in report.damaged]
    lines += [f"The texts of records {first} to {last} were dropped." for first, last in report.content_dropped]
    if report.lost or report.dropped:
        lines.append(
            f"Never recorded: {report.lost} decisions of processes that ended too early, {report.dropped} left out of a full queue."
        )
    if keys.chains.current.key is None:
        lines.append("No key: whoever can write the file can make such a chain anew. Set `audit: key_env`.")
    elif report.unkeyed:
        lines.append(f"Records up to {report.unkeyed} were written without a key.")
    return [*lines, f"Head {report.head}"]


def _line(record: AuditRecord) -> str:
    changed = "  CHANGED since it was written" if record.genuine is False else ""
    if record.kind == NOTE:
        return f"{record.sequence:>8}  {instant(record.time)}  note  {dict(record.note)}{changed}"
    because = ", ".join(dict.fromkeys(f"{verdict.policy} {verdict.score:.2f}" for verdict in record.violations)) or "-"
    what = record.action + (f" (shadow: {record.shadow})" if record.mode == "shadow" else "") + (" unjudged" if record.unjudged else "")
    who = f"{record.tenant}  {record.route}  {record.stage:<6}"
    return f"{record.sequence:>8}  {instant(record.time)}  {record.id}  {who}  {what}  {because}{changed}"


def _lines(record: AuditRecord) -> list[str]:
    facts = {
        "CHANGED": CHANGED if record.genuine is False else "",
        "number": record.sequence,
        "time": instant(record.time),
        "tenant": record.tenant,
        "route": record.route,
        "stage": record.stage,
        "action": record.action + (f", {record.shadow} in shadow" if record.mode == "shadow" else ""),
        "unjudged": record.unjudged or "",
        "model": record.model,
        "protocol": record.protocol + (", streamed" if record.stream else ""),
        "classifier": record.classifier,
        "generation": record.generation,
        "judging": f"{record.duration_s * 1000:.1f} ms",
        "request": record.request_id,
        "trace": record.trace_id,
        "text": f"{record.characters} characters in {len(record.parts)} parts, {record.text_hmac}",
        "unscannable": ", ".join(record.unscannable),
        "history": ", ".join(record.history),
        "note": dict(record.note) or "",
    }
    lines = [record.id, *(f"  {name:<11} {value}" for name, value in facts.items() if value != "")]
    lines += [f"  {_verdict(verdict)}" for verdict in sorted(record.verdicts, key=lambda verdict: -(verdict.score or 0.0))]
    for part in record.content or ():
        lines += [f"  {part.path}:", *(f"    {plain(line, _LONGEST)}" for line in (part.text or "").splitlines())]
    return lines


def _verdict(verdict: VerdictRecord) -> str:
    if verdict.score is None:
        return f"{verdict.policy} {verdict.version}  not judged ({verdict.error})  {verdict.part}"
    said = f"{'violates' if verdict.violation else 'passes':<8}  (threshold {verdict.threshold:g})  {verdict.part}"
    where = f" [{verdict.span.start}:{verdict.span.end}]" if verdict.span else ""
    read = f"  read as {' > '.join(verdict.reading)}" if verdict.reading else ""
    why = f"  {verdict.criterion}" if verdict.criterion else ""
    return f"{verdict.policy} {verdict.version}  {verdict.score:.4f}  {said}{where}{read}{why}"
