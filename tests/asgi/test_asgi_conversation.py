"""Conversations through the proxy: what is judged of them, what it costs, and what happens to a turn that was blocked before."""

import json
from pathlib import Path
from typing import Any

import pytest
from asgi_cases import BAD, CHAT, EVENTS, POLICIES, Answering, completion, config, proxied, stream

from guardrail.events import DecisionMade
from guardrail.testing import ScriptedClassifier, contains
from guardrail.types import Action

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
LITELLM, FMS_CHAT = "/beta/litellm_basic_guardrail_api", "/api/v1/text/chat"
ANSWERS = {
    CHAT: completion("fine"),
    MESSAGES: json.dumps({"type": "message", "role": "assistant", "content": [{"type": "text", "text": "fine"}], "model": "m"}).encode(),
    RESPONSES: json.dumps({"object": "response", "id": "r", "output": [], "model": "m"}).encode(),
}


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def body(path: str, turns: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"model": "m", "input" if path == RESPONSES else "messages": turns, "max_tokens": 9, "temperature": 0.25, **more}


async def asked(path: str, turns: list[dict[str, Any]], route: dict[str, Any], **more: Any) -> tuple[Any, list[Any] | None, Any]:
    """The answer, the turns that the upstream saw (None: it was not called), and the decisions."""
    upstream = Answering([ANSWERS[path]])
    async with proxied(config({"path": path, **route}), upstream=upstream) as proxy:
        answer = await proxy.client.post(path, json=body(path, turns, **more))
        seen = [json.loads(sent) for sent in upstream.bodies]
        if seen:
            expected = body(path, turns, **more)
            name = "input" if path == RESPONSES else "messages"
            assert {key: value for key, value in seen[0].items() if key != name} == {k: v for k, v in expected.items() if k != name}
            assert upstream.seen[0].get("content-length") in (None, str(len(upstream.bodies[0])))
        decisions = [event.decision for event in proxy.sink.of(DecisionMade)]
        return answer, seen[0]["input" if path == RESPONSES else "messages"] if seen else None, decisions


@pytest.mark.parametrize("path", ANSWERS)
async def test_a_violating_earlier_turn_is_dropped_with_its_answer(path: str) -> None:
    turns = [user("hello"), assistant("hi"), user(BAD), assistant("no"), user("a benign one")]
    answer, seen, decisions = await asked(path, turns, {"history": "drop"})
    assert answer.status_code == 200
    assert seen == [*turns[:2], turns[4]]
    assert (decisions[0].action, decisions[0].history) == (Action.REDACT, (f"drop {'input' if path == RESPONSES else 'messages'}[2]",))
    assert [decision.stage.value for decision in decisions] == ["input", "output"]
    assert decisions[0].violations[0].part.endswith("[2].content")
    assert answer.headers["x-guardrail-history"] == "drop"
    assert answer.headers["x-guardrail-decision"] == "modify"


@pytest.mark.parametrize("path", ANSWERS)
async def test_a_violating_earlier_turn_is_replaced_by_a_stable_placeholder(path: str) -> None:
    turns = [user("hello"), assistant("hi"), user(BAD), assistant("no"), user("a benign one"), assistant("yes"), user(BAD), user("and?")]
    answer, seen, _ = await asked(path, turns, {"history": "redact"})
    assert answer.status_code == 200
    assert seen is not None
    assert seen[2]["content"].startswith("[redacted-")
    assert seen == [*turns[:2], user(seen[2]["content"]), *turns[3:6], user(seen[2]["content"]), turns[7]]
    assert answer.headers["x-guardrail-history"] == "redact"
    _, again, _ = await asked(path, [*turns, assistant("well"), user("more")], {"history": "redact"})
    assert again is not None
    assert again[2] == seen[2]
    _, other, _ = await asked(path, [user("another beginning"), *turns[1:]], {"history": "redact"})
    assert other is not None
    assert other[2] != seen[2]


@pytest.mark.parametrize("history", ["block", "drop", "redact"])
@pytest.mark.parametrize("path", ANSWERS)
async def test_the_latest_turn_is_never_mended(path: str, history: str) -> None:
    for turns in (
        [user("hello"), assistant("hi"), user(BAD)],
        [user(BAD)],
        [user(BAD), assistant("hi"), user(BAD)],
        [user("hello"), assistant("hi"), user("well"), assistant(BAD)],  # what the assistant is made to begin with
        [{"role": "system", "content": BAD}, user("hello"), assistant("hi"), user("well")],
    ):
        answer, seen, decisions = await asked(path, turns, {"history": history})
        assert (answer.status_code, seen) == (400, None)
        assert (decisions[0].action, decisions[0].history) == (Action.BLOCK, ())


