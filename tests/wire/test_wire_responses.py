"""OpenAI's responses: every item that a model or a client could read is a part, streamed and whole alike."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.errors import UpstreamError, WireError
from guardrail.wire.dialects import RESPONSES
from guardrail.wire.responses import read_response, read_responses_request, replace_response
from guardrail.wire.responses_stream import ResponseStreamCollector

RESULTS = {"p": {"filtered": True, "detected": True, "score": 0.9}}
USAGE = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
HEAD = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt", "error": None, "instructions": "Be kind.", "tools": []}
TEXT = {"type": "output_text", "text": "Kind words.", "annotations": [{"type": "url_citation", "title": "T t", "url": "http://u"}]}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "find", "arguments": '{"q": "ducks"}', "status": "completed"}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Thinking."}], "encrypted_content": "gAAAAAB"}
ITEM = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [TEXT]}
WHOLE = {**HEAD, "status": "completed", "incomplete_details": None, "output": [THOUGHT, ITEM, CALL], "usage": USAGE}
ANSWER = json.dumps(WHOLE).encode()
PLACE = {"item_id": "msg_1", "output_index": 1, "content_index": 0}


def named(*events: dict[str, Any]) -> bytes:
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n".encode()
        for number, event in enumerate(events)
    )


STARTED = {"type": "response.created", "response": {**HEAD, "status": "in_progress", "output": [], "usage": None}}
COMPLETED = {"type": "response.completed", "response": WHOLE}
EVENTS: list[dict[str, Any]] = [
    STARTED,
    {"type": "response.output_item.added", "output_index": 0, "item": {**THOUGHT, "summary": []}},
    {"type": "response.reasoning_summary_part.added", "item_id": "rs_1", "output_index": 0, "summary_index": 0,
     "part": {"type": "summary_text", "text": ""}},
    {"type": "response.reasoning_summary_text.delta", "item_id": "rs_1", "output_index": 0, "summary_index": 0, "delta": "Think"},
    {"type": "response.reasoning_summary_text.delta", "item_id": "rs_1", "output_index": 0, "summary_index": 0, "delta": "ing."},
    {"type": "response.reasoning_summary_text.done", "item_id": "rs_1", "output_index": 0, "summary_index": 0, "text": "Thinking."},
    {"type": "response.output_item.done", "output_index": 0, "item": THOUGHT},
    {"type": "response.output_item.added", "output_index": 1, "item": {**ITEM, "content": []}},
    {"type": "response.content_part.added", **PLACE, "part": {**TEXT, "text": "", "annotations": []}},
    {"type": "response.output_text.delta", **PLACE, "delta": "Kind ", "logprobs": [{"token": "Kind ", "logprob": 0, "top_logprobs": []}]},
    {"type": "response.output_text.delta", **PLACE, "delta": "words.", "logprobs": [{"token": "words.", "logprob": 0, "top_logprobs": []}]},
    {"type": "response.output_text.annotation.added", **PLACE, "annotation_index": 0, "annotation": TEXT["annotations"][0]},
    {"type": "response.output_text.done", **PLACE, "text": "Kind words.", "logprobs": []},
    {"type": "response.content_part.done", **PLACE, "part": TEXT},
    {"type": "response.output_item.done", "output_index": 1, "item": ITEM},
    {"type": "response.output_item.added", "output_index": 2, "item": {**CALL, "arguments": ""}},
    {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "output_index": 2, "delta": '{"q": "du'},
    {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "output_index": 2, "delta": 'cks"}'},
    {"type": "response.function_call_arguments.done", "item_id": "fc_1", "output_index": 2, "arguments": '{"q": "ducks"}'},
    {"type": "response.output_item.done", "output_index": 2, "item": CALL},
    COMPLETED,
]  # fmt: skip
STREAM = named(*EVENTS)


def collected(stream: bytes) -> ResponseStreamCollector:
    collector = ResponseStreamCollector()
    collector.receive(stream)
    collector.finish()
    return collector


def texts(given: Any, **fields: Any) -> list[str | None]:
    body = json.dumps({"model": "gpt", "input": given, **fields}).encode()
    return [part.text for part in RESPONSES.parse_request(body).parts]


class TestRequest:
    def test_strings_messages_and_instructions_are_judged(self) -> None:
        assert texts("hello", instructions="be kind") == ["be kind", "hello"]
        assert texts([{"role": "user", "content": "a"}, {"type": "message", "role": "developer", "content": [
            {"type": "input_text", "text": "b"}]}]) == ["a", "b"]  # fmt: skip

    @pytest.mark.parametrize(
        ("item", "found"),
        [
            (ITEM, ["Kind words.", "T t\nhttp://u", "Kind words.T t\nhttp://u"]),
            ({"role": "assistant", "content": [{"type": "refusal", "refusal": "R"}]}, ["R"]),
            ({"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}, {"type": "input_file", "filename": "F"}]},
             [None, None, "F"]),
            (CALL, ["find", '{"q": "ducks"}']),
            ({**THOUGHT, "encrypted_content": None}, ["Thinking."]),
            (THOUGHT, ["Thinking.", None]),
            ({**THOUGHT, "encrypted_content": "a readable text"}, ["Thinking.", "a readable text", None]),
            ({**THOUGHT, "summary": []}, [None]),
            ({"type": "compaction", "encrypted_content": "gAAAAAB"}, [None]),
            ({**CALL, "encrypted_content": "gAAAAAB"}, ["find", '{"q": "ducks"}', "gAAAAAB"]),
            ({"type": "function_call_output", "id": "fco_1", "call_id": "c", "output": ""}, []),
            ({"type": "image_generation_call", "id": "ig_1"}, [None]),
            ({"type": "function_call_output", "call_id": "c", "output": "O"}, ["O"]),
            ({"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "O"}]}, ["O"]),
            ({"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": "u"}]}, [None]),
            ({"type": "function_call_output", "call_id": "c", "output": [{"type": "hologram", "beam": "B"}]}, ["hologram\nB", None]),
            ({"type": "function_call_output", "call_id": "c", "output": [{"text": "O", "image_url": "u"}]}, ["O\nu", None]),
            ({"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "image_url": "u"}}, [None]),
            ({"type": "custom_tool_call", "call_id": "c", "name": "N", "input": "I"}, ["N", "I"]),
            ({"type": "custom_tool_call_output", "call_id": "c", "output": "O"}, ["O"]),
            ({"type": "mcp_call", "id": "m", "name": "N", "arguments": "A", "output": "O", "error": "E", "server_label": "S"},
             ["N", "A", "O", "E", "S"]),
            ({"type": "mcp_approval_response", "approval_request_id": "a", "approve": True, "reason": "R"}, ["R", "a"]),
            ({"type": "code_interpreter_call", "code": "C", "outputs": [{"type": "logs", "logs": "L"}, {"type": "image", "url": "u"}]},
             ["C", "L", None]),
            ({"type": "file_search_call", "id": "x", "queries": ["Q"], "results": [{"text": "T", "filename": "F"}]}, ["Q", "T\nF"]),
            ({"type": "web_search_call", "id": "x", "action": {"type": "search", "query": "Q"}}, ["Q"]),
            ({"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "O", "stderr": "E"}]}, ["O\nE"]),
            ({"type": "image_generation_call", "id": "x", "result": "AAAA", "revised_prompt": "P"}, [None, "P"]),
            ({"type": "brand_new", "words": "W"}, ["brand_new\nW", None]),
        ],
    )  # fmt: skip
    def test_every_type_of_item(self, item: Any, found: list[str | None]) -> None:
        assert sorted(texts([item]), key=str) == sorted(found, key=str)

    @pytest.mark.parametrize(
        "fields",
        [
            {"previous_response_id": "../files"},
            {"conversation": "conv_1"},
            {"background": True},
            {"input": [{"type": "item_reference", "id": "msg_1"}]},
            {"input": [{"id": "msg_1"}]},
            {"input": [{"type": "message", "id": "msg_1"}]},
            {"input": [{"id": "msg_1", "role": None}]},
            {"input": [{"id": "msg_1", "content": None}]},
            {"input": [{"id": "msg_1", "role": "user", "content": []}]},
            {"input": [{"id": "msg_1", "role": "user", "content": [{"type": "input_text", "text": ""}]}]},
            {"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]},
            {"input": [{"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": ""}]}]},
            {"input": [{"type": "function_call", "id": "fc_1", "call_id": "c"}]},
            {"input": [{"type": "function_call_output", "id": "fco_1", "call_id": "c"}]},
            {"input": [{"type": "compaction", "id": "cmp_1"}]},
            {"instructions": [{"type": "item_reference", "id": "msg_1"}]},
            {"Input": "x"},
            {"stream": "yes"},
            {"input": None},
        ],
    )
    def test_what_lies_elsewhere_or_could_be_read_otherwise_is_refused(self, fields: Any) -> None:
        with pytest.raises(WireError):
            texts(fields.pop("input", "x"), **fields)

    def test_a_stored_prompt_cannot_be_read_and_its_variables_are_judged(self) -> None:
        assert texts("x", prompt={"id": "pmpt_1", "variables": {"name": "V"}}) == ["x", "V", None]

    def test_tool_definitions_and_unknown_fields_are_judged(self) -> None:
        assert texts("x", tools=[{"type": "function", "name": "f", "description": "D"}], surprise="S") == ["x", "f\nD", "S"]

    def test_what_context_management_says_is_judged(self) -> None:
        edits = [{"type": "compaction", "compact_threshold": 1000}]
        assert texts("x", context_management=edits) == ["x"]
        assert texts("x", context_management=[{**edits[0], "instructions": "Say this."}]) == ["x", "Say this."]


class TestAnswer:
    def test_every_item_is_judged_as_the_only_choice(self) -> None:
        assert [(part.choice, part.text, part.kind) for part in RESPONSES.parse_answer(ANSWER).parts] == [
            (0, "Thinking.", "reasoning"),
            (0, "Kind words.", "text"),
            (0, "T t\nhttp://u", "unknown"),
            (0, "Kind words.T t\nhttp://u", "text"),
            (0, "find", "name"),
            (0, '{"q": "ducks"}', "tool_arguments"),
        ]

    def test_a_blocked_answer_is_incomplete_with_its_usage(self) -> None:
        told = json.loads(replace_response(RESPONSES.parse_answer(ANSWER), {0: RESULTS}, "No."))
        assert (told["status"], told["incomplete_details"], told["usage"]) == ("incomplete", {"reason": "content_filter"}, USAGE)
        assert told["output"][0]["content"][0]["text"] == "No."
        assert "Kind" not in json.dumps(told)
        assert "ducks" not in json.dumps(told)

    @pytest.mark.parametrize("body", [b"{}", b"[]", b'{"output": 5}', b'{"object": "list", "output": []}'])
    def test_what_is_no_response_is_an_error(self, body: bytes) -> None:
        with pytest.raises(UpstreamError):
            RESPONSES.parse_answer(body)


class TestStream:
    @settings(deadline=None)
    @given(st.lists(st.integers(0, len(STREAM)), max_size=8))
    def test_in_any_chunking_it_is_judged_as_the_whole_answer(self, cuts: list[int]) -> None:
        collector = ResponseStreamCollector()
        for begin, end in pairwise([0, *sorted(cuts), len(STREAM)]):
            collector.receive(STREAM[begin:end])
        collector.finish()
        assert collector.parts() == RESPONSES.parse_answer(ANSWER).parts
        assert b"".join(collector.release()) == STREAM
        assert (collector.usage, collector.finish_reasons, collector.done) == (USAGE, {0: "completed"}, True)

    def test_a_blocked_stream_is_a_whole_incomplete_response(self) -> None:
        told = b"".join(collected(STREAM).replaced({0: RESULTS}, "No."))
        assert b"Kind" not in told
        again = collected(told)
        assert ([part.text for part in again.parts()], again.finish_reasons, again.usage) == (["No."], {0: "content_filter"}, USAGE)

    @pytest.mark.parametrize("count", range(len(EVENTS)))
    def test_a_stream_that_ends_early_is_an_error(self, count: int) -> None:
        with pytest.raises(UpstreamError):
            collected(named(*EVENTS[:count]))

    @pytest.mark.parametrize("event", [{"type": "error", "message": "x"}, {"type": "response.completed"}, {"type": 5}])
    def test_an_error_or_garbage_is_an_error(self, event: dict[str, Any]) -> None:
        with pytest.raises(UpstreamError):
            collected(named(STARTED, event, COMPLETED))

    @pytest.mark.parametrize(
        "event",
        [
            {"type": "response.output_text.delta", **PLACE, "delta": "hidden"},
            {"type": "response.output_text.done", **PLACE, "text": "hidden"},
            {"type": "response.output_text.delta", **PLACE, "delta": "", "logprobs": [{"token": "hid"}, {"token": "den"}]},
            {"type": "response.output_item.done", "output_index": 0, "item": {**CALL, "arguments": "hidden"}},
            {"type": "response.content_part.done", **PLACE, "part": {**TEXT, "text": "hidden"}},
            {"type": "response.refusal.delta", **PLACE, "delta": "hidden"},
            {"type": "hidden"},
            {"type": "response. a hidden text"},
            {"type": "response.brand_new", "a hidden key": 1},
            {"type": "response.output_text.delta", **PLACE, "delta": "", "logprobs": "hidden"},
            {"type": "response.output_text.delta", **PLACE, "delta": "", "logprobs": [{"token": "", "note": "hidden"}]},
            {"type": "response.brand_new", "deep": [{"in": "hidden"}]},
            {"type": "response.in_progress", "response": {**WHOLE, "output": [{**ITEM, "content": [{**TEXT, "text": "hidden"}]}]}},
            {"type": "response.mcp_call_arguments.delta", "item_id": "hidden words", "output_index": 0, "delta": "x"},
        ],
    )
    def test_what_a_client_reads_before_the_end_is_judged_though_the_end_says_otherwise(self, event: dict[str, Any]) -> None:
        found = collected(named(STARTED, event, COMPLETED)).parts()
        assert "hidden" in "\n".join(part.text or "" for part in found)

    def test_a_picture_on_its_way_cannot_be_read(self) -> None:
        event = {"type": "response.image_generation_call.partial_image", "item_id": "ig", "output_index": 0, "partial_image_b64": "AAAA"}
        assert None in [part.text for part in collected(named(STARTED, event, COMPLETED)).parts()]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "role": "assistant", "status": "rude words", "content": []},
        {"type": "reasoning", "status": "rude words", "summary": []},
        {"type": "reasoning", "summary": [{"type": "rude words", "text": "ok"}]},
        {"type": "reasoning", "content": [{"type": {"of": "rude words"}, "text": "ok"}]},
        {"type": "function_call_output", "call_id": "c", "status": "rude words", "output": "ok"},
        {"type": "rude words_output", "call_id": "c", "output": "ok"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "ok", "status": "rude words"}]},
    ],
)
def test_words_are_judged_where_a_name_is_expected(item: dict[str, Any]) -> None:
    answer = {"object": "response", "status": "completed", "output": [item]}
    found = [read_response(answer).parts, read_responses_request({"model": "m", "input": [item]}).parts]
    assert all(any("rude words" in (part.text or "") for part in parts) for parts in found)
