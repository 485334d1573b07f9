"""A held stream: judged as the whole answer would be, released untouched, and replaced choice by choice."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

from guardrail.errors import UpstreamError
from guardrail.wire.chat_stream import ChatStreamCollector
from guardrail.wire.dialects import CHAT
from guardrail.wire.sse import DONE, frame

RESULTS = {"harassment": {"filtered": True, "detected": True, "score": 0.97}}
HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def chunk(*choices, **fields):
    return frame({**HEAD, "choices": list(choices), **fields})


def piece(index, delta, reason=None):
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


def said(index, *pieces, reason="stop"):
    deltas = [{"role": "assistant", "content": ""}, *({"content": text} for text in pieces)]
    return [*(chunk(piece(index, delta)) for delta in deltas), chunk(piece(index, {}, reason))]


def collect(*frames, **limits):
    collector = ChatStreamCollector(**limits)
    for raw in frames:
        collector.receive(raw)
    collector.finish()
    return collector


def fails(*frames, **limits):
    with pytest.raises(UpstreamError) as caught:
        collect(*frames, **limits)
    return caught.value.code


def documents(frames):
    assert frames[-1] == DONE
    return [json.loads(raw.removeprefix(b"data: ")) for raw in frames[:-1]]


def test_an_allowed_stream_is_released_byte_by_byte_as_it_came():
    raw = [b": keep-alive\n\n", *said(0, "Hel", "lo"), chunk(usage=USAGE), DONE]
    collector = collect(*raw)
    assert collector.done
    assert collector.usage == USAGE
    assert collector.finish_reasons == {0: "stop"}
    assert [(part.path, part.text, part.choice) for part in collector.parts()] == [("choices[0].message.content", "Hello", 0)]
    assert b"".join(collector.release()) == b"".join(raw)


def test_tool_calls_are_put_together_by_index():
    calls = [
        {"tool_calls": [{"index": 0, "id": "c0", "type": "function", "function": {"name": "first", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "id": "c1", "type": "function", "function": {"name": "second", "arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": ":1}"}}]},
    ]
    collector = collect(*(chunk(piece(0, delta)) for delta in calls), chunk(piece(0, {}, "tool_calls")), DONE)
    assert [(part.text, part.kind) for part in collector.parts()] == [
        ("first", "name"),
        ("{}", "tool_arguments"),
        ("second", "name"),
        ('{"a":1}', "tool_arguments"),
    ]


def called(*fragments):
    frames = [chunk(piece(0, {"tool_calls": fragment if isinstance(fragment, list) else [fragment]})) for fragment in fragments]
    parts = collect(*frames, chunk(piece(0, {}, "tool_calls")), DONE).parts()
    return [part.text for part in parts if part.kind == "tool_arguments"]


def spoken(arguments, **fields):
    return {**fields, "function": {"arguments": arguments}}


@pytest.mark.parametrize(
    ("fragments", "arguments"),
    [
        ((spoken("pay", id="c1"), spoken("lo"), spoken("ad")), ["payload"]),
        ((spoken("pay", id="c1"), spoken("lo", id=""), spoken("ad", id=None, index=None)), ["payload"]),
        ((spoken("pay", id="c1"), spoken("lo", id="c1"), spoken("ad")), ["payload"]),
        ((spoken("pay"), spoken("load")), ["payload"]),
        (([spoken("pay"), spoken("load")],), ["payload"]),
        ((spoken("pay", index=0, id="c1"), spoken("load")), ["payload"]),
        ((spoken("pay", id="c1"), spoken("load", index=0)), ["payload"]),
        ((spoken("pay", id="c1"), spoken("load", index=0, id="c1")), ["payload"]),
        ((spoken("other", id="c1"), spoken("pay", id="c2"), spoken("load")), ["other", "payload"]),
        ((spoken("pay", id="c1"), spoken("other", id="c2"), spoken("load", id="c1")), ["payload", "other"]),
        (([spoken("other", id="c1"), spoken("pay", id="c2")], spoken("load", index=1)), ["other", "payload"]),
        ((spoken("pay", index=0), spoken("other", index=1), spoken("lo", index=0), spoken("ad")), ["payload", "other"]),
    ],
)
def test_fragments_of_a_tool_call_without_index_are_joined(fragments, arguments):
    assert called(*fragments) == arguments


@pytest.mark.parametrize("index", ["0", 0.0, True, -1])
def test_a_tool_call_whose_index_is_no_number_cannot_be_joined(index):
    assert fails(chunk(piece(0, {"tool_calls": [spoken("pay", index=index)]})), DONE) == "malformed"


@pytest.mark.parametrize("field", ["refusal", "reasoning_content", "reasoning", "unheard_of", "role"])
def test_every_string_field_of_a_delta_is_judged(field):
    collector = collect(chunk(piece(0, {field: "pay"})), chunk(piece(0, {field: "load"}, "stop")), DONE)
    assert [part.text for part in collector.parts()] == ["payload"]


def test_content_that_comes_as_lists_is_joined():
    fragments = [[{"type": "thinking", "thinking": [{"type": "text", "text": text}]}] for text in ("pay", "load")]
    frames = [chunk(piece(0, {"content": content})) for content in [*fragments, "and", " text"]]
    texts = [part.text for part in collect(*frames, chunk(piece(0, {}, "stop")), DONE).parts()]
    assert "payload" in texts
    assert "and text" in texts


def test_text_on_a_frame_or_choice_is_judged_too():
    extra = chunk({**piece(0, {}, "stop"), "text": "beside"}, citations=["above"])
    assert {part.text for part in collect(extra, DONE).parts()} == {"beside", "above"}


def judged_beside(*values):
    """What is judged of one unknown top-level field that has these values, frame after frame."""
    collector = collect(*(chunk(piece(0, {"content": "ha"}), search_results=value) for value in values), chunk(piece(0, {}, "stop")), DONE)
    content, *beside = collector.parts()
    assert content.text == "ha" * len(values)
    assert all(part.path == "answer.search_results" for part in beside)
    return [part.text for part in beside]


BESIDE = [b": a comment\n\n", b"id: an id\nevent: 7\n", *said(0, "fine"), b"note: at the end\n" + DONE]


def test_text_beside_the_data_of_an_event_is_judged_and_released_untouched():
    collector = collect(*BESIDE)
    assert [(part.path, part.text, part.choice) for part in collector.parts()] == [
        ("choices[0].message.content", "fine", 0),
        ("answer.sse", "a comment\nan id\nnote: at the end", 0),
    ]
    assert b"".join(collector.release()) == b"".join(BESIDE)


def test_text_beside_the_data_goes_with_a_blocked_choice():
    frames = collect(*said(1, "fine")[:-1], *BESIDE[:2], *said(1, "text"), *said(0, "bad"), BESIDE[-1]).replaced({0: RESULTS}, None)
    assert [document["choices"][0]["index"] for document in documents(frames)] == [1] * 5 + [0] * 2
    assert not any(text in b"".join(frames) for text in (b"a comment", b"an id", b"at the end"))


RESULT = {"title": "one", "url": "https://x/1"}


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([[RESULT, {"title": "two"}]] * 500, ["one\nhttps://x/1\ntwo"]),
        ([[RESULT], [RESULT, {"title": "two"}], None, [{"title": "two"}, "three"]], ["one\nhttps://x/1\ntwo\nthree"]),
        ([{"title": "one"}, {"title": "one"}, {"title": "two"}], ["one\ntwo"]),
        (["one"] * 2000, ["one"]),
        (["one", "two", "one"], ["one\ntwo"]),
        (["one", ["two", "one"], {"three": "four words"}], ["one\ntwo\nfour words"]),
        ([1, 2, 3.5, True], []),
        ([[1, 2], [1, 2], [3]], [None]),
        ([1, "one"], ["one"]),
        ([{"elapsed": number} for number in range(5000)], []),
        ([[number] for number in range(5000)], [None]),
    ],
)
def test_what_each_frame_repeats_beside_its_choices_is_judged_once(values, texts):
    assert judged_beside(*values) == texts


def test_a_text_as_a_field_name_beside_the_choices_is_judged():
    (part,) = collect(*(chunk(piece(0, {}, "stop"), **{"a payload as a key": number}) for number in range(3)), DONE).parts()
    assert part.text.startswith("a payload as a key")


def test_token_ids_and_text_in_one_field_beside_the_choices_are_malformed():
    assert fails(chunk(search_results=[1, 2]), chunk(search_results="one"), DONE) == "malformed"


def test_different_values_beside_the_choices_are_bounded():
    assert fails(*(chunk(search_results=[str(number)]) for number in range(5000))) == "too_large"


@pytest.mark.parametrize("spoof", ['{"error":{"message":"broken"}}', "data: [DONE]\n\n", "\n\ndata: [DONE]"])
def test_a_model_text_that_looks_like_a_protocol_stays_text(spoof):
    raw = [*said(0, spoof), DONE]
    collector = collect(*raw)
    assert [part.text for part in collector.parts()] == [spoof]
    assert list(collector.release()) == raw


def test_only_the_blocked_choice_is_replaced():
    fine = said(0, "fine", " text")
    bad = said(1, "secretly", " bad")
    mixed = [raw for pair in zip(fine, bad, strict=True) for raw in pair]
    frames = collect(*mixed, chunk(usage=USAGE), DONE).replaced({1: RESULTS}, "Withheld.")
    assert list(frames[:4]) == fine
    assert b"secretly" not in b"".join(frames)
    role, notice, end, usage = documents(frames)[4:]
    assert role["choices"] == [piece(1, {"role": "assistant"})]
    assert notice["choices"] == [piece(1, {"content": "Withheld."})]
    assert end["choices"] == [{**piece(1, {}, "content_filter"), "content_filter_results": RESULTS}]
    assert usage == {**HEAD, "choices": [], "usage": USAGE}
    for document in documents(frames):
        ChatCompletionChunk.model_validate(document)


def test_without_notice_and_usage_only_role_and_end_are_said():
    collector = collect(*said(0, "bad"), chunk(usage=USAGE), DONE)
    frames = documents(collector.replaced({0: RESULTS}, None, include_usage=False))
    assert [frame_["choices"][0]["delta"] for frame_ in frames] == [{"role": "assistant"}, {}]


def test_a_frame_of_several_choices_keeps_only_the_others():
    both = chunk(piece(0, {"content": "fine"}, "stop"), piece(1, {"content": "secretly bad"}, "stop"), citations=["secretly bad"])
    frames = collect(both, DONE).replaced({1: RESULTS}, None)
    assert b"secretly" not in b"".join(frames)
    assert documents(frames)[0]["choices"] == [piece(0, {"content": "fine"}, "stop")]


def test_text_on_the_frames_of_other_choices_goes_with_a_blocked_choice():
    beside = chunk(piece(1, {"content": "fine"}, "stop"), citations=["secretly bad"])
    frames = collect(*said(0, "bad"), beside, DONE).replaced({0: RESULTS}, None)
    assert b"secretly" not in b"".join(frames)
    assert documents(frames)[0]["choices"] == [piece(1, {"content": "fine"}, "stop")]


def test_a_repeated_piece_is_text_and_a_repeated_role_is_not():
    frames = [chunk(piece(0, {"role": "assistant", "content": "ha"})) for _ in range(3)]
    assert [part.text for part in collect(*frames, chunk(piece(0, {}, "stop")), DONE).parts()] == ["hahaha"]


def test_parts_follow_what_was_received():
    collector = ChatStreamCollector()
    collector.receive(chunk(piece(0, {"content": "one"})))
    assert [part.text for part in collector.parts()] == ["one"]
    collector.receive(chunk(piece(0, {"content": " two"})))
    assert [part.text for part in collector.parts()] == ["one two"]


def test_usage_on_a_blocked_finish_frame_is_kept():
    frames = collect(*said(0, "bad")[:-1], chunk(piece(0, {}, "stop"), usage=USAGE), DONE).replaced({0: RESULTS}, None)
    assert documents(frames)[-1] == {**HEAD, "choices": [], "usage": USAGE}


def test_a_stream_that_says_it_finished_needs_no_done_but_gets_one():
    collector = collect(*said(0, "whole"))
    assert not collector.done
    assert collector.release()[-1] == DONE


def test_what_follows_done_is_neither_judged_nor_released():
    collector = collect(*said(0, "whole"), DONE, chunk(piece(0, {"content": "afterwards"})))
    assert b"afterwards" not in b"".join(collector.release())


def test_a_done_without_its_blank_line_counts():
    assert collect(*said(0, "whole"), b"data: [DONE]").done


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b": ping\n\n"],
        said(0, "half")[:-1],
        [*said(0, "whole"), *said(1, "half")[:-1]],
        [*said(0, "half")[:-1], said(0)[-1][:-9]],
    ],
)
def test_a_stream_that_ends_early_is_a_disconnect(frames):
    assert fails(*frames) == "disconnect"


@pytest.mark.parametrize(
    "raw",
    [
        b"data: {not json\n\n",
        b"data: 7\n\n",
        b"data: \xff\n\n",
        frame({"error": {"message": "overloaded", "code": 500}}),
        chunk(piece(0, {}), error={"message": "broke"}),
        frame({**HEAD, "choices": {}}),
        frame({**HEAD, "choices": ["x"]}),
        chunk({"index": 0, "delta": "x"}),
        chunk({"index": -1, "delta": {}}),
        chunk(piece(0, {"content": {"now": "an object"}})),
        b'data: {"choices":[{"index":0,"delta":{"content":"good","content":"bad"}}]}\n\n',
    ],
)
def test_garbage_and_error_frames_are_malformed(raw):
    assert fails(*said(0, "x")[:-1], raw, DONE) == "malformed"


def test_a_stream_over_the_bound_is_too_large():
    assert fails(*said(0, "x" * 500), max_bytes=400) == "too_large"


def test_ten_thousand_fragments_are_read_quickly_and_bounded():
    many = [chunk(piece(0, {"things": [{"a": "b"}]})) for _ in range(5000)]
    assert fails(*many) == "too_large"


words = st.text(min_size=1, max_size=20)
call = st.fixed_dictionaries(
    {"id": st.just("c"), "type": st.just("function"), "function": st.fixed_dictionaries({"name": words, "arguments": words})}
)
message = st.fixed_dictionaries(
    {},
    optional={
        "content": words,
        "refusal": words,
        "reasoning_content": words,
        "unheard_of": words,
        "tool_calls": st.lists(call, min_size=1, max_size=3),
        "function_call": st.fixed_dictionaries({"name": words, "arguments": words}),
        "audio": st.fixed_dictionaries({"id": st.just("a"), "transcript": words}),
    },
)


def deltas(document, cut):
    """The deltas that spell a message, each string cut at a drawn place."""
    yield {"role": "assistant"}
    for key, value in document.items():
        if isinstance(value, str):
            yield from ({key: text} for text in cut(value))
        elif key == "tool_calls":
            for index, item in enumerate(value):
                yield {key: [{"index": index, "id": item["id"], "type": item["type"], "function": {}}]}
                for field, text in item["function"].items():
                    yield from ({key: [{"index": index, "function": {field: part}}]} for part in cut(text))
        else:
            for field, text in value.items():
                yield from ({key: {field: part}} for part in cut(text))


@given(st.lists(message, min_size=1, max_size=3), st.data())
def test_a_streamed_answer_is_judged_as_the_same_answer_sent_whole(messages, data):
    def cut(text):
        place = data.draw(st.integers(0, len(text)))
        return [half for half in (text[:place], text[place:]) if half]

    streams = [[*(piece(index, delta) for delta in deltas(found, cut)), piece(index, {}, "stop")] for index, found in enumerate(messages)]
    taken = []
    while any(streams):
        taken.append(data.draw(st.sampled_from([stream for stream in streams if stream])).pop(0))
    raw = b"".join(chunk(item) for item in taken) + DONE
    size = data.draw(st.integers(1, len(raw)))
    collector = collect(*(raw[start : start + size] for start in range(0, len(raw), size)))
    choices = [{"index": index, "message": {"role": "assistant", **found}, "finish_reason": "stop"} for index, found in enumerate(messages)]
    assert collector.parts() == CHAT.parse_answer(json.dumps({**HEAD, "choices": choices}).encode()).parts
    assert b"".join(collector.release()) == raw
    blocked = data.draw(st.sets(st.sampled_from(range(len(messages)))))
    kept = [document["choices"][0] for document in documents(collector.replaced(dict.fromkeys(blocked, RESULTS), None))]
    assert [item for item in kept if item["index"] not in blocked] == [item for item in taken if item["index"] not in blocked]
    assert [item["delta"] for item in kept if item["index"] in blocked] == [{"role": "assistant"}, {}] * len(blocked)
