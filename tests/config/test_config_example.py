"""The example that ships is checked, not trusted; and the schema agrees with what `load` takes."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from guardrail import routing
from guardrail.config import Environment, Tenants, check, json_schema, load, loads
from guardrail.errors import ConfigError
from guardrail.policy.lint import lint
from guardrail.policy.registry import Sources

EXAMPLE = Path(__file__).parents[2] / "examples" / "guardrail.yaml"
KEY_ACME, KEY_ORBIT = "acme-example-key-0000000000", "orbit-example-key-000000000"
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def test_the_example_checks_clean_with_its_policies() -> None:
    config = load(EXAMPLE)
    policies = Sources(config.policies.shipped, config.policy_folder, config.tenant_folders).load()
    assert check(config, policies, environment=Environment({"OPENAI_API_KEY": "k"})) == []
    assert [finding.code for finding in check(config, policies, environment=Environment({}))] == ["C041"]


def test_the_examples_policies_lint_clean() -> None:
    for path in (EXAMPLE.parent / "policies_acme").glob("*.md"):
        assert lint(Sources(False, path.parent).load().base["competitor_offers"]) == ()


def test_the_example_does_what_its_comments_say() -> None:
    config = load(EXAMPLE)
    table = routing.compile(config, Sources(tenants=config.tenant_folders).load(), 1)
    tenants = Tenants.of(config)
    assert (tenants.tenant_of(KEY_ACME), tenants.tenant_of(KEY_ORBIT), tenants.tenant_of("other")) == ("acme", "orbit", None)
    taken = {
        (tenant, model): route.name
        for tenant in ("acme", "orbit")
        for model in ("gpt-4o", "small")
        if (route := table.match("/v1/chat/completions", model, tenant))
    }
    assert taken == {
        ("acme", "gpt-4o"): "acme-chat",
        ("acme", "small"): "everyone",
        ("orbit", "gpt-4o"): "orbit-trial",
        ("orbit", "small"): "orbit-trial",
    }


def test_the_example_and_the_defaults_are_valid_by_the_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    VALIDATOR.validate(yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")))
    VALIDATOR.validate(load(None).model_dump(mode="json"))
    VALIDATOR.validate({})


def _properties(schema: object) -> list[tuple[str, dict[str, object]]]:
    if isinstance(schema, dict):
        own = list(schema.get("properties", {}).items())
        return own + [item for value in schema.values() for item in _properties(value)]
    return [item for value in schema for item in _properties(value)] if isinstance(schema, list) else []


def test_every_key_of_the_schema_is_described() -> None:
    properties = _properties(json_schema())
    assert len(properties) > 40
    assert [name for name, schema in properties if not schema.get("description")] == []


@pytest.mark.parametrize(
    "text",
    [
        "rutes: []",
        "server: {port: 70000}",
        "server: {port: '80'}",
        "routes: [{}]",
        "routes: [{name: a, mode: loud}]",
        "routes: [{name: a, streaming: window}]",
        "routes: [{name: a, input: {policies: [{id: x, action: redakt}]}}]",
        "routes: [{name: a, input: {policies: some}}]",
        "tenants: {a: {api_keys: [plain]}}",
        "upstreams: {a: {kind: web}}",
        "upstreams: {a: {kind: openai, base_url: 'ftp://x'}}",
        "upstreams: {'a b': {kind: embedded}}",
        "policies: {folder: 1}",
        "routes: [{name: a, deadline_ms: 1}]",
        "routes: [{name: a, input: {policies: [{id: x, threshold: 2}]}}]",
        "classifiers: {a: {kind: custom}}",
    ],
)
def test_schema_and_load_refuse_the_same_files(text: str) -> None:
    assert not VALIDATOR.is_valid(yaml.safe_load(text))
    with pytest.raises(ConfigError):
        loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "routes: [{name: a}]",
        "routes: [{name: a, input: {policies: [x, {id: y}]}}]",
        "upstreams: {a: {kind: litellm, model_prefix: azure/eu/}}",
        "tenants: {a: {}}",
        "classifiers: {a: {kind: custom, factory: 'a.b:c', options: {x: [1]}}}",
    ],
)
def test_schema_and_load_take_the_same_files(text: str) -> None:
    VALIDATOR.validate(yaml.safe_load(text))
    loads(text)


def test_the_schema_is_plain_json() -> None:
    assert json.loads(json.dumps(json_schema())) == json_schema()
