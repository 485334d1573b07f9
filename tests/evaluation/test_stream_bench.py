"""`guardrail bench stream`: every mode's times and work in one run, and the bars they are held to."""

import json

from click.testing import CliRunner

from guardrail.cli import commands
from guardrail.evaluation.stream_bench import Plan, Streamed, Work, bars, share, summed


def test_every_mode_is_measured_against_the_upstream_asked_directly() -> None:
    options = ["--tokens", "30", "--rate", "300", "--window", "40", "--json"]
    ran = CliRunner().invoke(commands, ["bench", "stream", *options])
    told = json.loads(ran.output)
    modes = {row["mode"]: row for row in told["modes"]}
    assert list(modes) == ["direct", "watch", "overlap", "window", "hold"]
    assert (modes["direct"]["checks"], modes["direct"]["work"]) == (0, 0.0)
    assert (modes["hold"]["checks"], modes["hold"]["work"]) == (1, 1.0)
    assert all(modes[mode]["work"] >= 1.0 for mode in ("watch", "overlap", "window"))
    assert all(0.0 < row["first_s"] <= row["total_s"] for row in modes.values())
    assert ran.exit_code == (0 if all(bar["kept"] for bar in told["bars"]) else 1)


def test_work_is_counted_in_checks_of_the_whole_answer() -> None:
    whole = Work(characters=1_000)
    assert share(Work(characters=2_500), whole) == 2.5
    assert share(Work(characters=1_000, tokens=260), Work(characters=1_000, tokens=250)) == 1.04
    row = summed("overlap", [(0.1, 1.0), (0.3, 1.2)], [Work(1_000, 0, 3, [0.01, 0.02]), Work(1_200, 0, 3, [0.03])], whole)
    assert row == Streamed("overlap", 0.2, 1.1, 3, 1.1, 0.03)


def test_a_bar_is_missed_when_the_overlap_is_late_slow_or_costly() -> None:
    plan = Plan(tokens=100, rate=100.0, window=50)
    direct = Streamed("direct", 0.01, 1.0)
    good = Streamed("overlap", 0.05, 1.02, 3, 1.1, 0.01)
    assert [kept for _, kept in bars([direct, good], plan, resident=True)] == [True, True, True]
    bad = Streamed("overlap", 0.9, 1.2, 3, 1.5, 0.01)
    assert [kept for _, kept in bars([direct, bad], plan, resident=True)] == [False, False, False]
    assert len(bars([direct, good], plan, resident=False)) == 2
