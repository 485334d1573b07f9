"""The running guard: tenants, health, canaries, policies that change while it runs, and its use as a library."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from asgi_cases import BAD, CHAT, HI, POLICIES, Answering, completion, config, proxied

from guardrail.asgi.canaries import Canaries, canary_of
from guardrail.asgi.service import Backends, GuardService
from guardrail.assembly import open_guard, shipped_canary
from guardrail.canary import Canary
from guardrail.config.models import Config
from guardrail.config.tenants import hash_key
from guardrail.context import Answered
from guardrail.errors import ConfigError, GuardrailError, PolicyError
from guardrail.events import CanaryChecked, EventFanout, PoliciesPublished, PoliciesRefused
from guardrail.testing import RecordingSink, ScriptedClassifier, contains, policy
from guardrail.types import Action, Stage
from guardrail.upstream.in_process import InProcessUpstream


async def until(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not become true within 10 s")


@pytest.mark.parametrize("header", [{"authorization": "Bearer acme-key"}, {"x-api-key": "acme-key"}, {"Authorization": "bearer acme-key"}])
async def test_a_tenants_key_is_accepted_where_clients_put_it_and_never_sent_on(header: dict[str, str]) -> None:
    upstream = Answering([completion("x")])
    async with proxied(config(tenants={"acme": {"api_keys": [hash_key("acme-key")]}}), upstream=upstream) as proxy:
        response = await proxy.client.post(CHAT, json={"model": "m", "messages": HI}, headers=header)
        assert response.status_code == 200
        assert "acme-key" not in str(upstream.seen)


async def test_two_keys_that_disagree_are_refused() -> None:
    async with proxied(config(tenants={"acme": {"api_keys": [hash_key("acme-key")]}})) as proxy:
        headers = {"authorization": "Bearer acme-key", "x-api-key": "other"}
        assert (await proxy.client.post(CHAT, json={"model": "m", "messages": HI}, headers=headers)).status_code == 401
        assert (await proxy.client.get("/v1/models")).status_code == 401


async def test_a_route_of_one_tenant_does_not_serve_another() -> None:
    tenants = {name: {"api_keys": [hash_key(f"{name}-key")]} for name in ("acme", "other")}
    section = {"policies": ["harassment"]}
    routes = [
        {"name": "acme", "tenant": "acme", "input": section, "output": section},
        {"name": "other", "tenant": "other", "model": "embedded-chat", "input": {"policies": []}, "output": {"policies": []}},
    ]
    async with proxied(Config.model_validate({"routes": routes, "tenants": tenants, "policies": POLICIES})) as proxy:

        async def asked(key: str, model: str) -> int:
            headers = {"authorization": f"Bearer {key}"}
            body = {"model": model, "messages": [{"role": "user", "content": BAD}]}
            return (await proxy.client.post(CHAT, json=body, headers=headers)).status_code

        assert await asked("acme-key", "embedded-chat") == 400
        assert await asked("other-key", "embedded-chat") == 200
        assert await asked("other-key", "embedded-echo") == 404


async def test_without_tenants_the_clients_own_key_is_passed_on() -> None:
    upstream = Answering([completion("x")])
    async with proxied(upstream=upstream) as proxy:
        await proxy.client.post(CHAT, json={"model": "m", "messages": HI}, headers={"authorization": "Bearer sk-mine"})
        assert upstream.seen[0]["authorization"] == "Bearer sk-mine"


async def test_an_upstream_that_takes_long_to_load_is_loaded_before_the_first_request() -> None:
    class Loading(InProcessUpstream):
        loaded = 0

        async def load(self) -> None:
            self.loaded += 1

    upstream = Loading(Answering([completion("x")]))
    async with proxied(upstream=upstream) as proxy:
        assert upstream.loaded == 1
        assert (await proxy.ask()).status_code == 200


async def test_health_and_readiness() -> None:
    async with proxied() as proxy:
        assert (await proxy.client.get("/healthz")).text == "ok"
        ready = (await proxy.client.get("/readyz")).json()
        assert (ready["ready"], ready["generation"], ready["policies"]) == (True, 1, 1)


def pair(threshold: float = 0.5) -> Canary:
    return Canary(policy(), "an attack", "a walk", threshold)


async def canaried(classifier: ScriptedClassifier, sink: RecordingSink) -> Canaries:
    canaries = Canaries({"scripted": classifier}, {"scripted": pair()}, EventFanout([sink]), interval_s=0.02)
    await canaries.ask()
    return canaries


async def test_a_canary_that_goes_wrong_fails_readiness_until_it_is_right_again() -> None:
    classifier, sink = ScriptedClassifier({"*": contains("attack")}), RecordingSink()
    canaries = await canaried(classifier, sink)
    assert canaries.ok
    asking = asyncio.create_task(canaries.keep_asking())
    classifier.fault = RuntimeError("gone")
    await until(lambda: not canaries.ok)
    classifier.fault = None
    await until(lambda: canaries.ok)
    asking.cancel()
    assert [event.ok for event in sink.of(CanaryChecked)][:2] == [True, False]


async def test_a_classifier_that_fails_is_asked_again_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guardrail.asgi.canaries.RETRY_S", 0.01)
    classifier = ScriptedClassifier({"*": contains("attack")}, fault=RuntimeError("gone"))
    canaries = Canaries({"scripted": classifier}, {"scripted": pair()}, EventFanout(), interval_s=1000)
    await canaries.ask()
    assert not canaries.ok
    classifier.fault = None
    asking = asyncio.create_task(canaries.keep_asking())
    await until(lambda: canaries.ok)
    asking.cancel()


async def test_a_classifier_may_bring_its_own_pair_or_none() -> None:
    class Narrow(ScriptedClassifier):
        canary: Canary | None = pair()

    narrow = Narrow({"*": contains("attack")})
    assert canary_of(narrow, shipped_canary()) == pair()
    Narrow.canary = None
    assert canary_of(narrow, shipped_canary()) is None
    assert canary_of(ScriptedClassifier(), pair()) == pair()
    canaries = Canaries({"narrow": narrow}, {"narrow": None}, EventFanout())
    await canaries.ask()
    assert canaries.ok
    assert narrow.requests == []


async def test_readiness_ends_at_once_when_a_classifier_says_that_it_cannot_serve() -> None:
    class Honest(ScriptedClassifier):
        said: str | None = None

        def outage(self) -> str | None:
            return self.said

    classifier = Honest()
    canaries = Canaries({"engine": classifier}, {"engine": None}, EventFanout())
    before = canaries.ok
    classifier.said = "the engine died"
    assert (before, canaries.ok, canaries.last["engine"].detail) == (True, False, "the engine died")
    classifier.said = None
    assert canaries.ok


async def test_readyz_is_503_while_a_classifier_says_the_same_to_everything() -> None:
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    from guardrail.asgi.health import health_routes, readiness

    constant = ScriptedClassifier({"*": 0.499})

    class Opened:
        async def __aenter__(self) -> ScriptedClassifier:
            return constant

        async def __aexit__(self, *_: object) -> None:
            await constant.aclose()

    service = GuardService(config(), Backends({"embedded": Opened}, shipped_canary()))
    client = TestClient(Starlette(routes=health_routes(service)))
    assert client.get("/readyz").json() == {"ready": False, "reason": "not running"}
    async with service:
        document, status = readiness(service)
        assert (status, document["ready"]) == (503, False)
        assert "violating text scored 0.499" in str(document["classifiers"])
    assert client.get("/readyz").status_code == 503
    assert constant.closed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(Path(POLICIES["folder"]) / "harassment.md", tmp_path)
    return tmp_path


async def test_a_changed_policy_comes_into_force_and_a_bad_one_keeps_the_last_good_set(folder: Path) -> None:
    file = folder / "harassment.md"
    good = file.read_text()
    settings = config(policies={"folder": str(folder), "shipped": False})
    async with proxied(settings) as proxy:
        ready: Callable[[], Awaitable[Any]] = lambda: proxy.client.get("/readyz")  # noqa: E731

        file.write_text(good.replace("version: 1.", "version: 9.", 1).replace("threshold: 0.5", "threshold: 0.99", 1))
        await until(lambda: len(proxy.sink.of(PoliciesPublished)) == 2)
        assert (await proxy.ask(BAD)).status_code == 200  # 0.97 does not reach the new threshold
        assert (await ready()).json()["generation"] == 2

        file.write_text("no front matter")
        await until(lambda: bool(proxy.sink.of(PoliciesRefused)))
        refused = proxy.sink.of(PoliciesRefused)[0]
        assert (refused.generation, refused.findings[0].code) == (2, "P003")
        assert (await ready()).json()["refused"] is True
        second = (await proxy.ask()).headers["x-guardrail-policy-version"]
        assert second == (await ready()).json()["policy_set"]

        file.write_text(good)
        await until(lambda: len(proxy.sink.of(PoliciesPublished)) == 3)
        assert (await ready()).json()["refused"] is False
        assert (await proxy.ask(BAD)).status_code == 400


async def test_a_policy_that_the_classifier_cannot_serve_is_not_published(folder: Path) -> None:
    from guardrail.errors import ClassifierError

    class Picky(ScriptedClassifier):
        async def prepare(self, policies: Any) -> None:
            if any("picky" in policy.body for policy in policies):
                raise ClassifierError("too_long", "no room")
            await super().prepare(policies)

    settings = config(policies={"folder": str(folder), "shipped": False})
    async with proxied(settings, classifier=Picky({"*": contains("forbidden")})) as proxy:
        file = folder / "harassment.md"
        file.write_text(file.read_text().replace("## Overview", "## Overview\n\npicky", 1))
        await until(lambda: bool(proxy.sink.of(PoliciesRefused)))
        assert proxy.sink.of(PoliciesRefused)[0].findings[0].code == "too_long"
        assert (await proxy.ask(BAD)).status_code == 400


async def test_an_unexpected_fault_while_reloading_is_told_and_tried_again_though_no_file_changes(folder: Path) -> None:
    class Flaky(ScriptedClassifier):
        broken = False

        async def prepare(self, policies: Any) -> None:
            if self.broken:
                raise ConnectionError("key-123")
            await super().prepare(policies)

    classifier = Flaky({"*": contains("forbidden")})
    async with proxied(config(policies={"folder": str(folder), "shipped": False}), classifier=classifier) as proxy:
        classifier.broken = True
        file = folder / "harassment.md"
        file.write_text(file.read_text().replace("threshold: 0.5", "threshold: 0.99", 1))
        await until(lambda: bool(proxy.sink.of(PoliciesRefused)))
        finding = proxy.sink.of(PoliciesRefused)[0].findings[0]
        assert (finding.path, "ConnectionError" in finding.message, "key-123" in finding.message) == ("<classifier embedded>", True, False)
        assert (await proxy.client.get("/readyz")).json()["refused"] is True
        assert (await proxy.ask(BAD)).status_code == 400
        classifier.broken = False
        await until(lambda: len(proxy.sink.of(PoliciesPublished)) == 2)
        assert (await proxy.client.get("/readyz")).json()["refused"] is False
        assert len(proxy.sink.of(PoliciesRefused)) == 1  # the same fault again is not told again


@pytest.mark.parametrize("job", ["guardrail.asgi.publication.watch", "guardrail.asgi.canaries.Canaries.keep_asking"])
async def test_readyz_fails_when_what_keeps_the_guard_fresh_has_ended(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ends(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(job, ends)
    async with proxied() as proxy:
        await asyncio.sleep(0)
        response = await proxy.client.get("/readyz")
        assert (response.status_code, response.json()["ready"]) == (503, False)
        assert response.json()["ended"] == ["policies" if "publication" in job else "canaries"]


async def test_an_exchange_keeps_the_policies_it_began_with(folder: Path) -> None:
    classifier = ScriptedClassifier({"*": contains("forbidden")}, delay_s=0.3)
    async with proxied(config(policies={"folder": str(folder), "shipped": False}), classifier=classifier) as proxy:
        asking = asyncio.create_task(proxy.ask())
        await until(lambda: classifier.batches == 1)
        publisher = next(iter(proxy.app.routes)).endpoint._service.publisher  # type: ignore[attr-defined]
        file = folder / "harassment.md"
        file.write_text(file.read_text().replace("threshold: 0.5", "threshold: 0.9", 1))
        assert await publisher.reload()
        response = await asking
        version = (await proxy.ask()).headers["x-guardrail-policy-version"]
        assert (version, len(version)) == (publisher.sets.short_digest, len("sha256:") + 12)
        assert response.headers["x-guardrail-policy-version"] != version


async def test_a_configuration_or_policy_that_cannot_be_used_is_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="policy folder"):
        open_guard(config(policies={"folder": str(tmp_path / "none")}))
    (tmp_path / "bad.md").write_text("nothing")
    guard = open_guard(config(policies={"folder": str(tmp_path)}), classifiers={"embedded": ScriptedClassifier()})
    with pytest.raises(PolicyError):
        await guard.__aenter__()
    unknown = config({"input": {"policies": ["no_such_policy"]}})
    with pytest.raises(ConfigError, match="no_such_policy"):
        await open_guard(unknown, classifiers={"embedded": ScriptedClassifier()}).__aenter__()


async def test_the_library_judges_an_answer_with_its_prompt_where_a_policy_asks_and_never_without() -> None:
    asking = policy("advice", judge_with="prompt")
    classifier = ScriptedClassifier({"advice": lambda text: 0.9 if "pills?" in text and "two" in text else 0.1})
    async with open_guard(classifiers={"embedded": classifier}) as guard:
        with pytest.raises(GuardrailError, match="'advice' judges answers with the prompt, and none is given"):
            await guard.check("take two", policies=[asking], stage=Stage.OUTPUT)
        assert (await guard.check(Answered("how many pills?", "take two"), policies=[asking])).action is Action.BLOCK
        assert (await guard.check(Answered("", "take two"), policies=[asking])).action is Action.PASS
        assert (await guard.check("take two", policies=[asking])).action is Action.PASS  # a prompt is judged alone


async def test_the_library_checks_a_text_by_the_route_by_ids_and_by_a_policy_of_its_own() -> None:
    classifier = ScriptedClassifier({"harassment": contains("rude"), "own": contains("spoiler")})
    async with open_guard(classifiers={"embedded": classifier}) as guard:
        decision = await guard.check("a rude text")
        assert (decision.action, len(decision.verdicts)) == (Action.BLOCK, 8)
        assert (await guard.check("a rude text", policies=["violence"])).action is Action.PASS
        assert (await guard.check("a spoiler", policies=[policy("own")])).action is Action.BLOCK
        assert classifier.prepared[-1].id == "own"
        for wrong in ({"policies": ["nope"]}, {"route": "nope"}, {"tenant": "nope"}):
            with pytest.raises(GuardrailError, match="nope"):
                await guard.check("text", **wrong)
        with pytest.raises(GuardrailError, match="running already"):
            await guard.__aenter__()
    with pytest.raises(GuardrailError, match="not running"):
        await guard.check("text")
    assert classifier.closed
