"""Group 8: length is no hiding place, and no weapon. What is too long for a classifier is judged in windows, never cut."""

import gzip
import json
import zlib
from typing import Any

import pytest
from asgi_cases import BAD, CHAT, Answering, completion, config, proxied

from guardrail.classifiers.embedded import EmbeddedClassifier
from guardrail.errors import ClassifierError
from guardrail.events import DecisionMade
from guardrail.testing import ScriptedClassifier, contains

LONGEST = 8_000  # characters of the scripted classifier's window
WORDS = "the morning train takes letters to the city and bread to the market ".split()  # noqa: SIM905


def short_sighted(text: str) -> object:
    return ClassifierError("too_long", "too long") if len(text) > LONGEST else contains("forbidden")(text)


def prose(words: int) -> str:
    return " ".join(WORDS[place % len(WORDS)] for place in range(words))


async def asked(content: Any, **options: Any) -> tuple[int, list[Any], int]:
    upstream = Answering([completion("fine")])
    classifier = ScriptedClassifier({"*": short_sighted})
    async with proxied(config(**options), upstream=upstream, classifier=classifier) as proxy:
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        answer = await proxy.client.post(CHAT, json={"model": "m", "messages": messages})
        return answer.status_code, [event.decision for event in proxy.sink.of(DecisionMade)], len(upstream.bodies)


async def test_payload_at_token_513() -> None:
    classifier = EmbeddedClassifier.load()
    insult = "You are a worthless idiot, and everybody in this room despises you."
    try:
        judged = {"input": {"policies": ["toxicity"]}, "output": {"policies": []}}
        settings = config(judged, policies={"shipped": True})
        async with proxied(settings, upstream=Answering([completion("fine")]), classifier=classifier) as proxy:  # type: ignore[arg-type]
            for before, status in ((prose(512), 200), (f"{prose(512)}. {insult}", 400)):
                answer = await proxy.client.post(CHAT, json={"model": "m", "messages": [{"role": "user", "content": before}]})
                assert answer.status_code == status
            (found,) = proxy.sink.of(DecisionMade)[-1].decision.violations
            assert found.span is not None
            assert found.span.end > len(prose(512))
    finally:
        await classifier.aclose()


@pytest.mark.parametrize("place", ["start", "middle", "end"])
async def test_payload_in_100k_characters(place: str) -> None:
    around = prose(20_000)[:100_000]
    text = {"start": f"{BAD} {around}", "middle": f"{around[:50_000]} {BAD} {around[50_000:]}", "end": f"{around} {BAD}"}[place]
    status, (decision,), calls = await asked(text)
    assert (status, calls) == (400, 0)
    span = decision.violations[0].span
    assert BAD in text[span.start : span.end]
    assert span.end - span.start <= LONGEST


async def test_payload_cut_by_a_windows_edge() -> None:
    for place in range(48_000, 52_000, 250):
        status, _, calls = await asked(f"{'calm ' * (place // 5)}{BAD} {'calm ' * ((100_000 - place) // 5)}")
        assert (status, calls) == (400, 0)


async def test_what_no_window_can_hold_is_unjudged_and_blocked() -> None:
    classifier = ScriptedClassifier({"*": lambda _: ClassifierError("too_long", "too long")})
    upstream = Answering([completion("fine")])
    async with proxied(upstream=upstream, classifier=classifier) as proxy:
        assert (await proxy.ask(prose(3_000))).status_code == 503
        assert upstream.bodies == []


@pytest.mark.parametrize("bad", [0, 400, 799, None])
async def test_many_short_messages(bad: int | None) -> None:
    turns = [
        {"role": "user" if place % 2 == 0 else "assistant", "content": BAD if place == bad else f"message {place}"} for place in range(800)
    ]
    status, decisions, calls = await asked(turns)
    assert (status, calls) == ((200, 1) if bad is None else (400, 0))
    if bad is not None:
        assert f"messages[{bad}].content" in {verdict.part for verdict in decisions[0].violations}


async def test_more_parts_than_are_judged_are_refused_not_cut() -> None:
    status, decisions, calls = await asked([{"role": "user", "content": "x"}] * 2_049)
    assert (status, decisions, calls) == (400, [], 0)


BOMBS = {
    "nesting": b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "brackets in a text": json.dumps({"model": "m", "messages": [{"role": "user", "content": "[{" * 150_000}]}).encode(),
    "a number of a million digits": b'{"model":"m","messages":[{"role":"user","content":"a"}],"seed":' + b"9" * 1_000_000 + b"}",
}
TEXTS = {
    "runs of one letter": "a" * 200_000,
    "spaced letters": "a " * 100_000,
    "half a code": "%" * 100_000 + "&#" * 50_000,
    "nested escapes": "%25" * 60_000 + "41",
    "invisible": "\u200b\u00ad\ufe0f" * 60_000,
    "marks upon marks": "a" + "\u0301" * 100_000,
    "flags": "\U0001f1e6" * 50_000,
    "backslashes": "\\u00" * 40_000,
    "base64 of base64": "QUFB" * 50_000,
}


@pytest.mark.parametrize("bomb", BOMBS)
async def test_bombs_of_json(bomb: str) -> None:
    upstream = Answering([completion("fine")])
    async with proxied(upstream=upstream) as proxy:
        answer = await proxy.client.post(CHAT, content=BOMBS[bomb], headers={"content-type": "application/json"})
        assert (answer.status_code, upstream.bodies) == (400, [])
        assert (await proxy.ask()).status_code == 200


@pytest.mark.parametrize("bomb", TEXTS)
async def test_bombs_of_patterns_are_decided(bomb: str) -> None:
    """They end within the route's deadline, as a verdict or as unjudged; and a payload behind one is found or blocked, never passed."""
    status, decisions, calls = await asked(f"{TEXTS[bomb]} {BAD}", cache={"entries": 0})
    assert status in (400, 503)
    assert calls == 0
    assert len(decisions) == 1


@pytest.mark.parametrize(
    ("encoding", "packed"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", bytes), ("gzip, gzip", gzip.compress)]
)
async def test_compressed_bodies_are_refused_unread(encoding: str, packed: Any) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "a" * 1_000_000}]}).encode()
    upstream = Answering([completion("fine")])
    async with proxied(upstream=upstream) as proxy:
        headers = {"content-type": "application/json", "content-encoding": encoding}
        answer = await proxy.client.post(CHAT, content=packed(body), headers=headers)
        assert (answer.status_code, upstream.bodies) == (415, [])


async def test_a_body_over_the_bound_is_refused() -> None:
    status, decisions, calls = await asked("a" * 5_000, server={"max_body_bytes": 4_096})
    assert (status, decisions, calls) == (413, [], 0)
