"""Frames on a byte stream: a JSON header and packed number arrays behind it, both of bounded size. Sans I/O; nothing is unpickled.

    magic (4 bytes) | header length (u32) | body length (u32) | header: {"kind", "fields", "arrays": [[type, count], …]} | body

All numbers are little-endian. The body holds the arrays one behind the other and nothing else.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 1
"""Of what the messages mean. Both sides say theirs first, and part when they differ."""

MAGIC = b"GRDE"
MOST_HEADER = 8 << 20
MOST_BODY = 32 << 20
MOST_ARRAYS = 65_536

_LENGTHS = struct.Struct("<4sII")
_TYPES: dict[str, np.dtype[Any]] = {"i4": np.dtype("<i4"), "f8": np.dtype("<f8")}


class FrameError(Exception):
    """Bytes that are no frame, or a frame that means nothing here: the connection they came over is of no further use."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One message: what it is, its JSON fields, and one-dimensional arrays of int32 or float64."""

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    arrays: tuple[NDArray[Any], ...] = ()


def encode(frame: Frame) -> bytes:
    """The frame's bytes. Raises FrameError for one that the other side would refuse."""
    arrays = [(_type_of(array), array) for array in frame.arrays]
    document = {"kind": frame.kind, "fields": dict(frame.fields), "arrays": [[name, len(array)] for name, array in arrays]}
    header = json.dumps(document, separators=(",", ":")).encode()
    body = b"".join(array.astype(_TYPES[name], copy=False).tobytes() for name, array in arrays)
    _check_sizes(len(header), len(body))
    if len(arrays) > MOST_ARRAYS:
        raise FrameError(f"a frame of {len(arrays)} arrays; {MOST_ARRAYS} are the most")
    return _LENGTHS.pack(MAGIC, len(header), len(body)) + header + body


class Decoder:
    """Takes bytes as they come and gives the frames that are complete. After a FrameError it is of no further use."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    @property
    def begun(self) -> bool:
        """Whether a frame is there in part."""
        return bool(self._waiting)

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """The frames that `data` completes. Raises FrameError as soon as what is there cannot become a frame."""
        self._waiting += data
        found = []
        while (frame := self._next()) is not None:
            found.append(frame)
        return found

    def end(self) -> None:
        """The stream is over. Raises FrameError when it broke off inside a frame."""
        if self.begun:
            raise FrameError(f"the connection ended inside a frame, {len(self._waiting)} bytes into it")

    def _next(self) -> Frame | None:
        waiting = self._waiting
        if waiting[: len(MAGIC)] != MAGIC[: len(waiting)]:
            raise FrameError("these bytes are not the engine's protocol")
        if len(waiting) < _LENGTHS.size:
            return None
        _, header, body = _LENGTHS.unpack_from(waiting)
        _check_sizes(header, body)
        start, end = _LENGTHS.size + header, _LENGTHS.size + header + body
        if len(waiting) < end:
            return None
        frame = _frame(bytes(waiting[_LENGTHS.size : start]), bytes(waiting[start:end]))
        del waiting[:end]
        return frame


def _check_sizes(header: int, body: int) -> None:
    for name, size, most in (("header", header, MOST_HEADER), ("body", body, MOST_BODY)):
        if size > most:
            raise FrameError(f"a frame's {name} of {size} bytes; {most} are the most")


def _type_of(array: NDArray[Any]) -> str:
    for name, dtype in _TYPES.items():
        if array.ndim == 1 and array.dtype == dtype:
            return name
    raise FrameError(f"a frame carries flat arrays of {' or '.join(_TYPES)}, not {array.dtype} of {array.ndim} dimensions")


def _frame(header: bytes, body: bytes) -> Frame:
    try:
        document = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise FrameError("a frame's header is not JSON") from error
    match document:
        case {"kind": str(kind), "fields": dict(fields), "arrays": list(arrays)} if len(arrays) <= MOST_ARRAYS:
            return Frame(kind, fields, tuple(_unpacked(arrays, body)))
    raise FrameError("a frame's header has not the kind, fields and arrays that every frame has")


def _unpacked(arrays: list[Any], body: bytes) -> list[NDArray[Any]]:
    found, start = [], 0
    for entry in arrays:
        match entry:
            case [str(name), int(count)] if name in _TYPES and type(count) is int and 0 <= count <= MOST_BODY:
                end = start + count * _TYPES[name].itemsize
            case _:
                raise FrameError("a frame's header names an array that there cannot be")
        if end > len(body):
            raise FrameError("a frame's arrays are longer than its body")
        # Copied, because the engine wants arrays that it may write to and that do not keep the whole body alive.
        found.append(np.frombuffer(body[start:end], _TYPES[name]).copy())
        start = end
    if start != len(body):
        raise FrameError("a frame's body is longer than its arrays")
    return found
