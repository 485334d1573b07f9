"""Two versions over the same texts: what cannot be judged is in no rate, and labels count where they speak of the policy."""

from guardrail.errors import ClassifierError
from guardrail.evaluation.policy_comparison import Asked, Bounds, Judged, PolicyComparison, compared
from guardrail.evaluation.policy_comparison_report import markdown
from guardrail.testing import ScriptedClassifier, policy
from guardrail.types import ClassifyRequest, Score, Stage

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
