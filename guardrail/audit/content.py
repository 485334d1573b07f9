"""Kept texts: redacted where the route says so, encrypted where there is a key, and apart from the record, which holds their digest only.

The digest covers random bytes that go with the text: once the text is dropped nobody can try texts against what remains.
"""

import hashlib
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from guardrail.types import Part, Span, Verdict

_PLAIN: Final = b"\0"
_ENCRYPTED: Final = b"\1"
_NONCE: Final = 12


_Found = dict[tuple[str, int | None], list[tuple[Span | None, str]]]


def redacted(parts: Sequence[Part], verdicts: Iterable[Verdict]) -> tuple[Part, ...]:
    """The parts without what violates: the span where a verdict names one, else all of the text, as also where it was not judged.

    What violates in a joined text is taken out of the texts that it was joined of, too, and then nothing of the joined one stays.
    """
    joined = {(part.path, part.choice): part for part in parts if part.pieces}
    found: _Found = {}
    for verdict in verdicts:
        if verdict.violation or verdict.error is not None:
            place = (verdict.part, verdict.choice)
            span, name = (verdict.span, verdict.policy_id) if verdict.violation else (None, "unjudged")
            found.setdefault(place, []).append((span, name))
            if place in joined:
                _in_pieces(joined[place], span, name, found)
    everything = [(None, name) for spans in found.values() for _, name in spans]
    return tuple(
        replace(part, text=_without(part.text, everything if part.pieces else found.get((part.path, part.choice), []))) for part in parts
    )


def _in_pieces(part: Part, span: Span | None, name: str, found: _Found) -> None:
    """Where a span of a joined text lies in each of its pieces."""
    whole = span or Span(0, len(part.text or ""))
    ends = [begin for _, begin, _ in part.pieces[1:]] + [len(part.text or "")]
    for (path, begin, skipped), end in zip(part.pieces, ends, strict=True):
        first, last = max(whole.start, begin), min(whole.end, end)
        if first < last:
            found.setdefault((path, part.choice), []).append((Span(first - begin + skipped, last - begin + skipped), name))


def _without(text: str | None, found: Sequence[tuple[Span | None, str]]) -> str | None:
    if text is None or not found:
        return text
    spans = [span or Span(0, len(text)) for span, _ in found]
    names = ", ".join(dict.fromkeys(name for _, name in found))
    merged: list[Span] = []
    for span in sorted(spans, key=lambda each: each.start):
        if merged and span.start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    for span in reversed(merged):
        text = f"{text[: span.start]}[redacted: {names}]{text[span.end :]}"
    return text


def sealed(record_id: str, parts: Sequence[Part], keys: Sequence[bytes]) -> bytes:
    """The parts as they lie in the store, under the first of the keys, for this record and no other."""
    said = json.dumps([asdict(part) for part in parts], separators=(",", ":")).encode()
    nonce = secrets.token_bytes(_NONCE)
    if not keys:
        return _PLAIN + nonce + said
    return _ENCRYPTED + nonce + AESGCM(keys[0]).encrypt(nonce, said, record_id.encode())


def opened(record_id: str, stored: bytes, keys: Iterable[bytes]) -> tuple[Part, ...] | None:
    """The parts again; None where no key fits, or the bytes are not what was stored for this record."""
    kind, nonce, said = stored[:1], stored[1 : 1 + _NONCE], stored[1 + _NONCE :]
    plain: bytes | None = said if kind == _PLAIN else None
    for key in keys if kind == _ENCRYPTED else ():
        try:
            plain = AESGCM(key).decrypt(nonce, said, record_id.encode())
            break
        except (InvalidTag, ValueError):
            continue
    if plain is None:
        return None
    try:
        return tuple(Part(**{**part, "pieces": tuple(map(tuple, part.get("pieces", ())))}) for part in json.loads(plain))
    except (ValueError, TypeError):
        return None


def digest(stored: bytes) -> str:
    """What the record says of the stored bytes."""
    return f"sha256:{hashlib.sha256(stored).hexdigest()}"
