"""OpenAI's `moderation` parameter: served by the route's own policies, never sent on, and only ever an addition."""

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from asgi_cases import BAD, BODY, CHAT, EVENTS, Answering, Proxy, completion, config, proxied, stream
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses.response import Moderation
from protocol_cases import response_events, said, whole_response

from guardrail.testing import ScriptedClassifier, contains

MODEL = {"model": "omni-moderation-latest"}
ANNOTATING = {name: {"policies": [{"id": "harassment", "action": "annotate"}]} for name in ("input", "output")}
NOTHING: Mapping[str, Any] = {"input": {"policies": []}, "output": {"policies": []}}


def asked(**modes: str) -> dict[str, Any]:
    return {**MODEL, "policy": {stage: {"mode": mode} for stage, mode in modes.items()}}


async def chat(proxy: Proxy, text: str = "hi", moderation: Any = MODEL, **fields: Any) -> httpx.Response:
    return await proxy.ask(text, moderation=moderation, **fields)


async def test_what_was_found_is_told_in_openais_types_and_the_parameter_is_not_sent_on() -> None:
    upstream = Answering([completion("fine", BAD)])
    async with proxied(config(ANNOTATING), upstream=upstream) as proxy:
        answer = await chat(proxy, "hi", n=2)
    told = ChatCompletion.model_validate_json(answer.text, strict=False).moderation
    assert told is not None
    assert told.input.type == told.output.type == "moderation_results"
    assert [result.flagged for result in told.input.results] == [False]
    assert [result.flagged for result in told.output.results] == [False, True]
    assert told.output.results[1].categories == {"harassment": True}
    assert told.output.results[1].category_scores["harassment"] > 0.9
    assert told.output.results[1].category_applied_input_types == {"harassment": ["text"]}
    sent = json.loads(upstream.bodies[0])
    assert "moderation" not in sent
    assert sent["messages"] == [{"role": "user", "content": "hi"}]
    assert upstream.seen[0].get("content-length") in (None, str(len(upstream.bodies[0])))


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_response_carries_its_own_shape(streamed: bool) -> None:
    pieces = [response_events(BAD)] if streamed else [json.dumps(whole_response(BAD)).encode()]
    upstream = Answering(pieces, headers=EVENTS) if streamed else Answering(pieces)
    async with proxied(config(ANNOTATING), upstream=upstream) as proxy:
        body = {"model": "m", "input": "hi", "moderation": MODEL, "stream": streamed}
        answer = await proxy.client.post("/v1/responses", json=body)
    document = said(answer.text)[-1]["response"] if streamed else answer.json()
    told = Moderation.model_validate(document["moderation"])
    assert told.input.type == "moderation_result"
    assert told.output.type == "moderation_result"
    assert (told.input.flagged, told.output.flagged) == (False, True)
    assert "moderation" not in json.loads(upstream.bodies[0])


@pytest.mark.parametrize("mode", ["hold", "window"])
async def test_a_stream_tells_it_on_its_last_frame(mode: str) -> None:
    upstream = Answering(stream("some", "thing", " forbidden"), headers=EVENTS)
    route = {**ANNOTATING, "stream": {"mode": mode}, "path": CHAT}
    async with proxied(config(route), upstream=upstream) as proxy:
        answer = await chat(proxy, stream=True)
    frames = [ChatCompletionChunk.model_validate(document) for document in said(answer.text)]
    assert [frame.moderation is not None for frame in frames] == [False] * (len(frames) - 1) + [True]
    told = frames[-1].moderation
    assert told is not None
    assert told.output.type == "moderation_results"
    assert told.output.results[0].flagged
    assert frames[-1].choices[0].finish_reason == "stop"
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("streamed", [False, True])
async def test_block_blocks_what_the_route_would_only_annotate(streamed: bool) -> None:
    upstream = Answering(stream("so ", BAD), headers=EVENTS) if streamed else Answering([completion(BAD)])
    async with proxied(config(ANNOTATING), upstream=upstream) as proxy:
        blocked = await chat(proxy, BAD, asked(input="block"), stream=streamed)
        assert (blocked.status_code, blocked.json()["error"]["code"]) == (400, "content_filter")
        assert upstream.bodies == []
        withheld = await chat(proxy, "hi", asked(output="block"), stream=streamed)
        scored = await chat(proxy, "hi", asked(output="score"), stream=streamed)
    last = said(withheld.text)[-1] if streamed else withheld.json()
    assert last["choices"][0]["finish_reason"] == "content_filter"
    assert last["moderation"]["output"]["results"][0]["flagged"]
    assert BAD not in withheld.text
    assert BAD in scored.text


