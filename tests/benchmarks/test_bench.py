"""`guardrail bench`, end to end for a fraction of a second, and the arithmetic of its table. No number is judged here: see results/."""

import asyncio
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from guardrail.cli.bench import passes
from guardrail.cli.bench_servers import BARE, DIRECT, OFF, SCRIPTED, SCRIPTED_OBSERVED
from guardrail.cli.listen import bind, listening
from guardrail.errors import ClassifierError, GuardrailError
from guardrail.evaluation.latency import Case, measure, text_of
from guardrail.evaluation.load import Burst, Requests, burst
from guardrail.evaluation.overhead import Change, Load, Yardsticks, change, quantile, summarise
from guardrail.testing import ScriptedClassifier, policy
from guardrail.upstream.embedded import EmbeddedUpstream

ROOT = Path(__file__).parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "guardrail", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


async def test_a_run_measures_every_server_and_writes_what_it_printed(tmp_path: Path):
    run = bench("proxy", "--seconds", "0.1", "--rounds", "2", "--connections", "1,4", "--no-embedded", "--json", "--out", str(tmp_path))

    assert run.returncode == 0, run.stderr
    printed = json.loads(run.stdout)
    rows = printed["rows"]
    assert [(row["server"], row["connections"]) for row in rows] == [
        (name, count) for count in (1, 4) for name in (DIRECT, BARE, OFF, SCRIPTED)
    ]
    assert all(row["requests"] > 0 and row["failures"] == 0 for row in rows)
    assert all(row["ratio"] == 1.0 for row in rows if row["server"] == BARE)
    assert all(row["p50_ms"] <= row["p99_ms"] for row in rows)
    assert printed["machine"]["cores"] >= 1
    (file,) = tmp_path.glob("*-proxy.json")
    assert json.loads(file.read_text())["rows"] == rows
    assert f"| {OFF} |" in file.with_suffix(".md").read_text()


def test_a_run_fails_on_a_failed_request_or_a_ratio_under_the_asked_one():
    answered = Load(OFF, 1, requests=10, failures=0, per_second=10, p50_ms=1, p99_ms=1, added_p50_ms=1, added_p99_ms=1, ratio=0.5)

    assert passes([answered], None)
    assert passes([answered], 0.5)
    assert not passes([answered], 0.6)
    assert not passes([answered, replace(answered, connections=8, ratio=math.nan)], 0.5)
    assert not passes([replace(answered, failures=1)], None)


def test_a_wrong_list_of_connections_is_refused_before_anything_starts():
    run = bench("proxy", "--connections", "1,many")

    assert run.returncode == 2
    assert "1,8,32" in run.stderr


async def test_load_counts_what_is_not_answered_with_200_as_failed():
    listener = bind("127.0.0.1", 0)
    host, port = listener.getsockname()[:2]
    async with listening(EmbeddedUpstream(), listener):
        good = await burst((host, port), Requests(host=host), connections=3, seconds=0.1)
        streamed = await burst((host, port), Requests(host=host, stream=True), connections=3, seconds=0.1)
        refused = await burst((host, port), Requests(host=host, model="embedded-error-500"), connections=2, seconds=0.05)
        broken = await burst((host, port), Requests(host=host, model="embedded-disconnect"), connections=2, seconds=0.05)

    assert good.failures == streamed.failures == 0
    assert len(good.latencies) > 3
    assert len(streamed.latencies) > 3
    assert not refused.latencies
    assert refused.failures > 2
    assert not broken.latencies
    assert broken.failures == 2


async def test_load_sends_no_request_twice():
    requests = Requests(host="localhost")

    assert len({requests.next() for _ in range(100)}) == 100


def test_ratios_are_taken_within_rounds_so_that_a_slow_round_cancels_out():
    def at(rate: int, latency: float) -> Burst:
        return Burst((latency,) * rate, 0, 1.0)

    rounds = {
        ("up", 1): [at(1000, 0.001)] * 3,
        ("bare", 1): [at(400, 0.002), at(40, 0.02), at(400, 0.002)],
        ("ours", 1): [at(200, 0.004), at(20, 0.04), at(200, 0.004)],
    }

    ours = {load.server: load for load in summarise(rounds, Yardsticks("up", "bare"))}["ours"]

    assert ours.ratio == 0.5
    assert ours.per_second == 200
    assert ours.requests == 420
    assert ours.added_p50_ms == pytest.approx(3.0)
    assert ours.p99_ms == pytest.approx(40.0)


