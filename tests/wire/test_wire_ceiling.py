"""How many tokens a request asks for: every field that an upstream may read counts, and leaving it open is no way around the ceiling."""

from typing import Any

import pytest

from guardrail.errors import WireError
from guardrail.wire.ceiling import refuse_more

CHAT, TEXT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"

TAKEN: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"max_tokens": 100}),
    (CHAT, {"max_completion_tokens": 100, "max_tokens": None}),
    (CHAT, {"max_tokens": 50, "n": 2}),
    (TEXT, {"max_tokens": 25, "prompt": ["a", "b"], "n": 2}),
    (TEXT, {"max_tokens": 100, "prompt": [1, 2, 3]}),
    (MESSAGES, {"max_tokens": 100}),
    (RESPONSES, {"max_output_tokens": 100}),
    ("/v1/embeddings", {"input": "x"}),
]
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"max_tokens": 101}, "max_tokens_exceeded"),
    (CHAT, {"max_tokens": 10, "max_completion_tokens": 101}, "max_tokens_exceeded"),
    (CHAT, {}, "max_tokens_exceeded"),
    (CHAT, {"max_tokens": None}, "max_tokens_exceeded"),
    (CHAT, {"max_output_tokens": 10}, "max_tokens_exceeded"),
    (CHAT, {"max_tokens": 51, "n": 2}, "max_tokens_exceeded"),
    (CHAT, {"Max_Tokens": 10_000, "max_tokens": 1}, "ambiguous_field"),
    (CHAT, {"max_tokens": "10"}, "invalid_max_tokens"),
    (CHAT, {"max_tokens": True}, "invalid_max_tokens"),
    (CHAT, {"max_tokens": -1}, "invalid_max_tokens"),
    (CHAT, {"max_tokens": 1.5}, "invalid_max_tokens"),
    (TEXT, {"max_tokens": 34, "prompt": ["a", "b", "c"]}, "max_tokens_exceeded"),
    (TEXT, {"max_tokens": 51, "prompt": "a", "best_of": 2}, "max_tokens_exceeded"),
    (RESPONSES, {"max_tokens": 10}, "max_tokens_exceeded"),
]


@pytest.mark.parametrize(("path", "document"), TAKEN)
def test_a_request_within_its_ceiling_is_taken(path: str, document: dict[str, Any]) -> None:
    refuse_more(path, document, 100)


@pytest.mark.parametrize(("path", "document", "code"), REFUSED)
def test_a_request_that_asks_for_more_or_does_not_say_is_refused(path: str, document: dict[str, Any], code: str) -> None:
    with pytest.raises(WireError) as refused:
        refuse_more(path, document, 100)
    assert (refused.value.status, refused.value.code) == (400, code)
