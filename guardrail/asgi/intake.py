"""Reading a request: bounded, timed, and only in the one form that guard and upstream are sure to read alike."""

import asyncio
import re
import secrets
from collections.abc import Iterable

from guardrail.asgi.messages import Receive, header
from guardrail.errors import WireError

LARGE_BODY = 262_144
"""Bytes from which parsing would hold the event loop up noticeably."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_UTF8 = re.compile(rb'[ \t]*charset=(?:utf-8|"utf-8")[ \t]*', re.IGNORECASE)


class ClientGoneError(Exception):
    """The client left before its request was whole; there is nobody to answer."""


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The caller's `x-request-id` if it is a plain identifier of at most 128 characters, else a fresh one."""
    given = header(headers, b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return secrets.token_hex(16)


def check_headers(headers: Iterable[tuple[bytes, bytes]], *, max_bytes: int) -> None:
    """Raises WireError for a body that is announced too large (413), encoded, or not JSON in UTF-8 (415)."""
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise WireError(415, "unsupported_encoding", "Send the request body without a content-encoding: a compressed one is not read.")
        if name == b"content-length" and (not value.isdigit() or len(value) > 18 or int(value) > max_bytes):
            raise _too_large(max_bytes)
        if name == b"content-type":
            _check_type(value)


async def read_body(receive: Receive, *, max_bytes: int, timeout_s: float) -> bytes:
    """The whole body. Raises WireError when it is too large (413) or slow (408), ClientGoneError when the client leaves."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(receive, max_bytes)
    except TimeoutError:
        raise WireError(408, "request_timeout", f"The request body did not arrive within {timeout_s:g} seconds.") from None


async def _read(receive: Receive, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > max_bytes:
            raise _too_large(max_bytes)
        pieces.append(piece)
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _check_type(value: bytes) -> None:
    media, _, parameters = value.partition(b";")
    if media.strip().lower() != b"application/json":
        raise WireError(415, "unsupported_media_type", "Send the request body as application/json.")
    if parameters and not _UTF8.fullmatch(parameters):  # any other might make the upstream read other text than was judged
        raise WireError(415, "unsupported_charset", "Send the request body in UTF-8, as application/json without other parameters.")


def _too_large(max_bytes: int) -> WireError:
    return WireError(413, "request_too_large", f"The request body is larger than {max_bytes} bytes.")
