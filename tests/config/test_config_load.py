"""Files in, a `Config` or every fault out."""

from pathlib import Path

import pytest
from config_cases import faults
from pydantic import ValidationError

from guardrail.config import Config, EmbeddedClassifier, EmbeddedUpstream, OpenAIUpstream, load, loads
from guardrail.errors import ConfigError

HASH = "sha256:" + "0a" * 32


def test_no_file_guards_everything_with_all_policies_and_the_embedded_models() -> None:
    config = load(None)
    (route,) = config.routes
    assert (route.name, route.path, route.model, route.tenant) == ("default", "*", "*", "*")
    assert (route.input.policies, route.output.policies, route.mode, route.on_error) == ("all", "all", "enforce", "block")
    assert isinstance(config.upstreams[route.upstream], EmbeddedUpstream)
    assert isinstance(config.classifiers[route.classifier], EmbeddedClassifier)
    assert config.tenant_names == ("default",)
    assert (config.server.host, config.server.port, config.policies.shipped, config.policy_folder) == ("127.0.0.1", 8080, True, None)


@pytest.mark.parametrize("text", ["", "\n# nothing yet\n", "{}", "---\n"])
def test_an_empty_file_is_the_defaults(text: str) -> None:
    assert loads(text).model_dump() == load(None).model_dump()


def test_a_route_may_leave_out_the_only_upstream_and_classifier() -> None:
    config = loads("upstreams: {main: {kind: openai, base_url: 'https://api.example/v1/'}}\nroutes: [{name: a}]\n")
    assert (config.routes[0].upstream, config.routes[0].classifier) == ("main", "embedded")
    upstream = config.upstreams["main"]
    assert isinstance(upstream, OpenAIUpstream)
    assert upstream.base_url == "https://api.example/v1"


def test_without_routes_the_only_upstream_is_guarded() -> None:
    assert loads("upstreams: {main: {kind: embedded}}").routes[0].upstream == "main"


def test_a_route_must_choose_among_several_upstreams() -> None:
    assert faults("upstreams: {a: {kind: embedded}, b: {kind: embedded}}\nroutes:\n  - name: x\n") == [
        "3: C005 routes[0] lacks 'upstream': Upstream that answers; may be left out where there is only one."
    ]


def test_a_bare_policy_id_and_one_with_settings_mean_a_policy_use() -> None:
    config = loads(
        "routes: [{name: a, input: {policies: [x, {id: y, threshold: 1, action: annotate, mode: shadow}]}, output: {policies: []}}]"
    )
    policies = config.routes[0].input.policies
    assert not isinstance(policies, str)
    assert [(use.id, use.threshold, use.action, use.mode) for use in policies] == [
        ("x", None, "block", None),
        ("y", 1.0, "annotate", "shadow"),
    ]
    assert config.routes[0].output.policies == ()


def test_nothing_in_a_config_can_be_changed() -> None:
    config = load(None)
    with pytest.raises(ValidationError):
        config.server.port = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.upstreams["x"] = EmbeddedUpstream()  # type: ignore[index]
    with pytest.raises(TypeError):
        loads("upstreams: {main: {kind: embedded}}").upstreams["x"] = EmbeddedUpstream()  # type: ignore[index]


def test_folders_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "guardrail.yaml"
    file.write_text(
        "policies: {folder: ./mine}\ntenants: {acme: {policies: ./acme}, other: {policies: /abs}, none: {}}\n", encoding="utf-8"
    )
    config = load(file)
    assert config.policy_folder == tmp_path / "mine"
    assert config.tenant_folders == {"acme": tmp_path / "acme", "other": Path("/abs")}


