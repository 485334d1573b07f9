"""`guardrail audit`, over a store that a guard has written."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from guardrail.assembly import open_guard
from guardrail.cli import commands
from guardrail.config.tenants import hash_key
from guardrail.context import Answered
from guardrail.testing import ScriptedClassifier, contains

POLICIES = Path(__file__).parents[1] / "asgi" / "policies"
CLASSIFIER = """
from guardrail.testing import ScriptedClassifier, contains
def make(options):
    return ScriptedClassifier({"*": contains("forbidden", score=options.get("score", 0.97))})
"""
CONFIG = f"""
policies: {{folder: {POLICIES}, shipped: false}}
classifiers: {{main: {{kind: custom, factory: "audit_test_classifier:make", options: {{score: SCORE}}}}}}
audit: {{key_env: AUDIT_KEY, content_key_env: AUDIT_TEXTS}}
routes: [{{name: default, audit: {{content: CONTENT}}}}]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "audit_test_classifier.py").write_text(CLASSIFIER, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("AUDIT_KEY", "a secret of the tests that is long enough")
    monkeypatch.setenv("AUDIT_TEXTS", "another secret of the tests for texts")
    return tmp_path


def written(place: Path, content: str = "full", score: float = 0.97) -> Path:
    path = place / f"{content}-{score}.yaml"
    path.write_text(CONFIG.replace("CONTENT", content).replace("SCORE", str(score)), encoding="utf-8")
    return path


async def _decided(config: Path, texts: tuple[str, ...]) -> list[str]:
    async with open_guard(config, classifiers={"main": ScriptedClassifier({"*": contains("forbidden")})}) as guard:
        return [(await guard.check(text)).id for text in texts]


def decided(config: Path, *texts: str) -> list[str]:
    return asyncio.run(_decided(config, texts))


@pytest.fixture
def run() -> Callable[..., Result]:
    def invoke(command: str, *arguments: object, code: int = 0, given: str | None = None) -> Result:
        result = CliRunner().invoke(commands, ["audit", command, *map(str, arguments)], input=given)
        assert result.exit_code == code, result.output + repr(result.exception)
        return result

    return invoke


def test_decisions_are_listed_and_shown(place: Path, run: Callable[..., Result]) -> None:
    config = written(place)
    first, second = decided(config, "Good morning.", "something forbidden")
    listed = run("list", "--config", config).output.splitlines()
    assert [second in listed[0], "harassment 0.97" in listed[0], first in listed[1]] == [True] * 3
    assert run("list", "--config", config, "--violated", "harassment", "--since", "1h").output.count("\n") == 1
    assert run("list", "--config", config, "--until", "2001-01-01").output == "No decision fits.\n"
    assert json.loads(run("list", "--config", config, "--text", "Good morning.", "--json").output)["id"] == first
    shown = run("show", second, "--config", config).output
    assert "something forbidden" in shown
    assert "violates" in shown
    assert json.loads(run("show", "1", "--config", config, "--json").output)["content"][0]["text"] == "Good morning."
    bare = run("show", first, "--store", place / "audit.db").output  # without the keys
    assert "Good morning." not in bare
    assert "there is no decision 'nothing'" in str(run("show", "nothing", "--config", config, code=1).exception)
    assert "write it like" in run("list", "--config", config, "--since", "yesterday", code=2).output


def test_a_store_is_verified_and_damage_named(place: Path, run: Callable[..., Result]) -> None:
    config = written(place)
    decided(config, "one", "two", "three")
    said = run("verify", "--config", config).output
    assert "Sound: 3 decisions" in said
    head = said.splitlines()[-1].removeprefix("Head ")
    assert run("verify", "--config", config, "--anchor", head).exit_code == 0
    assert "was put back" in run("verify", "--config", config, "--anchor", head.replace("3:", "4:"), code=1).output
    assert "--anchor is a number" in run("verify", "--config", config, "--anchor", "x", code=2).output
    assert "not at hand" in str(run("verify", "--store", place / "audit.db", code=1).exception)
    with closing(sqlite3.connect(place / "audit.db")) as connection, connection:
        connection.execute("UPDATE records SET tenant = 'orbit' WHERE place = 2")
    assert "Damaged: changed at record 2: it is not what was written." in run("verify", "--config", config, code=1).output
    assert json.loads(run("verify", "--config", config, "--json", code=1).output)["damage"]["sequence"] == 2


def test_a_replay_says_nothing_of_the_console_which_is_not_opened(
    place: Path, run: Callable[..., Result], caplog: pytest.LogCaptureFixture
) -> None:
    config = written(place)
    config.write_text(f"{config.read_text(encoding='utf-8')}console: {{admin_key: {hash_key('the-key-of-an-admin')}}}\n", encoding="utf-8")
    (decision,) = decided(config, "something forbidden")
    caplog.clear()
    result = run("replay", decision, "--config", config)
    assert "C044" not in caplog.text + result.stderr + result.output


def test_a_decision_is_judged_again(place: Path, run: Callable[..., Result]) -> None:
    config = written(place)
    (decision,) = decided(config, "something forbidden")
    assert "1 verdicts are the same, 0 are not" in run("replay", decision, "--config", config).output
    milder = written(place, score=0.2)
    found = json.loads(run("replay", decision, "--config", milder, "--json", code=1).output)
    assert (found["same"], found["action"]) == (False, ["block", "pass"])
    assert found["changes"][0]["score"] == [0.97, 0.2]
    other = place / "newer.md"
    newer = (POLICIES / "harassment.md").read_text(encoding="utf-8").replace("version: 1.0.0", "version: 2.0.0", 1)
    other.write_text(newer, encoding="utf-8")
    assert "1.0.0 -> 2.0.0" in run("replay", decision, "--config", config, "--policy", other, code=1).output
    assert run("list", "--config", config).output.count("\n") == 1  # a replay is no decision


def test_an_answer_that_is_judged_with_its_prompt_is_not_judged_again(place: Path, run: Callable[..., Result]) -> None:
    config = written(place)
    own = place / "policies"
    own.mkdir()
    text = (POLICIES / "harassment.md").read_text(encoding="utf-8")
    (own / "harassment.md").write_text(text.replace("label: HR", "label: HR\njudge_with: prompt", 1), encoding="utf-8")
    config.write_text(config.read_text(encoding="utf-8").replace(str(POLICIES), str(own)), encoding="utf-8")

    async def decided() -> tuple[str, str]:
        async with open_guard(config) as guard:
            return (await guard.check(Answered("Hello", "forbidden"))).id, (await guard.check("forbidden")).id

    answer, prompt = asyncio.run(decided())
    assert "judges answers with the prompt" in str(run("replay", answer, "--config", config, code=1).exception)
    assert "the same" in run("replay", prompt, "--config", config).output
    alone = run("replay", answer, "--config", config, "--policy", POLICIES / "harassment.md", code=0)
    assert "the same" in alone.output


def test_a_text_that_is_not_kept_can_be_given_and_must_be_the_same(place: Path, run: Callable[..., Result]) -> None:
    config = written(place, "none")
    (decision,) = decided(config, "something forbidden")
    assert "no text of decision" in str(run("replay", decision, "--config", config, code=1).exception)
    assert "the same" in run("replay", decision, "--config", config, "--text", "something forbidden").output
    assert "the same" in run("replay", decision, "--config", config, "--text", "-", given="something forbidden").output
    assert "not the one that was judged" in str(run("replay", decision, "--config", config, "--text", "Something else", code=1).exception)
    assert "judged 1 texts, and 2" in str(run("replay", decision, "--config", config, "--text", "a", "--text", "b", code=1).exception)


def test_decisions_are_exported(place: Path, run: Callable[..., Result]) -> None:
    config = written(place)
    ids = decided(config, "Good morning.", "something forbidden")
    lines = [json.loads(line) for line in run("export", "--config", config).stdout.splitlines()]
    assert ([line["id"] for line in lines], "content" in lines[0]) == (ids, False)
    (line,) = run("export", "--config", config, "--content", "--action", "block").stdout.splitlines()
    assert json.loads(line)["content"][0]["text"] == "something forbidden"


def test_decisions_are_exported_as_parquet_where_pyarrow_is(
    place: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = written(place)
    ids = decided(config, "Good morning.", "something forbidden")
    parquet = pytest.importorskip("pyarrow.parquet")
    run("export", "--config", config, "--format", "parquet", "--output", place / "out.parquet", "--content")
    rows = parquet.read_table(place / "out.parquet").to_pylist()
    assert ([row["id"] for row in rows], rows[1]["violated"]) == (ids, ["harassment"])
    assert json.loads(rows[0]["content"])[0]["text"] == "Good morning."
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert "guardrail[parquet]" in str(run("export", "--config", config, "--format", "parquet", code=1).exception)


def test_old_decisions_are_dropped(place: Path, run: Callable[..., Result]) -> None:
    config = written(place)
    decided(config, "one", "two")
    assert "nothing says what to drop" in str(run("prune", "--config", config, code=1).exception)
    assert run("prune", "--config", config, "--content-days", "0").output == "Dropped 0 records in 0 segments, and 2 texts.\n"
    assert run("prune", "--config", config, "--days", "0").output == "Dropped 2 records in 1 segments, and 0 texts.\n"
    assert "Records 1 to 2 were pruned." in run("verify", "--config", config).output


def test_a_changed_record_is_said_to_be_one_wherever_it_is_shown(place: Path, run: Callable[..., Result]) -> None:
    config = written(place)
    _, second = decided(config, "one", "something forbidden")
    assert "CHANGED" not in run("list", "--config", config).output + run("show", second, "--config", config).output
    with closing(sqlite3.connect(place / "audit.db")) as connection, connection:
        connection.execute("UPDATE records SET action = 'pass' WHERE place = 2")
    assert run("list", "--config", config).output.splitlines()[0].endswith("CHANGED since it was written")
    assert "this is not what was written" in run("show", second, "--config", config).output
    assert json.loads(run("show", second, "--config", config, "--json").output)["genuine"] is False
    assert "is not what was written" in run("replay", second, "--config", config, code=1).output
    dropped = run("prune", "--config", config, "--days", "0", code=1).output
    assert "records 1 to 2: changed at record 2" in dropped
    said = run("verify", "--config", config, code=1).output
    assert "Records 1 to 2 were not what was written when they went: changed at record 2" in said


def test_nothing_is_dropped_from_a_keyed_store_without_its_key(place: Path, run: Callable[..., Result]) -> None:
    config = written(place)
    decided(config, "one", "two")
    refused = run("prune", "--store", place / "audit.db", "--days", "0", code=1).exception
    assert "without a key nothing is written" in str(refused)
    assert "Sound: 2 decisions" in run("verify", "--config", config).output


def test_a_store_must_be_named(run: Callable[..., Result], tmp_path: Path) -> None:
    assert "which store?" in str(run("list", code=1).exception)
    assert "there is no audit store" in str(run("list", "--store", tmp_path / "audit.db", code=1).exception)
    (tmp_path / "empty.yaml").write_text("{}", encoding="utf-8")
    assert "configures no audit store" in str(run("list", "--config", tmp_path / "empty.yaml", code=1).exception)
