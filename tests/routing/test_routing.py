"""Which route an exchange takes: against a naive oracle, and what a path or a model name cannot do."""

import itertools
from collections.abc import Mapping
from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from guardrail import routing
from guardrail.config import Config, loads
from guardrail.config.models import GUARDED_PATHS
from guardrail.config.overlap import covering, covers
from guardrail.errors import ConfigError
from guardrail.testing import policy
from guardrail.types import Action, Escalation, Fallback, Mode, Policy, ReadingLimits, Stage, Streaming

PATH = "/v1/chat/completions"
GLOBS = st.text("ab*?[]!-", min_size=1, max_size=5)
TENANTS = ("acme", "orbit")
NAMES = ["".join(letters) for size in range(4) for letters in itertools.product("ab[-", repeat=size)]
ROUTES = st.lists(st.tuples(GLOBS, st.sampled_from(["*", *TENANTS])), max_size=5)


class Policies:
    """Policies for everyone, and for `acme` a stricter one of its own in place of one of them."""

    candidates: Mapping[str, Policy] = {"drafts/violence.md": policy("violence", version="1.1.0", body="on trial", threshold=0.3)}

    def for_tenant(self, tenant: str, /) -> Mapping[str, Policy]:
        shared = {"violence": policy("violence"), "prompt_attack": policy("prompt_attack", applies_to=frozenset({Stage.INPUT}))}
        own = {"violence": policy("violence", threshold=0.2, body="stricter"), "offers": policy("offers")}
        return {**shared, **own} if tenant == "acme" else shared


def _config(routes: list[tuple[str, str]]) -> Config:
    written = [{"name": f"r{index}", "model": model, "tenant": tenant} for index, (model, tenant) in enumerate(routes)]
    return Config.model_validate({"tenants": {name: {} for name in TENANTS}, "routes": written})


def _oracle(routes: list[tuple[str, str]], model: str, tenant: str) -> str | None:
    for index, (glob, for_tenant) in enumerate(routes):
        if for_tenant in ("*", tenant) and fnmatchcase(model, glob):
            return f"r{index}"
    return None


@given(ROUTES, st.sampled_from(NAMES), st.sampled_from(TENANTS))
def test_the_first_route_that_matches_wins_and_matching_is_repeatable(routes: list[tuple[str, str]], model: str, tenant: str) -> None:
    table = routing.compile(_config(routes), Policies(), 1)
    route = table.match(PATH, model, tenant)
    assert (route.name if route else None) == _oracle(routes, model, tenant)
    assert table.match(PATH, model, tenant) is route


@given(ROUTES, st.text(max_size=300), st.text(max_size=300), st.text(max_size=10))
def test_matching_any_text_gives_a_route_or_none(routes: list[tuple[str, str]], path: str, model: str, tenant: str) -> None:
    assert routing.compile(_config(routes), Policies(), 1).match(path, model, tenant) is None or (path == PATH and tenant in TENANTS)


@given(ROUTES)
def test_a_route_that_some_request_reaches_is_never_called_unreachable(routes: list[tuple[str, str]]) -> None:
    config = _config(routes)
    hidden = {f"r{index}" for index in range(len(routes)) if covering(config, index)}
    reached = {_oracle(routes, model, tenant) for model in NAMES for tenant in TENANTS}
    assert not hidden & reached


@given(GLOBS, GLOBS)
@example("[a-b]*", "[a-b]a")
@example("?*", "*?")
@example("[", "[")
@example("[]a]", "]")
@example("[!a]", "b")
@example("*[*]", "[*]")
@example("[?]", "?")
@example("a*?", "ba")
@settings(max_examples=300)
def test_a_glob_covers_another_only_if_it_matches_all_that_one_matches(wide: str, narrow: str) -> None:
    if covers(wide, narrow):
        assert all(fnmatchcase(name, wide) for name in NAMES if fnmatchcase(name, narrow))


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ("*", "gpt-4*"),
        ("gpt-*", "gpt-4*"),
        ("gpt-*", "gpt-4o"),
        ("*4*", "gpt-4o"),
        ("??*", "*??"),
        ("[gh]pt", "gpt"),
        ("g[ab]*", "g[ab]x*"),
        ("**", "*"),
        ("a*", "a*"),
        ("*-mini", "gpt-*-mini"),
    ],
)
def test_plain_coverings_are_found(wide: str, narrow: str) -> None:
    assert covers(wide, narrow)


@pytest.mark.parametrize(
    ("wide", "narrow"), [("gpt-4*", "gpt-*"), ("gpt-4", "gpt-?"), ("?", "*"), ("a*", "A*"), ("[ab]", "[ac]"), ("a", "aa")]
)
def test_what_is_not_covered_is_not_claimed(wide: str, narrow: str) -> None:
    assert not covers(wide, narrow)