async def test_a_stage_that_the_route_does_not_check_is_checked_by_the_other_ones_policies() -> None:
    upstream = Answering([completion(BAD)])
    async with proxied(config({"output": {"policies": []}}), upstream=upstream) as proxy:
        plain = await proxy.ask("hi")
        scored = await chat(proxy, "hi", asked(output="score"))
        withheld = await chat(proxy, "hi", asked(output="block"))
    assert BAD in plain.text
    assert BAD in scored.text
    assert scored.json()["moderation"]["output"]["results"][0]["flagged"]
    assert BAD not in withheld.text


@pytest.mark.parametrize("moderation", [MODEL, asked(input="score", output="score"), {**MODEL, "policy": None}, {**MODEL, "policy": {}}])
async def test_asking_for_scores_weakens_nothing(moderation: Any) -> None:
    async with proxied(config(), upstream=Answering([completion(BAD)])) as proxy:
        assert (await chat(proxy, BAD, moderation)).status_code == 400
        assert BAD not in (await chat(proxy, "hi", moderation)).text


async def test_policies_in_shadow_mode_stay_in_it_and_are_told_to_nobody() -> None:
    async with proxied(config({"mode": "shadow"}), upstream=Answering([completion(BAD)])) as proxy:
        answer = await chat(proxy, BAD, asked(input="block", output="block"))
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == BAD
    assert {answer.json()["moderation"][stage]["code"] for stage in ("input", "output")} == {"nothing_to_check"}


async def test_what_could_not_be_judged_is_an_error_and_never_a_low_score() -> None:
    classifier = ScriptedClassifier({"*": contains("forbidden")}, fault="not_a_number")
    async with proxied(config({"on_error": "pass"}), upstream=Answering([completion("x")]), classifier=classifier) as proxy:
        told = (await chat(proxy)).json()["moderation"]
    assert {told[stage]["type"] for stage in told} == {"error"}
    assert {told[stage]["code"] for stage in told} == {"guardrail_unavailable"}
    async with proxied(config(NOTHING), upstream=Answering([completion("x")])) as proxy:
        told = (await chat(proxy)).json()["moderation"]
    assert {told[stage]["code"] for stage in told} == {"nothing_to_check"}


@pytest.mark.parametrize(
    "moderation",
    [
        "on",
        {},
        {"model": 1},
        {**MODEL, "policies": []},
        {**MODEL, "policy": "block"},
        {**MODEL, "policy": {"Input": {"mode": "block"}}},
        asked(input="off"),
        {**MODEL, "policy": {"input": {"mode": "block", "categories": []}}},
        {**MODEL, "policy": {"input": {}}},
        {**MODEL, "policy": {"input": {"mode": ["block"]}}},
    ],
)
async def test_what_is_not_understood_is_refused(moderation: Any) -> None:
    upstream = Answering([completion("x")])
    async with proxied(config(), upstream=upstream) as proxy:
        refused = await chat(proxy, "hi", moderation)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "moderation")
    assert upstream.bodies == []


async def test_without_it_a_body_is_sent_on_byte_for_byte() -> None:
    upstream = Answering([completion("x")])
    async with proxied(config(), upstream=upstream) as proxy:
        answer = await proxy.client.post(CHAT, content=BODY, headers={"content-type": "application/json"})
    assert "moderation" not in answer.json()
    assert upstream.bodies == [BODY]
