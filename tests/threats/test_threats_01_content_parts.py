"""Group 1: a text is found in whichever part of a list it stands, and beside whatever stands there."""

from typing import Any

import pytest
from asgi_cases import BAD
from protocol_cases import IMAGE, PDF
from threat_cases import CHAT, MESSAGES, RESPONSES, refused, served, user

WORDS = {"type": "text", "text": "hello"}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
IN_PARTS = {"unscannable": "pass"}


def text(said: str = BAD) -> dict[str, Any]:
    return {"type": "text", "text": said}


def result(content: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t", "content": content}


def document(source: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "document", "source": source, **fields}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param([text()], id="a list of one part"),
        pytest.param([WORDS, text()], id="the second part"),
        pytest.param([WORDS] * 9 + [text()], id="the tenth part"),
        pytest.param([text("something forb"), text("idden")], id="cut across two parts"),
        pytest.param([{"text": BAD}], id="a part without a type"),
        pytest.param([BAD], id="a bare string in a list"),
        pytest.param([{"type": "input_text", "text": BAD}], id="another protocol's part"),
        pytest.param([{"type": "brand_new", "words": {"deep": [BAD]}}], id="a part of an unknown type"),
    ],
)
async def test_the_text_of_each_content_part_is_judged(content: Any) -> None:
    await refused(CHAT, user(content), IN_PARTS)


@pytest.mark.parametrize("content", [[IMAGE, text()], [text(), IMAGE], [IMAGE, WORDS, IMAGE, text()]])
async def test_a_text_beside_pictures_is_judged_even_where_pictures_pass(content: Any) -> None:
    await refused(CHAT, user(content), IN_PARTS)


async def test_a_picture_beside_a_harmless_text_is_up_to_the_route() -> None:
    body = user([text("hello"), IMAGE])
    response = await refused(CHAT, body)
    assert response.json()["error"]["guardrail"]["unscannable"]
    assert (await served(CHAT, body, IN_PARTS)).headers["x-guardrail-decision"] == "unjudged"


@pytest.mark.parametrize(
    "given",
    [
        pytest.param([{"role": "user", "content": [{"type": "input_text", "text": BAD}]}], id="nested"),
        pytest.param(
            [{"role": "user", "content": [{"type": "input_text", "text": "x"}, {"type": "input_text", "text": BAD}]}], id="second"
        ),
        pytest.param([{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": BAD}]}], id="output_text"),
        pytest.param(
            [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": BAD}]}], id="in an output"
        ),
        pytest.param(
            [{"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}, {"type": "input_text", "text": BAD}]}],
            id="behind a picture",
        ),
    ],
)
async def test_nested_parts_of_responses_are_judged(given: Any) -> None:
    await refused(RESPONSES, {"model": "m", "input": given}, IN_PARTS)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(result(BAD), id="tool_result as a string"),
        pytest.param(result([text()]), id="tool_result as a list"),
        pytest.param(result([PICTURE, text()]), id="tool_result behind a picture"),
        pytest.param(result([text("x"), document({"type": "text", "media_type": "text/plain", "data": BAD})]), id="document in a result"),
        pytest.param(document({"type": "text", "media_type": "text/plain", "data": BAD}), id="document of text"),
        pytest.param(document({"type": "content", "content": [text()]}), id="document of blocks"),
        pytest.param(document({"type": "content", "content": BAD}), id="document of a string"),
        pytest.param({**PDF, "title": BAD}, id="title of a document"),
        pytest.param({**PDF, "context": BAD}, id="context of a document"),
        pytest.param({"type": "search_result", "source": "s", "title": "t", "content": [text()]}, id="search_result"),
        pytest.param({"type": "search_result", "source": "s", "title": BAD, "content": []}, id="title of a search_result"),
        pytest.param({"type": "search_result", "source": BAD, "title": "t", "content": []}, id="source of a search_result"),
    ],
)
async def test_anthropics_blocks_are_judged_to_their_last_field(block: Any) -> None:
    await refused(MESSAGES, user([text("hello"), block]), IN_PARTS)