def test_quantiles_are_values_that_were_seen():
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([1.0, 2.0], 0.99) == 2.0
    assert quantile([1.0], 0.0) == 1.0
    assert math.isnan(quantile([], 0.5))


async def test_latency_is_measured_on_texts_that_differ_beside_a_reference_that_is_asked_the_same():
    quick, slow = ScriptedClassifier(delay_s=0.002), ScriptedClassifier(delay_s=0.012)

    found = await measure(quick, Case([policy("violence"), policy("toxicity")], 16), seconds=0.05, threads=2, reference=slow)

    assert (found.policies, found.at_once, found.threads) == (2, 1, 2)
    assert found.calls >= 5
    assert 2.0 <= found.p50_ms <= found.p95_ms <= found.p99_ms
    assert found.reference_p50_ms >= 12.0
    assert found.times_as_fast > 1
    assert quick.requests == slow.requests
    assert len({request.text for request in quick.requests}) == quick.batches
    assert {len(request.text.split()) for request in quick.requests} == {14}


def test_the_embedded_classifier_is_measured_beside_its_reference():
    if not (ROOT / "guardrail" / "models" / "embedded.safetensors").exists():
        pytest.skip("the weights are not in this copy")
    run = bench("classifier", "--seconds", "0.01", "--tokens", "16", "--threads", "1", "--batch", "2", "--json")

    assert run.returncode == 0, run.stderr
    rows = json.loads(run.stdout)["rows"]
    assert [(row["policies"], row["at_once"], row["mixed"]) for row in rows] == [(1, 1, False), (8, 1, False), (8, 2, False), (8, 2, True)]
    assert all(row["times_as_fast"] > 0 and row["reference_p50_ms"] > 0 for row in rows)


async def test_many_texts_at_once_count_one_by_one_and_may_be_of_any_length():
    classifier = ScriptedClassifier(delay_s=0.004)

    found = await measure(classifier, Case([policy("violence")], 40, 5, mixed=True), seconds=0.01)

    assert 0 < found.texts_per_s <= 5 / 0.004
    assert math.isnan(found.times_as_fast)
    assert [len(request.text.split()) + 2 for request in classifier.requests[:5]] == [8, 16, 24, 32, 40]


async def test_latency_of_a_classifier_that_does_not_answer_is_no_number():
    classifier = ScriptedClassifier({"*": lambda _: ClassifierError("crash", "broken")})

    with pytest.raises(GuardrailError, match="did not score"):
        await asyncio.wait_for(measure(classifier, Case([policy()], 16), seconds=0.05), 5)


def test_texts_to_measure_with_have_the_tokens_they_say():
    pytest.importorskip("torch")
    weights = pytest.importorskip("guardrail.engine.embedded.weights")
    shipped = ROOT / "guardrail" / "models" / "embedded.safetensors"
    if not shipped.exists():
        pytest.skip("the weights are not in this copy")
    tokens = weights.load(shipped).tokens
    assert {len(tokens.windows(text_of(128, number))[0].ids) for number in range(20)} == {128}


def test_watching_is_measured_beside_the_same_without_and_its_memory_is_told_at_tenths():
    arguments = ("--seconds", "0.1", "--rounds", "1", "--connections", "2", "--no-embedded", "--observed", "--soak", "20")
    run = bench("proxy", *arguments, "--json")

    assert run.returncode == 0, run.stderr
    printed = json.loads(run.stdout)
    assert printed["kind"] == "proxy-observed"
    assert [row["server"] for row in printed["rows"]] == [DIRECT, BARE, SCRIPTED, SCRIPTED_OBSERVED]
    assert all(row["requests"] > 0 and row["failures"] == 0 for row in printed["rows"])
    ratios, memory = printed["notes"]
    assert ratios.startswith(f"{SCRIPTED_OBSERVED} / {SCRIPTED}: requests/s ")
    assert memory.count(",") >= 10
    assert "(0 failed)" in memory


def test_a_change_is_a_median_over_rounds_for_rates_and_one_quantile_over_all_for_latencies():
    rounds = {
        ("watched", 1): [Burst((0.002,) * 8, 0, 1.0), Burst((0.004,) * 2, 0, 1.0)],
        ("plain", 1): [Burst((0.001,) * 10, 0, 1.0), Burst((0.002,) * 10, 0, 1.0)],
    }
    assert change(rounds, "watched", "plain", 1) == Change("watched", 1, rate=0.5, p99=2.0)
