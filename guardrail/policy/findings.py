"""The one table of codes: what each means and what to do about it. Parsing and linting report through it."""

from dataclasses import dataclass
from typing import Literal

from guardrail.errors import Finding, PolicyError


@dataclass(frozen=True, slots=True)
class Code:
    """One row of the table: a stable code, its meaning and its remedy."""

    code: str
    meaning: str
    remedy: str
    severity: Literal["error", "warning"] = "warning"


_ERRORS = (
    ("P001", "the file cannot be read", "check that it exists, is readable, is UTF-8 text and smaller than 256 KiB"),
    ("P002", "the text is too large or holds characters that UTF-8 cannot carry", "split the policy, or remove the characters"),
    ("P003", "a policy file has no front matter", "start the file with `---`, `id`, `version`, `title`, `---`"),
    ("P004", "the front matter is never closed", "put a line `---` after the last front-matter key"),
    ("P005", "the YAML cannot be read", "correct the YAML at the line named"),
    ("P006", "an unknown key", "remove it, or correct its spelling; keys are never ignored"),
    ("P007", "a key is given twice", "keep one of the two"),
    ("P008", "a required key is missing", "add it"),
    ("P009", "a value of the wrong kind", "write it as the message says"),
    ("P010", "no label is defined", "add `### (CODE): Name` with `#### Includes` under `## Definition of Labels`"),
    ("P011", "a label without Includes criteria", "add `#### Includes` with at least one criterion"),
    ("P012", "a label code is defined twice", "give each label its own code"),
    ("P013", "the front matter names a label that the text does not define", "use the code of the label heading"),
    ("P014", "a code fence is never closed", "close it; otherwise everything after it would change meaning"),
    (
        "P015",
        "the Tests section is not a list of cases in a ```yaml block",
        "write cases as `- text:`, `expect:`, `why:` (and `criterion:`) in one ```yaml block",
    ),
    ("P016", "a Changes entry cannot be read", "write it as `- 1.0.0 (2026-01-31): What changed.`"),
    ("P017", "a section is given twice", "join the two"),
    ("P018", "a section after Tests or Changes", "move it above `## Tests`: the model reads only what stands before"),
    ("P019", "two files define the same policy id", "rename one, or put the overriding one in another folder"),
    ("P020", "a policy folder does not exist", "create it, or correct the path"),
    ("P021", "the criteria are empty", "write at least one sentence that says what violates"),
    ("P022", "criteria text with front matter", "send the prose only; settings of ad-hoc criteria are arguments"),
    (
        "P023",
        "a policy folder loses all its policies while they are in force",
        "bring them back; to do without, take the folder out of the configuration and restart",
    ),
    ("P024", "a test names a criterion that the policy does not have", "write the name as it stands in bold under Includes or Excludes"),
)
_ADVICE = (
    ("L001", "a section of the CoPE format is missing", "add it: readers and models look for all of them"),
    ("L002", "several labels in one policy", "split it: one label per policy answers one question"),
    ("L003", "fewer than three Excludes criteria", "name the near misses that must not be labelled; three or four at least"),
    ("L004", "a criterion or term without a name", "start it with `**Name**:`; verdicts and reviewers refer to names"),
    ("L005", "a bolded term that is not defined", "define it under Definition of Terms, or drop the bold"),
    ("L006", "a defined term that is never used", "use it, or remove the definition"),
    ("L007", "wording that asks for intent", "name what can be seen in the text; the message suggests a rewrite"),
    ("L008", "criteria without a single example", 'add examples as (e.g., "...")'),
    ("L009", "the body is over about 4,000 tokens", "split the policy; policy and content share an 8K window"),
    ("L010", "no statement of strictness", "say strict, moderate or permissive in the Overview, and what it means"),
    ("L011", "a criterion of fewer than eight words", "say precisely what qualifies, so that two readers agree"),
    ("L012", "a catch-all", "list the concrete cases instead"),
    ("L013", "no tests", "add a `## Tests` section with a ```yaml block"),
    ("L014", "fewer than twelve tests", "add cases near the boundary, on both sides"),
    ("L015", "tests of one label only", "add cases of the other label: a constant answer would pass"),
    ("L016", "the same test text twice", "remove one; two different answers to one text cannot both hold"),
    ("L017", "a test without a reason", "say in `why` which criterion decides"),
    ("L018", "the version is not in Changes", "add `- <version> (<date>): <what changed>`"),
    ("L019", "a threshold near 0 or 1", "use 0.05 to 0.95: beyond it the policy flags all or nothing"),
    ("L020", "a criterion that starts with a pronoun", "repeat the noun; each criterion is read alone"),
    ("L021", "a criterion name used twice", "give each criterion its own name, and decide on which side it stands"),
    ("L022", "a line that looks like a header of the prompt", "reword it: the model would see a second POLICY, CONTENT or ANSWER"),
    ("L023", "a placeholder is left", "fill it in"),
    ("L024", "a criterion that does not start with `Content that`", "write `Content that ...`, so that it describes the text"),
    ("L025", "an unknown section", "move its text into one of the known sections; a model reads it, a verdict cannot name it"),
    ("L026", "no `# Policy` heading", "start the prose with `# Policy`"),
    ("L027", "the body is longer than 100 lines", "shorten it: detail helps up to about 80 lines and hurts beyond"),
    ("L028", "a test text that stands in the policy itself", "use another text: the model has read this one"),
    ("L029", "answers are judged with the prompt, and none are judged", "leave judge_with out, or apply the policy to answers"),
)
_SEVERE_ADVICE = frozenset({"L022", "L023"})

CODES: dict[str, Code] = {code: Code(code, meaning, remedy, "error") for code, meaning, remedy in _ERRORS} | {
    code: Code(code, meaning, remedy, "error" if code in _SEVERE_ADVICE else "warning") for code, meaning, remedy in _ADVICE
}


class Report:
    """Collects the findings of one document, so that all of them are told at once."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.findings: list[Finding] = []

    def add(self, line: int, code: str, message: str) -> None:
        """Record one finding; `code` must be in the table."""
        self.findings.append(Finding(self.path, line, code, message, CODES[code].severity))

    def refuse(self) -> None:
        """Raise PolicyError with what was found so far, in line order; do nothing if nothing was."""
        if self.findings:
            raise PolicyError(sorted(self.findings, key=lambda finding: finding.line))


def table() -> str:
    """The table of codes as aligned text, one code a line with its remedy beneath."""
    return "\n".join(f"{row.code}  {row.severity:<7}  {row.meaning}\n{' ' * 15}-> {row.remedy}" for row in CODES.values())
