"""Group 5: a bad answer is cut off however its stream is cut up, and a stream that is odd in other ways lets nothing past."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from asgi_cases import CHAT, EVENTS, Answering, config, proxied, stream
from protocol_cases import CASES

from guardrail.events import DecisionMade
from guardrail.testing import ScriptedClassifier, contains
from guardrail.types import Action, Stage

SAFE = "The garden is calm today and the river runs slowly past the old mill. "
WORD = "forbidden"
HOLDING = ("hold", "window", "overlap")  # `watch` lets out before it judges, and says so
WINDOW, OVERLAP = 20, 12
each_mode = pytest.mark.parametrize("mode", [*HOLDING, "watch"])


def route(mode: str, **more: Any) -> dict[str, Any]:
    return {"stream": {"mode": mode, "window": WINDOW, "overlap": OVERLAP, "first_ms": 60_000}, "input": {"policies": []}, **more}


def cut(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


def split(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def choices(content: bytes) -> list[dict[str, Any]]:
    lines = [json.loads(line[6:]) for line in content.decode().split("\n\n") if line.startswith("data: {")]
    return [choice for line in lines for choice in line.get("choices", ())]


def text(content: bytes, index: int = 0) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in choices(content) if choice["index"] == index)


def ends(content: bytes) -> dict[int, str]:
    return {choice["index"]: choice["finish_reason"] for choice in choices(content) if choice["finish_reason"]}


async def asked(mode: str, pieces: Sequence[bytes], **more: Any) -> httpx.Response:
    async with proxied(config(route(mode)), upstream=Answering(pieces, headers=EVENTS)) as proxy:
        return await proxy.ask(stream=True, **more)


def check(mode: str, said: str, answered: httpx.Response) -> None:
    """It ended as a blocked one does, and what is out is a beginning of what was said, without what is bad."""
    told = text(answered.content)
    assert ends(answered.content) == {0: "content_filter"}
    assert answered.content.endswith(b"data: [DONE]\n\n")
    if mode in HOLDING:
        assert WORD not in told
        assert said.startswith(told) or told == "This answer was withheld by content policy."


@each_mode
@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 10_000])
async def test_the_same_bad_answer_is_cut_off_under_every_split_of_its_text(mode: str, size: int) -> None:
    said = f"{SAFE}And then something {WORD} is told, and more of it."
    check(mode, said, await asked(mode, stream(*split(said, size))))


@each_mode
@pytest.mark.parametrize("size", [1, 5, 64, 1_000_000])
async def test_the_same_bad_answer_is_cut_off_under_every_split_of_its_bytes(mode: str, size: int) -> None:
    said = f"\u4f60\u597d \U0001f642 {SAFE}{WORD} \u4f60\u597d"  # at one byte a piece, the cuts are within code points, too
    raw = b"".join(stream(*split(said, 9)))
    raw = raw.replace(b"\\u4f60\\u597d", "\u4f60\u597d".encode()).replace(b"\\ud83d\\ude42", "\U0001f642".encode())
    check(mode, said, await asked(mode, cut(raw, size)))


@pytest.mark.parametrize("mode", HOLDING)
@pytest.mark.parametrize("before", range(WINDOW - OVERLAP - 1, WINDOW + OVERLAP + 2, 3))
async def test_a_word_across_the_edge_of_a_window_is_found(mode: str, before: int) -> None:
    said = f"{SAFE[:before].rsplit(' ', 1)[0]} {WORD} and more of what is calm, and then some more"
    check(mode, said, await asked(mode, stream(*split(said, 3))))


@pytest.mark.parametrize("mode", HOLDING)
@pytest.mark.parametrize("before", range(WINDOW - OVERLAP, 2 * WINDOW, 2))
async def test_what_is_bad_only_as_two_windows_together_is_found_and_neither_half_is_out(mode: str, before: int) -> None:
    said = f"{'a ' * (before // 2)}wild goose, and more of what is calm, and then some"
    judge = ScriptedClassifier({"*": contains("wild goose")})
    async with proxied(config(route(mode)), upstream=Answering(stream(*split(said, 1)), headers=EVENTS), classifier=judge) as proxy:
        answered = await proxy.ask(stream=True)
    check(mode, said, answered)
    assert "wild" not in text(answered.content)


@pytest.mark.parametrize("mode", HOLDING)
async def test_a_word_in_a_run_without_a_gap_is_found(mode: str) -> None:
    said = f"{'x' * (WINDOW - 4)}{WORD}{'y' * 60} and the end"
    check(mode, said, await asked(mode, stream(*split(said, 2))))


@each_mode
async def test_what_is_bad_within_a_tool_calls_arguments_never_comes_out_in_part(mode: str) -> None:
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    first = {"index": 0, "id": "t", "type": "function", "function": {"name": "run", "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": piece}} for piece in split(json.dumps({"do": f"something {WORD}"}), 4)]
    deltas: list[tuple[dict[str, Any], str | None]] = [({"tool_calls": [call]}, None) for call in (first, *pieces)]
    frames = [{**head, "choices": [{"index": 0, "delta": d, "finish_reason": r}]} for d, r in [*deltas, ({}, "tool_calls")]]
    answered = await asked(mode, [b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames] + [b"data: [DONE]\n\n"])
    assert ends(answered.content) == {0: "content_filter"}
    assert b"tool_calls" not in answered.content


@pytest.mark.parametrize("mode", ["hold", "overlap"])
async def test_what_is_bad_after_ten_thousand_safe_tokens_is_found(mode: str) -> None:
    safe = SAFE * 715  # some 10,000 words
    said = f"{safe}{WORD}. The end."
    answered = await asked(mode, [b"".join(stream(*split(said, 40)))])
    check(mode, said, answered)


@each_mode
async def test_what_is_bad_in_the_last_token_alone_is_found(mode: str) -> None:
    said = f"{SAFE}{WORD}"
    check(mode, said, await asked(mode, stream(SAFE, "for", "bid", "den")))


@pytest.mark.parametrize("mode", ["hold", "window", "overlap", "watch"])
async def test_a_client_that_leaves_in_the_middle_ends_everything(mode: str) -> None:
    gone, closed, sent = asyncio.Event(), asyncio.Event(), 0

    async def upstream(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": list(EVENTS)})
        try:
            for piece in stream(*[f"{SAFE} "] * 10_000):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                sent += 1
                if sent == 20:
                    gone.set()
                await asyncio.sleep(0)
        finally:
            closed.set()

    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()
    given = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if given:
            return given.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        await asyncio.sleep(0)

    async with proxied(config(route(mode)), upstream=upstream) as proxy:
        before = asyncio.all_tasks()
        scope = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b"", "scheme": "http"}
        scope |= {"headers": [(b"content-type", b"application/json")], "client": ("127.0.0.1", 1), "server": ("guard", 80), "root_path": ""}
        await asyncio.wait_for(proxy.app(scope, receive, send), 30)
        assert closed.is_set()
        assert sent < 10_000
        assert asyncio.all_tasks() <= before


@each_mode
async def test_an_upstream_that_ends_without_a_finish_reason_is_told_as_broken(mode: str) -> None:
    answered = await asked(mode, stream(SAFE, SAFE)[:-2])
    assert b"upstream_error" in answered.content
    assert b"[DONE]" not in answered.content
    assert mode == "watch" or len(text(answered.content)) < 2 * len(SAFE)


@each_mode
async def test_an_upstreams_error_frame_is_not_passed_on(mode: str) -> None:
    error = b'data: {"error": {"message": "something forbidden", "type": "server_error", "code": 500}}\n\n'
    answered = await asked(mode, [*stream(SAFE)[:2], error, b"data: [DONE]\n\n"])
    assert b"upstream_error" in answered.content
    assert WORD.encode() not in answered.content


@each_mode
async def test_interleaved_choices_are_judged_each_by_itself(mode: str) -> None:
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    said = [SAFE, f"{SAFE}Something {WORD} is told.", SAFE.upper()]
    frames = [
        (index, {"content": word + " "}, None)
        for words in zip(*(s.split(" ") + [""] * 9 for s in said), strict=False)
        for index, word in enumerate(words)
    ]
    frames += [(index, {}, "stop") for index in range(3)]
    pieces = [{**head, "choices": [{"index": index, "delta": delta, "finish_reason": reason}]} for index, delta, reason in frames]
    answered = await asked(mode, [b"data: " + json.dumps(piece).encode() + b"\n\n" for piece in pieces] + [b"data: [DONE]\n\n"], n=3)
    assert ends(answered.content) == {0: "stop", 1: "content_filter", 2: "stop"}
    assert text(answered.content, 0).strip() == SAFE.strip()
    assert text(answered.content, 2).strip() == SAFE.upper().strip()
    assert mode == "watch" or WORD not in text(answered.content, 1)


@each_mode
@pytest.mark.parametrize("protocol", ["completions", "messages", "responses"])
async def test_every_other_protocols_bad_stream_is_cut_off_byte_by_byte(mode: str, protocol: str) -> None:
    case = CASES[protocol]
    said = f"{SAFE}Something {WORD} is told, and more."
    upstream = Answering(cut(case.stream(said), 3), headers=EVENTS)
    async with proxied(config(route(mode)), upstream=upstream) as proxy:
        answered = await proxy.client.post(case.path, json=case.request("hi", True))
        decision = proxy.sink.of(DecisionMade)[-1].decision
    assert (decision.stage, decision.action) == (Stage.OUTPUT, Action.BLOCK)
    assert b"content_filter" in answered.content or b"refusal" in answered.content
    assert mode == "watch" or WORD.encode() not in answered.content
