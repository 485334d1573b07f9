"""Who may see that there is a console at all, and what every answer of it says to browsers."""

import ipaddress
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

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
_FROM_ELSEWHERE = frozenset({b"x-forwarded-for", b"x-forwarded-host", b"forwarded", b"via", b"x-real-ip"})


def one(headers: Headers, name: bytes) -> str | None:
    """The value of a header that came once; None where it is missing, and where it came twice."""
    found = [value for key, value in headers if key == name]
    return found[0].decode("latin-1") if len(found) == 1 else None


def is_local(scope: Any) -> bool:
    """Whether a request was made on this machine, for this machine.

    Not only the peer's address counts: a reverse proxy on this machine passes on what others ask, and a page of another site may
    have its name point here (DNS rebinding), which the `Host` header gives away.
    """
    client = scope.get("client")
    headers = scope["headers"]
    if client is None or not _is_loopback(client[0]) or any(name in _FROM_ELSEWHERE for name, _ in headers):
        return False
    return _is_loopback(_name(one(headers, b"host") or ""))


def is_same_site(scope: Any) -> bool:
    """Whether a form was sent by a page of ours: the browser says so with `Origin`, which no page of another site can forge."""
    origin, host = one(scope["headers"], b"origin"), one(scope["headers"], b"host")
    if origin is None or host is None:
        return False
    found = urlsplit(origin)
    return found.scheme in ("http", "https") and found.netloc.lower() == host.lower()


def _name(host: str) -> str:
    """The name in a `Host` header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_loopback(name: str) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name.lower().rstrip(".") == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
