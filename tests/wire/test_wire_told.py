"""Fields of an answer that hold names, reasons and counts: prose in them is judged, and is not in what goes out unjudged or refused."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from guardrail.types import Part
from guardrail.wire.dialect import Dialect
from guardrail.wire.dialects import DIALECTS
from guardrail.wire.messages import named_event
from guardrail.wire.sse import DONE, frame
from guardrail.wire.told import Names

SAID = "you are a teapot"
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}}
RESULTS = {0: {"violence": {"filtered": True, "detected": True}}}
CHAT = "/v1/chat/completions"
WHOLE: dict[str, dict[str, Any]] = {
    CHAT: {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "org/m:latest",
        "system_fingerprint": "fp_1",
        "service_tier": "default",
        "provider": "host",
        "usage": USAGE,
        "x_groq": {"id": "req_1"},
        "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}],
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop", "native_finish_reason": "STOP"}
        ],
    },
    "/v1/completions": {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": "m",
        "usage": USAGE,
        "choices": [{"index": 0, "text": "Hi", "finish_reason": "stop", "stop_reason": 2}],
    },
    "/v1/messages": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1, "service_tier": "standard"},
    },
    "/v1/responses": {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "m",
        "incomplete_details": None,
        "reasoning": {"effort": "low", "summary": None},
        "tool_choice": "auto",
        "truncation": "disabled",
        "service_tier": "default",
        "output": [
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Hi", "annotations": []}],
            }
        ],
        "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
    },
}
FIELDS = {
    CHAT: ["id", "model", "system_fingerprint", "service_tier", "provider", "usage", "x_groq"],
    "/v1/completions": ["id", "model", "usage"],
    "/v1/messages": ["id", "model", "usage"],
    "/v1/responses": ["id", "model", "usage", "incomplete_details", "service_tier", "reasoning"],
}
CASES = [(path, name) for path, names in FIELDS.items() for name in names]
CHOICE = ["finish_reason", "native_finish_reason", "stop_reason", "matched_stop", "content_filter_results"]


HOSTS: list[dict[str, Any]] = [
    {"usage": {"prompt_tokens": 1, "queue_time": 0.1, "prompt_time": 0.1, "total_time": 0.1}, "x_groq": {"id": "r"}},
    {"usage": {"prompt_cache_hit_tokens": 1, "prompt_cache_miss_tokens": 0, "completion_tokens_details": {"reasoning_tokens": 0}}},
    {"usage": {"cost": 0.1, "is_byok": False, "cost_details": {"upstream_inference_cost": 1}, "num_sources_used": 0}, "provider": "Host"},
    {"timings": {"prompt_n": 1, "prompt_per_token_ms": 1.0, "predicted_per_second": 2.0, "cache_n": 0, "draft_n_accepted": 0}},
    {"usage": {"input_tokens": 1, "cache_creation": {"ephemeral_5m_input_tokens": 0}, "server_tool_use": {"web_search_requests": 0}}},
    {"moderation": {"results": [{"categories": {"harassment/threatening": False, "self-harm/intent": False, "sexual/minors": True}}]}},
    {"prompt_filter_results": [{"content_filter_results": {
        **{name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")},
        "jailbreak": {"filtered": False, "detected": False}, "protected_material_code": {"citation": {"URL": "u", "license": "MIT"}},
    }}]},
]  # fmt: skip
WORDS = SAID.split()
SPELLED: dict[str, Any] = {
    "list": WORDS,
    "lists": [[word] for word in WORDS],
    "objects": [{"x": word} for word in WORDS],
    "values": dict(zip("wxyz", WORDS, strict=True)),
    "keys": dict.fromkeys(WORDS, 1),
    "both": {"you": "are", "a": "teapot"},
    "deep": {"you": {"are": {"a": {"teapot": 1}}}},
}


def spoilt(path: str, name: str) -> dict[str, Any]:
    """An answer with prose in one field, which is an object where it is usually one."""
    document = WHOLE[path]
    nested = isinstance(document.get(name), dict) or name in ("usage", "incomplete_details")
    return {**document, name: {**(document.get(name) or {}), "note": SAID} if nested else SAID}


def says(parts: tuple[Part, ...]) -> bool:
    return any(SAID in " ".join((part.text or "").split()) for part in parts)


def streamed(path: str, document: dict[str, Any]) -> Iterator[bytes]:
    if "choices" in document:
        for choice in document["choices"]:
            said = {("delta" if key == "message" else key): value for key, value in choice.items()}
            yield b"data: " + json.dumps({**document, "choices": [said]}).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"
    elif path == "/v1/messages":
        yield named_event({"type": "message_start", "message": {**document, "content": [], "stop_reason": None}})
        yield named_event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
        yield named_event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}})
        yield named_event({"type": "content_block_stop", "index": 0})
        usage = {"input_tokens": 2, "output_tokens": 2}
        yield named_event({"type": "message_delta", "delta": {"stop_reason": document["stop_reason"]}, "usage": usage})
        yield named_event({"type": "message_stop"})
    else:
        yield named_event({"type": "response.created", "response": {**document, "output": [], "status": "in_progress"}})
        (item,) = document["output"]
        yield named_event({"type": "response.output_item.done", "output_index": 0, "item": item})
        yield named_event({"type": "response.completed", "response": document})


def parts(dialect: Dialect, document: dict[str, Any], *, stream: bool) -> tuple[Part, ...]:
    if not stream:
        return tuple(dialect.parse_answer(json.dumps(document).encode()).parts)
    assert dialect.collector is not None
    collector = dialect.collector(1 << 20)
    for piece in streamed(dialect.path, document):
        collector.receive(piece)
    collector.finish()
    return tuple(collector.parts())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", WHOLE)
def test_names_and_counts_say_nothing(path: str, stream: bool) -> None:
    assert {part.text for part in parts(DIALECTS[path], WHOLE[path], stream=stream)} == {"Hi"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "name"), CASES)
def test_prose_in_them_is_judged(path: str, name: str, stream: bool) -> None:
    assert [part for part in parts(DIALECTS[path], spoilt(path, name), stream=stream) if SAID in (part.text or "")]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("name", CHOICE)
def test_prose_in_a_choices_end_is_judged_with_that_choice(path: str, name: str, stream: bool) -> None:
    (choice,) = WHOLE[path]["choices"]
    document = {**WHOLE[path], "choices": [{**choice, "index": 1, name: {"x": SAID} if name.endswith("results") else SAID}]}
    found = [part for part in parts(DIALECTS[path], document, stream=stream) if SAID in (part.text or "")]
    assert {part.choice for part in found} == {1}


@pytest.mark.parametrize("stream", [False, True])
def test_prose_in_the_reason_of_a_messages_end_is_judged(stream: bool) -> None:
    document = {**WHOLE["/v1/messages"], "stop_reason": SAID}
    assert [part for part in parts(DIALECTS["/v1/messages"], document, stream=stream) if SAID in (part.text or "")]


@pytest.mark.parametrize(("path", "name"), CASES)
def test_nothing_of_it_is_in_a_refusal_or_out_before_it_is_judged(path: str, name: str) -> None:
    dialect, document = DIALECTS[path], spoilt(path, name)
    answer = dialect.parse_answer(json.dumps(document).encode())
    assert SAID.encode() not in dialect.replace_blocked(answer, RESULTS, "Withheld.")
    assert dialect.collector is not None
    assert dialect.release is not None
    collector, release = dialect.collector(1 << 20), dialect.release(1 << 20)
    out, place = [], 0
    for piece in streamed(path, document):
        collector.receive(piece)
        for said in release.receive(piece):
            place += len(said.text)
            out.append(release.text(said, place))
    collector.finish()
    assert SAID.encode() not in b"".join(collector.replaced(RESULTS, "Withheld."))
    release.finish()
    assert [part for part in release.others() if SAID in (part.text or "")]
    out += [release.refused(0, RESULTS[0], "Withheld.", released_chars=place), release.end(whole=False)]
    assert SAID.encode() not in b"".join(out)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("host", HOSTS)
def test_what_hosts_count_says_nothing(host: dict[str, Any], stream: bool) -> None:
    assert {part.text for part in parts(DIALECTS[CHAT], {**WHOLE[CHAT], **host}, stream=stream)} == {"Hi"}


@pytest.mark.parametrize("how", SPELLED)
@pytest.mark.parametrize(("path", "name"), CASES)
def test_a_sentence_word_by_word_is_judged_and_is_not_out_before(path: str, name: str, how: str) -> None:
    dialect, document = DIALECTS[path], {**WHOLE[path], name: SPELLED[how]}
    assert says(parts(dialect, document, stream=False))
    assert b"teapot" not in dialect.replace_blocked(dialect.parse_answer(json.dumps(document).encode()), RESULTS, "Withheld.")
    if name == "usage" and not isinstance(document[name], dict) and path != "/v1/messages":
        return  # a frame's usage is an object
    assert says(parts(dialect, document, stream=True)) or name == "incomplete_details"
    assert dialect.release is not None
    release, out = dialect.release(1 << 20), []
    for piece in streamed(path, document):
        out += [release.text(said, len(said.text)) for said in release.receive(piece)]
    release.finish()
    assert says(release.others())
    out += [release.refused(0, RESULTS[0], "Withheld.", released_chars=2), release.end(whole=False)]
    assert b"teapot" not in b"".join(out)


@pytest.mark.parametrize("how", SPELLED)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", [*CHOICE, "new_field"])
def test_a_sentence_word_by_word_in_a_choice_is_judged(name: str, stream: bool, how: str) -> None:
    (choice,) = WHOLE[CHAT]["choices"]
    if (name, how) == ("new_field", "both"):
        return  # strings and keys are judged one after the other there
    assert says(parts(DIALECTS[CHAT], {**WHOLE[CHAT], "choices": [{**choice, name: SPELLED[how]}]}, stream=stream))


@pytest.mark.parametrize("stream", [False, True])
def test_names_of_new_fields_are_judged_together(stream: bool) -> None:
    (choice,) = WHOLE[CHAT]["choices"]
    said = dict.fromkeys(WORDS, 1)
    assert says(parts(DIALECTS[CHAT], {**WHOLE[CHAT], **said}, stream=stream))
    assert says(parts(DIALECTS[CHAT], {**WHOLE[CHAT], "choices": [{**choice, **said}]}, stream=stream))
    assert says(parts(DIALECTS[CHAT], {**WHOLE[CHAT], "choices": [{**choice, "message": {**choice["message"], **said}}]}, stream=stream))
    use = {"type": "tool_use", "id": "t", "name": "f", "input": said}
    assert says(parts(DIALECTS["/v1/messages"], {**WHOLE["/v1/messages"], "content": [use]}, stream=False))


@pytest.mark.parametrize("name", ["id", "model", "system_fingerprint", "service_tier", "provider", "usage"])
def test_a_sentence_frame_by_frame_is_judged_and_in_no_frame_that_stays(name: str) -> None:
    dialect = DIALECTS[CHAT]
    assert dialect.collector is not None
    collector = dialect.collector(1 << 20)
    for number, word in enumerate(WORDS):
        choice = {"index": number % 2, "delta": {"content": "Hi"}, "finish_reason": "stop"}
        collector.receive(frame({"id": "c", "model": "m", name: {"x": word} if name == "usage" else word, "choices": [choice]}))
    collector.receive(DONE)
    collector.finish()
    assert says(collector.parts())
    assert b"teapot" not in b"".join(collector.replaced(RESULTS, "Withheld.")).replace(b'"usage":{"x":"teapot"}', b"")


def test_a_sentence_event_by_event_is_judged() -> None:
    for path, kind in (("/v1/messages", "message_delta"), ("/v1/responses", "response.in_progress")):
        dialect = DIALECTS[path]
        assert dialect.collector is not None
        collector = dialect.collector(1 << 20)
        first, *_, last = events = list(streamed(path, WHOLE[path]))
        response = {**WHOLE["/v1/responses"], "output": []}
        told: list[dict[str, Any]] = [
            {"delta": {}, "usage": {"x": word}} if kind == "message_delta" else {"response": {**response, "service_tier": word}}
            for word in WORDS
        ]
        for piece in (first, *(named_event({"type": kind, **each}) for each in told), *events[1:-1], last):
            collector.receive(piece)
        collector.finish()
        assert says(tuple(collector.parts()))


def test_the_work_on_names_that_change_with_every_frame_grows_with_their_number_alone() -> None:
    def calls(frames: int) -> int:
        counted, names = Counter[str](), Names()
        sys.setprofile(lambda frame, event, argument: counted.update((event,)))
        for number in range(frames):
            names.add({"id": f"chatcmpl-{number}", "usage": {"prompt_tokens": number}}, {"id", "usage"})
        sys.setprofile(None)
        return counted["call"] + counted["c_call"]

    assert calls(800) < 5 * calls(200)


def test_a_sentence_over_many_frames_is_told_from_its_second_word_on() -> None:
    names = Names()
    words = ["chat.completion", "Gardens", "gardens", "are", "nobody"]
    assert [names.add({"id": word}, {"id"}) for word in words] == [False, False, False, True, True]
    assert names.texts() == [" ".join(words)]
