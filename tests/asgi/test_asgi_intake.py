"""Only a content type that every reader understands alike is taken."""

import pytest
from asgi_cases import BODY, CHAT, Answering, completion, proxied


@pytest.mark.parametrize(
    "value",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json ; Charset=Utf-8 ",
    ],
)
async def test_json_in_utf8_is_taken(value: str) -> None:
    async with proxied(upstream=Answering([completion("x")])) as proxy:
        assert (await proxy.client.post(CHAT, content=BODY, headers={"content-type": value})).status_code == 200


@pytest.mark.parametrize(
    "parameters",
    [
        "charset=utf-7",
        "charset=us-ascii",
        "charset*=us-ascii''utf-7",
        "charset*0=utf-7",
        "charset =utf-8",
        "charset=utf-8; charset=utf-7",
        "charset=utf-8; charset=utf-8",
        "charset='utf-8'",
        'charset="utf-8',
        "charset=utf-8; boundary=x",
        "version=1",
        'x="; charset=utf-8"',
    ],
)
async def test_every_other_parameter_of_the_content_type_is_refused(parameters: str) -> None:
    upstream = Answering([completion("x")])
    async with proxied(upstream=upstream) as proxy:
        response = await proxy.client.post(CHAT, content=BODY, headers={"content-type": f"application/json; {parameters}"})
        assert (response.status_code, response.json()["error"]["code"], upstream.bodies) == (415, "unsupported_charset", [])
