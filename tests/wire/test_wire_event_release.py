"""Messages and responses that are let out while they come: texts as they may, all else at the end, and the same answer in the end."""

import json
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.errors import UpstreamError
from guardrail.wire.messages import named_event
from guardrail.wire.messages_release import MessageRelease
from guardrail.wire.messages_stream import MessageStreamCollector
from guardrail.wire.parts import MAX_PARTS
from guardrail.wire.release import Said
from guardrail.wire.responses_release import ResponseRelease
from guardrail.wire.responses_stream import ResponseStreamCollector

RESULTS = {"p": {"filtered": True, "detected": True, "score": 0.9}}
USAGE = {"input_tokens": 3, "output_tokens": 5}
START = {"id": "msg_1", "type": "message", "role": "assistant", "model": "c", "content": [], "stop_reason": None, "stop_sequence": None}


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    told = [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
    stop = {"type": "content_block_stop", "index": index}
    return [{"type": "content_block_start", "index": index, "content_block": start}, *told, stop]


def text(*pieces: str) -> tuple[dict[str, Any], ...]:
    return ({"type": "text", "text": ""}, *({"type": "text_delta", "text": piece} for piece in pieces))


THINKING = (
    {"type": "thinking", "thinking": "", "signature": ""},
    {"type": "thinking_delta", "thinking": "Hm, "},
    {"type": "thinking_delta", "thinking": "well."},
    {"type": "signature_delta", "signature": "AbC123=="},
)
CITED = {"type": "citations_delta", "citation": {"type": "char_location", "cited_text": "by the way", "document_title": "A title"}}
USE = ({"type": "tool_use", "id": "t", "name": "find", "input": {}}, {"type": "input_json_delta", "partial_json": '{"a": 1}'})
END = [
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": USAGE},
    {"type": "message_stop"},
]
MESSAGE: list[dict[str, Any]] = [
    {"type": "message_start", "message": {**START, "usage": {"input_tokens": 3}}},
    *block(0, *THINKING),
    {"type": "ping"},
    *block(1, *text("One ", "day.")),
    *block(2, *text("More"), CITED),
    *block(3, *USE),
    *block(4, *text("Last.")),
    *END,
]

RESPONSE_HEAD = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "gpt",
    "error": None,
    "instructions": "Be kind.",
    "tools": [],
}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": t} for t in ("Think.", "Again.")]}
PLAIN = {"type": "output_text", "text": "Kind words.", "annotations": [], "logprobs": []}
NOTED = {**PLAIN, "text": " And more.", "annotations": [{"type": "url_citation", "title": "T t", "url": "http://u"}]}
ITEM = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [PLAIN, NOTED]}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "find", "arguments": '{"q": 1}', "status": "completed"}
WHOLE = {**RESPONSE_HEAD, "status": "completed", "incomplete_details": None, "output": [THOUGHT, ITEM, CALL], "usage": USAGE}


def summed(index: int) -> list[dict[str, Any]]:
    place, told = {"item_id": "rs_1", "output_index": 0, "summary_index": index}, THOUGHT["summary"][index]  # type: ignore[index]
    kind = "response.reasoning_summary"
    return [
        {"type": f"{kind}_part.added", **place, "part": {**told, "text": ""}},
        *({"type": f"{kind}_text.delta", **place, "delta": piece} for piece in (told["text"][:3], told["text"][3:])),
        {"type": f"{kind}_text.done", **place, "text": told["text"]},
        {"type": f"{kind}_part.done", **place, "part": told},
    ]


