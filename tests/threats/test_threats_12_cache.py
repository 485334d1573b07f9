"""Group 12: a remembered score answers the same question of the same tenant under the same wording, and no other."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from asgi_cases import BAD, CHAT, POLICIES, Answering, completion, config, proxied

from guardrail.config.models import Config
from guardrail.config.tenants import hash_key
from guardrail.errors import ClassifierError
from guardrail.events import CacheUsed, DecisionMade, PoliciesPublished
from guardrail.testing import ScriptedClassifier, contains
from guardrail.types import ClassifyRequest


async def until(true: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if true():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not become true within 20 s")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(Path(POLICIES["folder"]) / "harassment.md", tmp_path)
    return tmp_path


class Reading(ScriptedClassifier):
    """Flags what the policy's own text calls a `flagged word`."""

    def _answer(self, request: ClassifyRequest) -> object:
        _, _, named = request.policy.body.partition("flagged word: ")
        self._script["*"] = contains(named.split("\n")[0]) if named else 0.02
        return super()._answer(request)


async def test_a_policy_edit_invalidates(folder: Path) -> None:
    file = folder / "harassment.md"
    plain = file.read_text()
    settings = config(policies={"folder": str(folder), "shipped": False})
    async with proxied(settings, upstream=Answering([completion("fine")]), classifier=Reading()) as proxy:
        for number, (word, status) in enumerate((("apple", 200), ("forbidden", 400), ("apple", 200)), start=2):
            file.write_text(plain.replace("## Overview\n", f"## Overview\n\nflagged word: {word}\n", 1))
            await until(lambda number=number: len(proxy.sink.of(PoliciesPublished)) >= number)  # type: ignore[misc]
            for _ in range(2):
                assert (await proxy.ask(BAD)).status_code == status


async def test_tenants_do_not_share_scores() -> None:
    tenants = {name: {"api_keys": [hash_key(f"{name}-key")]} for name in ("acme", "orbit")}
    section = {"policies": ["harassment"]}
    routes = [{"name": "default", "input": section, "output": {"policies": []}}]
    classifier = ScriptedClassifier({"*": contains("forbidden")})
    settings = Config.model_validate({"routes": routes, "tenants": tenants, "policies": POLICIES})
    async with proxied(settings, upstream=Answering([completion("fine")]), classifier=classifier) as proxy:
        for key in ("acme-key", "orbit-key", "acme-key"):
            body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
            await proxy.client.post(CHAT, json=body, headers={"authorization": f"Bearer {key}"})
    assert [request.tenant for request in classifier.requests] == ["acme", "orbit"]
    assert [(used.hits, used.misses) for used in proxy.sink.of(CacheUsed)] == [(0, 1), (0, 1), (1, 0)]


async def test_a_tenants_own_policy_of_the_same_name_is_another_question(tmp_path: Path) -> None:
    text = (Path(POLICIES["folder"]) / "harassment.md").read_text()
    for name in ("acme", "orbit"):
        (tmp_path / name).mkdir()
        flagged = {"acme": "forbidden", "orbit": "apple"}[name]
        (tmp_path / name / "harassment.md").write_text(text.replace("## Overview\n", f"## Overview\n\nflagged word: {flagged}\n", 1))
    tenants = {name: {"api_keys": [hash_key(f"{name}-key")], "policies": str(tmp_path / name)} for name in ("acme", "orbit")}
    section = {"policies": ["harassment"]}
    settings = Config.model_validate(
        {"routes": [{"name": "a", "input": section, "output": section}], "tenants": tenants, "policies": POLICIES}
    )
    async with proxied(settings, upstream=Answering([completion("fine")]), classifier=Reading()) as proxy:
        body = {"model": "m", "messages": [{"role": "user", "content": BAD}]}
        told = [
            (await proxy.client.post(CHAT, json=body, headers={"authorization": f"Bearer {name}-key"})).status_code
            for name in ("acme", "orbit", "acme", "orbit")
        ]
    assert told == [400, 200, 400, 200]


async def test_a_blocked_verdict_is_not_replayed_to_another_set_of_policies(tmp_path: Path) -> None:
    text = (Path(POLICIES["folder"]) / "harassment.md").read_text()
    (tmp_path / "one.md").write_text(
        text.replace("id: harassment", "id: one", 1).replace("## Overview\n", "## Overview\n\nflagged word: forbidden\n", 1)
    )
    (tmp_path / "two.md").write_text(
        text.replace("id: harassment", "id: two", 1).replace("## Overview\n", "## Overview\n\nflagged word: apple\n", 1)
    )
    routes = [{"name": name, "model": name, "input": {"policies": [name]}, "output": {"policies": []}} for name in ("one", "two")]
    settings = Config.model_validate({"routes": routes, "policies": {"folder": str(tmp_path), "shipped": False}})
    async with proxied(settings, upstream=Answering([completion("fine")]), classifier=Reading()) as proxy:
        told = [(await proxy.ask(BAD, model=model)).status_code for model in ("one", "two", "one", "two")]
        assert told == [400, 200, 400, 200]
        assert [event.decision.violations != () for event in proxy.sink.of(DecisionMade)] == [True, False, True, False]


async def test_a_failure_is_not_replayed_once_the_classifier_is_well() -> None:
    classifier = ScriptedClassifier({"*": contains("forbidden")}, fault=ClassifierError("overloaded", "full"))
    async with proxied(upstream=Answering([completion("fine")]), classifier=classifier) as proxy:
        assert (await proxy.ask()).status_code == 503
        classifier.fault = None
        assert (await proxy.ask()).status_code == 200


async def test_a_remembered_block_is_told_as_the_first_was() -> None:
    classifier = ScriptedClassifier({"*": contains("forbidden")})
    async with proxied(upstream=Answering([completion("fine")]), classifier=classifier) as proxy:
        first, again = [(await proxy.ask(BAD)).json()["error"] for _ in range(2)]
        assert first.pop("guardrail")["policies"] == again.pop("guardrail")["policies"]
        assert first == again
        one, other = [event.decision for event in proxy.sink.of(DecisionMade)]
        assert one.verdicts == other.verdicts
        assert one.id != other.id
        assert len(classifier.requests) == 1


async def test_nothing_in_a_request_reaches_past_the_cache() -> None:
    """No header, field or model name of a caller's makes one question look like another."""
    classifier = ScriptedClassifier({"*": contains("forbidden")})
    async with proxied(upstream=Answering([completion("fine")]), classifier=classifier) as proxy:
        assert (await proxy.ask("hello")).status_code == 200
        for extra in ({"cache": {"no-cache": False}}, {"metadata": {"tenant": "other"}}, {"user": "x"}, {"prompt_cache_key": "hello"}):
            assert (await proxy.ask(BAD, **extra)).status_code == 400
