"""A streamed answer taken apart while it comes: texts go out as they may, all else with the end of its choice."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guardrail.errors import UpstreamError
from guardrail.wire.chat_release import TEXT, ChatRelease
from guardrail.wire.release import Said

HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def event(*choices: dict[str, Any], **more: Any) -> bytes:
    return b"data: " + json.dumps({**HEAD, "choices": list(choices), **more}).encode() + b"\n\n"


def delta(index: int = 0, reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"index": index, "delta": fields, "finish_reason": reason}


CALL = {"index": 0, "id": "t", "type": "function", "function": {"name": "find", "arguments": '{"a": 1}'}}
STREAM = b"".join(
    [
        event(delta(role="assistant", content="")),
        event(delta(content="Let us ")),
        event(delta(content="see."), delta(1, role="assistant", content="Hm", reasoning_content="think")),
        event(delta(tool_calls=[CALL])),
        event(delta(reason="tool_calls"), delta(1, "stop")),
        event(usage=USAGE),
        b"data: [DONE]\n\n",
    ]
)


def documents(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in content.decode().split("\n\n") if line and line != "data: [DONE]"]


def content(text: str) -> Said:
    return Said(0, "choices[0].message.content", text)


def read(content: bytes = STREAM) -> tuple[ChatRelease, list[Said]]:
    release = ChatRelease()
    return release, [*release.receive(content), *release.finish()]


def test_texts_are_told_with_the_paths_of_the_whole_answer() -> None:
    release, said = read()
    assert [(piece.path, piece.text) for piece in said] == [
        ("choices[0].message.content", "Let us "),
        ("choices[0].message.content", "see."),
        ("choices[1].message.content", "Hm"),
        ("choices[1].message.reasoning_content", "think"),
    ]
    assert {part.path: part.text for part in release.others()} == {
        "choices[0].message.tool_calls[0].function.name": "find",
        "choices[0].message.tool_calls[0].function.arguments": '{"a": 1}',
    }
    assert (release.done, release.usage, release.finish_reasons) == (True, USAGE, {0: "tool_calls", 1: "stop"})


def test_what_is_let_out_is_the_same_answer_again() -> None:
    release, said = read()
    written = b"".join(release.text(piece, 0) for piece in said)
    written += release.rest(0) + release.rest(1) + release.end(whole=True)
    assert written.endswith(b"data: [DONE]\n\n")
    again, repeated = read(written)
    assert repeated == said
    assert (again.others(), again.usage, again.finish_reasons) == (release.others(), release.usage, release.finish_reasons)
    first = documents(written)[0]
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "Let us "}


@given(st.lists(st.integers(0, len(STREAM)), max_size=6))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_any_chunking_says_the_same(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    release = ChatRelease()
    said = [piece for start, end in pairwise(places) for piece in release.receive(STREAM[start:end])]
    assert said == read()[1]


def test_a_blocked_choice_ends_with_what_is_out_and_nothing_else_of_it() -> None:
    release, _ = read()
    release.text(content("Let us "), 7)
    (end,) = documents(release.refused(0, {"x": {"filtered": True}}, "Withheld.", released_chars=7))
    assert end["choices"][0]["finish_reason"] == "content_filter"
    assert (end["choices"][0]["delta"], end["choices"][0]["released_chars"]) == ({}, 7)
    role, notice, end = documents(release.refused(1, {}, "Withheld.", released_chars=0))
    assert role["choices"][0]["delta"] == {"role": "assistant"}
    assert notice["choices"][0]["delta"] == {"content": "Withheld."}
    assert end["choices"][0]["released_chars"] == 0
    assert release.rest(0) == b""


def test_log_probabilities_wait_for_the_end() -> None:
    logprobs = {"content": [{"token": "Hi", "logprob": -0.1, "top_logprobs": []}]}
    release, said = read(event({**delta(content="Hi"), "logprobs": logprobs}) + event(delta(reason="stop")))
    assert [piece.text for piece in said] == ["Hi"]
    assert documents(release.text(content("Hi"), 2))[0]["choices"][0]["logprobs"] is None
    kept, _ = documents(release.rest(0))
    assert (kept["choices"][0]["logprobs"], kept["choices"][0]["delta"]) == (logprobs, {})


def test_fields_beside_the_choices_are_judged_and_go_out_only_with_a_whole_answer() -> None:
    release, _ = read(event(delta(content="Hi"), remark="by the way") + event(delta(reason="stop")))
    assert [part.text for part in release.others()] == ["by the way"]
    assert b"by the way" in release.end(whole=True)
    assert b"by the way" not in release.end(whole=False)
    assert b"by the way" not in release.text(content("Hi"), 2) + release.rest(0)


def test_what_cannot_be_read_is_among_what_is_judged_at_the_end() -> None:
    release, _ = read(event(delta(content="Hi", audio={"id": "a", "data": "AAAA"})) + event(delta(reason="stop")))
    assert [(part.kind, part.text) for part in release.others()] == [("audio", None)]


@pytest.mark.parametrize(("content", "code"), [(b'data: {"error": {}}\n\ndata: {"error": {"a": 1}}\n\n', "malformed"), (b"", "disconnect")])
def test_what_is_no_answer_is_an_error(content: bytes, code: str) -> None:
    with pytest.raises(UpstreamError) as raised:
        read(content + event(delta(content="Hi")))
    assert raised.value.code == code


def test_an_answer_is_no_longer_than_it_may_be() -> None:
    with pytest.raises(UpstreamError, match="longer than 100 bytes"):
        ChatRelease(max_bytes=100).receive(STREAM)


def test_text_completions_come_out_likewise_and_their_log_probabilities_only_where_nothing_was_taken_out() -> None:
    def chunk(text: str, reason: str | None = None, **more: Any) -> bytes:
        return b"data: " + json.dumps({**HEAD, "choices": [{"index": 0, "text": text, "finish_reason": reason, **more}]}).encode() + b"\n\n"

    stream = (
        chunk("One ", logprobs={"tokens": ["One ", "day."], "token_logprobs": [0.0, 0.0]}) + chunk("day.", "stop") + b"data: [DONE]\n\n"
    )
    for redacted in (False, True):
        release = ChatRelease(shape=TEXT)
        said = [*release.receive(stream), *release.finish()]
        assert [(piece.path, piece.text) for piece in said] == [("choices[0].text", "One "), ("choices[0].text", "day.")]
        assert release.others() == ()
        if redacted:
            release.redacted(0)
        written = b"".join(release.text(piece, 0) for piece in said) + release.rest(0) + release.end(whole=True)
        choices = [choice for document in documents(written) for choice in document["choices"]]
        assert "".join(choice["text"] for choice in choices) == "One day."
        assert choices[-1]["finish_reason"] == "stop"
        assert (b"token_logprobs" in written) != redacted
