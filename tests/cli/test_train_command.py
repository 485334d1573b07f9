"""`guardrail train` and `guardrail bench quality`: without data they say what to do."""

import pytest
from click.testing import CliRunner

from guardrail.cli.bench_quality import quality
from guardrail.cli.train import embedded
from guardrail.errors import GuardrailError


@pytest.mark.parametrize("command", [embedded, quality])
def test_without_data_the_remedy_is_named(command: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GUARDRAIL_DATA", raising=False)
    result = CliRunner().invoke(command, [])
    assert isinstance(result.exception, GuardrailError)
    assert "--data FOLDER or set GUARDRAIL_DATA" in str(result.exception)
