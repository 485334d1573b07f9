"""What a protocol's own fields of an answer say beside names: nothing, as providers have it. Prose in them, and names that may be one, word
by word, are judged like any text, and left out where something of the answer is taken out, or goes out before it is judged."""

import re
from collections.abc import Collection, Iterable, Mapping

from guardrail.wire.logprobs import spelled
from guardrail.wire.names import is_foreign, named, sentence, spelled_out, strings
from guardrail.wire.parts import PartList

TOLD, REPEATED = "told", "repeated"
"""The fields in which a collected stream keeps what its frames said so, and what the names of several frames say."""
_RANDOM = frozenset({"obfuscation"})  # in each frame of a stream

_NAME = re.compile(r"[\w.:|/+=@~-]{0,512}", re.ASCII)


def told(holder: Mapping[str, object], names: Iterable[str], numbers: Iterable[str] = ()) -> list[str]:
    """The strings in these fields that are no names, or make a sentence, and those in the fields of `numbers`, or of tokens one by one."""
    fields = [value for name in sorted(set(names) & holder.keys()) if isinstance(value := holder[name], str | list | Mapping)]
    said = [text for value in fields for text in strings(value) if not _NAME.fullmatch(text)]
    said += [text for value in fields for text in spelled_out(value)]
    said += [text for name in sorted(numbers) for text in spelled(holder.get(name)).values()]
    return list(dict.fromkeys(said)) if said else []


def add_told(parts: PartList, path: str, holder: Mapping[str, object], names: Iterable[str], numbers: Iterable[str] = ()) -> None:
    """Add them as one text."""
    parts.text(f"{path}.{TOLD}", "\n".join(told(holder, names, numbers)), "unknown")


class Names:
    """The names in fields that a stream's frames repeat: word by word, frame by frame, a sentence would look like them."""

    def __init__(self) -> None:
        self._latest: dict[str, object] = {}
        self._found: dict[str, dict[str, None]] = {}
        self._foreign: dict[str, set[str]] = {}  # of each field, in small letters: two are as many as a sentence needs

    def add(self, holder: Mapping[str, object], names: Collection[str]) -> bool:
        """Take one frame's fields. True: what is new in one of them may be part of a sentence."""
        several = False
        for field, value in holder.items():
            if value is None or field not in names or field in _RANDOM or self._latest.get(field) == value:
                continue
            self._latest[field] = value
            known, foreign = self._found.setdefault(field, {}), self._foreign.setdefault(field, set())
            for name, _ in named(value):
                if name not in known:
                    known[name] = None
                    if len(foreign) < 2 and is_foreign(name):
                        foreign.add(name.lower())
            several = several or len(foreign) > 1
        return several

    def texts(self) -> list[str]:
        """What they may say, field by field."""
        return [text for field in sorted(self._found) if (text := sentence(self._found[field]))]


def bare(holder: Mapping[str, object], names: Iterable[str]) -> dict[str, object]:
    """The same with nothing but names in these fields: "" stands for any other string, and for each that would be part of a sentence."""
    known = set(names)
    return {key: _named(value, alone=not spelled_out(value)) if key in known else value for key, value in holder.items()}


def _named(value: object, *, alone: bool) -> object:
    if isinstance(value, str):
        return value if _is_name(value, alone=alone) else ""
    if isinstance(value, list):
        return [_named(child, alone=alone) for child in value]
    if isinstance(value, Mapping):
        return {key: _named(child, alone=alone) for key, child in value.items() if _is_name(key, alone=alone)}
    return value


def _is_name(text: str, *, alone: bool) -> bool:
    return _NAME.fullmatch(text) is not None and (alone or not is_foreign(text))
