"""Whole exchanges in the shapes of the public API references, byte for byte: what is allowed passes as it is, what is not is replaced.

`request.json` is what a client sends, `answer.json` and `answer.sse` what an upstream answers; `withheld.json` and `withheld.sse` are what
a client gets instead where the answer's last words are not allowed.
"""

import json
from pathlib import Path

import pytest
from asgi_cases import EVENTS, Answering, config, proxied

from guardrail.testing import ScriptedClassifier, contains
from guardrail.wire.dialects import DIALECTS

FIXTURES = Path(__file__).parent / "fixtures"
PATHS = {
    "chat": "/v1/chat/completions",
    "chat_tools": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
}
ANSWERS = [(folder.name, answer.name) for folder in sorted(FIXTURES.iterdir()) for answer in sorted(folder.glob("answer.*"))]
SAID = [answer for answer in ANSWERS if answer[0] != "embeddings"]
WORD = "marmalade"  # among the last words of each answer, and in two pieces of a stream


def request(name: str, *, streamed: bool) -> bytes:
    body = (FIXTURES / name / "request.json").read_bytes()
    return body.replace(b"{", b'{\n  "stream": true,', 1) if streamed else body


async def exchange(name: str, answer: str, mode: str = "hold", word: str = WORD) -> tuple[int, bytes, list[bytes]]:
    """What the client got, and what the upstream was sent."""
    content, streamed = (FIXTURES / name / answer).read_bytes(), answer.endswith("sse")
    upstream = Answering([content[place : place + 700] for place in range(0, len(content), 700)], headers=EVENTS)
    if not streamed:
        upstream = Answering([content])
    settings = config({"path": PATHS[name], "stream": {"mode": mode}})
    async with proxied(settings, upstream=upstream, classifier=ScriptedClassifier({"*": contains(word)})) as proxy:
        body = request(name, streamed=streamed)
        got = await proxy.client.post(PATHS[name], content=body, headers={"content-type": "application/json"})
    assert got.headers["content-type"].startswith("text/event-stream" if streamed and got.status_code == 200 else "application/json")
    return got.status_code, got.content, upstream.bodies


def test_every_protocol_has_a_fixture() -> None:
    assert {PATHS[folder.name] for folder in FIXTURES.iterdir()} == set(DIALECTS)
    for name, path in PATHS.items():
        assert (FIXTURES / name / "answer.sse").exists() == (DIALECTS[path].collector is not None)


@pytest.mark.parametrize(("name", "answer"), ANSWERS)
async def test_an_allowed_exchange_passes_byte_for_byte(name: str, answer: str) -> None:
    status, content, sent = await exchange(name, answer, word="nothing of it")
    assert status == 200
    assert content == (FIXTURES / name / answer).read_bytes()
    assert sent == [request(name, streamed=answer.endswith("sse"))]


@pytest.mark.parametrize(("name", "answer"), [pair for pair in SAID if pair[1].endswith("json")])
def test_a_streamed_answer_is_read_as_the_same_parts_as_the_whole_one(name: str, answer: str) -> None:
    dialect = DIALECTS[PATHS[name]]
    assert dialect.collector is not None
    collector = dialect.collector(1 << 20)
    collector.receive((FIXTURES / name / "answer.sse").read_bytes())
    collector.finish()
    whole = dialect.parse_answer((FIXTURES / name / answer).read_bytes())
    assert [(part.choice, part.text) for part in collector.parts()] == [(part.choice, part.text) for part in whole.parts]
    assert any(WORD in (part.text or "") for part in whole.parts)
    assert b"".join(collector.release()) == (FIXTURES / name / "answer.sse").read_bytes()


@pytest.mark.parametrize(("name", "answer"), SAID)
async def test_a_withheld_answer_is_replaced_byte_for_byte(name: str, answer: str) -> None:
    status, content, _ = await exchange(name, answer)
    assert status == 200
    assert WORD.encode() not in content
    assert content == (FIXTURES / name / answer.replace("answer", "withheld")).read_bytes()


@pytest.mark.parametrize(("name", "answer"), [pair for pair in SAID if pair[1].endswith("sse")])
@pytest.mark.parametrize("mode", ["window", "overlap"])
async def test_what_is_let_out_while_it_is_judged_ends_before_the_words_that_are_not_allowed(name: str, answer: str, mode: str) -> None:
    status, content, _ = await exchange(name, answer, mode)
    assert status == 200
    for piece in (WORD, "malade"):
        assert piece.encode() not in content
    status, allowed, _ = await exchange(name, answer, mode, word="nothing of it")
    assert status == 200
    assert b"malade" in allowed


@pytest.mark.parametrize("name", PATHS)
async def test_a_blocked_request_is_refused_in_the_protocols_own_envelope(name: str) -> None:
    status, content, sent = await exchange(name, "answer.json", word="ferry")
    assert (status, sent) == (400, [])
    document = json.loads(content)
    assert document["error"]["code"] == "content_filter"
    assert (document.get("type") == "error") == (name == "messages")
