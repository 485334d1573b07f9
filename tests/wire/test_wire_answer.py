"""What a whole answer becomes, and what stays of it when a choice is blocked."""

import json

import pytest
from openai.types.chat import ChatCompletion

from guardrail.errors import UpstreamError
from guardrail.wire.chat import replace_blocked
from guardrail.wire.dialects import CHAT

RESULTS = {"harassment": {"filtered": True, "detected": True, "score": 0.97}}


def choice(index, content, **message):
    return {
        "index": index,
        "message": {"role": "assistant", "content": content, "refusal": None, **message},
        "logprobs": {"content": [{"token": content, "logprob": -0.1, "bytes": None, "top_logprobs": []}]},
        "finish_reason": "stop",
    }


def answer(*choices, **fields):
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}
    return json.dumps({**head, "choices": list(choices), **fields}).encode()


def test_an_answer_is_read_by_choice():
    read = CHAT.parse_answer(answer(choice(0, "one"), choice(1, "two")))
    assert [(part.path, part.text, part.role, part.kind, part.choice) for part in read.parts] == [
        ("choices[0].message.content", "one", "assistant", "text", 0),
        ("choices[1].message.content", "two", "assistant", "text", 1),
    ]
    assert read.finish_reasons == {0: "stop", 1: "stop"}
    assert read.usage["total_tokens"] == 3


@pytest.mark.parametrize(
    "message",
    [
        {"refusal": "payload"},
        {"reasoning_content": "payload"},
        {"reasoning": "payload"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "payload"}]},
        {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x":"payload"}'}}]},
        {"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": "payload"}}]},
        {"function_call": {"name": "payload", "arguments": "{}"}},
        {"audio": {"id": "a", "data": "AAAA", "expires_at": 1, "transcript": "payload"}},
        {"annotations": [{"type": "url_citation", "url_citation": {"title": "payload", "url": "https://x"}}]},
        {"unheard_of": "payload"},
        {"role": "payload"},
        {"content": [{"type": "text", "text": "payload"}]},
        {"content": {"parts": ["payload"]}},
    ],
)
def test_every_text_of_a_message_is_judged(message):
    parts = CHAT.parse_answer(answer(choice(0, **{"content": "fine", **message}))).parts
    assert any(part.text is not None and "payload" in part.text and part.choice == 0 for part in parts)


def test_text_beside_the_message_is_judged_with_a_choice():
    parts = CHAT.parse_answer(answer({**choice(2, "fine"), "text": "beside"}, citations=["above"])).parts
    assert {(part.text, part.choice) for part in parts} == {("fine", 2), ("beside", 2), ("above", 2)}


def test_audio_is_unscannable_and_its_transcript_is_judged():
    parts = CHAT.parse_answer(answer(choice(0, None, audio={"id": "a", "data": "AAAA", "transcript": "said"}))).parts
    assert [(part.text, part.kind) for part in parts] == [(None, "audio"), ("said", "unknown")]


def test_a_missing_index_is_the_position():
    nameless = {key: value for key, value in choice(0, "two").items() if key != "index"}
    assert [part.choice for part in CHAT.parse_answer(answer(choice(0, "one"), nameless)).parts] == [0, 1]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"choices": null}',
        b'{"choices": ["text"]}',
        b'{"choices": [{"index": 0}]}',
        b'{"choices": [{"index": 0, "message": "text"}]}',
        b'{"choices": [{"index": -1, "message": {}}]}',
        b'{"choices": [{"index": true, "message": {}}]}',
        b'{"choices": [{"index": "0", "message": {}}]}',
        b'{"choices": [{"message": {"content": "good", "content": "bad"}}]}',
        b'{"error": {"message": "x"}}',
        b"[" * 100_000,
        answer(choice(0, "x"))[:-10],
    ],
)
def test_garbage_is_malformed(raw):
    with pytest.raises(UpstreamError) as caught:
        CHAT.parse_answer(raw)
    assert caught.value.code == "malformed"


def test_too_many_parts_are_too_large():
    with pytest.raises(UpstreamError) as caught:
        CHAT.parse_answer(answer(choice(0, ["x"] * 2_049)))
    assert caught.value.code == "too_large"


@pytest.mark.parametrize("spoof", ['{"error":{"message":"broken"}}', "data: [DONE]", "unsafe\nS1"])
def test_a_model_text_that_looks_like_a_protocol_stays_text(spoof):
    assert [part.text for part in CHAT.parse_answer(answer(choice(0, spoof))).parts] == [spoof]


def test_only_the_blocked_choice_is_replaced_and_nothing_of_it_stays():
    rich = choice(
        1,
        "secretly bad",
        reasoning_content="secretly bad",
        tool_calls=[{"id": "c", "type": "function", "function": {"name": "f", "arguments": "secretly bad"}}],
        audio={"id": "a", "data": "QUFB", "transcript": "secretly bad"},
        annotations=[{"type": "url_citation", "url_citation": {"title": "secretly bad"}}],
    )
    read = CHAT.parse_answer(
        answer(choice(0, "fine"), {**rich, "text": "secretly bad"}, choice(2, "also fine"), citations=["secretly bad"])
    )
    raw = replace_blocked(read, {1: RESULTS}, "Withheld.")
    document = json.loads(raw)
    assert b"secretly" not in raw
    assert document["choices"][0] == choice(0, "fine")
    assert document["choices"][2] == choice(2, "also fine")
    assert document["choices"][1] == {
        "index": 1,
        "message": {"role": "assistant", "content": "Withheld.", "refusal": None},
        "logprobs": None,
        "finish_reason": "content_filter",
        "content_filter_results": RESULTS,
    }
    assert document["usage"]["total_tokens"] == 3
    ChatCompletion.model_validate(document)


def test_without_a_notice_the_content_is_null():
    document = json.loads(replace_blocked(CHAT.parse_answer(answer(choice(0, "bad"))), {0: RESULTS}, None))
    assert document["choices"][0]["message"] == {"role": "assistant", "content": None, "refusal": None}


def test_a_blocked_choice_is_found_by_index_not_by_position():
    document = json.loads(replace_blocked(CHAT.parse_answer(answer(choice(1, "one"), choice(0, "zero"))), {1: RESULTS}, None))
    assert [(item["index"], item["message"]["content"]) for item in document["choices"]] == [(1, None), (0, "zero")]
