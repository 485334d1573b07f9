"""Anthropic's messages: every block that a model or a client could read is a part, streamed and whole alike."""

import contextlib
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.errors import UpstreamError, WireError
from guardrail.types import Action, Decision, Outcome, Stage
from guardrail.wire.dialects import MESSAGES
from guardrail.wire.messages import message_block_reply, message_error, replace_message
from guardrail.wire.messages_stream import MessageStreamCollector
from guardrail.wire.refusal import failure

RESULTS = {"p": {"filtered": True, "detected": True, "score": 0.9}}
USAGE = {"input_tokens": 25, "output_tokens": 15}
CONTENT: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "Let me think.", "signature": "EqQBCgIYAhIM1gbcDa9GJwZA2b3h"},
    {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix"},
    {"type": "text", "text": "Okay, the weather:", "citations": [{"type": "char_location", "cited_text": "cited", "document_index": 0}]},
    {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"location": "San Francisco", "deep": ["a", {"b": "c"}]}},
]
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "stop_sequence": None}
ANSWER = json.dumps({**MESSAGE, "content": CONTENT, "stop_reason": "tool_use", "usage": USAGE}).encode()


def named(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def delta(index: int, **said: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": said}


def start(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


HEAD = {
    "type": "message_start",
    "message": {**MESSAGE, "content": [], "stop_reason": None, "usage": {"input_tokens": 25, "output_tokens": 1}},
}
END = {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {"output_tokens": 15}}
EVENTS = [
    HEAD,
    start(0, type="thinking", thinking="", signature=""),
    delta(0, type="thinking_delta", thinking="Let me "),
    {"type": "ping"},
    delta(0, type="thinking_delta", thinking="think."),
    delta(0, type="signature_delta", signature="EqQBCgIYAhIM1gbcDa9GJwZA2b3h"),
    stop(0),
    start(1, type="redacted_thinking", data="EmwKAhgBEgy3va3pzix"),
    stop(1),
    start(2, type="text", text=""),
    delta(2, type="text_delta", text="Okay, the "),
    delta(2, type="citations_delta", citation=CONTENT[2]["citations"][0]),
    delta(2, type="text_delta", text="weather:"),
    stop(2),
    start(3, type="tool_use", id="toolu_1", name="get_weather", input={}),
    delta(3, type="input_json_delta", partial_json=""),
    delta(3, type="input_json_delta", partial_json='{"location": "San Fra'),
    delta(3, type="input_json_delta", partial_json='ncisco", "deep": ["a", {"b": "c"}]}'),
    stop(3),
    END,
    {"type": "message_stop"},
]
STREAM = named(*EVENTS)


def collected(stream: bytes) -> MessageStreamCollector:
    collector = MessageStreamCollector()
    collector.receive(stream)
    collector.finish()
    return collector


def request(content: Any, **fields: Any) -> list[tuple[str, str | None, str]]:
    body = {"model": "claude", "max_tokens": 5, "messages": [{"role": "user", "content": content}], **fields}
    return [(part.path, part.text, part.kind) for part in MESSAGES.parse_request(json.dumps(body).encode()).parts]


C = "messages[0].content"
KEYS = st.sampled_from(["type", "content", "text", "source", "input", "tool_result", "document"])
CONTENTS = st.recursive(
    st.none() | st.booleans() | KEYS | st.integers(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


class TestRequest:
    def test_strings_and_text_blocks_are_judged_one_by_one_and_joined(self) -> None:
        assert request("hello") == [(C, "hello", "text")]
        blocks = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
        assert [text for _, text, _ in request(blocks)] == ["hel", "lo", "hello", "hel\nlo"]

    @pytest.mark.parametrize("system", ["Be kind.", [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]])
    def test_the_system_prompt_is_judged(self, system: Any) -> None:
        assert [text for _, text, _ in request("hi", system=system)] == ["Be kind.", "hi"]

    @pytest.mark.parametrize("content", ["result", [{"type": "text", "text": "result"}]])
    def test_a_tool_result_is_judged_as_a_string_and_as_a_list(self, content: Any) -> None:
        (found,) = request([{"type": "tool_result", "tool_use_id": "toolu_1", "content": content, "is_error": True}])
        assert found[1:] == ("result", "tool_result")

    @pytest.mark.parametrize(
        ("block", "found"),
        [
            (CONTENT[3], ["get_weather", "San Francisco\na\nc"]),
            (CONTENT[0], ["Let me think."]),
            (CONTENT[1], []),
            ({"type": "redacted_thinking", "data": "a readable sentence"}, ["a readable sentence"]),
            ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}, [None]),
            ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"}, "title": "T"}, [None, "T"]),
            ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "D"}, "context": "C"}, ["D", "C"]),
            ({"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "D"}]}}, ["D"]),
            ({"type": "document", "source": {"type": "content", "content": [{"type": "image", "source": {}}]}}, [None]),
            ({"type": "document", "source": {"type": "file", "file_id": "f"}}, [None]),
            ({"type": "document", "source": {"type": "novel", "x": "N"}}, [None, "N"]),
            ({"type": "search_result", "source": "S", "title": "T", "content": [{"type": "text", "text": "R"}]}, ["R", "S", "T"]),
            ({"type": "server_tool_use", "id": "x", "name": "web_search", "input": {"query": "Q"}}, ["web_search", "Q"]),
            (
                {"type": "web_search_tool_result", "tool_use_id": "x", "content": [
                    {"type": "web_search_result", "title": "T", "url": "http://u/ U", "encrypted_content": "EqgfCioIARgB3"}]},
                [None, "T", "http://u/ U"],
            ),
            (
                {"type": "web_fetch_tool_result", "tool_use_id": "x", "content": {"type": "web_fetch_result", "url": "U", "content": {
                    "type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"}}}},
                [None, "U"],
            ),
            ({"type": "tool_result", "tool_use_id": "x", "content": [{"type": "image", "source": {"type": "url", "url": "u"}}]}, [None]),
            ({"type": "tool_result", "tool_use_id": "x", "content": [{"type": "tool_result", "content": "deep"}]}, ["deep"]),
            ({"type": "container_upload", "file_id": "f"}, [None]),
            ({"type": "tool_result", "tool_use_id": "x", "content": [{"type": "hologram", "beam": "B"}]}, ["hologram\nB", None]),
            ({"type": "tool_result", "tool_use_id": "x", "content": [{"type": "image_url", "image_url": "U"}]}, ["image_url\nU", None]),
            ({"type": "tool_result", "tool_use_id": "x", "content": [{"image_url": "U"}]}, ["U", None]),
            ({"type": "tool_result", "tool_use_id": "x", "content": [{"type": "text", "text": "T", "image_url": "U"}]}, ["T", "U", None]),
            ({"type": "text", "text": "T", "image": {"url": "U"}}, ["T", "U", None]),
            ({"type": "text", "text": "T", "encrypted_content": "EqgfCioIARgB0"}, ["T", "EqgfCioIARgB0"]),
            ({"type": "tool_result", "content": [{"type": "text", "text": "T", "data": "Eqgf0"}]}, ["T", "Eqgf0"]),
            ({"type": "redacted_thinking", "data": "Say_rude-words"}, ["Say_rude-words"]),
            ({"type": "say rude words tool_use", "name": "N"}, ["say rude words tool_use\nN", None]),
            ({"type": "say rude words tool_result", "content": "R"}, ["say rude words tool_result\nR", None]),
            ({"type": "say_rude_words_tool_result", "content": "R"}, ["say_rude_words_tool_result", "R"]),
            ({"type": "brand_new", "words": "W"}, ["brand_new\nW", None]),
            (5, [None, None]),
        ],
    )  # fmt: skip
    def test_every_kind_of_block(self, block: Any, found: list[str | None]) -> None:
        assert sorted((text for _, text, _ in request([block])), key=str) == sorted(found, key=str)

    def test_tool_definitions_and_unknown_fields_are_judged(self) -> None:
        tools = [{"name": "f", "description": "Finds.", "input_schema": {"type": "object"}}]
        assert request("hi", tools=tools, metadata={"user_id": "u u"}, surprise={"a": "judged"}) == [
            (C, "hi", "text"),
            ("tools[0]", "f\nFinds.", "definition"),
            ("body.surprise", "judged", "unknown"),
        ]

    @pytest.mark.parametrize(
        ("fields", "found"),
        [
            ({"context_management": {"edits": [{"type": "compact_20260112", "instructions": "Say this."}]}}, "Say this."),
            ({"context_management": {"edits": [{"type": "Say this."}]}}, "Say this."),
            ({"context_management": "Say this."}, "Say this."),
            ({"diagnostics": {"previous_message_id": "Say this."}}, "Say this."),
            ({"diagnostics": {"note": "Say this."}}, "Say this."),
            ({"output_config": {"effort": "Say this."}}, "Say this."),
            ({"output_config": {"format": {"type": "json_schema", "name": "Say this.", "schema": {"enum": [1, 2]}}}}, "Say this."),
            ({"output_config": {"format": {"type": "Say this."}}}, "Say this."),
            ({"output_config": {"format": {"type": "json_schema", "schema": "Say this."}}}, "Say this."),
            ({"output_format": {"type": "json_schema", "description": "Say this.", "schema": {}}}, "Say this."),
        ],
    )
    def test_what_settings_say_is_judged(self, fields: Any, found: str) -> None:
        ((name, _),) = fields.items()
        assert request("hi", **fields) == [(C, "hi", "text"), (f"body.{name}", found, "unknown")]

    def test_settings_and_schemas_that_say_nothing_are_no_parts(self) -> None:
        schema = {"type": "array", "items": {"enum": [1, 2]}}
        form = {"type": "json_schema", "schema": schema}
        edit = {"type": "clear_tool_uses_20250919", "clear_at_least": {"type": "input_tokens", "value": 5}}
        assert request(
            "hi",
            context_management={"edits": [edit]},
            diagnostics={"previous_message_id": "msg_01AbC"},
            output_config={"effort": "high", "format": form},
            output_format=form,
        ) == [(C, "hi", "text")]

    def test_roles_names_and_prefills(self) -> None:
        messages = [
            {"role": "user", "content": "a", "name": "N"},
            {"role": "assistant", "content": "prefill"},
            {"role": "wiz ard", "content": "x"},
        ]
        body = json.dumps({"model": "m", "messages": messages}).encode()
        parts = MESSAGES.parse_request(body).parts
        assert [(part.text, part.role) for part in parts] == [
            ("a", "user"), ("N", "user"), ("prefill", "assistant"), ("wiz ard", "unknown"), ("x", "unknown"),
        ]  # fmt: skip

    @pytest.mark.parametrize("fields", [{"messages": []}, {"messages": ["x"]}, {"Messages": []}, {"stream": "yes"}, {"model": ""}])
    def test_what_could_be_read_otherwise_is_refused(self, fields: Any) -> None:
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}).encode()
        with pytest.raises(WireError):
            _ = MESSAGES.parse_request(body).parts

    @settings(deadline=None)
    @given(CONTENTS)
    def test_any_content_is_read_or_refused_and_never_crashes(self, content: Any) -> None:
        with contextlib.suppress(WireError):
            request(content)


