"""Which paths are guarded: no spelling of a guarded path is ever taken for an unguarded one."""

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.asgi.paths import Kind, Paths, canonical

CHAT = "/v1/chat/completions"
paths = Paths({CHAT}, unguarded=["/v1/embeddings"])


def kind(path: str, raw: bytes | None = None, root: str = "") -> Kind:
    scope: dict[str, Any] = {"path": path, "raw_path": path.encode() if raw is None else raw, "root_path": root}
    return paths.kind(scope)


def test_only_the_exact_spelling_is_guarded() -> None:
    assert kind(CHAT) is Kind.GUARDED
    assert kind("/mounted" + CHAT, root="/mounted") is Kind.GUARDED
    assert kind(CHAT, raw=b"/v1/chat%2Fcompletions") is Kind.REFUSED
    assert kind("/other/chat/completions") is Kind.REFUSED


@pytest.mark.parametrize(
    "path", ["/v1/responses", "/v1/responses/resp_1/cancel", "/v1/completions", "/v1/threads/t/runs", "/v1/Embeddings"]
)
def test_inference_paths_that_are_not_understood_are_refused(path: str) -> None:
    assert kind(path) is Kind.REFUSED


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/chat/completions/chatcmpl-1", "/v1/chat/completions/chatcmpl-1/messages", "/v1/completions/cmpl-1"),
        *("/completion", "/infill", "/generate", "/generate_stream", "/invocations", "/v2/chat", "/api/embed", "/v1/rerank"),
        *("/v1beta/models/some:generateContent", "/v1beta/models/some:streamGenerateContent", "/v1beta/models/some:embedContent"),
        *("/model/some.model-1:0/invoke", "/model/arn:aws:bedrock:x%2Fy/converse", "/model/x/invoke-with-response-stream"),
        *("/model/x/Converse-Stream", "/v1/models/x:predict", "/v1/projects/p/locations/l/publishers/g/models/m:rawPredict"),
        *("/v1/publishers/g/models/m:streamRawPredict", "/v1/interactions", "/v1beta/interactions", "/v1/interactions/i1"),
        *("/v1/videos", "/v1/videos/v1/remix", "/v1/score", "/v1/classify", "/pooling"),
    ],
)
def test_stored_answers_and_native_endpoints_are_refused(path: str) -> None:
    assert kind(path) is Kind.REFUSED
    assert kind("/mounted" + path) is Kind.REFUSED


ODD = [chr(code) for code in range(0x21)] + ["\x7f", "#", "?", "%00", "%23", "%2523", "%250A", "%2%0A3"]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "spelled",
    [
        *("/v1/chat/completions{0}", "/v1/chat/completions{0}x", "/v1/chat/completions{0}x/y", "/v1/chat/completions{0}/../../../docs"),
        *("/v1/chat/completions/{0}", "/v1/ch\nat/completions{0}x", "/v1/x/../chat/completions{0}/..", "/v1/responses{0}x"),
    ],
)
def test_characters_that_parsers_drop_or_stop_at_hide_nothing(spelled: str, odd: str) -> None:
    path = spelled.format(odd)
    assert kind(path) is Kind.REFUSED
    assert kind(path, raw=quote(path).encode()) is Kind.REFUSED


@pytest.mark.parametrize("odd", [odd for odd in ODD if odd not in ("#", "?", "%23", "%2523", "%2%0A3")])
@pytest.mark.parametrize("place", [1, 5, 12, 19])
def test_characters_that_parsers_drop_split_no_word(place: int, odd: str) -> None:
    assert kind(CHAT[:place] + odd + CHAT[place:]) is Kind.REFUSED
    assert Paths({CHAT}).kind({"path": "/" + odd + "own" + CHAT, "raw_path": b""}) is Kind.REFUSED


@pytest.mark.parametrize("path", ["/search/c#", "/files/a name.txt", "/notes/one\ntwo", "/what?/is/this"])
def test_odd_characters_elsewhere_are_left_to_the_app(path: str) -> None:
    assert kind(path, raw=quote(path).encode()) is Kind.OTHER


@pytest.mark.parametrize("prefix", ["", "/v1", "/api/v1", "/openai/v1"])
@pytest.mark.parametrize(
    "ending",
    [
        "/responses",
        "/completions",
        "/messages",
        "/embeddings",
        "/api/chat",
        "/api/generate",
        "/realtime",
        "/images/generations",
        "/audio/speech",
        "/audio/transcriptions/",
    ],
)
def test_inference_paths_are_known_by_their_ending_wherever_they_are_mounted(prefix: str, ending: str) -> None:
    path = f"{prefix}{ending}"
    assert kind(path) is (Kind.OTHER if path == "/v1/embeddings" else Kind.REFUSED)
    assert Paths({CHAT}, unguarded=[path]).kind({"path": path, "raw_path": path.encode()}) is Kind.OTHER


def test_a_star_in_unguarded_stands_for_one_segment() -> None:
    rooms = Paths({CHAT}, unguarded=["/rooms/*/messages"])
    found = {path: rooms.kind({"path": path, "raw_path": path.encode()}) for path in (
        "/rooms/42/messages", "/rooms/4/2/messages", "/rooms//messages", "/rooms/../messages", "/rooms/;/messages", "/Rooms/42/messages",
    )}  # fmt: skip
    assert [path for path, what in found.items() if what is Kind.OTHER] == ["/rooms/42/messages"]


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/v1/embeddings", "/v1/models", "/v1/responsesheet", "/chat", "", "/invoke", "/model/x", "/score"]
)
def test_everything_else_is_left_to_the_app(path: str) -> None:
    assert kind(path) is Kind.OTHER


@given(
    st.lists(st.sampled_from(["/", "//", "/./", "/x/../", "\\", "%2f", "%252F", ";a=b/"]), min_size=3, max_size=3),
    st.booleans(),
    st.booleans(),
)
def test_no_other_spelling_gets_past(joints: list[str], upper: bool, escaped: bool) -> None:
    words = ["v1", "chat", "completions"]
    path = "".join(joint + word for joint, word in zip(joints, words, strict=True))
    if upper:
        path = path.upper()
    if escaped:
        path = path.replace("c", quote("c", safe="").replace("c", "%63"))
    assert canonical(path).endswith("/chat/completions")
    assert kind(path) is (Kind.GUARDED if path == CHAT else Kind.REFUSED)
