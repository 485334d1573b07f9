"""What log probabilities say. A client can read an answer there token by token, so it is judged if it says something else there.

Judged are the tokens that were chosen, as they are spelled and as their bytes are, and whatever stands in the place of a number or of one
token. Alternatives that are one token each are not: put together they are no text of anyone's, and most would be flagged.
"""

import re
from collections.abc import Collection, Iterator, Mapping

from guardrail.wire.names import IDENTIFIER, sentence

_KINDS = ("content", "refusal", "tokens")
_BYTES, _APART, _ALTERNATIVES = "bytes", "apart", "top_logprobs"
_TOKENS = frozenset({"token", "decoded_token"})
_WORD = re.compile(r"[^\W\d_]+")
_PARTIAL = re.compile(r"(bytes:)?(\\x[0-9a-fA-F]{2})+")  # a token that is no text by itself
_MARK = re.compile(r"<[^<>\s]{1,32}>")  # a token that ends a turn, say


class Joined(dict[str, list[str]]):
    """What `spelled` found in each piece of an answer, by kind: read by it as well."""


def spelled(logprobs: object) -> dict[str, str]:
    """The texts in a choice's log probabilities, by kind; for `written`, which knows what is one of the answer's."""
    if logprobs is None:
        return {}
    if isinstance(logprobs, Joined):
        return {kind: ("\n" if kind == "other" else "").join(pieces) for kind, pieces in logprobs.items()}
    held = dict(logprobs) if isinstance(logprobs, Mapping) else {"other": logprobs}
    found: dict[str, list[str]] = {kind: [] for kind in (*_KINDS, _BYTES, _APART)}
    others: list[str] = []
    for kind in _KINDS:
        tokens = held.get(kind)
        if not isinstance(tokens, list):
            continue
        del held[kind]
        for token in tokens:
            beside = dict(token) if isinstance(token, Mapping) else {"token": token}
            if isinstance(word := beside.get("token"), str):
                del beside["token"]
                found[kind].append(word)
                found[_APART].append(f"{word} ")
                found[_BYTES].append(_characters(beside.get(_BYTES)) or "")
            others += _beside(beside)
    others += _beside(held)
    said = {kind: "".join(pieces) for kind, pieces in found.items()} | {"other": "\n".join(others)}
    return {kind: text for kind, text in said.items() if text}


def written(found: Mapping[str, str], judged: Collection[object]) -> Iterator[tuple[str, str]]:
    """The texts that `spelled` found, but for those that are judged already: kind and text.

    Tokens without any space between them may be read as one word or as several.
    """
    told = [found[kind] for kind in _KINDS if kind in found]
    for kind, said in found.items():
        text = _decoded(said) if kind == _BYTES else said
        if text in judged or (kind == _BYTES and text in told):
            continue
        if kind != _APART or any(not any(map(str.isspace, each)) and each not in judged for each in told):
            yield kind, text


def _beside(value: object, key: str = "") -> Iterator[str]:
    """The strings in a value that are neither one token each nor names of fields."""
    if isinstance(value, str):
        if not (key in _TOKENS and _is_token(value)):
            yield value
    elif isinstance(value, list):
        for child in value:
            yield from _beside(child, key if key == _ALTERNATIVES else "")
    elif isinstance(value, Mapping):
        tokens = {name for name, child in value.items() if key == _ALTERNATIVES and isinstance(child, int | float) and _is_token(name)}
        names = [name for name in value if name not in tokens]  # text completions name alternatives by their tokens
        yield from (text for text in (sentence(names), *(name for name in names if not IDENTIFIER.fullmatch(name))) if text)
        for name, child in value.items():
            if name == _BYTES and (characters := _characters(child)) is not None:
                text = _decoded(characters)
                if text != value.get("token") and not _is_token(text):
                    yield text
            else:
                yield from _beside(child, name)


def _is_token(text: str) -> bool:
    """Whether a text can be one token of a vocabulary: two words at most, and short."""
    words = _WORD.findall(text)
    size = sum(3 if character >= "\u2e80" else 1 for word in words for character in word)  # a word of Chinese has few
    return (len(words) <= 2 and size <= 24) or _PARTIAL.fullmatch(text) is not None or _MARK.fullmatch(text) is not None


def _characters(value: object) -> str | None:
    """Bytes as the characters of their numbers; None for what holds anything but numbers."""
    if value is None:
        return ""
    if not isinstance(value, list) or not all(isinstance(each, int | float) for each in value):
        return None
    return "".join(chr(each) for each in value if isinstance(each, int) and 0 <= each < 256)


def _decoded(characters: str) -> str:
    try:
        return characters.encode("latin-1").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return characters
