"""Texts to padded token ids, and long texts to overlapping windows: nothing is ever cut off silently."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from guardrail.engine.embedded.signs import Signs
from guardrail.errors import ModelFileError
from guardrail.types import Span

STATEMENT_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Window:
    """Token ids of a slice of a text, with [CLS] and [SEP], and the characters it covers."""

    ids: tuple[int, ...]
    span: Span


class Tokens:
    """WordPiece around one `tokenizers.Tokenizer`; safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._signs = Signs(tokenizer)
        self.start, self.end = _special(tokenizer, "[CLS]"), _special(tokenizer, "[SEP]")

    @classmethod
    def from_json(cls, text: str) -> "Tokens":
        """From the contents of a tokenizer.json."""
        return cls(Tokenizer.from_str(text))

    def windows(self, text: str, *, size: int = 256, overlap: int = 64) -> list[Window]:
        """Cut a text into windows of at most `size` tokens ([CLS] and [SEP] counted) that share `overlap` tokens with the one before."""
        spelled, places = self._signs.spelled(text)
        encoding = self._tokenizer.encode(spelled, add_special_tokens=False)
        ids, offsets = encoding.ids, encoding.offsets
        if places is not None:
            offsets = [(places[first], places[last - 1] + 1) for first, last in offsets]
        room = size - 2
        step = room - overlap
        found = []
        for first in range(0, max(1, len(ids) - overlap), step):
            last = min(first + room, len(ids))
            span = Span(offsets[first][0], offsets[last - 1][1]) if last > first else Span(0, len(text))
            found.append(Window((self.start, *ids[first:last], self.end), span))
        return found

    def statements(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Padded ids and mask [S, T] of short texts, each cut at STATEMENT_TOKENS."""
        encodings = self._tokenizer.encode_batch([self._signs.spelled(text)[0] for text in texts], add_special_tokens=False)
        return pad([(self.start, *encoding.ids[: STATEMENT_TOKENS - 2], self.end) for encoding in encodings])


def _special(tokenizer: Tokenizer, token: str) -> int:
    found: int | None = tokenizer.token_to_id(token)
    if found is None:
        raise ModelFileError(f"the tokenizer has no {token}: not a BERT tokenizer")
    return found


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids [N, T] padded with 0 and the boolean mask of what is real."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = True
    return ids, mask
