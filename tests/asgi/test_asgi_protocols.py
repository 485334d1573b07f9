"""Every guarded protocol through the whole proxy: same decision streamed or not, nothing of what was blocked gets out."""

import json
import re
from typing import Any

import pytest
from asgi_cases import BAD, EVENTS, Answering, config, proxied
from protocol_cases import CASES, Protocol

from guardrail.asgi.hold import WholeAnswer
from guardrail.config.models import GUARDED_PATHS
from guardrail.wire.answer import UNREADABLE
from guardrail.wire.dialects import DIALECTS

STREAMED = [(name, stream) for name, case in CASES.items() for stream in (False, True) if case.streams or not stream]
JSON = ((b"content-type", b"application/json"),)


def upstream(case: Protocol, text: str, stream: bool) -> Answering:
    return Answering([case.stream(text)] if stream else [case.answer(text)], headers=EVENTS if stream else JSON)


def test_every_guarded_path_has_its_dialect_and_its_cases() -> None:
    assert set(DIALECTS) == set(GUARDED_PATHS) == {case.path for case in CASES.values()}


@pytest.mark.parametrize(("name", "stream"), STREAMED)
async def test_an_allowed_exchange_passes_byte_for_byte(name: str, stream: bool) -> None:
    case = CASES[name]
    behind = upstream(case, "kind words", stream)
    body = json.dumps(case.request("hello", stream)).encode()
    async with proxied(upstream=behind) as proxy:
        response = await proxy.client.post(case.path, content=body, headers={"content-type": "application/json"})
        assert (response.status_code, response.content) == (200, behind.pieces[0])
        assert behind.bodies == [body]
        assert response.headers["x-guardrail-decision"] == "allow"


@pytest.mark.parametrize(("name", "stream"), STREAMED)
async def test_a_blocked_prompt_reaches_no_upstream_and_is_a_bad_request_in_the_protocols_shape(name: str, stream: bool) -> None:
    case = CASES[name]
    behind = upstream(case, "kind words", stream)
    async with proxied(upstream=behind) as proxy:
        response = await proxy.client.post(case.path, json=case.request(BAD, stream))
        assert (response.status_code, behind.bodies) == (400, [])
        case.check_error(response.json())
        assert b"forbidden" not in response.content


@pytest.mark.parametrize(("name", "stream"), [(name, stream) for name, stream in STREAMED if CASES[name].generates])
async def test_a_blocked_answer_is_withheld_whole(name: str, stream: bool) -> None:
    case = CASES[name]
    async with proxied(upstream=upstream(case, BAD, stream)) as proxy:
        response = await proxy.client.post(case.path, json=case.request("hello", stream))
        assert response.status_code == 200
        assert b"forbidden" not in response.content
        case.check_blocked(response.text, stream)


@pytest.mark.parametrize(("name", "stream"), [(name, stream) for name, stream in STREAMED if CASES[name].generates])
async def test_a_blocked_prompt_can_be_answered_as_a_refusal(name: str, stream: bool) -> None:
    case = CASES[name]
    async with proxied(config({"on_block": "reply"}), upstream=upstream(case, "x", stream)) as proxy:
        response = await proxy.client.post(case.path, json=case.request(BAD, stream))
        assert response.status_code == 200
        case.check_blocked(response.text, stream)


@pytest.mark.parametrize("name", CASES)
async def test_an_unreadable_part_blocks(name: str) -> None:
    case = CASES[name]
    behind = upstream(case, "x", False)
    async with proxied(upstream=behind) as proxy:
        for body in case.unreadable:
            response = await proxy.client.post(case.path, json=body)
            assert (response.status_code, behind.bodies) == (400, []), body
    async with proxied(config({"unscannable": "pass"}), upstream=behind) as proxy:
        response = await proxy.client.post(case.path, json=case.unreadable[0])
        assert (response.status_code, response.headers["x-guardrail-decision"]) == (200, "unjudged")


@pytest.mark.parametrize("name", CASES)
async def test_an_upstream_that_breaks_is_an_error_in_the_protocols_shape(name: str) -> None:
    case = CASES[name]
    for pieces, status, expected in (([b"{no"], 200, 502), ([b'{"error": {"message": "forbidden", "type": "x"}}'], 429, 429)):
        async with proxied(upstream=Answering(pieces, status=status)) as proxy:
            response = await proxy.client.post(case.path, json=case.request("hello", False))
            assert response.status_code == expected
            case.check_error(response.json())
            assert b"forbidden" not in response.content


@pytest.mark.parametrize(("name", "stream"), [(name, stream) for name, stream in STREAMED if stream])
async def test_a_stream_cut_anywhere_releases_nothing_of_a_bad_answer(name: str, stream: bool) -> None:
    case = CASES[name]
    whole = case.stream(BAD)
    for end in range(0, len(whole) - 14, 97):
        async with proxied(upstream=Answering([whole[:end]], headers=EVENTS)) as proxy:
            response = await proxy.client.post(case.path, json=case.request("hello", stream))
            assert b"forbidden" not in response.content
            assert response.status_code == 502 or case.whole_before(whole[:end])


@pytest.mark.parametrize("name", CASES)
async def test_a_case_variant_or_a_repeated_key_is_refused(name: str) -> None:
    case = CASES[name]
    body = case.request("hello", False)
    async with proxied(upstream=upstream(case, "x", False)) as proxy:
        for key in body:
            varied: dict[str, Any] = {(k.upper() if k == key else k): value for k, value in body.items()}
            response = await proxy.client.post(case.path, json=varied)
            assert response.status_code == 400, key
        doubled = json.dumps(body)[:-1] + ', "model": "other"}'
        assert (await proxy.client.post(case.path, content=doubled)).status_code == 400


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.streams])
def test_of_a_stream_that_broke_off_all_that_came_is_read_or_said_to_be_unread(name: str) -> None:
    """Broken off at every byte."""
    case = CASES[name]
    content = case.stream("QXZJKV")
    for cut in range(len(content)):
        collector = DIALECTS[case.path].collector
        assert collector is not None
        held = collector(1 << 20)
        held.receive(content[:cut])
        parts = held.begun()
        out = "".join(re.findall(r'"(?:content|text|delta)": "(\w)"', content[:cut].decode()))
        assert UNREADABLE in parts or out in "".join(part.text or "" for part in parts)
        assert UNREADABLE not in parts or not content[:cut].endswith(b"\n\n") or out == ""


@pytest.mark.parametrize("name", CASES)
def test_of_a_whole_answer_that_broke_off_nothing_is_said_to_be_read(name: str) -> None:
    case = CASES[name]
    content = case.answer("kind words")
    for pieces, parts in (([], ()), ([content[:-1]], (UNREADABLE,)), ([content], DIALECTS[case.path].parse_answer(content).parts)):
        held = WholeAnswer(DIALECTS[case.path], max_bytes=1 << 20)
        for piece in pieces:
            held.receive(piece)
        assert held.begun() == parts
