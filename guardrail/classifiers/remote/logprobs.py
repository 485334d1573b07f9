"""Where servers put the likeliest tokens of an answer.

| server, endpoint | within `choices[0].logprobs` |
|---|---|
| vLLM and SGLang, completions (OpenAI's legacy shape) | `top_logprobs: [{"1": -0.1, "0": -2.4}]` |
| vLLM with `return_tokens_as_token_ids` | the same with keys `token_id:235274` |
| llama.cpp, completions; all three, chat completions | `content: [{"top_logprobs": [{"token": "1", "logprob": -0.1}]}]` |

llama.cpp gives each token its `id` too. In the first shape tokens that decode to the same text fall together, and not always the
likelier one survives (in Gemma's vocabulary `1` and the byte `<0x31>` read alike); a list shorter than was asked for shows that it may
have happened.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from guardrail.classifiers.remote.digits import Digit, Shown, spelled
from guardrail.classifiers.remote.said import number
from guardrail.errors import ClassifierError

_ID = re.compile(r"token_id:(\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class DigitIds:
    """The token ids of the two answers, where the tokenizer is known."""

    zero: int
    one: int

    def digit(self, token: int) -> Digit | None:
        """Which of them an id is."""
        return "1" if token == self.one else "0" if token == self.zero else None


def shown(body: Mapping[str, object], ids: DigitIds | None, *, asked: int) -> Shown:
    """The likeliest first tokens of an answer, of which `asked` were asked for. Raises ClassifierError (malformed) without them."""
    match _first_choice(body).get("logprobs"):
        case {"content": [{"top_logprobs": list(entries)}, *_]} | {"top_logprobs": [list(entries), *_]}:
            tokens, merged = tuple(_entries(entries, ids)), False
        case {"top_logprobs": [dict(named), *_]}:
            tokens = tuple((_digit(name, None, ids), _number(logprob)) for name, logprob in named.items())
            merged = len(named) < asked and not all(_ID.fullmatch(name) for name in named)
        case _:
            message = "the answer holds no log probabilities of its first token; this server or its settings cannot tell how sure it is"
            raise ClassifierError("malformed", message)
    if not tokens:
        raise ClassifierError("malformed", "the answer's list of likeliest tokens is empty")
    return Shown(tokens, merged)


def _first_choice(body: Mapping[str, object]) -> Mapping[str, object]:
    match body.get("choices"):
        case [dict(choice)]:
            if choice.get("finish_reason") in ("error", "abort", "content_filter"):
                raise ClassifierError("malformed", f"the server ended its answer with finish_reason {choice['finish_reason']}")
            return choice
        case _:
            raise ClassifierError("malformed", "the answer does not hold exactly one choice")


def _entries(entries: list[object], ids: DigitIds | None) -> Iterator[tuple[Digit | None, float]]:
    for entry in entries:
        match entry:
            case {"token": str(token), "logprob": logprob, **rest}:
                yield _digit(token, rest.get("id"), ids), _number(logprob)
            case _:
                raise ClassifierError("malformed", "one of the likeliest tokens has no text or no log probability")


def _digit(token: str, known: object, ids: DigitIds | None) -> Digit | None:
    """By id where both sides know ids, else by text."""
    if match := _ID.fullmatch(token):
        known = int(match[1])
    if ids is not None and isinstance(known, int):
        return ids.digit(known)
    return spelled(token)


def _number(value: object) -> float:
    found = number(value)
    if found is None:
        raise ClassifierError("malformed", "a log probability in the answer is not a number")
    return found
