"""What a chat request becomes: every text a part, and nothing that two readers could read differently."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.errors import WireError
from guardrail.wire.dialects import CHAT


def body(messages=None, **fields):
    return json.dumps({"model": "m", "messages": messages or [{"role": "user", "content": "hello"}], **fields}).encode()


def texts(messages=None, **fields):
    return [part.text for part in CHAT.parse_request(body(messages, **fields)).parts]


def refused(raw):
    with pytest.raises(WireError) as caught:
        _ = CHAT.parse_request(raw).parts
    assert caught.value.status == 400
    return caught.value


def test_a_plain_request_is_read_whole():
    request = CHAT.parse_request(body(stream=True, n=3, stream_options={"include_usage": True}))
    assert (request.model, request.stream, request.choices, request.include_usage) == ("m", True, 3, True)
    assert [(part.path, part.text, part.role, part.kind, part.choice) for part in request.parts] == [
        ("messages[0].content", "hello", "user", "text", None)
    ]


def test_defaults_and_nulls_mean_one_unstreamed_choice():
    request = CHAT.parse_request(body(stream=None, n=None, stream_options=None))
    assert (request.stream, request.choices, request.include_usage) == (False, 1, False)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'"text"',
        b"{",
        b"\xef\xbb\xbf{}",
        '{"model": "m"}'.encode("utf-16"),
        body() + b"x",
        b"[" * 200_000,
        b'{"model":"m","messages":[{"content":' + b"[" * 80 + b"]" * 80 + b"}]}",
        body(temperature=float("nan")),
        body(temperature=float("inf")),
        body().replace(b'"hello"', b"1e999"),
        body().replace(b'"hello"', b"9" * 5000),
        b'{"model":"m","model":"n","messages":[{"role":"user","content":"x"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"good","content":"bad"}]}',
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"good","text":"bad"}]}]}',
        b'{"model":"m","messages":[{"role":"user","content":"good","\\u0063ontent":"bad"}]}',
        body(stream="true"),
        body(stream=1),
        body(n=0),
        body(n=True),
        body(n=10**6),
        body(stream_options=[]),
        body(model=None),
        body(model=""),
        body(model=["m"]),
        body(model="m" * 300),
        b'{"model":"m"}',
        b'{"model":"m","messages":[]}',
        b'{"model":"m","messages":"hello"}',
        b'{"model":"m","messages":["hello"]}',
        b'{"model":"m","messages":[{"role":"user","content":{"a":"b"}}]}',
        b'{"model":"m","messages":[{"role":"user","content":7}]}',
        body([{"role": "user", "content": ["x"] * 2_049}]),
        body(x=[[]] * 200_001),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(raw):
    refused(raw)


def test_as_many_parts_as_allowed_are_read_and_one_more_is_refused():
    messages = [{"role": "user", "content": "x"}] * 2_048
    assert len(texts(messages)) == 2_048
    assert refused(body([*messages, messages[0]])).code == "too_many_parts"


def test_a_refusal_never_quotes_the_body():
    error = refused(b'{"model":"m","messages":[{"role":"user","secretword":"a","secretword":"b"}]}')
    assert "secretword" not in str(error)


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (body(Model="other"), "model"),
        (body(MESSAGES=[{"role": "user", "content": "hidden"}]), "messages"),
        (body(stream=True).replace(b'"stream"', b'"\\u017ftream"'), "stream"),
        (body(Input_IDs=[1]), "input_ids"),
        (body(top_k=1).replace(b"top_k", b"top_\\u212a"), "top_k"),
        (body([{"role": "user", "content": "fine", "Content": "hidden"}]), "content"),
        (body([{"role": "user", "content": "fine"}, {"Role": "system", "content": "x"}]), "role"),
        (body([{"role": "user", "content": "fine", "Reasoning_Content": "x"}]), "reasoning_content"),
    ],
)
def test_a_known_name_in_another_case_is_refused(raw, field):
    error = refused(raw)
    assert (error.code, error.param) == ("ambiguous_field", field)
    assert f'"{field}"' in str(error)
    assert "hidden" not in str(error)


def test_an_unknown_name_is_judged_in_any_case():
    assert texts(Documents="one", documents="two") == ["hello", "one", "two"]


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function", "oracle", None])
def test_every_role_is_judged(role):
    message = {"content": "payload"} if role is None else {"role": role, "content": "payload"}
    parts = [part for part in CHAT.parse_request(body([message])).parts if part.text == "payload"]
    assert [part.role for part in parts] == [{"oracle": "unknown", None: "user"}.get(role, role)]
    assert parts[0].kind == ("tool_result" if role in {"tool", "function"} else "text")


HIDING_PLACES = {
    "role": {"role": "pay load"},
    "name": {"name": "payload"},
    "refusal": {"refusal": "payload"},
    "reasoning": {"reasoning_content": "payload"},
    "tool name": {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "payload", "arguments": "{}"}}]},
    "tool arguments": {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":"payload"}'}}]},
    "second call": {"tool_calls": [{"function": {"name": "f"}}, {"function": {"name": "f", "arguments": "payload"}}]},
    "arguments as an object": {"tool_calls": [{"function": {"name": "f", "arguments": {"a": ["payload"]}}}]},
    "function's unknown field": {"tool_calls": [{"function": {"name": "f", "arguments": "{}", "comment": "payload"}}]},
    "custom tool's unknown field": {"tool_calls": [{"type": "custom", "custom": {"name": "f", "input": "", "comment": "payload"}}]},
    "custom tool": {"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "run", "input": "payload"}}]},
    "odd tool call": {"tool_calls": ["payload"]},
    "tool calls as text": {"tool_calls": "payload"},
    "tool call's unknown field": {"tool_calls": [{"function": {"name": "f"}, "comment": "payload"}]},
    "tool call id": {"tool_call_id": "a pay load"},
    "function call": {"function_call": {"name": "f", "arguments": "payload"}},
    "unknown field": {"thoughts": {"deep": [{"er": "payload"}]}},
    "unknown key": {"thoughts": {"a payload as a key": 1}},
    "unknown top key": {"a payload as a key": 1},
    "audio transcript": {"audio": {"id": "a", "transcript": "payload"}},
    "text part": {"content": [{"type": "text", "text": "fine"}, {"type": "text", "text": "payload"}]},
    "input_text": {"content": [{"type": "input_text", "text": "payload"}]},
    "part without type": {"content": [{"text": "payload"}]},
    "string part": {"content": ["payload"]},
    "refusal part": {"content": [{"type": "refusal", "refusal": "payload"}]},
    "unknown part": {"content": [{"type": "poem", "lines": [{"x": "payload"}]}]},
    "unknown part's type": {"content": [{"type": "payload"}]},
    "part with a list as type": {"content": [{"type": ["text"], "text": "payload"}]},
    "field beside text": {"content": [{"type": "text", "text": "fine", "content": "payload"}]},
    "field beside image": {"content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}, "text": "payload"}]},
    "field within image": {"content": [{"type": "image_url", "image_url": {"url": "https://x/y.png", "alt": "payload"}}]},
    "file name": {"content": [{"type": "file", "file": {"filename": "payload", "file_data": "AAAA"}}]},
    "tool result block": {"content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "payload"}]}]},
    "document block": {"content": [{"type": "document", "source": {"type": "text", "data": "payload"}}]},
}


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_a_payload_is_found_wherever_it_hides(place):
    assert any("payload" in (text or "").replace("pay load", "payload") for text in texts([{"role": "user", **HIDING_PLACES[place]}]))


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, "image"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "audio"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "file"),
        ({"type": "document", "source": {"type": "base64", "data": "AAAA"}}, "unknown"),
        ({"type": "document", "source": {"type": ["odd"]}}, "unknown"),
        ({"type": "hologram", "bytes": 1}, "unknown"),
        (7.5, "unknown"),
    ],
)
def test_what_is_no_text_is_marked_as_unscannable(part, kind):
    marks = [found for found in CHAT.parse_request(body([{"role": "user", "content": [part]}])).parts if found.text is None]
    assert [(mark.path, mark.kind) for mark in marks] == [("messages[0].content[0]", kind)]


@pytest.mark.parametrize("field", ["prompt", "input", "input_ids", "prompt_ids", "prompt_token_ids"])
@pytest.mark.parametrize(
    "value", [[1, 2], [[1], [2]], [1, 2.0], ["1", "2"], [1, "two"], [["two", 1]], ["two", "3"], [["two"]], {"two": [1]}, 7, [None], [[]]]
)
def test_token_ids_are_unscannable_in_any_spelling(field, value):
    parts = CHAT.parse_request(body(**{field: value})).parts
    assert (field, "tokens") in [(part.path, part.kind) for part in parts if part.text is None]


@pytest.mark.parametrize(
    "message",
    [
        {"content": [{"type": "text", "text": "hi", "image_url": {"url": "u"}}]},
        {"content": [{"text": "hi", "input_audio": {"data": "AAAA"}}]},
        {"content": [{"type": "refusal", "refusal": "hi", "video": "u"}]},
        {"content": [{"type": "tool_result", "content": [{"image_url": "u"}]}]},
        {"content": [{"type": "tool_result", "content": {"type": "image", "source": {"data": "AAAA"}}}]},
        {"content": [{"type": "tool_result", "content": "hi", "image": "u"}]},
        {"content": "hi", "images": ["AAAA"]},
    ],
)
def test_what_is_no_text_is_marked_beside_a_text_of_another_type(message):
    assert None in texts([{"role": "user", **message}])


def test_texts_among_token_ids_are_judged():
    assert "one\ntwo" in texts(input=[1, "one", ["two"]])


@pytest.mark.parametrize(("value", "text"), [("a text", "a text"), ("12", "12"), (["one", "2 and 3", ""], "one\n2 and 3\n")])
def test_a_prompt_of_plain_text_is_judged_as_text(value, text):
    assert texts(prompt=value) == ["hello", text]


@pytest.mark.parametrize("value", [None, "", [], {}, [""]])
def test_an_empty_prompt_is_nothing(value):
    assert texts(prompt=value) == ["hello"]


def test_token_ids_as_content_are_unscannable():
    parts = CHAT.parse_request(body([{"role": "user", "content": [15339, 1917]}])).parts
    assert [(part.path, part.kind, part.text) for part in parts] == [("messages[0].content", "tokens", None)]


@pytest.mark.parametrize(
    "message",
    [
        {"content": "hi", "extra": {"deep": [{"ids": [1, 2]}]}},
        {"content": [{"type": "text", "text": "hi", "extra": {"ids": [[1], [2]]}}]},
        {"content": [{"type": "text", "text": "hi", "extra": {"token": "a", "bytes": [1, 2]}}]},
    ],
)
def test_token_ids_at_any_depth_are_unscannable(message):
    parts = CHAT.parse_request(body([{"role": "user", **message}])).parts
    assert [part.kind for part in parts if part.text is None] == ["tokens"]


def test_numbers_for_a_tool_and_bytes_of_a_spelled_token_are_no_token_ids():
    call = {"function": {"name": "click", "arguments": {"at": [100, 200]}}}
    logprobs = [{"token": "a", "logprob": 0, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -1, "bytes": [98]}]}]
    messages = [{"role": "assistant", "tool_calls": [call], "extra": logprobs}]
    assert None not in texts(messages)


def test_ordinary_parameters_add_no_parts():
    fields = {
        "tool_choice": {"type": "function", "function": {"name": "find"}},
        "response_format": {"type": "json_object"},
        "reasoning_effort": "low",
        "stop_token_ids": [1, 2],
        "logit_bias": {"50256": -100},
        "metadata": {"team": "red"},
        "stop": ["\n\n"],
        "user": "u-1",
    }
    messages = [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]},
    ]
    assert texts(messages, **fields) == ["f", "{}", "42", "hi"]


def test_prediction_and_unknown_body_fields_are_judged():
    assert texts(prediction={"type": "content", "content": "one"}, documents=[{"text": "two"}]) == ["hello", "one", "two"]


def test_a_text_cut_into_parts_is_also_judged_as_one():
    cut = [{"type": "text", "text": "att"}, {"type": "text", "text": "ack now"}]
    assert texts([{"role": "user", "content": cut}]) == ["att", "ack now", "attack now", "att\nack now"]


def test_lone_surrogates_become_encodable_and_keep_the_length():
    (part,) = CHAT.parse_request(b'{"model":"m","messages":[{"role":"user","content":"a\\ud800b\\ud83d\\ude00"}]}').parts
    assert part.text == "a\ufffdb\U0001f600"


def test_paths_never_carry_text():
    (part,) = CHAT.parse_request(body([{"role": "user", "content": "", "a secret text": "y"}])).parts
    assert part.path == "messages[0].?"
    assert "a secret text" in part.text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)
FIELDS = ("role", "content", "name", "tool_calls", "function_call", "refusal", "audio", "type", "text", "source", "custom", "other")


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=5), min_size=1, max_size=3))
def test_any_json_is_read_or_refused_and_never_crashes(messages):
    with contextlib.suppress(WireError):
        request = CHAT.parse_request(json.dumps({"model": "m", "messages": messages}).encode())
        assert all(part.text is None or part.text.encode() for part in request.parts)


@given(st.text(min_size=1))
def test_any_text_as_content_is_a_part_as_it_is(text):
    assert texts([{"role": "user", "content": text}]) == [text]


def test_a_picture_within_a_tools_result_is_marked_and_its_data_is_no_text():
    blocks = [{"type": "text", "text": "seen"}, {"type": "image", "source": {"type": "base64", "data": "AAAA"}}]
    content = [{"type": "tool_result", "tool_use_id": "t", "content": blocks}]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()
    assert [(part.text, part.kind) for part in CHAT.parse_request(body).parts] == [("seen", "tool_result"), (None, "image")]
