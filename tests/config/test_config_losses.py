"""What a change of policies takes away from the routes: all of a stage is an error, one of several a warning."""

from config_cases import SHIPPED, Policies

from guardrail.config import loads
from guardrail.config.losses import loss_findings
from guardrail.types import Policy

TENANTS = f"tenants: {{acme: {{api_keys: ['sha256:{'0a' * 32}']}}, orbit: {{api_keys: ['sha256:{'0b' * 32}']}}}}\n"


def lost(text: str, before: Policies, after: Policies) -> list[tuple[str, str, str]]:
    return [(finding.code, finding.severity, finding.message) for finding in loss_findings(loads(text), before, after)]


def without(*ids: str) -> dict[str, Policy]:
    return {id_: policy for id_, policy in SHIPPED.items() if id_ not in ids}


def test_nothing_is_lost_by_what_stays_comes_or_is_named() -> None:
    assert lost("", Policies(), Policies()) == []
    assert lost("", Policies({}), Policies()) == []
    assert lost("", Policies(without("violence")), Policies()) == []
    assert lost("routes: [{name: a, input: {policies: []}, output: {policies: [violence]}}]", Policies(), Policies({})) == []


def test_a_stage_without_its_last_policy_is_an_error_that_names_route_stage_and_policies() -> None:
    ((code, severity, message),) = lost(
        "routes: [{name: a, mode: shadow}]", Policies(), Policies({"prompt_attack": SHIPPED["prompt_attack"]})
    )[:1]
    assert (code, severity) == ("C035", "error")
    assert "'a'" in message
    assert "no answers" in message
    assert "harassment, violence" in message


def test_one_of_several_is_a_warning_however_many_routes_took_it() -> None:
    text = "routes: [{name: a, path: /v1/messages}, {name: b, output: {policies: []}}]"
    ((code, severity, message),) = lost(text, Policies(), Policies(without("violence")))
    assert (code, severity) == ("C046", "warning")
    assert "'violence'" in message
    assert "prompts of route 'a', answers of route 'a', prompts of route 'b'" in message


def test_the_tenants_that_lose_something_are_named() -> None:
    before = Policies({}, acme=SHIPPED, orbit=SHIPPED)
    after = Policies({}, acme=SHIPPED)
    assert all("for tenant orbit" in message and severity == "error" for _, severity, message in lost(TENANTS, before, after))
    ((_, severity, message),) = lost(TENANTS, before, Policies({}, acme=SHIPPED, orbit=without("prompt_attack")))
    assert (severity, "for tenant orbit" in message) == ("warning", True)
