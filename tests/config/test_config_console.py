"""The `console` section: what it takes, and what is wrong with it, by line."""

import pytest

from guardrail.config import check, hash_key, loads
from guardrail.errors import ConfigError

HASH = hash_key("an-admin-key")


def test_a_section_with_a_keys_hash_is_enough_and_keeps_to_this_machine() -> None:
    console = loads(f"console: {{admin_key: '{HASH}'}}").console
    assert console is not None
    assert (console.public, console.session_minutes, console.trace_url) == (False, 60, None)
    assert loads("").console is None


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("console: {}", "<text>:1: C005 console lacks 'admin_key'"),
        ("console: {public: true}", "<text>:1: C005 console lacks 'admin_key'"),
        ("console:\n  admin_key: my-plain-key", "<text>:2: C010 console.admin_key is not a key's hash"),
        (f"console:\n  admin_key: '{HASH[:-1]}'", "<text>:2: C011"),
        (f"console:\n  admin_key: '{HASH}'\n  publik: true", "<text>:3: C004 unknown key 'publik' in console: did you mean 'public'?"),
        (f"console:\n  admin_key: '{HASH}'\n  session_minutes: 1", "<text>:3: C007 console.session_minutes is 1, and must be at least 5"),
        (f"console:\n  admin_key: '{HASH}'\n  trace_url: https://t.example/", "<text>:3: C012 console.trace_url must start with"),
        (f"console:\n  admin_key: '{HASH}'\n  trace_url: 'javascript:{{trace_id}}'", "<text>:3: C012 console.trace_url must start with"),
    ],
)
def test_a_fault_has_its_line_its_thing_and_its_remedy(written: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loads(written)
    assert str(refused.value).startswith(said)
    assert "my-plain-key" not in str(refused.value)


def test_a_tenants_key_must_not_be_the_admin_key() -> None:
    config = loads(f"tenants:\n  acme: {{api_keys: ['{HASH}']}}\nconsole:\n  admin_key: '{HASH}'\n")
    found = [str(finding) for finding in check(config) if finding.severity == "error"]
    assert found == ["<text>:4: C033 the console's admin_key is a key of tenant 'acme', which must not open it; make another one"]


def test_a_console_without_a_store_is_told_that_it_has_nothing_to_show() -> None:
    found = check(loads(f"console: {{admin_key: '{HASH}'}}"))
    assert [(finding.code, finding.severity) for finding in found] == [("C044", "warning")]
    assert check(loads(f"audit: {{}}\nconsole: {{admin_key: '{HASH}'}}")) == []
