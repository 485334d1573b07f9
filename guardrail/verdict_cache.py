"""Scores that were given already, for as long as they would be given again: an unchanged history costs nothing. Pure and bounded."""

import hashlib
import secrets
import sys
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

from guardrail.types import ClassifyRequest, Provenance, Score

_ENTRY_BYTES = 640  # a key, its digests, a score and its place in the order, about; words beside them are counted


class Key(NamedTuple):
    """Everything that a score depends on, and whose it is. Texts are in it as digests under a key of this process's own."""

    tenant: str
    name: str
    """The classifier's in the configuration: two of them may have one id."""
    classifier: str
    """The classifier's id, with the digest of its weights where it knows it."""
    policy: str
    policy_digest: str
    text: bytes
    context: bytes


@dataclass(slots=True)
class _Entry:
    score: Score
    size: int
    since: float


class VerdictCache:
    """The least recently used scores go first, beyond `entries` or about `size` bytes; one older than `max_age_s` is asked again.

    It holds scores, never errors, and no text. One tenant's scores answer no other tenant. Time is handed in: `now` is an instant in
    seconds of any one clock. Raises ValueError for bounds below one.
    """

    def __init__(self, *, entries: int, size: int, max_age_s: float) -> None:
        if entries < 1 or size < 1 or not max_age_s > 0:
            raise ValueError("a cache holds one entry, one byte and one moment at least")
        self._most_entries, self._most_bytes, self._max_age_s = entries, size, max_age_s
        self._secret = secrets.token_bytes(32)
        self._held: OrderedDict[Key, _Entry] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def size(self) -> int:
        """Bytes of what is held, about."""
        return self._bytes

    def keys(self, requests: Iterable[ClassifyRequest], name: str, classifier: str) -> list[Key]:
        """The keys of questions to one classifier, in order. Each distinct text is digested once."""
        digests: dict[str | None, bytes] = {None: b""}
        found = []
        for request in requests:
            for text in (request.text, request.context):
                if text not in digests:
                    digests[text] = self._digest(text or "")
            asked = *request.policy.key, digests[request.text], digests[request.context]
            found.append(Key(request.tenant, name, classifier, *asked))
        return found

    def get(self, key: Key, now: float) -> Score | None:
        """The score that was given, as it was given; None where none was, or too long ago."""
        entry = self._held.get(key)
        if entry is None:
            return None
        if not 0 <= now - entry.since < self._max_age_s:
            self._drop(key)
            return None
        self._held.move_to_end(key)
        return entry.score

    def put(self, key: Key, score: Score, now: float) -> int:
        """Remember a score; how many others had to go for it. One that alone is too large is not remembered."""
        if key in self._held:
            self._drop(key)
        entry = _Entry(score, _ENTRY_BYTES + _weight(score), now)
        if entry.size > self._most_bytes:
            return 0
        evicted = 0
        while len(self._held) >= self._most_entries or self._bytes + entry.size > self._most_bytes:
            self._bytes -= self._held.popitem(last=False)[1].size
            evicted += 1
        self._held[key] = entry
        self._bytes += entry.size
        return evicted

    def keep(self, policies: Mapping[str, frozenset[tuple[str, str]]]) -> int:
        """Forget what no policy in force will ask again; how many that was. `policies`: the keys of those in force by tenant."""
        gone = [key for key in self._held if (key.policy, key.policy_digest) not in policies.get(key.tenant, frozenset())]
        for key in gone:
            self._drop(key)
        return len(gone)

    def _drop(self, key: Key) -> None:
        self._bytes -= self._held.pop(key).size

    def _digest(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32, key=self._secret).digest()


def _weight(score: Score) -> int:
    """Bytes of the words beside a score, about. Those that many scores share count for each of them."""
    words: list[object] = [score.classifier, score.criterion, *score.flags]
    if score.provenance is not None:
        words += [getattr(score.provenance, field.name) for field in fields(Provenance)]
    return sum(sys.getsizeof(word) for word in words)
