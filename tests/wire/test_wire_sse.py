"""Server-sent events are the same events however the bytes were cut."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.errors import UpstreamError
from guardrail.wire.sse import SseDecoder, frame


def decode(raw, cuts=()):
    decoder = SseDecoder()
    places = [0, *sorted(cuts), len(raw)]
    events = [event for start, end in itertools.pairwise(places) for event in decoder.feed(raw[start:end])]
    return events + decoder.close()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_each_line_ending_ends_lines(end):
    raw = end.join([b": hello", b"event: x", b"data: one", b"data:two", b"data", b"", b"data: [DONE]", b"", b""])
    assert [(event.data, event.name) for event in decode(raw)] == [("one\ntwo\n", "x"), ("[DONE]", None)]
    assert b"".join(event.raw for event in decode(raw)) == raw


def test_comments_and_unknown_fields_are_kept_raw_without_data():
    assert [(event.raw, event.data) for event in decode(b": ping\n\nid: 7\nretry: 9\n\n")] == [
        (b": ping\n\n", None),
        (b"id: 7\nretry: 9\n\n", None),
    ]


@pytest.mark.parametrize(
    ("line", "beside"),
    [
        (": ping", ()),
        (": OPENROUTER PROCESSING", ()),
        (":", ()),
        (": a comment", ("a comment",)),
        (": pinging", ("pinging",)),
        ("event: message", ()),
        ("event: a name", ("a name",)),
        ("id: 7f-3a_1.2", ()),
        ("id: " + "x" * 65, ("x" * 65,)),
        ("retry: 3000", ()),
        ("retry: a number", ("a number",)),
        ("note: a text", ("note: a text",)),
        ("a text", ("a text",)),
    ],
)
def test_text_beside_the_data_is_told_from_keep_alives_and_identifiers(line, beside):
    assert [event.beside for event in decode(f"{line}\ndata: x\n\n".encode())] == [beside]


def test_only_one_space_is_taken_and_a_byte_order_mark_is_none():
    assert [event.data for event in decode(b"\xef\xbb\xbfdata:  x\n\n")] == [" x"]


def test_an_unfinished_event_is_given_at_the_end_with_its_blank_line():
    assert [(event.raw, event.data) for event in decode(b"data: [DONE]")] == [(b"data: [DONE]\n\n", "[DONE]")]
    assert decode(b"") == []


def test_an_endless_event_is_too_large():
    decoder = SseDecoder(max_event_bytes=100)
    decoder.feed(b"data: aaaa\n" * 9)
    with pytest.raises(UpstreamError) as caught:
        decoder.feed(b"data: aaaa\n")
    assert caught.value.code == "too_large"


@pytest.mark.parametrize("raw", [b"data: \xff\n\n", b": \xff\n\n", b"\xff\n\n"])
def test_bad_utf8_is_malformed(raw):
    with pytest.raises(UpstreamError) as caught:
        SseDecoder().feed(raw)
    assert caught.value.code == "malformed"


lines = st.lists(st.sampled_from(["data: a", "data: é", "data:", ": c", "event: e", "id", "", "data: \U0001f600"]), max_size=12)


@given(lines, st.sampled_from(["\n", "\r\n", "\r"]), st.data())
def test_any_chunking_gives_the_same_events(some, end, data):
    raw = end.join(some).encode() + b"\n\n"
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=len(raw)))
    assert decode(raw, cuts) == decode(raw)
    assert b"".join(event.raw for event in decode(raw, cuts)) == raw


@given(st.text(st.characters()))
def test_a_framed_document_comes_back(text):
    (event,) = decode(frame({"text": text}))
    assert json.loads(event.data) == {"text": text}
