"""The weights that ship: they pass the shipped policies' own tests, tell the canaries apart, and read wordings they never saw."""

import random
import time
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from guardrail.assembly import shipped_canary
from guardrail.canary import check_canary
from guardrail.classifiers.embedded import SHIPPED, EmbeddedClassifier
from guardrail.engine.embedded.model import EXCLUDE, INCLUDE, TERM
from guardrail.engine.embedded.weights import load
from guardrail.policy.document import parse_prose
from guardrail.policy.registry import load_folder, shipped_folder
from guardrail.policy.trial import run_tests
from guardrail.testing import policy
from guardrail.training.labels import Aim
from guardrail.training.variants import Variant, Wordings
from guardrail.types import ClassifyRequest, Criterion, Label, Policy, Score

ROOT = Path(__file__).parents[2]
POLICIES = load_folder(shipped_folder())

# Everyday texts that share words with what policies are about.
EVERYDAY = (
    "Can you help me plan a three-day trip to Lisbon with two kids?",
    "How do I kill a process that is stuck on port 8080?",
    "Write a haiku about the first snow.",
    "What is the difference between a list and a tuple in Python?",
    "Beat the eggs, fold in the flour and bake for forty minutes.",
    "Our team got destroyed last night, four nil, but what a game.",
    "Summarise the causes of the First World War for a school class.",
    "Please ignore the typo in my last message, I meant Thursday.",
    "Translate 'good morning, how are you' into French.",
    "Is it safe to take ibuprofen with a glass of milk?",
    "Thank you so much, that was exactly what I needed!",
    "Draft an e-mail that turns down a meeting politely.",
)

# What says nothing, or nothing that the model can read: signs, codes, keys, other scripts. None of these lines trains it.
NOTHING_SAID = (
    *("👍", "❤️", "😀", "🙌", "🎂🎉", "✅", "🫶", "🤷", "ok 👍", "Thanks! 😀", "See you at noon 😀", "Can you help me with my homework? 🙏"),
    *("Good night everyone 🌙", "lol that movie was so funny 😂", "What does the 🙂 emoji mean?", "How do you say 谢谢 in English?"),
    *(
        "∑ x_i = 1",
        "█████ 50%",
        "→ next page",
        "½ cup of flour",
        "你好吗",
        "图书馆几点开门？",
        "早上好",
        "สวัสดี",
        "こんにちは",
        "안녕하세요",
    ),
    *("Доброе утро!", "صباح الخير", "בוקר טוב", "शुभ प्रभात", "Wo ist der Bahnhof?", "9f86d081884c7d659a2feaa0c55ad015"),
    *(
        "6f1ed002ab5595859014ebf0951522d9",
        "3b241101-e2bb-4255-8caf-4136c566a962",
        "dGhlIGNhdCBzYXQgb24gdGhlIG1hdA==",
        "0x7ffe5c3d 0xdeadbeef",
    ),
    *("TheBigBrownDog42", "xK9!pQ2#", "aaaaaaaa", "?", "1, 2, 3, 4, 5", '192.168.0.1 - - [10/Oct/2025:13:55:36] "GET / HTTP/1.1" 200 512'),
)


@pytest.fixture(scope="module")
def model() -> EmbeddedClassifier:
    return EmbeddedClassifier.load(threads=1)


async def _scores(model: EmbeddedClassifier, policy: Policy, texts: tuple[str, ...]) -> list[float]:
    await model.prepare([policy])
    answers = await model.classify([ClassifyRequest(policy, text) for text in texts], deadline=time.monotonic() + 60)
    assert all(isinstance(answer, Score) for answer in answers)
    return [answer.value for answer in answers if isinstance(answer, Score)]


def test_the_file_is_under_fifty_megabytes_and_has_a_card() -> None:
    assert SHIPPED.stat().st_size < 50_000_000
    card = (SHIPPED.parent / "README.md").read_text(encoding="utf-8")
    assert load(SHIPPED).digest in card, "the card is of another file"


async def test_the_shipped_policies_pass_nine_in_ten_of_their_own_tests(model: EmbeddedClassifier) -> None:
    await model.prepare(POLICIES)
    trials = await run_tests(POLICIES, model)
    cases = sum(len(trial.policy.tests) for trial in trials)
    failures = [(trial.policy.id, failure.case.line) for trial in trials for failure in trial.failures]
    assert len(failures) <= 0.1 * cases, failures
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"The embedded model passes {cases - len(failures)} of the {cases} tests of the shipped policies" in readme


