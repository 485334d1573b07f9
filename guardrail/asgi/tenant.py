"""Who is calling: the API key, where OpenAI's and Anthropic's clients put it, and the tenant it belongs to."""

from collections.abc import Iterable

from guardrail.config.tenants import Tenants
from guardrail.errors import WireError

CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key"})
"""Headers that may carry a tenant's key. They are never sent on to an upstream where tenants are configured."""


def api_key(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The key in `Authorization: Bearer` or `x-api-key`. None where there is none, and where several disagree."""
    keys = set()
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            keys.add(key.strip() if scheme.lower() == b"bearer" else b"")
        elif name in CREDENTIALS:
            keys.add(value.strip())
    return keys.pop().decode("latin-1") if len(keys) == 1 else None


def caller(tenants: Tenants, headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The tenant's name. Raises WireError (401) for a missing or unknown key where tenants are configured."""
    if not tenants.configured:
        return tenants.tenant_of(None) or "default"
    name = tenants.tenant_of(api_key(headers))
    if name is None:
        raise WireError(401, "invalid_api_key", "The API key is missing or not known.")
    return name
