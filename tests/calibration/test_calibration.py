"""Calibrations: monotone, stored and read back as they were, refused in one sentence, applied by the embedded classifier."""

import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import model_file

from guardrail.calibration import (
    Calibration,
    Isotonic,
    Platt,
    StoredCalibration,
    Temperature,
    beside,
    digest,
    dumps,
    loads,
    read_beside,
    suffix,
    write_beside,
)
from guardrail.classifiers.embedded import EmbeddedClassifier
from guardrail.errors import ModelFileError
from guardrail.testing import policy
from guardrail.types import ClassifyRequest, Score

probabilities = st.floats(0, 1)
positive = st.floats(1e-3, 1e3)


@st.composite
def isotonic(draw: st.DrawFn) -> Isotonic:
    scores = sorted(draw(st.sets(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=8)))
    values = sorted(draw(st.lists(probabilities, min_size=len(scores), max_size=len(scores))))
    return Isotonic(tuple(scores), tuple(values))


calibrations = st.one_of(st.builds(Temperature, positive), st.builds(Platt, positive, st.floats(-50, 50)), isotonic())


@given(calibrations, probabilities, probabilities)
def test_a_higher_score_never_becomes_a_lower_one(calibration: Calibration, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= calibration.apply(low) <= calibration.apply(high) + 1e-12 <= 1 + 1e-12


@given(calibrations, probabilities)
def test_what_is_stored_is_read_back_with_the_same_digest_and_scores(calibration: Calibration, p: float) -> None:
    stored = StoredCalibration(calibration, "sha256:ab", {"rows": "12"})
    found = loads(dumps(stored))
    assert found == stored
    assert digest(found.calibration) == digest(calibration)
    assert found.calibration.apply(p) == calibration.apply(p)


def test_the_maps_are_those_of_their_papers() -> None:
    assert Temperature(2.0).apply(0.9) == pytest.approx(1 / (1 + math.exp(-math.log(9) / 2)))
    assert Platt(2.0, -1.0).apply(0.5) == pytest.approx(1 / (1 + math.e))
    steps = Isotonic((0.2, 0.4, 0.8), (0.1, 0.3, 0.9))
    assert [steps.apply(p) for p in (0.0, 0.2, 0.3, 0.6, 0.8, 1.0)] == pytest.approx([0.1, 0.1, 0.2, 0.6, 0.9, 0.9])
    assert Temperature(1.0).apply(0.3) == pytest.approx(0.3)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan, math.inf])
@pytest.mark.parametrize("calibration", [Temperature(1.0), Platt(1.0, 0.0), Isotonic((0.0, 1.0), (0.0, 1.0))])
def test_what_is_no_probability_is_refused(calibration: Calibration, p: float) -> None:
    with pytest.raises(ValueError, match="a probability lies in"):
        calibration.apply(p)


def test_the_digest_is_of_the_numbers_however_they_are_spelled() -> None:
    assert digest(Platt(1, 0)) == digest(Platt(1.0, 0.0)) != digest(Platt(1.0, 0.1))
    assert len({digest(each) for each in (Temperature(1.0), Platt(1.0, 0.0), Isotonic((0.0, 1.0), (0.0, 1.0)))}) == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": "other/1"}, "its format is not 'guardrail-calibration/1'"),
        ({"method": "guess"}, "its method is none of temperature, platt, isotonic"),
        ({"method": ["platt"]}, "its method is none of"),
        ({"slope": 0}, "a slope is a number above 0, not 0"),
        ({"slope": True}, "a slope is a number above 0, not True"),
        ({"slope": 10**400}, "a slope is a number above 0"),
        ({"offset": math.nan}, "an offset is a number, not nan"),
        ({"offset": "1"}, "an offset is a number, not '1'"),
        ({"extra": 1}, "platt has offset, slope, not extra, offset, slope"),
        ({"weights": 1}, "`weights` is no text"),
        ({"notes": {"rows": 1}}, "`notes` are no texts by name"),
        ({"method": "isotonic"}, "isotonic has scores, values, not offset, slope"),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(changes: dict[str, object], says: str) -> None:
    document = json.loads(dumps(StoredCalibration(Platt(1.0, 0.0)))) | changes
    with pytest.raises(ModelFileError) as refused:
        loads(json.dumps(document), place="a.json")
    assert str(refused.value).startswith("a.json: cannot be used as a calibration (")
    assert says in str(refused.value)
    assert str(refused.value).endswith("; fit it again or remove it")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000])
def test_what_is_no_document_is_refused(text: str) -> None:
    with pytest.raises(ModelFileError, match="cannot be used as a calibration"):
        loads(text)


@pytest.mark.parametrize(
    ("scores", "values"),
    [((0.5,), (0.5,)), ((0.5, 0.5), (0.1, 0.2)), ((0.1, 0.2), (0.5, 0.4)), ((0.1, 1.2), (0.4, 0.5)), ((0.1, 0.2), (0.4,)), ("ab", "cd")],
)
def test_steps_that_fall_or_repeat_are_refused(scores: tuple[float, ...], values: tuple[float, ...]) -> None:
    document = {"format": "guardrail-calibration/1", "method": "isotonic", "scores": list(scores), "values": list(values)}
    with pytest.raises(ModelFileError):
        loads(json.dumps(document))


def test_it_lies_beside_the_weights(tmp_path: Path) -> None:
    assert beside(tmp_path) == tmp_path / "calibration.json"
    assert beside(tmp_path / "a.safetensors") == tmp_path / "a.calibration.json"
    assert read_beside(tmp_path, "sha256:ab") is None
    assert write_beside(tmp_path, StoredCalibration(Temperature(2.0), "sha256:abcd")) == tmp_path / "calibration.json"
    assert read_beside(tmp_path, "sha256:abcdef") == Temperature(2.0)
    assert read_beside(tmp_path, "sha256:ab") == Temperature(2.0)
    with pytest.raises(ModelFileError, match="fitted on the weights sha256:abcd, these are sha256:ff"):
        read_beside(tmp_path, "sha256:ff")
    (tmp_path / "calibration.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelFileError, match=r"calibration\.json: cannot be read"):
        read_beside(tmp_path, "")


async def test_the_embedded_classifier_reads_its_calibration_and_says_so(tmp_path: Path) -> None:
    weights, asked = model_file(tmp_path), policy("violence")
    plain, plain_id = await _score(weights, asked)
    calibration = Platt(0.5, -1.0)
    write_beside(weights, StoredCalibration(calibration))
    calibrated, calibrated_id = await _score(weights, asked)
    assert calibrated == pytest.approx(calibration.apply(plain))
    assert calibrated_id == plain_id + suffix(calibration)
    write_beside(weights, StoredCalibration(calibration, weights="sha256:00"))
    with pytest.raises(ModelFileError, match="fit it again"):
        EmbeddedClassifier.load(weights)


async def _score(weights: Path, asked: object) -> tuple[float, str]:
    classifier = EmbeddedClassifier.load(weights, precision="float32")
    await classifier.prepare([asked])
    (score,) = await classifier.classify([ClassifyRequest(asked, "a text of some length")], deadline=time.monotonic() + 60)
    await classifier.aclose()
    assert isinstance(score, Score)
    assert score.classifier == classifier.id
    return score.value, score.classifier
