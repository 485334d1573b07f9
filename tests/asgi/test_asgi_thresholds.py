"""A policy with two thresholds: one score between them passes as a prompt and blocks as an answer, wherever it is asked."""

import json
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from asgi_cases import BAD, CHAT, EVENTS, POLICIES, Answering, Proxy, completion, config, proxied, stream

from guardrail.assembly import open_guard
from guardrail.config.models import Config
from guardrail.events import DecisionMade
from guardrail.policy.document import read
from guardrail.testing import ScriptedClassifier, contains
from guardrail.types import Stage

BETWEEN = 0.5
CHECK, LITELLM = "/v1/guard/check", "/beta/litellm_basic_guardrail_api"


def scripted() -> ScriptedClassifier:
    return ScriptedClassifier({"*": contains("forbidden", score=BETWEEN)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of one policy that asks more of a prompt than of an answer before it flags it."""
    shutil.copytree(str(POLICIES["folder"]), tmp_path / "own")
    file = tmp_path / "own" / "harassment.md"
    file.write_text(file.read_text().replace("threshold: 0.5", "threshold: {input: 0.8, output: 0.4}"))
    return tmp_path / "own"


def settings(folder: Path, route: Mapping[str, Any] | None = None, **sections: Any) -> Config:
    return config(route, **{"policies": {"folder": str(folder), "shipped": False}, **sections})


@pytest.fixture
async def proxy(folder: Path) -> AsyncIterator[Proxy]:
    upstream = Answering([completion("fine")])
    async with proxied(settings(folder), upstream=upstream, classifier=scripted()) as running:
        yield running


def judged(proxy: Proxy) -> list[tuple[str, float, bool]]:
    """Of each decision its stage, and the threshold and outcome of its one verdict."""
    return [
        (made.decision.stage.value, verdict.threshold, verdict.violation)
        for made in proxy.sink.of(DecisionMade)
        for verdict in made.decision.verdicts
    ]


async def test_through_the_proxy_the_prompt_passes_and_the_answer_is_blocked(folder: Path, proxy: Proxy) -> None:
    assert (await proxy.ask(BAD)).status_code == 200
    assert judged(proxy) == [("input", 0.8, False), ("output", 0.4, False)]
    async with proxied(settings(folder), upstream=Answering([completion(BAD)]), classifier=scripted()) as other:
        answer = await other.ask("hi")
        assert (answer.json()["choices"][0]["finish_reason"], "forbidden" in answer.text) == ("content_filter", False)
        assert judged(other) == [("input", 0.8, False), ("output", 0.4, True)]


@pytest.mark.parametrize("mode", ["hold", "window", "overlap", "watch"])
async def test_a_streamed_answer_is_judged_at_the_threshold_of_answers(folder: Path, mode: str) -> None:
    upstream = Answering(stream("Well then. ", BAD, ". And so on."), headers=EVENTS)
    async with proxied(settings(folder, {"stream": {"mode": mode}}), upstream=upstream, classifier=scripted()) as proxy:
        answer = await proxy.ask(BAD, stream=True)
    assert judged(proxy)[0] == ("input", 0.8, False)
    assert {each[1] for each in judged(proxy)[1:]} == {0.4}
    assert judged(proxy)[-1] == ("output", 0.4, True)
    assert mode == "watch" or "And so on" not in answer.text


async def test_the_check_endpoints_judge_what_they_are_told_it_is(proxy: Proxy) -> None:
    async def checked(path: str, **body: Any) -> Any:
        response = await proxy.client.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    found = [await checked(CHECK, text=BAD, stage=stage) for stage in Stage]
    assert [(each["action"], each["verdicts"][0]["threshold"]) for each in found] == [("pass", 0.8), ("block", 0.4)]
    told = [await checked(LITELLM, input_type=kind, texts=[BAD], request_data={}) for kind in ("request", "response")]
    assert [each["action"] for each in told] == ["NONE", "BLOCKED"]
    assert (await checked("/v1/moderations", input=BAD))["results"][0]["flagged"] is False
    label = await checked("/v1/label", content_text=BAD, labeler_id="harassment")
    assert (label["label"], label["threshold"]) == ("0", 0.8)
    assert (await checked("/api/v1/text/contents", contents=[BAD])) == [[]]
    assert len(await checked("/api/v1/text/generation", prompt="hi", generated_text=BAD)) == 1


async def test_a_routes_own_threshold_stands_over_both(folder: Path) -> None:
    use = {"policies": [{"id": "harassment", "threshold": 0.6}]}
    route = {"input": use, "output": use}
    async with proxied(settings(folder, route), upstream=Answering([completion(BAD)]), classifier=scripted()) as proxy:
        assert (await proxy.ask(BAD)).status_code == 200
    assert judged(proxy) == [("input", 0.6, False), ("output", 0.6, False)]


async def test_a_version_on_trial_has_its_own_two(folder: Path, tmp_path: Path) -> None:
    draft = tmp_path / "draft.md"
    text = (folder / "harassment.md").read_text().replace("{input: 0.8, output: 0.4}", "{input: 0.3, output: 0.7}")
    draft.write_text(text.replace("It is moderate.", "It is strict."))
    use = {"policies": [{"id": "harassment", "candidate": str(draft)}]}
    async with proxied(
        settings(folder, {"input": use, "output": use}), upstream=Answering([completion("so")]), classifier=scripted()
    ) as proxy:
        assert (await proxy.ask(BAD)).status_code == 200
    assert judged(proxy) == [("input", 0.8, False), ("input", 0.3, True), ("output", 0.4, False), ("output", 0.7, False)]


@pytest.mark.parametrize(("own", "expected"), [({}, 0.4), ({"threshold": 0.9}, 0.9)])
async def test_moderation_judges_answers_by_a_prompts_policy_at_its_threshold_of_answers(
    folder: Path, own: dict[str, Any], expected: float
) -> None:
    route = {"input": {"policies": [{"id": "harassment", **own}]}, "output": {"policies": []}}
    async with proxied(settings(folder, route), upstream=Answering([completion(BAD)]), classifier=scripted()) as proxy:
        answer = await proxy.client.post(CHAT, content=json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}],
                                                                   "moderation": {"model": "x"}}))  # fmt: skip
    assert answer.status_code == 200
    assert judged(proxy)[-1] == ("output", expected, expected == 0.4)


async def test_the_library_judges_a_policy_from_anywhere_at_its_threshold_of_the_stage(folder: Path) -> None:
    policy = read(folder / "harassment.md")
    async with open_guard(config(), classifiers={"embedded": scripted()}) as guard:  # it has another harassment in force
        found = [await guard.check(BAD, policies=[policy], stage=stage) for stage in Stage]
    assert [[(each.threshold, each.violation) for each in decision.verdicts] for decision in found] == [[(0.8, False)], [(0.4, True)]]
