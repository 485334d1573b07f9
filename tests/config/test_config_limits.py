"""The `limits` sections: a tenant's own over the server's, each wrong value at its line."""

import pytest
from config_cases import faults, found

from guardrail.config import loads
from guardrail.config.show import show

TWO = """
server:
  limits: {requests_per_s: 10, burst: 20, concurrency: 4, max_tokens: 500}
tenants:
  acme:
    limits: {requests_per_s: 50, characters_per_minute: 1000}
  orbit: {}
routes: [{name: all}]
"""


def test_a_tenants_own_limits_stand_over_the_servers_key_by_key() -> None:
    config = loads(TWO)
    acme, orbit = (config.limits_of(name) for name in ("acme", "orbit"))
    assert (acme.requests_per_s, acme.burst, acme.concurrency, acme.characters_per_minute) == (50, 20, 4, 1000)
    assert orbit == config.server.limits
    assert loads("").limits_of("default") == loads("").server.limits
    assert "characters_per_minute: 1000" in show(config)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("{rps: 1}", "4: C004 unknown key 'rps' in tenants.acme.limits: known: "),
        ("{burts: 1}", "4: C004 unknown key 'burts' in tenants.acme.limits: did you mean 'burst'?"),
        ("{requests_per_s: 0}", "4: C007 tenants.acme.limits.requests_per_s is 0, and must be more than 0"),
        ("{concurrency: 1.5}", "4: C006 tenants.acme.limits.concurrency is a number, where a whole number belongs"),
    ],
)
def test_a_wrong_limit_is_told_with_its_line_and_a_remedy(limits: str, message: str) -> None:
    (fault,) = faults(f"\ntenants:\n  acme:\n    limits: {limits}\n")
    assert fault.startswith(message)


@pytest.mark.parametrize(
    ("server", "own"),
    [
        ("{characters_per_minute: 5}", "{prompt_characters: 9}"),
        ("{}", "{burst: 3}"),
        ("{}", "{max_body_bytes: 900000000}"),
    ],
)
def test_limits_that_cannot_be_kept_together_are_an_error_where_they_stand(server: str, own: str) -> None:
    text = f"server: {{limits: {server}}}\ntenants:\n  acme:\n    limits: {own}\nroutes: [{{name: all}}]\n"
    assert "4 C013 error" in found(text)


def test_the_servers_limits_are_told_at_the_servers_line() -> None:
    assert found("server:\n  limits: {burst: 3}\n") == ["2 C013 error"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("breakers: {upstream: null}", "1: C004 unknown key 'upstream' in breakers: did you mean 'upstreams'?"),
        ("breakers:\n  upstreams: {failures: 0}", "2: C007 breakers.upstreams.failures is 0, and must be at least 1"),
        ("breakers:\n  classifiers: {windows_s: 1}", "2: C004 unknown key 'windows_s' in breakers.classifiers: did you mean 'window_s'?"),
        (
            "upstreams:\n  a: {kind: openai, base_url: 'http://h/v1', retry_budget: 2}",
            "2: C007 upstreams.a.retry_budget is 2, and must be at most 1",
        ),
    ],
)
def test_a_wrong_breaker_or_budget_is_told_with_its_line(text: str, message: str) -> None:
    assert faults(text) == [message]
