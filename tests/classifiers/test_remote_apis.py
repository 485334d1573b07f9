"""How each API is asked and how its answer is read."""

import asyncio
import math
from typing import Any

import pytest
from remote_server import POLICY, Reply, asking, questions, says, serving, soon
from tiny_checkpoints import gemma_tokenizer

from guardrail.classifiers.remote.classifier import Answer, Api
from guardrail.classifiers.remote.completions import Completions, CompletionSettings
from guardrail.classifiers.remote.label import Labeler, Labels, LabelSettings
from guardrail.classifiers.remote.token_ids import TokenIds
from guardrail.classifiers.remote.vllm import GenerativeScoring, VllmSettings
from guardrail.engine.cope.tokens import PromptTokens
from guardrail.errors import ClassifierError
from guardrail.policy.prompt import render
from guardrail.types import Provenance, Score


@pytest.fixture(scope="module")
def prompt() -> PromptTokens:
    return PromptTokens(gemma_tokenizer())


async def asked_and_told(api: Api, reply: Reply, text: str = "hello") -> tuple[list[dict[str, Any]], list[str], Answer]:
    """What was sent, where to, and the answer, of one question."""
    async with serving(reply) as server, asking(api, server.url) as classifier:
        (answer,) = await classifier.classify(questions(text), deadline=soon())
        return [asked.body for asked in server.asked], [asked.path for asked in server.asked], answer


def value(answer: Answer) -> float:
    assert isinstance(answer, Score), answer
    return answer.value


def code(answer: Answer) -> str:
    assert isinstance(answer, ClassifierError), answer
    return answer.code


# label


@pytest.mark.parametrize(
    ("told", "score"),
    [
        ({"label": "1", "confidence": 0.875}, 0.875), ({"label": "0", "confidence": 0.875}, 0.125), ({"label": 1, "confidence": 1}, 1.0),
        ({"label": 0, "confidence": 0.5, "explanation": None, "compute_time": 0.3}, 0.5),
    ],
)  # fmt: skip
async def test_a_label_with_its_confidence_is_a_score(told: dict[str, Any], score: float) -> None:
    assert value((await asked_and_told(Labels(LabelSettings()), says(told)))[2]) == score


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ({"label": "1"}, "malformed"), ({"label": "1", "confidence": None}, "malformed"),
        ({"label": "1", "confidence": "0.9"}, "malformed"), ({"label": "1", "confidence": True}, "malformed"),
        ({"confidence": 0.9}, "malformed"), ({"label": True, "confidence": 0.9}, "malformed"),
        ({"label": "2", "confidence": 0.9}, "malformed"), ({"label": "yes", "confidence": 0.9}, "malformed"), ({}, "malformed"),
        ({"label": "1", "confidence": -1}, "out_of_range"), ({"label": "0", "confidence": 0}, "out_of_range"),
        ({"label": "1", "confidence": 0.49}, "out_of_range"), ({"label": "1", "confidence": 10**400}, "out_of_range"),
        ({"label": ["1"], "confidence": 0.9}, "malformed"),
    ],
)  # fmt: skip
async def test_a_label_without_a_usable_confidence_is_an_error(told: dict[str, Any], error: str) -> None:
    assert code((await asked_and_told(Labels(LabelSettings()), says(told)))[2]) == error


async def test_a_policy_goes_as_its_criteria_or_as_the_labeler_that_stands_for_it() -> None:
    good = says({"label": "1", "confidence": 0.9, "model": "cope-a-9b"})
    sent, paths, answer = await asked_and_told(Labels(LabelSettings()), good)
    assert (sent, paths) == ([{"content_text": "hello", "criteria_text": POLICY.body}], ["/label"])
    assert isinstance(answer, Score)
    assert answer.classifier == "label:default@cope-a-9b"
    settings = LabelSettings("cope-b-a4b", {POLICY.id: Labeler("lab-1", "v3"), "other": Labeler("lab-2")})
    sent, _, _ = await asked_and_told(Labels(settings), good)
    assert sent == [{"content_text": "hello", "labeler_id": "lab-1", "labeler_version_id": "v3", "model": "cope-b-a4b"}]


# completions


def top(*, model: str = "cope-a", **tokens: float) -> dict[str, Any]:
    """An answer in OpenAI's legacy shape, with twenty tokens."""
    filler = {f"w{number}": -20.0 - number for number in range(20 - len(tokens))}
    named = {name.replace("_", ""): logprob for name, logprob in tokens.items()} | filler
    return {"model": model, "choices": [{"text": "1", "logprobs": {"top_logprobs": [named]}, "finish_reason": "length"}]}


GOOD = top(_1=math.log(0.8), _0=math.log(0.2))


