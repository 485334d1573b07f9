"""Two versions over the same texts: what cannot be judged is in no rate, and labels count where they speak of the policy."""

from dataclasses import replace

import pytest

from guardrail.errors import ClassifierError, GuardrailError
from guardrail.evaluation.policy_comparison import Asked, Bounds, Judged, PolicyComparison, compared
from guardrail.evaluation.policy_comparison_report import document, markdown
from guardrail.testing import ScriptedClassifier, policy
from guardrail.types import ClassifyRequest, Policy, Score, Stage

OLD = policy("violence")
NEW = policy("violence", version="1.1.0", body="new words", threshold=0.3)


class Versions(ScriptedClassifier):
    def _answer(self, request: ClassifyRequest) -> object:
        if "broken" in request.text and request.policy is NEW:
            return ClassifierError("crash", "…")
        return Score(0.9 if "attack" in request.text else 0.4, "scripted")


async def found(*texts: Asked) -> PolicyComparison:
    return PolicyComparison("scripted", OLD, NEW, tuple([each async for each in compared(OLD, NEW, texts, Versions())]))


async def test_each_text_is_judged_once_under_both_by_stage() -> None:
    told = await found(Asked("a", "an attack"), Asked("b", "tea", Stage.OUTPUT), Asked("c", "broken tea"), Asked("d", "  "))
    assert {each.asked.id: (each.old, each.new) for each in told.judged} == {
        "a": (True, True),
        "b": (False, True),
        "c": (False, None),
        "d": (False, False),
    }
    assert (told.unjudged, told.caught.hits, told.released.hits, told.flips.of) == (1, 1, 0, 3)
    assert Bounds(texts=3, flips=0.5).exceeded(told) == []
    assert Bounds(texts=3, flips=0.4).exceeded(told) == ["scripted: 2 of 4 verdicts change (1 of them could not be judged), 40.0% may"]
    assert "1 texts could not be judged by both" in markdown([told])


async def test_answers_are_compared_at_the_thresholds_of_answers() -> None:
    old, new = replace(OLD, output_threshold=0.3), replace(NEW, threshold=0.5, output_threshold=0.45)
    texts = [Asked("a", "tea"), Asked("b", "tea", Stage.OUTPUT)]
    judged = tuple([each async for each in compared(old, new, texts, Versions())])
    assert [(each.old, each.new) for each in judged] == [(False, False), (True, False)]
    told = PolicyComparison("scripted", old, new, judged)
    assert "(threshold 0.5, of answers 0.3," in markdown([told])
    assert document([told])["new"]["output_threshold"] == 0.45


async def test_agreement_of_two_that_flag_nothing_cannot_be_told() -> None:
    told = PolicyComparison("scripted", OLD, NEW, (Judged(Asked("a", "tea"), 0.1, 0.1, old=False, new=False),))
    assert told.agreement is None
    assert Bounds(texts=1, agreement=0.5).exceeded(told) == [
        "scripted: neither version flags a text, so that their agreement cannot be told; give texts that violate"
    ]


async def test_labels_count_where_they_speak_of_the_policy() -> None:
    told = await found(
        Asked("a", "an attack", area="violence", label=1),
        Asked("b", "tea", area="benign", label=0),
        Asked("c", "an attack", area="general_harm", label=1),
        Asked("d", "an attack", area="harassment", label=0),
    )
    assert told.right is not None
    assert [(rate.hits, rate.of) for rate in told.right] == [(2, 2), (1, 2)]
    assert "| new as labelled | 50.0% |" in markdown([told])


async def test_texts_in_the_report_are_no_markup() -> None:
    told = await found(Asked("a|b", "tea | <b>*x*</b>\n\u202e# no heading"))
    assert "a\\|b" in markdown([told], texts=True)
    assert "tea \\| \\<b\\>\\*x\\*\\</b\\> # no heading" in markdown([told], texts=True)


class Listening(ScriptedClassifier):
    """Flags what speaks of an attack, and remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[tuple[str, str]] = []

    def _answer(self, request: ClassifyRequest) -> object:
        self.shown.append((request.policy.version, request.text))
        return Score(0.9 if "attack" in request.text else 0.1, "scripted")


async def between(old: Policy, new: Policy, *texts: Asked) -> tuple[dict[str, tuple[bool | None, bool | None]], list[tuple[str, str]]]:
    classifier = Listening()
    judged = [each async for each in compared(old, new, texts, classifier)]
    return {each.asked.id: (each.old, each.new) for each in judged}, classifier.shown


async def test_a_version_is_judged_in_its_own_stages_alone_and_flags_nothing_elsewhere() -> None:
    narrowed = policy("violence", version="1.1.0", applies_to=frozenset({Stage.INPUT}))
    texts = Asked("prompt", "an attack"), Asked("answer", "the attack", Stage.OUTPUT)
    told, shown = await between(OLD, narrowed, *texts)
    assert told == {"prompt": (True, True), "answer": (True, False)}
    assert [version for version, text in shown if text == "the attack"] == ["1.0.0"]
    told, _ = await between(narrowed, OLD, *texts)
    assert told["answer"] == (False, True)


async def test_texts_of_a_stage_that_neither_version_judges_count_for_nothing() -> None:
    answers = {"applies_to": frozenset({Stage.OUTPUT})}
    old, new = policy("violence", **answers), policy("violence", version="1.1.0", body="new words", **answers)
    told, _ = await between(old, new, Asked("prompt", "an attack"), Asked("answer", "tea", Stage.OUTPUT))
    assert set(told) == {"answer"}
    with pytest.raises(GuardrailError, match="none of the texts is of a stage that 'violence' applies to"):
        await between(old, new, Asked("prompt", "an attack"))


ASKING = policy("violence", version="1.1.0", judge_with="prompt")


async def test_a_version_that_asks_for_the_prompt_is_judged_with_each_answers_own() -> None:
    told, shown = await between(
        OLD,
        ASKING,
        Asked("a", "first, a step", Stage.OUTPUT, context="plan an attack"),
        Asked("b", "first, boil", Stage.OUTPUT, context="make tea"),
    )
    assert told == {"a": (False, True), "b": (False, False)}
    assert ("1.1.0", "[user]: plan an attack\n\n[assistant]: first, a step") in shown
    assert ("1.0.0", "first, a step") in shown


@pytest.mark.parametrize("versions", [(OLD, ASKING), (ASKING, OLD)])
@pytest.mark.parametrize("said", [None, "  "])
async def test_where_a_version_asks_for_the_prompt_answers_need_one(versions: tuple[Policy, Policy], said: str | None) -> None:
    bare = Asked("b", "first, boil", Stage.OUTPUT, context=said)
    with pytest.raises(GuardrailError, match="1 of 2 answers have no prompt"):
        await between(*versions, Asked("a", "a step", Stage.OUTPUT, context="x"), bare)
    with pytest.raises(GuardrailError, match="there is no answer among the texts"):
        await between(*versions, Asked("c", "a prompt"))
