"""`guardrail bench engine` on a tiny shape, end to end, and the parts that decide what its numbers mean. No number is judged here."""

import json
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch
from click.testing import CliRunner, Result

pytest.importorskip("transformers")

from guardrail.cli.bench_engine import engine
from guardrail.engine.cope import memory
from guardrail.errors import GuardrailError
from guardrail.evaluation import engine_bench, engine_llama, engine_ours
from guardrail.evaluation.engine_baselines import Transformers, padded, probabilities
from guardrail.evaluation.engine_lanes import NAIVE, packed
from guardrail.evaluation.engine_models import SHAPES, random_gemma2, shape_of
from guardrail.evaluation.engine_plot import Series, bars, lines, picture
from guardrail.evaluation.engine_report import sentences
from guardrail.evaluation.engine_roofline import Ceilings, Pass, Roofline, better
from guardrail.evaluation.engine_room import room
from guardrail.evaluation.engine_rounds import Lane, Taken, Yardstick, differences, measure
from guardrail.evaluation.engine_rounds import lines as judged
from guardrail.evaluation.engine_streams import Growth
from guardrail.evaluation.engine_work import CONTENTS, Answers, Lengths, tokens, work

LENGTHS = Lengths(policy=70, content=12, header=5)
CEILINGS = Ceilings({1: 0.1, 101: 0.3}, {1: 0.1, 101: 0.2}, flops_per_s=1e9, bytes_per_s=1e9, scores_per_s=1e9, eager_scores_per_s=1e8)
ROOFLINE = Roofline(SHAPES["tiny"], 4, CEILINGS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Silent:
    expected = 0.0
    done = 0.0

    def expect(self, seconds: float) -> None:
        self.expected += seconds

    def passed(self, name: str, seconds: float) -> None:
        self.done += seconds


def measured(*arguments: str) -> Result:
    return CliRunner().invoke(engine, ["--shape", "tiny", "--policy-tokens", "70", "--content-tokens", "12", *arguments])


def test_a_run_measures_every_way_writes_what_it_printed_and_the_answers_are_right(tmp_path: Path):
    options = ["--rounds", "1", "--requests", "2", "--resident", "1,6", "--answer-tokens", "48", "--json", "--out", str(tmp_path)]
    run = measured(*options)

    assert run.exit_code == 0, run.output
    printed = json.loads(run.stdout)
    assert printed["right"]
    ways = [line["name"] for line in printed["lines"]]
    assert ways[:3] == [NAIVE, "transformers, padded batch of 2", "transformers, cache copied for each request"]
    assert ways[-6:] == [
        *("ours, batch 1", "ours, batch 8", "ours, batch 32", "ours, batch 32, 4 policies"),
        *("ours, engine asked one by one", "ours, engine asked 32 at once"),
    ]
    assert all(line["ms"] > 0 and line["predicted_ms"] > 0 and line["roofline"] > 0 for line in printed["lines"])
    assert all(line["right"] and line["max_dp"] < (0.05 if "llama" in line["name"] else 1e-4) for line in printed["lines"])
    assert all(line["compared"] >= 4 for line in printed["lines"])
    assert [one["policies"] for one in printed["residents"]] == [1, 6]
    assert all(one["max_dp"] < 1e-4 for one in printed["residents"])
    streams = printed["streams"]
    assert streams["incremental"]["at"] == [16, 32, 48]
    assert max(streams["max_dp"], streams["max_dp_naive"]) < 1e-4
    assert (streams["tokens_run"], streams["tokens_streamed"]) == (3 * (16 + 9), 48)
    (file,) = tmp_path.glob("*.json")
    assert json.loads(file.read_text()) == printed
    assert "| ours, batch 32, 4 policies |" in file.with_suffix(".md").read_text()
    drawn = file.with_suffix(".svg").read_text()
    assert ET.fromstring(drawn).tag.endswith("svg")
    assert drawn.count("http") == 1  # its own name space; nothing is fetched


def test_a_run_whose_own_answers_are_wrong_fails_and_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine_ours, "probability", lambda read: 0.5)

    run = measured("--parts", "generate,ours", "--rounds", "1", "--requests", "1")

    assert run.exit_code == 1
    assert "ours, batch 1: its answers are up to" in run.stdout


