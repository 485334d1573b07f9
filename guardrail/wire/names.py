"""Strings in a document of JSON: what could be a text, and what is the name of something.

One name says nothing. Several that no protocol knows may be a sentence, word by word, and are judged as one text.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

IDENTIFIER = re.compile(r"[\w.:|/+=-]{0,64}", re.ASCII)
REFERENCES = frozenset({"id", "tool_call_id", "tool_use_id", "call_id", "cache_control", "type", "signature", "status", "detail"})
"""Fields that hold identifiers: what looks like one is none of an answer's words there."""

_PIECE = re.compile(r"[A-Za-z0-9]+")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# The words of which protocols and hosts make the names of fields, their values and what they count; nothing that could insult alone.
_KNOWN = frozenset(
    """
    aac accepted action actions active adaptive added additional after age allowed alloy annotations api applied apply approval
    arguments array ascii ash assistant audio auto available background balanced ballad base batch before begin billed billing block
    blocked blocklists body bool boolean breakpoint budget byok bytes cache cacheable cached call calls categories category cedar chat
    chatcmpl check choice choices chunk citation citations cited city cleared client cmpl code commentary compact completed completion
    completions computed computer concise config configured connector container content context control conversation coral cost costs
    count country counts created creation current custom data debug decode decoded default definition definitions delta describes
    description detail detailed details detected developer diagnostics dimensions direct disable disabled display document done draft
    drop duration echo edits efficient effort embedding embeddings enable enabled encoding encrypted end engine ephemeral error errors
    event exceeded execution exit expires extended extra fable fast fetch field fields file files filter filtered filters final fine
    fingerprint finish first fixed flac flex float format forward frequency full function functions generate generated generation geo
    grained grammar group hard hash header heading height high hit host http https id ids image images in include included incomplete
    index inference info input inputs instructions int integer intent interleaved internal is item items iteration iterations json keep
    key kind kv label large last latency length level license limit limits list live local location log logprob logprobs long low marin
    material max maximal maximum mcp medium memory message messages meta metadata millis min mini minimal minimum miss modalities mode
    model models moderation moderations mp ms msg multi mutable name nano native network new non none normal nova null num number
    obfuscation object of off offset offsets on one only onyx opaque option options opus order org origin original other output outputs
    page parallel param params part partial partition path payer payload pcm penalty per performance phase policy pool predicted
    prediction prefill prefix preview primary prior priority processed processing project prompt prompts properties protected protocol
    provider pub purpose query queue quota random rank rate raw reached read reason reasoning reasons region rejected remote repeated
    repetition request requests required res reset resp response responses result results retention retrieval retry return role route
    routing run safe sage sampling scale schema schemas score scores search searches second seconds security seed selection sequence
    server service session set sets severity shimmer size skills small source sources speaker spec speculative speech speed sse stage
    standard start started state status stderr stdout stop store stored stream streaming strict string structured style sub success
    summarized summary support supported swap sync syntax system task temperature term text thinking tier time timestamp timing timings
    title token tokens told tool tools toolu top total traffic truncated truncation ttl turn turns type unit units unknown unlimited
    updated upload upstream uri url usage use used user uses utf valid value values variables vector verbosity verse version video voice
    wait warm wav web weight width window with word words workspace write written xhigh zone
    """.split()  # noqa: SIM905  (five hundred words)
)

# What filters count: names of what a text holds, beside which nothing but numbers and their own words stand.
_CATEGORY = re.compile(
    r"(hate|harassment|illicit|self[-_]harm|sexual|violence)(/[a-z]+)?|profanity|jailbreak|(indirect|ungrounded)_\w{1,16}"
)


def strings(value: object) -> Iterator[str]:
    """Every string in a value, in order; keys too where they aren't plain identifiers, because a text can stand there as well.

    So it can in several plain ones.
    """
    if isinstance(value, str):
        yield value
        return
    keys: list[str] = []
    yield from _strings(value, keys)
    if said := sentence(keys):
        yield said


def only_identifiers(value: object) -> bool:
    """Whether a value holds nothing but identifiers, none of them in a list, that are no sentence."""
    return _only_identifiers(value) and not spelled_out(value)


def sentence(names: Iterable[str]) -> str:
    """These names as one text, if two or more have words that are no protocol's; else nothing."""
    told = list(names)
    return " ".join(told) if len({name.lower() for name in told if is_foreign(name)}) > 1 else ""


def spelled_out(value: object) -> list[str]:
    """The texts that the names in a value make, one after the other: its strings, its keys, both."""
    if not isinstance(value, list | Mapping):
        return []
    found = list(named(value))
    keys, texts = [name for name, is_key in found if is_key], [name for name, is_key in found if not is_key]
    mixed = any(map(is_foreign, keys)) and any(map(is_foreign, texts))
    said = (sentence(texts), sentence(keys), sentence(name for name, _ in found) if mixed else "")
    return [text for text in dict.fromkeys(said) if text]


def is_foreign(name: str) -> bool:
    """Whether a name has a word that is no protocol's. What has digits in it is none."""
    return bool(_foreign(name))


def in_words(name: str) -> str:
    """The words of one name as a text, if three or more are no protocol's; else nothing."""
    return " ".join(_PIECE.findall(name)) if len(_foreign(name)) > 2 else ""


def named(value: object) -> Iterator[tuple[str, bool]]:
    """The strings of a value, in order, and whether each is a key."""
    if isinstance(value, str):
        yield value, False
    elif isinstance(value, Mapping):
        for key, child in value.items():
            if not _is_category(key, child):
                yield key, True
            yield from named(child)
    elif isinstance(value, list):
        for child in value:
            yield from named(child)


def word_lists(value: object) -> Iterator[str]:
    """The strings of each list of several in a value, as one text."""
    if isinstance(value, list) and len(words := [child for child in value if isinstance(child, str)]) > 1:
        yield " ".join(words)
    for child in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        if isinstance(child, list | Mapping):
            yield from word_lists(child)


def _foreign(name: str) -> list[str]:
    words = (word for piece in _PIECE.findall(name) if piece.isalpha() for word in _WORD.findall(piece))
    return [word for word in words if len(word) > 1 and word.lower() not in _KNOWN]


def _strings(value: object, keys: list[str]) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, child in value.items():
            if not IDENTIFIER.fullmatch(key):
                yield key
            elif not _is_category(key, child):
                keys.append(key)
            if not (key in REFERENCES and only_identifiers(child)):
                yield from _strings(child, keys)
    elif isinstance(value, list):
        for child in value:
            yield from _strings(child, keys)


def _only_identifiers(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(IDENTIFIER.fullmatch(key) and _only_identifiers(child) for key, child in value.items())
    return not isinstance(value, list) and (not isinstance(value, str) or IDENTIFIER.fullmatch(value) is not None)


def _is_category(key: str, child: object) -> bool:
    return not isinstance(child, str) and _CATEGORY.fullmatch(key) is not None
