"""The check endpoints: the proxy's own decision, without a model's answer, in five dialects."""

import json
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi_cases import BAD, CHAT, POLICIES, Answering, completion, config, proxied

from guardrail.asgi.judging import CHECK_ENDPOINTS
from guardrail.config.models import Config
from guardrail.config.tenants import hash_key
from guardrail.errors import ClassifierError
from guardrail.events import DecisionMade, RequestRefused
from guardrail.testing import ScriptedClassifier, contains
from guardrail.types import Action
from guardrail.wire.check import parse_check

CHECK, LABEL, MODERATIONS, LITELLM = "/v1/guard/check", "/v1/label", "/v1/moderations", "/beta/litellm_basic_guardrail_api"
CONTENTS, FMS_CHAT = "/api/v1/text/contents", "/api/v1/text/chat"
HIDDEN: list[dict[str, Any]] = [
    {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f", "description": BAD}]},
    {"type": "mcp", "server_label": "s", "server_url": "https://x.example"},
]
ASKS: dict[str, dict[str, Any]] = {
    CHECK: {"text": BAD},
    LABEL: {"content_text": BAD, "labeler_id": "harassment"},
    MODERATIONS: {"input": BAD},
    LITELLM: {"input_type": "request", "texts": [BAD], "request_data": {}},
    CONTENTS: {"contents": [BAD]},
    FMS_CHAT: {"messages": [{"role": "user", "content": BAD}]},
    "/api/v1/text/generation": {"prompt": "hi", "generated_text": BAD},
    "/api/v1/text/context/doc": {"content": BAD, "context_type": "docs", "context": ["a page"]},
}
TWO = {"routes": [
    {"name": "loose", "model": "m*", "input": {"policies": [{"id": "harassment", "threshold": 0.99}]}},
    {"name": "strict", "model": "other", "path": CHAT, "input": {"policies": ["harassment"]}},
]}  # fmt: skip


@pytest.fixture
async def proxy() -> AsyncIterator[Any]:
    async with proxied() as running:
        yield running


async def ask(proxy: Any, path: str, /, **body: Any) -> httpx.Response:
    return await proxy.client.post(path, json=body)


def test_every_endpoint_is_asked_here() -> None:
    assert ASKS.keys() == {endpoint.path for endpoint in CHECK_ENDPOINTS}


@pytest.mark.parametrize("path", ASKS)
async def test_a_check_decides_once_asks_no_upstream_and_echoes_nothing_but_what_was_asked_for(path: str) -> None:
    upstream = Answering([completion("x")])
    async with proxied(upstream=upstream) as proxy:
        response = await ask(proxy, path, **ASKS[path])
        assert (response.status_code, upstream.bodies) == (200, [])
        (made,) = proxy.sink.of(DecisionMade)
        assert made.decision.action is Action.BLOCK
        assert response.headers["x-guardrail-decision-id"] == made.decision.id
        assert (b"forbidden" in response.content) == (path == CONTENTS)  # a detection names the text it is about


@pytest.mark.parametrize("path", ASKS)
@pytest.mark.parametrize("on_error", ["block", "pass"])
async def test_a_classifier_that_fails_is_an_error_and_no_harmless_answer(path: str, on_error: str) -> None:
    classifier = ScriptedClassifier(fault=ClassifierError("crash", "x"))
    async with proxied(config({"on_error": on_error}), classifier=classifier) as proxy:
        response = await ask(proxy, path, **ASKS[path])
        if path == CHECK:
            assert (response.json()["unjudged"], response.json()["action"]) == (True, on_error)
        elif path == LITELLM and on_error == "pass":
            assert (response.json()["action"], response.headers["x-guardrail-decision"]) == ("NONE", "unjudged")
        else:
            assert response.status_code == 503


@pytest.mark.parametrize("path", [path for path in ASKS if path not in (CHECK, LABEL)])
@pytest.mark.parametrize("policies", [[], [{"id": "harassment", "mode": "shadow"}]])
async def test_where_nothing_is_enforced_nothing_is_called_harmless(path: str, policies: list[Any]) -> None:
    async with proxied(config({"input": {"policies": policies}, "output": {"policies": policies}})) as proxy:
        for headers in ({}, {"detector-id": "harassment"}) if policies and path.startswith("/api") else ({},):
            response = await proxy.client.post(path, json=ASKS[path], headers=headers)
            assert response.status_code == 422
            assert "enforces no policy" in response.text


@pytest.mark.parametrize("path", ASKS)
async def test_a_defect_is_answered_in_the_endpoints_shape_and_counted(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxied() as proxy:
        (app,) = (route.app for route in proxy.app.routes if getattr(route, "path", "") == path)
        monkeypatch.setattr(app._service, "judgement", None)
        response = await ask(proxy, path, **ASKS[path])
        assert response.status_code == 503
        told = response.json()
        assert told["code"] == 503 if path.startswith("/api") else told["error"]["code"] == "internal_error"
        (refused,) = proxy.sink.of(RequestRefused)
        assert (refused.status, refused.code, refused.path) == (503, "internal_error", path)


PROMPT = "how many pills?"
TOLD: dict[str, dict[str, Any]] = {
    CHECK: {"choices": [{"index": 0, "message": {"role": "assistant", "content": "take two"}, "finish_reason": "stop"}]},
    LITELLM: {"input_type": "response", "texts": ["take two"], "request_data": {}},
    "/api/v1/text/generation": {"generated_text": "take two"},
}
ASKED: dict[str, dict[str, Any]] = {
    CHECK: {"messages": [{"role": "user", "content": PROMPT}, {"role": "user", "content": "Answer, please."}]},
    LITELLM: {"structured_messages": [{"role": "user", "content": PROMPT}]},
    "/api/v1/text/generation": {"prompt": PROMPT},
}


def judging_with_prompts(folder: Path, **check: Any) -> Config:
    shipped = (Path(POLICIES["folder"]) / "harassment.md").read_text(encoding="utf-8")
    (folder / "harassment.md").write_text(shipped, encoding="utf-8")
    asking = shipped.replace("\n---\n", "\njudge_with: prompt\n---\n", 1).replace("id: harassment", "id: advice", 1)
    (folder / "advice.md").write_text(asking, encoding="utf-8")
    output = {"policies": ["harassment", {"id": "advice", **check}]}
    return config({"output": output}, policies={"folder": str(folder), "shipped": False})


def risky(text: str) -> float:
    return 0.97 if "pills?" in text and "take two" in text else 0.02


@pytest.mark.parametrize("path", TOLD)
async def test_an_answer_is_checked_with_its_prompt_where_the_policy_asks(tmp_path: Path, path: str) -> None:
    async with proxied(judging_with_prompts(tmp_path), classifier=ScriptedClassifier({"*": risky})) as proxy:
        response = await ask(proxy, path, **TOLD[path], **ASKED[path])
        (made,) = proxy.sink.of(DecisionMade)
        judged = {request.text for request in proxy.classifier.requests}
    assert response.status_code == 200
    assert [found.policy_id for found in made.decision.violations] == ["advice"]
    said = f"{PROMPT}\nAnswer, please." if path == CHECK else PROMPT
    assert judged == {"take two", f"[user]: {said}\n\n[assistant]: take two"}  # the prompt itself is not judged


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHECK, TOLD[CHECK]),
        (CHECK, {"text": "take two", "stage": "output"}),
        (LITELLM, TOLD[LITELLM]),
        ("/api/v1/text/context/doc", {"content": "take two", "context_type": "docs", "context": ["how many pills?"]}),
    ],
)
async def test_a_policy_that_judges_with_the_prompt_is_not_asked_without_one(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    async with proxied(judging_with_prompts(tmp_path)) as proxy:
        response = await ask(proxy, path, **body)
        assert (response.status_code, proxy.classifier.requests) == (422, [])
        assert "'advice' judges answers with the prompt" in response.text
    async with proxied(judging_with_prompts(tmp_path, mode="shadow")) as proxy:  # changes nothing, and is not named
        assert (await ask(proxy, path, **body)).status_code == 200
        (made,) = proxy.sink.of(DecisionMade)
        assert [verdict.policy_id for verdict in made.decision.verdicts] == ["harassment"]


async def test_a_prompt_that_is_shown_counts_as_text_of_the_caller(tmp_path: Path) -> None:
    limits = {"limits": {"prompt_characters": len("take two") + len(PROMPT) - 1}}
    settings = judging_with_prompts(tmp_path).model_dump() | {"server": limits}
    async with proxied(Config.model_validate(settings)) as proxy:
        path = "/api/v1/text/generation"
        response = await ask(proxy, path, **TOLD[path], **ASKED[path])
        assert (response.status_code, proxy.classifier.requests) == (400, [])


async def test_a_large_question_is_read_beside_the_event_loop(proxy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    (app,) = (route.app for route in proxy.app.routes if getattr(route, "path", "") == CHECK)

    def parse(body: bytes, headers: Any) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return parse_check(body, headers)

    monkeypatch.setattr(app, "_endpoint", replace(app._endpoint, parse=parse))
    for text in ("hello", "hello " * 50_000):
        assert (await ask(proxy, CHECK, text=text)).status_code == 200
    assert threads == [True, False]


@pytest.mark.parametrize("path", ASKS)
@pytest.mark.parametrize("spelling", ["/{0}", "{0}/", "/x/..{0}", "%2F{1}", "{2}"])
async def test_another_spelling_of_a_check_is_not_found(proxy: Any, path: str, spelling: str) -> None:
    url = "http://guard" + spelling.format(path, path[1:], path.upper())
    response = await proxy.client.post(httpx.URL(url), json=ASKS[path])
    assert response.status_code == 404 or httpx.URL(url).path == path


@pytest.mark.parametrize("path", ASKS)
async def test_what_is_no_question_is_refused(proxy: Any, path: str) -> None:
    for content in (b"", b"[]", b"{", b'{"a":1,"a":2}', b"{}", b'{"input":[1,2],"text":5,"contents":[5],"texts":5}'):
        response = await proxy.client.post(path, content=content)
        assert response.status_code in (400, 422), content
    assert (await proxy.client.get(path)).status_code == 405
    assert proxy.classifier.requests == []


@pytest.mark.parametrize("path", ASKS)
async def test_tenants_need_their_key_and_are_judged_by_their_own_routes(path: str) -> None:
    tenants = {"acme": {"api_keys": [hash_key("acme-key")]}, "orbit": {"api_keys": [hash_key("orbit-key")]}}
    loose = {"policies": [{"id": "harassment", "threshold": 0.99}]}
    routes = [
        {"name": "a", "tenant": "acme", "input": {"policies": ["harassment"]}},
        {"name": "o", "tenant": "orbit", "input": loose, "output": loose},
    ]
    settings = Config.model_validate({"routes": routes, "tenants": tenants, "policies": POLICIES})
    async with proxied(settings) as proxy:
        assert (await ask(proxy, path, **ASKS[path])).status_code == 401
        for key in ("acme-key", "orbit-key"):
            response = await proxy.client.post(path, json=ASKS[path], headers={"authorization": f"Bearer {key}"})
            assert response.status_code == 200
        decided = [(made.decision.tenant, made.decision.action) for made in proxy.sink.of(DecisionMade)]
        assert decided == [("acme", Action.BLOCK), ("orbit", Action.PASS)]


class TestGuardCheck:
    @pytest.mark.parametrize("content", ["hello", BAD, [{"type": "text", "text": "for"}, {"type": "text", "text": "bidden"}]])
    @pytest.mark.parametrize("threshold", [0.5, 0.99])
    async def test_it_decides_what_the_proxy_decides(self, content: Any, threshold: float) -> None:
        policies = {"policies": [{"id": "harassment", "threshold": threshold}]}
        async with proxied(config({"input": policies}), upstream=Answering([completion("ok")])) as proxy:
            messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": content}]
            told = (await ask(proxy, CHECK, messages=messages, model="m")).json()
            answered = await proxy.client.post(CHAT, json={"model": "m", "messages": messages})
            assert told["decision"] == answered.headers["x-guardrail-decision"].split(",")[0]
            one, other = (made.decision for made in proxy.sink.of(DecisionMade)[:2])
            assert [(v.part, v.policy_digest, v.score, v.threshold) for v in one.verdicts] == [
                (v.part, v.policy_digest, v.score, v.threshold) for v in other.verdicts
            ]

    async def test_an_answer_is_judged_choice_by_choice(self, proxy: Any) -> None:
        for body in (
            {"choices": [{"index": 0, "message": {"content": "ok"}}, {"index": 1, "message": {"content": BAD}}]},
            {"stage": "output", "messages": [{"role": "assistant", "content": "ok"}, {"role": "assistant", "content": BAD}]},
        ):
            told = (await ask(proxy, CHECK, **body)).json()
            assert (told["stage"], told["action"]) == ("output", "block")
            assert [(v["choice"], v["violation"]) for v in told["verdicts"]] == [(0, False), (1, True)]

    async def test_the_whole_decision_is_told(self, proxy: Any) -> None:
        told = (await ask(proxy, CHECK, text=BAD)).json()
        (verdict,) = told.pop("verdicts")
        assert told.pop("id")
        assert told.pop("duration_ms") >= 0
        assert told.pop("policy_set").startswith("sha256:")
        assert told == {
            "object": "guardrail.decision", "decision": "block", "action": "block", "shadow_action": "block", "judged": True,
            "flagged": True, "unjudged": False, "unavailable": False, "stage": "input", "route": "default", "tenant": "default",
            "generation": 1, "unscannable": [],
        }  # fmt: skip
        assert (verdict["policy"], verdict["score"], verdict["violation"], verdict["part"]) == ("harassment", 0.97, True, "text")

    async def test_a_part_that_cannot_be_read_is_told(self, proxy: Any) -> None:
        image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
        told = (await ask(proxy, CHECK, messages=[{"role": "user", "content": image}])).json()
        assert (told["action"], told["unscannable"], told["judged"]) == ("block", ["messages[0].content[0]"], False)

    async def test_a_route_is_found_by_name_or_as_the_proxy_finds_it_and_never_guessed(self) -> None:
        settings = Config.model_validate({**TWO, "policies": POLICIES})
        async with proxied(settings) as proxy:
            found = {}
            for name, place in {
                "first": {}, "named": {"route": "strict"}, "matched": {"model": "other"}, "wrong": {"route": "nope"},
                "unserved": {"model": "other", "path": "/v1/elsewhere"}, "both": {"route": "strict", "model": "other"},
                "path": {"path": CHAT},
            }.items():  # fmt: skip
                response = await ask(proxy, CHECK, text=BAD, **place)
                found[name] = response.json().get("route") or response.status_code
            assert found == {
                "first": "loose", "named": "strict", "matched": "strict", "wrong": 404, "unserved": 404, "both": 400, "path": 400
            }  # fmt: skip

    async def test_nothing_in_the_body_weakens_what_is_checked(self, proxy: Any) -> None:
        for extra in ({"policies": []}, {"threshold": 1}, {"guardrails": {}}, {"Stage": "output"}, {"mode": "shadow"}):
            assert (await ask(proxy, CHECK, text=BAD, **extra)).status_code == 400

    async def test_a_stage_that_is_not_checked_is_told_as_not_judged(self) -> None:
        async with proxied(config({"output": {"policies": []}})) as proxy:
            told = (await ask(proxy, CHECK, text=BAD, stage="output")).json()
            assert (told["judged"], told["action"]) == (False, "pass")


class TestLabel:
    async def test_a_policy_by_its_id_and_criteria_of_ones_own(self, proxy: Any) -> None:
        for how in ({"labeler_id": "harassment", "labeler_version_id": "latest"}, {"criteria_text": "Mentions of forbidden things."}):
            told = (await ask(proxy, LABEL, content_text=BAD, model="cope-latest", **how)).json()
            assert (told["label"], round(told["confidence"], 6), told["explanation"]) == ("1", 0.97, None)
            told = (await ask(proxy, LABEL, content_text="hello", **how)).json()
            assert (told["label"], round(told["confidence"], 6)) == ("0", 0.98)
            assert told["model"] == "scripted"

    async def test_confidence_is_that_of_the_label_whatever_the_threshold(self) -> None:
        policies = {"policies": [{"id": "harassment", "threshold": 0.2}]}
        async with proxied(config({"input": policies}), classifier=ScriptedClassifier({"*": 0.4})) as proxy:
            told = (await ask(proxy, LABEL, content_text="x", labeler_id="harassment")).json()
            assert (told["label"], told["confidence"], told["score"], told["threshold"]) == ("1", 0.625, 0.4, 0.2)

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({"content_text": "x"}, 400),
            ({"content_text": "x", "criteria_text": "a", "labeler_id": "harassment"}, 400),
            ({"content_text": "x", "criteria_text": "a", "labeler_version_id": "1"}, 400),
            ({"content_text": "x", "criteria_text": ""}, 422),
            ({"content_text": "x", "criteria_text": "y" * 40_000}, 422),
            ({"content_text": "x", "labeler_id": "nope"}, 404),
            ({"content_text": "x", "labeler_id": "harassment", "labeler_version_id": "9.9.9"}, 404),
            ({"content_text": " ", "labeler_id": "harassment"}, 422),
            ({"content_image": "data:image/png;base64,AA", "labeler_id": "harassment"}, 422),
        ],
    )
    async def test_what_cannot_be_labelled_is_refused(self, proxy: Any, body: dict[str, Any], status: int) -> None:
        assert (await ask(proxy, LABEL, **body)).status_code == status

    async def test_criteria_never_push_out_the_policies_in_force(self, proxy: Any) -> None:
        for number in range(70):
            await ask(proxy, LABEL, content_text="x", criteria_text=f"Mentions of the number {number}.")
            assert "harassment" in [policy.id for policy in proxy.classifier.prepared]


