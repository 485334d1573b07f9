"""Which group a hateful text is aimed at, where its set does not say: by the plain identity words in it.

A weak labeller of our own: only a text that speaks of exactly one group gets that group, since where two are named the words alone do not
say which of them is attacked. Abusive words are left out on purpose; plain ones suffice and keep this file readable.
"""

import re

WITHIN = {"gay_people": "lgbtq", "trans_people": "lgbtq"}  # a narrower group and the wider one it belongs to

_WORDS = {
    "muslims": r"muslims?|islam(?:ic|ists?)?|mosques?|qurans?|korans?|sharia",
    "jews": r"jews?|jewish|judaism|zionists?|synagogues?|israelis?",
    "christians": r"christians?|catholics?|christianity",
    "black_people": r"blacks?|african[- ]americans?|africans?|black (?:people|men|women|man|woman)",
    "asians": r"asians?|chinese|japanese|koreans?|vietnamese|pakistanis?",
    "latinos": r"latin[oax]s?|hispanics?|mexicans?",
    "native_americans": r"native americans?|indigenous|american indians?",
    "arabs": r"arabs?|arabic|middle[- ]eastern(?:ers?)?|syrians?|iraqis?|palestinians?",
    "immigrants": r"(?:im|e)?migrants?|immigration|refugees?|asylum seekers?|illegal aliens?|illegals|deport(?:ed|ation|ations)?",
    "disabled": r"disabled|disabilit(?:y|ies)|autis(?:m|tic)|wheelchairs?|handicapped|deaf|blind people|mentally ill",
    "trans_people": r"transgenders?|trans|transsexuals?|transwom[ae]n|transm[ae]n",
    "gay_people": r"gays?|lesbians?|homosexual(?:s|ity)?",
    "lgbtq": r"lgbt\w*|queers?|bisexuals?",
    "women": r"wom[ae]n|girls?|females?|feminis[mt]s?|wife|wives|ladies",
    "white_people": r"white(?:s|y|ys)?|white (?:people|men|women|man|woman)|caucasians?",
}
_PATTERNS = {group: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for group, words in _WORDS.items()}


def spoken_of(text: str) -> frozenset[str]:
    """The one group a text speaks of, with the wider group it belongs to; empty when there is none or more than one."""
    found = {group for group, pattern in _PATTERNS.items() if pattern.search(text)}
    narrow = found - set(WITHIN.values()) if found & set(WITHIN) else found
    if len(narrow) != 1:
        return frozenset()
    return frozenset({*narrow, *(WITHIN[group] for group in narrow if group in WITHIN)})


def aimed_at(groups: frozenset[str], group: str) -> bool | None:
    """Whether a text against `groups` is against `group`; None when it only says the wider group that `group` belongs to."""
    if group in groups:
        return True
    wider = WITHIN.get(group)
    if wider in groups and not any(narrower in groups for narrower, around in WITHIN.items() if around == wider):
        return None
    return False


def aimed_only_at(groups: frozenset[str], group: str) -> bool:
    """Whether nobody outside `group` is attacked."""
    return groups <= {group, WITHIN.get(group, group), *(narrower for narrower, wider in WITHIN.items() if wider == group)}