@pytest.mark.parametrize(
    "path",
    [
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/chat/completions/",
        "/v1/./chat/completions",
        "/v1/x/../chat/completions",
        "/V1/chat/completions",
        "/v1/chat/Completions",
        "/v1/chat%2Fcompletions",
        "/v1/chat%2fcompletions",
        "/v1/chat/completions?x=1",
        "/v1/chat/completions#x",
        "/v1/chat/completions;x",
        "/v1/chat/completions\n",
        " /v1/chat/completions",
        "/v1/chat/completions\x00",
        "v1/chat/completions",
        "/v1\\chat/completions",
        "",
        "/",
        "*",
    ],
)
def test_another_spelling_of_the_path_has_no_route(path: str) -> None:
    table = routing.compile(loads(""), Policies(), 1)
    assert table.match(PATH, "gpt-4o", "default") is not None
    assert table.match(path, "gpt-4o", "default") is None


def test_the_model_is_compared_exactly_case_and_line_ends_included() -> None:
    table = routing.compile(loads("routes: [{name: a, model: 'gpt-4*'}, {name: b, model: exact}]"), Policies(), 1)
    names = {
        model: getattr(table.match(PATH, model, "default"), "name", None)
        for model in ("gpt-4", "gpt-4\nx", "GPT-4", " gpt-4", "exact", "exact\n", "")
    }
    assert names == {"gpt-4": "a", "gpt-4\nx": "a", "GPT-4": None, " gpt-4": None, "exact": "b", "exact\n": None, "": None}


def test_an_overlong_model_has_no_route() -> None:
    table = routing.compile(loads(""), Policies(), 1)
    assert table.match(PATH, "m" * routing.MAX_MODEL_CHARS, "default") is not None
    assert table.match(PATH, "m" * (routing.MAX_MODEL_CHARS + 1), "default") is None


def test_a_glob_of_many_stars_is_matched_at_once() -> None:
    table = routing.compile(loads(f"routes: [{{name: a, model: '{'*a' * 63}b'}}]"), Policies(), 1)
    assert table.match(PATH, "a" * 256, "default") is None


def test_no_tenant_gets_a_route_by_calling_itself_something_else() -> None:
    table = routing.compile(_config([("*", "acme")]), Policies(), 1)
    assert table.match(PATH, "x", "acme") is not None
    assert [table.match(PATH, "x", tenant) for tenant in ("orbit", "*", "ACME", "default", "")] == [None] * 5


def test_a_route_for_all_judges_each_tenant_by_its_own_policies() -> None:
    table = routing.compile(_config([("*", "*")]), Policies(), 1)
    acme, orbit = table.match(PATH, "x", "acme"), table.match(PATH, "x", "orbit")
    assert acme is not None
    assert orbit is not None
    assert [(check.policy.id, check.threshold) for check in acme.output] == [("offers", 0.5), ("violence", 0.2)]
    assert [(check.policy.id, check.threshold) for check in orbit.output] == [("violence", 0.5)]
    assert [check.policy.id for check in orbit.input] == ["prompt_attack", "violence"]


def test_a_route_carries_every_setting_of_the_file() -> None:
    config = loads("""
upstreams: {main: {kind: embedded}, other: {kind: embedded}}
classifiers: {one: {kind: embedded}, two: {kind: embedded}}
routes:
  - {name: a, model: "m*", upstream: other, classifier: two, mode: shadow, on_error: pass,
     unscannable: pass, deadline_ms: 250, timing: parallel, on_block: reply,
     input: {policies: [{id: violence, threshold: 0.9, action: annotate, mode: enforce}, prompt_attack]}, output: {policies: []}}
""")
    route = routing.compile(config, Policies(), 7).match(PATH, "m1", "default")
    assert route is not None
    assert (route.name, route.path, route.model, route.tenant, route.upstream, route.classifier) == ("a", PATH, "m*", "*", "other", "two")
    assert [(c.policy.id, c.threshold, c.action, c.mode) for c in route.input] == [
        ("violence", 0.9, Action.ANNOTATE, Mode.ENFORCE),
        ("prompt_attack", 0.5, Action.BLOCK, Mode.SHADOW),
    ]
    assert route.output == ()
    assert (route.on_error, route.unscannable, route.deadline_s) == (Fallback.PASS, Fallback.PASS, 0.25)
    assert (route.timing, route.on_block, route.generation) == ("parallel", "reply", 7)
    assert route.streaming == Streaming()


def test_a_policy_that_has_gone_refuses_the_new_table() -> None:
    config = loads("routes: [{name: a, input: {policies: [gone]}, output: {policies: [prompt_attack]}}]")
    with pytest.raises(ConfigError) as caught:
        routing.compile(config, Policies(), 2)
    assert [finding.code for finding in caught.value.findings] == ["C023", "C024"]


