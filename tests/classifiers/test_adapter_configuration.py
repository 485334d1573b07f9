"""`kind: adapter` in a configuration: what is refused at load and at start, and a guard that judges with one."""

from pathlib import Path

import adapter_cases as cases
import jsonschema
import pytest
import yaml

from guardrail.assembly import open_guard
from guardrail.config import check, json_schema, loads
from guardrail.config.load import load
from guardrail.errors import ClassifierError, ConfigError, ModelFileError
from guardrail.types import Action

VALIDATOR = jsonschema.Draft202012Validator(json_schema())
CAT, TABLE = "In the garden number 5 there is a cat and a table.", "In the garden number 5 there is a table."


def written(folder: Path, section: str, policies: str = "[{id: violence, threshold: 0.5}]") -> Path:
    """A configuration beside its adapter; violence stands for animals here, so that a shipped policy can be used."""
    cases.copied("gemma2", folder)
    path = folder / "guardrail.yaml"
    route = f"{{name: all, input: {{policies: {policies}}}, output: {{policies: []}}, deadline_ms: 30000}}"
    path.write_text(f"classifiers:\n  main: {{kind: adapter, model: ./adapter, {section}}}\nroutes:\n  - {route}\n")
    return path


async def test_a_guard_judges_by_the_categories_that_stand_for_its_policies(tmp_path: Path) -> None:
    pair = f"known_pair: {{category: Animals, violating: '{CAT}', benign: '{TABLE}'}}"
    async with open_guard(written(tmp_path, f"categories: {{violence: animals}}, {pair}")) as guard:
        assert guard.canaries is not None
        assert guard.canaries.ok
        judged = [await guard.check(text) for text in (CAT, TABLE)]
        with pytest.raises(ClassifierError, match="stands for policy harassment"):
            await guard.check(CAT, policies=["harassment"])
    assert [decision.action for decision in judged] == [Action.BLOCK, Action.PASS]
    (verdict,) = judged[0].verdicts
    assert (verdict.policy_id, verdict.criterion) == ("violence", "animals")


async def test_a_guard_whose_policy_has_no_category_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match="no category of the adapter stands for policy harassment"):
        async with open_guard(written(tmp_path, "categories: {violence: animals}", "[violence, harassment]")):
            pass


async def test_a_guard_with_a_category_that_is_not_there_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="names the category 'plants'"):
        async with open_guard(written(tmp_path, "categories: {violence: plants}")):
            pass


@pytest.mark.parametrize(
    ("section", "fits"),
    [
        ("{kind: adapter, model: ./a}", True),
        ("{kind: adapter, model: org/opencc-cm, base: ./b, scores: plain, device: cuda, threads: 2, longest_tokens: 512}", True),
        ("{kind: adapter, model: a, categories: {violence: Physical Harm}, known_pair: {category: x, violating: y, benign: z}}", True),
        ("{kind: adapter}", False),
        ("{kind: adapter, model: a, scores: none}", False),
        ("{kind: adapter, model: a, categories: [violence]}", False),
        ("{kind: adapter, model: a, known_pair: {category: x}}", False),
    ],
)
def test_schema_and_load_take_and_refuse_the_same_sections(section: str, fits: bool) -> None:
    text = f"classifiers: {{main: {section}}}"
    assert VALIDATOR.is_valid(yaml.safe_load(text)) is fits
    if fits:
        assert loads(text).classifiers["main"].kind == "adapter"
    else:
        with pytest.raises(ConfigError):
            loads(text)


def test_a_folder_that_is_not_there_is_found_before_anything_starts(tmp_path: Path) -> None:
    path = tmp_path / "guardrail.yaml"
    path.write_text("classifiers:\n  main:\n    kind: adapter\n    model: ./nothing\n    base: ./neither\n")
    found = check(load(path))
    assert [(finding.line, finding.code) for finding in found] == [(4, "C042"), (5, "C042")]
    assert "guardrail train adapter" in found[0].message


def test_it_needs_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "C040" in [finding.code for finding in check(loads("classifiers: {main: {kind: adapter, model: a/b}}"))]
