"""Stored turns: what `previous_response_id` stands for is fetched and judged before the model may read it, or it is refused."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from asgi_cases import BAD, Proxy, config, proxied
from protocol_cases import response_events, whole_response

from guardrail.asgi import stored
from guardrail.asgi.stored import HandedOut
from guardrail.assembly import open_guard
from guardrail.config.models import Config
from guardrail.config.tenants import hash_key
from guardrail.errors import ConfigError
from guardrail.events import DecisionMade
from guardrail.testing import ScriptedClassifier

PATH = "/v1/responses"
UPSTREAMS = {"main": {"kind": "openai", "base_url": "https://api.example/v1"}}
RESOLVE = {"stored_turns": "resolve", "upstream": "main", "classifier": "embedded"}


def message(text: str, role: str = "user") -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "id": "msg_1", "role": role, "content": [{"type": kind, "text": text}]}


@dataclass
class Storing:
    """An upstream that stores turns: `turns` by id are what it was asked with, its answer, and the turn before."""

    turns: dict[str, tuple[list[Any], list[Any], str | None]]
    answer: str = "fine"
    page: int = 100
    extra: Mapping[str, Any] = field(default_factory=dict)
    posts: int = 0
    fetched: list[str] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    streams: bool = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["method"] == "POST":
            self.posts += 1
            if self.streams:
                return await self._send(send, 200, response_events(self.answer), b"text/event-stream")
            return await self._send(send, 200, json.dumps(whole_response(self.answer)).encode())
        self.keys.add(dict(scope["headers"]).get(b"authorization"))
        name, _, rest = scope["path"].removeprefix(f"{PATH}/").partition("/")
        self.fetched.append(scope["path"])
        if name not in self.turns:
            return await self._send(send, 404, b"{}")
        asked, told, before = self.turns[name]
        if rest == "input_items":
            after = httpx.QueryParams(scope["query_string"].decode()).get("after")
            start = int(after.removeprefix("msg_")) if after else 0
            items = asked[start : start + self.page]
            more = start + self.page < len(asked)
            return await self._send(send, 200, json.dumps(
                {"object": "list", "data": items, "has_more": more, "last_id": f"msg_{start + self.page}"}
            ).encode())  # fmt: skip
        document = {**whole_response(""), "id": name, "output": told, "previous_response_id": before, **self.extra}
        return await self._send(send, 200, json.dumps(document).encode())

    async def _send(self, send: Any, status: int, body: bytes, media: bytes = b"application/json") -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", media)]})
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def ask(proxy: Proxy, previous: str | None = "resp_b", key: str | None = None, **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return await proxy.client.post(
        PATH, json={"model": "m", "input": "and now?", "previous_response_id": previous, **fields}, headers=headers
    )


CHAIN = {
    "resp_b": ([message("second")], [message("told", "assistant")], "resp_a"),
    "resp_a": ([message("first")], [message("told before", "assistant")], None),
}


async def test_by_default_a_stored_turn_is_refused_and_nothing_is_asked() -> None:
    upstream = Storing(CHAIN)
    async with proxied(config(), upstream=upstream) as proxy:
        refused = await ask(proxy)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "previous_response_id")
    assert (upstream.posts, upstream.fetched) == (0, [])


async def test_every_turn_of_the_chain_is_fetched_and_judged_with_the_request() -> None:
    upstream = Storing(CHAIN)
    async with proxied(config(RESOLVE, upstreams=UPSTREAMS), upstream=upstream) as proxy:
        answer = await ask(proxy)
        judged = [request.text for request in proxy.classifier.requests]
    assert answer.status_code == 200
    assert {"second", "told", "first", "told before", "and now?"} <= set(judged)
    assert (upstream.posts, len(upstream.fetched)) == (1, 4)


@pytest.mark.parametrize("place", ["asked", "told", "first", "page"])
@pytest.mark.parametrize("timing", ["before", "parallel"])
async def test_a_violation_in_any_stored_turn_blocks_before_the_model_is_asked(place: str, timing: str) -> None:
    turns = {
        "resp_b": ([message(BAD if place == "asked" else "second")], [message(BAD if place == "told" else "x", "assistant")], "resp_a"),
        "resp_a": ([message("one"), message(BAD if place == "page" else "two")], [message(BAD if place == "first" else "y")], None),
    }
    upstream = Storing(turns, page=1)
    async with proxied(config({**RESOLVE, "timing": timing}, upstreams=UPSTREAMS), upstream=upstream) as proxy:
        blocked = await ask(proxy)
    assert (blocked.status_code, blocked.json()["error"]["code"]) == (400, "content_filter")
    assert BAD not in blocked.text
    if timing == "before":
        assert upstream.posts == 0


def split_rule(text: str) -> float:
    found = [text.find(piece) for piece in ("one third", "another third", "the last third")]
    return 0.97 if 0 <= found[0] < found[1] < found[2] else 0.02


SPLIT = {
    "resp_b": ([message("hello"), message("this is another third")], [message("go on", "assistant")], "resp_a"),
    "resp_a": ([message("this is one third")], [message("go on", "assistant")], None),
}


@pytest.mark.parametrize("given", ["and the last third", [message("and the last third")], [message("and"), message("the last third")]])
async def test_a_payload_split_over_stored_turns_and_the_request_is_judged_joined(given: Any) -> None:
    upstream, classifier = Storing(SPLIT), ScriptedClassifier({"*": split_rule})
    async with proxied(config(RESOLVE, upstreams=UPSTREAMS), upstream=upstream, classifier=classifier) as proxy:
        assert (await ask(proxy, input=given)).status_code == 400
        (event,) = proxy.sink.of(DecisionMade)
        (found,) = event.decision.violations
        assert found.part.startswith("previous_response_id[1].input[0].content[0].text+previous_response_id[0].input[0].")
        assert proxy.classifier.batches == 1
    for scope in ("each", "latest_turn"):
        async with proxied(config({**RESOLVE, "scope": scope}, upstreams=UPSTREAMS), upstream=upstream, classifier=classifier) as proxy:
            assert (await ask(proxy, input=given)).status_code == 200


async def test_an_earlier_turn_is_still_mended_where_what_stored_turns_say_with_it_violates_too() -> None:
    def rule(text: str) -> float:
        return 0.97 if "forbidden" in text or ("one third" in text and "something" in text) else 0.02

    upstream, classifier = Storing(SPLIT), ScriptedClassifier({"*": rule})
    settings = config({**RESOLVE, "history": "drop"}, upstreams=UPSTREAMS)
    async with proxied(settings, upstream=upstream, classifier=classifier) as proxy:
        given = [message(BAD), message("no", "assistant"), message("harmless")]
        assert (await ask(proxy, input=given)).headers["x-guardrail-history"] == "drop"
        assert upstream.posts == 1


@pytest.mark.parametrize(
    ("turns", "extra"),
    [
        ({}, {}),
        ({"resp_b": ([message("x")], [], "resp_gone")}, {}),
        ({"resp_b": ([message("x")], [], "resp_b")}, {}),
        ({"resp_b": ([message("x")], [], "../files")}, {}),
        ({"resp_b": ([{"type": "item_reference", "id": "msg_7"}], [], None)}, {}),
        ({"resp_b": ([message("x")], [], None)}, {"id": "resp_other"}),
        ({"resp_b": ([message("x")], [], None)}, {"status": "in_progress"}),
        ({"resp_b": ([message("x")], [], None)}, {"conversation": {"id": "conv_1"}}),
        ({"resp_b": ([message("x")], [], None)}, {"prompt": {"id": "pmpt_1"}}),
        ({"resp_b": ([message("x")], [], None)}, {"output": "x"}),
        ({f"resp_{n}": ([message("x")], [], f"resp_{n + 1}") for n in range(40)} | {"resp_b": ([message("x")], [], "resp_0")}, {}),
        ({"resp_b": ([message("x")] * 2_049, [], None)}, {}),
    ],
)
async def test_what_cannot_be_fetched_or_read_is_refused(turns: Any, extra: Any) -> None:
    upstream = Storing(turns, extra=extra, page=5_000)
    async with proxied(config({**RESOLVE, "unscannable": "pass", "on_error": "pass"}, upstreams=UPSTREAMS), upstream=upstream) as proxy:
        refused = await ask(proxy)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "previous_response_id")
    assert upstream.posts == 0


async def test_stored_turns_are_bounded_in_bytes_and_in_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(RESOLVE, upstreams=UPSTREAMS)
    for name, value in (("MOST_BYTES", 100), ("MOST_FETCHES", 3)):
        upstream = Storing(CHAIN)
        async with proxied(settings, upstream=upstream) as proxy:
            with monkeypatch.context() as patch:
                patch.setattr(stored, name, value)
                assert (await ask(proxy)).status_code == 400
        assert upstream.posts == 0


async def test_a_picture_in_a_stored_turn_is_up_to_the_routes_unscannable_policy() -> None:
    picture = {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "https://x.example/a.png"}]}
    for policy, status in (("block", 400), ("pass", 200)):
        async with proxied(
            config({**RESOLVE, "unscannable": policy}, upstreams=UPSTREAMS), upstream=Storing({"resp_b": ([picture], [], None)})
        ) as proxy:
            assert (await ask(proxy)).status_code == status


async def test_the_models_own_hidden_reasoning_in_a_stored_turn_is_no_reason_to_refuse() -> None:
    told = [{"type": "reasoning", "id": "rs_1", "summary": []}, message("told", "assistant")]
    async with proxied(config(RESOLVE, upstreams=UPSTREAMS), upstream=Storing({"resp_b": ([message("x")], told, None)})) as proxy:
        assert (await ask(proxy)).status_code == 200


TENANTS = {name: {"api_keys": [hash_key(f"key-of-{name}-long-enough")]} for name in ("acme", "orbit")}


@pytest.mark.parametrize("mode", ["whole", "hold", "window"])
@pytest.mark.parametrize("output", [["harassment"], []])
async def test_an_answer_is_continued_by_the_tenant_it_was_given_to_alone(mode: str, output: list[str]) -> None:
    streams = mode != "whole"
    upstream = Storing({"resp_1": ([message("first")], [message("told", "assistant")], None)}, streams=streams)
    route = {**RESOLVE, "output": {"policies": output}, "stream": {"mode": "window" if mode == "window" else "hold"}}
    settings = config(route, upstreams=UPSTREAMS, tenants=TENANTS)
    async with proxied(settings, upstream=upstream) as proxy:
        acme, orbit = (f"key-of-{name}-long-enough" for name in ("acme", "orbit"))
        assert (await ask(proxy, "resp_1", acme)).status_code == 400
        assert (await ask(proxy, None, acme, stream=streams)).status_code == 200
        assert upstream.fetched == []
        assert (await ask(proxy, "resp_1", acme)).status_code == 200
        refused = await ask(proxy, "resp_1", orbit)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unresolved_turns")
    assert upstream.keys == {None}  # a tenant's key is ours


async def test_a_blocked_answer_is_not_continued() -> None:
    upstream = Storing({"resp_1": ([message("first")], [message("fine", "assistant")], None)}, answer=BAD)
    async with proxied(config(RESOLVE, upstreams=UPSTREAMS, tenants=TENANTS), upstream=upstream) as proxy:
        key = "key-of-acme-long-enough"
        assert (await ask(proxy, None, key)).json()["status"] == "incomplete"
        assert (await ask(proxy, "resp_1", key)).status_code == 400


def limited(**limits: int) -> Config:
    return config(RESOLVE, upstreams=UPSTREAMS, server={"limits": limits})


@pytest.mark.parametrize("limit", ["prompt_characters", "characters_per_minute"])
async def test_stored_turns_are_part_of_the_longest_prompt(limit: str) -> None:
    upstream = Storing({"resp_b": ([message("x" * 80)], [message("told", "assistant")], None)})
    for most, status in ((91, 400), (92, 200)):  # 8 in the request, 84 in the turn
        async with proxied(limited(**{limit: most}), upstream=upstream) as proxy:
            answer = await ask(proxy)
            assert answer.status_code == status
            if status == 400:
                assert (answer.json()["error"]["code"], proxy.classifier.requests, upstream.posts) == ("prompt_too_long", [], 0)


async def test_stored_turns_count_towards_the_characters_of_a_minute_and_what_is_refused_does_not() -> None:
    upstream = Storing({"resp_b": ([message("x" * 80)], [message("told", "assistant")], None)})
    async with proxied(limited(characters_per_minute=192), upstream=upstream) as proxy:
        assert [(await ask(proxy)).status_code for _ in range(2)] == [200, 200]
        judged = len(proxy.classifier.requests)
        refused = await ask(proxy)
        assert (refused.status_code, upstream.posts) == (429, 2)
        assert int(refused.headers["retry-after"]) > 3  # for 92 characters, not for the request's own 8
        assert len(proxy.classifier.requests) == judged
        assert (await ask(proxy, None)).status_code == 200  # with the 8 that are left


def test_a_bounded_number_of_ids_is_remembered_for_each_tenant() -> None:
    given = HandedOut(most=2)
    given.add("b", {"id": "resp_0"})
    for number in range(3):
        given.add("a", {"id": f"resp_{number}"})
    assert [given.has("a", f"resp_{number}") for number in range(3)] == [False, True, True]
    assert given.has("b", "resp_0")


@pytest.mark.parametrize("kind", ["embedded", "litellm"])
def test_resolving_is_refused_at_load_for_upstreams_that_store_nothing(kind: str) -> None:
    section = {"kind": kind} | ({"model_prefix": "anthropic/"} if kind == "litellm" else {})
    with pytest.raises(ConfigError, match="stored_turns"):
        open_guard(config(RESOLVE, upstreams={"main": section}))
