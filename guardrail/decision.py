"""The decision: verdicts in, one outcome out. Pure, total, deterministic, and monotone in every score."""

from collections.abc import Iterable

from guardrail.types import Action, Fallback, Mode, Outcome, Part, Verdict


def decide(
    verdicts: Iterable[Verdict],
    *,
    unscannable: Iterable[Part] = (),
    on_error: Fallback = Fallback.BLOCK,
    on_unscannable: Fallback = Fallback.BLOCK,
    enforcing: bool = True,
) -> Outcome:
    """Fold one stage's verdicts into an outcome.

    The strongest action wins, for the stage and for each answer choice. A verdict in shadow mode can only raise
    `Outcome.shadow`. An error counts as BLOCK under `on_error: block` and as nothing under `pass`; both set `unjudged`.
    `unscannable` are the parts that could not be read; `enforcing` says whether the stage has any enforced check, since a stage
    that is only watched must not block what it cannot read either.
    """
    tally = _Tally()
    for verdict in verdicts:
        if verdict.error is not None:
            tally.unjudged = True
            if on_error is Fallback.BLOCK:
                tally.add(Action.BLOCK, verdict.mode, verdict.choice, judged=False)
        elif verdict.violation:
            tally.add(verdict.action, verdict.mode, verdict.choice, judged=True)
    for part in unscannable:
        tally.unjudged = True
        if on_unscannable is Fallback.BLOCK:
            tally.add(Action.BLOCK, Mode.ENFORCE if enforcing else Mode.SHADOW, part.choice, judged=True)
    return tally.outcome()


class _Tally:
    """The running maximum per place; kept private so that `decide` stays one pure function from outside."""

    def __init__(self) -> None:
        self.action = Action.PASS
        self.shadow = Action.PASS
        self.judged = Action.PASS
        self.choices: dict[int, Action] = {}
        self.unjudged = False

    def add(self, action: Action, mode: Mode, choice: int | None, *, judged: bool) -> None:
        if mode is Mode.SHADOW:
            self.shadow = max(self.shadow, action)
            return
        self.action = max(self.action, action)
        if judged:
            self.judged = max(self.judged, action)
        if choice is not None:
            self.choices[choice] = max(self.choices.get(choice, Action.PASS), action)

    def outcome(self) -> Outcome:
        unavailable = self.action is Action.BLOCK and self.judged is not Action.BLOCK
        return Outcome(self.action, max(self.action, self.shadow), dict(self.choices), self.unjudged, unavailable)