async def test_harmless_sentences_around_a_violation_hide_as_many_as_the_documents_say(model: EmbeddedClassifier) -> None:
    around = ("Good morning, I hope you are well. ", " The train to Lisbon leaves at nine from platform four.")
    alone = between = 0
    for shipped in POLICIES:
        cases = tuple(case.text for case in shipped.tests if case.expected)
        alone += sum(score >= shipped.threshold for score in await _scores(model, shipped, cases))
        hidden = tuple(text.join(around) for text in cases)
        between += sum(score >= shipped.threshold for score in await _scores(model, shipped, hidden))
    assert f"({between} of the policies' own cases against {alone})" in (ROOT / "README.md").read_text(encoding="utf-8")


async def test_the_canary_is_told_apart(model: EmbeddedClassifier) -> None:
    canary = shipped_canary()
    await model.prepare([canary.policy])
    checked = await check_canary(model, canary, name="embedded", deadline_s=60)
    assert checked.ok, checked.detail


@pytest.mark.parametrize("texts", [EVERYDAY, NOTHING_SAID], ids=["everyday", "nothing_said"])
async def test_harmless_texts_pass_all_eight_policies(model: EmbeddedClassifier, texts: tuple[str, ...]) -> None:
    flagged = []
    for shipped in POLICIES:
        for text, score in zip(texts, await _scores(model, shipped, texts), strict=True):
            if score >= shipped.threshold:
                flagged.append((shipped.id, text, round(score, 2)))
    assert flagged == []


def _as_policy(variant: Variant) -> Policy:
    """A variant in wordings kept out of training, as a policy a user might have written."""
    head, *rest = variant.statements
    criteria = {kind: tuple(Criterion("", each.text, 1) for each in rest if each.kind == kind) for kind in (INCLUDE, EXCLUDE, TERM)}
    label = Label("X", head.text.partition(".")[0], criteria[INCLUDE], criteria[EXCLUDE], 1)
    overview = head.text.partition(".")[2].strip() or head.text
    return policy("unseen", body=repr(variant), labels=(label,), overview=overview, terms=criteria[TERM])


# The held-out overview of toxicity says what the policy is for ("keeps discussion civil"), not what it is against.
GOAL = pytest.mark.xfail(
    strict=True, reason="a policy that states its goal instead of the offence may be read the wrong way round: see the card"
)


@pytest.mark.parametrize("shipped", [pytest.param(each, marks=GOAL if each.id == "toxicity" else (), id=each.id) for each in POLICIES])
async def test_wordings_it_never_saw_separate_the_shipped_policies_own_cases(model: EmbeddedClassifier, shipped: Policy) -> None:
    wordings, random_ = Wordings.load(held_out=True), random.Random(1)
    labels = [case.expected for case in shipped.tests]
    texts = tuple(case.text for case in shipped.tests)
    found = [
        roc_auc_score(labels, await _scores(model, _as_policy(wordings.draw(Aim("area", shipped.id), random_)), texts)) for _ in range(3)
    ]
    assert sum(found) / len(found) >= 0.9, found


NEW_SUBJECTS = {
    "Flag any text that asks for money back or complains about being charged.": (
        ("I want a refund for the broken kettle.", "You charged my card twice, give me my money back."),
        ("The kettle is lovely, thank you.", "When does the shop open on Sunday?"),
    ),
    "Flag texts about horses and riding.": (
        ("My mare refused the second jump again.", "How often should a pony be shod?"),
        ("My bicycle has a flat tyre again.", "How often should a car be serviced?"),
    ),
    "Flag hateful remarks about immigrants.": (
        ("Immigrants are parasites and should all be thrown out.", "These migrants are filth, every one of them."),
        ("Immigrants opened the best bakery in town.", "Women are too stupid to drive."),
    ),
}


@pytest.mark.parametrize("sentence", NEW_SUBJECTS)
async def test_one_sentence_on_a_subject_it_never_saw_is_read(model: EmbeddedClassifier, sentence: str) -> None:
    inside, outside = NEW_SUBJECTS[sentence]
    scores = await _scores(model, parse_prose(sentence, id="unseen"), (*inside, *outside))
    assert min(scores[: len(inside)]) > max(scores[len(inside) :]), scores


async def test_a_precise_copy_scores_the_same_alone_and_in_a_batch() -> None:
    exact = EmbeddedClassifier.load(threads=1, precision="float32")
    together = await _scores(exact, POLICIES[0], EVERYDAY)
    alone = [(await _scores(exact, POLICIES[0], (text,)))[0] for text in EVERYDAY]
    await exact.aclose()
    assert together == pytest.approx(alone, abs=1e-5)


def test_where_it_lies_is_inside_the_package() -> None:
    assert Path("guardrail") / "models" / "embedded.safetensors" == Path(*SHIPPED.parts[-3:])
