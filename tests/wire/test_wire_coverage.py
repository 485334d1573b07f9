"""The coverage table: nothing that somebody could read is unguarded, and the table in README.md is the one that the code makes."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from guardrail.cli.routes import routes, table
from guardrail.config.models import GUARDED_PATHS
from guardrail.types import Stage
from guardrail.wire.coverage import ANSWERS, PARTS, REQUESTS, coverage
from guardrail.wire.dialects import DIALECTS

README = Path(__file__).parents[2] / "README.md"
CELLS = coverage()


def test_every_guarded_endpoint_is_tried_in_each_stage_whole_and_streamed() -> None:
    assert set(REQUESTS) == set(ANSWERS) == set(DIALECTS) == set(GUARDED_PATHS)
    tried = {(cell.path, cell.stage, cell.stream) for cell in CELLS}
    assert tried == {
        (path, stage, stream)
        for path, dialect in DIALECTS.items()
        for stage in Stage
        for stream in ((False, True) if dialect.collector else (False,))
    }
    assert {part for probes in (*REQUESTS.values(), *ANSWERS.values()) for part in probes} == set(PARTS)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.path} {cell.stage} {'stream' if cell.stream else 'whole'} {cell.part}")
def test_no_part_is_unguarded_and_only_what_is_no_text_is_unscannable(cell: object) -> None:
    no_text = ("image", "audio", "file", "hosted tool", "token ids")
    assert cell.outcome == ("unscannable" if cell.part in no_text else "judged")  # type: ignore[attr-defined]


def test_a_reader_that_overlooks_a_part_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guardrail.wire.parts.MESSAGE_FIELDS", frozenset())
    monkeypatch.setattr("guardrail.wire.parts.PartList.content", lambda *_: None)
    lost = {(cell.path, cell.part) for cell in coverage() if cell.outcome == "unguarded"}
    assert ("/v1/chat/completions", "text") in lost
    assert CliRunner().invoke(routes, ["--markdown"]).exit_code == 1


def test_the_table_in_the_readme_is_the_codes() -> None:
    written = README.read_text(encoding="utf-8").partition("<!-- coverage -->\n")[2].partition("\n<!-- /coverage -->")[0]
    assert written.splitlines() == table(CELLS)


def test_the_command_says_who_guards_what(tmp_path: Path) -> None:
    file = tmp_path / "guardrail.yaml"
    file.write_text("routes: [{name: chat, path: /v1/chat/completions, definitions: trust}]\n")
    said = CliRunner().invoke(routes, [str(file)])
    assert said.exit_code == 0
    assert "/v1/chat/completions: guarded by chat" in said.output
    assert "chat: tool definitions and answer schemas are trusted" in said.output
    assert "/v1/messages: no route, so it is answered 404" in said.output
    assert '"coverage"' in CliRunner().invoke(routes, ["--json"]).output
