"""Which headers travel: hop-by-hop ones never do, and neither does what would make an answer unreadable for the guard."""

from guardrail.upstream.answer import Headers

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_FORWARDED = _HOP_BY_HOP | {"host", "content-length", "accept-encoding", "expect", "cookie"}
_NOT_RETURNED = _HOP_BY_HOP | {"content-encoding", "set-cookie", "date", "server", "alt-svc"}
_CREDENTIALS = frozenset({"authorization", "api-key", "x-api-key"})


def forwarded(headers: Headers, api_key: str | None, *, key_header: str = "authorization") -> list[tuple[str, str]]:
    """Request headers for the upstream. With `api_key` set every credential of the client is replaced by it, in `key_header`.

    `accept-encoding: identity`, because what cannot be read cannot be judged. The guard's own `x-guardrail-` headers stay here.
    """
    dropped = _NOT_FORWARDED | _named_by_connection(headers) | (_CREDENTIALS if api_key is not None else frozenset())
    kept = [(name.lower(), value) for name, value in headers if name.lower() not in dropped and not name.lower().startswith("x-guardrail-")]
    kept.append(("accept-encoding", "identity"))
    if api_key is not None:
        kept.append((key_header, f"Bearer {api_key}" if key_header == "authorization" else api_key))
    return kept


def returned(headers: Headers) -> tuple[tuple[str, str], ...]:
    """Answer headers for the client: lower case, end to end. An upstream cannot speak in the guard's name either."""
    dropped = _NOT_RETURNED | _named_by_connection(headers)
    if any(name.lower() == "content-encoding" for name, _ in headers):
        dropped |= {"content-length"}  # the length of what was decoded is another
    return tuple(
        (name.lower(), value) for name, value in headers if name.lower() not in dropped and not name.lower().startswith("x-guardrail-")
    )


def _named_by_connection(headers: Headers) -> frozenset[str]:
    values = ",".join(value for name, value in headers if name.lower() == "connection")
    return frozenset(token.strip().lower() for token in values.split(",") if token.strip())
