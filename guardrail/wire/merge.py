"""Stream deltas folded into the document they spell: strings grow, objects merge, list items meet by index."""

import json
from collections.abc import Mapping

from guardrail.errors import UpstreamError
from guardrail.wire.parts import is_tokens, strings

MAX_ITEMS = 4096

_TOKENS = "tokens"
_ENUMS = frozenset({"role", "type", "id", "object"})  # repeated whole in some upstreams' chunks


class Merged:
    """One growing object. Nothing is ever dropped: what cannot be merged raises UpstreamError("malformed"), too many fields `too_large`."""

    __slots__ = ("_fields",)

    def __init__(self, start: Mapping[str, object] | None = None) -> None:
        self._fields: dict[str, _Node] = {}
        self.add(start or {})

    def add(self, delta: Mapping[str, object]) -> None:
        """Merge one delta."""
        for key, value in delta.items():
            self._fields[key] = _joined(self._fields.get(key), value, key)
        if len(self._fields) > MAX_ITEMS:
            raise UpstreamError("too_large", f"an object in the upstream's stream has more than {MAX_ITEMS} fields")

    def put(self, key: str, value: object) -> None:
        """Set a field, whatever it was."""
        self._fields[key] = _node(value)

    def get(self, key: str) -> object:
        """A field's present value."""
        return _value(self._fields.get(key))

    def value(self) -> dict[str, object]:
        """The object as it stands."""
        return {key: _value(node) for key, node in self._fields.items()}


class Repeated:
    """Fields that a stream's frames send whole again and again: each different value is kept once, a list's items one by one.

    What holds no text is left out, except for token ids, of which one list stands for all.
    """

    def __init__(self) -> None:
        self._fields: dict[str, dict[str, object]] = {}

    def add(self, fields: Mapping[str, object]) -> None:
        """Take one frame's fields. Raises UpstreamError: `too_large`, or `malformed` for text and token ids in one field."""
        for key, value in fields.items():
            tokens = is_tokens(value)
            if not tokens and not any(strings({key: value})):
                continue
            kept = self._fields.setdefault(key, {})
            kept.setdefault(_TOKENS if tokens else _print(value), value)
            if _TOKENS in kept and len(kept) > 1:
                raise UpstreamError("malformed", "a field changes its type within the upstream's stream")
            if max(len(kept), len(self._fields)) > MAX_ITEMS:
                raise UpstreamError("too_large", f"the upstream's stream has more than {MAX_ITEMS} fields, or values of one")

    def value(self) -> dict[str, object]:
        """The fields: the value itself where there was only one, else a list of the different values and items."""
        return {key: _distinct(list(kept.values())) for key, kept in self._fields.items()}


class _Text:
    """A string in pieces, joined once: appending to one long string for each token would be quadratic."""

    __slots__ = ("pieces",)

    def __init__(self, piece: str) -> None:
        self.pieces = [piece]


class _Items:
    """A list; objects with an `index` merge with the item of that index, text-like fragments with the one before them."""

    def __init__(self) -> None:
        self.nodes: list[_Node] = []
        self.by_index: dict[int, Merged] = {}

    def extend(self, values: list[object]) -> None:
        for value in values:
            self._add(value)
        if len(self.nodes) > MAX_ITEMS:
            raise UpstreamError("too_large", f"a list in the upstream's stream is longer than {MAX_ITEMS} items")

    def _add(self, value: object) -> None:
        last = self.nodes[-1] if self.nodes else None
        index = value.get("index") if isinstance(value, dict) else None
        if isinstance(value, dict) and isinstance(index, int):
            if index in self.by_index:
                self.by_index[index].add(value)
                return
            self.by_index[index] = node = Merged(value)
            self.nodes.append(node)
        elif isinstance(value, dict) and isinstance(last, Merged) and _fragment(last, value):
            last.add(value)
        elif isinstance(value, str) and isinstance(last, _Text):
            last.pieces.append(value)
        else:
            self.nodes.append(_node(value))


class _Calls(_Items):
    """Tool calls; a fragment without an index belongs to the call of its id, or else to the one that was spoken of last.

    A call that came without an index is taken to be at its position, since a client may read it so.
    """

    def __init__(self) -> None:
        super().__init__()
        self._by_id: dict[str, Merged] = {}
        self._latest: Merged | None = None

    def _add(self, value: object) -> None:
        if not isinstance(value, dict):
            super()._add(value)
            return
        call = self._find(value)
        if call is None:
            call = Merged()
            self.by_index.setdefault(len(self.nodes) if value.get("index") is None else value["index"], call)
            self.nodes.append(call)
        call.add(value)
        self._latest = call
        if value.get("id"):
            self._by_id.setdefault(str(value["id"]), call)

    def _find(self, fragment: Mapping[str, object]) -> Merged | None:
        index = fragment.get("index")
        if index is None:
            return self._by_id.get(str(fragment["id"])) if fragment.get("id") else self._latest
        if not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise UpstreamError("malformed", "a tool call in the upstream's stream has an index that is no whole number")
        return self.by_index.get(index)


_Node = _Text | _Items | Merged | int | float | bool | None


def _fragment(last: Merged, value: Mapping[str, object]) -> bool:
    kind = value.get("type")
    return kind in ("text", "thinking", "reasoning") and last.get("type") == kind and last.get("index") is None


def _node(value: object, key: str = "") -> _Node:
    if isinstance(value, str):
        return _Text(value)
    if isinstance(value, dict):
        return Merged(value)
    if isinstance(value, list):
        items = _Calls() if key == "tool_calls" else _Items()
        items.extend(value)
        return items
    if value is None or isinstance(value, bool | int | float):
        return value
    raise UpstreamError("malformed", "a frame of the upstream's stream holds a value of no JSON type")


def _joined(node: _Node, value: object, key: str) -> _Node:
    if node is None:
        return _node(value, key)
    if value is None:
        return node
    if isinstance(node, _Text) and isinstance(value, str):
        if not (key in _ENUMS and "".join(node.pieces) == value):
            node.pieces.append(value)
        return node
    if isinstance(node, Merged) and isinstance(value, dict):
        node.add(value)
        return node
    if isinstance(node, _Text | _Items) and isinstance(value, str | list):  # content may change between a string and a list
        items = node if isinstance(node, _Items) else _node([_value(node)], key)
        if isinstance(items, _Items):
            items.extend(value if isinstance(value, list) else [value])
        return items
    if isinstance(node, bool | int | float) and isinstance(value, bool | int | float):
        return value
    raise UpstreamError("malformed", "a field changes its type within the upstream's stream")


def _value(node: _Node) -> object:
    if isinstance(node, _Text):
        return "".join(node.pieces)
    if isinstance(node, _Items):
        return [_value(item) for item in node.nodes]
    if isinstance(node, Merged):
        return node.value()
    return node


def _distinct(values: list[object]) -> object:
    if len(values) == 1:
        return values[0]
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return list({_print(item): item for item in items}.values())


def _print(value: object) -> str:
    """Equal for equal values only, and never `_TOKENS`."""
    return json.dumps(value, sort_keys=True)