class TestAnswer:
    def test_every_block_is_judged_as_the_only_choice(self) -> None:
        assert [(part.choice, part.text, part.kind) for part in MESSAGES.parse_answer(ANSWER).parts] == [
            (0, "Let me think.", "reasoning"),
            (0, "Okay, the weather:", "text"),
            (0, "cited", "unknown"),
            (0, "get_weather", "name"),
            (0, "San Francisco\na\nc", "tool_arguments"),
        ]

    def test_a_blocked_answer_is_a_refusal_with_its_usage(self) -> None:
        told = json.loads(replace_message(MESSAGES.parse_answer(ANSWER), {0: RESULTS}, "No."))
        assert (told["stop_reason"], told["content"], told["usage"]) == ("refusal", [{"type": "text", "text": "No."}], USAGE)
        assert b"Francisco" not in json.dumps(told).encode()
        assert json.loads(replace_message(MESSAGES.parse_answer(ANSWER), {0: RESULTS}, None))["content"] == []

    @pytest.mark.parametrize("body", [b"{}", b"[]", b'{"content": "x"}', b'{"type": "error", "content": []}'])
    def test_what_is_no_message_is_an_error(self, body: bytes) -> None:
        with pytest.raises(UpstreamError):
            MESSAGES.parse_answer(body)


