"""A sweep tries what it drew, goes on where it stopped, keeps the best for longer, and says what failed."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from guardrail.cli.train_sweep import sweep as command
from guardrail.errors import GuardrailError
from guardrail.training.sweep import LOG, STEPS, Parameter, Progress, Sweep, Value, leaderboard, planned, ranked, read_results, run
from guardrail.training.sweep_command import SHIPPED, CommandTrial, read_spec

RATE = Parameter("rate", "log", 1e-5, 1e-2, default=1e-3)
DEPTH = Parameter("depth", "choice", choices=(1, 2, 3))
SWEEP = Sweep((RATE, DEPTH), "auc", True, trials=9, rungs=(10, 30, 90), seed=4)
# Learns the mean of four numbers by gradient descent, and says how far it is from it.
TRAINER = """
import json, sys
steps, rate, folder = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
if rate > float(sys.argv[4]):
    sys.exit("the rate is too high")
guess = 0.0
for step in range(steps):
    guess -= rate * (guess - 2.5)
json.dump({"loss": {"last": [9.0, (guess - 2.5) ** 2], "steps": steps, "fine": True}, "other": 1}, open(folder + "/numbers.json", "w"))
"""
SPEC = """
command: [{python}, {script}, "{{steps}}", "{{rate}}", "{{folder}}"]
metrics: "{{folder}}/numbers.json"
metric: loss.last.-1
goal: lowest
parameters:
  rate: {{log: [0.001, 0.5], default: 0.01}}
"""


class Trainer:
    """Better with more steps and a higher rate; notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, int]] = []
        self.broken = False

    def __call__(self, settings: Mapping[str, Value], seed: int, folder: Path) -> Mapping[str, float]:
        rate, steps = float(settings["rate"]), int(settings[STEPS])
        self.asked.append((rate, steps))
        if self.broken or rate > 5e-3:
            raise GuardrailError("it diverged")
        return {"auc": rate * steps, "loss": 1.0}


def test_the_best_go_on_for_longer(tmp_path: Path) -> None:
    trainer, told = Trainer(), list[Progress]()
    found = run(SWEEP, trainer, tmp_path, report=told.append)
    assert planned(SWEEP) == [9, 3, 1]
    assert [steps for _, steps in trainer.asked] == [10] * 9 + [30] * 3 + [90]
    well = sorted((rate for rate, steps in trainer.asked if steps == 10 and rate <= 5e-3), reverse=True)
    assert [rate for rate, steps in trainer.asked if steps == 30] == well[:3]
    assert trainer.asked[-1] == (well[0], 90)
    assert trainer.asked[0][0] == 1e-3  # the settings of now come first
    assert told[-1] == Progress(13, 13, 270, ranked(SWEEP, found)[0])
    table, sheet = leaderboard(SWEEP, found)
    assert table.splitlines()[2].startswith(f"| 1 | {ranked(SWEEP, found)[0].trial} | 90 |")
    assert len(sheet.splitlines()) == 10
    assert [line.split("\t")[0] for line in sheet.splitlines()[1:]] == [str(rank) for rank in range(1, 10)]


def test_a_sweep_that_stopped_goes_on_and_tries_what_failed_again(tmp_path: Path) -> None:
    class Stopped(Exception):
        """As if the machine went down."""

    first = Trainer()

    def stop(progress: Progress) -> None:
        if progress.done == 4:
            raise Stopped

    with pytest.raises(Stopped):
        run(SWEEP, first, tmp_path, report=stop)
    with (tmp_path / LOG).open("a") as log:
        log.write('{"trial": 5, "st')
    second = Trainer()
    found = run(SWEEP, second, tmp_path)
    assert not {asked for asked in first.asked if asked[0] <= 5e-3} & set(second.asked)
    again = Trainer()
    assert [each.steps for each in run(SWEEP, again, tmp_path)] == [each.steps for each in found]
    assert all(rate > 5e-3 for rate, _ in again.asked)
    wider = Trainer()
    run(Sweep((RATE, DEPTH), "auc", True, trials=10, rungs=(10, 30, 90), seed=4), wider, tmp_path)
    assert len([1 for rate, steps in wider.asked if steps == 10 and rate <= 5e-3]) <= 1
    with pytest.raises(GuardrailError, match="another sweep"):
        run(Sweep((RATE,), "auc", True, 9, (10,), seed=4), Trainer(), tmp_path)


def test_a_budget_of_steps_is_not_overrun(tmp_path: Path) -> None:
    trainer = Trainer()
    run(Sweep((RATE, DEPTH), "auc", True, 9, (10, 30), seed=4, budget=130), trainer, tmp_path)
    assert sum(steps for _, steps in trainer.asked) == 120