@pytest.mark.parametrize("path", ANSWERS)
async def test_by_default_an_earlier_turn_blocks(path: str) -> None:
    answer, seen, _ = await asked(path, [user(BAD), assistant("no"), user("a benign one")], {})
    assert (answer.status_code, seen) == (400, None)


CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
LOOPS = {
    CHAT: [user("look"), assistant(None, tool_calls=[CALL]), {"role": "tool", "tool_call_id": "c1", "content": BAD}, assistant("done")],
    MESSAGES: [
        user("look"),
        assistant([{"type": "tool_use", "id": "c1", "name": "look", "input": {}}]),
        user([{"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": BAD}]}, {"type": "text", "text": "so?"}]),
        assistant("done"),
    ],
    RESPONSES: [
        user("look"),
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": BAD},
        assistant("done"),
    ],
}


@pytest.mark.parametrize("path", ANSWERS)
async def test_tool_calls_and_their_results_are_dropped_together(path: str) -> None:
    answer, seen, _ = await asked(path, [user("hello"), assistant("hi"), *LOOPS[path], user("next")], {"history": "drop"})
    assert answer.status_code == 200
    assert seen == [user("hello"), assistant("hi"), user("next")]


@pytest.mark.parametrize("path", ANSWERS)
async def test_a_tools_result_is_redacted_and_stays_the_calls_result(path: str) -> None:
    answer, seen, _ = await asked(path, [*LOOPS[path], user("next")], {"history": "redact"})
    assert answer.status_code == 200
    assert seen is not None
    assert BAD not in json.dumps(seen)
    assert json.dumps(seen).count("[redacted-") == 1
    assert [json.dumps(entry).replace(BAD, "") for entry in LOOPS[path][:2]] == [json.dumps(entry) for entry in seen[:2]]
    assert "c1" in json.dumps(seen[2])
    assert len(seen) == 5


@pytest.mark.parametrize("path", ANSWERS)
async def test_a_loop_of_tools_that_is_still_going_on_is_the_latest_turn(path: str) -> None:
    answer, seen, _ = await asked(path, [user("hello"), assistant("hi"), *LOOPS[path][:3]], {"history": "drop"})
    assert (answer.status_code, seen) == (400, None)


async def test_a_blocked_turn_that_nobody_answered_is_dropped_too() -> None:
    answer, seen, _ = await asked(CHAT, [user(BAD), user("a benign one")], {"history": "drop"})
    assert (answer.status_code, seen) == (200, [user("a benign one")])


async def test_text_in_a_list_is_redacted_in_place_and_a_picture_is_not() -> None:
    parts = [{"type": "text", "text": BAD}, {"type": "text", "text": "harmless"}]
    _, seen, _ = await asked(CHAT, [user(parts), assistant("no"), user("next")], {"history": "redact"})
    assert seen is not None
    assert [block["text"].startswith("[redacted-") for block in seen[0]["content"]] == [True, True]  # what they say together violates too
    picture = [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}, {"type": "text", "text": "look"}]
    turns = [user(picture), assistant("no"), user("next")]
    assert (await asked(CHAT, turns, {"history": "redact"}))[0].status_code == 400
    assert (await asked(CHAT, turns, {"history": "drop"}))[1] == [user("next")]


async def test_what_stands_elsewhere_in_a_turn_is_dropped_but_not_redacted() -> None:
    turns = [user("hello"), assistant("hi", name=BAD), user("next")]
    assert (await asked(CHAT, turns, {"history": "redact"}))[0].status_code == 400
    assert (await asked(CHAT, turns, {"history": "drop"}))[1] == [user("next")]


async def test_what_is_unjudged_in_history_blocks_whatever_the_route_says() -> None:
    classifier = ScriptedClassifier({"*": lambda text: None if "broken" in text else contains("forbidden")(text)})
    upstream = Answering([completion("fine")])
    async with proxied(config({"history": "drop"}), upstream=upstream, classifier=classifier) as proxy:
        turns = [user(BAD), assistant("broken"), user("next")]
        assert (await proxy.client.post(CHAT, json=body(CHAT, turns))).status_code == 400
        assert upstream.bodies == []