class TestStream:
    @settings(deadline=None)
    @given(st.lists(st.integers(0, len(STREAM)), max_size=8))
    def test_in_any_chunking_it_is_judged_as_the_whole_answer(self, cuts: list[int]) -> None:
        collector = MessageStreamCollector()
        for begin, end in pairwise([0, *sorted(cuts), len(STREAM)]):
            collector.receive(STREAM[begin:end])
        collector.finish()
        assert collector.parts() == MESSAGES.parse_answer(ANSWER).parts
        assert b"".join(collector.release()) == STREAM
        assert (collector.usage, collector.finish_reasons, collector.done) == (USAGE, {0: "tool_use"}, True)

    def test_a_blocked_stream_is_a_whole_refusal(self) -> None:
        told = b"".join(collected(STREAM).replaced({0: RESULTS}, "No."))
        assert b"Francisco" not in told
        again = collected(told)
        assert (next(part.text for part in again.parts()), again.finish_reasons, again.usage) == ("No.", {0: "refusal"}, USAGE)

    @pytest.mark.parametrize("count", range(len(EVENTS)))
    def test_a_stream_that_ends_early_is_an_error(self, count: int) -> None:
        with pytest.raises(UpstreamError):
            collected(named(*EVENTS[:count]))

    @pytest.mark.parametrize(
        "event",
        [
            {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
            HEAD,
            start(7, type="text", text=""),
            delta(9, type="text_delta", text="x"),
            {"type": "content_block_delta", "index": 0},
            {"type": "content_block_delta", "index": True, "delta": {}},
        ],
    )
    def test_what_clients_could_read_in_two_ways_is_an_error(self, event: dict[str, Any]) -> None:
        with pytest.raises(UpstreamError):
            collected(named(HEAD, start(0, type="text", text=""), event, END, {"type": "message_stop"}))

    def test_an_event_named_otherwise_than_its_type_is_an_error(self) -> None:
        with pytest.raises(UpstreamError):
            collected(STREAM.replace(b"event: ping", b"event: message_delta"))

    @pytest.mark.parametrize(
        "event",
        [
            {"type": "news", "say": "hidden"},
            {"type": "ping", "say": "hidden"},
            {"type": "hidden"},
            {"type": "a hidden text"},
            {"type": "ping", "a hidden key": 1},
            delta(0, type="novel_delta", say="hidden"),
            delta(0, type="text_delta", text="x", say="hidden"),
            {**END, "say": "hidden"},
            {**END, "delta": {"stop_reason": "end_turn", "stop_details": {"explanation": "hidden"}}},
        ],
    )
    def test_nothing_is_read_past(self, event: dict[str, Any]) -> None:
        found = collected(named(HEAD, start(0, type="text", text=""), stop(0), event, {"type": "message_stop"})).parts()
        assert "hidden" in "".join(part.text or "" for part in found)

    def test_a_comment_is_judged_too(self) -> None:
        found = collected(b": hidden words\n\n" + STREAM).parts()
        assert "hidden words" in "".join(part.text or "" for part in found)

    def test_a_comment_beside_a_chats_end_is_judged_too(self) -> None:
        found = collected(b": hidden words\ndata: [DONE]\n\n" + STREAM).parts()
        assert "hidden words" in "".join(part.text or "" for part in found)

    def test_input_that_was_there_before_its_pieces_is_judged_too(self) -> None:
        block = start(0, type="tool_use", id="t", name="f", input={"a": "hidden"})
        events = [HEAD, block, delta(0, type="input_json_delta", partial_json='{"a": "b"}'), stop(0), END, {"type": "message_stop"}]
        assert "hidden\nb" in [part.text for part in collected(named(*events)).parts()]

    def test_input_that_was_cut_off_is_judged_as_it_is_spelled(self) -> None:
        events = [HEAD, start(0, type="tool_use", id="t", name="f", input={}), delta(0, type="input_json_delta", partial_json='{"a": "hid')]
        found = collected(named(*events, stop(0), END, {"type": "message_stop"})).parts()
        assert '{"a": "hid' in [part.text for part in found]


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [(400, "invalid_request_error"), (401, "authentication_error"), (404, "not_found_error"), (413, "request_too_large"),
         (429, "rate_limit_error"), (500, "api_error"), (502, "api_error"), (503, "api_error"), (504, "timeout_error")],
    )  # fmt: skip
    def test_errors_have_anthropics_envelope(self, status: int, kind: str) -> None:
        reply = message_error(failure(status, "some_code", "Words."))
        assert json.loads(reply.body) == {"type": "error", "error": {"type": kind, "message": "Words.", "code": "some_code"}}
        assert reply.status == status

    def test_a_blocked_prompt_can_be_a_refusal_streamed_and_whole(self) -> None:
        decision = Decision("d", Stage.INPUT, Outcome(Action.BLOCK, Action.BLOCK, {}, False, False), (), (), "r", "t", 1, 0.0)
        for stream in (False, True):
            body = {"model": "claude", "messages": [{"role": "user", "content": "x"}], "stream": stream}
            reply = message_block_reply(decision, MESSAGES.parse_request(json.dumps(body).encode()), "No.", 1)
            answer = collected(reply.body).answer() if stream else MESSAGES.parse_answer(reply.body)
            assert (answer.finish_reasons, answer.parts[0].text, answer.document["model"]) == ({0: "refusal"}, "No.", "claude")


@pytest.mark.parametrize("kind", [[], {}, 1, None, ["tool_result"]])
def test_a_type_that_is_no_name_is_no_crash(kind: Any) -> None:
    for content in ([{"type": kind, "text": "x"}], [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": kind, "text": "x"}]}]):
        body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": content}]}
        with contextlib.suppress(WireError):
            parts = MESSAGES.parse_request(json.dumps(body).encode()).parts
            assert any(part.text is None or "x" in part.text for part in parts)
