"""The `audit` sections: what they mean, and what of them is refused or warned of."""

from pathlib import Path

import pytest

from guardrail.audit.opening import open_sink, retention_of
from guardrail.config import Environment, check, loads
from guardrail.errors import GuardrailError

ROUTE = "routes: [{name: main, audit: {content: full, when_full: wait}}]\n"


def findings(text: str, **variables: str) -> list[str]:
    found = check(loads(text), environment=Environment(variables))
    return [f"{each.line} {each.code} {each.severity}" for each in found]


def test_a_route_that_asks_for_a_store_needs_one() -> None:
    assert findings(ROUTE) == ["1 C013 error"]
    assert findings(ROUTE + "audit: {}\n") == ["2 C039 warning"]
    assert findings("audit: {}\n") == []


def test_a_named_key_must_be_set() -> None:
    text = ROUTE + "audit:\n  key_env: CHAIN_KEY\n  content_key_env: TEXT_KEY\n"
    assert findings(text) == ["3 C041 error", "4 C041 error"]
    assert findings(text, CHAIN_KEY="k", TEXT_KEY="k") == []


def test_the_folder_must_be_there_and_should_be_writable(tmp_path: Path) -> None:
    assert findings(f"audit:\n  path: {tmp_path}/missing/audit.db\n") == ["2 C042 error"]
    assert findings(f"audit:\n  path: {tmp_path}\n") == ["2 C043 warning"]


def test_a_key_that_can_be_guessed_is_refused(tmp_path: Path) -> None:
    config = loads(f"audit: {{path: {tmp_path}/audit.db, key_env: CHAIN_KEY}}\n")
    with pytest.raises(GuardrailError, match="fewer than 24 characters"):
        open_sink(config, Environment({"CHAIN_KEY": "short"}), print)


def test_retention_is_for_ever_unless_it_is_said() -> None:
    section = loads("audit: {retention: {days: 30, content_days: 7.5, max_mb: 100}}\n").audit
    assert section is not None
    assert (retention_of(section).days, retention_of(section).content_days, retention_of(section).bytes) == (30, 7.5, 100_000_000)
