"""`guardrail config` as a person or a pipeline runs it."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner, Result

from guardrail.cli.config import config
from guardrail.config import hash_key, loads

EXAMPLE = Path(__file__).parents[2] / "examples" / "guardrail.yaml"


def _run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(config, list(arguments), input=stdin, env={"OPENAI_API_KEY": ""})


def _file(folder: Path, text: str) -> str:
    (folder / "g.yaml").write_text(text, encoding="utf-8")
    return str(folder / "g.yaml")


def test_a_good_file_exits_0_and_shows_its_warnings() -> None:
    result = _run("check", str(EXAMPLE))
    line, last = result.output.splitlines()
    assert result.exit_code == 0
    assert line.startswith(f"{EXAMPLE}:")
    assert "C041 warning: " in line
    assert last == f"{EXAMPLE}: ok, 1 warning"


def test_without_a_file_the_defaults_are_checked() -> None:
    assert (_run("check").exit_code, _run("check").output) == (0, "<defaults>: ok\n")


def test_findings_exit_1_with_path_line_and_code(tmp_path: Path) -> None:
    file = _file(tmp_path, "routes:\n  - name: a\n    upstream: mian\n  - name: a\n")
    result = _run("check", file)
    assert result.exit_code == 1
    assert [line.split(" ")[:2] for line in result.output.splitlines()] == [
        [f"{file}:3:", "C020"],
        [f"{file}:4:", "C030"],
        [f"{file}:4:", "C031"],
    ]


def test_faults_of_policies_are_findings_too(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.md").write_text("no front matter\n", encoding="utf-8")
    result = _run("check", _file(tmp_path, "policies: {folder: mine}\n"))
    assert result.exit_code == 1
    assert f"{tmp_path / 'mine' / 'a.md'}:1: P003" in result.output


def test_a_missing_policy_folder_is_told_with_its_line(tmp_path: Path) -> None:
    file = _file(tmp_path, "policies:\n  folder: mine\n")
    result = _run("check", file)
    assert (result.exit_code, result.output.split(" ")[:2]) == (1, [f"{file}:2:", "C042"])


@pytest.mark.parametrize("text", ["a: [", None])
def test_what_cannot_be_read_exits_2(tmp_path: Path, text: str | None) -> None:
    result = _run("check", _file(tmp_path, text) if text else str(tmp_path / "none.yaml"))
    assert result.exit_code == 2
    assert result.output.count("\n") == 1


def test_json_carries_every_finding(tmp_path: Path) -> None:
    file = _file(tmp_path, "routes:\n  - name: a\n    on_error: pass\n    tenant: b\n")
    result = _run("check", "--json", file)
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["path"], answer["ok"]) == (1, file, False)
    assert {(item["line"], item["code"], item["severity"]) for item in answer["findings"]} == {
        (3, "C037", "warning"),
        (4, "C022", "error"),
        (1, "C032", "error"),
    }
    assert json.loads(_run("check", "--json", str(EXAMPLE)).stdout)["ok"] is True


def test_schema_prints_a_schema_the_example_follows() -> None:
    schema = json.loads(_run("schema").stdout)
    jsonschema.validate(yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")), schema)


def test_show_writes_out_the_defaults_and_loads_again() -> None:
    shown = _run("show").stdout
    assert "deadline_ms: 5000" in shown
    assert loads(shown).model_dump() == loads("").model_dump()


def test_show_has_no_secrets(tmp_path: Path) -> None:
    hashed = hash_key("canary-key-of-the-tenant")
    text = f"tenants: {{a: {{api_keys: ['{hashed}']}}}}\n"
    text += "classifiers: {c: {kind: custom, factory: 'm:f', options: {size: 3, deep: [{api_Token: canary-token}]}}}\n"
    shown = _run("show", _file(tmp_path, text)).stdout
    assert "canary" not in shown
    assert hashed[:15] in shown
    assert hashed[7:] not in shown
    assert "size: 3" in shown


def test_hash_key_reads_a_key_and_prints_what_the_tenants_section_takes() -> None:
    key = "a-long-enough-example-key-01234"
    result = _run("hash-key", stdin=key + "\n")
    assert (result.exit_code, result.stdout) == (0, hash_key(key) + "\n")
    assert key not in result.output
    loads(f"tenants: {{a: {{api_keys: ['{result.stdout.strip()}']}}}}")


def test_hash_key_warns_of_a_short_key_and_refuses_none() -> None:
    short = _run("hash-key", stdin="short\n")
    assert (short.exit_code, short.stdout) == (0, hash_key("short") + "\n")
    assert "warning" in short.stderr
    assert _run("hash-key", stdin="\n").exit_code == 2
