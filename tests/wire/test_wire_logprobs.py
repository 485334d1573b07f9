"""A text that stands in the log probabilities alone is judged, whole or streamed; one that repeats the answer is not judged twice."""

import json

from guardrail.wire.chat_stream import ChatStreamCollector
from guardrail.wire.dialects import CHAT
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
