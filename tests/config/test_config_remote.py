"""Sections of classifiers whose model runs on a server."""

from pathlib import Path

import jsonschema
import pytest
import yaml
from config_cases import faults, found

from guardrail.config import Environment, check, json_schema, load, loads
from guardrail.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "examples" / "remote_classifiers.yaml"
VALIDATOR = jsonschema.Draft202012Validator(json_schema())
URL = "base_url: 'http://gpu:8000/v1'"


@pytest.mark.parametrize(
    "section",
    [
        "{kind: vllm, base_url: 'http://gpu:8000', tokenizer: ./cope-a}",
        "{kind: vllm, base_url: 'http://gpu:8000', tokenizer: google/gemma-2-9b, model: cope-a, check_outside: false, api_key_env: KEY}",
        f"{{kind: completions, {URL}}}",
        f"{{kind: completions, {URL}, template: B, logprobs: 50, allowed_token_ids: [235276, 235274], slack: 0.05}}",
        "{kind: label}",
        f"{{kind: label, {URL}, labelers: {{toxicity: {{id: lab-1}}, violence: {{id: lab-2, version: v3}}}}}}",
    ],
)
def test_schema_and_load_take_the_same_sections(section: str) -> None:
    text = f"classifiers: {{remote: {section}}}"
    VALIDATOR.validate(yaml.safe_load(text))
    assert loads(text).classifiers["remote"].kind in ("vllm", "completions", "label")


@pytest.mark.parametrize(
    "section",
    [
        "{kind: vllm, base_url: 'http://gpu:8000'}",
        f"{{kind: vllm, {URL}, tokenizer: x, template: C}}",
        f"{{kind: completions, {URL}, logprobs: 4}}",
        f"{{kind: completions, {URL}, api_key: sk-1}}",
        f"{{kind: completions, {URL}, allowed_token_ids: [-1]}}",
        "{kind: completions, base_url: 'ftp://gpu'}",
        "{kind: label, labelers: {toxicity: lab-1}}",
        "{kind: label, connections: 0}",
    ],
)
def test_schema_and_load_refuse_the_same_sections(section: str) -> None:
    text = f"classifiers: {{remote: {section}}}"
    assert not VALIDATOR.is_valid(yaml.safe_load(text))
    with pytest.raises(ConfigError):
        loads(text)


def test_the_example_checks_clean_once_its_key_is_set() -> None:
    config = load(EXAMPLE)
    VALIDATOR.validate(yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")))
    assert [section.kind for section in config.classifiers.values()] == ["vllm", "completions", "label"]
    assert check(config, environment=Environment({"ZENTROPI_API_KEY": "k"})) == []
    assert [finding.code for finding in check(config, environment=Environment({}))] == ["C041"]


def test_a_key_in_an_address_is_refused_without_repeating_it() -> None:
    (fault,) = faults("classifiers: {c: {kind: label, base_url: 'https://user:sk-1@host/v1'}}")
    assert "sk-1" not in fault


def test_a_variable_that_is_not_set_is_a_warning() -> None:
    text = "classifiers:\n  c:\n    kind: label\n    api_key_env: ZENTROPI_API_KEY\n"
    assert found(text) == ["4 C041 warning"]
    assert found(text, ZENTROPI_API_KEY="k") == []


def test_a_tokenizer_needs_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"classifiers:\n  c:\n    kind: completions\n    {URL}\n    tokenizer: x\n"
    assert found(text) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert found(text) == ["5 C040 error"]
