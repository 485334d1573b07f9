"""What is measured is judging: no command that measures answers a question from memory."""

import pytest

from guardrail.cli import bench_servers
from guardrail.cli.bench_servers import SERVERS, Around
from guardrail.config.models import Config


@pytest.mark.parametrize("name", [name for name in SERVERS if "classifier" in name])
def test_the_measured_proxies_remember_no_score(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Config] = []
    monkeypatch.setattr(bench_servers, "build_app", lambda config, **_: built.append(config))
    SERVERS[name](Around("http://127.0.0.1:9"))
    assert [config.cache.entries for config in built] == [0]