def spoken(index: int, part: dict[str, Any]) -> list[dict[str, Any]]:
    place = {"item_id": "msg_1", "output_index": 1, "content_index": index}
    noted = [
        {"type": "response.output_text.annotation.added", **place, "annotation_index": 0, "annotation": a} for a in part["annotations"]
    ]
    return [
        {"type": "response.content_part.added", **place, "part": {**part, "text": "", "annotations": []}},
        *(
            {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
            for piece in (part["text"][:5], part["text"][5:])
        ),
        *noted,
        {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []},
        {"type": "response.content_part.done", **place, "part": part},
    ]


RESPONSE: list[dict[str, Any]] = [
    {"type": "response.created", "response": {**RESPONSE_HEAD, "status": "in_progress", "output": [], "usage": None}},
    {"type": "response.output_item.added", "output_index": 0, "item": {**THOUGHT, "summary": []}},
    *summed(0),
    *summed(1),
    {"type": "response.output_item.done", "output_index": 0, "item": THOUGHT},
    {"type": "response.output_item.added", "output_index": 1, "item": {**ITEM, "status": "in_progress", "content": []}},
    *spoken(0, PLAIN),
    *spoken(1, NOTED),
    {"type": "response.output_item.done", "output_index": 1, "item": ITEM},
    {"type": "response.output_item.added", "output_index": 2, "item": {**CALL, "arguments": ""}},
    {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "output_index": 2, "delta": '{"q": 1}'},
    {"type": "response.function_call_arguments.done", "item_id": "fc_1", "output_index": 2, "arguments": '{"q": 1}'},
    {"type": "response.output_item.done", "output_index": 2, "item": CALL},
    {"type": "response.completed", "response": WHOLE},
]
CASES: dict[str, Any] = {
    "messages": (MessageRelease, MessageStreamCollector, MESSAGE),
    "responses": (ResponseRelease, ResponseStreamCollector, RESPONSE),
}


def spelled(events: list[dict[str, Any]]) -> bytes:
    return b"".join(named_event({**event, "sequence_number": number}) for number, event in enumerate(events))


def documents(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in content.decode().split("\n") if line.startswith("data: ")]


class Player:
    """Lets out what it is told to, counting as the guard does."""

    def __init__(self, protocol: str) -> None:
        made, collector, self.events = CASES[protocol]
        self.release, self.collector = made(), collector()
        self.said: dict[str, str] = {}
        self.out: dict[str, int] = {}
        self.content = b""

    def take(self, events: bytes) -> None:
        for piece in self.release.receive(events):
            self.said[piece.path] = self.said.get(piece.path, "") + piece.text

    def let(self, path: str, characters: int) -> None:
        start = self.out.get(path, 0)
        self.out[path] = min(start + characters, len(self.said[path]))
        if said := self.said[path][start : self.out[path]]:
            self.content += self.release.text(Said(0, path, said), self.out[path])

    def finish(self) -> None:
        self.release.finish()
        for path in self.said:
            self.let(path, 1_000)
        self.content += self.release.rest(0) + self.release.end(whole=True)


@pytest.mark.parametrize("protocol", CASES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_what_is_let_out_is_the_same_answer_again_however_its_texts_come_out(protocol: str, data: st.DataObject) -> None:
    player = Player(protocol)
    for event in player.events:
        player.take(spelled([event]))
        for path in data.draw(st.lists(st.sampled_from(sorted(player.said)), max_size=3)) if player.said else ():
            player.let(path, data.draw(st.integers(1, 9)))
    player.finish()
    player.collector.receive(player.content)
    player.collector.finish()
    original = CASES[protocol][1]()
    original.receive(spelled(player.events))
    original.finish()
    assert player.collector.answer().document == original.answer().document
    assert {part.text for part in player.collector.parts()} == {part.text for part in original.parts()}
    numbers = [event["sequence_number"] for event in documents(player.content) if "sequence_number" in event]
    assert protocol == "messages" or numbers == list(range(len(numbers)))


@pytest.mark.parametrize("protocol", CASES)
def test_what_is_told_and_what_is_left_is_all_of_the_answer(protocol: str) -> None:
    player = Player(protocol)
    player.take(spelled(player.events))
    player.release.finish()
    told = set(player.said.values())
    others = {part.text for part in player.release.others()}
    assert told == {"messages": {"Hm, well.", "One day.MoreLast."}, "responses": {"Think.\nAgain.", "Kind words. And more."}}[protocol]
    player.collector.receive(spelled(player.events))
    player.collector.finish()
    assert {part.text for part in player.collector.parts()} <= told | others
    assert not told & others


@pytest.mark.parametrize("protocol", CASES)
def test_nothing_goes_out_before_its_text_may_and_nothing_else_before_the_end(protocol: str) -> None:
    player = Player(protocol)
    player.take(spelled(player.events))
    assert player.content == b""
    first, second = player.said
    player.let(second, 100)
    assert player.content == b""  # it stands behind the other
    player.let(first, 3)
    assert "".join(_texts(player.content)) == player.said[first][:3]
    player.let(first, 100)
    assert b"by the way" not in player.content
    assert b"T t" not in player.content
    assert b"find" not in player.content


@pytest.mark.parametrize("protocol", CASES)
@pytest.mark.parametrize("out", range(0, 14, 2))
def test_a_block_ends_what_was_begun_and_says_how_much_is_out(protocol: str, out: int) -> None:
    player = Player(protocol)
    player.take(spelled(player.events[:-4]))
    first, second = player.said
    player.let(first, out)
    player.let(second, max(0, out - len(player.said[first])))
    begun = player.content != b""
    player.content += player.release.refused(0, RESULTS, "Withheld.", released_chars=out) + player.release.end(whole=False)
    assert player.release.rest(0) is not None
    player.collector.receive(player.content)
    player.collector.finish()
    whole = player.collector.answer()
    assert whole.finish_reasons == {0: "refusal" if protocol == "messages" else "content_filter"}
    assert ("Withheld." in {part.text for part in whole.parts}) != begun
    events = documents(player.content)
    names = [event["type"] for event in events]
    for start, end in (("content_block_start", "content_block_stop"), ("response.output_item.added", "response.output_item.done")):
        assert names.count(start) == names.count(end)
    if begun:
        said = "".join(_texts(player.content))
        assert said == (player.said[first] + player.said[second])[: len(said)].replace("\n", "") or "\n" in player.said[first]
        assert f'"released_chars":{out}'.encode() in player.content


def test_what_repeats_a_text_that_was_redacted_is_told_as_it_went_out() -> None:
    player = Player("responses")
    player.take(spelled(player.events))
    player.release.finish()
    summary, words = player.said
    player.let(summary, 100)
    player.release.redacted(0)
    player.content += player.release.text(Said(0, words, "[gone] words."), 11) + player.release.text(Said(0, words, " And more."), 21)
    player.content += player.release.rest(0)
    assert b"Kind" not in player.content
    output = documents(player.content)[-1]["response"]["output"]
    assert [part["text"] for part in output[1]["content"]] == ["[gone] words.", " And more."]


def test_a_text_that_stands_somewhere_else_as_well_is_judged_there_too() -> None:
    again = {**ITEM, "id": "msg_2", "content": [{**PLAIN, "text": "Think.\nAgain."}]}
    doubled = [*RESPONSE[:-1], {"type": "response.completed", "response": {**WHOLE, "output": [*WHOLE["output"], again]}}]
    player = Player("responses")
    player.take(spelled(doubled))
    player.release.finish()
    assert "output[3].content[0].text" in {part.path for part in player.release.others()}


@pytest.mark.parametrize("odd", [[], {}, True, "1", None, -1])
def test_an_event_without_a_place_waits_for_the_end(odd: Any) -> None:
    events = [{**event, "output_index": odd} if event["type"] == "response.content_part.added" else event for event in RESPONSE]
    player = Player("responses")
    player.take(spelled(events))
    for path in player.said:
        player.let(path, 100)
    assert b"Kind" not in player.content


def test_what_the_upstream_repeats_otherwise_is_not_told_before_it_was_judged() -> None:
    lying = [{**event, "text": "something else"} if event["type"] == "response.output_text.done" else event for event in RESPONSE]
    player = Player("responses")
    player.take(spelled(lying))
    for path in player.said:
        player.let(path, 100)
    assert b"something else" not in player.content
    player.release.finish()
    assert "something else" in {part.text for part in player.release.others()}


@pytest.mark.parametrize(
    ("start", "delta", "beside"),
    [
        (THINKING[0], THINKING[-1], {"note": "something else"}),
        (THINKING[0], {**THINKING[-1], "type": "something else"}, {}),
        (THINKING[0], {**THINKING[-1], "signature": ["something else"]}, {}),
        (text()[0], {**THINKING[-1], "signature": "something else"}, {}),
    ],
)
def test_beside_a_signature_nothing_goes_out_before_it_was_judged(start: Any, delta: Any, beside: Any) -> None:
    said = {"type": f"{start['type']}_delta", start["type"]: "Hm."}
    events = block(0, start, said, delta)
    events[2] |= beside
    player = Player("messages")
    player.take(spelled([MESSAGE[0], *events, *END]))
    (path,) = player.said
    player.let(path, 100)
    assert b"Hm." in player.content
    assert b"something else" not in player.content
    player.release.finish()
    assert any("something else" in (part.text or "") for part in player.release.others())


@pytest.mark.parametrize("at", ["part", "item", "added"])
def test_words_in_place_of_a_name_wait_for_the_end(at: str) -> None:
    events = json.loads(json.dumps(RESPONSE))
    for event in events:
        if at == "part" and event["type"] == "response.reasoning_summary_part.done":
            event["part"]["type"] = "something else"
        if (
            event["type"] == {"item": "response.output_item.done", "added": "response.output_item.added"}.get(at)
            and event["output_index"] == 1
        ):
            event["item"]["status"] = "something else"
    player = Player("responses")
    player.take(spelled(events))
    for path in player.said:
        player.let(path, 100)
    assert b"something else" not in player.content
    player.release.finish()
    assert "something else" in {part.text for part in player.release.others()}


def _empty_items(count: int) -> bytes:
    events: list[dict[str, Any]] = [RESPONSE[0]]
    part = {"type": "output_text", "text": ""}
    for index in range(count):
        place = {"output_index": index, "content_index": 0, "item_id": "", "part": part}
        events += [
            {"type": "response.output_item.added", "output_index": index, "item": {"type": "message"}},
            {"type": "response.content_part.added", **place},
            {"type": "response.content_part.done", **place},
            {"type": "response.output_item.done", "output_index": index, "item": {"type": "message", "content": [part]}},
        ]
    return spelled(events)


def test_each_further_item_takes_no_more_work_than_those_before_it() -> None:
    def work(count: int) -> int:
        events, steps = _empty_items(count), 0

        def counted(frame: FrameType, *_: object) -> None:
            nonlocal steps
            steps += frame.f_code.co_filename.endswith("responses_release.py")

        before = sys.getprofile()
        sys.setprofile(counted)
        try:
            ResponseRelease().receive(events)
        finally:
            sys.setprofile(before)
        return steps

    assert work(800) < 2.5 * work(400)


@pytest.mark.parametrize("of", ["items", "parts"])
def test_more_items_or_texts_than_an_answer_may_have_are_an_error(of: str) -> None:
    events = [RESPONSE[0], *(RESPONSE[1:2] if of == "parts" else ())]
    for index in range(MAX_PARTS + 1):
        place = {"item_id": "rs_1", "output_index": 0, "summary_index": index}
        added = {"type": "response.reasoning_summary_part.added", **place, "part": {"type": "summary_text", "text": ""}}
        item = {"type": "response.output_item.added", "output_index": index, "item": {"type": "message"}}
        events.append(added if of == "parts" else item)
    release = ResponseRelease()
    release.receive(spelled(events[:-1]))
    with pytest.raises(UpstreamError) as raised:
        release.receive(spelled(events[-1:]))
    assert raised.value.code == "too_large"


def _texts(content: bytes) -> list[str]:
    found = []
    for event in documents(content):
        delta = event.get("delta")
        if isinstance(delta, dict):
            found.append(delta.get("text") or delta.get("thinking") or "")
        elif isinstance(delta, str) and "arguments" not in event["type"]:
            found.append(delta)
    return found
