"""From a configuration file to a verdict, with a server in between."""

import math
from pathlib import Path
from typing import Any

import pytest
from remote_server import KEY, Asked, Reply, says, serving
from tiny_checkpoints import gemma_tokenizer

from guardrail.assembly import open_classifier, open_guard
from guardrail.classifiers.remote.opening import open_label
from guardrail.config import loads
from guardrail.config.remote import LabelClassifier
from guardrail.errors import ClassifierError, GuardrailError, ModelFileError
from guardrail.types import Action

INSULT = "You are a worthless idiot."
ROUTE = "routes: [{name: all, input: {policies: [toxicity]}, output: {policies: []}}]\n"


def keyword_server(asked: Asked) -> Any:
    """A label server that knows one word."""
    violates = "idiot" in asked.body["content_text"]
    return says({"label": str(int(violates)), "confidence": 0.9, "model": "keyword"})(asked)


def configured(folder: Path, section: str) -> Path:
    path = folder / "guardrail.yaml"
    path.write_text(f"classifiers:\n  remote: {section}\n{ROUTE}", encoding="utf-8")
    return path


async def test_a_guard_judges_through_a_server_with_the_key_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_KEY", KEY)
    async with serving(keyword_server) as server:
        config = configured(tmp_path, f"{{kind: label, base_url: '{server.url}/v1', api_key_env: LABEL_KEY}}")
        async with open_guard(config) as guard:
            assert guard.canaries is not None
            assert all(said.ok for said in guard.canaries.last.values())
            decision = await guard.check(INSULT)
            assert decision.action is Action.BLOCK
            assert [verdict.classifier for verdict in decision.verdicts] == ["label:default@keyword"]
            assert (await guard.check("Good morning.")).action is Action.PASS
    assert {asked.path for asked in server.asked} == {"/v1/label"}
    assert {asked.headers["Authorization"] for asked in server.asked} == {f"Bearer {KEY}"}


async def test_a_server_that_breaks_leaves_a_text_unjudged_never_passed(tmp_path: Path) -> None:
    broken: Reply = lambda asked: (says({}, status=402) if "later" in asked.body["content_text"] else keyword_server)(asked)  # noqa: E731
    async with serving(broken) as server, open_guard(configured(tmp_path, f"{{kind: label, base_url: '{server.url}'}}")) as guard:
        decision = await guard.check("See you later.")
    assert (decision.action, decision.outcome.unjudged, decision.outcome.unavailable) == (Action.BLOCK, True, True)
    assert [verdict.error for verdict in decision.verdicts] == ["crash"]


async def test_a_wrong_address_is_found_at_start(tmp_path: Path) -> None:
    async with serving(says({}, status=404)) as server:
        guard = open_guard(configured(tmp_path, f"{{kind: label, base_url: '{server.url}'}}"))
        with pytest.raises(ClassifierError, match="check base_url, model and labelers"):
            async with guard:
                pass


def undecided(asked: Asked) -> Any:
    """A server of all shapes that finds both answers as likely, and counts tokens where it is given them."""
    question = asked.body
    if asked.path.endswith("/generative_scoring"):
        count = len(question["query"]) + len(question["items"][0])
        return says({"data": [{"score": 0.5}], "usage": {"prompt_tokens": count}})(asked)
    top = [{"token": digit, "logprob": math.log(0.5)} for digit in "01"]
    told: dict[str, Any] = {"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}
    if isinstance(question.get("prompt"), list):
        told["usage"] = {"prompt_tokens": len(question["prompt"])}
    return says(told)(asked)


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ("kind: vllm, tokenizer: spelling", "/generative_scoring"),
        ("kind: completions, tokenizer: spelling", "/v1/completions"),
        ("kind: completions, model: tiny", "/v1/completions"),
        ("kind: completions, template: B", "/v1/chat/completions"),
    ],
)
async def test_each_kind_opens_from_a_file_with_its_tokenizer_beside_it(tmp_path: Path, section: str, path: str) -> None:
    gemma_tokenizer().save_pretrained(tmp_path / "spelling")
    async with serving(undecided) as server:
        async with open_guard(configured(tmp_path, f"{{{section}, base_url: '{server.url}/v1'}}")) as guard:
            (verdict,) = (await guard.check("Good morning.")).verdicts
    assert verdict.score == pytest.approx(0.5)
    assert {asked.path for asked in server.asked} == {path}


async def test_a_missing_tokenizer_and_an_unusable_key_are_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    section = loads("classifiers: {c: {kind: vllm, base_url: 'http://localhost:1', tokenizer: empty}}").classifiers["c"]
    with pytest.raises(ModelFileError, match=r"tokenizer\.json"):
        async with open_classifier(section.model_copy(update={"tokenizer": str(tmp_path / "empty")})):
            pass
    with pytest.raises(GuardrailError, match="API key") as error:
        open_label(LabelClassifier(kind="label"), "sk-one\nsk-two")
    assert "sk-" not in str(error.value)
