"""Earlier turns that violate a policy, taken out of a request or replaced in it, so that one of them does not end a conversation.

What is left stays a request of its protocol: a turn goes with the answers, tool calls and tool results that belong to it, and every
other field keeps its value. What cannot be mended like that is not mended: then the request stays blocked.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from guardrail.conversation import History, Speaker
from guardrail.wire.request import Request

How = Literal["redact", "drop"]

_TEXTS = frozenset({"text", "input_text", "output_text"})
_RESULTS = frozenset({"tool_result"})
_ROLES = {
    "user": Speaker.USER,
    "assistant": Speaker.ASSISTANT,
    "tool": Speaker.TOOL,
    "function": Speaker.TOOL,
    "system": Speaker.SYSTEM,
    "developer": Speaker.SYSTEM,
}


def chat_history(document: Mapping[str, object], name: str = "messages") -> History | None:
    """The turns of a chat completion request, or of another document that holds its messages under `name`."""
    return _history(document, name, _speaker)


def messages_history(document: Mapping[str, object]) -> History | None:
    """The turns of a request to Anthropic's messages. A message that holds a tool's result belongs to the turn of the tool's call."""
    return _history(document, "messages", lambda entry: Speaker.TOOL if _holds_result(entry) else _speaker(entry))


def responses_history(document: Mapping[str, object]) -> History | None:
    """The turns of a request to the Responses API. A text alone is one turn."""
    return _history(document, "input", _item_speaker)


def mended(request: Request, paths: Iterable[str], how: How, placeholder: Callable[[str], str]) -> Request | None:
    """The request without what stands at these paths, all in earlier turns; None where it cannot be mended.

    `drop` takes each whole turn out, `redact` puts a placeholder in place of the text.
    """
    history = request.history
    entries = {path: history.entry(path) if history is not None else None for path in paths}
    if history is None or not entries or len(history.turns) < 2:
        return None
    placeholder = _once(placeholder)
    earlier = {place: turn for turn in history.turns[:-1] for place in turn}
    found = request.document.get(history.name)
    if not isinstance(found, list):
        return None
    changed: list[object] = list(found)
    gone: set[int] = set()
    for path, entry in entries.items():
        if entry is None or entry not in earlier or history.speakers[entry] in (Speaker.SYSTEM, Speaker.OTHER):
            return None
        if how == "drop":
            gone |= {place for place in earlier[entry] if history.speakers[place] not in (Speaker.SYSTEM, Speaker.OTHER)}
            continue
        rest = path.removeprefix(f"{history.name}[{entry}]")
        redacted = _redacted(changed[entry], rest, placeholder)
        if redacted is None:
            return None
        changed[entry] = redacted
    kept = [entry for place, entry in enumerate(changed) if place not in gone]
    return replace(request, document={**request.document, history.name: kept})


def _once(placeholder: Callable[[str], str]) -> Callable[[str], str]:
    """A placeholder is not replaced by one: several findings may lie in one text."""
    made: set[str] = set()

    def replaced(text: str) -> str:
        if text in made:
            return text
        made.add(found := placeholder(text))
        return found

    return replaced


def _history(document: Mapping[str, object], name: str, speaker: Callable[[object], Speaker]) -> History | None:
    entries = document.get(name)
    return History(name, tuple(map(speaker, entries))) if isinstance(entries, list) else None


def _speaker(entry: object) -> Speaker:
    role = entry.get("role") if isinstance(entry, Mapping) else None
    return _ROLES.get(role, Speaker.OTHER) if isinstance(role, str) else Speaker.OTHER


def _item_speaker(item: object) -> Speaker:
    kind = item.get("type", "message") if isinstance(item, Mapping) else None
    if kind == "message":
        return _speaker(item)
    if not isinstance(kind, str):
        return Speaker.OTHER
    if kind.endswith("_output"):
        return Speaker.TOOL
    return Speaker.ASSISTANT if kind == "reasoning" or kind.endswith("_call") else Speaker.OTHER


def _holds_result(entry: object) -> bool:
    content = entry.get("content") if isinstance(entry, Mapping) else None
    return isinstance(content, list) and any(_type(block) in _RESULTS for block in content)


def _type(block: object) -> str | None:
    name = block.get("type") if isinstance(block, Mapping) else None
    return name if isinstance(name, str) else None


def _redacted(entry: object, rest: str, placeholder: Callable[[str], str]) -> object | None:
    """The entry with a placeholder where `rest` of the path leads: its content, a text in that, or what a tool gave back."""
    if not isinstance(entry, Mapping):
        return None
    for key in ("content", "output"):
        if rest == f".{key}" or rest.startswith(f".{key}["):
            value = _replaced(entry.get(key), rest.removeprefix(f".{key}"), placeholder)
            return None if value is None else {**entry, key: value}
    return None


def _replaced(value: object, rest: str, placeholder: Callable[[str], str]) -> object | None:
    if isinstance(value, str):
        return placeholder(value) if not rest else None
    if not isinstance(value, list):
        return None
    number, _, _ = rest.removeprefix("[").partition("]")
    blocks: list[object] = list(value)
    if not number.isdecimal():  # what several blocks say together
        return [block if (said := _block(block, placeholder)) is None else said for block in blocks]
    if int(number) >= len(blocks) or (said := _block(blocks[int(number)], placeholder)) is None:
        return None
    blocks[int(number)] = said
    return blocks


def _block(block: object, placeholder: Callable[[str], str]) -> object | None:
    """A text, or a tool's result, with a placeholder for what it says; None for anything else: what else it holds is not known."""
    if isinstance(block, str):
        return placeholder(block)
    if not isinstance(block, Mapping):
        return None
    if _type(block) in _TEXTS and isinstance(block.get("text"), str):
        return {"type": block["type"], "text": placeholder(str(block["text"]))}
    if _type(block) in _RESULTS:
        content = block.get("content")
        said = content if isinstance(content, str) else "\n".join(_said(content))
        return {**block, "content": placeholder(said)}
    return None


def _said(content: object) -> Sequence[str]:
    blocks = content if isinstance(content, list) else []
    return [str(block.get("text", "")) for block in blocks if isinstance(block, Mapping)]
