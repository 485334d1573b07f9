"""`guardrail config`: check a configuration, print its schema or its effective form, and hash an API key for it."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from guardrail.config import Code, check, hash_key, json_schema, load, show
from guardrail.errors import ConfigError, Finding, PolicyError
from guardrail.policy.registry import Sources

_FILE = click.argument("file", required=False, type=click.Path(path_type=Path))
_WEAK_KEY_CHARS = 20
_READ_CHARS = 10_000


@click.group()
def config() -> None:
    """Check a configuration and print its schema."""


@config.command("check")
@_FILE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def check_file(file: Path | None, *, as_json: bool) -> None:
    """Check FILE and the policies it uses (without FILE: the built-in defaults).

    Prints `path:line: code message` for each finding. Exits 0 when it can be used (warnings allowed), 1 when it cannot, 2 when it
    cannot be read as YAML at all.
    """
    findings = _findings(file)
    errors = [finding for finding in findings if finding.severity == "error"]
    name = str(file) if file else "<defaults>"
    if as_json:
        click.echo(json.dumps({"path": name, "ok": not errors, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        for finding in findings:
            click.echo(_line(finding))
        if not errors:
            click.echo(f"{name}: ok" + (f", {_count(len(findings), 'warning')}" if findings else ""))
    if errors:
        sys.exit(2 if any(finding.code in (Code.UNREADABLE, Code.NOT_YAML) for finding in errors) else 1)


@config.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    click.echo(json.dumps(json_schema(), indent=2))


@config.command("show")
@_FILE
def show_file(file: Path | None) -> None:
    """Print the effective configuration of FILE (without FILE: the built-in defaults) as YAML, all defaults written out, no secrets."""
    click.echo(show(load(file)), nl=False)


@config.command("hash-key")
def print_hash() -> None:
    """Read an API key from standard input, or ask for it, and print what stands for it under `tenants: NAME: api_keys:`."""
    asked = sys.stdin.isatty()
    key = str(click.prompt("API key", hide_input=True, confirmation_prompt=True) if asked else sys.stdin.readline(_READ_CHARS)).rstrip(
        "\r\n"
    )
    try:
        hashed = hash_key(key)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if len(key) < _WEAK_KEY_CHARS:
        click.echo(
            f"warning: a key of fewer than {_WEAK_KEY_CHARS} characters can be guessed from its hash; use a long random one", err=True
        )
    click.echo(hashed)


def _findings(file: Path | None) -> Sequence[Finding]:
    """What is wrong with the file, what it means, and the policies it uses: as far as each can be told."""
    try:
        loaded = load(file)
    except ConfigError as error:
        return error.findings
    alone = check(loaded)
    if any(finding.code == Code.MISSING_FOLDER for finding in alone):
        return alone
    try:
        policies = Sources(loaded.policies.shipped, loaded.policy_folder, loaded.tenant_folders, loaded.candidates).load()
    except PolicyError as error:
        return [*alone, *error.findings]
    return check(loaded, policies)


def _line(finding: Finding) -> str:
    if finding.severity == "error":
        return str(finding)
    return f"{finding.path}:{finding.line}: {finding.code} warning: {finding.message}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
