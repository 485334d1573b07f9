"""What goes over the engine's socket: it comes back equal, and what is not it is refused with one sentence."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from guardrail.engine.cope.messages import Ask, EngineInfo, Health, Prefix, Priority, Read, Told
from guardrail.engine.cope.process import dialogue
from guardrail.engine.cope.process.dialogue import Answered
from guardrail.engine.cope.process.records import document, record
from guardrail.engine.cope.process.wire import MAGIC, MOST_BODY, MOST_HEADER, Decoder, Frame, FrameError, encode
from guardrail.engine.cope.settings import EngineSettings
from guardrail.errors import ClassifierError

TEXT = st.text(max_size=20)
NUMBERS = st.floats(width=64, allow_nan=False)
TOKENS = arrays_of.arrays(np.int32, st.integers(0, 40))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=4
)
FRAMES = st.builds(
    Frame,
    TEXT,
    st.dictionaries(TEXT, JSON, max_size=4),
    st.lists(TOKENS | arrays_of.arrays(np.float64, st.integers(0, 9)), max_size=4).map(tuple),
)
ASKS = st.integers(0, 40).flatmap(
    lambda size: st.builds(
        Ask,
        TEXT,
        arrays_of.arrays(np.int32, size),
        NUMBERS,
        st.sampled_from(Priority),
        TEXT,
        st.none() | TEXT,
        st.integers(0, size),
        st.booleans(),
    )
)
READS = st.builds(Read, NUMBERS, NUMBERS, NUMBERS, st.integers(0, 8192), st.lists(NUMBERS, max_size=5).map(tuple))
ANSWERS = st.lists(st.builds(Told, READS, st.integers(0, 8192)) | st.builds(ClassifierError, TEXT, TEXT), max_size=5)


def same(one: Frame, other: Frame) -> bool:
    alike = (one.kind, one.fields) == (other.kind, other.fields) and len(one.arrays) == len(other.arrays)
    pairs = list(zip(one.arrays, other.arrays, strict=True)) if alike else []
    return alike and all(a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


def through(frame: Frame) -> Frame:
    [found] = Decoder().feed(encode(frame))
    return found


@given(st.lists(FRAMES, max_size=4), st.data())
def test_frames_come_back_equal_however_the_stream_is_cut(frames: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(encode(frame) for frame in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    decoder, found = Decoder(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += decoder.feed(stream[start:end])
    decoder.end()
    assert len(found) == len(frames)
    assert all(same(one, other) for one, other in zip(found, frames, strict=True))


@given(FRAMES, st.data())
def test_a_stream_that_ends_inside_a_frame_is_an_error(frame: Frame, data: st.DataObject) -> None:
    stream = encode(frame)
    decoder = Decoder()
    assert decoder.feed(stream[: data.draw(st.integers(1, len(stream) - 1))]) == []
    with pytest.raises(FrameError, match="ended inside a frame"):
        decoder.end()


@given(st.binary(min_size=1, max_size=200))
def test_garbage_is_an_error_at_its_first_wrong_byte(data: bytes) -> None:
    if MAGIC.startswith(data[:4]):
        return
    with pytest.raises(FrameError, match="not the engine's protocol"):
        Decoder().feed(data)


@given(FRAMES, st.data())
def test_a_frame_with_a_byte_changed_is_a_frame_or_an_error_and_nothing_else(frame: Frame, data: st.DataObject) -> None:
    stream = bytearray(encode(frame))
    place = data.draw(st.integers(0, len(stream) - 1))
    stream[place] ^= data.draw(st.integers(1, 255))
    decoder = Decoder()
    try:
        for found in decoder.feed(bytes(stream)):
            encode(found)
        decoder.end()
    except FrameError:
        pass  # the other outcome; anything else that is raised fails the test


@pytest.mark.parametrize(("header", "body"), [(MOST_HEADER + 1, 0), (2, MOST_BODY + 1), (2**32 - 1, 2**32 - 1)])
def test_a_frame_that_announces_too_much_is_refused_before_it_comes(header: int, body: int) -> None:
    with pytest.raises(FrameError, match="are the most"):
        Decoder().feed(struct.pack("<4sII", MAGIC, header, body))


def test_a_frame_that_would_be_refused_is_not_sent() -> None:
    for frame in (
        Frame("ask", arrays=(np.zeros(MOST_BODY // 4 + 1, np.int32),)),
        Frame("ask", arrays=(np.zeros((2, 2), np.int32),)),
        Frame("ask", arrays=(np.zeros(2, np.int64),)),
        Frame("ask", {"stream": "x" * MOST_HEADER}),
    ):
        with pytest.raises(FrameError):
            encode(frame)


def packed(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<4sII", MAGIC, len(header), len(body)) + header + body


@pytest.mark.parametrize(
    "data",
    [
        packed(b"{"),
        packed(b"[" * 100_000),
        packed(b"1" * 10_000),
        packed(b"[]"),
        packed(b'{"kind": 1, "fields": {}, "arrays": []}'),
        packed(b'{"kind": "x", "fields": {}, "arrays": [["i8", 0]]}'),
        packed(b'{"kind": "x", "fields": {}, "arrays": [["i4", -1]]}', b"1234"),
        packed(b'{"kind": "x", "fields": {}, "arrays": [["i4", true]]}', b"1234"),
        packed(b'{"kind": "x", "fields": {}, "arrays": [["i4", 2]]}', b"1234"),
        packed(b'{"kind": "x", "fields": {}, "arrays": [["i4", 1]]}', b"12345"),
        packed(b'{"kind": "x", "fields": {}, "arrays": [["i4", 1e9]]}', b"1234"),
    ],
)
def test_a_header_that_means_nothing_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        Decoder().feed(data)


@given(st.lists(ASKS, max_size=4), st.integers(0, 2**40))
def test_asks_arrive_as_they_were_asked(asks: list[Ask], number: int) -> None:
    found_number, found = dialogue.asks_of(through(dialogue.asked(number, asks)))
    assert found_number == number
    for one, other in zip(found, asks, strict=True):
        assert document(one, without=("tokens",)) == document(other, without=("tokens",))
        assert one.tokens.dtype == np.int32
        assert np.array_equal(one.tokens, other.tokens)
        assert one.tokens.flags.writeable
        assert isinstance(one.priority, Priority)


@given(st.lists(st.builds(Prefix, TEXT, TOKENS, TEXT, st.none() | TEXT), max_size=4), NUMBERS)
def test_prefixes_arrive_as_they_were_sent(prefixes: list[Prefix], deadline: float) -> None:
    number, found, until = dialogue.prefixes_of(through(dialogue.preparing(7, prefixes, deadline)))
    assert (number, until) == (7, deadline)
    for one, other in zip(found, prefixes, strict=True):
        assert (one.key, one.tenant, one.base, list(one.tokens)) == (other.key, other.tenant, other.base, list(other.tokens))


@given(st.lists(st.builds(Answered, st.integers(0, 99), ANSWERS), max_size=4))
def test_answers_arrive_as_they_were_given_to_the_last_bit(batch: list[Answered]) -> None:
    found = dialogue.answers_of(through(dialogue.answered(batch)))
    assert [answered.number for answered in found] == [answered.number for answered in batch]
    for one, other in zip(found, batch, strict=True):
        for a, b in zip(one.answers, other.answers, strict=True):
            assert (a.code, str(a)) == (b.code, str(b)) if isinstance(b, ClassifierError) else a == b


def test_not_a_number_arrives_as_such() -> None:
    [answered] = dialogue.answers_of(through(dialogue.answered([Answered(0, [Told(Read(float("nan"), float("-inf"), 0.0, 1), 1)])])))
    [answer] = answered.answers
    assert isinstance(answer, Told)
    assert (answer.read.zero != answer.read.zero, answer.read.one) == (True, float("-inf"))


@given(FRAMES)
def test_any_other_frame_is_refused_by_every_reading(frame: Frame) -> None:
    for kind, read in READINGS.items():
        with pytest.raises(FrameError):
            read(Frame(kind, frame.fields, frame.arrays))


READINGS = {
    "hello": dialogue.hello_of,
    "ask": dialogue.asks_of,
    "prepare": dialogue.prefixes_of,
    "prepared": dialogue.prepared_of,
    "answers": dialogue.answers_of,
    "cancel": dialogue.cancel_of,
    "forget": dialogue.forget_of,
    "health": dialogue.health_of,
    "fault": dialogue.fault_of,
}


@given(
    st.builds(EngineInfo, *[TEXT] * 4, st.integers(0))
    | st.builds(Health, st.booleans(), NUMBERS, st.integers(), NUMBERS, *[st.integers()] * 7)
)
def test_a_record_comes_back_equal_and_takes_nothing_missing_or_beside(value: EngineInfo | Health) -> None:
    entry = json.loads(json.dumps(document(value)))
    assert record(type(value), entry) == value
    for wrong in ({**entry, "more": 1}, dict(list(entry.items())[1:]), dict.fromkeys(entry), [entry], None):
        with pytest.raises(FrameError):
            record(type(value), wrong)


def test_settings_come_back_equal() -> None:
    settings = EngineSettings("/models/cope", device="cuda", kv_bytes=7, tenant_floor_bytes={"acme": 5})
    assert record(EngineSettings, json.loads(json.dumps(document(settings)))) == settings
    for wrong in ({"device": "tpu"}, {"kv_bytes": "7"}, {"threads": True}, {"tenant_floor_bytes": {"a": "b"}}, {"model": None}):
        with pytest.raises(FrameError):
            record(EngineSettings, document(settings) | wrong)