class TestModerations:
    async def test_each_input_has_its_result_and_categories_are_policies(self, proxy: Any) -> None:
        told = (await ask(proxy, MODERATIONS, input=["hello", BAD, ""], model="omni-moderation-latest")).json()
        assert [result["flagged"] for result in told["results"]] == [False, True, False]
        assert told["results"][1]["categories"] == {"harassment": True}
        assert told["results"][1]["category_scores"] == {"harassment": 0.97}
        assert [result["category_applied_input_types"]["harassment"] for result in told["results"]] == [["text"], ["text"], []]

    async def test_parts_are_one_input_and_an_image_is_not_called_harmless(self, proxy: Any) -> None:
        told = (await ask(proxy, MODERATIONS, input=[{"type": "text", "text": "for"}, {"type": "text", "text": "bidden"}])).json()
        assert [result["flagged"] for result in told["results"]] == [True]
        image = {"type": "image_url", "image_url": {"url": "http://x/y.png"}}
        assert (await ask(proxy, MODERATIONS, input=[{"type": "text", "text": "hi"}, image])).status_code == 422

    async def test_the_model_may_name_a_route_and_shadow_policies_are_not_told(self) -> None:
        quiet = {"name": "quiet", "input": {"policies": [{"id": "harassment", "mode": "shadow"}]}}
        loud = {"name": "loud", "model": "x", "input": {"policies": ["harassment"]}}
        async with proxied(Config.model_validate({"routes": [loud, quiet], "policies": POLICIES})) as proxy:
            assert [
                (await ask(proxy, MODERATIONS, input=BAD, **model)).json()["results"][0]["categories"] for model in ({}, {"model": "loud"})
            ] == [{"harassment": True}, {"harassment": True}]
            assert (await ask(proxy, MODERATIONS, input=BAD, model="quiet")).status_code == 422

    async def test_a_route_without_input_policies_cannot_moderate(self) -> None:
        async with proxied(config({"input": {"policies": []}})) as proxy:
            assert (await ask(proxy, MODERATIONS, input=BAD)).status_code == 422


