"""What an adapter's folder means: OpenCC's rules, rule by rule, and refusals where they would go wrong silently."""

import json
from pathlib import Path
from typing import Any

import opencc_reader
import pytest

from guardrail.engine.adapter.frame import HARMS, key, read_frame
from guardrail.errors import ModelFileError

TAXONOMY = ["Benign", *HARMS]
BASE = {"base_model": "org/base"}


def folder(path: Path, document: dict[str, Any], heads: tuple[str, ...] = ("classification_head", "jailbreak_head"), **files: Any) -> Path:
    for name in heads:
        (path / f"{name}.safetensors").touch()
    for stem, content in {"weight_frame": document, **files}.items():
        (path / f"{stem}.json").write_text(json.dumps(content))
    return path


CASES = {
    "the first that says anything": (
        {"classifier": {**BASE, "taxonomy": ["a", "b"]}, "jailbreak_classifier": {**BASE, "threshold": 0.3}},
        {},
    ),
    "the second where the first is empty": ({"classifier": {}, "jailbreak_classifier": {**BASE, "threshold": 0.34}}, {}),
    "the frame before its sidecar": (
        {"classifier": {**BASE, "taxonomy": ["a", "b"], "thresholds": {"a": 0.2, "b": 0.3}}},
        {"thresholds": {"thresholds": {"a": 0.8, "b": 0.9}}},
    ),
    "a sidecar where the frame has null": (
        {"classifier": {**BASE, "objective": "multilabel", "taxonomy": TAXONOMY, "thresholds": None}},
        {"thresholds": {"thresholds": dict.fromkeys(HARMS, 0.4)}},
    ),
    "a binary sidecar where the threshold is null": (
        {"jailbreak_classifier": {**BASE, "threshold": None}},
        {"threshold": {"threshold": 0.7}},
    ),
    "many thresholds are not binary": (
        {"classifier": {**BASE, "taxonomy": ["a", "b"], "threshold": 0.1, "thresholds": {"a": 0.6, "b": 0.7}}},
        {"threshold": {"threshold": 0.7}},
    ),
    "eleven outputs by default": ({"classifier": {**BASE, "objective": "multilabel", "taxonomy": []}}, {}),
    "settings count and name": (
        {"classifier": {"taxonomy": ["a", "b", "c"]}},
        {
            "train_config": {
                "model_name": "org/base",
                "objective": "multilabel",
                "num_labels": 3,
                "lora_r": 4,
                "lora_target_modules": ["o_proj"],
            }
        },
    ),
    "nothing calibrated is a half": ({"classifier": {**BASE, "taxonomy": ["a", "b"]}}, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_folder_means_what_opencc_s_reader_takes_it_for(tmp_path: Path, name: str) -> None:
    document, files = CASES[name]
    found = read_frame(folder(tmp_path, document, **files))
    frame, settings, binary = opencc_reader.described(tmp_path)
    assert found.objective == (frame.get("objective") or settings.get("objective", "softmax"))
    assert found.base_model == "org/base"
    theirs = {"jailbreak": frame["threshold"]} if binary else frame.get("thresholds") or {}
    assert found.thresholds == {label: theirs.get(label, 0.5) for label in found.labels}
    assert found.head.name == ("jailbreak_head.safetensors" if binary else "classification_head.safetensors")
    assert found.lora["r"] == settings.get("lora_r", 16)
    assert found.lora["target_modules"] == settings.get("lora_target_modules", ["q_proj", "v_proj"])


@pytest.mark.parametrize(
    ("frame", "settings", "labels"),
    [
        ({"threshold": 0.3}, {}, ("jailbreak",)),
        ({"threshold": 0.3, "taxonomy": ["spam"]}, {}, ("spam",)),
        ({"objective": "multilabel", "taxonomy": TAXONOMY}, {}, HARMS),
        ({"objective": "multilabel"}, {"num_labels": 11}, HARMS),
        ({"objective": "multilabel", "taxonomy": ["a", "b", "c"]}, {"num_labels": 3}, ("a", "b", "c")),
        ({"taxonomy": TAXONOMY}, {}, tuple(TAXONOMY)),
    ],
)
def test_what_the_outputs_are_called(tmp_path: Path, frame: dict[str, Any], settings: dict[str, Any], labels: tuple[str, ...]) -> None:
    kind = "jailbreak_classifier" if "threshold" in frame else "classifier"
    assert read_frame(folder(tmp_path, {kind: {**BASE, **frame}}, train_config=settings)).labels == labels


@pytest.mark.parametrize(
    ("frame", "files", "said"),
    [
        ({"taxonomy": ["a", "b"], "objective": "ranking"}, {}, "objective is 'ranking'"),
        ({"taxonomy": ["a", "b"], "objective": "multilabel"}, {"train_config": {"num_labels": 3}}, "names 2 categories for 3 outputs"),
        ({"taxonomy": ["a", "A"]}, {}, "two categories of the taxonomy have the same name"),
        ({"taxonomy": ["a", "b"], "thresholds": {"a": 0.2, "c": 0.3}}, {}, "a threshold for 'c', which is no category, and none for 'b'"),
        ({"taxonomy": ["a", "b"], "thresholds": {"a": 1.2, "b": 0.3}}, {}, "the threshold of a is 1.2"),
        ({"taxonomy": ["a", "b"], "head_filename": "../head.safetensors"}, {}, "is no plain file name"),
        ({"taxonomy": ["a", "b"], "head_filename": "other.safetensors"}, {}, "has no other.safetensors"),
        ({"taxonomy": ["a", "b"], "base_model": None}, {}, "names no base_model"),
        ({"taxonomy": "ab"}, {}, "taxonomy is no list"),
    ],
)
def test_a_folder_that_does_not_say_what_it_means_is_refused(
    tmp_path: Path, frame: dict[str, Any], files: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelFileError, match=said):
        read_frame(folder(tmp_path, {"classifier": {**BASE, **frame}}, **files))


def test_a_pickled_head_is_neither_downloaded_nor_read_and_the_remedy_is_named(tmp_path: Path) -> None:
    made = folder(tmp_path, {"classifier": {**BASE, "taxonomy": ["a", "b"]}}, heads=())
    with pytest.raises(ModelFileError, match=r"put the publisher's classification_head\.pt there and convert it once.*weights_only=True"):
        read_frame(made)
    (tmp_path / "classification_head.pt").touch()
    with pytest.raises(ModelFileError, match=r"classification_head\.pt is a pickle.*never read here; convert it once"):
        read_frame(made)


def test_an_empty_frame_and_no_frame_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="describes neither"):
        read_frame(folder(tmp_path, {}))
    (tmp_path / "weight_frame.json").unlink()
    with pytest.raises(ModelFileError, match=r"weight_frame\.json"):
        read_frame(tmp_path)


def test_names_that_mean_the_same() -> None:
    assert key("Hate Speech") == key("hate_speech") == key("hate-speech")
    assert key("Integrity & Quality violations") == key("Information Integrity")
    assert key("Self-Harm") != key("Harm")
