"""Whether single rows are what was written: each by its own hash. What is missing, moved or put back, `verify` alone finds."""

import hmac
import sqlite3
from collections.abc import Sequence
from typing import Any

from guardrail.audit.chain import Chain, Chains
from guardrail.audit.ledger import Segment, read_head, read_segments
from guardrail.audit.row import SELECTED
from guardrail.audit.schema import version_of

PROVEN = f"place, {SELECTED}, previous, hash"
"""The columns of a row that can be checked."""


class Seals:
    """The seals of one connection, by which the rows of `PROVEN` are told to be genuine."""

    def __init__(self, connection: sqlite3.Connection, chains: Chains) -> None:
        self._connection = connection
        self._chains = chains
        self._segments: list[Segment] | None = None

    def genuine(self, row: Sequence[Any]) -> bool | None:
        """Whether the row is what was written there; None where the key that tells is not at hand."""
        place, *values, body, previous, hashed = row
        signature, purpose, signed, name = self._seal(place)
        chain = self._chains.named(name)
        if chain is None or self._chains.named(signature.partition(":")[0]) is None:
            return None
        return self._chains.signed(signature, purpose, *signed) and values[0] == place and genuine(chain, previous, values, body, hashed)

    def _seal(self, place: int) -> tuple[str, str, Sequence[Any], str]:
        """What says by which chain a place was written: its signature, what that is of, and the chain's name."""
        if self._segments is None:
            self._segments = read_segments(self._connection) if version_of(self._connection) > 1 else []
        found = next((each for each in reversed(self._segments) if each.first <= place <= each.last), None)
        if found is not None:
            return found.signature, "segment", found.values(), found.chain
        head, signature = read_head(self._connection)
        return signature, "head", head.values(), head.chain


def genuine(chain: Chain, previous: Any, values: Sequence[Any], body: Any, hashed: Any) -> bool:
    """Whether a row is one that was written, wherever it stands now."""
    if not (isinstance(previous, bytes) and isinstance(hashed, bytes) and isinstance(body, str)):
        return False
    try:
        return hmac.compare_digest(chain.hash(previous, values, body), hashed)
    except (ValueError, TypeError):  # not even text any more
        return False
