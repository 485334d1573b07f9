"""The only place that renders a CoPE prompt.

Prompts are built by concatenation, never by formatting: policies and contents hold braces, and a content may hold `{policy}`.
Content is untrusted and may imitate the headers; `header_lookalikes` finds the lines that do.
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from guardrail.types import Policy

_TASK = (
    "Examine the given POLICY and determine if the given CONTENT meets the criteria for ANY of the LABELS. "
    'Answer "1" if yes, and "0" if no.'
)


@dataclass(frozen=True, slots=True)
class Template:
    """What stands before the policy, between policy and content, and after the content.

    `before` + policy + `between` is the prefix that is the same for every content.
    """

    before: str
    between: str
    after: str

    def prefix(self, body: str) -> str:
        """Everything up to the content: what may stay resident for a policy."""
        return self.before + body + self.between


TEMPLATES: Mapping[str, Template] = MappingProxyType(
    {
        # CoPE-A, for a raw completion endpoint: the spelling most sources agree on.
        "A": Template(
            f"INSTRUCTIONS\n============\n\n{_TASK}\n\n\nPOLICY\n======\n\n",
            "\n\n\nCONTENT\n=======\n\n",
            "\n\n\nANSWER\n======\n\n",
        ),
        # CoPE-B: the body of one user message; the model's chat template supplies the rest.
        "B": Template(f"{_TASK}\n\n\nPOLICY\n======\n\n", "\n\n\nCONTENT\n=======\n\n", ""),
        # The two spellings of A seen in public services, for models tuned or measured with them.
        "wmf": Template(
            f"INSTRUCTIONS\n============\n\n{_TASK}\n\nPOLICY\n======\n\n",
            "\n\nCONTENT\n=======\n",
            "\n\nANSWER\n======\n",
        ),
        "demo": Template(
            f"\nINSTRUCTIONS\n============\n{_TASK}\n\nPOLICY\n======\n\n",
            "\n\n\nCONTENT\n=======\n\n",
            "\n\n\nANSWER\n======\n\n",
        ),
    }
)

_WORDS = frozenset({"INSTRUCTIONS", "POLICY", "CONTENT", "ANSWER"})
_UNDERLINE = re.compile(r"=+")


def render(policy: Policy | str, content: str, template: str = "A") -> str:
    """The prompt, to the byte, for a policy (or its body) and a content. Raises KeyError on an unknown template name."""
    body = policy.body if isinstance(policy, Policy) else policy
    chosen = TEMPLATES[template]
    return chosen.prefix(body) + content + chosen.after


def header_lookalikes(text: str) -> tuple[int, ...]:
    """Numbers (from 0) of the lines that read like a prompt header: its word in capitals, underlined with `=`."""
    lines = [line.strip() for line in text.split("\n")]
    pairs = itertools.pairwise(lines)
    return tuple(number for number, (word, under) in enumerate(pairs) if word.rstrip(":") in _WORDS and _UNDERLINE.fullmatch(under))
