"""Letters that look like others: mathematical and enclosed ones, full-width ones, and those of other alphabets."""

import json
import re
import unicodedata
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.resources import files

from guardrail.normalize.letters import LIKELY, likeness
from guardrail.normalize.offsets import Step, respelled, rewritten

_NAMED = re.compile(
    r"(?:LATIN LETTER SMALL CAPITAL|(?:NEGATIVE|OUTLINED)[A-Z ]* LATIN (?P<capital>CAPITAL) LETTER|"
    r"PARENTHESIZED LATIN (?:SMALL|CAPITAL) LETTER|MODIFIER LETTER (?:SMALL|CAPITAL)|LATIN SUBSCRIPT SMALL LETTER) (?P<letter>[A-Z])"
)
_LIGATURES = re.compile("[\ufb00-\ufb06]")
_FLAGS = re.compile("[\U0001f1e6-\U0001f1ff]+")
_WORD = re.compile(r"[^\W_]+")
_ORTHOGRAPHY = "\u017f"  # the letters up to here are spelled by living languages (é, ø, the Turkish ı)
_LATIN_LETTER = re.compile("[A-Za-z]")


def compatible(text: str) -> Step | None:
    """Styled letters (mathematical, full-width, enclosed, small capitals, ligatures) as plain ones, where there are two at least."""
    signs = set(text)
    if any("\ufb00" <= sign <= "\ufb06" for sign in signs):
        return rewritten(
            "compatibility", text, ((*match.span(), unicodedata.normalize("NFKC", match[0])) for match in _LIGATURES.finditer(text))
        )
    table = {ord(sign): plain for sign in signs if sign > "\u007f" and (plain := _plain(sign))}
    if sum(text.count(chr(sign)) for sign, plain in table.items() if plain.isalpha()) < 2:
        return None
    return respelled("compatibility", text, text.translate(table))


def flagged(text: str) -> Step | None:
    """Regional indicators as letters, where they are not just flags: an odd number of them, or a long row that spells English."""
    found = list(_FLAGS.finditer(text))
    if not any(_spells(_indicated(match[0])) for match in found):
        return None
    return rewritten("compatibility", text, ((*match.span(), _indicated(match[0])) for match in found))


def confusable(text: str) -> Step | None:
    """Letters of other alphabets as the Latin ones they look like, in words that are Latin but for them.

    A word that is wholly of such letters is read as Latin where it has Latin neighbours, or several like it, or nothing in the text
    is really of another alphabet. So Russian and Greek stay as they are.
    """
    table = {ord(sign): latin for sign in set(text) if sign > _ORTHOGRAPHY and (latin := _lookalikes().get(sign))}
    if not table:
        return None
    words = [(match.start(), match.end(), _kind(match[0], table)) for match in _WORD.finditer(text)]
    foreign_text = any(kind == "foreign" for _, _, kind in words)
    pieces, done = [], 0
    for group in _groups(words):
        kinds = {kind for _, _, kind in group}
        # Letters of the words that would be wholly otherwise. One alone is a formula's, or a word of its own alphabet.
        letters = sum(end - start for start, end, kind in group if kind == "lookalike" and end - start > 1)
        near_latin = "mixed" in kinds or (letters > 0 and "latin" in kinds)
        # Letters apart: too few of them alone are other than Latin to be a formula's.
        apart = [kind for start, end, kind in group if end - start == 1]
        spaced = apart.count("lookalike") >= 3 and apart.count("latin") >= 6
        whole = near_latin or spaced or (letters > 0 and not foreign_text) or (letters >= 6 and len(group) > 1)
        for start, end, kind in group:
            if kind == "mixed" or (kind == "lookalike" and whole):
                pieces += [text[done:start], text[start:end].translate(table)]
                done = end
    return respelled("confusables", text, "".join([*pieces, text[done:]]))


def _groups(words: list[tuple[int, int, str]]) -> list[list[tuple[int, int, str]]]:
    """Neighbours without a word of another alphabet between them."""
    groups: list[list[tuple[int, int, str]]] = [[]]
    for word in words:
        if word[2] == "foreign":
            groups.append([])
        else:
            groups[-1].append(word)
    return groups


def _kind(word: str, table: Mapping[int, str]) -> str:
    if word.isascii():
        return "latin" if _LATIN_LETTER.search(word) else "number"
    other = [sign for sign in word if sign > "\u007f"]
    known = sum(ord(sign) in table for sign in other)
    if known and _LATIN_LETTER.search(word):
        return "mixed"
    if known == len(other):
        return "lookalike"
    return "latin" if not known and all(sign <= _ORTHOGRAPHY for sign in other) else "foreign"


@cache
def _lookalikes() -> Mapping[str, str]:
    """A letter that is not Latin as we write it, and the ASCII letter it can be taken for, by Unicode's own table of confusables."""
    listed = json.loads(files("confusable_homoglyphs").joinpath("confusables.json").read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for sign, others in listed.items():
        if len(sign) == 1 and sign > _ORTHOGRAPHY and sign.isalpha():
            plain = sorted(other["c"] for other in others if len(other["c"]) == 1 and other["c"].isascii() and other["c"].isalpha())
            if plain:
                found[sign] = next((letter for letter in plain if letter.isupper() == sign.isupper()), plain[0])
    return found


@lru_cache(maxsize=4096)
def _plain(sign: str) -> str:
    """The letter or digit that a styled one is, or nothing."""
    same = unicodedata.normalize("NFKC", sign)
    if len(same) == 1 and same.isascii() and same.isalnum():
        return same
    named = _NAMED.fullmatch(unicodedata.name(sign, ""))
    if named is None:
        return ""
    return named["letter"] if named["capital"] else named["letter"].lower()


def _indicated(flags: str) -> str:
    return "".join(chr(ord(sign) - 0x1F1E6 + ord("a")) for sign in flags)


def _spells(letters: str) -> bool:
    return len(letters) % 2 == 1 or (len(letters) >= 12 and likeness(letters).rate > LIKELY)
