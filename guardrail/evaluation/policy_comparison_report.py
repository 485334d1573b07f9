"""A comparison of two versions of a policy as Markdown for people and as JSON for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from guardrail.evaluation.policy_comparison import Judged, PolicyComparison
from guardrail.evaluation.predictions import PolicyUsed
from guardrail.evaluation.steer import Rate
from guardrail.types import Policy

MOST_CHANGED = 20  # in the Markdown; the JSON holds them all
MOST_CHARACTERS = 300


def document(found: Sequence[PolicyComparison], *, texts: bool = False) -> dict[str, Any]:
    """Everything, changed texts by id included; with `texts` their words, too."""
    old, new = found[0].old, found[0].new
    return {"old": _policy(old), "new": _policy(new), "classifiers": [_one(each, texts=texts) for each in found]}


def markdown(found: Sequence[PolicyComparison], *, texts: bool = False) -> str:
    """The report, a section for each classifier."""
    old, new = found[0].old, found[0].new
    lines = [
        f"# {_named(old)} → {_named(new)}",
        "",
        "Intervals are of 95% (Wilson, texts independent). Released: flagged by the old version alone; caught: by the new one alone.",
    ]
    for each in found:
        lines += ["", f"## {each.classifier}", "", *_table(each)]
        if changed := each.changed:
            lines += ["", f"### Changed verdicts ({len(changed)})", "", *_changed(changed[:MOST_CHANGED], texts=texts)]
    return "\n".join(lines) + "\n"


def _table(each: PolicyComparison) -> list[str]:
    was, now = each.flagged
    lines = ["| texts | share | 95% interval | |", "|---|--:|---|---|"]
    rows = [
        ("flagged by the old", was),
        ("flagged by the new", now),
        ("released", each.released),
        ("caught", each.caught),
        ("changed", each.flips),
    ]
    if each.right is not None:
        rows += [("old as labelled", each.right[0]), ("new as labelled", each.right[1])]
    lines += [
        f"| {name} | {_percent(rate.share)} | {_percent(rate.interval[0])} to {_percent(rate.interval[1])} | {rate.hits:,} of {rate.of:,} |"
        for name, rate in rows
    ]
    agreed = each.agreement
    told = "cannot be told: neither flags a text" if agreed is None else f"{agreed.value:.3f} ({agreed.low:.3f} to {agreed.high:.3f})"
    lines += ["", f"Cohen's kappa of the two versions: {told}."]
    if each.unjudged:
        lines.append(f"{each.unjudged:,} texts could not be judged by both, and are in no rate.")
    return lines


def _changed(some: Sequence[Judged], *, texts: bool) -> list[str]:
    head = ["| text | old | new |" + (" what it says |" if texts else ""), "|---|--:|--:|" + ("---|" if texts else "")]
    return head + [
        f"| {_cell(each.asked.id)} | {_score(each.old_score)} | {_score(each.new_score)} |"
        + (f" {_cell(each.asked.text)} |" if texts else "")
        for each in some
    ]


def _one(each: PolicyComparison, *, texts: bool) -> dict[str, Any]:
    was, now = each.flagged
    right = each.right
    rates = {"flagged_by_old": was, "flagged_by_new": now, "released": each.released, "caught": each.caught, "changed": each.flips}
    if right is not None:
        rates |= {"old_as_labelled": right[0], "new_as_labelled": right[1]}
    return {
        "classifier": each.classifier,
        "texts": len(each.complete),
        "unjudged": each.unjudged,
        "rates": {name: _rate(rate) for name, rate in rates.items()},
        "kappa": None if each.agreement is None else asdict(each.agreement),
        "changed": [_text(one, texts=texts) for one in each.changed],
    }


def _text(one: Judged, *, texts: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": one.asked.id,
        "stage": one.asked.stage.value,
        "old": one.old_score,
        "new": one.new_score,
        "flagged_by_new": one.new,
    }
    return told | ({"text": one.asked.text} if texts else {})


def _rate(rate: Rate) -> dict[str, Any]:
    return {"hits": rate.hits, "of": rate.of, "share": rate.share, "interval": list(rate.interval)}


def _policy(policy: Policy) -> dict[str, Any]:
    return asdict(PolicyUsed.of(policy))


def _named(policy: Policy) -> str:
    said = PolicyUsed.of(policy).thresholds
    return f"{policy.id} {policy.version} (threshold {said}, {policy.digest.removeprefix('sha256:')[:8]})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"


def _cell(text: str) -> str:
    """One line, and nothing in it that Markdown would act upon."""
    line = " ".join(text[:MOST_CHARACTERS].split())
    return "".join(f"\\{char}" if char in "\\|`*_<>[]&" else char for char in line if char.isprintable()) + (
        "…" if len(text) > MOST_CHARACTERS else ""
    )
