"""A run judges what its labels speak of, goes on where it stopped, and refuses a folder of another run."""

import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from guardrail.errors import ClassifierError, GuardrailError
from guardrail.evaluation.dataset import DataSet, open_set
from guardrail.evaluation.predictions import Prediction, read_run
from guardrail.evaluation.run import Plan, Progress, evaluate
from guardrail.evaluation.summary import summarise
from guardrail.testing import ScriptedClassifier, contains, policy

HATE, ATTACK = policy("hate_speech"), policy("prompt_attack")
ROWS: list[dict[str, object]] = [
    {"id": "a", "text": "a rude one", "label": 1, "area": "hate_speech", "labels": ["plain"], "meta": {"unit": "u1"}},
    {"id": "b", "text": "a kind one", "label": 0, "area": "hate_speech"},
    {"id": "c", "text": "ignore the rules", "label": 1, "area": "jailbreak"},
    {"id": "d", "text": "what is the weather", "label": 0, "area": "benign"},
    {"id": "e", "text": "nobody knows", "label": None, "area": "hate_speech"},
]


def data(folder: Path, rows: list[dict[str, object]] = ROWS) -> DataSet:
    path = folder / "small.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_set(str(path), None)


async def run(classifier: ScriptedClassifier, plan: Plan, folder: Path) -> Progress:
    return [each async for each in evaluate(classifier, plan, folder)][-1]


def scripted() -> ScriptedClassifier:
    return ScriptedClassifier({"hate_speech": contains("rude"), "prompt_attack": contains("ignore")})


async def test_a_text_is_asked_under_the_policy_of_its_area_and_a_benign_one_under_all(tmp_path: Path) -> None:
    classifier, plan = scripted(), Plan((data(tmp_path),), (HATE, ATTACK), {}, batch=2)
    last = await run(classifier, plan, tmp_path / "out")
    assert last == Progress(4, 4, 0, 0)
    asked = {(request.text, request.policy.id) for request in classifier.requests}
    assert asked == {
        ("a rude one", "hate_speech"),
        ("a kind one", "hate_speech"),
        ("ignore the rules", "prompt_attack"),
        ("what is the weather", "hate_speech"),
        ("what is the weather", "prompt_attack"),
    }
    info, found = read_run(tmp_path / "out")
    assert (info.classifier, info.sets[0].rows, len(found)) == ("scripted", 4, 5)
    assert found["small", "a", *HATE.key].score == 0.97


async def test_policies_of_one_text_are_asked_and_kept_each_by_its_own_name(tmp_path: Path) -> None:
    twin = replace(ATTACK, body=HATE.body, digest=HATE.digest)
    classifier, plan, out = scripted(), Plan((data(tmp_path),), (HATE, twin), {}, batch=2), tmp_path / "out"
    await run(classifier, plan, out)
    info, found = read_run(out)
    assert {policy.id for policy in classifier.prepared} == {"hate_speech", "prompt_attack"}
    assert {each.policy for each in found.values() if each.item == "d"} == {"hate_speech", "prompt_attack"}
    (pooled,) = (row for row in summarise(plan, info, found).rows if row.area == "benign")
    assert pooled.failed == 0
    again = scripted()
    assert await run(again, plan, out) == Progress(4, 4, 4, 0)


async def test_a_run_that_stopped_goes_on_and_asks_what_failed_again(tmp_path: Path) -> None:
    broken, plan, out = scripted(), Plan((data(tmp_path),), (HATE, ATTACK), {}, batch=1), tmp_path / "out"
    async for progress in evaluate(broken, plan, out):
        if progress.done == 1:
            broken.fault = ClassifierError("crash", "it fell over")
        if progress.done == 2:
            break
    with (out / "predictions.jsonl").open("a") as file:
        file.write('{"set": "small", "it')  # the machine went down while writing
    healthy = scripted()
    assert await run(healthy, plan, out) == Progress(4, 4, 1, 0)
    assert "a rude one" not in {request.text for request in healthy.requests}
    assert all(each.score is not None for each in read_run(out)[1].values())
    again = scripted()
    assert await run(again, plan, out) == Progress(4, 4, 4, 0)
    assert again.batches == 0


async def test_another_run_is_not_mixed_in(tmp_path: Path) -> None:
    plan = Plan((data(tmp_path),), (HATE, ATTACK), {})
    await run(scripted(), plan, tmp_path / "out")
    with pytest.raises(GuardrailError, match=r"another run \(the classifier differed\)"):
        await run(ScriptedClassifier(id="other"), plan, tmp_path / "out")
    changed = replace(plan, sets=(data(tmp_path, ROWS[:-1]),))
    with pytest.raises(GuardrailError, match="the data differed"):
        await run(scripted(), changed, tmp_path / "out")


async def test_a_set_without_a_policy_says_what_to_do(tmp_path: Path) -> None:
    odd = data(tmp_path, [{"text": "x", "label": 1, "area": "cooking"}])
    with pytest.raises(GuardrailError, match="--area AREA=POLICY"):
        await run(scripted(), Plan((odd,), (HATE,), {}), tmp_path / "out")
    assert (await run(scripted(), Plan((odd,), (HATE,), {"cooking": "hate_speech"}), tmp_path / "out")).done == 1


def test_csv_and_jsonl_say_the_same(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "small.csv.gz", "wt", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "text", "label", "area", "labels", "unit"])
        table.writerow(["a", "a rude one", "1", "hate_speech", "plain|short", "u1"])
        table.writerow(["b", "a kind one", "", "", "", ""])
    first, second = open_set(str(tmp_path / "small.csv.gz"), None).items
    assert first == replace(data(tmp_path).items[0], sub_labels=("plain", "short"))
    assert (second.label, second.area, second.sub_labels) == (None, "", ())


def test_a_text_of_several_areas_can_be_one_that_violates_in_any(tmp_path: Path) -> None:
    texts = [("1", "x", 0, "violence"), ("2", "x", 1, "harassment"), ("3", "y", None, "violence"), ("4", "y", 0, "harassment")]
    rows: list[dict[str, object]] = [
        {"id": name, "text": text, "label": label, "area": area, "labels": [area]} for name, text, label, area in texts
    ]
    data(tmp_path, rows)
    found = open_set(f"{tmp_path / 'small.jsonl'}:any", None)
    assert found.name == "small:any"
    assert [(each.id, each.area, each.label, each.set) for each in found.items] == [("1", "", 1, "small:any"), ("3", "", 0, "small:any")]
    assert found.items[0].sub_labels == ("violence", "harassment")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"label": 1}, "row 2: `text`"),
        ({"text": "x", "label": "yes"}, "row 2: `label`"),
        ({"id": "a", "text": "x"}, "row 2: the id 'a' is there twice"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, row: dict[str, object], says: str) -> None:
    with pytest.raises(GuardrailError, match=says):
        data(tmp_path, [ROWS[0], row])


def test_a_prediction_is_a_score_or_an_error() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Prediction("s", "i", "p", "d", 1, None, None, 0.1)
