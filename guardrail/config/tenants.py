"""Which tenant an API key belongs to. Only hashes of keys are ever held."""

import hashlib
import hmac
from dataclasses import dataclass, field

from guardrail.config.models import DEFAULT_TENANT, Config

MAX_KEY_CHARS = 4_096


@dataclass(frozen=True, slots=True)
class Tenants:
    """The tenants and the digests of their keys, immutable. Build it with `Tenants.of(config)`."""

    keys: tuple[tuple[bytes, str], ...] = field(default=(), repr=False)
    configured: bool = False

    @classmethod
    def of(cls, config: Config) -> "Tenants":
        """The tenants of a configuration."""
        keys = ((bytes.fromhex(key.removeprefix("sha256:")), name) for name, tenant in config.tenants.items() for key in tenant.api_keys)
        return cls(tuple(keys), bool(config.tenants))

    def tenant_of(self, key: str | None) -> str | None:
        """The name of the key's tenant; None for a missing or unknown key, to be answered 401.

        Where no tenant is configured every caller is `default`, with any key or none. The time taken does not depend on which
        hash matches: every one is compared, each in constant time.
        """
        if not self.configured:
            return DEFAULT_TENANT
        if not key or len(key) > MAX_KEY_CHARS:
            return None
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        found = None
        for known, name in self.keys:
            if hmac.compare_digest(known, digest):
                found = name
        return found


def hash_key(key: str) -> str:
    """What stands in `api_keys` for a key: `sha256:` and 64 hexadecimal digits.

    Raises ValueError on an empty or oversized key, and on characters that not every client sends alike in a header.
    """
    if not key or len(key) > MAX_KEY_CHARS:
        raise ValueError(f"a key has 1 to {MAX_KEY_CHARS} characters")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("a key holds printable ASCII characters only, and no spaces")
    return "sha256:" + hashlib.sha256(key.encode("ascii")).hexdigest()
