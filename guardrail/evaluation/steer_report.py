"""What the steerability probes found, as Markdown and as JSON."""

from dataclasses import asdict
from typing import Any

from guardrail.evaluation.steer import Rate, Steering

PUBLISHED = "Published for CoPE-A-9B: inversion flip rate 100% and 92% (self-harm, sexual content), off-topic 0%, selectivity +100."


def summary(found: Steering) -> dict[str, Any]:
    """The headline numbers; shares from 0 to 1, selectivity in points, None where nothing could be measured."""
    return {
        "inversion_flip_rate": found.flip.share,
        "inverted_adopted": found.adopted.share,
        "off_topic_false_flags": found.false_flags.share,
        "carve_out_selectivity": found.selectivity,
        "paraphrase_stability": found.stable.share,
    }


def as_json(found: Steering) -> dict[str, Any]:
    """Everything, with the headline numbers under `summary`."""
    return {"summary": summary(found), **asdict(found)}


def markdown(found: Steering) -> str:
    """Tables of every probe, the headline first."""
    selectivity = "-" if found.selectivity is None else f"{found.selectivity:+.0f}"
    lines = [
        f"Classifier `{found.classifier}`, {found.samples} texts. {PUBLISHED}",
        "",
        "| probe | found | 95% interval |",
        "|---|--:|--:|",
        f"| inversion flip rate | {_share(found.flip)} | {_interval(found.flip)} |",
        f"| negatives flagged once inverted | {_share(found.adopted)} | {_interval(found.adopted)} |",
        f"| off-topic false flags | {_share(found.false_flags)} | {_interval(found.false_flags)} |",
        f"| carve-out selectivity (points) | {selectivity} | |",
        f"| paraphrase stability | {_share(found.stable)} | {_interval(found.stable)} |",
        "",
        "| policy | positives flagged | released when inverted | negatives flagged when inverted |",
        "|---|--:|--:|--:|",
    ]
    lines += [f"| {each.policy} | {_share(each.flagged)} | {_share(each.released)} | {_share(each.adopted)} |" for each in found.inversions]
    lines += ["", "| off-topic policy | flagged |", "|---|--:|"]
    lines += [f"| {title} | {_share(rate)} |" for title, rate in found.off_topic.items()]
    if found.carve_outs:
        lines += ["", "| carved out | released | released, still in scope | selectivity |", "|---|--:|--:|--:|"]
    for carve in found.carve_outs:
        points = "-" if carve.selectivity is None else f"{carve.selectivity:+.0f}"
        lines.append(f"| {carve.group} | {_share(carve.released)} | {_share(carve.in_scope)} | {points} |")
    lines += ["", "| lines | positives flagged | negatives flagged | verdict as under the whole policy |", "|--:|--:|--:|--:|"]
    lines += [f"| {each.lines} | {_share(each.recall)} | {_share(each.false_flags)} | {_share(each.as_whole)} |" for each in found.lengths]
    if found.wordings:
        lines += ["", "| policy in other words | same verdict | mean spread of scores |", "|---|--:|--:|"]
    lines += [f"| {each.policy} | {_share(each.stable)} | {each.spread:.2f} |" for each in found.wordings]
    return "\n".join(lines)


def _share(rate: Rate) -> str:
    return "-" if rate.share is None else f"{rate.share:.0%} ({rate.hits}/{rate.of})"


def _interval(rate: Rate) -> str:
    low, high = rate.interval
    return f"{low:.0%} to {high:.0%}" if rate.of else ""
