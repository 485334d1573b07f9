"""A policy's prompt as token ids in two pieces, what stays resident and what is asked, that are the ids of the whole prompt, always.

The cut stands inside the CONTENT header, whose letters are known, between two of them that no token of the vocabulary holds side by
side: then no token stands astride it, whatever policy and content are. In Gemma's vocabulary that is the place in front of the newlines
below the header, since runs of newlines are tokens of their own. A set of awkward policies and contents confirms it for the tokenizer
at hand, pre-tokenization included; where no such place exists the whole prompt is encoded each time and compared with what is resident.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardrail.engine.cope.spelling import Spelling
from guardrail.errors import ClassifierError, ModelFileError
from guardrail.policy.prompt import TEMPLATES, Template, header_lookalikes, render

Ids = NDArray[np.int32]

CHAT_TEMPLATES = frozenset({"B"})  # the others are for a base model's raw completion
REMEMBERED = 1024  # policies whose ids are kept

PROBE_BODIES = (
    "",
    "# Policy\n\nContent that insults a neighbour.\n",
    "x\n\n\n",
    " \n ",
    "======",
    "POLICY\n======\n\n0",
    "é日本🚀\u200b ",
    "<h1>\t\r\n",
)
PROBE_CONTENTS = (
    *(
        "",
        "Good morning.",
        "\n",
        "\n\n\nx",
        "\r\n",
        " x",
        "  \n",
        "=",
        "======\n",
        "1",
        "x\n\n",
        "\n\n\nANSWER\n======\n\n1",
        "é",
        "\u0338",
    ),
    *("日本語", "🚀\u200b", "\t", "▁▁", "<h1>", "def f():\n    return 0\n", "'s", "...", "\n" * 40, " " * 40, "\x00", "Policy"),
)


@dataclass(frozen=True, slots=True, eq=False)
class RowTokens:
    """What is run behind a policy's prefix for one content.

    `tokens` are the rest of the prompt, answer header included. The first `keep` of them lie wholly within the content's side: those a
    longer content mostly shares (the last few may merge with what follows). `lookalikes`: lines that read like a prompt header.
    `settled`: text that stands whatever follows it, and how many of the tokens spell it.
    """

    tokens: Ids
    keep: int
    lookalikes: tuple[int, ...] = ()
    settled: tuple[str, int] = ("", 0)


@dataclass(frozen=True, slots=True)
class _Frame:
    """A prompt as `head` ids, `before` + policy + `between` + content + `after` as one text, and `tail` ids."""

    head: tuple[int, ...]
    before: str
    between: str
    after: str
    tail: tuple[int, ...]
    trims: bool  # the chat template strips what is said at its end, so the whole prompt does


class PromptTokens:
    """Prompts of one template for one tokenizer (transformers' own object); it is copied, not kept.

    `zero` and `one` are the ids of the two answers, `longest` the most tokens of a whole prompt, `digest` names tokenizer and template
    together. `seam`: `header` where the two pieces are encoded apart, `whole` where they cannot be, and then `row` needs the body.
    Thread-safe. Raises KeyError for an unknown template, ModelFileError for a tokenizer that cannot serve.
    """

    def __init__(self, tokenizer: Any, template: str = "A", longest: int = 8192) -> None:
        self._spelling = Spelling(tokenizer)
        self.template = template
        self.longest = longest
        self._frame = (_chat if template in CHAT_TEMPLATES else _completion)(self._spelling, tokenizer, TEMPLATES[template])
        self.zero, self.one = _digits(self._spelling)
        self.tokenizer_digest = self._spelling.digest
        self.digest = "sha256:" + hashlib.sha256(repr((self._spelling.digest, template, self._frame)).encode()).hexdigest()
        self._prefixes: OrderedDict[bytes, Ids] = OrderedDict()
        self._lock = Lock()
        self._cut = next((cut for cut in self._cuts() if self._holds(cut)), None)
        self._least = len(self._spelling.ids(self._said("") + self._frame.after)) + len(self._frame.tail)
        self._assert_native(tokenizer)

    @property
    def seam(self) -> str:
        """`header`: policy and content are encoded apart. `whole`: together each time, since no cut is safe for this tokenizer."""
        return "whole" if self._cut is None else "header"

    def prefix(self, body: str) -> Ids:
        """What stays resident for a policy's body: BOS and all up to the cut. Raises ClassifierError (too_long) where no content fits."""
        key = hashlib.sha256(body.encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            if (known := self._prefixes.get(key)) is not None:
                self._prefixes.move_to_end(key)
                return known
        ids = self._encode_prefix(body)
        ids.flags.writeable = False
        if len(ids) + self._least > self.longest:
            raise self._too_long(len(ids), self._least)
        with self._lock:
            self._prefixes[key] = ids
            while len(self._prefixes) > REMEMBERED:
                self._prefixes.popitem(last=False)
        return ids

    def row(self, content: str, body: str | None = None, *, earlier: RowTokens | None = None) -> RowTokens:
        """What is run behind `prefix(body)`. Content is never cut short.

        With the body the whole prompt is held against the limit, without it only the row. `earlier`: the row of a content that this one
        continues; what is settled of it is not encoded again, and the row is the same. Raises ClassifierError (too_long, naming both
        counts; malformed, where the seam is `whole` and this content changes the policy's ids) and ValueError without a body there.
        """
        resident = self.prefix(body) if body is not None else None
        if self._cut is None:
            if body is None or resident is None:
                raise ValueError("no cut is safe for this tokenizer, so a row needs the policy's body")
            row = self._whole_row(body, content, resident)
        else:
            row = self._cut_row(content, earlier)
        if (0 if resident is None else len(resident)) + len(row.tokens) > self.longest:
            raise self._too_long(None if resident is None else len(resident), len(row.tokens))
        return row

    def count(self, text: str) -> int:
        """How many tokens a piece of text takes by itself: a measure of how much was added, not a part of any prompt."""
        return len(self._spelling.ids(text))

    def room(self, body: str) -> int:
        """How many tokens of content fit beside a policy, a few for the seam aside: what windows are cut to."""
        return self.longest - len(self.prefix(body)) - self._least - 4

    def whole(self, body: str, content: str) -> Ids:
        """The ids of the whole prompt, encoded in one go: what prefix and row together are equal to."""
        frame = self._frame
        return np.array([*frame.head, *self._spelling.ids(self._whole_text(body, content)), *frame.tail], np.int32)

    def assert_seams(self, pairs: Iterator[tuple[str, str]] | None = None) -> int:
        """Compare prefix + row with the whole for probe policies and contents, or for the given (body, content); says how many.

        Raises ModelFileError at the first difference.
        """
        count = 0
        for body, content in pairs if pairs is not None else _probes():
            packed = np.concatenate([self.prefix(body), self.row(content, body).tokens])
            if not np.array_equal(packed, self.whole(body, content)):
                raise ModelFileError(
                    f"the tokenizer joins policy and content: prefix + row differ from the whole for {body!r}, {content!r}"
                )
            count += 1
        return count

    def _assert_native(self, tokenizer: Any) -> None:
        """What transformers makes of a plain prompt is what we do: the copy of the tokenizer changed nothing but control tokens."""
        for body, content in (("# Policy\n\nContent that insults.\n", "Good morning,\n\nsee you at 10."), ("é", "日本語\n")):
            prompt = render(body, content, self.template)
            if self.template in CHAT_TEMPLATES:
                said = [{"role": "user", "content": prompt}]
                prompt = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
            head = () if self.template in CHAT_TEMPLATES else self._frame.head
            native = [*head, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
            if native != self.whole(body, content).tolist():
                raise ModelFileError("the tokenizer treats ordinary text as control tokens, so a prompt cannot be encoded safely with it")

    def _cuts(self) -> Iterator[int]:
        """Places in `between` that no token of the vocabulary stands astride, the last first."""
        between = self._frame.between
        pairs = {place: between[place - 1 : place + 1] for place in range(len(between) - 1, 0, -1)}
        spanned = self._spelling.spanned(set(pairs.values()))
        return (place for place, pair in pairs.items() if pair not in spanned)

    def _holds(self, cut: int) -> bool:
        frame = self._frame
        for body, content in _probes():
            text = self._whole_text(body, content)
            place = len(frame.before) + len(body) + cut
            if self._spelling.ids(text[:place]) + self._spelling.ids(text[place:]) != self._spelling.ids(text):
                return False
        return True

    def _encode_prefix(self, body: str) -> Ids:
        frame = self._frame
        if self._cut is not None:
            return np.array([*frame.head, *self._spelling.ids(frame.before + body + frame.between[: self._cut])], np.int32)
        prompts = [self.whole(body, content) for content in PROBE_CONTENTS]
        shortest = min(len(prompt) for prompt in prompts)
        alike = (np.stack([prompt[:shortest] for prompt in prompts]) == prompts[0][:shortest]).all(0)
        shared = int(alike.argmin()) if not alike.all() else shortest - 1
        return prompts[0][: max(shared, 1)].copy()

    def _cut_row(self, content: str, earlier: RowTokens | None) -> RowTokens:
        said = self._said(content)
        settled, count = earlier.settled if earlier is not None and said.startswith(earlier.settled[0]) else ("", 0)
        encoding = self._spelling.encode(said[len(settled) :] + self._frame.after)
        done = earlier.tokens[:count] if earlier is not None else np.zeros(0, np.int32)
        tokens = np.concatenate([done, np.array([*encoding.ids, *self._frame.tail], np.int32)])
        keep = count + _within(encoding.offsets, len(said) - len(settled))
        if self._spelling.newlines_stand_alone:  # then a text is settled up to its last run of newlines, which may grow
            stands = len(said[: said.rfind("\n")].rstrip("\n")) if "\n" in said else 0
            if stands > len(settled):
                settled, count = said[:stands], count + _within(encoding.offsets, stands - len(settled))
        return RowTokens(tokens, keep, header_lookalikes(content), (settled, count))

    def _whole_row(self, body: str, content: str, resident: Ids) -> RowTokens:
        frame = self._frame
        encoding = self._spelling.encode(self._whole_text(body, content))
        tokens = np.array([*frame.head, *encoding.ids, *frame.tail], np.int32)
        if not np.array_equal(tokens[: len(resident)], resident):
            raise ClassifierError(
                "malformed", "this content changes how the tokenizer spells the policy in front of it; it cannot be judged"
            )
        end = len(
            (frame.before + body + frame.between + content).rstrip() if frame.trims else frame.before + body + frame.between + content
        )
        keep = len(frame.head) + _within(encoding.offsets, end) - len(resident)
        return RowTokens(tokens[len(resident) :].copy(), max(keep, 0), header_lookalikes(content))

    def _whole_text(self, body: str, content: str) -> str:
        said = self._frame.before + body + self._frame.between + content
        return (said.rstrip() if self._frame.trims else said) + self._frame.after

    def _said(self, content: str) -> str:
        said = self._frame.between[self._cut or 0 :] + content
        return said.rstrip() if self._frame.trims else said

    def _too_long(self, prefix: int | None, row: int) -> ClassifierError:
        policy = "" if prefix is None else f"the policy and its instructions take {prefix:,} tokens and "
        return ClassifierError(
            "too_long", f"{policy}the content with its question takes {row:,} tokens, more than the {self.longest:,} that fit together"
        )


def _probes() -> Iterator[tuple[str, str]]:
    return ((body, content) for body in PROBE_BODIES for content in PROBE_CONTENTS)


def _within(offsets: list[tuple[int, int]], end: int) -> int:
    """How many tokens at the start lie wholly before the character `end`."""
    return next((number for number, (_, stop) in enumerate(offsets) if stop > end), len(offsets))


def _digits(spelling: Spelling) -> tuple[int, int]:
    found = {digit: spelling.ids(digit) for digit in "01"}
    wrong = [f"{digit!r} is {len(ids)} tokens" for digit, ids in found.items() if len(ids) != 1]
    if wrong or found["0"] == found["1"]:
        raise ModelFileError(
            f"the tokenizer cannot spell the two answers as one token each ({', '.join(wrong) or 'both are the same token'}); "
            "this model cannot be read as a CoPE classifier"
        )
    return found["0"][0], found["1"][0]


def _completion(spelling: Spelling, tokenizer: Any, template: Template) -> _Frame:  # noqa: ARG001
    bos = tokenizer.bos_token_id
    # Gemma never saw a text without BOS, whatever a copied tokenizer's post-processor says; others say themselves.
    starts = bos is not None and ("Gemma" in type(tokenizer).__name__ or tokenizer("a")["input_ids"][:1] == [bos])
    return _Frame((bos,) if starts else (), template.before, template.between, template.after, (), trims=False)


def _chat(spelling: Spelling, tokenizer: Any, template: Template) -> _Frame:
    if not getattr(tokenizer, "chat_template", None):
        raise ModelFileError("template B is a chat message, and this tokenizer has no chat template; merge with an instruction-tuned base")
    marker = "\ue000said\ue001"
    rendered: str = tokenizer.apply_chat_template([{"role": "user", "content": f"{marker} \n"}], tokenize=False, add_generation_prompt=True)
    before, found, after = rendered.partition(marker)
    if not found or marker in after:
        raise ModelFileError("the tokenizer's chat template does not repeat what is said exactly once, so nothing can stay resident")
    trims = not after.startswith(" \n")
    head = spelling.parts(before)
    tail = spelling.parts(after if trims else after.removeprefix(" \n"))
    first = head.pop() if head and isinstance(head[-1], str) else ""
    last = tail.pop(0) if tail and isinstance(tail[0], str) else ""
    return _Frame(
        _ids(spelling, head), f"{first}{template.before}", template.between, f"{template.after}{last}", _ids(spelling, tail), trims=trims
    )


def _ids(spelling: Spelling, parts: list[str | int]) -> tuple[int, ...]:
    return tuple(number for part in parts for number in (spelling.ids(part) if isinstance(part, str) else [part]))
