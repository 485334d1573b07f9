"""The keys of a store: of its chain, of the hashes of texts, and of kept content. None of them is ever written into the store."""

import contextlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from guardrail.audit.chain import Chains
from guardrail.errors import GuardrailError

SHORTEST_SECRET = 24
"""Characters of the shortest secret that is taken: what is shorter can be guessed from the hashes it makes."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the environment gives: of the chain and the hashes of texts, and of kept content. Several, with commas between: the newest
    first, the older ones for reading what was written with them. Raises GuardrailError for one that is too short."""

    key: str | None = field(default=None, repr=False)
    content_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for secret in (self.key, self.content_key):
            _parsed(secret)


@dataclass(frozen=True, slots=True)
class StoreKeys:
    """Keys made from the secrets, newest first. Without a secret `chains` is unkeyed, and `texts` has a random key of the store's own."""

    chains: Chains
    texts: tuple[bytes, ...] = field(repr=False)
    contents: tuple[bytes, ...] = field(default=(), repr=False)


def open_keys(path: Path, given: Secrets, *, create: bool = False) -> StoreKeys:
    """The keys of the store at `path`. `create` makes the file with the store's own key, readable by its owner alone, where it is missing.

    Raises OSError for a file that cannot be made or read.
    """
    keys, contents = _parsed(given.key), _parsed(given.content_key)
    texts = [_derived(secret, b"texts") for secret in keys]
    own = path.with_name(path.name + ".key")
    if create and not texts:
        _make(own)
    if own.is_file():
        texts.append(_derived(own.read_bytes(), b"texts"))
    chains = Chains.of([_derived(secret, b"chain") for secret in keys])
    return StoreKeys(chains, tuple(texts), tuple(_derived(secret, b"content") for secret in contents))


def _parsed(given: str | None) -> list[bytes]:
    found = [secret.strip().encode() for secret in (given or "").split(",") if secret.strip()]
    if any(len(secret) < SHORTEST_SECRET for secret in found):
        raise GuardrailError(f"a key of the audit store has fewer than {SHORTEST_SECRET} characters; use `openssl rand -hex 32`")
    return found


def _derived(secret: bytes, purpose: bytes) -> bytes:
    """32 bytes for one purpose, from which neither the secret nor another purpose's can be told."""
    return hmac.digest(secret, b"guardrail audit " + purpose, "sha256")


def _make(path: Path) -> None:
    """The file is there whole or not at all, and the first of several processes decides what is in it."""
    if path.exists():
        return
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)
    finally:
        beside.unlink(missing_ok=True)
