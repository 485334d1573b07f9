"""Batches for the trainer: some texts, some policy variants, and the pairs of them whose label is known. Deterministic by seed and step."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guardrail.engine.embedded.model import PolicyReader, Statements
from guardrail.engine.embedded.token_match import Encoded
from guardrail.engine.embedded.tokens import Tokens, pad
from guardrail.training.compositions import Composer
from guardrail.training.labels import Aim, target
from guardrail.training.packing import TEXT_TOKENS, neighbours
from guardrail.training.rows import AREAS, TrainingRow
from guardrail.training.templates import wrappers
from guardrail.training.variants import Variant, Wordings
from guardrail.types import Policy

ASKED_AREAS = 5
JOINED = 0.03  # share of texts that stand among others in one text
CROWDED = 0.3  # share of the batches in which most do: one long text makes a batch as wide as many do
JOINED_THERE = 0.7
LONGEST_JOINED = 440  # characters; a longer text would be cut, perhaps by what decides its label
WRAPPED = 0.35  # share of our own harmless texts that stand inside a task; of violating ones a quarter of it
LONGEST_WRAPPED = 400
SHARES = {"own": 0.4, "prompt": 0.14, "toxic": 0.15, "hate": 0.31}
_FAMILY = {
    "advbench_behaviors": "prompt", "red_instruct": "prompt", "salad_verified": "prompt", "inthewild_jailbreaks": "prompt",
    "deepset_prompt_injections": "prompt", "gptfuzzer": "prompt", "gptfuzzer_responses": "prompt", "safetext": "prompt",
    "davidson": "toxic", "civil_toxic_spans": "toxic", "convabuse": "toxic", "diasafety": "toxic", "jigsaw_sample": "toxic",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's worth: token ids, statement ids, which (text, policy) pairs are asked, their labels and weights."""

    ids: Tensor
    mask: Tensor
    statement_ids: Tensor
    statement_mask: Tensor
    layout: Tensor
    kinds: Tensor
    present: Tensor
    pairs: Tensor
    labels: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True)
class Materials:
    """What policies are made of, and how text becomes tokens."""

    wordings: Wordings
    shipped: Sequence[Policy]
    tokens: Tokens


