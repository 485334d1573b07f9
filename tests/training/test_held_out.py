"""What settings are chosen by: measured on units and wordings that training never sees, the same each time."""

import gzip
import json
from pathlib import Path

import pytest

from guardrail.classifiers.embedded import SHIPPED
from guardrail.policy.registry import load_folder, shipped_folder
from guardrail.training import held_out as module
from guardrail.training import rows as rows_module
from guardrail.training.held_out import measure
from guardrail.units import held_out

ROWS = 60


@pytest.fixture
def data(tmp_path: Path) -> Path:
    names = list(rows_module._SETS)
    (tmp_path / "SETS.json").write_text(json.dumps([{"name": name, "train_ok": True} for name in names]))
    for name in names:
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as lines:
            for number in range(ROWS):
                row = {"id": str(number), "area": "hate_speech", "text": f"mild text {number} of {name}", "label": number % 2, "labels": []}
                lines.write(json.dumps({**row, "meta": {}}) + "\n")
    return tmp_path


@pytest.mark.skipif(not SHIPPED.exists(), reason="the weights are not in this copy")
def test_a_model_is_measured_on_what_training_keeps(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    sampler = module.Sampler

    class Noted(sampler):  # type: ignore[misc, valid-type]
        def __init__(self, rows: list[rows_module.TrainingRow], *rest: object, **more: object) -> None:
            seen.extend(row.unit for row in rows)
            super().__init__(rows, *rest, **more)

    monkeypatch.setattr(module, "Sampler", Noted)
    policies = load_folder(shipped_folder())
    found = measure(SHIPPED, data, policies, batches=1)
    assert set(found) == {"mean", "plain", "steered", "log_loss"}
    assert all(0 <= found[name] <= 1 for name in ("mean", "plain", "steered"))
    assert found["mean"] == pytest.approx((found["plain"] + found["steered"]) / 2)
    assert found["log_loss"] > 0
    assert seen
    assert all(held_out(unit) for unit in seen)
