"""Every error this package raises on purpose.

GuardrailError
├── DocumentError            a policy or a configuration that cannot be used; carries findings with path and line
│   ├── PolicyError
│   └── ConfigError
├── ClassifierError          no usable score; returned as a value by `Classifier.classify`, never turned into a 0
├── UpstreamError            the guarded model's API failed
├── WireError                the client's request cannot be understood; carries the status it is answered with
│   └── LimitError           the caller has used up what it may ask for in a time
└── ModelFileError           a weights file is missing, altered or of another format

One class per handling, not per cause: the cause is a short stable `code`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong in a document, printed as `path:line: code message` (line 0: the whole file)."""

    path: str
    line: int
    code: str
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.code} {self.message}"


class GuardrailError(Exception):
    """The root: catch this to catch everything the package raises on purpose."""


class DocumentError(GuardrailError):
    """A document was refused; `findings` says where and why, one line each."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(str(finding) for finding in self.findings))


class PolicyError(DocumentError):
    """A policy file cannot be used."""


class ConfigError(DocumentError):
    """A configuration cannot be used or cannot be enforced."""


class ClassifierError(GuardrailError):
    """A classifier gave no usable score.

    `code` is one of: timeout, crash, not_a_number, out_of_range, malformed, overloaded, too_long, not_prepared, canary,
    circuit_open, abandoned (the client left, and the judging was stopped).
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class UpstreamError(GuardrailError):
    """The upstream could not be reached, timed out, or broke off.

    `code`: connect, timeout, disconnect, malformed, too_large, circuit_open (it was not asked; `retry_after_s`: when it could be).
    """

    def __init__(self, code: str, message: str, *, retry_after_s: float | None = None) -> None:
        self.code = code
        self.retry_after_s = retry_after_s
        super().__init__(message)


class WireError(GuardrailError):
    """A client request that cannot be served, with the HTTP status and OpenAI-shaped code it is answered with.

    `retry_after_s`: when it could be served; `limit`: the kind of the caller's limit that it met.
    """

    retry_after_s: float | None = None
    limit: str = ""

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None) -> None:
        self.status = status
        self.code = code
        self.param = param
        super().__init__(message)


class LimitError(WireError):
    """A caller has used up what it may ask for in a time (429)."""

    def __init__(self, limit: str, retry_after_s: float, message: str) -> None:
        super().__init__(429, "rate_limit_exceeded", message)
        self.limit = limit
        self.retry_after_s = retry_after_s


class ModelFileError(GuardrailError):
    """A weights file is missing, altered or of another format; the message says what to do."""


class DoesNotFitError(GuardrailError):
    """Something needs more memory or disk than there is; the message names both amounts and what to do."""
