"""The meaning of a configuration: each refusal, with its line, and the remedy in its words."""

from collections.abc import Callable
from pathlib import Path

import pytest
from config_cases import SHIPPED, Policies, found

from guardrail.config import Code, Environment, check, loads, require
from guardrail.config.models import STREAMED_PATHS
from guardrail.errors import ConfigError
from guardrail.testing import policy
from guardrail.types import Stage
from guardrail.wire.dialects import DIALECTS

A, B = "sha256:" + "0a" * 32, "sha256:" + "0b" * 32
TWO_TENANTS = f"tenants:\n  acme: {{api_keys: ['{A}']}}\n  orbit: {{api_keys: ['{B}']}}\n"


def _message(text: str, code: str, policies: Policies | None = None) -> str:
    (message,) = [finding.message for finding in check(loads(text), policies or Policies()) if finding.code == code]
    return message


def test_the_defaults_are_clean() -> None:
    assert found("") == []


def test_unknown_names_are_refused_with_a_near_match() -> None:
    text = "upstreams: {main: {kind: embedded}}\nroutes:\n  - name: a\n    upstream: mian\n    classifier: embeded\n"
    text += "    path: /v1/chat/completion\n"
    assert found(text) == ["4 C020 error", "5 C021 error", "6 C025 error"]
    for code, near in (("C020", "main"), ("C021", "embedded"), ("C025", "/v1/chat/completions")):
        assert f"did you mean {near!r}?" in _message(text, code)


def test_an_unknown_tenant_is_refused_and_its_route_guards_nobody() -> None:
    text = TWO_TENANTS + "routes:\n  - name: a\n    tenant: acmee\n  - name: b\n    tenant: orbit\n"
    assert found(text) == ["2 C032 error", "6 C022 error"]
    assert "did you mean 'acme'?" in _message(text, "C022")


def test_where_no_tenant_is_configured_only_the_default_one_exists() -> None:
    assert found("routes: [{name: a, tenant: default}]") == []
    assert found("routes: [{name: a, tenant: acme}]") == ["1 C022 error", "1 C032 error"]


def test_a_policy_that_is_not_there_or_does_not_apply_is_refused() -> None:
    text = "routes:\n  - name: a\n    input: {policies: [harrassment]}\n    output:\n      policies:\n"
    text += "        - violence\n        - prompt_attack\n"
    assert found(text) == ["3 C023 error", "7 C024 error"]
    assert "did you mean 'harassment'?" in _message(text, "C023")
    assert "applies to input only" in _message(text, "C024")


def test_a_tenants_own_policy_is_known_to_that_tenant_alone() -> None:
    policies = Policies(acme={"offers": policy("offers")})
    route = "routes:\n  - {name: a, tenant: %s, input: {policies: [offers]}}\n  - {name: b}\n"
    assert found(TWO_TENANTS + route % "acme", policies) == []
    assert found(TWO_TENANTS + route % "'*'", policies) == ["5 C023 error", "6 C031 error"]
    assert "for tenant orbit" in _message(TWO_TENANTS + route % "'*'", "C023", policies)


def test_a_tenants_policy_of_the_same_id_decides_what_it_applies_to() -> None:
    policies = Policies(acme={"violence": policy("violence", applies_to=frozenset({Stage.OUTPUT}))})
    assert found(TWO_TENANTS + "routes: [{name: a, input: {policies: [violence]}}]", policies) == ["4 C024 error"]


def test_a_policy_named_twice_in_a_stage_is_refused() -> None:
    assert found("routes: [{name: a, input: {policies: [violence, {id: violence, threshold: 0.9}]}}]") == ["1 C034 error"]


def test_routes_of_one_name_are_refused() -> None:
    text = "routes:\n  - {name: a, model: x}\n  - {name: a, model: y}\n"
    assert found(text) == ["3 C030 error"]
    assert "(the first: line 2)" in _message(text, "C030")


