"""Texts as an adapter reads them: the tokenizer's own ids, with nothing in the text having power."""

from collections.abc import Sequence
from typing import Any

from guardrail.engine.cope.spelling import Spelling
from guardrail.errors import ModelFileError

_PLAIN = "Good morning."


class TextIds:
    """Token ids of whole texts, with what the tokenizer puts around each (BOS, say).

    They are those of `tokenizer(text)`, but for a text that spells a control token: here it is spelled letter by letter, there it is
    the token. `digest` names the tokenizer, `pad` the id of padding. Raises ModelFileError for a tokenizer that cannot be used so.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._spelling = Spelling(tokenizer)
        whole, plain = list(tokenizer(_PLAIN)["input_ids"]), self._spelling.ids(_PLAIN)
        found = next((at for at in range(len(whole) - len(plain) + 1) if whole[at : at + len(plain)] == plain), None)
        if found is None:
            raise ModelFileError("the tokenizer encodes a plain text otherwise than its own backend does; an adapter needs a plain one")
        self._before, self._after = whole[:found], whole[found + len(plain) :]
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self.pad = int(pad) if pad is not None else 0
        self.digest = self._spelling.digest

    def ids(self, text: str) -> Sequence[int]:
        """The ids of one text; at least one of them."""
        return [*self._before, *self._spelling.ids(text), *self._after] or [self.pad]