def test_parts_that_do_not_exist_are_refused():
    run = measured("--parts", "ours,theirs")

    assert run.exit_code == 2
    assert "'theirs'" in run.output


def test_the_command_is_listed_without_being_imported():
    from guardrail.cli.bench import bench

    listed = CliRunner().invoke(bench, ["--help"]).output

    assert all(name in listed for name in ("proxy", "classifier", "engine", "fuzz"))


def test_a_shape_that_memory_does_not_hold_is_refused_before_it_is_built(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "available", lambda device: 10 << 30)

    with pytest.raises(GuardrailError, match=r"gemma-2-9b.*GiB.*--shape"):
        random_gemma2("gemma-2-9b")
    with pytest.raises(GuardrailError, match="no shape 'huge'"):
        random_gemma2("huge")


def test_a_prompt_longer_than_the_model_reads_is_refused():
    with pytest.raises(GuardrailError, match="8192"):
        engine_bench.run(engine_bench.Settings(shape="tiny", lengths=Lengths(policy=9000)), Silent())


def test_shapes_count_their_parameters():
    model = random_gemma2("tiny")

    assert sum(parameter.numel() for parameter in model.parameters()) == SHAPES["tiny"].parameters
    assert shape_of(model.config) == SHAPES["tiny"]
    assert SHAPES["gemma-2-9b"].body_weights == 8_323_596_288


def test_random_weights_are_the_same_for_a_seed_and_their_scores_spread():
    scores = []
    for _ in range(2):
        model = random_gemma2("tiny", seed=3)
        baseline = Transformers(model, work(512, LENGTHS))
        scores.append([baseline.judge(content % 4, content) for content in range(8)])

    assert scores[0] == scores[1]
    assert max(scores[0]) - min(scores[0]) > 0.3


def test_a_padded_batch_answers_like_its_prompts_alone():
    model = random_gemma2("tiny")
    ids = random.Random(0)
    prompts = [tokens(ids, 512, count) for count in (9, 30, 17)]
    baseline = Transformers(model, work(512, LENGTHS))

    batch, mask = padded(prompts, torch.device("cpu"))
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode():
        logits = model(input_ids=batch, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, -1]

    assert probabilities(logits) == pytest.approx([baseline.answer(prompt) for prompt in prompts], abs=1e-5)


def lane(name: str, answers: Answers, band: float = 1e-3) -> Lane:
    return Lane(name, 2, lambda _: answers, (Pass(1, 101),), together=1, tokens=12, predicted_s=0.5, band=band)


def test_no_speed_is_quoted_of_a_wrong_answer():
    right, wrong, broken = {(0, 0): 0.5, (0, 1): 0.9}, {(0, 0): 0.5, (0, 1): 0.8}, {(0, 0): math.nan}
    lanes = [lane(NAIVE, right), lane("right", right), lane("wrong", wrong), lane("rough", wrong, 0.2), lane("broken", broken)]
    taken = {one.name: Taken((4.0,) if one.name == NAIVE else (1.0,), one.run(0)) for one in lanes}

    found = {line.name: line for line in judged(lanes, taken, Yardstick(NAIVE, {}, ROOFLINE))}

    assert {name: line.right for name, line in found.items()} == {
        NAIVE: True,
        "right": True,
        "wrong": False,
        "rough": True,
        "broken": False,
    }
    assert found["right"].ratio == found["rough"].ratio == 4.0
    assert math.isnan(found["wrong"].ratio)
    assert math.isnan(found["broken"].ratio)
    assert found["wrong"].max_dp == pytest.approx(0.1)
    assert found["broken"].max_dp == math.inf


def test_answers_that_nobody_checked_are_not_right():
    lanes = [lane(NAIVE, {(0, 0): 0.5}), lane("elsewhere", {(1, 1): 0.5})]
    taken = {one.name: Taken((1.0,), one.run(0)) for one in lanes}

    alone = judged(lanes, taken, Yardstick(NAIVE, {}, ROOFLINE))[1]
    known = judged(lanes, taken, Yardstick(NAIVE, {(1, 1): 0.5}, ROOFLINE))[1]

    assert not alone.right
    assert known.right