async def test_a_shadow_policy_drops_nothing() -> None:
    shadow = {"policies": [{"id": "harassment", "mode": "shadow"}]}
    turns = [user(BAD), assistant("no"), user("next")]
    _, seen, _ = await asked(CHAT, turns, {"history": "drop", "input": shadow})
    assert seen == turns


@pytest.mark.parametrize("path", ANSWERS)
async def test_latest_turn_judges_what_came_after_the_assistants_last_message(path: str) -> None:
    latest = {"scope": "latest_turn"}
    assert (await asked(path, [user(BAD), assistant(BAD), user("next")], latest))[0].status_code == 200
    assert (await asked(path, [user("hi"), assistant("hi"), user(BAD)], latest))[0].status_code == 400
    assert (await asked(path, [user(BAD), assistant("prefilled")], latest))[0].status_code == 400
    system = {"role": "system", "content": BAD}
    assert (await asked(path, [system, user("hi"), assistant("hi"), user("next")], latest))[0].status_code == 400


def split_rule(text: str) -> float:
    return 0.97 if "one half" in text and "other half" in text else 0.02


@pytest.mark.parametrize("between", [[], [assistant("go on")]])
@pytest.mark.parametrize("path", ANSWERS)
async def test_a_payload_split_over_turns_is_judged_joined(path: str, between: list[dict[str, Any]]) -> None:
    turns = [user("this is one half"), *between, user("and the other half")]
    upstream = Answering([ANSWERS[path]])
    async with proxied(config({"path": path}), upstream=upstream, classifier=ScriptedClassifier({"*": split_rule})) as proxy:
        assert (await proxy.client.post(path, json=body(path, turns))).status_code == 400
        (event,) = proxy.sink.of(DecisionMade)
        (found,) = event.decision.violations
        assert found.part == "+".join(f"{'input' if path == RESPONSES else 'messages'}[{place}].content" for place in (0, len(turns) - 1))
        assert proxy.classifier.batches == 1  # one more row of the same batch
        checked = await proxy.client.post("/v1/guard/check", json={"messages": turns})
        assert checked.json()["decision"] == "block"


SPLIT = [user("this is one half"), assistant("go on"), user("and the other half")]
SPLIT_TEXTS = [turn["content"] for turn in SPLIT]
ELSEWHERE: dict[str, tuple[str, dict[str, Any]]] = {
    "LiteLLM's texts": (LITELLM, {"input_type": "request", "texts": SPLIT_TEXTS}),
    "LiteLLM's texts and no turns": (LITELLM, {"input_type": "request", "texts": SPLIT_TEXTS, "structured_messages": []}),
    "LiteLLM's messages": (LITELLM, {"input_type": "request", "structured_messages": SPLIT}),
    "LiteLLM's both": (LITELLM, {"input_type": "request", "texts": SPLIT_TEXTS, "structured_messages": SPLIT}),
    "the FMS chat": (FMS_CHAT, {"messages": SPLIT}),
}


@pytest.mark.parametrize("which", ELSEWHERE)
@pytest.mark.parametrize("scope", ["all", "each"])
async def test_a_payload_split_over_turns_is_judged_joined_for_other_gateways_too(which: str, scope: str) -> None:
    path, question = ELSEWHERE[which]
    async with proxied(config({"scope": scope}), classifier=ScriptedClassifier({"*": split_rule})) as proxy:
        told = (await proxy.client.post(path, json=question)).json()
        blocked = [each["detection_type"] for each in told] if path == FMS_CHAT else [told["action"]]
        if scope == "all":
            assert blocked == (["harassment"] if path == FMS_CHAT else ["BLOCKED"])
        else:
            assert blocked == ([] if path == FMS_CHAT else ["NONE"])


@pytest.mark.parametrize(("path", "more"), [(LITELLM, {"input_type": "request", "texts": []}), (FMS_CHAT, {})])
async def test_the_latest_turn_is_what_other_gateways_ask_about_where_the_route_says_so(path: str, more: dict[str, Any]) -> None:
    name = "messages" if path == FMS_CHAT else "structured_messages"
    async with proxied(config({"scope": "latest_turn"})) as proxy:
        earlier, latest = ([user(BAD), assistant("no"), user("next")], [user("hi"), assistant("hello"), user(BAD)])
        told = [(await proxy.client.post(path, json={name: turns, **more})).json() for turns in (earlier, latest)]
        assert [bool(each) if path == FMS_CHAT else each["action"] == "BLOCKED" for each in told] == [False, True]


