"""Group 4: several choices, log probabilities, and the odd parameters of text completions."""

import json
from typing import Any

import pytest
from asgi_cases import BAD, CHAT, EVENTS, Answering, completion, config, proxied
from protocol_cases import said
from threat_cases import COMPLETIONS, refused, told, user

HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def frames(*choices: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps({**HEAD, "choices": [choice]}).encode() + b"\n\n" for choice in choices) + b"data: [DONE]\n\n"


@pytest.mark.parametrize("bad", [0, 1, 2])
async def test_one_bad_choice_of_three_is_replaced_and_the_others_are_not(bad: int) -> None:
    texts = [BAD if index == bad else f"fine {index}" for index in range(3)]
    got = await told(CHAT, [completion(*texts)], n=3)
    choices = got.json()["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["content_filter" if index == bad else "stop" for index in range(3)]
    assert [choice["message"]["content"] for choice in choices if choice["index"] != bad] == [text for text in texts if text != BAD]
    assert BAD not in got.text


@pytest.mark.parametrize("mode", ["hold", "window", "overlap"])
@pytest.mark.parametrize("bad", [0, 1, 2])
async def test_one_bad_choice_of_three_is_replaced_in_a_stream_of_all_three(bad: int, mode: str) -> None:
    words = [["some", "thing ", "forbidden"] if index == bad else ["quite ", "fine ", str(index)] for index in range(3)]
    deltas = [{"index": index, "delta": {"content": words[index][n]}, "finish_reason": None} for n in range(3) for index in range(3)]
    ends = [{"index": index, "delta": {}, "finish_reason": "stop"} for index in range(3)]
    got = await told(CHAT, [frames(*deltas, *ends)], {"stream": {"mode": mode}, "path": CHAT}, n=3)
    choices = [choice for document in said(got.text) for choice in document["choices"]]
    finish = {choice["index"]: choice["finish_reason"] for choice in choices if choice["finish_reason"]}
    assert finish == {index: "content_filter" if index == bad else "stop" for index in range(3)}
    for index in {0, 1, 2} - {bad}:
        assert "".join(choice["delta"].get("content") or "" for choice in choices if choice["index"] == index) == f"quite fine {index}"
    assert "forbidden" not in got.text


def spelled(*tokens: str) -> dict[str, Any]:
    return {"content": [{"token": token, "logprob": -0.1, "bytes": list(token.encode()), "top_logprobs": []} for token in tokens]}


@pytest.mark.parametrize("content", [BAD, "fine"])
@pytest.mark.parametrize("mode", ["hold", "window"])
async def test_log_probabilities_leak_nothing(content: str, mode: str) -> None:
    logprobs = spelled("some", "thing", " forbidden")
    whole = json.loads(completion(content))
    whole["choices"][0]["logprobs"] = logprobs
    streamed = frames(
        {"index": 0, "delta": {"content": content}, "logprobs": logprobs, "finish_reason": None},
        {"index": 0, "delta": {}, "finish_reason": "stop"},
    )
    for body in (json.dumps(whole).encode(), streamed):
        got = await told(CHAT, [body], {"stream": {"mode": mode}, "path": CHAT})
        assert "forbidden" not in got.text
        assert str(list(b" forbidden")).replace(" ", "") not in got.text.replace(" ", "")
        assert "content_filter" in got.text


@pytest.mark.parametrize(
    "logprobs",
    [
        {"tokens": ["some", "thing", " forbidden"], "token_logprobs": [-1, -1, -1], "top_logprobs": None, "text_offset": [0, 4, 9]},
        {"content": [{"token": "something forbidden", "logprob": -1}]},
    ],
)
async def test_log_probabilities_of_text_completions_leak_nothing(logprobs: Any) -> None:
    for text in (BAD, "fine"):
        choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": "stop"}
        body = {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
        got = await told(COMPLETIONS, [json.dumps(body).encode()], logprobs=1)
        assert "forbidden" not in got.text


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"prompt": "hi", "suffix": BAD}, id="suffix"),
        pytest.param({"prompt": BAD, "echo": True}, id="echo"),
        pytest.param({"prompt": BAD, "stop": ["some"]}, id="stop"),
        pytest.param({"prompt": BAD, "max_tokens": 0}, id="nothing to say"),
        pytest.param({"prompt": ["hi", BAD]}, id="the second prompt"),
        pytest.param({"prompt": ["hi"] * 20 + [BAD], "best_of": 1}, id="the last prompt"),
        pytest.param({"prompt": [[15339, 1917]]}, id="lists of token ids"),
        pytest.param({"prompt": [15339, 1917]}, id="token ids"),
        pytest.param({"prompt": ["15339", "1917"]}, id="token ids as strings"),
        pytest.param({"prompt": ["hi", [15339]]}, id="token ids beside a text"),
        pytest.param({"prompt": "hi", "prompt_token_ids": [15339]}, id="token ids in another field"),
        pytest.param({"prompt": "hi", "prompt_embeds": "AAAA"}, id="embeddings"),
    ],
)
async def test_every_way_to_prompt_a_completion_is_judged_or_refused(body: Any) -> None:
    await refused(COMPLETIONS, {"model": "m", **body})


async def test_an_echoed_prompt_is_judged_as_a_part_of_the_answer() -> None:
    choice = {"index": 0, "text": f"{BAD} and so on", "logprobs": None, "finish_reason": "stop"}
    body = {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    got = await told(COMPLETIONS, [json.dumps(body).encode()], {"input": {"policies": []}}, prompt=BAD, echo=True)
    assert got.json()["choices"][0]["finish_reason"] == "content_filter"
    assert BAD not in got.text


async def test_a_stop_sequence_excuses_nothing() -> None:
    await refused(CHAT, user(BAD) | {"stop": ["\n"]})
    got = await told(CHAT, [completion(BAD)], stop=["."])
    assert BAD not in got.text


async def test_more_choices_than_were_asked_for_are_judged_too() -> None:
    upstream = Answering([frames({"index": 5, "delta": {"content": BAD}, "finish_reason": "stop"})], headers=EVENTS)
    async with proxied(config(), upstream=upstream) as proxy:
        got = await proxy.ask("hi", stream=True)
    assert BAD not in got.text
