"""The shared shapes of configuration values: names, bounded lists and mappings, and the checks that single values must pass."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, StringConstraints
from pydantic_core import PydanticCustomError

Value = TypeVar("Value")

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
KEY_HASH = r"^sha256:[0-9a-f]{64}$"
VARIABLE = r"^[A-Z_][A-Z0-9_]{0,127}$"
IMPORT_STRING = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
MAX_ENTRIES = 1_000
"""Most entries of one section (routes, tenants, a tenant's keys)."""


class Section(BaseModel):
    """The parent of every section: immutable, no unknown keys, and no guessing (`"8080"` is not a number)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


def _is_key_hash(value: str) -> str:
    """Refuse what is not a hash, in words that never repeat it: it may be the key itself."""
    if re.fullmatch(KEY_HASH, value):
        return value
    if value.lower().startswith("sha256:"):
        raise PydanticCustomError(
            "bad_key_hash", "is not sha256: and 64 lower-case hexadecimal digits; make it with `guardrail config hash-key`"
        )
    raise PydanticCustomError("plaintext_key", "is not a key's hash; never write a key here: put what `guardrail config hash-key` prints")


def _is_http_url(value: str) -> str:
    """Refuse what is not a plain http(s) address, in words that never repeat it: it may hold a password."""
    try:
        url = urlsplit(value)
        host, _ = url.hostname, url.port
    except ValueError:
        raise PydanticCustomError("bad_url", "is not an address; write it like https://api.openai.com/v1") from None
    if url.scheme not in ("http", "https") or not host or any(c.isspace() for c in value):
        raise PydanticCustomError("bad_url", "must start with http:// or https:// and name a host, like https://api.openai.com/v1")
    if url.username is not None or url.password is not None:
        raise PydanticCustomError("bad_url", "must not hold a user or password; name the key's environment variable in api_key_env")
    if url.query or url.fragment:
        raise PydanticCustomError("bad_url", "must not hold a query or fragment (? or #)")
    return value.rstrip("/")


Name = Annotated[str, StringConstraints(pattern=NAME)]
TenantRef = Annotated[str, StringConstraints(pattern=NAME.replace("^", r"^(?:\*|").replace("$", ")$"))]
KeyHash = Annotated[str, AfterValidator(_is_key_hash), Field(json_schema_extra={"pattern": KEY_HASH})]
HttpUrl = Annotated[str, AfterValidator(_is_http_url), Field(max_length=2_048, json_schema_extra={"pattern": "^https?://"})]
Variable = Annotated[str, StringConstraints(pattern=VARIABLE)]
ImportString = Annotated[str, StringConstraints(pattern=IMPORT_STRING, max_length=256)]
Folder = Annotated[str, StringConstraints(min_length=1, max_length=1_024)]

# A YAML list becomes a tuple; only the container is lenient, what is in it stays strict.
Items = Annotated[tuple[Value, ...], Field(strict=False, max_length=MAX_ENTRIES)]
Named = Annotated[Mapping[Name, Value], Field(max_length=MAX_ENTRIES), AfterValidator(MappingProxyType), PlainSerializer(dict)]
