"""Everything in a chat message that somebody could read, as parts with their paths.

A reader that is not ours decides what it looks at, so the rule is turned round: fields that are known to carry no text are named,
and the strings in all other fields are judged, whatever the field is called.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise

from guardrail.types import Part
from guardrail.wire.document import readable

MAX_PARTS = 2_048
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})

_TEXT_TYPES = frozenset({"text", "input_text", "output_text"})
_REASONING = frozenset({"reasoning_content", "reasoning", "reasoning_details", "thinking", "thinking_blocks"})
MESSAGE_FIELDS = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "audio"}) | _REASONING
_STRUCTURED_TYPES = frozenset({"tool_result", "tool_use", "search_result", "document", "thinking", "reasoning"})
_OPAQUE_TYPES = {
    "image_url": "image",
    "input_image": "image",
    "image": "image",
    "input_audio": "audio",
    "audio": "audio",
    "file": "file",
    "input_file": "file",
    "video_url": "file",
    "video": "file",
}
OPAQUE_KEYS = {
    **_OPAQUE_TYPES,
    **dict.fromkeys(("images", "image_file", "image_data", "image_base64"), "image"),
    **dict.fromkeys(("audio_url", "audios"), "audio"),
    **dict.fromkeys(("file_url", "file_data", "videos", "input_video"), "file"),
}
"""The fields that hold what is no text, whatever the type of the part they stand in, and what it is."""
_DATA_KEYS = frozenset({"url", "data", "file_data", "file_id", "format", "detail", "media_type", "mime_type", "id", "expires_at", "type"})
_MOST_IDENTIFIERS = 16
_REFERENCES = frozenset({"id", "tool_call_id", "tool_use_id", "call_id", "cache_control", "type", "signature", "status", "detail"})
_OF_TOOLS = frozenset({"tool_arguments", "tool_result"})
_IDENTIFIER = re.compile(r"[\w.:|/+=-]{0,64}", re.ASCII)


class TooManyPartsError(ValueError):
    """More parts than `MAX_PARTS`."""


def strings(value: object) -> list[str]:
    """Every string in a value, in order; keys too where they aren't plain identifiers, because a text can stand there as well."""
    found: list[str] = []
    _collect(value, found)
    return found


def _collect(value: object, found: list[str]) -> None:
    if isinstance(value, str):
        found.append(value)
    elif isinstance(value, Mapping):
        for key, child in value.items():
            if not _IDENTIFIER.fullmatch(key):
                found.append(key)
            if not (key in _REFERENCES and _only_identifiers(child)):
                _collect(child, found)
    elif isinstance(value, list):
        for child in value:
            _collect(child, found)


