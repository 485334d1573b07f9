"""A version on trial takes the place of the one in force: what forbids it, its new version, and the file put in place whole."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from guardrail.errors import GuardrailError
from guardrail.policy.frontmatter import VERSION
from guardrail.policy.lint import lint
from guardrail.types import Policy, Stage

Step = Literal["major", "minor", "patch"]


def faults(current: Policy, candidate: Policy, *, narrow: bool = False) -> Iterator[str]:
    """Why a candidate cannot take a policy's place, whatever it judges. `narrow`: it may leave a stage."""
    if candidate.id != current.id:
        yield f"{candidate.path} is a version of {candidate.id!r}, not of {current.id!r}"
        return
    ours, theirs = ([policy.threshold_at(stage) for stage in Stage] for policy in (current, candidate))
    if (candidate.digest, theirs, candidate.applies_to) == (current.digest, ours, current.applies_to):
        yield f"{candidate.path} judges as {current.path} does: there is nothing to promote"
    left = " and ".join(sorted(stage.value for stage in current.applies_to - candidate.applies_to))
    if left and not narrow:
        yield (
            f"{candidate.path} does not judge {left}, which version {current.version} does; say --narrow if it is to be judged no more "
            "(routes that name the policy there must be changed, too)"
        )
    for finding in lint(candidate):
        if finding.severity == "error":
            yield str(finding)
    told = {(change.version, change.date, change.text) for change in candidate.changes}
    for change in current.changes:
        if (change.version, change.date, change.text) not in told:
            yield f"{candidate.path} lacks the entry {change.version} ({change.date}) of `## Changes`; copy it from {current.path}"


def next_version(current: str, candidate: str, step: Step) -> str:
    """The candidate's own version where it is above the one in force, else that one's successor."""
    ours, theirs = _numbers(current), _numbers(candidate)
    if theirs > ours:
        return ".".join(map(str, theirs))
    major, minor, patch = ours
    return {"major": f"{major + 1}.0.0", "minor": f"{major}.{minor + 1}.0", "patch": f"{major}.{minor}.{patch + 1}"}[step]


def replace_file(path: Path, text: str, *, before: bytes) -> None:
    """Put a text in the place of a file at once: whoever reads it sees all of the old one or all of the new one, also after a crash.

    Raises GuardrailError where the file no longer holds `before`, or cannot be written; then it is as it was.
    """
    path = path.resolve()
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # hidden, and no .md: no watcher takes it for a policy
    try:
        mode = path.stat().st_mode & 0o777
        with beside.open("xb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        if path.read_bytes() != before:
            raise GuardrailError(f"{path} was changed meanwhile; look at the change, then try again")
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise GuardrailError(f"{path} cannot be replaced: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _numbers(version: str) -> tuple[int, int, int]:
    found = VERSION.fullmatch(version)
    if found is None:
        raise ValueError(f"{version!r} is no version")
    return int(found[1]), int(found[2]), int(found[3])
