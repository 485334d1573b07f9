"""What a well-formed `audit` section still gets wrong."""

import os
from collections.abc import Iterator

from guardrail.config.codes import Code
from guardrail.config.environment import Environment
from guardrail.config.models import Config
from guardrail.errors import Finding


def audit_findings(config: Config, environment: Environment) -> Iterator[Finding]:
    """Routes that ask for a store that is not there, keys that are not set, folders that cannot be written."""
    for index, route in enumerate(config.routes):
        asks = [name for name, default in (("content", "none"), ("when_full", "drop")) if getattr(route.audit, name) != default]
        if config.audit is None and asks:
            message = f"route {route.name!r} says how its decisions are kept, and no store is configured; add a section `audit: {{}}`"
            yield config.source.finding(("routes", index, "audit", asks[0]), Code.NOT_ENFORCEABLE, message)
    if config.audit is None:
        return
    for key in ("key_env", "content_key_env"):
        variable = getattr(config.audit, key)
        if variable and environment.secret(variable) is None:
            message = f"the environment variable {variable} is not set, so the store would be written without its key; set it"
            yield config.source.finding(("audit", key), Code.MISSING_VARIABLE, message)
    kept = [route.name for route in config.routes if route.audit.content != "none"]
    if kept and config.audit.content_key_env is None:
        message = f"texts of route {kept[0]!r} are kept unencrypted; name a key's variable in content_key_env"
        yield config.source.finding(("audit",), Code.UNENCRYPTED, message, warning=True)
    path = config.audit_path
    if path is not None and not path.parent.is_dir():
        message = (
            f"there is no folder {str(path.parent)!r} for the store; make it, or correct the path (relative to the configuration file)"
        )
        yield config.source.finding(("audit", "path"), Code.MISSING_FOLDER, message)
    elif path is not None and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
        message = f"{str(path)!r} cannot be written: each route does as its when_full says until it can; correct the path, or its owner"
        yield config.source.finding(("audit", "path"), Code.UNWRITABLE, message, warning=True)
