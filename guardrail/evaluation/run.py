"""Ask a classifier about every item under every policy that its label speaks of; what was answered before is not asked again."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from guardrail.context import contexts_for, shown
from guardrail.errors import ClassifierError, GuardrailError
from guardrail.evaluation.dataset import DataSet, Item
from guardrail.evaluation.machine import describe
from guardrail.evaluation.predictions import RUN, Key, PolicyUsed, Prediction, PredictionFile, RunInfo, SetUsed, read_info, write_info
from guardrail.interfaces import Classifier
from guardrail.types import ClassifyRequest, Policy, Score

PATIENCE_S = 3600.0
ANY = "any"  # in place of a policy's id: all policies together, and the strongest verdict counts
AREAS = {"": ANY, "benign": ANY, "general_harm": ANY, "jailbreak": "prompt_attack"}  # every other area is a policy's id


@dataclass(frozen=True, slots=True)
class Plan:
    """What is judged: items of sets under policies. `areas` says which policy an area is asked under, where it is not `AREAS`."""

    sets: tuple[DataSet, ...]
    policies: tuple[Policy, ...]
    areas: Mapping[str, str]
    batch: int = 16
    limit: int | None = None
    seed: int = 0

    def asked(self, area: str) -> tuple[Policy, ...]:
        """The policies that an area's labels speak of; none where its policy is not among those of the plan."""
        wanted = self.areas.get(area, AREAS.get(area, area))
        return tuple(policy for policy in self.policies if wanted in (ANY, policy.id))

    def items(self, data: DataSet) -> tuple[Item, ...]:
        """The items of a set that are judged: labelled, with a policy, `limit` evenly spaced ones of each set at most."""
        fit = [item for item in data.items if item.label is not None and self.asked(item.area)]
        if self.limit is not None and len(fit) > self.limit:
            return tuple(fit[place * len(fit) // self.limit] for place in range(self.limit))
        return tuple(fit)

    def check(self) -> None:
        """Raises GuardrailError where a set would not be judged at all, or two have one name."""
        if len({data.name for data in self.sets}) != len(self.sets):
            raise GuardrailError("two data sets have the same name; rename one of the files")
        for data in self.sets:
            if not self.items(data):
                areas = ", ".join(sorted({item.area or "none" for item in data.items}))
                raise GuardrailError(
                    f"nothing of {data.name} can be measured: it has no labelled row in an area (there are: {areas}) that one of the"
                    " policies is about; say which policy judges an area with --area AREA=POLICY"
                )

    def info(self, classifier: str) -> RunInfo:
        """How the run is described."""
        return RunInfo(
            classifier=classifier,
            policies=tuple(map(PolicyUsed.of, self.policies)),
            sets=tuple(SetUsed(data.name, data.sha256, len(self.items(data))) for data in self.sets),
            seed=self.seed,
            batch=self.batch,
            limit=self.limit,
            areas=dict(self.areas),
            machine=describe(),
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: items done of all, how many of them were found done, and judgements that failed in this run."""

    done: int
    total: int
    before: int
    failed: int


Question = tuple[Item, tuple[Policy, ...]]


async def evaluate(classifier: Classifier, plan: Plan, folder: Path) -> AsyncIterator[Progress]:
    """Judge what the folder does not hold yet, and write it there; yields after each batch. Failed judgements are asked again.

    Raises GuardrailError when the folder holds another run, or when a classifier refuses the policies.
    """
    plan.check()
    questions = [(item, plan.asked(item.area)) for data in plan.sets for item in plan.items(data)]
    async for progress in ask(classifier, questions, plan.info(classifier.id), folder):
        yield progress


async def ask(
    classifier: Classifier, questions: Sequence[Question], info: RunInfo, folder: Path, *, growing: bool = False
) -> AsyncIterator[Progress]:
    """Ask each question that the folder holds no answer to, `info.batch` of them in a call; as `evaluate`.

    `growing`: the folder may hold other sets, and more or fewer texts of the same ones, of the same classifier and policies.
    """
    file = _opened(folder, info, growing=growing)
    known = {key for key, each in file.read().items() if each.score is not None}
    missing = [(item, open_) for item, policies in questions if (open_ := _missing(item, policies, known))]
    before, failed = len(questions) - len(missing), 0
    yield Progress(before, len(questions), before, failed)
    if missing:
        await classifier.prepare(list({policy.key: policy for _, policies in missing for policy in policies}.values()))
    for first in range(0, len(missing), info.batch):
        chunk = missing[first : first + info.batch]
        found = await _judged(classifier, [(item, policy) for item, policies in chunk for policy in policies])
        file.add(found)
        failed += sum(each.score is None for each in found)
        yield Progress(before + first + len(chunk), len(questions), before, failed)


def _opened(folder: Path, info: RunInfo, *, growing: bool) -> PredictionFile:
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / RUN).exists():
        before = read_info(folder)
        if differing := info.differences(before, growing=growing):
            raise GuardrailError(f"{folder} holds another run ({', '.join(differing)} differed); choose another folder, or remove it")
        if growing:
            new = {each.name for each in info.sets}
            info = replace(info, sets=(*(each for each in before.sets if each.name not in new), *info.sets))
    write_info(folder, info)
    return PredictionFile(folder)


def _missing(item: Item, policies: Sequence[Policy], known: set[Key]) -> tuple[Policy, ...]:
    return tuple(policy for policy in policies if (item.set, item.id, *policy.key) not in known)


async def _judged(classifier: Classifier, asked: Sequence[tuple[Item, Policy]]) -> list[Prediction]:
    pieces = [contexts_for(policy, item.stage, item.context) for item, policy in asked]
    requests = [
        shown(ClassifyRequest(policy, item.text, context, item.stage))
        for (item, policy), contexts in zip(asked, pieces, strict=True)
        for context in contexts
    ]
    at, began = time.time(), time.perf_counter()
    answers: Sequence[Score | ClassifierError]
    try:
        answers = await classifier.classify(requests, deadline=time.monotonic() + PATIENCE_S)
    except ClassifierError as error:
        answers = [error] * len(requests)
    took = time.perf_counter() - began
    told = iter([answer for _, answer in zip(requests, answers, strict=True)])
    found = [_strongest(tuple(islice(told, len(contexts)))) for contexts in pieces]
    return [
        Prediction(
            set=item.set,
            item=item.id,
            policy=policy.id,
            digest=policy.digest,
            label=item.label,
            score=answer.value if isinstance(answer, Score) else None,
            error=None if isinstance(answer, Score) else answer.code,
            latency_s=round(took, 6),
            together=len(requests),
            at=round(at, 3),
            stage=item.stage,
        )
        for (item, policy), answer in zip(asked, found, strict=True)
    ]


def _strongest(answers: Sequence[Score | ClassifierError]) -> Score | ClassifierError:
    """One answer of those with each piece of a prompt: the highest score, or what could not be judged."""
    scores = [answer for answer in answers if isinstance(answer, Score)]
    if len(scores) < len(answers) or not answers:
        errors = (answer for answer in answers if isinstance(answer, ClassifierError))
        return next(errors, ClassifierError("too_long", "the prompt is too long to judge an answer with"))
    return max(scores, key=lambda score: score.value)
