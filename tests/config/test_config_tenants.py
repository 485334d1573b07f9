"""API keys to tenants, and what is read from the environment."""

import hmac
from pathlib import Path

import pytest

from guardrail.config import Environment, Tenants, hash_key, loads, process_environment


def _tenants(**keys: list[str]) -> Tenants:
    written = "".join(f"  {name}: {{api_keys: {[hash_key(key) for key in values]}}}\n" for name, values in keys.items())
    return Tenants.of(loads(f"tenants:\n{written}"))


def test_a_key_finds_its_tenant_and_nothing_else_does() -> None:
    tenants = _tenants(acme=["key-one", "key-two"], orbit=["key-three"])
    assert [tenants.tenant_of(key) for key in ("key-one", "key-two", "key-three")] == ["acme", "acme", "orbit"]
    for wrong in (None, "", "key-on", "key-one ", "KEY-ONE", hash_key("key-one"), "k" * 5_000, "kéy", "\ud800"):
        assert tenants.tenant_of(wrong) is None


def test_every_hash_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    tenants = _tenants(acme=["key-one", "key-two"], orbit=["key-three"])
    compared: list[bytes] = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(a) or real(a, b))
    for key in ("key-one", "key-three", "unknown"):
        compared.clear()
        tenants.tenant_of(key)
        assert compared == [digest for digest, _ in tenants.keys]


def test_without_tenants_every_caller_is_the_default_one() -> None:
    tenants = Tenants.of(loads(""))
    assert [tenants.tenant_of(key) for key in (None, "", "anything")] == ["default"] * 3
    assert not tenants.configured


def test_a_tenant_without_keys_still_closes_the_door() -> None:
    tenants = Tenants.of(loads("tenants: {acme: {}}"))
    assert tenants.configured
    assert tenants.tenant_of("anything") is None


def test_keys_are_not_in_what_is_printed() -> None:
    assert "0a0a" not in repr(Tenants(keys=((b"\x0a" * 32, "acme"),), configured=True))
    assert "canary" not in repr(Environment({"K": "canary"}))


@pytest.mark.parametrize("key", ["", "two words", "kéy", "line\n", "k" * 5_000])
def test_a_key_that_no_client_could_send_is_not_hashed(key: str) -> None:
    with pytest.raises(ValueError, match="a key h"):
        hash_key(key)


def test_the_environment_is_read_by_name_and_blank_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_KEY", " k1\n")
    monkeypatch.setenv("EXAMPLE_BLANK", "  ")
    environment = process_environment()
    assert environment.secret("EXAMPLE_KEY") == "k1"
    assert environment.secret("EXAMPLE_BLANK") is None
    assert environment.secret("EXAMPLE_NOT_THERE") is None
    assert Environment({"GUARDRAIL_DATA": "/data"}).data_folder == Path("/data")
