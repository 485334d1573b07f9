import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from guardrail.errors import ClassifierError, PolicyError
from guardrail.policy.document import parse
from guardrail.policy.registry import Registry, Sources, load_folder, shipped_folder
from guardrail.policy.sets import PolicySet, PolicySets
from guardrail.types import Policy


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


def test_the_set_digest_follows_what_decides_and_nothing_else(document: str) -> None:
    one = PolicySet.of([parse(document)])
    assert PolicySet.of([parse(document.replace("Search", "Hunt"))]).digest != one.digest
    assert PolicySet.of([parse(document.replace("0.6", "0.7"))]).digest != one.digest
    assert PolicySet.of([parse(document.replace("My estate", "My van"))]).digest == one.digest
    assert one.at(7).digest == one.digest


def test_sets_cannot_be_changed(document: str) -> None:
    policies = PolicySet.of([parse(document)])
    with pytest.raises(TypeError):
        policies.policies["x"] = policies["used_cars"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        policies.generation = 3  # type: ignore[misc]


async def test_publishing_prepares_every_distinct_policy_and_numbers_the_sets(folders: Path) -> None:
    registry, prepared = Registry(), []

    async def prepare(policies: Sequence[Policy]) -> None:
        prepared.extend(policies)
        assert registry.generation == 0

    assert (registry.generation, len(registry.current.base)) == (0, 0)
    published = await registry.publish(sources(folders).load(), prepare=prepare)
    assert registry.current is published
    assert (published.generation, published.base.generation, published.for_tenant("acme").generation) == (1, 1, 1)
    assert sorted(policy.id for policy in prepared) == ["bikes", "cars"]
    assert (await registry.publish(published)).generation == 2


async def test_a_failed_preparation_keeps_the_last_good_sets(folders: Path) -> None:
    async def fail(policies: Sequence[Policy]) -> None:
        raise ClassifierError("crash", "no memory left")

    registry = Registry()
    good = await registry.publish(sources(folders).load())
    with pytest.raises(ClassifierError):
        await registry.publish(PolicySets(), prepare=fail)
    assert registry.current is good
    assert registry.generation == 1


async def test_publications_follow_one_another(folders: Path, document: str) -> None:
    registry, release, order = Registry(), asyncio.Event(), []

    async def slow(policies: Sequence[Policy]) -> None:
        order.append("slow")
        await release.wait()

    async def quick(policies: Sequence[Policy]) -> None:
        order.append("quick")

    first = asyncio.create_task(registry.publish(sources(folders).load(), prepare=slow))
    second = asyncio.create_task(registry.publish(PolicySets(PolicySet.of([parse(document)])), prepare=quick))
    await asyncio.sleep(0.01)
    assert order == ["slow"]
    release.set()
    assert [(await first).generation, (await second).generation] == [1, 2]
    assert list(registry.current.base) == ["used_cars"]
