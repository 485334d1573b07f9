"""Text to token ids, with nothing in the text having power: what spells a control token is encoded as the letters it is made of."""

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from tokenizers import Encoding, Tokenizer, pre_tokenizers

from guardrail.errors import ModelFileError

# Control tokens that some tokenizers do not mark as special, so that asking to encode special tokens as text would let them through.
_CONTROL = re.compile(r"<unused\d+>|<\|.*\|>|<(?:start|end)_of_\w+>|<(?:pad|eos|bos|unk|mask|2mass|s|/s)>|\[@?(?:BOS|EOS|PAD|MASK)@?\]")
_SURROGATES = re.compile("[\ud800-\udfff]")


class Spelling:
    """A private copy of a transformers tokenizer's backend.

    The original is left alone: transformers itself flips `encode_special_tokens` on it. `control` maps each control token's text to
    its id; no text that `encode` is given yields one of them. `newlines_stand_alone`: no token holds a newline behind anything else,
    so that what stands in front of a run of newlines is encoded the same whatever comes.
    Raises ModelFileError for a tokenizer without a `tokenizers` backend.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ModelFileError(f"{type(tokenizer).__name__} has no `tokenizers` backend; the model's folder needs a tokenizer.json")
        document: dict[str, Any] = json.loads(backend.to_str())
        document["truncation"] = document["padding"] = None
        for added in document["added_tokens"]:
            added["special"] = bool(added["special"] or _CONTROL.fullmatch(added["content"]))
        self.control: dict[str, int] = {added["content"]: added["id"] for added in document["added_tokens"] if added["special"]}
        self.digest = _digest(document)
        model = document["model"]
        if "merges" in model:  # letters must not add up to a control token either
            model["merges"] = [pair for pair in model["merges"] if _joined(pair) not in self.control]
        self._backend = Tokenizer.from_str(json.dumps(document))
        self._backend.encode_special_tokens = True
        self._bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False) if "ByteLevel" in _shape(document) else None
        newline = self._surface("\n")
        tokens = self._backend.get_vocab(with_added_tokens=True)
        joined = any(newline in token.lstrip(newline) or "\n" in token.lstrip("\n") for token in tokens)
        self.newlines_stand_alone = not joined and "Regex" not in _shape(document)
        self._split = re.compile("|".join(map(re.escape, sorted(self.control, key=len, reverse=True))) or r"(?!)")

    def encode(self, text: str) -> Encoding:
        """Ids and character offsets; no BOS. A lone surrogate, which no encoding of text can hold, counts as U+FFFD."""
        return self._backend.encode(_SURROGATES.sub("�", text), add_special_tokens=False)

    def ids(self, text: str) -> list[int]:
        """The ids alone."""
        found: list[int] = self.encode(text).ids
        return found

    def parts(self, trusted: str) -> list[str | int]:
        """A chat template's own text cut at its control tokens: their ids, and the text between them."""
        found: list[str | int] = []
        end = 0
        for match in self._split.finditer(trusted):
            found += [trusted[end : match.start()], self.control[match[0]]]
            end = match.end()
        return [part for part in [*found, trusted[end:]] if part != ""]

    def spanned(self, pairs: Iterable[str]) -> set[str]:
        """Those of the two-letter `pairs` that some token of the vocabulary contains: between the others no token ever stands astride."""
        surfaces = {(surface, pair) for pair in pairs for surface in (pair, self._surface(pair))}
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        return {pair for surface, pair in surfaces if any(surface in token for token in vocabulary)}

    def _surface(self, text: str) -> str:
        normalised = self._backend.normalizer.normalize_str(text) if self._backend.normalizer else text
        return "".join(piece for piece, _ in self._bytes.pre_tokenize_str(normalised)) if self._bytes else normalised


def _joined(pair: str | list[str]) -> str:
    return "".join(pair.split(" ", 1) if isinstance(pair, str) else pair)


def _shape(document: dict[str, Any]) -> str:
    return json.dumps([document["pre_tokenizer"], document["normalizer"]])


def _digest(document: dict[str, Any]) -> str:
    model = dict(document["model"])
    if "merges" in model:
        model["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    parts = [model, document["normalizer"], document["pre_tokenizer"], sorted(document["added_tokens"], key=lambda added: int(added["id"]))]
    return "sha256:" + hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
