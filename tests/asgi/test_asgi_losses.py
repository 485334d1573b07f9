"""Policies that go away while the guard runs: what still judges is known at any time, and the guard is never switched off by it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgi_cases import BAD, POLICIES, Proxy, config, proxied
from test_asgi_service import until

from guardrail.assembly import open_guard
from guardrail.errors import ConfigError
from guardrail.events import PoliciesPublished, PoliciesRefused
from guardrail.testing import ScriptedClassifier

ALL: dict[str, Any] = {"input": {"policies": "all"}, "output": {"policies": "all"}}
NOTHING: dict[str, Any] = {"input": {"policies": []}, "output": {"policies": []}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(Path(POLICIES["folder"]) / "harassment.md", tmp_path)
    return tmp_path


def copied(folder: Path, policy_id: str) -> Path:
    """A second policy of the folder, under another name."""
    file = folder / f"{policy_id}.md"
    file.write_text((folder / "harassment.md").read_text().replace("id: harassment", f"id: {policy_id}", 1))
    return file


def own(folder: Path, *, shipped: bool = False) -> dict[str, Any]:
    return {"folder": str(folder), "shipped": shipped}


async def refused(proxy: Proxy) -> tuple[str, str]:
    """Code and message of the refusal, which everybody who watches is told."""
    await until(lambda: bool(proxy.sink.of(PoliciesRefused)))
    (finding,) = proxy.sink.of(PoliciesRefused)[-1].findings
    ready = (await proxy.client.get("/readyz")).json()
    assert (ready["refused"], ready["generation"]) == (True, 1)
    return finding.code, finding.message


@pytest.mark.parametrize("shipped", [False, True])
async def test_a_folder_that_becomes_empty_keeps_the_last_good_set_and_alarms(
    folder: Path, shipped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with proxied(config(ALL, policies=own(folder, shipped=shipped))) as proxy:
        file = folder / "harassment.md"
        text = file.read_text()
        file.unlink()
        code, message = await refused(proxy)
        assert (code, "harassment" in message) == ("P023", True)
        assert (await proxy.ask(BAD)).status_code == 400
        assert any(record.levelname == "ERROR" and "P023" in record.getMessage() for record in caplog.records)
        file.write_text(text)
        publisher = proxy.app.routes[0].endpoint._service.publisher  # type: ignore[attr-defined]
        await until(lambda: not publisher.refused)
        assert len(proxy.sink.of(PoliciesPublished)) == 1


async def test_a_tenants_folder_that_becomes_empty_is_refused_too(folder: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "acme"
    theirs.mkdir()
    copied(folder, "theirs").rename(theirs / "theirs.md")
    async with proxied(config(ALL, policies=own(folder), tenants={"acme": {"policies": str(theirs)}})) as proxy:
        (theirs / "theirs.md").unlink()
        assert (await refused(proxy))[0] == "P023"


async def test_a_stage_that_would_lose_all_it_checks_is_refused(folder: Path) -> None:
    file = folder / "harassment.md"
    async with proxied(config(ALL, policies=own(folder))) as proxy:
        file.write_text(file.read_text().replace("threshold: 0.5", "threshold: 0.5\napplies_to: [output]", 1))
        code, message = await refused(proxy)
        assert (code, "prompts" in message, "harassment" in message) == ("C035", True, True)
        assert (await proxy.ask(BAD)).status_code == 400


async def test_one_policy_of_several_may_go_and_a_warning_names_it(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    second = copied(folder, "rudeness")
    async with proxied(config(ALL, policies=own(folder))) as proxy:
        caplog.clear()
        second.unlink()
        await until(lambda: len(proxy.sink.of(PoliciesPublished)) == 2)
        warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(warned) == 1
        assert "C046" in warned[0]
        assert "'rudeness'" in warned[0]
        assert (await proxy.ask(BAD)).status_code == 400
        assert (await proxy.client.get("/readyz")).json()["refused"] is False


async def test_an_empty_folder_stops_the_start_of_a_route_that_would_enforce_it(tmp_path: Path) -> None:
    started: Callable[[Any], Any] = lambda route: open_guard(  # noqa: E731
        config(route, policies=own(tmp_path)), classifiers={"embedded": ScriptedClassifier()}
    )
    with pytest.raises(ConfigError, match="C035"):
        await started(ALL).__aenter__()
    for said in (NOTHING, ALL | {"mode": "shadow"}):
        async with started(said) as guard:
            assert guard.publisher.generation == 1
