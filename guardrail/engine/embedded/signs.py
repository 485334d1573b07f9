"""Signs that the vocabulary lacks, told by their names: a thumbs-up reads `thumbs up`, where WordPiece would give up the whole word.

A word with one unknown sign in it, or of more than a hundred letters, becomes `[UNK]`, and all unknown words look alike to the model. So
styled letters become plain ones (NFKC), symbols become their Unicode names, of other unknown signs (letters of scripts that the vocabulary
does not cover) nothing is left, and a very long word is read in pieces.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from tokenizers import Tokenizer

# Of a name, what says how a sign is drawn and not what it means (the red heart is HEAVY BLACK HEART).
_DRAWN: Final = frozenset({"black", "white", "heavy", "light", "medium", "large", "small", "sign", "symbol", "symbols", "emoji"})
_SKIN: Final = range(0x1F3FB, 0x1F400)  # modifiers of the sign before them
_FLAGS: Final = range(0x1F1E6, 0x1F200)  # letters that make a flag, two by two
_NAMED: Final = frozenset({"So", "Sc", "Sk", "Po", "Pd"})
_LONG: Final = re.compile(r"[^\W_]{100,}")  # WordPiece gives up beyond a hundred characters
_PIECE: Final = 60


class Signs:
    """Rewrites texts for one tokenizer; safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._normal = tokenizer.normalizer
        self._known = frozenset("".join(piece.removeprefix("##") for piece in tokenizer.get_vocab() if len(piece.removeprefix("##")) == 1))
        self._told = lru_cache(8192)(self._tell)

    def spelled(self, text: str) -> tuple[str, list[int] | None]:
        """The text as it is to be tokenised, and of each of its characters the place in `text` (None: nothing was changed).

        A sign that is repeated is named once. Linear; a sign's name is longer than the sign, by at most some eighty characters.
        """
        told, places = (text, None) if text.isascii() else self._named(text)
        return (told, places) if _LONG.search(told) is None else _broken(told, places)

    def _named(self, text: str) -> tuple[str, list[int] | None]:
        pieces: list[str] = []
        places: list[int] = []
        changed, before = False, ""
        for place, sign in enumerate(text):
            told = sign if sign < "\x80" else self._told(sign)
            if told != sign:
                changed = True
                if told == before and told.startswith(" "):
                    continue
            if told:
                before = told
            pieces.append(told)
            places += [place] * len(told)
        return ("".join(pieces), places) if changed else (text, None)

    def _tell(self, sign: str) -> str:
        if self._reads(sign):
            return sign
        plain = unicodedata.normalize("NFKC", sign)
        if plain != sign and self._reads(plain):
            return plain
        if ord(sign) in _FLAGS:
            return " flag "
        kind = unicodedata.category(sign)
        if ord(sign) in _SKIN or kind[0] not in "SPZ":
            return ""
        words = [word for word in unicodedata.name(sign, "").lower().replace("-", " ").split() if word not in _DRAWN]
        return f" {' '.join(words)} " if words and kind in _NAMED else " "

    def _reads(self, signs: str) -> bool:
        """Whether the tokenizer makes something of it, or leaves it out knowingly."""
        return all(each in self._known or each.isspace() for each in self._plain(signs))

    def _plain(self, signs: str) -> Iterable[str]:
        return signs if self._normal is None else self._normal.normalize_str(signs)


def _broken(text: str, places: list[int] | None) -> tuple[str, list[int]]:
    """With a space after every so many letters of a long word."""
    before = places or list(range(len(text)))
    pieces: list[str] = []
    found: list[int] = []
    last = 0
    for word in _LONG.finditer(text):
        for end in range(word.start() + _PIECE, word.end(), _PIECE):
            pieces += text[last:end], " "
            found += [*before[last:end], before[end - 1]]
            last = end
    return "".join([*pieces, text[last:]]), [*found, *before[last:]]
