"""A card as Markdown (whole, or the rows with a bar), as one JSON document of numbers, and as a marked block inside another document."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

from guardrail.errors import GuardrailError
from guardrail.evaluation.card import TOGETHER, Bar, CardRow
from guardrail.evaluation.predictions import RunInfo
from guardrail.evaluation.published import of_task
from guardrail.evaluation.run import ANY
from guardrail.evaluation.suite import AT_MOST

HEAD = "set | asked | rows | violating | ROC AUC | AUPRC | precision | recall | F1 | F1 crossed | flagged | bars | published"
SHORT = "set | asked | rows | ROC AUC | AUPRC | F1 | flagged | bars"
NAMES = {"f1": "F1", "auc": "ROC AUC", "auprc": "AUPRC", "flagged": "flagged"}
BLOCK = re.compile(r"(?m)^(<!-- evaluation(: short)? -->\n).*?^(<!-- /evaluation -->)$", re.DOTALL)
DIGITS = 4
BASELINES = {
    "keywords": "keywords looks for words of what a policy includes.",
    "tfidf": "tfidf never reads a policy: TF-IDF and logistic regression, trained on rows that the shipped weights may learn from.",
}
MEANING = (
    "Precision, recall, F1 and flagged are at the policies' thresholds. F1 crossed: at a threshold chosen on the other half of the units,"
    " both ways. † may train the shipped weights; only units that training never sees are measured. Published figures are of other"
    " rows under other policies, for orientation: lowest to highest of several systems."
)


@dataclass(frozen=True, slots=True)
class Card:
    """A classifier's rows, and those of others by name, over the same texts. `empty`: what had no text to measure."""

    info: RunInfo
    rows: tuple[CardRow, ...]
    empty: tuple[str, ...] = ()
    beside: Mapping[str, tuple[CardRow, ...]] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def failed(self) -> int:
        """Texts that were not judged in full, in all rows."""
        return sum(row.failed for row in self.rows if row.task is not TOGETHER)


def markdown(card: Card) -> str:
    """The whole table, what its columns mean, and others beside it."""
    lines = [*_facts(card), "", f"| {HEAD} |", "|---|---|" + "--:|" * 9 + "---|---|"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in card.rows]
    lines += ["", *_bars_line(card), ""]
    lines.append(MEANING)
    if card.beside:
        lines += ["", *_beside(card)]
    return "\n".join(lines)


def short(card: Card) -> str:
    """The rows with a bar alone."""
    lines = [f"| {SHORT} |", "|---|---|" + "--:|" * 5 + "---|"]
    for row in card.rows:
        if row.bars:
            cells = _cells(row)
            lines.append(f"| {' | '.join([*cells[:3], *cells[4:6], cells[8], cells[10], cells[11]])} |")
    return "\n".join([*lines, "", *_bars_line(card)])


def document(card: Card) -> dict[str, object]:
    """All numbers, rounded to four digits."""
    return {
        "run": asdict(card.info),
        "rows": [_numbers(row) for row in card.rows],
        "beside": {name: [_numbers(row) for row in rows] for name, rows in card.beside.items()},
    }


def write_block(path: Path, card: Card) -> None:
    """Put the table between the markers of a document, the short one where the marker says so.

    Raises GuardrailError when there are none.
    """
    text = path.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        raise GuardrailError(
            f"{path} has no place for the table: write `<!-- evaluation -->` and `<!-- /evaluation -->` on lines of their own"
        )
    path.write_text(BLOCK.sub(lambda found: f"{found[1]}{short(card) if found[2] else markdown(card)}\n{found[3]}", text), encoding="utf-8")


def _facts(card: Card) -> Iterator[str]:
    limit = f" --limit {card.info.limit} --seed {card.info.seed}" if card.info.limit else ""
    told = card.info.policies
    thresholds = ", ".join(f"{policy.id} {policy.threshold:g}" for policy in told)
    answers = ", ".join(f"{policy.id} {policy.output_threshold:g}" for policy in told if policy.output_threshold is not None)
    thresholds += f"; of answers: {answers}" if answers else ""
    yield f"`guardrail evaluate card{limit}`, classifier `{card.info.classifier}`, thresholds: {thresholds}."
    if card.empty:
        yield f"No text to measure in: {', '.join(card.empty)}."
    if card.failed:
        yield f"{card.failed} texts could not be judged; they count nowhere."


