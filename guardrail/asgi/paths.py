"""Which paths are guarded, and which must not slip past because they are only spelled otherwise or only look alike."""

import re
from collections.abc import Collection
from enum import Enum
from typing import Any
from urllib.parse import unquote

from guardrail.asgi.messages import Scope

# Paths under which models are asked, or made to remember what they will be asked. Those that no route guards are refused.
# They are known by their last segments, or by a folder, since nobody knows where an app mounts them.
_INFERENCE_ENDINGS = (
    *("/chat/completions", "/completions", "/responses", "/messages", "/embeddings", "/realtime", "/api/chat", "/api/generate"),
    *("/images/generations", "/images/edits", "/images/variations", "/v1/edits", "/v1/complete"),
    *("/audio/speech", "/audio/transcriptions", "/audio/translations"),
    *("/completion", "/infill", "/generate", "/generate_stream", "/invocations", "/v1/chat", "/v2/chat", "/api/embed", "/rerank"),
    *("/v1/score", "/v1/classify", "/pooling", "/v1/interactions", "/v1beta/interactions"),
    *(":generatecontent", ":streamgeneratecontent", ":generatemessage", ":generatetext", ":generateanswer"),
    *(":embedcontent", ":batchembedcontents", ":batchgeneratecontent", ":asyncbatchembedcontent"),
    *(":predict", ":predictlongrunning", ":rawpredict", ":streamrawpredict", ":serverstreamingpredict", ":directpredict"),
)
_BEDROCK = re.compile(r"/model/.+/(invoke|invoke-with-response-stream|invoke-with-bidirectional-stream|converse|converse-stream)$")
_FOLDERS = (
    *("responses", "messages", "audio", "images", "videos", "batches", "threads", "assistants", "conversations", "realtime"),
    *("completions", "interactions"),
)
_INFERENCE_FOLDERS = ("/chat/completions/", *(f"/v1/{name}/" for name in _FOLDERS))  # stored answers lie below, too
_MAX_DECODING = 4
_DROPPED = re.compile(r"[\x00-\x20\x7f]")  # what parsers of addresses take out without a word
_CUTTING = re.compile(r"[\x00-\x20\x7f#?]")  # where some of them take the path to end


class Kind(Enum):
    """What a path is to the guard."""

    GUARDED = "guarded"
    REFUSED = "refused"  # an inference path that the guard does not understand, or another spelling of one
    OTHER = "other"


class Paths:
    """The guarded paths, and those the operator lets through unjudged on his own word (`unguarded`; a `*` in it is one segment)."""

    def __init__(self, guarded: Collection[str], *, unguarded: Collection[str] = ()) -> None:
        self._guarded = frozenset(guarded)
        self._unguarded = re.compile("|".join(re.escape(path).replace(r"\*", "[^/]+") for path in unguarded)) if unguarded else None

    def kind(self, scope: Scope) -> Kind:
        """Guarded only when the path is spelled exactly so, on the wire too."""
        path = local_path(scope)
        raw: bytes = (scope.get("raw_path") or b"").partition(b"?")[0]
        if path in self._guarded and b"%" not in raw:
            return Kind.GUARDED
        meant = canonical(path)
        if self._unguarded is not None and self._unguarded.fullmatch(path) and b"%" not in raw and meant == path.rstrip("/").casefold():
            return Kind.OTHER
        if meant in self._guarded or is_inference(meant) or self._doubtful(path):
            return Kind.REFUSED
        return Kind.OTHER

    def _doubtful(self, path: str) -> bool:
        """Whether a path with characters that parsers drop, or stop at, may be one under which models are asked, however that is done."""
        decoded = _decoded(path)
        if _decoded(decoded) != decoded:
            return True  # nobody encodes that often in good faith
        if _CUTTING.search(decoded) is None:
            return False
        if ".." in decoded:
            return True
        told = canonical(_CUTTING.sub("", decoded))
        known = (*self._guarded, *_INFERENCE_ENDINGS, *_INFERENCE_FOLDERS)
        return any(each in told + "/" for each in known) or _BEDROCK.search(told) is not None


def local_path(scope: Scope) -> str:
    """The path below the mount point."""
    path: Any = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root + "/"):
        return str(path[len(root) :])
    return str(path)


def canonical(path: str) -> str:
    """The path that a lenient server could take it for: decoded, without control characters, spaces and fragment, without empty and dot
    segments, `;` parameters, case and end slash."""
    segments: list[str] = []
    for segment in _DROPPED.sub("", _decoded(path)).partition("#")[0].replace("\\", "/").split("/"):
        name = segment.partition(";")[0].partition("?")[0].strip().casefold()
        if name == "..":
            del segments[-1:]
        elif name not in ("", "."):
            segments.append(name)
    return "/" + "/".join(segments)


def _decoded(path: str) -> str:
    for _ in range(_MAX_DECODING):
        decoded = unquote(path)
        if decoded == path:
            break
        path = decoded
    return path


def is_inference(path: str) -> bool:
    """Whether a canonical path is one under which models are asked."""
    within = any(folder in path + "/" for folder in _INFERENCE_FOLDERS)
    return within or path.endswith(_INFERENCE_ENDINGS) or _BEDROCK.search(path) is not None