def test_aims_are_named_where_they_were_set_for_and_nowhere_else():
    settings = engine_bench.Settings(parts=("ours",))
    line = judged(
        [lane("ours, batch 1", {(0, 0): 0.5})], {"ours, batch 1": Taken((1.0,), {(0, 0): 0.5})}, Yardstick("", {(0, 0): 0.5}, ROOFLINE)
    )[0]
    memory = engine_bench.Memory(1, 1, 1, 1, None, None)
    results = engine_bench.Results(
        settings, SHAPES["small"], "float32", "cpu", CEILINGS, (replace(line, ratio=24.0),), (), None, memory, True, ("A note.",)
    )

    said = list(sentences(results))

    assert "ours, batch 1 24.0 (misses 25)" in said[-2]
    assert said[-1] == "A note."
    assert "reaches 25" in list(sentences(replace(results, lines=(replace(line, ratio=25.5),))))[-2]
    assert not any("aims" in sentence for sentence in sentences(replace(results, settings=replace(settings, shape="tiny"))))


def test_ratios_are_taken_within_rounds():
    lanes = [lane(NAIVE, {(0, 0): 0.5}), lane("ours", {(0, 0): 0.5})]
    taken = {NAIVE: Taken((4.0, 40.0, 4.0), {(0, 0): 0.5}), "ours": Taken((1.0, 10.0, 2.0), {(0, 0): 0.5})}

    ours = judged(lanes, taken, Yardstick(NAIVE, {}, ROOFLINE))[1]

    assert ours.ratio == 4.0
    assert (ours.ms, ours.least_ms, ours.most_ms) == (2000.0, 1000.0, 10_000.0)
    assert ours.tokens_per_s == 6.0
    assert ours.roofline == pytest.approx(ROOFLINE.floor(Pass(1, 101)) / 2.0)


def test_rounds_take_turns_and_the_first_is_not_counted():
    order: list[tuple[str, int]] = []

    def run(name: str):
        def answer(number: int) -> Answers:
            order.append((name, number))
            return {(0, number): 0.5}

        return answer

    watch = Silent()
    taken = measure([replace(lane("a", {}), run=run("a")), replace(lane("b", {}), run=run("b"))], 2, watch)

    assert order == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert len(taken["a"].seconds) == 2
    assert taken["a"].answers == {(0, 0): 0.5, (0, 1): 0.5, (0, 2): 0.5}
    assert watch.expected == pytest.approx(watch.done)


def test_differences_are_of_the_same_request_only():
    assert differences({(0, 0): 0.5, (0, 1): 0.25}, {(0, 1): 0.75, (1, 0): 0.1}) == [0.5]


def test_a_floor_is_drawn_out_between_measurements_and_beyond_them():
    small = ROOFLINE.floor(Pass(1, 1))
    attention = ROOFLINE.floor(Pass(1, 101)) - 0.2

    assert small == pytest.approx(0.1, rel=1e-3)
    assert attention == pytest.approx(4 * 4 * 32 * 4 * (101 * 102 / 2) / 1e9)
    assert ROOFLINE.floor(Pass(1, 51)) == pytest.approx(0.15, rel=2e-2)
    assert ROOFLINE.floor(Pass(2, 101)) == pytest.approx(0.4, rel=6e-2)
    assert ROOFLINE.floor(Pass(1, 1, prefix=10_000)) > small


def test_a_prediction_is_never_below_its_floor_and_counts_what_is_copied():
    for run in (Pass(1, 25, 500), Pass(32, 17, 70), Pass(4, 90, eager=True)):
        assert ROOFLINE.predict(run) > ROOFLINE.floor(run)
    assert ROOFLINE.predict(Pass(1, 25, 500, copied=10**9)) == pytest.approx(ROOFLINE.predict(Pass(1, 25, 500)) + 1.0)


