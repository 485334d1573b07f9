"""A text that stands in the log probabilities alone is judged, whole or streamed; one that repeats the answer is not judged twice."""

import json
from typing import Any

import pytest

from guardrail.wire.chat_stream import ChatStreamCollector
from guardrail.wire.dialects import CHAT, COMPLETIONS, RESPONSES
from guardrail.wire.messages import named_event
from guardrail.wire.responses_stream import ResponseStreamCollector
from guardrail.wire.sse import DONE, frame


def _tokens(*words: str) -> dict[str, object]:
    return {"content": [{"token": word, "logprob": -0.1, "top_logprobs": []} for word in words]}


def _whole(content: str, logprobs: object) -> list[tuple[str, str | None]]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop", "logprobs": logprobs}
    return [(part.path, part.text) for part in CHAT.parse_answer(json.dumps({"choices": [choice]}).encode()).parts]


def _streamed(pieces: list[tuple[str, object]]) -> list[tuple[str, str | None]]:
    collector = ChatStreamCollector()
    for content, logprobs in pieces:
        collector.receive(frame({"choices": [{"index": 0, "delta": {"content": content}, "logprobs": logprobs, "finish_reason": None}]}))
    collector.receive(frame({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}) + DONE)
    collector.finish()
    return [(part.path, part.text) for part in collector.parts()]


def test_the_usual_log_probabilities_add_nothing() -> None:
    said = [("choices[0].message.content", "good day")]
    assert _whole("good day", _tokens("good", " day")) == said
    assert _streamed([("good", _tokens("good")), (" day", _tokens(" day"))]) == said
    assert _whole("good day", None) == _whole("good day", {"content": None, "refusal": None}) == said


def test_another_text_in_them_is_judged_as_well() -> None:
    expected = [("choices[0].message.content", "good day"), ("choices[0].logprobs.content", "bad day")]
    assert _whole("good day", _tokens("bad", " day")) == expected
    assert _streamed([("good", _tokens("bad")), (" day", _tokens(" day"))]) == expected
    assert _whole("good day", {"tokens": ["bad", " day"]})[-1] == ("choices[0].logprobs.tokens", "bad day")


def test_log_probabilities_of_another_shape_are_judged() -> None:
    token = {"token": "good day", "logprob": -0.1, "note": "bad day"}
    for logprobs in ("bad day", ["bad day"], {"content": "bad day"}, {"note": {"deep": "bad day"}}, {"content": [token]}):
        assert ("choices[0].logprobs.other", "bad day") in _whole("good day", logprobs)
        assert ("choices[0].logprobs.other", "bad day") in _streamed([("good day", logprobs)])


SAID = "so gr\u00fc\u00dfe"
BAD = "you are a teapot"
WORDS = BAD.split()
ALTERNATIVE = {"token": " So", "logprob": -3.5, "bytes": [32, 83, 111]}


def _token(word: str, **changes: Any) -> dict[str, Any]:
    told = {"token": word, "logprob": -0.1, "bytes": list(word.encode())}
    return {**told, "top_logprobs": [told, ALTERNATIVE], **changes}


HONEST = [
    _token("so "),
    _token("gr\u00fc"),
    _token("\\xc3", bytes=[0xC3]),
    _token("\\x9f", bytes=[0x9F]),
    _token("e", rank=1),
    _token("<|im_end|>", bytes=None),
]
ODD: list[dict[str, Any]] = [
    {"token": WORDS},
    {"token": {"x": BAD}},
    {"logprob": BAD},
    {"logprob": WORDS},
    {"bytes": BAD},
    {"bytes": WORDS},
    {"bytes": list(BAD.encode())},
    {"note": BAD},
    {BAD: 1},
    {"top_logprobs": BAD},
    {"top_logprobs": WORDS},
    {"top_logprobs": {"x": BAD}},
    *({"top_logprobs": [ALTERNATIVE, {**ALTERNATIVE, **odd}]} for odd in (
        {"token": BAD}, {"token": WORDS}, {"logprob": BAD}, {"bytes": BAD}, {"bytes": list(BAD.encode())}, {"note": WORDS}, {BAD: 1},
    )),
]  # fmt: skip


def _texts(parts: Any) -> list[str]:
    return [" ".join((part.text or "").split()) for part in parts]


