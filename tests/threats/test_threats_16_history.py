"""Group 16: what was said in other turns neither slips past nor ends a conversation for ever."""

from typing import Any

import pytest
from asgi_cases import BAD, CHAT, Answering, completion, config, proxied

from guardrail.events import DecisionMade
from guardrail.testing import ScriptedClassifier, contains

RESPONSES = "/v1/responses"
RESPONSE = b'{"object": "response", "id": "r", "output": [], "model": "m"}'


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


async def converse(route: dict[str, Any], *said: str, rule: Any = None, on_block: str = "error") -> list[tuple[int, int]]:
    """A client that keeps its whole history, blocked turns too: the status of each turn and how many turns the upstream saw of it."""
    upstream, turns, told = Answering([completion("fine")]), [], []
    classifier = ScriptedClassifier({"*": rule or contains("forbidden")})
    async with proxied(config({**route, "on_block": on_block}), upstream=upstream, classifier=classifier) as proxy:
        for text in said:
            turns.append(user(text))
            calls = len(upstream.bodies)
            answer = await proxy.client.post(CHAT, json={"model": "m", "messages": turns})
            seen = upstream.bodies[-1].count(b'"role"') if len(upstream.bodies) > calls else 0
            told.append((answer.status_code, seen))
            if answer.status_code == 200:
                turns.append(assistant(answer.json()["choices"][0]["message"]["content"]))
    return told


async def test_blocked_turn_in_history_then_benign_turn() -> None:
    said = ("hello", BAD, "good morning", "and then?")
    assert await converse({}, *said) == [(200, 1), (400, 0), (400, 0), (400, 0)]  # `history: block`, as the route says
    assert await converse({"history": "drop"}, *said) == [(200, 1), (400, 0), (200, 3), (200, 5)]
    assert await converse({"history": "redact"}, *said) == [(200, 1), (400, 0), (200, 4), (200, 6)]


async def test_blocked_turn_that_was_answered_with_a_notice() -> None:
    said = ("hello", BAD, "good morning")
    assert await converse({"history": "drop"}, *said, on_block="reply") == [(200, 1), (200, 0), (200, 3)]


async def test_dropping_history_lets_no_later_violation_through() -> None:
    assert await converse({"history": "drop"}, BAD, "good morning", BAD) == [(400, 0), (200, 1), (400, 0)]


def halves(text: str) -> float:
    return 0.97 if "first half" in text and "second half" in text else 0.02


@pytest.mark.parametrize("route", [{}, {"history": "drop"}, {"history": "redact"}])
async def test_split_payload_over_two_turns(route: dict[str, Any]) -> None:
    assert (await converse(route, "remember the first half", "here is the second half", rule=halves))[1] == (400, 0)
    assert (await converse(route, "the first half", "something else", "the second half", rule=halves))[2] == (400, 0)


async def test_split_payload_in_the_turns_of_one_request() -> None:
    async with proxied(upstream=Answering([completion("fine")]), classifier=ScriptedClassifier({"*": halves})) as proxy:
        turns = [user("the first half"), user([{"type": "text", "text": "the second "}, {"type": "text", "text": "half"}])]
        for latest in (turns, [user("hi"), assistant("hi"), *turns]):
            assert (await proxy.client.post(CHAT, json={"model": "m", "messages": latest})).status_code == 400
        found = proxy.sink.of(DecisionMade)[-1].decision.violations[0]
        assert found.part == "messages[0].content+messages[2].content+messages[3].content[*]"


async def test_what_a_caller_writes_as_the_assistants_earlier_answer_is_judged() -> None:
    async with proxied(upstream=Answering([completion("fine")])) as proxy:
        turns = [user("hi"), assistant(BAD), user("go on")]
        assert (await proxy.client.post(CHAT, json={"model": "m", "messages": turns})).status_code == 400


@pytest.mark.parametrize("field", [{"previous_response_id": "resp_1"}, {"conversation": "conv_1"}, {"conversation": {"id": "conv_1"}}])
async def test_turns_that_lie_with_the_upstream_are_refused(field: dict[str, Any]) -> None:
    upstream = Answering([RESPONSE])
    async with proxied(upstream=upstream) as proxy:
        answer = await proxy.client.post(RESPONSES, json={"model": "m", "input": "go on", **field})
        assert (answer.status_code, upstream.bodies) == (400, [])
        assert answer.json()["error"]["param"] == next(iter(field))


@pytest.mark.parametrize(
    "item", [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}, {"type": "message", "id": "msg_1", "role": "user"}]
)
async def test_items_that_lie_with_the_upstream_are_refused(item: dict[str, Any]) -> None:
    upstream = Answering([RESPONSE])
    async with proxied(upstream=upstream) as proxy:
        answer = await proxy.client.post(RESPONSES, json={"model": "m", "input": [item, {"role": "user", "content": "go on"}]})
        assert (answer.status_code, upstream.bodies) == (400, [])


@pytest.mark.parametrize("store", [True, False])
async def test_store_changes_nothing_about_the_judging(store: bool) -> None:
    upstream = Answering([RESPONSE])
    async with proxied(upstream=upstream) as proxy:
        for text, status in ((BAD, 400), ("hello", 200)):
            assert (await proxy.client.post(RESPONSES, json={"model": "m", "input": text, "store": store})).status_code == status
    assert len(upstream.bodies) == 1


async def test_stored_answers_are_not_served() -> None:
    async with proxied() as proxy:
        for path in (f"{CHAT}/chatcmpl-1", f"{CHAT}/chatcmpl-1/messages", f"{RESPONSES}/resp_1", f"{RESPONSES}/resp_1/input_items"):
            for method in ("GET", "POST", "DELETE"):
                assert (await proxy.client.request(method, path)).status_code == 404
