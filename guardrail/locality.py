"""Whether a request was made on this machine: for pages that show more than a client should see."""

import ipaddress
from collections.abc import Iterable
from typing import Any

Headers = Iterable[tuple[bytes, bytes]]

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
