"""`action: redact`: what violates is taken out of an answer, whole or streamed, and the same stands for the same within a conversation."""

import json
import re
from typing import Any

import pytest
from asgi_cases import CHAT, EVENTS, Answering, completion, config, proxied, stream

from guardrail.errors import ClassifierError
from guardrail.events import DecisionMade
from guardrail.testing import ScriptedClassifier
from guardrail.types import Action, Score, Span, Stage, StreamMode

PLACEHOLDER = r"\[redacted-[0-9a-f]{8}\]"
SAID = "The code is forbidden today, and forbidden it stays, as the river runs on."
LEFT = f"The code is {PLACEHOLDER} today, and {PLACEHOLDER} it stays, as the river runs on."


def finding(text: str) -> object:
    """The first bad word, and where it is. Of `everywhere` it is not known where."""
    found = re.search("forbidden", text)
    if found is None:
        return 0.9 if "everywhere" in text else 0.02
    return Score(0.97, "scripted", Span(*found.span()))


def redacting(mode: str = "hold", **more: Any) -> Any:
    output = {"policies": [{"id": "harassment", "action": "redact"}]}
    stream = {"mode": mode, "window": 20, "overlap": 12, "first_ms": 60_000}
    return config({"input": {"policies": []}, "output": output, "stream": stream, **more})


def classifier() -> ScriptedClassifier:
    return ScriptedClassifier({"*": finding})


def texts(content: bytes) -> str:
    lines = [json.loads(line[6:]) for line in content.decode().split("\n") if line.startswith("data: {")]
    return "".join(choice.get("delta", {}).get("content") or "" for line in lines for choice in line["choices"])


async def test_what_violates_is_taken_out_of_a_whole_answer_and_the_rest_is_kept() -> None:
    logprobs = {"content": [{"token": SAID, "logprob": 0.0, "top_logprobs": []}]}
    choices = json.loads(completion(SAID, "Calm."))["choices"]
    choices[0]["logprobs"] = logprobs
    upstream = Answering([completion(SAID, "Calm.", choices=choices, usage={"total_tokens": 3})])
    async with proxied(redacting(), upstream=upstream, classifier=classifier()) as proxy:
        answered = await proxy.ask(n=2)
        document = answered.json()
        first, second = document["choices"]
        assert re.fullmatch(LEFT, first["message"]["content"])
        assert (first["finish_reason"], first["logprobs"], second["message"]["content"]) == ("stop", None, "Calm.")
        assert document["usage"] == {"total_tokens": 3}
        assert b"forbidden" not in answered.content
        assert answered.headers["x-guardrail-decision"] == "modify"
        (decision,) = [event.decision for event in proxy.sink.of(DecisionMade) if event.decision.stage is Stage.OUTPUT]
        assert decision.action is Action.REDACT


@pytest.mark.parametrize("mode", [mode for mode in StreamMode if mode is not StreamMode.WATCH])
@pytest.mark.parametrize("size", [1, 9, 1000])
async def test_what_violates_is_taken_out_of_a_stream_in_every_mode(mode: StreamMode, size: int) -> None:
    pieces = [SAID[start : start + size] for start in range(0, len(SAID), size)]
    async with proxied(redacting(mode.value), upstream=Answering(stream(*pieces), headers=EVENTS), classifier=classifier()) as proxy:
        answered = await proxy.ask(stream=True)
        assert re.fullmatch(LEFT, texts(answered.content))
        assert b'"stop"' in answered.content
        assert answered.content.endswith(b"data: [DONE]\n\n")
        decision = proxy.sink.of(DecisionMade)[-1].decision
        assert decision.action is Action.REDACT
        assert answered.headers["x-guardrail-decision"] in (["modify"] if mode is StreamMode.HOLD else ["modify", "pending"])


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_every_protocol_that_streams_is_redacted(path: str, streamed: bool) -> None:
    fields = {"/v1/completions": {"prompt": SAID}, "/v1/responses": {"input": SAID}}
    body = {
        "model": "embedded-echo",
        "stream": streamed,
        "max_tokens": 9,
        **fields.get(path, {"messages": [{"role": "user", "content": SAID}]}),
    }
    for mode in ("hold", "overlap"):
        async with proxied(redacting(mode), classifier=classifier()) as proxy:
            answered = await proxy.client.post(path, json=body)
            assert answered.status_code == 200
            assert b"forbidden" not in answered.content
            assert len(set(re.findall(PLACEHOLDER.encode(), answered.content))) == 1
            assert b"content_filter" not in answered.content
            assert b"refusal" not in answered.content.replace(b'"refusal":null', b"")


