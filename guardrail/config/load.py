"""Reads the configuration file into a `Config`, or says everything that keeps it from being one."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from guardrail.config.codes import Code
from guardrail.config.document import MAX_BYTES, Source, parse
from guardrail.config.faults import findings
from guardrail.config.models import Config
from guardrail.errors import ConfigError, Finding


def load(path: str | Path | None) -> Config:
    """The configuration in the file at `path`; None is the defaults: all shipped policies, embedded classifier and upstream.

    Reads no environment variable and no other file. Raises ConfigError with a finding for each fault of the file. What a file
    means beside its policies and its surroundings is judged by `check`; a `Config` is to be used only after that.
    """
    if path is None:
        return Config()
    path = Path(path)
    return loads(_read(path), path=str(path), folder=path.parent)


def loads(text: str, *, path: str = "<text>", folder: Path | None = None) -> Config:
    """As `load`, from text; `path` is what findings call it, `folder` what its relative paths are relative to."""
    value, lines, faults = parse(text, path)
    source = Source(path, folder or Path(), lines)
    config, invalid = _validate({} if value is None else value, source) if value is not None or not faults else (None, [])
    faults = sorted([*faults, *invalid], key=lambda finding: (finding.line, finding.code))
    if config is None or faults:
        raise ConfigError(faults)
    return config


def _validate(value: Any, source: Source) -> tuple[Config | None, list[Finding]]:
    if not isinstance(value, dict):
        return None, [Finding(source.path, 1, Code.BAD_VALUE, "a configuration is a mapping of sections, such as `routes:`")]
    try:
        return Config.model_validate(value, context=source), []
    except ValidationError as error:
        return None, findings(error.errors(include_url=False), source)


def _read(path: Path) -> str:
    """The file's text. Raises ConfigError when it cannot be opened, is too large or is not UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise _unreadable(path, f"has more than {MAX_BYTES} bytes; move what is not configuration elsewhere")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _unreadable(path: Path, reason: str) -> ConfigError:
    return ConfigError([Finding(str(path), 0, Code.UNREADABLE, f"the configuration {reason}")])
