"""All readings, policies, messages and choices of one stage are one classify call, and exchanges at the same time share passes."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from asgi_cases import CHAT, EVENTS, POLICIES, Answering, completion, config, proxied, stream
from tiny import model_file

from guardrail.classifiers.embedded import EmbeddedClassifier
from guardrail.engine.embedded.scorer import Scorer
from guardrail.testing import ScriptedClassifier

HIDDEN = "please read " + base64.b64encode(b"the other text that stands behind this code").decode()
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"where": "there"}'}}
TURNS: dict[str, list[dict[str, Any]]] = {
    CHAT: [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": HIDDEN}, {"type": "text", "text": "and this"}], "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
        {"role": "user", "content": "go on"},
    ],
    "/v1/messages": [
        {"role": "user", "content": HIDDEN},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "look", "input": {"where": "there"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "found"}, {"type": "text", "text": "go on"}]},
    ],
    "/v1/responses": [
        {"role": "user", "content": HIDDEN},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "found"},
        {"role": "user", "content": "go on"},
    ],
}


def two_policies(folder: Path) -> dict[str, Any]:
    text = (Path(POLICIES["folder"]) / "harassment.md").read_text(encoding="utf-8")
    for name in ("one", "two"):
        changed = text.replace("id: harassment", f"id: {name}", 1).replace("## Overview\n", f"## Overview\n\nThis is {name}.\n", 1)
        (folder / f"{name}.md").write_text(changed, encoding="utf-8")
    return {"folder": str(folder), "shipped": False}


@pytest.mark.parametrize("path", TURNS)
async def test_a_prompt_is_one_call(path: str, tmp_path: Path) -> None:
    section = {"policies": ["one", "two"]}
    settings = config({"path": path, "input": section, "output": {"policies": []}}, policies=two_policies(tmp_path))
    async with proxied(settings, upstream=Answering([b"{}"])) as proxy:
        await proxy.client.post(path, json={"model": "m", "input" if "responses" in path else "messages": TURNS[path], "max_tokens": 9})
        texts = {request.text for request in proxy.classifier.requests}
        assert proxy.classifier.batches == 1
        assert "please read the other text that stands behind this code" in texts  # the disguise undone is a row of the same call
        assert {"go on", "found"} <= texts
        assert any("go on" in text and HIDDEN in text for text in texts)  # so is what the user said in several turns
        asked = [(request.policy.id, request.text) for request in proxy.classifier.requests]
        assert len(asked) == len(set(asked)) == 2 * len(texts)


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_of_several_choices_is_one_call(streamed: bool, tmp_path: Path) -> None:
    section = {"policies": ["one", "two"]}
    settings = config({"path": CHAT, "input": {"policies": []}, "output": section}, policies=two_policies(tmp_path))
    upstream = Answering([completion("first", "second", HIDDEN)])
    if streamed:
        frames = [json.loads(piece[6:]) for piece in stream("some", " words") if piece != b"data: [DONE]\n\n"]
        several = [
            {**frame, "choices": [{**choice, "index": index} for choice in frame["choices"] for index in range(3)]} for frame in frames
        ]
        upstream = Answering(
            [*(b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in several), b"data: [DONE]\n\n"], headers=EVENTS
        )
    async with proxied(settings, upstream=upstream) as proxy:
        assert (await proxy.ask(n=3, stream=streamed)).status_code == 200
        assert proxy.classifier.batches == 1
        assert {request.policy.id for request in proxy.classifier.requests} == {"one", "two"}


async def test_exchanges_at_the_same_time_share_the_embedded_models_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    advance = Scorer.advance

    def counted(self: Scorer, readings: Any) -> None:
        passes.append(len(readings))
        advance(self, readings)

    monkeypatch.setattr(Scorer, "advance", counted)
    classifier = EmbeddedClassifier.load(model_file(tmp_path))
    section = {"policies": [{"id": "harassment", "threshold": 1.0}]}
    settings = config({"input": section, "output": {"policies": []}, "normalize": "off", "deadline_ms": 60_000})
    try:
        async with proxied(settings, upstream=Answering([completion("fine")]), classifier=classifier) as proxy:  # type: ignore[arg-type]
            answers = await asyncio.gather(*(proxy.ask(f"question {number}") for number in range(16)))
            assert {answer.status_code for answer in answers} == {200}
            assert sum(passes) == 16
            assert len(passes) <= 8  # the first goes at once and alone; who comes meanwhile goes together
            passes.clear()
            await proxy.ask("alone")
            assert passes == [1]
    finally:
        await classifier.aclose()


async def test_a_lone_question_waits_for_nobody() -> None:
    """There is no timer that collects: a classifier is asked as soon as the question is there."""
    classifier = ScriptedClassifier()
    async with proxied(upstream=Answering([completion("fine")]), classifier=classifier) as proxy:
        await proxy.ask("alone")
        assert [request.text for request in classifier.requests] == ["alone", "fine"]
