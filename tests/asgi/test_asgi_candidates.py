"""A version on trial beside the policy in force: it is asked, recorded, counted by itself, and changes nothing."""

from pathlib import Path

from asgi_cases import POLICIES, config, proxied

from guardrail.events import DecisionMade
from guardrail.telemetry.summary import findings
from guardrail.testing import ScriptedClassifier
from guardrail.types import Action, Mode


async def test_a_candidate_that_would_block_lets_pass_and_is_recorded_with_its_own_version(tmp_path: Path) -> None:
    draft = tmp_path / "stricter.md"
    text = (Path(POLICIES["folder"]) / "harassment.md").read_text(encoding="utf-8")
    draft.write_text(text.replace("version: 1.0.0", "version: 1.1.0").replace("threshold: 0.5", "threshold: 0.2"), encoding="utf-8")
    tried = {"policies": [{"id": "harassment", "candidate": str(draft)}]}
    settings = config({"input": tried, "output": {"policies": []}})
    async with proxied(settings, classifier=ScriptedClassifier({"harassment": 0.3})) as proxy:
        answer = await proxy.ask()
        assert (answer.status_code, answer.headers["x-guardrail-decision"]) == (200, "allow")
        (event,) = proxy.sink.of(DecisionMade)
        verdicts = [(each.policy_version, each.mode, each.violation) for each in event.decision.verdicts]
        assert verdicts == [("1.0.0", Mode.ENFORCE, False), ("1.1.0", Mode.SHADOW, True)]
        assert (event.decision.action, event.decision.outcome.shadow) == (Action.PASS, Action.BLOCK)
        assert [each.policy_version for each in findings(event.decision, everything=True)] == ["1.1.0", "1.0.0"]
        moderated = await proxy.client.post("/v1/moderations", json={"input": "hello"})
        assert moderated.json()["results"][0]["flagged"] is False


async def test_a_candidate_beside_a_policy_in_shadow_hides_no_finding_of_it(tmp_path: Path) -> None:
    draft = tmp_path / "other.md"
    text = (Path(POLICIES["folder"]) / "harassment.md").read_text(encoding="utf-8")
    draft.write_text(text.replace("version: 1.0.0", "version: 1.1.0").replace("threshold: 0.5", "threshold: 0.2"), encoding="utf-8")
    tried = {"policies": [{"id": "harassment", "candidate": str(draft), "mode": "shadow"}]}
    settings = config({"input": tried, "output": {"policies": []}})
    async with proxied(settings, classifier=ScriptedClassifier({"harassment": 0.9})) as proxy:
        await proxy.ask()
        (event,) = proxy.sink.of(DecisionMade)
        assert sorted(each.policy_version for each in findings(event.decision)) == ["1.0.0", "1.1.0"]


async def test_what_a_candidate_scored_is_remembered_over_a_new_generation(tmp_path: Path) -> None:
    folder, draft = tmp_path / "policies", tmp_path / "other.md"
    folder.mkdir()
    text = (Path(POLICIES["folder"]) / "harassment.md").read_text(encoding="utf-8")
    (folder / "harassment.md").write_text(text, encoding="utf-8")
    draft.write_text(text.replace("version: 1.0.0", "version: 1.1.0").replace("#### Includes", "#### Includes\n\n- **More**: Of it."))
    tried = {"policies": [{"id": "harassment", "candidate": str(draft)}]}
    settings = config({"input": tried, "output": {"policies": []}}, policies={**POLICIES, "folder": str(folder)})
    async with proxied(settings, classifier=ScriptedClassifier()) as proxy:
        await proxy.ask()
        assert len({request.policy.digest for request in proxy.classifier.requests}) == 2
        asked = len(proxy.classifier.requests)
        (folder / "harassment.md").write_text(text.replace("threshold: 0.5", "threshold: 0.6"), encoding="utf-8")
        publisher = next(iter(proxy.app.routes)).endpoint._service.publisher  # type: ignore[attr-defined]
        assert await publisher.reload()
        await proxy.ask()
        assert len(proxy.classifier.requests) == asked