def _bars_line(card: Card) -> Iterator[str]:
    bars = [bar for row in card.rows for bar in row.bars]
    if bars:
        yield f"{sum(bar.met for bar in bars)} of {len(bars)} bars are met."


def _cells(row: CardRow) -> list[str]:
    """A row of the table whose columns are `HEAD`; a dash where a number would say nothing."""
    q, task = row.quality, row.task
    name = task.set if task is TOGETHER else f"{task.set}{'†' if task.trained else ''}/{task.area}"
    both = q.positives and q.positives < q.rows
    cells = [name, "all" if task.asked == ANY else task.asked, f"{q.rows:,}", f"{q.positives:,}"]
    cells += [_number(value) for value in (q.auc, q.auprc)]
    cells += [_number(q.precision if both else None), _number(q.recall if q.positives else None), _number(q.f1 if both else None)]
    cells += [_number(row.crossed_f1), f"{q.flagged:.1%}", "; ".join(map(_bar, row.bars)), _published(row)]
    return cells


def _bar(bar: Bar) -> str:
    asked = f"{NAMES[bar.metric]} ≤ {bar.bar:.0%}" if bar.metric in AT_MOST else f"{NAMES[bar.metric]} ≥ {_number(bar.bar, 2)}"
    return f"{asked} {'met' if bar.met else '**missed**'}"


def _published(row: CardRow) -> str:
    found = of_task(row.task.set, row.task.area)
    told = []
    for name in ("f1", "auprc"):
        values = sorted(value for each in found if (value := getattr(each, name)) is not None)
        if values:
            told.append(f"{NAMES[name]} {_number(values[0], 2)} to {_number(values[-1], 2)}")
    return ", ".join(told)


def _beside(card: Card) -> Iterator[str]:
    names = list(card.beside)
    others = [{row.task.name: row for row in rows} for rows in card.beside.values()]
    yield "Side by side: ROC AUC / AUPRC / F1 crossed, or the share that is flagged where there is nothing to find." + "".join(
        f" {BASELINES[name]}" for name in names if name in BASELINES
    )
    yield ""
    yield f"| set | asked | this | {' | '.join(names)} |"
    yield "|---|---|" + "--:|" * (1 + len(names))
    for row in card.rows:
        cells = [_three(row), *(_three(each.get(row.task.name)) for each in others)]
        yield f"| {' | '.join([*_cells(row)[:2], *cells])} |"


def _three(row: CardRow | None) -> str:
    if row is None:
        return "-"
    if row.quality.auc is None:
        return f"{row.quality.flagged:.1%}"
    return " / ".join(_number(value) for value in (row.quality.auc, row.quality.auprc, row.crossed_f1))


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}".replace("0.", ".", 1) if value < 1 else f"{value:.{digits}f}"


def _numbers(row: CardRow) -> dict[str, object]:
    quality = {name: round(value, DIGITS) if isinstance(value, float) else value for name, value in asdict(row.quality).items()}
    return {
        "set": row.task.set,
        "area": row.task.area,
        "asked": row.task.asked,
        "held_out_units_alone": row.task.trained,
        "failed": row.failed,
        **quality,
        "f1_crossed": None if row.crossed_f1 is None else round(row.crossed_f1, DIGITS),
        "bars": [{**asdict(bar), "value": None if bar.value is None else round(bar.value, DIGITS), "met": bar.met} for bar in row.bars],
        "published": [asdict(each) for each in of_task(row.task.set, row.task.area)],
    }


def differences(before: Sequence[Mapping[str, object]], now: Sequence[Mapping[str, object]], metrics: Sequence[str]) -> dict[str, float]:
    """How far numbers of rows that both have lie apart, by `set/area/asked metric`; what one of them lacks counts as 1."""
    found = {}
    known = {_name(row): row for row in before}
    for row in now:
        for metric in metrics:
            ours, theirs = row.get(metric), known.get(_name(row), {}).get(metric)
            both = isinstance(ours, int | float) and isinstance(theirs, int | float)
            found[f"{_name(row)} {metric}"] = abs(ours - theirs) if both else float(ours != theirs)  # type: ignore[operator]
    return found


def _name(row: Mapping[str, object]) -> str:
    return f"{row['set']}/{row['area']}/{row['asked']}"
