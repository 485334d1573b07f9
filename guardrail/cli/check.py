"""`guardrail check`: judge one text."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from guardrail.assembly import open_guard
from guardrail.context import Answered
from guardrail.errors import GuardrailError
from guardrail.policy.document import read
from guardrail.types import Action, Decision, Policy, Stage, Verdict

MAX_CHARS = 1_000_000


@click.command()
@click.argument("text", required=False)
@click.option("--policy", "policies", multiple=True, metavar="ID|FILE", help="Policy to judge by; repeatable (default: every policy).")
@click.option("--stage", type=click.Choice([stage.value for stage in Stage]), default="input", show_default=True, help="Prompt or answer.")
@click.option(
    "--config", "path", type=click.Path(dir_okay=False, path_type=Path), help="Configuration whose policies and classifier to use."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.option("--prompt", metavar="TEXT", help="What TEXT answers, for policies that judge answers with it; stage output.")
def check(text: str | None, policies: Sequence[str], stage: str, path: Path | None, as_json: bool, prompt: str | None) -> None:
    """Judge TEXT, or standard input for - (or nothing).

    Exits 0 if nothing is violated, 1 if something is, 2 if it could not be judged.
    """
    if text is None or text == "-":
        text = sys.stdin.read(MAX_CHARS + 1)
    if len(text) > MAX_CHARS:
        raise GuardrailError(f"the text has more than {MAX_CHARS} characters; judge it in pieces")
    if not text.strip():
        raise GuardrailError("there is no text to judge; give it as an argument or on standard input")
    wanted: list[str | Policy] = [read(Path(name)) if name.endswith(".md") or "/" in name else name for name in policies]
    decision = asyncio.run(_judge(text if prompt is None else Answered(prompt, text), wanted, Stage(stage), path))
    click.echo(json.dumps(_document(decision), ensure_ascii=False, indent=2) if as_json else _lines(decision))
    if decision.outcome.unjudged:
        raise click.exceptions.Exit(2)
    if decision.violations:
        raise click.exceptions.Exit(1)


async def _judge(text: str | Answered, policies: Sequence[str | Policy], stage: Stage, path: Path | None) -> Decision:
    async with open_guard(path) as guard:
        for said in guard.canaries.last.values() if guard.canaries else ():
            if not said.ok:
                click.echo(f"Warning: classifier {said.classifier} fails its known pair: {said.detail}.", err=True)
        return await guard.check(text, policies=policies or None, stage=stage)


def _lines(decision: Decision) -> str:
    width = max((len(verdict.policy_id) for verdict in decision.verdicts), default=0)
    rows = [_line(verdict, width) for verdict in sorted(decision.verdicts, key=lambda verdict: -(verdict.score or 0.0))]
    if decision.outcome.unjudged:
        rows.append("The text could not be judged.")
    elif decision.violations:
        rows.append(f"Violates {', '.join(verdict.policy_id for verdict in decision.violations)}.")
    else:
        rows.append("No violation.")
    return "\n".join(rows)


def _line(verdict: Verdict, width: int) -> str:
    name = f"{verdict.policy_id:<{width}}"
    if verdict.score is None:
        return f"{name}  not judged ({verdict.error})"
    because = f"  {verdict.criterion}" if verdict.violation and verdict.criterion else ""
    because += f"  (read through {', '.join(verdict.reading)})" if verdict.violation and verdict.reading else ""
    return f"{name}  {verdict.score:.3f}  {'violates' if verdict.violation else 'passes':<8}  (threshold {verdict.threshold:g}){because}"


def _document(decision: Decision) -> dict[str, object]:
    return {
        "violation": bool(decision.violations),
        "unjudged": decision.outcome.unjudged,
        "action": Action(decision.action).word,
        "decision_id": decision.id,
        "duration_ms": round(decision.duration_s * 1000, 3),
        "verdicts": [
            {
                "policy": verdict.policy_id,
                "version": verdict.policy_version,
                "digest": verdict.policy_digest,
                "score": verdict.score,
                "threshold": verdict.threshold,
                "violation": verdict.violation,
                "criterion": verdict.criterion,
                "error": verdict.error,
                "reading": list(verdict.reading),
                "flags": list(verdict.flags),
                "classifier": verdict.classifier,
            }
            for verdict in decision.verdicts
        ],
    }
