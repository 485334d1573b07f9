"""Where policies come from: `Sources.load` only reads; what it returns is put into force by the publisher on the HTTP surface."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from guardrail.errors import Finding, PolicyError
from guardrail.policy import document
from guardrail.policy.findings import CODES, Report
from guardrail.policy.sets import PolicySet, PolicySets
from guardrail.types import Policy

__all__ = ["PolicySet", "PolicySets", "Sources", "load_folder", "policy_files", "shipped_folder"]


def shipped_folder() -> Path:
    """The folder of the shipped policies: inside the installed package, or at the root of the repository."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "policies"
    return installed if installed.is_dir() else package.parent / "policies"


def policy_files(folder: Path) -> list[Path]:
    """The Markdown files of a folder in order of name, without README files, hidden files and subfolders.

    Raises PolicyError (P020) where the folder does not exist or cannot be read.
    """
    try:
        found = [path for path in folder.iterdir() if path.suffix == ".md" and path.name[0] != "." and path.stem.upper() != "README"]
    except OSError as error:
        report = Report(str(folder))
        report.add(0, "P020", f"the policy folder cannot be read: {error.strerror}")
        raise PolicyError(report.findings) from error
    return sorted(path for path in found if path.is_file())


def load_folder(folder: Path) -> list[Policy]:
    """The policies of a folder. Raises PolicyError with the findings of all its files, repeated ids (P019) included."""
    policies: list[Policy] = []
    refused: list[Finding] = []
    for path in policy_files(folder):
        try:
            policies.append(document.read(path))
        except PolicyError as error:
            refused += error.findings
    try:
        PolicySet.of(policies)
    except PolicyError as error:
        refused += error.findings
    if refused:
        raise PolicyError(refused)
    return policies


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the policies lie: the shipped ones, the operator's folder over them, each tenant's folder over both."""

    shipped: bool = True
    folder: Path | None = None
    tenants: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))
    candidates: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))
    """Files of versions on trial, by what they are called."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """Every folder that is read, in order."""
        first = (shipped_folder(),) if self.shipped else ()
        return first + ((self.folder,) if self.folder else ()) + tuple(self.tenants.values())

    def emptied(self, before: PolicySets, after: PolicySets) -> list[Finding]:
        """A finding (P023) for each of the operator's and tenants' folders that had policies in force and holds none any more."""
        held, holds = _by_folder(before), _by_folder(after)
        found: list[Finding] = []
        for folder in dict.fromkeys(([self.folder] if self.folder else []) + list(self.tenants.values())):
            if folder in held and folder not in holds:
                report = Report(str(folder))
                report.add(0, "P023", f"all policies of this folder are gone: {', '.join(sorted(held[folder]))}; {CODES['P023'].remedy}")
                found += report.findings
        return found

    def load(self) -> PolicySets:
        """Read everything. Blocks on the file system. Raises PolicyError with the findings of all folders."""
        loaded: dict[Path, list[Policy]] = {}
        refused: list[Finding] = []
        for folder in dict.fromkeys(self.folders):
            try:
                loaded[folder] = load_folder(folder)
            except PolicyError as error:
                refused += error.findings
        tried: dict[str, Policy] = {}
        for name, path in self.candidates.items():
            try:
                tried[name] = document.read(path)
            except PolicyError as error:
                refused += error.findings
        if refused:
            raise PolicyError(refused)
        base = PolicySet.of(loaded[shipped_folder()] if self.shipped else ())
        if self.folder:
            base = base.overlay(loaded[self.folder])
        return PolicySets(base, {name: base.overlay(loaded[folder]) for name, folder in self.tenants.items()}, tried)


def _by_folder(sets: PolicySets) -> dict[Path, set[str]]:
    """The ids of the policies that came from each folder."""
    found: dict[Path, set[str]] = {}
    for policy in (policy for owned in (sets.base, *sets.tenants.values()) for policy in owned.values()):
        found.setdefault(Path(policy.path).parent, set()).add(policy.id)
    return found