def test_a_route_behind_one_that_takes_all_it_matches_is_refused() -> None:
    text = "routes:\n  - {name: a, model: 'gpt-*'}\n  - {name: b, model: 'gpt-4*'}\n  - {name: c, model: 'gpt*'}\n"
    assert found(text) == ["3 C031 error"]
    assert "'b' is never reached: 'a' (line 2)" in _message(text, "C031")


def test_a_route_for_another_path_hides_nothing() -> None:
    assert found("routes:\n  - {name: a, path: /v1/other}\n  - {name: b}\n") == ["2 C025 error"]


def test_routes_that_take_one_tenant_each_hide_a_route_for_all() -> None:
    text = TWO_TENANTS + "routes:\n  - {name: a, tenant: acme}\n  - {name: o, tenant: orbit}\n  - {name: all, model: x}\n"
    assert found(text) == ["7 C031 error"]
    assert "'a' (line 5) and 'o' (line 6)" in _message(text, "C031")
    assert found(TWO_TENANTS + "routes:\n  - {name: a, tenant: acme}\n  - {name: all}\n") == []


def test_a_tenant_that_no_route_is_for_is_refused() -> None:
    assert found(TWO_TENANTS + "routes: [{name: a, tenant: acme}]") == ["3 C032 error"]
    assert found("routes: []") == ["1 C032 error"]


def test_a_key_belongs_to_one_tenant() -> None:
    text = f"tenants:\n  acme: {{api_keys: ['{A}', '{A}']}}\n  orbit: {{api_keys: ['{A}']}}\n"
    assert found(text) == ["2 C033 warning", "3 C033 error"]
    assert A not in _message(text.replace(f", '{A}']", "]"), "C033")


def test_a_tenant_without_keys_is_a_warning() -> None:
    assert found("tenants: {acme: {}}") == ["1 C036 warning"]


def test_a_missing_key_variable_is_a_warning_until_it_is_set() -> None:
    text = "upstreams:\n  main:\n    kind: openai\n    base_url: https://api.example/v1\n    api_key_env: EXAMPLE_KEY\n"
    assert found(text) == ["5 C041 warning"]
    assert found(text, EXAMPLE_KEY=" ") == ["5 C041 warning"]
    assert found(text, EXAMPLE_KEY="k") == []


def test_letting_pass_what_was_not_judged_is_a_warning_where_something_is_enforced() -> None:
    assert found("routes:\n  - name: a\n    on_error: pass\n") == ["3 C037 warning"]
    assert found("routes: [{name: a, on_error: pass, mode: shadow}]") == []
    assert found("routes: [{name: a, on_error: pass, mode: shadow, output: {policies: [{id: violence, mode: enforce}]}}]") == [
        "1 C037 warning"
    ]


def test_a_route_that_checks_nothing_is_a_warning() -> None:
    nothing = "routes: [{name: a, input: {policies: []}, output: {policies: []}}]"
    assert found(nothing) == ["1 C035 warning"]
    assert found("routes: [{name: a, mode: shadow}]", Policies({})) == ["1 C035 warning"]
    assert found("routes: [{name: a, output: {policies: []}}]") == []


def test_a_route_that_would_enforce_all_of_no_policies_is_an_error() -> None:
    assert found("", Policies({})) == ["0 C035 error"]
    assert found("routes: [{name: a, input: {policies: []}}]", Policies({"prompt_attack": SHIPPED["prompt_attack"]})) == ["1 C035 error"]
    assert found(TWO_TENANTS, Policies({}, acme=SHIPPED)) == ["0 C035 error"]
    assert "for tenant orbit" in _message(TWO_TENANTS, "C035", Policies({}, acme=SHIPPED))


def test_an_empty_policy_folder_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("Our policies.")
    assert found(f"policies:\n  folder: {tmp_path}\n") == ["2 C047 warning"]


@pytest.mark.parametrize("prefix", ["''", "anthropic", "/", "/x/", "a//"])
def test_an_upstream_of_litellm_names_its_provider_so_that_no_client_chooses_it(prefix: str) -> None:
    with pytest.raises(ConfigError, match="must name the provider and end in /, like anthropic/"):
        loads(f"upstreams:\n  claude: {{kind: litellm, model_prefix: {prefix}}}\n")
    with pytest.raises(ConfigError, match="lacks 'model_prefix'"):
        loads("upstreams:\n  claude: {kind: litellm}\n")


