"""Group 6: a streamed answer is decided as the same answer sent whole, and what is out is a beginning of it without what was flagged."""

import json
from typing import Any

import pytest
from asgi_cases import EVENTS, Answering, completion, config, proxied, stream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guardrail.events import DecisionMade
from guardrail.types import Action, Decision

WORDS = ["calm", "river", "forbidden", "for", "bidden", "\u4f60\u597d", "\U0001f642", "e\u0301te\u0301", "mill.\n", "x" * 30]
answers = st.lists(st.sampled_from(WORDS), min_size=1, max_size=14)


def route(mode: str, **more: Any) -> dict[str, Any]:
    return {"stream": {"mode": mode, "window": 20, "overlap": 12, "first_ms": 60_000}, "input": {"policies": []}, **more}


def told(content: bytes) -> str:
    lines = [json.loads(line[6:]) for line in content.decode().split("\n\n") if line.startswith("data: {")]
    deltas = [choice["delta"] for line in lines for choice in line["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


async def decided(mode: str, text: str, sizes: list[int]) -> tuple[Decision, Decision, str]:
    """The decision on an answer sent whole, that on the same one streamed in pieces of these sizes, and what a reader of it has."""
    pieces, rest = [], text
    for size in sizes:
        pieces, rest = [*pieces, rest[:size]], rest[size:]
    upstream = Answering([completion(text)])
    async with proxied(config(route(mode)), upstream=upstream) as proxy:
        await proxy.ask()
        upstream.pieces, upstream.headers = stream(*(piece for piece in [*pieces, rest] if piece)), EVENTS
        answered = await proxy.ask(stream=True)
        whole, streamed = (event.decision for event in proxy.sink.of(DecisionMade))
    return whole, streamed, told(answered.content)


@pytest.mark.parametrize("mode", ["hold", "window", "overlap", "watch"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=answers, joiner=st.sampled_from([" ", ""]), sizes=st.lists(st.integers(1, 12), max_size=12))
async def test_a_stream_is_decided_as_the_same_answer_sent_whole(mode: str, words: list[str], joiner: str, sizes: list[int]) -> None:
    whole, streamed, _ = await decided(mode, joiner.join(words), sizes)
    assert streamed.action is whole.action
    assert {v.policy_id for v in streamed.violations} == {v.policy_id for v in whole.violations}


@pytest.mark.parametrize("mode", ["hold", "window", "overlap"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=answers, joiner=st.sampled_from([" ", ""]), sizes=st.lists(st.integers(1, 12), max_size=12))
async def test_what_is_out_is_a_beginning_of_what_was_said_and_holds_nothing_that_was_flagged(
    mode: str, words: list[str], joiner: str, sizes: list[int]
) -> None:
    text = joiner.join(words)
    whole, _, out = await decided(mode, text, sizes)
    if whole.action is Action.BLOCK:
        assert out == "This answer was withheld by content policy." or text.startswith(out)
        assert "forbidden" not in out
    else:
        assert out == text


async def test_in_every_mode_an_unjudged_answer_is_decided_alike() -> None:
    for mode in ("hold", "window", "overlap"):
        upstream = Answering([completion("A calm day.")])
        async with proxied(config(route(mode)), upstream=upstream) as proxy:
            proxy.classifier.fault = "short"
            whole = await proxy.ask()
            upstream.pieces, upstream.headers = stream("A calm day."), EVENTS
            streamed = await proxy.ask(stream=True)
            assert (whole.status_code, streamed.status_code) == (503, 503)
            proxy.classifier.fault = None
