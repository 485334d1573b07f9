"""Changes of a text's surface that change nothing of what it says: line ends, case, quotes, spaces, punctuation.

A detector that was trained on tidy benign and messy violating texts learns that mess violates: OpenCC's published one calls a benign text
an attack for a newline behind it. So noise here is symmetric: no function is told a label, and what is drawn depends on seed, pass
over the data and text alone.
"""

import random
from collections.abc import Callable, Mapping
from types import MappingProxyType

_QUOTES = (('"', '"'), ("'", "'"), ("\u201c", "\u201d"), ("\u00ab", "\u00bb"), ("`", "`"), ("```\n", "\n```"))
_ENDS = ("\n", "\n\n", "\r\n", "\n\n\n", " \n")
_SPACES = (" ", "  ", "\t", "\u00a0")


def _newline(text: str, chance: random.Random) -> str:
    return text.rstrip() + chance.choice(_ENDS)


def _case(text: str, chance: random.Random) -> str:
    return chance.choice((str.lower, str.upper, str.title, str.capitalize))(text)


def _quote(text: str, chance: random.Random) -> str:
    if chance.random() < 0.2:
        return "\n".join(f"> {line}" for line in text.splitlines())
    before, after = chance.choice(_QUOTES)
    return f"{before}{text}{after}"


def _space(text: str, chance: random.Random) -> str:
    if chance.random() < 0.5:
        return chance.choice(_SPACES) + text + chance.choice(_SPACES)
    words = text.split(" ")
    place = chance.randrange(len(words))
    return " ".join([*words[:place], words[place] + chance.choice(_SPACES), *words[place + 1 :]])


def _punctuation(text: str, chance: random.Random) -> str:
    bare = text.rstrip().rstrip(".!?")
    return bare + chance.choice(("", ".", "!", "!!", "?", "...", " ."))


NOISES: Mapping[str, Callable[[str, random.Random], str]] = MappingProxyType(
    {"newline": _newline, "case": _case, "quote": _quote, "space": _space, "punctuation": _punctuation}
)


def noisy(text: str, seed: str, rate: float) -> str:
    """The text as it is, or (`rate` of the time) with one or two kinds of noise. The same for the same text, seed and rate."""
    chance = random.Random(f"{seed}:{text}")  # noqa: S311  (reproducible, no secret)
    if chance.random() >= rate:
        return text
    for kind in chance.sample(list(NOISES), chance.choice((1, 1, 2))):
        text = NOISES[kind](text, chance)
    return text