async def test_a_raw_prompt_goes_to_completions_with_one_token_to_be_told_greedily() -> None:
    sent, paths, answer = await asked_and_told(Completions(CompletionSettings("cope-a", allowed_token_ids=(7, 8))), says(GOOD), "a {x}")
    prompt = render(POLICY, "a {x}")
    asked = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 20, "model": "cope-a", "allowed_token_ids": [7, 8]}
    assert (sent, paths) == ([asked], ["/completions"])
    assert isinstance(answer, Score)
    assert answer.value == pytest.approx(0.8)
    assert answer.classifier == "completions:cope-a@cope-a"
    assert answer.provenance == Provenance("A", "", "cope-a", "", "", 0, None)  # confined to the digits, it hides what else there was


async def test_template_b_is_a_users_message() -> None:
    listed = [{"token": "1", "logprob": math.log(0.8)}, {"token": "0", "logprob": math.log(0.2)}]
    told = {
        "model": "m",
        "system_fingerprint": "b4501-66",
        "choices": [{"logprobs": {"content": [{"token": "1", "top_logprobs": listed}]}}],
    }
    sent, paths, answer = await asked_and_told(Completions(CompletionSettings(template="B", logprobs=5)), says(told))
    message = {"role": "user", "content": render(POLICY, "hello", "B")}
    assert sent == [{"messages": [message], "max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 5}]
    assert paths == ["/chat/completions"]
    assert isinstance(answer, Score)
    assert (answer.value, answer.classifier) == (pytest.approx(0.8), "completions:default@m+b4501-66")


async def test_with_a_tokenizer_the_prompt_is_token_ids_and_the_digits_are_ids(prompt: PromptTokens) -> None:
    content = "a <eos> b"
    ids = prompt.whole(POLICY.body, content).tolist()
    told = {
        "choices": [{"logprobs": {"top_logprobs": [{f"token_id:{prompt.one}": math.log(0.8), f"token_id:{prompt.zero}": math.log(0.2)}]}}],
        "usage": {"prompt_tokens": len(ids)},
    }
    sent, paths, answer = await asked_and_told(Completions(CompletionSettings(), TokenIds(prompt)), says(told), content)
    assert (sent[0]["prompt"], paths) == (ids, ["/completions"])
    assert sent[0]["logprob_token_ids"] == [prompt.zero, prompt.one]
    assert isinstance(answer, Score)
    assert answer.value == pytest.approx(0.8)
    assert answer.provenance == Provenance("A", prompt.digest, "unnamed", "", "", 0, pytest.approx(0.0))
    for count, error in ((len(ids) - 1, "too_long"), (len(ids) + 1, "malformed")):
        short = told | {"usage": {"prompt_tokens": count}}
        assert code((await asked_and_told(Completions(CompletionSettings(), TokenIds(prompt)), says(short), content))[2]) == error


async def test_a_digit_that_is_not_shown_bounds_the_score_and_flags_it() -> None:
    _, _, answer = await asked_and_told(Completions(CompletionSettings()), says(top(_0=math.log(0.999))))
    assert isinstance(answer, Score)
    assert 0 < answer.value < 1e-8
    assert answer.flags == ("digit_bounded",)


@pytest.mark.parametrize(
    "told",
    [
        {"choices": [{"text": "1", "logprobs": None}]}, {"choices": []}, {"choices": [GOOD["choices"][0]] * 2}, {"text": "1"},
        {"choices": [{"text": "1"}]}, {"choices": [{"logprobs": {"top_logprobs": []}}]},
        {"choices": [{"logprobs": {"top_logprobs": [{}]}}]},
        {"choices": [{"logprobs": {"top_logprobs": [{"1": "-0.1", "0": "-3"}]}}]},
        {"choices": [{**GOOD["choices"][0], "finish_reason": "abort"}]}, top(yes=-0.01), top(_1=-2.0, _0=-2.0, yes=-0.3),
    ],
)  # fmt: skip
async def test_a_completion_that_does_not_answer_is_malformed(told: dict[str, Any]) -> None:
    assert code((await asked_and_told(Completions(CompletionSettings()), says(told)))[2]) == "malformed"


# vllm


def scoring(prompt: PromptTokens, one: float, zero: float, **changes: Any) -> Reply:
    """vLLM's answer: the first label's share or probability."""

    def reply(asked: Any) -> Any:
        first = one if asked.body["label_token_ids"][0] == prompt.one else zero
        score = first / (one + zero) if asked.body["apply_softmax"] else first
        count = len(asked.body["query"]) + len(asked.body["items"][0])
        told = {
            "object": "list",
            "model": "cope-a",
            "data": [{"index": 0, "object": "score", "score": score}],
            "usage": {"prompt_tokens": count},
        }
        return says(told | changes)(asked)

    return reply


async def test_generative_scoring_is_asked_for_both_digits_with_the_prompts_own_ids(prompt: PromptTokens) -> None:
    sent, paths, answer = await asked_and_told(GenerativeScoring(TokenIds(prompt), VllmSettings("cope-a")), scoring(prompt, 0.6, 0.2))
    assert paths == ["/generative_scoring"] * 2
    assert {tuple(question["label_token_ids"]) for question in sent} == {(prompt.one, prompt.zero), (prompt.zero, prompt.one)}
    for question in sent:
        assert question["query"] == prompt.prefix(POLICY.body).tolist()
        assert question["query"] + question["items"][0] == prompt.whole(POLICY.body, "hello").tolist()
        assert (question["apply_softmax"], question["model"]) == (False, "cope-a")
    assert isinstance(answer, Score)
    assert (answer.value, answer.classifier) == (pytest.approx(0.75), "vllm:cope-a@cope-a")
    assert answer.provenance == Provenance("A", prompt.digest, "cope-a", "", "", 0, pytest.approx(0.2))


async def test_one_question_is_enough_for_who_does_not_ask_what_lies_outside(prompt: PromptTokens) -> None:
    api = GenerativeScoring(TokenIds(prompt), VllmSettings(check_outside=False))
    sent, _, answer = await asked_and_told(api, scoring(prompt, 0.06, 0.02))
    assert [(question["label_token_ids"], question["apply_softmax"]) for question in sent] == [([prompt.one, prompt.zero], True)]
    assert isinstance(answer, Score)
    assert answer.value == pytest.approx(0.75)
    assert answer.provenance is not None
    assert answer.provenance.outside is None


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ((0.06, 0.02, {}), "malformed"),  # nine tenths outside
        ((0.8, 0.0, {}), "malformed"),
        ((0.9, 0.9, {}), "malformed"),
        ((0.8, 0.1, {"data": []}), "malformed"),
        ((0.8, 0.1, {"data": [{"score": 0.8}, {"score": 0.1}]}), "malformed"),
        ((0.8, 0.1, {"data": [{"score": "0.8"}]}), "malformed"),
        ((0.8, 0.1, {"data": [{"score": 1.2}]}), "out_of_range"),
        ((0.8, 0.1, {"data": [{"score": -0.2}]}), "out_of_range"),
        ((0.8, 0.1, {"usage": {"prompt_tokens": 7}}), "too_long"),
        ((0.8, 0.1, {"usage": {"prompt_tokens": 7_000}}), "malformed"),
        ((0.8, 0.1, {"usage": None}), "malformed"),
    ],
)
async def test_generative_scoring_that_tells_no_score_of_the_whole_prompt_is_an_error(
    prompt: PromptTokens, reply: tuple[float, float, dict[str, Any]], error: str
) -> None:
    one, zero, changes = reply
    api = GenerativeScoring(TokenIds(prompt), VllmSettings())
    assert code((await asked_and_told(api, scoring(prompt, one, zero, **changes)))[2]) == error