class TestLiteLLM:
    async def test_every_text_of_the_request_is_judged(self, proxy: Any) -> None:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"q": BAD})}}
        for body in (
            {"texts": ["hello", BAD]},
            {"structured_messages": [{"role": "tool", "content": BAD, "tool_call_id": "c"}]},
            {"tool_calls": [call]},
            {"images": ["data:image/png;base64,AA"]},
            {"something_new": BAD},
        ):
            for kind in ("request", "response"):
                told = (await ask(proxy, LITELLM, input_type=kind, request_data={}, **body)).json()
                blocked = not (kind == "response" and "structured_messages" in body)
                assert told == ({"action": "BLOCKED", "blocked_reason": "Blocked by content policy."} if blocked else
                                {"action": "NONE", "blocked_reason": None})  # fmt: skip

    async def test_the_callers_facts_do_not_block(self, proxy: Any) -> None:
        told = await ask(
            proxy, LITELLM, input_type="request", texts=["hi"], request_data={"user_api_key_alias": BAD},
            additional_provider_specific_params={"route": "default"},
        )  # fmt: skip
        assert told.json()["action"] == "NONE"

    @pytest.mark.parametrize(("definitions", "action"), [("judge", "BLOCKED"), ("trust", "NONE")])
    async def test_tool_definitions_are_judged_unless_the_route_trusts_them(self, definitions: str, action: str) -> None:
        tools = [{"type": "function", "function": {"name": "f", "description": BAD}}]
        async with proxied(config({"definitions": definitions})) as proxy:
            told = await ask(proxy, LITELLM, input_type="request", texts=["hi"], tools=tools)
        assert told.json()["action"] == action

    @pytest.mark.parametrize("tool", HIDDEN)
    async def test_no_tool_hides_what_it_says_or_fetches(self, tool: dict[str, Any], proxy: Any) -> None:
        assert (await ask(proxy, LITELLM, input_type="request", texts=["hi"], tools=[tool])).json()["action"] == "BLOCKED"

    async def test_a_route_that_is_not_there_is_an_error(self, proxy: Any) -> None:
        extra = {"route": "nope"}
        response = await ask(proxy, LITELLM, input_type="request", texts=["hi"], additional_provider_specific_params=extra)
        assert response.status_code == 404


