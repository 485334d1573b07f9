"""How many tokens a request asks for at most, in the words of each protocol."""

from collections.abc import Mapping
from types import MappingProxyType

from guardrail.errors import WireError
from guardrail.wire import fields
from guardrail.wire.prompts import count

NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "/v1/chat/completions": ("max_completion_tokens", "max_tokens"),
        "/v1/completions": ("max_tokens",),
        "/v1/messages": ("max_tokens",),
        "/v1/responses": ("max_output_tokens",),
    }
)
"""The fields that say it, by path; other paths generate nothing."""


def refuse_more(path: str, document: Mapping[str, object], most: int) -> None:
    """Raises WireError (400) for a request that asks for more tokens than `most`, all its choices together, or leaves the number open.

    The bytes go on as they came, so nothing is put in for what is left out. Of two fields the larger counts.
    """
    names = NAMES.get(path)
    if names is None:
        return
    fields.refuse_case_variants(document, fields.by_case(frozenset((*names, "n", "best_of"))))
    asked = [_whole(document, name) for name in names if document.get(name) is not None]
    each = max(_whole(document, name) if document.get(name) is not None else 1 for name in ("n", "best_of"))
    prompts = count(document.get("prompt")) if path == "/v1/completions" else 1
    if not asked:
        raise _refused(names[0], f"{names[0]} must be given, and be no more than {most // (each * prompts)}, for this caller.")
    if max(asked) * each * prompts > most:
        raise _refused(names[0], f"The request asks for more than the {most} tokens that this caller may ask for.")


def _whole(document: Mapping[str, object], name: str) -> int:
    value = document[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise WireError(400, f"invalid_{name}", f"{name} must be a whole number.", param=name)
    return value


def _refused(param: str, message: str) -> WireError:
    error = WireError(400, "max_tokens_exceeded", message, param=param)
    error.limit = "tokens"
    return error