def test_of_two_measurements_of_a_ceiling_the_better_counts():
    other = Ceilings({1: 0.2, 101: 0.1}, {1: 0.2, 101: 0.1}, flops_per_s=2e9, bytes_per_s=5e8, scores_per_s=2e9, eager_scores_per_s=5e7)

    best = better(CEILINGS, other)

    assert best.products == pytest.approx({1: 0.1, 101: 0.1})
    assert better(CEILINGS, replace(other, products={1: 0.001, 101: 0.3})).products == pytest.approx({1: 0.001, 101: 0.101})
    assert (best.flops_per_s, best.bytes_per_s, best.scores_per_s, best.eager_scores_per_s) == (2e9, 1e9, 2e9, 1e8)


def test_a_batch_is_packed_into_passes_as_the_engine_would():
    passes = packed(32, Lengths(1500, 100, 5), 8192)

    assert [one.rows for one in passes] == [9, 9, 9, 5]
    assert max(one.tokens for one in passes) <= 1024
    assert [one.rows for one in packed(2, Lengths(1500, 3000, 5), 8192)] == [1, 1]


def test_policies_that_memory_does_not_hold_are_left_out_and_too_little_is_refused():
    page = 64 * 2048
    asked = room(Lengths(640), Growth(), (1, 4, 100), 2048, None)
    some = room(Lengths(640), Growth(), (1, 4, 20, 100), 2048, 800 * page)

    assert asked.resident == (1, 4, 100)
    assert some.resident == (1, 4, 20)
    assert some.left_out == (100,)
    assert some.nbytes < 0.4 * 800 * page
    assert asked.nbytes - some.nbytes == 80 * 10 * page
    with pytest.raises(GuardrailError, match="--policy-tokens"):
        room(Lengths(640), Growth(), (), 2048, 50 * page)


def test_work_is_the_same_for_a_seed_and_no_two_contents_are_alike():
    first, again = work(512, LENGTHS), work(512, LENGTHS)

    assert all((one == other).all() for one, other in zip(first.rows, again.rows, strict=True))
    assert len({row.tobytes() for row in first.rows}) == CONTENTS
    assert {len(row) for row in first.rows} == {17}
    assert len(first.prompt(3, 5)) == LENGTHS.whole


def test_weights_reach_the_other_engine_under_its_names():
    model = random_gemma2("tiny", num_hidden_layers=1)
    found = dict(engine_llama.tensors(model))

    layer = model.model.layers[0]
    assert (found["blk.0.attn_norm.weight"] == layer.input_layernorm.weight.numpy() + 1).all()
    assert (found["blk.0.ffn_down.weight"] == layer.mlp.down_proj.weight.numpy()).all()
    assert len(found) == 2 + 11
    assert sum(tensor.size for tensor in found.values()) == sum(parameter.numel() for parameter in model.parameters())


def test_why_the_other_engine_is_left_out_is_said(monkeypatch: pytest.MonkeyPatch):
    model = random_gemma2("tiny", num_hidden_layers=1)
    monkeypatch.setattr(engine_llama.importlib.util, "find_spec", lambda name: None)

    assert "pip install llama-cpp-python gguf" in (engine_llama.left_out(model) or "")


def test_the_other_engine_answers_nearly_the_same():
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    model, given = random_gemma2("tiny"), work(512, LENGTHS)
    with engine_llama.opened(model, given, threads=1) as llama:
        whole, kept = llama.judge_whole(0, requests=2), llama.judge_kept(0, requests=2)

    baseline = Transformers(model, given)
    for key in ((0, 0), (0, 1)):
        assert whole[key] == pytest.approx(baseline.judge(*key), abs=0.02)
        assert kept[key] == pytest.approx(whole[key], abs=1e-3)


def test_a_picture_holds_whatever_was_measured():
    drawn = picture([bars("Speed", "x", [("ours, <b>", 30.0), ("wrong", math.nan)]), lines("Checks", ("tokens", "ms"), [Series("a", ())])])

    assert "&lt;b&gt;" in drawn
    assert "30x" in drawn
    assert ET.fromstring(drawn).get("height") == str(44 + 2 * 24 + 16 + 44 + 220 + 52)