class Sampler:
    """Draws batches. `texts` texts a batch, about `asked` variants asked of each."""

    def __init__(self, rows: Sequence[TrainingRow], materials: Materials, *, seed: int, texts: int = 64, asked: int = 5) -> None:
        self._wordings, self._tokens = materials.wordings, materials.tokens
        self._composer = Composer(materials.wordings, {policy.id: policy for policy in materials.shipped})
        self._wrappers = wrappers()
        self._seed, self._texts, self._asked = seed, texts, asked
        self._families: dict[str, list[TrainingRow]] = {name: [] for name in SHARES}
        for row in rows:
            self._families["own" if row.source.startswith("own") else _FAMILY.get(row.source, "hate")].append(row)
        self._by_source = {name: _grouped(found) for name, found in self._families.items()}

    def batch(self, step: int) -> Batch:
        """The batch of a step: the same for the same seed and step, whatever came before."""
        random_ = random.Random(f"{self._seed}:{step}")  # noqa: S311  (sampling, not secrecy)
        rows = self._rows(random_)
        variants = [self._variant(aim, random_) for aim in self._aims(rows, random_)]
        texts, known = [], []
        share = JOINED_THERE if random_.random() < CROWDED else JOINED
        for row in rows:
            if random_.random() < share:
                text, answers = self._joined(row, variants, random_)
            else:
                text, answers = row.text, [target(row, variant.aim) for variant in variants]
            harmless = not any(label for label, _ in row.known.values())
            if row.complete and len(text) < LONGEST_WRAPPED and random_.random() < (WRAPPED if harmless else WRAPPED / 4):
                text = random_.choice(self._wrappers).replace("{text}", text)
            texts.append(text)
            known.append(answers)
        return self._tensors(texts, known, variants, random_)

    def _rows(self, random_: random.Random) -> list[TrainingRow]:
        """Texts of like length, so that little is padding: draw many, sort, and take neighbours until the step is full."""
        families = random_.choices(list(SHARES), list(SHARES.values()), k=4 * self._texts)
        drawn = []
        for family in families:
            groups = self._by_source[family]
            source = random_.choices(list(groups), [len(group) ** 0.5 for group in groups.values()])[0]
            drawn.append(random_.choice(groups[source]))
        return neighbours(drawn, self._texts, random_)

    def _aims(self, rows: Sequence[TrainingRow], random_: random.Random) -> list[Aim]:
        """Which policies this batch asks: always some of the areas, and variants that disagree with them."""
        # An area that some text of this batch violates is asked before one that none does.
        violated = {area: sum(row.known.get(area, (0, 0.0))[0] for row in rows) for area in AREAS}
        order = sorted(AREAS, key=lambda area: -(min(violated[area], 1) + random_.random() * 1.5))
        aims = [Aim("area", area) for area in order[:ASKED_AREAS]]
        groups = [group for row in rows for group in sorted(row.groups)] or list(self._wordings.groups)
        extra = (
            Aim("scoped", random_.choice(groups)),
            Aim("except_group", random_.choice(groups)),
            Aim("inverted", random_.choice(("hate_speech", "toxicity", "prompt_attack", "harassment", "illegal_activity"))),
            Aim("threats_only"),
            Aim("profanity_allowed"),
            Aim("topic", random_.choice(list(self._wordings.topics))),
            Aim("area", "general_harm"),
            Aim("area", "unsafe_advice"),
        )
        return aims + random_.sample(extra, 3)

    def _variant(self, aim: Aim, random_: random.Random) -> Variant:
        return self._composer.draw(aim, random_)

    def _joined(self, row: TrainingRow, variants: Sequence[Variant], random_: random.Random) -> tuple[str, list[tuple[int, float] | None]]:
        """Two or three texts in one: it violates what any of them violates, and what none of them does it does not."""
        others = random_.sample(self._families["own"], random_.choice((1, 2)))
        texts, left = [row], LONGEST_JOINED - len(row.text)
        for other in others:
            if len(other.text) < left:
                texts.insert(random_.randrange(len(texts) + 1), other)
                left -= len(other.text)
        answers: list[tuple[int, float] | None] = []
        for variant in variants:
            known = [target(each, variant.aim) for each in texts]
            if variant.aim.kind == "inverted" and len(texts) > 1:
                answers.append(None)
            elif any(each is not None and each[0] for each in known):
                answers.append((1, max(each[1] for each in known if each is not None and each[0]) * 0.8))
            else:
                answers.append(None if None in known else (0, min(each[1] for each in known if each is not None)))
        between = random_.choice((" ", " ", "\n", "\n\n", ". "))
        return between.join(each.text for each in texts), answers

    def _tensors(
        self,
        texts: Sequence[str],
        known: Sequence[Sequence[tuple[int, float] | None]],
        variants: Sequence[Variant],
        random_: random.Random,
        *,
        asked: int | None = None,
    ) -> Batch:
        ids, mask = pad([_cut(self._tokens.windows(text, size=100_000, overlap=0)[0].ids, random_) for text in texts])
        pairs, labels, weights = [], [], []
        for text, answers in enumerate(known):
            there = [(policy, answer) for policy, answer in enumerate(answers) if answer is not None]
            # Certain labels first: a text's own area must be asked, the many "elsewhere" answers only fill up.
            there.sort(key=lambda item: -(item[1][1] + item[1][0] + random_.random() * 0.7))
            for policy, (label, weight) in there[: asked or self._asked]:
                pairs.append((text, policy))
                labels.append(float(label))
                weights.append(weight)
        statements = sorted(
            {statement.text for variant in variants for statement in variant.statements}, key=lambda text: (len(text), text)
        )
        statement_ids, statement_mask = self._tokens.statements(statements)
        row = {text: place for place, text in enumerate(statements)}
        width = max(len(variant.statements) for variant in variants)
        layout = torch.zeros(len(variants), width, dtype=torch.long)
        kinds = torch.zeros_like(layout)
        present = torch.zeros(len(variants), width, dtype=torch.bool)
        for policy, variant in enumerate(variants):
            size = len(variant.statements)
            layout[policy, :size] = torch.tensor([row[statement.text] for statement in variant.statements])
            kinds[policy, :size] = torch.tensor([statement.kind for statement in variant.statements])
            present[policy, :size] = True
        return Batch(
            ids,
            mask,
            statement_ids,
            statement_mask,
            layout,
            kinds,
            present,
            torch.tensor(pairs),
            torch.tensor(labels),
            torch.tensor(weights),
        )


def forward(model: PolicyReader, batch: Batch, *, learn_statements: bool = True) -> Tensor:
    """Logits of a batch's pairs. `learn_statements` False saves the backward pass through the policies' side."""
    with torch.set_grad_enabled(learn_statements):
        encoded = Encoded.joined([model.encode_statements(ids, mask) for ids, mask in _passes(batch)])
    policies = Statements(encoded, batch.layout, batch.kinds, batch.present)
    return model.read(batch.pairs, policies, batch.ids, batch.mask)


def _passes(batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """The statements in three passes (they come sorted by length), each no wider than its longest."""
    found = []
    for ids, mask in zip(batch.statement_ids.tensor_split(3), batch.statement_mask.tensor_split(3), strict=True):
        if len(ids):
            width = int(mask.sum(1).max())
            found.append((ids[:, :width], mask[:, :width]))
    return found


def _cut(ids: Sequence[int], random_: random.Random) -> Sequence[int]:
    if len(ids) <= TEXT_TOKENS:
        return ids
    first = random_.choice((1, random_.randint(1, len(ids) - TEXT_TOKENS + 1)))
    return (ids[0], *ids[first : first + TEXT_TOKENS - 2], ids[-1])


def _grouped(rows: Sequence[TrainingRow]) -> dict[str, list[TrainingRow]]:
    groups: dict[str, list[TrainingRow]] = {}
    for row in rows:
        groups.setdefault(row.source, []).append(row)
    return groups
