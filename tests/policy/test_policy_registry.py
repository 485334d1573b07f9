from pathlib import Path

import pytest

from guardrail.errors import PolicyError
from guardrail.policy.document import parse
from guardrail.policy.registry import Sources, load_folder, shipped_folder
from guardrail.policy.sets import PolicySet


def renamed(document: str, policy_id: str, **edits: str) -> str:
    text = document.replace("id: used_cars", f"id: {policy_id}")
    for old, new in edits.items():
        text = text.replace(old, new)
    return text


@pytest.fixture
def folders(tmp_path: Path, document: str) -> Path:
    for name in ("ours", "acme"):
        (tmp_path / name).mkdir()
    (tmp_path / "ours" / "cars.md").write_text(renamed(document, "cars"))
    (tmp_path / "ours" / "bikes.md").write_text(renamed(document, "bikes"))
    (tmp_path / "acme" / "cars.md").write_text(renamed(document, "cars", **{"threshold: 0.6": "threshold: 0.9"}))
    return tmp_path


def sources(folders: Path) -> Sources:
    return Sources(shipped=False, folder=folders / "ours", tenants={"acme": folders / "acme"})


def test_a_folder_is_its_markdown_files_without_readme_and_hidden_ones(folders: Path) -> None:
    (folders / "ours" / "README.md").write_text("Our policies.")
    (folders / "ours" / ".draft.md").write_text("nothing yet")
    (folders / "ours" / "notes.txt").write_text("x")
    assert [policy.id for policy in load_folder(folders / "ours")] == ["bikes", "cars"]


def test_the_findings_of_all_files_are_told_at_once(folders: Path, document: str) -> None:
    (folders / "ours" / "a.md").write_text("no front matter")
    (folders / "ours" / "copy.md").write_text(renamed(document, "cars"))
    (folders / "acme" / "cars.md").write_text(document.replace("0.6", "6"))
    with pytest.raises(PolicyError) as caught:
        sources(folders).load()
    assert [(Path(finding.path).name, finding.code) for finding in caught.value.findings] == [
        ("a.md", "P003"),
        ("copy.md", "P019"),
        ("cars.md", "P009"),
    ]


def test_a_missing_folder_is_a_finding(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="P020"):
        Sources(shipped=False, folder=tmp_path / "none").load()


def test_tenants_see_the_base_with_their_own_files_over_it(folders: Path) -> None:
    sets = sources(folders).load()
    assert list(sets.base) == ["bikes", "cars"]
    assert sets.for_tenant("acme")["cars"].threshold == 0.9
    assert sets.for_tenant("acme")["bikes"] is sets.base["bikes"]
    assert sets.for_tenant("default") is sets.base
    assert sets.base["cars"].threshold == 0.6


def test_own_files_override_shipped_ones_of_the_same_id(folders: Path, document: str) -> None:
    (folders / "ours" / "cars.md").write_text(renamed(document, "violence"))
    base = Sources(folder=folders / "ours").load().base
    assert base["violence"].title == "Used cars"
    assert len(base) == len(load_folder(shipped_folder())) + 1


def test_a_folder_without_any_of_its_policies_is_emptied_and_one_that_all_others_override_is_not(folders: Path, document: str) -> None:
    ours = sources(folders)
    before = ours.load()
    (folders / "ours" / "bikes.md").unlink()
    assert ours.emptied(before, ours.load()) == []
    (folders / "ours" / "cars.md").unlink()
    (folders / "acme" / "cars.md").unlink()
    findings = ours.emptied(before, ours.load())
    assert [(Path(finding.path).name, finding.code) for finding in findings] == [("ours", "P023"), ("acme", "P023")]
    assert "bikes, cars" in findings[0].message
    shipped = Sources(folder=folders / "ours")
    before = shipped.load()
    for policy in load_folder(shipped_folder()):
        (folders / "ours" / f"{policy.id}.md").write_text(renamed(document, policy.id))
    assert shipped.emptied(before, shipped.load()) == []


def test_the_set_digest_follows_what_decides_and_nothing_else(document: str) -> None:
    one = PolicySet.of([parse(document)])
    assert PolicySet.of([parse(document.replace("Search", "Hunt"))]).digest != one.digest
    assert PolicySet.of([parse(document.replace("0.6", "0.7"))]).digest != one.digest
    assert PolicySet.of([parse(document.replace("0.6", "{input: 0.6, output: 0.7}"))]).digest != one.digest
    assert PolicySet.of([parse(document.replace("0.6", "{input: 0.6, output: 0.6}"))]).digest == one.digest
    assert PolicySet.of([parse(document.replace("My estate", "My van"))]).digest == one.digest
    assert one.at(7).digest == one.digest


def test_sets_cannot_be_changed(document: str) -> None:
    policies = PolicySet.of([parse(document)])
    with pytest.raises(TypeError):
        policies.policies["x"] = policies["used_cars"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        policies.generation = 3  # type: ignore[misc]
