"""A classifier of your own: anything with `id`, `prepare`, `classify` and `aclose`.

This one looks up words, which is no way to judge; put a call of your model in its place. Use it in a configuration:

    classifiers:
      mine: {kind: custom, factory: "custom_classifier:make", options: {words: {toxicity: [idiot]}}}

At start and then on a schedule it is asked a known pair: an insult, which the policy `toxicity` must catch, and a harmless sentence.
A classifier for something else brings its own pair as the attribute `canary` (a `guardrail.canary.Canary`, or None for no pair).

Run this file to see it judge two texts.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from guardrail import ClassifierError, ClassifyRequest, Policy, Score
from guardrail.assembly import open_guard
from guardrail.config.models import Config


class WordList:
    """Scores a text by the words a policy's list holds."""

    def __init__(self, words: Mapping[str, Sequence[str]]) -> None:
        self._words = words

    @property
    def id(self) -> str:
        """Written into every score, so that a decision can be traced to what made it. Change it when the behaviour changes."""
        return "word-list@1"

    async def prepare(self, policies: Sequence[Policy]) -> None:
        """Called before policies come into force; raise ClassifierError for one that cannot be served, and they will not."""

    async def classify(self, requests: Sequence[ClassifyRequest], *, deadline: float) -> list[Score | ClassifierError]:
        """One answer a request, in order. What cannot be scored is an error, never a 0: the route decides what errors mean."""
        if time.monotonic() >= deadline:
            return [ClassifierError("timeout", "there was no time left")] * len(requests)
        return [self._score(request) for request in requests]

    async def aclose(self) -> None:
        """Called once, at the end."""

    def _score(self, request: ClassifyRequest) -> Score:
        found = [word for word in self._words.get(request.policy.id, ()) if word in request.text.lower()]
        return Score(0.9 if found else 0.05, self.id, criterion=f"the word {found[0]!r}" if found else None)


def make(options: Mapping[str, Any]) -> WordList:
    """The factory that the configuration names; it gets the configured options."""
    return WordList(options.get("words", {}))


async def main() -> None:
    """Judge two texts as the proxy would."""
    options = {"words": {"toxicity": ["idiot"]}}
    config = Config.model_validate({"classifiers": {"mine": {"kind": "custom", "factory": f"{__name__}:make", "options": options}}})
    async with open_guard(config) as guard:
        for text in ("What a lovely morning.", "Only an idiot would say so."):
            decision = await guard.check(text)
            why = [f"{verdict.policy_id} {verdict.score} ({verdict.criterion})" for verdict in decision.violations]
            print(f"{text} -> {decision.action.word} {', '.join(why)}".rstrip())


if __name__ == "__main__":
    asyncio.run(main())