def test_when_nothing_comes_to_a_number_it_is_said(tmp_path: Path) -> None:
    trainer = Trainer()
    trainer.broken = True
    with pytest.raises(GuardrailError, match="no trial of 10 steps came to a number: it diverged"):
        run(SWEEP, trainer, tmp_path)
    assert {each.error for each in read_results(tmp_path)} == {"it diverged"}
    with pytest.raises(GuardrailError, match="must rise"):
        run(Sweep((RATE,), "auc", True, 1, (30, 10)), trainer, tmp_path / "other")


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_what_is_drawn_lies_where_it_should_and_does_not_depend_on_the_rest(seed: int, trial: int) -> None:
    both, alone = Sweep((RATE, DEPTH), "m", True, 1, (1,), seed=seed), Sweep((RATE,), "m", True, 1, (1,), seed=seed)
    drawn = both.settings(trial)
    assert 1e-5 <= float(drawn["rate"]) <= 1e-2
    assert drawn["depth"] in (1, 2, 3)
    assert alone.settings(trial)["rate"] == drawn["rate"]
    whole = Parameter("n", "integer", 2, 4).draw(seed, trial)
    assert whole in (2, 3, 4)
    assert 0.5 <= float(Parameter("x", "uniform", 0.5, 0.75).draw(seed, trial)) <= 0.75


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "trainer.py").write_text(TRAINER)
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.format(python=sys.executable, script=tmp_path / "trainer.py"))
    return path


def test_the_command_sweeps_over_any_program(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [str(spec), "--trials", "4", "--rungs", "5,20", "--keep", "0.5", "--folder", str(out), "--", "0.4"]
    said = CliRunner().invoke(command, arguments)
    results = read_results(out)
    best = min((each for each in results if each.steps == 20), key=lambda each: each.metrics["loss.last.-1"])
    assert (out / "leaderboard.md").read_text().splitlines()[2].startswith(f"| 1 | {best.trial} | 20 |"), said.output
    assert json.loads((out / f"trial-{best.trial:03}-20" / "numbers.json").read_text())["loss"]["steps"] == 20
    assert set(best.metrics) == {"loss.last.-1"}
    assert said.exit_code == int(any(each.error for each in results))
    assert all(each.error.endswith("the rate is too high") for each in results if each.settings["rate"] > 0.4)  # type: ignore[operator]
    none = CliRunner().invoke(command, [*arguments[:-4], "--folder", str(tmp_path / "none"), "--", "0"])
    assert isinstance(none.exception, GuardrailError)
    assert "it exited with 1: the rate is too high" in str(none.exception)


def test_a_trial_without_its_number_failed(spec: Path, tmp_path: Path) -> None:
    trial = CommandTrial(read_spec(str(spec)), "loss.nothing", ["1"])
    found = run(
        Sweep((Parameter("rate", "choice", choices=(0.1,)),), "loss.steps", True, 1, (3,)),
        CommandTrial(trial.spec, "loss.steps", ["1"]),
        tmp_path / "a",
    )
    assert found[0].metrics == {"loss.steps": 3.0}
    with pytest.raises(GuardrailError, match=r"it gave no loss\.nothing"):
        run(Sweep((Parameter("rate", "choice", choices=(0.1,)),), "loss.nothing", True, 1, (3,)), trial, tmp_path / "b")


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('"{rate}", ', "", "no place for rate"),
        ('"{steps}"', '"{step}"', "asks for step, which is no parameter"),
        ("log: [0.001, 0.5]", "log: [0, 0.5]", "two rising numbers, both above 0"),
        ("goal: lowest", "goal: best", "this is no sweep"),
    ],
)
def test_a_spec_with_a_mistake_is_refused(spec: Path, before: str, after: str, says: str) -> None:
    text = spec.read_text()
    assert before in text
    spec.write_text(text.replace(before, after))
    with pytest.raises(GuardrailError, match=says):
        read_spec(str(spec))


def test_the_shipped_specs_call_commands_that_are_there() -> None:
    from guardrail.cli import commands

    names = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
    assert names == ["adapter", "cope", "embedded"]
    for name in names:
        found = read_spec(name)
        train = commands.get_command(None, "train")  # type: ignore[arg-type]
        trainer = train.get_command(None, found.command[2])  # type: ignore[union-attr]
        options = {option for each in trainer.params for option in each.opts}
        assert {word for word in found.command if word.startswith("--")} <= options
        assert all(each.default is not None for each in found.parameters)
    with pytest.raises(GuardrailError, match="one of adapter, cope, embedded"):
        read_spec("nothing")