class TestDetectors:
    async def test_each_content_has_its_detections_with_their_places(self, proxy: Any) -> None:
        told = (await ask(proxy, CONTENTS, contents=["hello", BAD], detector_params={"threshold": 1})).json()
        assert told == [[], [{"start": 0, "end": len(BAD), "text": BAD, "detection": "harassment", "detection_type": "harassment",
                              "score": 0.97}]]  # fmt: skip

    async def test_a_detector_is_a_policy(self, proxy: Any) -> None:
        found = {}
        for name in ("guardrail", "harassment", "nope"):
            response = await proxy.client.post(CONTENTS, json={"contents": [BAD]}, headers={"detector-id": name})
            found[name] = len(response.json()[0]) if response.status_code == 200 else response.json()
        assert found == {"guardrail": 1, "harassment": 1, "nope": {"code": 404, "message": "There is no such policy."}}

    async def test_conversations_and_generated_texts(self, proxy: Any) -> None:
        detection = [{"detection": "harassment", "detection_type": "harassment", "score": 0.97}]
        for path in (FMS_CHAT, "/api/v1/text/generation", "/api/v1/text/context/doc"):
            assert (await ask(proxy, path, **ASKS[path])).json() == detection

    @pytest.mark.parametrize("definitions", ["judge", "trust"])
    async def test_tool_definitions_are_judged_unless_the_route_trusts_them(self, definitions: str) -> None:
        tools = [{"type": "function", "function": {"name": "f", "description": BAD}}, HIDDEN[0]]
        async with proxied(config({"definitions": definitions})) as proxy:
            for headers in ({}, {"detector-id": "harassment"}):
                body = {"messages": [{"role": "user", "content": "hi"}], "tools": tools}
                told = (await proxy.client.post(FMS_CHAT, json=body, headers=headers)).json()
                assert [found["detection_type"] for found in told] == (["harassment"] if definitions == "judge" else [])

    @pytest.mark.parametrize("tools", [HIDDEN[1:2], HIDDEN[1], "mcp"])
    async def test_what_a_tool_fetches_cannot_be_checked(self, tools: Any, proxy: Any) -> None:
        response = await ask(proxy, FMS_CHAT, messages=[{"role": "user", "content": "hi"}], tools=tools)
        assert (response.status_code, response.json()["code"]) == (422, 422)


async def test_a_full_house_is_told_to_checks_too() -> None:
    classifier = ScriptedClassifier({"*": contains("forbidden")})
    async with proxied(config(server={"max_in_flight": 1}), classifier=classifier) as proxy:
        with _occupied(proxy):
            assert (await ask(proxy, CHECK, text="x")).status_code == 503


def _occupied(proxy: Any) -> Any:
    """The only place taken."""
    (app,) = (route.app for route in proxy.app.routes if getattr(route, "path", "") == CHECK)
    return app._service.place()