def test_an_upstream_of_litellm_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "upstreams:\n  claude: {kind: litellm, model_prefix: anthropic/}\n"
    assert found(text) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert found(text) == ["2 C040 error"]
    assert "guardrail[litellm]" in _message(text, "C040")


def test_a_custom_classifier_needs_its_package_and_is_not_imported_to_find_out() -> None:
    text = "classifiers:\n  mine: {kind: custom, factory: '%s:make'}\n"
    assert found(text % "no_such_package_here.deep") == ["2 C040 error"]
    assert found(text % "antigravity") == []  # importing it opens a browser


def test_a_policy_folder_that_is_not_there_is_refused_before_policies_are_read(tmp_path: Path) -> None:
    config = loads(f"policies:\n  folder: none\ntenants:\n  acme: {{api_keys: ['{A}'], policies: nowhere}}\n", folder=tmp_path)
    findings = check(config, environment=Environment({}))
    assert [(finding.line, finding.code) for finding in findings] == [(2, "C042"), (4, "C042")]
    (tmp_path / "none").mkdir()
    (tmp_path / "nowhere").mkdir()
    assert [(finding.line, finding.code) for finding in check(config, environment=Environment({}))] == [(2, "C047"), (4, "C047")]
    for folder in ("none", "nowhere"):
        (tmp_path / folder / "one.md").touch()
    assert check(config, environment=Environment({})) == []


def test_judging_beside_the_upstream_is_fine() -> None:
    assert found("routes: [{name: a, timing: parallel, on_block: reply}]") == []


def test_require_raises_the_errors_and_returns_the_warnings() -> None:
    config = loads("routes: [{name: a, on_error: pass, upstream: nope}]")
    with pytest.raises(ConfigError) as caught:
        require(config, Policies())
    assert [finding.code for finding in caught.value.findings] == ["C020"]
    assert [finding.code for finding in require(loads("routes: [{name: a, on_error: pass}]"), Policies())] == ["C037"]


def test_no_two_codes_are_the_same() -> None:
    assert len({code.value for code in Code}) == len(Code.__members__)


@pytest.mark.parametrize("make", [Policies, lambda: Policies(SHIPPED, acme={})])
def test_findings_come_by_line(make: Callable[[], Policies]) -> None:
    text = TWO_TENANTS + "routes:\n  - {name: a, tenant: nope, upstream: nope}\n  - {name: a, input: {policies: [nope]}, path: /nope}\n"
    lines = [int(line.split()[0]) for line in found(text, make())]
    assert lines == sorted(lines)
    assert len(lines) >= 5


def test_an_escalation_must_name_another_classifier_that_exists() -> None:
    text = "classifiers: {embedded: {kind: embedded}, judge: {kind: embedded}}\nroutes:\n  - name: a\n    classifier: embedded\n"
    text += "    escalate: {classifier: %s, low: 0.3, high: 0.7}\n"
    assert found(text % "judge") == []
    assert found(text % "jugde") == ["5 C021 error"]
    assert found(text % "embedded") == ["5 C021 error"]
    assert "did you mean 'judge'?" in _message(text % "jugde", "C021")


def test_an_empty_escalation_band_is_refused() -> None:
    with pytest.raises(ConfigError, match="low must not be above high"):
        loads("routes: [{name: a, escalate: {classifier: embedded, low: 0.7, high: 0.3}}]")


@pytest.mark.parametrize("mode", ["window", "overlap", "watch"])
def test_a_streaming_mode_that_cannot_be_kept_on_a_path_is_refused(mode: str) -> None:
    text = f"routes: [{{name: a, path: /v1/embeddings, stream: {{mode: {mode}}}}}]\n"
    assert _message(text, "C013") == "route 'a': answers of /v1/embeddings are never streamed, so stream.mode cannot be kept; leave it out"
    for path in ("'*'", *STREAMED_PATHS):
        assert found(f"routes: [{{name: a, path: {path}, stream: {{mode: {mode}}}}}]\n") == []