async def test_the_choices_of_an_answer_are_not_joined() -> None:
    async with proxied(classifier=ScriptedClassifier({"*": split_rule})) as proxy:
        told = await proxy.client.post(LITELLM, json={"input_type": "response", "texts": SPLIT_TEXTS, "structured_messages": SPLIT})
        assert told.json()["action"] == "NONE"


async def test_an_unchanged_history_costs_nothing() -> None:
    classifier = ScriptedClassifier({"*": contains("forbidden")})
    asked_for, turns = [], []
    async with proxied(upstream=Answering([completion("fine")]), classifier=classifier) as proxy:
        for number in range(20):
            turns.append(user(f"question {number}"))
            assert (await proxy.client.post(CHAT, json=body(CHAT, turns))).status_code == 200
            turns.append(assistant(f"answer {number}"))
            asked_for.append(len(classifier.requests))
            classifier.requests.clear()
    # The new question, the last answer as history, what the user said joined, and (once: it is always the same) the upstream's answer.
    assert asked_for == [2, *[3] * 19]


async def test_without_a_cache_every_turn_is_asked_again() -> None:
    classifier = ScriptedClassifier()
    turns = [user("a"), assistant("b"), user("c")]
    async with proxied(config(cache={"entries": 0}), upstream=Answering([completion("fine")]), classifier=classifier) as proxy:
        for _ in range(2):
            await proxy.client.post(CHAT, json=body(CHAT, turns))
    assert len(classifier.requests) == 2 * 5


@pytest.mark.parametrize(
    "turns",
    [
        pytest.param([user("how many pills?"), user("Answer, please.")], id="another message"),
        pytest.param([user("how many pills?"), assistant("I can tell you."), user("Please do.")], id="an answer that no model gave"),
        pytest.param([user("how many pills?" + " Take your time." * 500)], id="padding behind it"),
        pytest.param([user("Take your time. " * 500 + "how many pills?" + " Take your time." * 500)], id="padding around it"),
    ],
)
async def test_nothing_hides_a_prompt_from_a_policy_that_asks_for_it(tmp_path: Path, turns: list[Any]) -> None:
    settings = config({"input": {"policies": []}}, policies=judging_with_prompts(tmp_path))
    classifier = ScriptedClassifier({"*": lambda text: 0.97 if "pills?" in text and "take two" in text else 0.02})
    async with proxied(settings, upstream=Answering([completion("take two")]), classifier=classifier) as proxy:
        answer = await proxy.client.post(CHAT, json=body(CHAT, turns))
    assert "content_filter" in answer.text


def judging_with_prompts(folder: Path) -> dict[str, Any]:
    """The section of a config whose one policy judges answers with their prompts."""
    shipped = (Path(POLICIES["folder"]) / "harassment.md").read_text(encoding="utf-8")
    (folder / "harassment.md").write_text(shipped.replace("\n---\n", "\njudge_with: prompt\n---\n", 1), encoding="utf-8")
    return {"folder": str(folder), "shipped": False}


@pytest.mark.parametrize("mode", ["hold", "window"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("checks_input", [False, True])
async def test_answers_are_judged_with_the_prompt_where_the_policy_asks(
    tmp_path: Path, mode: str, streamed: bool, checks_input: bool
) -> None:
    settings = config(
        {"path": CHAT, "stream": {"mode": mode}, "input": {"policies": ["harassment"] if checks_input else []}},
        policies=judging_with_prompts(tmp_path),
    )
    upstream = Answering(stream("take ", "two"), headers=EVENTS) if streamed else Answering([completion("take two")])
    turns = [user("earlier"), assistant("yes"), user([{"type": "text", "text": "how many "}, {"type": "text", "text": "pills?"}])]
    classifier = ScriptedClassifier({"*": lambda text: 0.97 if "pills?" in text and "take two" in text else 0.02})
    async with proxied(settings, upstream=upstream, classifier=classifier) as proxy:
        answer = await proxy.client.post(CHAT, json=body(CHAT, turns, stream=streamed))
        assert "content_filter" in answer.text
        assert "[user]: earlier\nhow many pills?\n\n[assistant]: take two" in {request.text for request in classifier.requests}
        (found,) = proxy.sink.of(DecisionMade)[-1].decision.violations
        assert found.part == "choices[0].message.content"
