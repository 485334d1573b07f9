"""The stream probe's files are read with care, and its alarm rings on an average."""

from pathlib import Path

import numpy as np
import pytest

from guardrail.engine.cope.probe import ProbeAlarm, ProbeWeights
from guardrail.errors import ModelFileError

WIDTH = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(9)
    np.save(tmp_path / "coef.npy", generator.standard_normal((1, WIDTH)))
    np.save(tmp_path / "intercept.npy", np.array([0.3]))
    np.save(tmp_path / "scaler_mean.npy", generator.standard_normal(WIDTH))
    np.save(tmp_path / "scaler_scale.npy", generator.uniform(0.5, 2, WIDTH))
    return tmp_path


def test_the_scaler_is_folded_into_the_weights(folder: Path):
    coef, mean, scale = (np.load(folder / f"{name}.npy").reshape(-1) for name in ("coef", "scaler_mean", "scaler_scale"))
    state = np.random.default_rng(10).standard_normal(WIDTH)

    probe = ProbeWeights.load(folder)

    assert state @ probe.weight + probe.bias == pytest.approx(coef @ ((state - mean) / scale) + 0.3, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "values", "complaint"),
    [
        ("coef", np.ones((1, WIDTH + 1)), "hold 13, 1, 12 and 12 numbers; expected N, 1, N and N"),
        ("intercept", np.ones(2), "hold 12, 2, 12 and 12 numbers"),
        ("scaler_scale", np.zeros(WIDTH), "a scale of 0"),
        ("scaler_mean", np.full(WIDTH, np.nan), "scaler_mean.npy: holds a number that is not finite"),
        ("coef", np.array([{"a": 1}], dtype=object), "coef.npy: not a readable numpy array"),
        ("coef", np.array(["text"] * WIDTH), "coef.npy: not a readable numpy array"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(folder: Path, name: str, values: np.ndarray, complaint: str):
    np.save(folder / f"{name}.npy", values, allow_pickle=True)

    with pytest.raises(ModelFileError, match=complaint):
        ProbeWeights.load(folder)


def test_a_file_that_is_missing_is_named(folder: Path):
    (folder / "intercept.npy").unlink()

    with pytest.raises(ModelFileError, match=r"intercept\.npy: not a readable numpy array"):
        ProbeWeights.load(folder)


def test_one_stray_score_rings_no_alarm_and_a_run_of_them_does():
    alarm = ProbeAlarm()

    assert not alarm.feed((0.0, 0.1, 1.0, 0.0))
    assert alarm.feed((1.0, 1.0, 1.0))


def test_the_newest_score_weighs_as_much_as_the_decay():
    alarm = ProbeAlarm(decay=0.3)
    alarm.feed((1.0, 0.0, 0.5))

    assert alarm.average == pytest.approx(((1.0 * 0.3) * 0.7) * 0.7 + 0.5 * 0.3)


def test_an_average_that_crosses_and_falls_again_within_one_feed_has_rung():
    assert ProbeAlarm(decay=1.0, threshold=0.9).feed((1.0, 0.0))


def test_a_score_that_is_no_number_rings():
    alarm = ProbeAlarm()

    assert alarm.feed((0.0, float("nan")))
    assert alarm.feed((0.0,)), "and goes on: nothing calm is known any more"


@pytest.mark.parametrize("settings", [{"decay": 0.0}, {"decay": 1.1}, {"threshold": 0.0}, {"threshold": 1.0}])
def test_settings_that_mean_nothing_are_refused(settings: dict[str, float]):
    with pytest.raises(ValueError, match="a probe alarm needs"):
        ProbeAlarm(**settings)
