"""Which paths are guarded, and which must not slip past because they are only spelled otherwise or only look alike."""

from collections.abc import Collection
from enum import Enum
from typing import Any
from urllib.parse import unquote

from guardrail.asgi.messages import Scope

# Paths under which models are asked, or made to remember what they will be asked. None of them is judged by this version.
_INFERENCE = frozenset({"/v1/completions", "/v1/messages", "/v1/embeddings", "/v1/realtime", "/v1/edits", "/v1/complete"})
_INFERENCE_FOLDERS = ("/v1/responses", "/v1/audio", "/v1/images", "/v1/batches", "/v1/threads", "/v1/assistants", "/v1/conversations")
_INFERENCE_ENDINGS = ("/chat/completions",)
_MAX_DECODING = 4


class Kind(Enum):
    """What a path is to the guard."""

    GUARDED = "guarded"
    REFUSED = "refused"  # an inference path that the guard does not understand, or another spelling of one
    OTHER = "other"


class Paths:
    """The guarded paths, and those the operator lets through unjudged on his own word (`unguarded`)."""

    def __init__(self, guarded: Collection[str], *, unguarded: Collection[str] = ()) -> None:
        self._guarded = frozenset(guarded)
        self._unguarded = frozenset(unguarded)

    def kind(self, scope: Scope) -> Kind:
        """Guarded only when the path is spelled exactly so, on the wire too."""
        path = local_path(scope)
        raw: bytes = (scope.get("raw_path") or b"").partition(b"?")[0]
        if path in self._guarded and b"%" not in raw:
            return Kind.GUARDED
        if path in self._unguarded and b"%" not in raw:
            return Kind.OTHER
        meant = canonical(path)
        if meant in self._guarded or is_inference(meant):
            return Kind.REFUSED
        return Kind.OTHER


def local_path(scope: Scope) -> str:
    """The path below the mount point."""
    path: Any = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root + "/"):
        return str(path[len(root) :])
    return str(path)


def canonical(path: str) -> str:
    """The path that a lenient server could take it for: decoded, without empty and dot segments, `;` parameters, case and end slash."""
    for _ in range(_MAX_DECODING):
        decoded = unquote(path)
        if decoded == path:
            break
        path = decoded
    segments: list[str] = []
    for segment in path.replace("\\", "/").split("/"):
        name = segment.partition(";")[0].partition("?")[0].strip().casefold()
        if name == "..":
            del segments[-1:]
        elif name not in ("", "."):
            segments.append(name)
    return "/" + "/".join(segments)


def is_inference(path: str) -> bool:
    """Whether a canonical path is one under which models are asked."""
    if path in _INFERENCE or path.endswith(_INFERENCE_ENDINGS):
        return True
    return any(path == folder or path.startswith(folder + "/") for folder in _INFERENCE_FOLDERS)
