"""The proxy on `kind: cope`, from a configuration file to a client, with a tiny random model merged on disk."""

import json
import shutil
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from tiny_checkpoints import tiny_checkpoint
from tiny_models import naive

from guardrail.assembly import build_app
from guardrail.cli import commands
from guardrail.config.load import load
from guardrail.engine.cope.checkpoint import load_checkpoint
from guardrail.errors import ConfigError, GuardrailError
from guardrail.events import DecisionMade
from guardrail.policy.document import read
from guardrail.policy.registry import shipped_folder
from guardrail.testing import RecordingSink

CONFIG = """
policies: {shipped: false, folder: policies}
upstreams: {main: {kind: embedded}}
classifiers:
  cope: {kind: cope, model: model, kv_gib: 0.1, host_gib: 0, most_outside: 1}
routes:
  - name: main
    upstream: main
    classifier: cope
    deadline_ms: 30000
    input: {policies: [{id: harassment, threshold: LOW}, {id: toxicity, threshold: 1.0, action: annotate}]}
    output: {policies: [{id: harassment, threshold: 1.0}]}
"""
CHAT = "/v1/chat/completions"
HELLO = {"model": "embedded-chat", "messages": [{"role": "user", "content": "The library opens at nine."}]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("proxy")
    tiny_checkpoint(folder)
    (folder / "policies").mkdir()
    for name in ("harassment", "toxicity"):
        shutil.copy(shipped_folder() / f"{name}.md", folder / "policies")
    return folder


async def exchanges(
    home: Path, threshold: str, *bodies: dict[str, object]
) -> tuple[list[httpx.Response], list[DecisionMade], dict[str, object]]:
    """What a client gets, the decisions, and what `/readyz` says, under a harassment threshold for prompts."""
    (home / "guardrail.yaml").write_text(CONFIG.replace("LOW", threshold), encoding="utf-8")
    sink = RecordingSink()
    app = build_app(load(home / "guardrail.yaml"), sinks=[sink])
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://guard", timeout=60) as client:
        answers = [await client.post(CHAT, json=body) for body in bodies]
        ready = (await client.get("/readyz")).json()
    return answers, sink.of(DecisionMade), ready


async def test_prompts_and_answers_are_judged_and_the_record_says_by_what(home: Path) -> None:
    (answer, streamed), decisions, ready = await exchanges(home, "1.0", HELLO, HELLO | {"stream": True})
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"]
    assert streamed.text.rstrip().endswith("data: [DONE]")
    judged = [event.decision for event in decisions]
    assert [(decision.stage.value, len(decision.verdicts)) for decision in judged] == [("input", 2), ("output", 1)] * 2
    assert not any(decision.outcome.unjudged for decision in judged)
    model = load_checkpoint(home / "model", device="cpu")
    for verdict in judged[0].verdicts:
        body = read(home / "policies" / f"{verdict.policy_id}.md").body
        ids = model.tokens.whole(body, "The library opens at nine.")
        assert verdict.score == pytest.approx(naive(model.model, ids, model.tokens.zero, model.tokens.one), abs=1e-4)
        assert verdict.classifier.startswith("cope@sha256:")
        assert verdict.provenance is not None
        assert verdict.provenance.template == "A"
    assert ready["classifiers"]["cope"]["detail"] != "not asked"  # a random model may answer its known pair either way, but is asked


async def test_a_score_over_the_threshold_blocks_before_the_upstream_is_asked(home: Path) -> None:
    (blocked,), decisions, _ = await exchanges(home, "0.0", HELLO)
    assert (blocked.status_code, blocked.json()["error"]["code"]) == (400, "content_filter")
    assert [event.decision.stage.value for event in decisions] == ["input"]


def test_a_model_that_is_not_there_is_one_sentence_with_the_place_and_the_next_step(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "policies", tmp_path / "policies")
    (tmp_path / "guardrail.yaml").write_text(CONFIG.replace("LOW", "1.0"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"guardrail\.yaml:5: C042 there is no model folder .*; write it with `guardrail model merge`"):
        build_app(tmp_path / "guardrail.yaml")


def test_a_policys_own_tests_run_through_a_configured_classifier(home: Path) -> None:
    (home / "guardrail.yaml").write_text(CONFIG.replace("LOW", "1.0"), encoding="utf-8")
    asked = ["policy", "test", "toxicity", "--min-rate", "0", "--json", "--config", str(home / "guardrail.yaml"), "--classifier"]
    told = CliRunner().invoke(commands, [*asked, "cope"])
    assert told.exit_code == 0, told.output
    (trial,) = json.loads(told.stdout)
    assert all(failure["error"] is None for failure in trial["failures"])  # a random model is wrong half the time, but it judges
    unknown = CliRunner().invoke(commands, [*asked, "other"])
    assert isinstance(unknown.exception, GuardrailError)
    assert "has no classifier 'other'; it has cope" in str(unknown.exception)
