"""The effective configuration as YAML, every default written out and nothing secret in it."""

import re
from typing import Any

import yaml

from guardrail.config.models import Config

_SECRET_OPTION = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
_HASH_CHARS = len("sha256:") + 8


def show(config: Config) -> str:
    """YAML of the configuration with all defaults. Key hashes are cut short and options that sound secret are left out."""
    plain = config.model_dump(mode="json")
    for tenant in plain["tenants"].values():
        tenant["api_keys"] = [key[:_HASH_CHARS] + "…" for key in tenant["api_keys"]]
    for classifier in plain["classifiers"].values():
        if "options" in classifier:
            classifier["options"] = _without_secrets(classifier["options"])
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: "(hidden)" if _SECRET_OPTION.search(key) else _without_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return value
