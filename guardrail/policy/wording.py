"""What to look for in the wording of policies: lists and patterns, kept apart from the checks that use them."""

import re

from guardrail.types import Criterion

# Two readers cannot agree on an intent; each row pairs the wording with what can be seen in a text instead.
_WISHES = (
    r"\b(?:intend(?:s|ed|ing)?|designed|meant|tries|try|trying|attempt(?:s|ed|ing)?"
    r"|aim(?:s|ed|ing)?|seek(?:s|ing)?|wants?|hop(?:es|ing)) to"
)
_INTENT = (
    (r"\b(?:intend(?:s|ed|ing)?|intention|intent)\b.{0,40}\bharm", "contains or depicts harm"),
    (_WISHES + r" (?:deceive|mislead)", "contains false information presented as fact"),
    (_WISHES + r" manipulate", "uses one of the listed techniques"),
    (_WISHES + r" promote", "contains explicit advocacy or instruction"),
    (_WISHES + r" circumvent", "circumvents through the listed methods"),
    (_WISHES + r"\b", "contains, depicts, states or instructs"),
    (r"\bintended for\b|\bwith (?:the )?(?:intent|intention|aim|goal|purpose)\b|\baimed at \w+ing\b", "contains, depicts or states"),
)
INTENT = tuple((re.compile(pattern, re.IGNORECASE), rewrite) for pattern, rewrite in _INTENT)

STRICTNESS = re.compile(
    r"\b(?:strict(?:ly|ness)?|moderate(?:ly)?|balanced|permissive(?:ly)?|lenient(?:ly)?|narrow(?:ly)?|broad(?:ly)?|conservative(?:ly)?"
    r"|comprehensive(?:ly)?|zero[- ]tolerance|light[- ]touch|err on the side)\b",
    re.IGNORECASE,
)
EXAMPLE = re.compile(r"e\.g\.|\bfor example\b|\bfor instance\b|\bsuch as\b", re.IGNORECASE)
CATCH_ALL = re.compile(
    r"\b(?:harmful|inappropriate|objectionable|problematic|undesirable|unacceptable|bad) (?:content|material|behaviou?r)\b"
    r"|\banything (?:else|harmful|similar|inappropriate)\b|\band so on\b|\betc\b",
    re.IGNORECASE,
)
PRONOUN = re.compile(r"(?:it|its|they|them|their|this|that|these|those|he|she|such|which|who)\b", re.IGNORECASE)
PLACEHOLDER = re.compile(r"\b(?:TODO|TBD|FIXME|FILL IN|XXX)\b|\b[Ll]orem ipsum\b")
_BOLD = re.compile(r"\*\*([^*]{1,120})\*\*(\s?:)?")

_QUOTED = re.compile(r"\"[^\"]{0,400}\"|“[^”]{0,400}”")
_ALTERNATIVES = re.compile(r"\s+or\s+|\s*/\s*|\s*,\s*")
_BRACKETED = re.compile(r"\([^()]{0,400}\)")


def unquoted(text: str) -> str:
    """The text without its quoted examples: an example may say what a criterion must not."""
    return _QUOTED.sub('""', text)


def definition(text: str) -> str:
    """The text without its examples and other remarks in parentheses."""
    return _BRACKETED.sub(" ", unquoted(text))


def bold_terms(text: str) -> list[str]:
    """What is bold in running text; bold before a colon is the name of a sub-criterion and no term."""
    return [match[1] for match in _BOLD.finditer(text) if not match[2] and not match[1].rstrip().endswith(":")]


def stem(term: str) -> str:
    """A term for comparison: case folded, without what stands in parentheses, singular."""
    words = _BRACKETED.sub(" ", term).casefold().rstrip(":").split()
    return " ".join([*words[:-1], _singular(words[-1])]) if words else ""


def alternatives(term: str) -> set[str]:
    """The stems under which a term may be used: `Slur or epithet` is used where either word is."""
    return {stem(term)} | {stem(part) for part in _ALTERNATIVES.split(_BRACKETED.sub(" ", term))} - {""}


def uses(text: str, name: str) -> bool:
    """True when a text holds the stem of a term, as whole words in singular or plural."""
    folded = " " + re.sub(r"[^\w'-]+", " ", text.casefold()) + " "
    singular = " ".join(_singular(word) for word in folded.split())
    target = " ".join(_singular(word) for word in re.sub(r"[^\w'-]+", " ", name).split())
    return f" {target} " in f" {singular} "


def full_text(criterion: Criterion) -> str:
    """Everything a criterion says: name, definition and exception."""
    return " ".join(part for part in (criterion.name, criterion.text, criterion.excludes) if part)


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3 else word