def is_tokens(value: object) -> bool:
    """True for a list of token ids or a list of such lists: text that only the model's tokenizer can read."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(item, int) and not isinstance(item, bool) for item in value) or all(is_tokens(item) for item in value)


def _holds_tokens(value: object) -> bool:
    """True for token ids at any depth. The bytes of a token that is spelled beside them are none."""
    if isinstance(value, Mapping):
        spelled = isinstance(value.get("token"), str) and "logprob" in value
        return any(_holds_tokens(child) for key, child in value.items() if not (spelled and key == "bytes"))
    return isinstance(value, list) and (is_tokens(value) or any(map(_holds_tokens, value)))


def is_prose(value: object) -> bool:
    """True for nothing, a string, or a list of strings each of which has a letter in it, so that none can be a token id."""
    if isinstance(value, list):
        return all(isinstance(item, str) and (not item or any(map(str.isalpha, item))) for item in value)
    return isinstance(value, str) or value is None or value == {}


class PartList:
    """Collects parts in order. `choice` is written into each; raises TooManyPartsError beyond `MAX_PARTS`."""

    def __init__(self) -> None:
        self.found: list[Part] = []
        self.choice: int | None = None
        self.role = "user"

    def text(self, path: str, text: str, kind: str = "text") -> None:
        """Add a text; an empty one says nothing and is left out."""
        if text:
            self._add(Part(path, readable(text), self.role, kind, self.choice))

    def opaque(self, path: str, kind: str) -> None:
        """Add something that cannot be read as text."""
        self._add(Part(path, None, self.role, kind, self.choice))

    def unknown(self, path: str, value: object, kind: str = "unknown") -> None:
        """Add the strings of any value as one text, and a mark where it holds token ids.

        Deep within a request they count as well, except for the numbers that a tool is given or gives back.
        """
        if is_tokens(value) or (self.choice is None and kind not in _OF_TOOLS and _holds_tokens(value)):
            self.opaque(path, "tokens")
        self.text(path, "\n".join(strings(value)), kind)

    def rest(self, path: str, holder: Mapping[str, object], known: Iterable[str]) -> None:
        """Add each field of `holder` that is not known."""
        for key in sorted(holder.keys() - set(known)):
            if not (key in _REFERENCES and _only_identifiers(holder[key])):
                self.unknown(f"{path}.{_segment(key)}", {key: holder[key]} if not _IDENTIFIER.fullmatch(key) else holder[key])

    def message(self, path: str, message: Mapping[str, object], default_role: str = "user") -> None:
        """Add everything in one message of a request or an answer."""
        role = message.get("role")
        self.role = role if isinstance(role, str) and role in ROLES else default_role if role is None else "unknown"
        for key in sorted(message):
            value = message[key]
            place = f"{path}.{_segment(key)}"
            if value is None or (key == "role" and self.role != "unknown"):
                continue
            if key == "content":
                self.content(place, value)
            elif key in {"name", "role"}:
                self.unknown(place, value, "name")
            elif key == "refusal":
                self.unknown(place, value, "refusal")
            elif key in _REASONING:
                self.unknown(place, value, "reasoning")
            elif key == "tool_calls" and isinstance(value, list):
                for number, call in enumerate(value):
                    self.tool_call(f"{place}[{number}]", call)
            elif key == "function_call":
                self._function(place, value)
            elif key == "audio":
                self._media(place, value, "audio")
            else:
                self.rest(path, {key: value}, ())
                self.media(path, {key: value})

    def content(self, path: str, value: object) -> None:
        """Add a message's content: a string, or a list of content parts, which are judged one by one and as the text they make."""
        kind = "tool_result" if self.role in {"tool", "function"} else "text"
        if not isinstance(value, list) or is_tokens(value):
            self.unknown(path, value, kind if isinstance(value, str) else "unknown")
            return
        first = len(self.found)
        for number, item in enumerate(value):
            self._content_part(f"{path}[{number}]", item, kind)
        self.joined(path, [part.text for part in self.found[first:] if part.text is not None])

    def tool_call(self, path: str, call: object) -> None:
        """Add one tool call: a function's name and arguments, or a custom tool's name and input."""
        if not isinstance(call, Mapping):
            self.unknown(path, call)
            return
        self._function(f"{path}.function", call.get("function"))
        custom = call.get("custom")
        if isinstance(custom, Mapping):
            self.unknown(f"{path}.custom.name", custom.get("name"), "name")
            self.unknown(f"{path}.custom.input", custom.get("input"), "tool_arguments")
            self.rest(f"{path}.custom", custom, ("name", "input"))
        else:
            self.unknown(f"{path}.custom", custom, "tool_arguments")
        self.rest(path, call, ("function", "custom", *(("index",) if isinstance(call.get("index"), int) else ())))

    def _function(self, path: str, function: object) -> None:
        if not isinstance(function, Mapping):
            self.unknown(path, function, "tool_arguments")
            return
        self.unknown(f"{path}.name", function.get("name"), "name")
        self.unknown(f"{path}.arguments", function.get("arguments"), "tool_arguments")
        self.rest(path, function, ("name", "arguments"))

    def _content_part(self, path: str, item: object, kind: str) -> None:
        if isinstance(item, str):
            self.text(path, item, kind)
            return
        if not isinstance(item, Mapping):
            self.opaque(path, "unknown")
            return
        name = item.get("type", "text")
        if not isinstance(name, str):
            name = ""
        if name in _TEXT_TYPES and isinstance(item.get("text"), str):
            self.unknown(f"{path}.text", item["text"], kind)
            self.rest(path, item, ("type", "text"))
            self.media(path, item)
        elif name == "refusal":
            self.unknown(f"{path}.refusal", item.get("refusal"), "refusal")
            self.rest(path, item, ("type", "refusal"))
            self.media(path, item)
        elif name in _STRUCTURED_TYPES and not _embeds_data(item):
            self._structured(path, item)
        elif name in _OPAQUE_TYPES:
            self.opaque(path, _OPAQUE_TYPES[name])
            for key in item:
                if key != "type":
                    self._media_fields(f"{path}.{_segment(key)}", key, item[key])
        else:  # its strings are judged, and because they need not be all there is in it, it is marked as well
            self.unknown(path, [item.get("type"), item])
            self.opaque(path, "unknown")

    def _structured(self, path: str, item: Mapping[str, object]) -> None:
        """A block's strings; where pictures or files lie among the blocks within it, those are read one by one."""
        inner = item.get("content")
        blocks = inner if isinstance(inner, list) else [inner]
        if item.get("type") != "tool_use":
            self.media(path, item)
        if not any(map(_is_media, blocks)):
            self.rest(path, item, ("type",))
            return
        for number, block in enumerate(blocks):
            self._content_part(f"{path}.content[{number}]", block, "tool_result")
        self.rest(path, item, ("type", "content"))

    def media(self, path: str, item: Mapping[str, object]) -> None:
        """Mark each field of a part that holds what is no text, though the part's type does not say so."""
        for key in sorted(OPAQUE_KEYS.keys() & item.keys()):
            if item[key] is not None:
                self.opaque(path, OPAQUE_KEYS[key])

    def _media(self, path: str, value: object, kind: str) -> None:
        self.opaque(path, kind)
        self._media_fields(path, kind, value)

    def _media_fields(self, path: str, key: str, value: object) -> None:
        """The strings beside the data of an image, an audio clip or a file: a file's name, a transcript, anything unexpected."""
        if isinstance(value, Mapping):
            self.rest(path, value, _DATA_KEYS)
        elif key not in _OPAQUE_TYPES and key not in _DATA_KEYS:
            self.unknown(path, value)

    def joined(self, path: str, texts: list[str]) -> None:
        """A text cut into several content parts is read as one by the upstream; joiners differ, so an unclear seam is tried both ways."""
        if len(texts) < 2:
            return
        self.text(f"{path}[*]", "".join(texts))
        if any(left[-1].isalnum() and right[0].isalnum() for left, right in pairwise(texts)):
            self.text(f"{path}[* *]", "\n".join(texts))

    def _add(self, part: Part) -> None:
        if len(self.found) >= MAX_PARTS:
            raise TooManyPartsError(f"more than {MAX_PARTS} parts")
        self.found.append(part)


def _only_identifiers(value: object, depth: int = 2) -> bool:
    """Whether a value holds nothing but identifiers. A large or deep one is taken to hold more: each of its levels would be read again."""
    if isinstance(value, Mapping):
        few = depth > 0 and len(value) <= _MOST_IDENTIFIERS
        return few and all(_IDENTIFIER.fullmatch(key) and _only_identifiers(child, depth - 1) for key, child in value.items())
    return not isinstance(value, list) and (not isinstance(value, str) or _IDENTIFIER.fullmatch(value) is not None)


def _embeds_data(item: Mapping[str, object]) -> bool:
    """True for a document part whose source is a file or an address instead of text."""
    source = item.get("source")
    return isinstance(source, Mapping) and source.get("type") not in ("text", "content")  # a tuple: it may be unhashable


def _is_media(block: object) -> bool:
    if not isinstance(block, Mapping):
        return False
    name = block.get("type")
    return (isinstance(name, str) and name in _OPAQUE_TYPES) or any(block.get(key) is not None for key in OPAQUE_KEYS)


def _segment(key: str) -> str:
    """A key as it may stand in a path, which is written into records: never a text."""
    return key if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", key) else "?"
