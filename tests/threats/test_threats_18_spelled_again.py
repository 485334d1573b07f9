"""Group 18: what was taken out of an answer, or withheld, is not spelled again in numbers, or token by token, anywhere in what is told."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from asgi_cases import EVENTS, Answering, config, proxied
from protocol_cases import CASES

from guardrail.testing import ScriptedClassifier, contains

SAID = "The code is forbidden today."
CODES = [60_101, 60_102]
TOKEN = {"token": "ZQMARK", "logprob": 0.0, "bytes": CODES}
AGAIN: dict[str, Any] = {
    "token_ids": CODES,
    "logprobs": {"content": [TOKEN]},
    "prompt_logprobs": [None, {"60101": {"logprob": 0.0, "decoded_token": "ZQMARK"}}],
    "made_of": {"deep": [{"codes": [CODES]}]},
}
UNCOUNTED = {"usage"}  # numbers of its own


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every object in a document."""
    if isinstance(value, dict):
        yield path
        for key, child in value.items():
            if key not in UNCOUNTED:
                yield from places(child, (*path, key))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from places(child, (*path, number))


def with_again(document: Any, path: tuple[Any, ...], name: str) -> Any:
    copy = here = json.loads(json.dumps(document))
    for step in path:
        here = here[step]
    here[name] = AGAIN[name]
    return copy


def whole(case: Any) -> Iterator[tuple[str, bytes]]:
    document = json.loads(case.answer(SAID))
    for path in places(document):
        for name in AGAIN:
            yield f"{path}.{name}", json.dumps(with_again(document, path, name)).encode()


def streamed(case: Any) -> Iterator[tuple[str, bytes]]:
    events = case.stream(SAID).split(b"\n\n")
    seen = set()
    if not events[0].startswith(b"event:"):
        frames = [
            b"data: " + json.dumps({"id": "c", "object": "o", "model": "m", "choices": [], name: AGAIN[name]}).encode() for name in AGAIN
        ]
        yield "frames of their own", b"\n\n".join([*frames, *events])
    for number, event in enumerate(events):
        head, found, data = event.rpartition(b"data: ")
        if not found or not data.startswith(b"{"):
            continue
        document = json.loads(data)
        for path in places(document):
            kind = (document.get("type"), path)
            if number > 2 and kind in seen:  # of many deltas some are enough
                continue
            seen.add(kind)
            for name in AGAIN:
                changed = head + b"data: " + json.dumps(with_again(document, path, name)).encode()
                yield f"{number} {kind}.{name}", b"\n\n".join([*events[:number], changed, *events[number + 1 :]])


@pytest.mark.parametrize("action", ["redact", "block"])
@pytest.mark.parametrize("mode", ["whole", "hold", "window"])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.generates])
async def test_nothing_spells_it_again(name: str, mode: str, action: str) -> None:
    case = CASES[name]
    route = {
        "input": {"policies": []},
        "output": {"policies": [{"id": "harassment", "action": action}]},
        "unscannable": "pass",
        "stream": {"mode": "hold" if mode == "whole" else mode, "window": 20, "overlap": 10},
    }
    upstream = Answering([b""])
    leaks = []
    async with proxied(config(route), upstream=upstream, classifier=ScriptedClassifier({"*": contains("forbidden")})) as proxy:
        for what, body in whole(case) if mode == "whole" else streamed(case):
            upstream.pieces, upstream.headers = [body], Answering([]).headers if mode == "whole" else EVENTS
            told = (await proxy.client.post(case.path, json=case.request("Hello.", mode != "whole"))).text
            assert "forbidden" not in told
            if "60101" in told or "ZQMARK" in told:
                leaks.append(what)
    assert sorted(leaks) == []