async def test_a_placeholder_is_the_same_within_a_conversation_and_in_no_other() -> None:
    def first(answered: Any) -> str:
        return str(re.findall(PLACEHOLDER, answered.json()["choices"][0]["message"]["content"])[0])

    async with proxied(redacting(), upstream=Answering([completion(SAID)]), classifier=classifier()) as proxy:
        one = first(await proxy.ask("How are you?"))
        turns = [
            {"role": "user", "content": "How are you?"},
            {"role": "assistant", "content": "Well."},
            {"role": "user", "content": "And now?"},
        ]
        again = await proxy.client.post(CHAT, json={"model": "m", "messages": turns})
        assert first(again) == one
        assert first(await proxy.ask("Another begins.")) != one


async def test_without_a_place_all_of_the_text_is_taken_out() -> None:
    upstream = Answering([completion("It is everywhere.")])
    async with proxied(redacting(), upstream=upstream, classifier=classifier()) as proxy:
        assert re.fullmatch(PLACEHOLDER, (await proxy.ask()).json()["choices"][0]["message"]["content"])


async def test_what_cannot_be_rewritten_is_blocked() -> None:
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"q": "forbidden"}'}}
    choices = [{"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}]
    async with proxied(redacting(), upstream=Answering([completion(choices=choices)]), classifier=classifier()) as proxy:
        answered = await proxy.ask()
        assert answered.json()["choices"][0]["finish_reason"] == "content_filter"
        assert b"forbidden" not in answered.content


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("mode", [None, "hold", "window"])
async def test_the_tokens_of_a_text_of_which_something_was_taken_out_are_not_told(path: str, mode: str | None) -> None:
    codes = [60_101, 60_102]
    spelled = {"text": SAID} if path != CHAT else {"delta": {"content": SAID}} if mode else {"message": {"content": SAID}}
    choice = {"index": 0, **spelled, "finish_reason": "stop", "stop_reason": 60_100, "token_ids": codes, "made_of": {"codes": codes}}
    document = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    whole = json.dumps(document).encode()
    pieces = [b"data: " + whole + b"\n\n", b"data: [DONE]\n\n"] if mode else [whole]
    body = {"model": "m", "stream": mode is not None, "prompt": "Hello.", "messages": [{"role": "user", "content": "Hello."}]}
    body.pop("messages" if path != CHAT else "prompt")
    upstream = Answering(pieces, headers=EVENTS) if mode else Answering(pieces)
    async with proxied(redacting(mode or "hold"), upstream=upstream, classifier=classifier()) as proxy:
        answered = await proxy.client.post(path, json=body)
        assert re.search(PLACEHOLDER.encode(), answered.content)
        assert b"60100" in answered.content
        assert b"6010" not in answered.content.replace(b"60100", b"")


async def test_what_cannot_be_judged_is_not_released_where_something_might_be_taken_out() -> None:
    broken = ScriptedClassifier(fault=RuntimeError("gone"))
    for streamed, upstream in ((False, Answering([completion(SAID)])), (True, Answering(stream(SAID), headers=EVENTS))):
        async with proxied(redacting(), upstream=upstream, classifier=broken) as proxy:
            answered = await proxy.ask(stream=streamed)
            assert (answered.status_code, b"forbidden" in answered.content) == (503, False)


async def test_of_a_held_stream_nothing_is_out_when_one_of_its_choices_cannot_be_judged() -> None:
    class Half(ScriptedClassifier):
        async def classify(self, requests: Any, *, deadline: float) -> Any:
            return [ClassifierError("crash", "gone") if "odd" in request.text else Score(0.0, "s") for request in requests]

    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choices = [{"index": i, "delta": {"content": text}, "finish_reason": "stop"} for i, text in enumerate(("A calm day.", "An odd one."))]
    pieces = [b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n" for choice in choices] + [b"data: [DONE]\n\n"]
    async with proxied(redacting(), upstream=Answering(pieces, headers=EVENTS), classifier=Half()) as proxy:
        answered = await proxy.ask(stream=True, n=2)
        assert (answered.status_code, b"calm" in answered.content) == (503, False)


async def test_an_answer_in_which_nothing_violates_is_let_out_byte_for_byte() -> None:
    body = completion("A calm day.").replace(b'": ', b'" :  ')
    async with proxied(redacting(), upstream=Answering([body]), classifier=classifier()) as proxy:
        assert (await proxy.ask()).content == body