async def test_one_digit_asked_in_vain_is_an_error(prompt: PromptTokens) -> None:
    def reply(asked: Any) -> Any:
        if asked.body["label_token_ids"][0] == prompt.zero:
            return says({}, status=404)(asked)
        return scoring(prompt, 0.8, 0.1)(asked)

    api = GenerativeScoring(TokenIds(prompt), VllmSettings())
    assert code((await asked_and_told(api, reply))[2]) == "crash"


async def test_what_does_not_fit_is_not_asked(prompt: PromptTokens) -> None:
    tokens = PromptTokens(gemma_tokenizer(), longest=300)
    for api in (GenerativeScoring(TokenIds(tokens), VllmSettings()), Completions(CompletionSettings(), TokenIds(tokens))):
        sent, _, answer = await asked_and_told(api, says({}), "word " * 400)
        assert (sent, code(answer)) == ([], "too_long")


async def test_a_servers_name_for_its_model_is_made_fit_for_a_record() -> None:
    odd = top(model="a\nb\x1b[31m" + "x" * 500, _1=math.log(0.8), _0=math.log(0.2))
    _, _, answer = await asked_and_told(Completions(CompletionSettings()), says(odd))
    assert isinstance(answer, Score)
    assert answer.classifier.startswith("completions:default@a_b__31mxxx")
    assert len(answer.classifier) < 130


async def test_closing_while_prompts_are_spelled_gives_every_question_its_error(prompt: PromptTokens) -> None:
    async with serving(scoring(prompt, 0.6, 0.2)) as server:
        async with asking(GenerativeScoring(TokenIds(prompt), VllmSettings()), server.url, connections=32) as classifier:
            call = asyncio.create_task(classifier.classify(questions(*(f"{number} " * 2_000 for number in range(40))), deadline=soon(20)))
            await asyncio.sleep(0.01)
            await classifier.aclose()
            answers = await call
    assert len(answers) == 40
    assert {answer.code for answer in answers if isinstance(answer, ClassifierError)} == {"crash"}