def test_a_file_with_several_faults_reports_all_of_them_by_line() -> None:
    text = f"""
server: {{prot: 80, port: "8080", max_in_flight: 0}}
upstreams:
  main: {{kind: opnai}}
  main: {{kind: embedded}}
  web: {{kind: openai, base_url: ftp://x, api_key_evn: K}}
  bare: {{}}
  b c: {{kind: embedded}}
classifiers: [embedded]
tenants:
  acme: {{api_keys: [{HASH}, "sha256:12"]}}
routes:
  - name: one
    mode: enforc
    deadline_ms: 1
    streaming: window
    input: {{policies: al}}
    output:
      policies:
        - {{id: x, threshold: 1.5}}
        - {{id: x, action: redakt}}
        - {{idd: x}}
  - one
rutes: []
"""
    assert faults(text) == [
        "2: C004 unknown key 'prot' in server: did you mean 'port'?",
        "2: C006 server.port is text, where a whole number belongs; write it without quotes, and without a unit",
        "2: C007 server.max_in_flight is 0, and must be at least 1",
        "4: C006 upstreams.main.kind is 'opnai'; allowed: openai, embedded, litellm; did you mean 'openai'?",
        "5: C003 'main' stands twice; the first is on line 4: remove one of them",
        "6: C004 unknown key 'api_key_evn' in upstreams.web: did you mean 'api_key_env'?",
        "6: C012 upstreams.web.base_url must start with http:// or https:// and name a host, like https://api.openai.com/v1",
        "7: C005 upstreams.bare lacks 'kind': one of openai, embedded, litellm",
        "8: C008 upstreams.b c is not a name: letters, digits and . _ - only, the first a letter or digit, at most 64",
        "9: C006 classifiers is a list, where a mapping belongs",
        "11: C011 tenants.acme.api_keys[1] is not sha256: and 64 lower-case hexadecimal digits; make it with `guardrail config hash-key`",
        "13: C005 routes[0] lacks 'upstream': Upstream that answers; may be left out where there is only one.",
        "13: C005 routes[0] lacks 'classifier': Classifier that judges; may be left out where there is only one.",
        "14: C006 routes[0].mode is 'enforc'; allowed: enforce, shadow; did you mean 'enforce'?",
        "15: C007 routes[0].deadline_ms is 1, and must be at least 10",
        "16: C004 unknown key 'streaming' in routes[0]: did you mean 'stream'?",
        "17: C006 routes[0].input.policies is 'al'; allowed: all, or a list of policy ids",
        "20: C007 routes[0].output.policies[0].threshold is 1.5, and must be at most 1",
        "21: C006 routes[0].output.policies[1].action is 'redakt'; allowed: block, redact, annotate, pass; did you mean 'redact'?",
        "22: C004 unknown key 'idd' in routes[0].output.policies[2]: did you mean 'id'?",
        "22: C005 routes[0].output.policies[2] lacks 'id': Id of the policy.",
        "23: C006 routes[1] is text, where a mapping belongs",
        "24: C004 unknown key 'rutes' in the file: did you mean 'routes'?",
    ]


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("- a\n", "1: C006 a configuration is a mapping of sections, such as `routes:`"),
        ("server:\n", "1: C006 server is empty, where a mapping belongs; fill it in, or remove it for the default"),
        ("server: {host: 5}\n", "1: C006 server.host is a number, where text belongs; put it in quotes"),
        ("server: {client_timeout_s: 1e400}\n", "1: C006 server.client_timeout_s: Input should be a finite number"),
        ("policies: {shipped: yes}\n", "1: C006 policies.shipped is text, where true or false belongs"),
        (
            "classifiers: {a: {kind: custom, factory: os.system}}\n",
            "1: C008 classifiers.a.factory is not an import string like mypackage.module:make",
        ),
        (
            "tenants: {'*': {}}\n",
            "1: C008 tenants.* is not a name: letters, digits and . _ - only, the first a letter or digit, at most 64",
        ),
        ("routes: {a: b}\n", "1: C006 routes is a mapping, where a list belongs"),
        ("routes: [{name: a, model: ''}]\n", "1: C007 routes[0].model must have at least 1 characters"),
        ("routes: [{name: a, stream: {mode: none}}]\n", "1: C006 routes[0].stream.mode is 'none'; allowed: hold, window, overlap, watch"),
        ("routes: [{name: a, stream: {window: 9}}]\n", "1: C007 routes[0].stream.window is 9, and must be at least 20"),
        ("routes: [{name: a, stream: {size: 9}}]\n", "1: C004 unknown key 'size' in routes[0].stream"),
        (
            "routes: [{name: a, stream: {mode: window, window: 50, overlap: 50}}]\n",
            "1: C006 routes[0].stream: overlap 50 is not smaller than window 50",
        ),
        ("telemetry: {semconv: v428}\n", "1: C006 telemetry.semconv is 'v428'; allowed: v427, guardian, none; did you mean 'v427'?"),
    ],
)
def test_each_fault_names_the_value_what_is_allowed_and_the_remedy(text: str, finding: str) -> None:
    (fault,) = faults(text)
    assert fault.startswith(finding)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("tenants: {a: {api_keys: [canary-secret-value]}}", "canary-secret"),
        ("tenants: {a: {api_keys: canary-secret-value}}", "canary-secret"),
        ("tenants: {a: {api_keys: ['sha256:canary-secret-value']}}", "canary-secret"),
        ("tenants: {a: {api_keys: [8642864286428642]}}", "8642"),
        ("upstreams: {a: {kind: openai, base_url: 'https://x', api_key_env: canary-secret-value}}", "canary-secret"),
        ("upstreams: {a: {kind: openai, base_url: 'https://x', api_key: canary-secret-value}}", "canary-secret"),
        ("upstreams: {a: {kind: openai, base_url: 'https://user:canary-secret@host/v1'}}", "canary-secret"),
        ("upstreams: {a: {kind: openai, base_url: 'https://host/v1?key=canary-secret'}}", "canary-secret"),
        ("upstreams: {a: {kind: openai, base_url: 'https://host:canary-secret/v1'}}", "canary-secret"),
        ("upstreams: {a: canary-secret-value}", "canary-secret"),
    ],
)
def test_a_fault_never_repeats_what_may_be_a_key(text: str, secret: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert caught.value.findings
    assert secret not in str(caught.value)


def test_a_plaintext_key_is_told_from_a_malformed_hash() -> None:
    codes = [fault.split()[1] for fault in faults("tenants:\n  a: {api_keys: [plain-key]}\n  b: {api_keys: ['SHA256:AB']}\n")]
    assert codes == ["C010", "C011"]


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    latin, large = tmp_path / "latin.yaml", tmp_path / "large.yaml"
    latin.write_bytes(b"server: {host: \xe9}")
    large.write_bytes(b"#" * 1_048_577)
    for path in (tmp_path / "none.yaml", tmp_path, latin, large):
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert [(finding.path, finding.line, finding.code) for finding in caught.value.findings] == [(str(path), 0, "C001")]


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "bom.yaml"
    file.write_bytes(b"\xef\xbb\xbfserver: {port: 1}")
    assert load(file).server.port == 1


def test_a_config_can_be_made_in_code_with_plain_values() -> None:
    config = Config.model_validate({"routes": [{"name": "a", "model": "gpt-*"}]})
    assert config.routes[0].upstream == "embedded"
    assert config.source.path == "<defaults>"