@pytest.mark.parametrize(
    ("route", "why"),
    [
        ("input: {policies: [{id: harassment, action: redact}]}", "prompts are never rewritten; use block, or annotate"),
        (
            "stream: {mode: watch}, output: {policies: [{id: harassment, action: redact}]}",
            "what stream.mode watch lets out before it is judged",
        ),
        ("path: /v1/embeddings, output: {policies: [{id: harassment, action: redact}]}", "the answers of /v1/embeddings hold no text"),
    ],
)
def test_a_redaction_that_cannot_be_made_is_refused_where_it_is_written(route: str, why: str) -> None:
    text = f"routes:\n  - {{name: a, {route}}}\n"
    assert why in _message(text, "C013")
    assert "2 C013 error" in found(text)


@pytest.mark.parametrize("mode", ["hold", "window", "overlap"])
def test_an_answer_may_be_redacted_in_every_mode_that_judges_before_it_lets_out(mode: str) -> None:
    assert found(f"routes: [{{name: a, stream: {{mode: {mode}}}, output: {{policies: [{{id: harassment, action: redact}}]}}}}]") == []


def test_the_paths_that_may_be_streamed_are_those_whose_streams_can_be_let_out_while_they_are_judged() -> None:
    assert {path for path, dialect in DIALECTS.items() if dialect.release is not None} == set(STREAMED_PATHS)


def test_a_route_that_enforces_without_reading_disguises_is_warned_about() -> None:
    assert found("routes:\n  - name: a\n    normalize: off\n") == ["3 C038 warning"]
    assert "leave normalize out" in _message("routes: [{name: a, normalize: off}]", "C038")
    assert found("routes: [{name: a, normalize: off, mode: shadow}]") == []
    assert found("routes: [{name: a, normalize: {readings: 2, characters: 5000, depth: 3}}]") == []


@pytest.mark.parametrize("setting", ["on", "false", "{readings: 1}", "{depth: 0}", "{characters: 10}", "{more: 1}"])
def test_a_normalize_setting_that_means_nothing_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="normalize"):
        loads(f"routes: [{{name: a, normalize: {setting}}}]")


def test_what_is_done_about_earlier_turns_must_be_something_that_can_be_done() -> None:
    for key in ("scope: latest_turn", "history: drop", "history: redact"):
        for path in ("/v1/completions", "/v1/embeddings"):
            text = f"routes:\n  - name: a\n    path: {path}\n    {key}\n"
            assert [line for line in found(text) if "C013" in line] == ["4 C013 error"]
            assert f"requests to {path} have none" in _message(text, "C013")
    for path in ("'*'", "/v1/chat/completions", "/v1/messages", "/v1/responses"):
        assert found(f"routes: [{{name: a, path: {path}, history: drop}}]") == []
    assert found("routes:\n  - name: a\n    timing: parallel\n    history: drop\n") == ["4 C013 error"]
    assert found("routes:\n  - name: a\n    scope: latest_turn\n    history: redact\n") == ["3 C014 warning", "4 C013 error"]


def test_judging_the_latest_turn_alone_says_what_it_gives_up() -> None:
    text = "routes:\n  - name: a\n    scope: latest_turn\n"
    assert found(text) == ["3 C014 warning"]
    assert "a caller writes these itself" in _message(text, "C014")


def test_metrics_without_a_key_are_warned_of_because_a_reverse_proxy_may_pass_for_this_machine() -> None:
    section = "telemetry:\n  prometheus:\n    enabled: {enabled}\n"
    (warned,) = [each for each in check(loads(section.format(enabled="true"))) if each.code == "C045"]
    assert (warned.severity, warned.line) == ("warning", 3)
    assert "X-Forwarded-For" in warned.message
    assert "guardrail config hash-key" in warned.message
    for silent in (section.format(enabled="true") + f"    key: '{A}'\n", section.format(enabled="false")):
        assert "C045" not in [each.code for each in check(loads(silent))]