def test_the_table_says_what_each_classifier_must_prepare() -> None:
    config = _config([("*", "*")])
    table = routing.compile(config, Policies(), 3)
    prepared = [(item.id, item.threshold) for item in table.policies_of("embedded")]
    assert sorted(prepared) == [("offers", 0.5), ("prompt_attack", 0.5), ("violence", 0.2), ("violence", 0.5)]
    assert table.policies_of("other") == ()
    assert (table.generation, table.tenants) == (3, TENANTS)
    assert [(route.name, route.path) for route in table.for_tenant("acme")] == [("r0", path) for path in GUARDED_PATHS]


def test_a_route_for_every_path_is_one_for_each_guarded_path_and_for_no_other() -> None:
    routes = [{"name": "texts", "path": "/v1/completions"}, {"name": "rest"}]
    table = routing.compile(Config.model_validate({"routes": routes}), Policies(), 1)
    found = {path: table.match(path, "m", "default") for path in (*GUARDED_PATHS, "/v1/other", "*")}
    assert {path: (route.name, route.path) for path, route in found.items() if route} == {
        path: ("texts" if path == "/v1/completions" else "rest", path) for path in GUARDED_PATHS
    }


def test_an_escalation_is_pinned_to_the_route_and_its_classifier_prepares_the_policies() -> None:
    text = "classifiers: {embedded: {kind: embedded}, judge: {kind: embedded}}\n"
    text += "routes: [{name: a, classifier: embedded, escalate: {classifier: judge, low: 0.3, high: 0.7}}]"
    table = routing.compile(loads(text), Policies(), 1)
    route = table.match(PATH, "m", "default")
    assert route is not None
    assert route.escalation == Escalation("judge", 0.3, 0.7)
    assert table.policies_of("judge") == table.policies_of("embedded") != ()


def test_a_routes_readings_are_bounded_as_configured_or_off() -> None:
    def normalize(setting: str) -> object:
        table = routing.compile(loads(f"routes: [{{name: a{setting}}}]"), Policies(), 1)
        return table.for_tenant("default")[0].normalize

    assert normalize("") == ReadingLimits()
    assert normalize(", normalize: {readings: 2}") == ReadingLimits(readings=2)
    assert normalize(", normalize: off") is None


def _tried(**use: object) -> Config:
    return Config.model_validate(
        {"routes": [{"name": "r", "input": {"policies": [{"id": "violence", **use}]}, "output": {"policies": []}}]}
    )


def test_each_stage_has_its_own_threshold_and_a_routes_stands_over_both() -> None:
    class Apart(Policies):
        candidates: Mapping[str, Policy] = {"drafts/violence.md": policy("violence", body="on trial", threshold=0.3, output_threshold=0.2)}

        def for_tenant(self, name: str) -> Mapping[str, Policy]:
            del name
            return {"violence": policy("violence", threshold=0.8, output_threshold=0.4)}

    def thresholds(use: str) -> list[list[float]]:
        stage = f"{{policies: {use}}}"
        route = routing.compile(loads(f"routes: [{{name: r, input: {stage}, output: {stage}}}]"), Apart(), 1).for_tenant("default")[0]
        return [[check.threshold for check in route.checks(each)] for each in Stage]

    assert thresholds("all") == [[0.8], [0.4]]
    assert thresholds("[{id: violence, candidate: drafts/violence.md}]") == [[0.8, 0.3], [0.4, 0.2]]
    assert thresholds("[{id: violence, candidate: drafts/violence.md, threshold: 0.6}]") == [[0.6, 0.6], [0.6, 0.6]]


def test_a_version_on_trial_is_judged_beside_the_policy_and_only_records() -> None:
    table = routing.compile(_tried(candidate="drafts/violence.md", action="annotate"), Policies(), 1)
    (route,) = [each for each in table.for_tenant("default") if each.path == PATH]
    enforced, tried = route.input
    assert (enforced.policy.version, enforced.mode, enforced.threshold) == ("1.0.0", Mode.ENFORCE, 0.5)
    assert (tried.policy.version, tried.mode, tried.threshold, tried.action) == ("1.1.0", Mode.SHADOW, 0.3, Action.ANNOTATE)
    assert {each.version for each in table.policies_of("embedded")} == {"1.0.0", "1.1.0"}


def test_a_version_on_trial_has_the_threshold_it_would_have_in_the_policys_place_and_may_be_named_by_id() -> None:
    table = routing.compile(_tried(candidate="prompt_attack", threshold=0.8), Policies(), 1)
    assert [(check.policy.id, check.threshold, check.mode) for check in table.for_tenant("default")[0].input] == [
        ("violence", 0.8, Mode.ENFORCE),
        ("prompt_attack", 0.8, Mode.SHADOW),
    ]


@pytest.mark.parametrize("candidate", ["nothing", "drafts/other.md"])
def test_a_version_on_trial_that_is_not_there_is_refused(candidate: str) -> None:
    with pytest.raises(ConfigError, match="C026"):
        routing.compile(_tried(candidate=candidate), Policies(), 1)
