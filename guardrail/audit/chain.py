"""The chain: each record's hash covers the one before it, and keys make it one that nobody else can continue or make again.

Without a key it is SHA-256: it shows damage and careless changes, yet whoever can write the file can also compute a new chain. With a
key it is HMAC-SHA-256: without the key nothing can be changed, removed or added unseen. What no chain in one file can show is that
the whole file was put back to an earlier state of itself: for that the head has to be written down somewhere else.
"""

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from guardrail.errors import GuardrailError

GENESIS = bytes(32)
"""What the first record takes as the hash before it."""

UNKEYED = ""
"""The name of the chain without a key."""

_ENCODE = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

Value = str | int | float | None


@dataclass(frozen=True, slots=True)
class Chain:
    """Hashes and signatures under one key, or under none. `name` tells which key it is without telling the key."""

    name: str = UNKEYED
    key: bytes | None = field(default=None, repr=False)

    @classmethod
    def keyed(cls, key: bytes) -> "Chain":
        """The chain of a key of at least 16 bytes."""
        if len(key) < 16:
            raise GuardrailError("a key of fewer than 16 bytes can be guessed; use a long random one")
        return cls(hmac.digest(key, b"guardrail audit key name", "sha256").hex()[:16], key)

    def hash(self, previous: bytes, values: Sequence[Value], body: str) -> bytes:
        """The 32 bytes of a record's hash: over the one before it, its columns and its body."""
        return self.hash_written(previous, _ENCODE(values), body)

    def hash_written(self, previous: bytes, values: str, body: str) -> bytes:
        """`hash` of columns that are a JSON list already."""
        return self._digest(b"record\0" + previous + values.encode() + b"\n" + body.encode())

    def sign(self, purpose: str, *values: Value) -> str:
        """A signature as text, with the name of its key: `name:hex`. Without a key it is a checksum and proves nothing about who."""
        text = _ENCODE([purpose, *values])
        return f"{self.name}:{self._digest(text.encode()).hex()}"

    def _digest(self, message: bytes) -> bytes:
        if self.key is None:
            return hashlib.sha256(message).digest()
        return hmac.digest(self.key, message, "sha256")


@dataclass(frozen=True, slots=True)
class Chains:
    """Every chain whose key is at hand, the one to write with first."""

    known: tuple[Chain, ...] = (Chain(),)

    @classmethod
    def of(cls, keys: Sequence[bytes]) -> "Chains":
        """The chains of these keys, newest first; the unkeyed one is always known, and is written with where there is no key."""
        return cls((*(Chain.keyed(key) for key in keys), Chain()))

    @property
    def current(self) -> Chain:
        """What new records are chained with."""
        return self.known[0]

    def named(self, name: str) -> Chain | None:
        """The chain of that name, None when its key is not at hand."""
        return next((chain for chain in self.known if chain.name == name), None)

    def signed(self, signature: str, purpose: str, *values: Value) -> bool:
        """Whether a signature is genuine, and by a key no weaker than the current one: with a key at hand a checksum is none."""
        chain = self.named(signature.partition(":")[0])
        if chain is None or (chain.key is None and self.current.key is not None):
            return False
        return hmac.compare_digest(chain.sign(purpose, *values).encode(), signature.encode())
