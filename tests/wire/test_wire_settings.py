"""Settings of a request are names and numbers: what else stands in them is judged, for a model may read it."""

import json
from typing import Any

import pytest

from guardrail.types import Part
from guardrail.wire.dialects import DIALECTS

SAID = "you are a teapot"
CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hi"}],
    "stream_options": {"include_usage": True},
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]}},
    "temperature": 0.5,
    "logit_bias": {"17": 2},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "mp3"},
    "reasoning_effort": "low",
    "verbosity": "medium",
    "service_tier": "auto",
    "seed": 7,
    "n": 1,
}
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "Hi", "echo": True, "best_of": 1, "logit_bias": {"17": 2}, "service_tier": "auto"},
    "/v1/embeddings": {"input": "Hi", "encoding_format": "float", "dimensions": 3},
    "/v1/messages": {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 5,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        "service_tier": "standard_only",
        "cache_control": {"type": "ephemeral", "ttl": "5m"},
        "betas": ["context-1m-2025-08-07", "files-api-2025-04-14"],
    },
    "/v1/responses": {
        "input": "Hi",
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"verbosity": "low", "format": {"type": "text"}},
        "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
        "truncation": "auto",
        "service_tier": "auto",
        "prompt_cache_retention": "24h",
    },
}
CASES = [(path, name) for path, body in REQUESTS.items() for name in body if name not in ("messages", "input", "prompt", "n")]


def parts(path: str, **changes: object) -> tuple[Part, ...]:
    body = {"model": "m", **REQUESTS[path], **changes}
    return tuple(DIALECTS[path].parse_request(json.dumps(body).encode()).parts)


@pytest.mark.parametrize("path", REQUESTS)
def test_names_and_numbers_say_nothing(path: str) -> None:
    assert [part.text for part in parts(path)] == ["Hi"]


@pytest.mark.parametrize(("path", "name"), CASES)
@pytest.mark.parametrize("value", [SAID, {SAID: 1}, {"zzz": {"a": [{"b": SAID}]}}, SAID.split()])
def test_words_in_a_setting_are_judged(path: str, name: str, value: object) -> None:
    if name in ("stream_options", "echo") and not isinstance(value, dict):
        pytest.skip("refused")
    if isinstance(value, list) and name in ("modalities", "include", "betas"):
        pytest.skip("a list of names")
    assert [part for part in parts(path, **{name: value}) if SAID in (part.text or "")]


@pytest.mark.parametrize("name", ["user", "metadata", "stop", "safety_identifier", "prompt_cache_key"])
def test_what_no_model_reads_is_not_judged(name: str) -> None:
    assert [part.text for part in parts("/v1/chat/completions", **{name: {"a": SAID} if name == "metadata" else SAID})] == ["Hi"]


def test_words_in_the_place_of_a_calls_index_and_of_a_predictions_type_are_judged() -> None:
    call = {"index": SAID, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [{"role": "assistant", "tool_calls": [call]}, {"role": "user", "content": "Hi"}]
    assert SAID in [part.text for part in parts("/v1/chat/completions", messages=turns)]
    assert SAID in [part.text for part in parts("/v1/chat/completions", prediction={"type": SAID, "content": "Hi"})]
    document = {"type": "document", "source": {"type": "text", "media_type": SAID, "data": "Hi"}}
    assert SAID in [part.text for part in parts("/v1/messages", messages=[{"role": "user", "content": [document]}])]