def _responses(logprobs: object, *, stream: bool) -> list[str]:
    part = {"type": "output_text", "text": SAID, "annotations": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    document = {"id": "resp_1", "object": "response", "status": "completed", "output": [item]}
    if not stream:
        part["logprobs"] = logprobs
        return _texts(RESPONSES.parse_answer(json.dumps(document).encode()).parts)
    collector = ResponseStreamCollector()
    place = {"output_index": 0, "content_index": 0, "item_id": "msg_1"}
    collector.receive(named_event({"type": "response.output_text.delta", **place, "delta": part["text"], "logprobs": logprobs}))
    collector.receive(named_event({"type": "response.completed", "response": document}))
    collector.finish()
    return _texts(collector.parts())


@pytest.mark.parametrize("stream", [False, True])
def test_alternatives_bytes_and_tokens_that_are_no_text_by_themselves_add_little(stream: bool) -> None:
    logprobs: Any = {"content": HONEST, "refusal": None}
    chat = _streamed([(SAID, logprobs)]) if stream else _whole(SAID, logprobs)
    assert [text for _, text in chat] == [SAID, "so gr\u00fc\\xc3\\x9fe<|im_end|>"]
    assert _responses(HONEST, stream=stream) == [SAID, "so gr\u00fc\\xc3\\x9fe<|im_end|>"]
    assert _responses([_token("so "), _token("gr\u00fc\u00dfe")], stream=stream) == [SAID]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("odd", ODD)
def test_what_stands_in_the_place_of_a_number_or_a_token_is_judged(odd: dict[str, Any], stream: bool) -> None:
    tokens = [_token(SAID), _token("", **odd)]
    chat = _streamed([(SAID, {"content": tokens})]) if stream else _whole(SAID, {"content": tokens})
    assert any(BAD in " ".join((text or "").split()) for _, text in chat)
    assert any(BAD in text for text in _responses(tokens, stream=stream))


def test_bytes_that_spell_something_else_are_judged() -> None:
    tokens = [_token(said, bytes=list(f" {word}".encode())) for said, word in zip(("How", " do", " you", " do?"), WORDS, strict=True)]
    assert f" {BAD}" in [text for _, text in _whole("How do you do?", {"content": tokens})]
    assert f" {BAD}" in [text for _, text in _streamed([("How do", {"content": tokens[:2]}), (" you do?", {"content": tokens[2:]})])]


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_without_spaces_are_read_as_one_word_and_as_several(stream: bool) -> None:
    tokens = [_token(word) for word in WORDS]
    chat = _streamed([("Hi", {"content": [token]}) for token in tokens]) if stream else _whole("Hi", {"content": tokens})
    assert {"".join(WORDS), f"{BAD} "} <= {text for _, text in chat}
    assert {"".join(WORDS), BAD} <= set(_responses(tokens, stream=stream))


@pytest.mark.parametrize(
    "odd",
    [
        *({"token_logprobs": value} for value in (BAD, WORDS)),
        *({"text_offset": value} for value in (BAD, WORDS)),
        *({"top_logprobs": value} for value in (BAD, WORDS, [{BAD: -1}], [{"Hi": BAD}], [{"Hi": -1, "x": {"y": WORDS}}])),
    ],
)
def test_those_of_text_completions_are_numbers_and_tokens(odd: dict[str, Any]) -> None:
    honest = {"tokens": ["Hi"], "token_logprobs": [-0.1], "top_logprobs": [{"Hi": -0.1, " So, er": -3}], "text_offset": [0]}
    for logprobs, found in ((honest, False), ({**honest, **odd}, True)):
        choice = {"index": 0, "text": "Hi", "logprobs": logprobs, "finish_reason": "stop"}
        texts = _texts(COMPLETIONS.parse_answer(json.dumps({"choices": [choice]}).encode()).parts)
        assert any(BAD in text for text in texts) == found
        assert found or texts == ["Hi"]


PROMPT: list[Any] = [
    None,
    {"60": {"logprob": -1.5, "rank": 1, "decoded_token": " Hi"}, "61": {"logprob": -2, "rank": 2, "decoded_token": " So"}},
]


@pytest.mark.parametrize("stream", [False, True])
def test_the_prompts_tokens_are_tokens(stream: bool) -> None:
    for top, beside, found in (
        ({"prompt_logprobs": PROMPT, "prompt_token_ids": [60]}, {"token_ids": [61]}, False),
        ({"prompt_logprobs": [{"60": {"decoded_token": BAD}}]}, {}, True),
        ({"prompt_logprobs": WORDS}, {}, True),
        ({"prompt_token_ids": WORDS}, {}, True),
        ({}, {"token_ids": WORDS}, True),
    ):
        choice = {"index": 0, "finish_reason": "stop", **beside}
        if stream:
            collector = ChatStreamCollector()
            collector.receive(frame({**top, "choices": [{**choice, "delta": {"content": "Hi"}}]}) + DONE)
            collector.finish()
            texts = _texts(collector.parts())
        else:
            document = {**top, "choices": [{**choice, "message": {"role": "assistant", "content": "Hi"}}]}
            texts = _texts(CHAT.parse_answer(json.dumps(document).encode()).parts)
        assert any(BAD in text for text in texts) == found
        assert found or texts == ["Hi"]
