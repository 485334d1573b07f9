"""What the requests of all protocols have in common: strict JSON, fields in their own case, and the few that the guard reads itself."""

from collections.abc import Mapping

from guardrail.errors import WireError
from guardrail.wire.document import UnreadableError, parse_object

MAX_CHOICES = 128
MAX_MODEL_LENGTH = 256


def read_object(body: bytes) -> dict[str, object]:
    """The JSON object in a request's body. Raises WireError (400) for anything that two readers could read differently."""
    try:
        return parse_object(body)
    except UnreadableError as error:
        text = str(error)
        raise WireError(400, "invalid_json", f"{text[:1].upper()}{text[1:]}.") from None


def by_case(names: frozenset[str]) -> dict[str, str]:
    """The names by their case-folded forms, for `refuse_case_variants`."""
    return {name.casefold(): name for name in names}


def refuse_case_variants(holder: Mapping[str, object], names: Mapping[str, str]) -> None:
    """Raises WireError (400) for a known field in another case: an upstream might take it for the field itself."""
    for key in holder:
        name = names.get(key.casefold(), key)
        if name != key:
            raise WireError(400, "ambiguous_field", f'A field differs from "{name}" in its case only; write it as "{name}".', param=name)


def model(document: Mapping[str, object]) -> str:
    """The model asked for. Raises WireError (400)."""
    value = document.get("model")
    if not isinstance(value, str) or not 0 < len(value) <= MAX_MODEL_LENGTH:
        raise WireError(400, "invalid_model", f"model must be a string of 1 to {MAX_MODEL_LENGTH} characters.", param="model")
    return value


def flag(document: Mapping[str, object], name: str) -> bool:
    """A boolean field, False where it is left out. Raises WireError (400) for anything else."""
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        raise WireError(400, f"invalid_{name}", f"{name} must be true or false.", param=name)
    return value is True


def choices(document: Mapping[str, object]) -> int:
    """How many choices are asked for. Raises WireError (400)."""
    number = document.get("n")
    if number is None:
        return 1
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MAX_CHOICES:
        raise WireError(400, "invalid_n", f"n must be a whole number from 1 to {MAX_CHOICES}.", param="n")
    return number


def include_usage(document: Mapping[str, object]) -> bool:
    """Whether a stream is asked to end with its usage. Raises WireError (400)."""
    options = document.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise WireError(400, "invalid_stream_options", "stream_options must be an object.", param="stream_options")
    return options.get("include_usage") is True
