"""`guardrail train`: without data it says what to do."""

import pytest
from click.testing import CliRunner

from guardrail.cli.train import embedded
from guardrail.errors import GuardrailError


@pytest.mark.parametrize("command", [embedded])
def test_without_data_the_remedy_is_named(command: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GUARDRAIL_DATA", raising=False)
    result = CliRunner().invoke(command, [])
    assert isinstance(result.exception, GuardrailError)
    assert "--data FOLDER or set GUARDRAIL_DATA" in str(result.exception)
