"""Who may see that there is a console at all, and what every answer of it says to browsers."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from guardrail.locality import is_local, one

__all__ = ["HEADERS", "is_local", "is_same_site"]

Headers = Iterable[tuple[bytes, bytes]]

HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (
        b"content-security-policy",
        b"; ".join(
            (
                b"default-src 'none'",
                *(kind + b" 'self'" for kind in (b"style-src", b"script-src", b"img-src", b"connect-src", b"form-action")),
                b"base-uri 'none'",
                b"frame-ancestors 'none'",
            )
        ),
    ),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    # Not `no-referrer`: with that browsers send `Origin: null` with our own forms, which would then be refused.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"x-robots-tag", b"noindex, nofollow"),
)


def is_same_site(scope: Any) -> bool:
    """Whether a form was sent by a page of ours: the browser says so with `Origin`, which no page of another site can forge."""
    origin, host = one(scope["headers"], b"origin"), one(scope["headers"], b"host")
    if origin is None or host is None:
        return False
    found = urlsplit(origin)
    return found.scheme in ("http", "https") and found.netloc.lower() == host.lower()
