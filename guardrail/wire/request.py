"""A parsed request, whatever its protocol, and the parts of a request: as many as may be judged at once."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from guardrail.conversation import History
from guardrail.errors import WireError
from guardrail.types import Part
from guardrail.wire.definitions import DEFINITION
from guardrail.wire.parts import PartList, TooManyPartsError


@contextmanager
def request_parts(param: str | None = None) -> Iterator[PartList]:
    """A list for what a request holds. Raises WireError (400) for more than may be judged at once; `param` names the field."""
    try:
        yield PartList()
    except TooManyPartsError as error:
        raise WireError(400, "too_many_parts", f"The request holds {error}.", param=param) from None


@dataclass(frozen=True)
class Request:
    """What the guard needs to know of a request. `document` is the JSON as it came, `param` the field that holds the prompt.

    `choices` is how many there will be in the answer, `include_usage`: the client asked for a usage frame at the end of a stream.
    `read` adds what an upstream could read in the document. `stored` names a turn that lies with the upstream and is continued, `turns`
    tells the request's own, where the protocol has any. `trusting`: what its definitions say is no part of it.
    """

    model: str
    stream: bool
    document: Mapping[str, object] = field(repr=False)
    param: str
    read: Callable[[PartList, Mapping[str, object]], None] = field(repr=False)
    choices: int = 1
    include_usage: bool = False
    stored: str | None = None
    turns: Callable[[Mapping[str, object]], History | None] | None = field(default=None, repr=False)
    trusting: bool = False

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Everything in it that an upstream could read, found when first asked for: a route may judge no prompts.

        Raises WireError (400) for what cannot be taken apart, and for too many parts.
        """
        with request_parts(self.param) as parts:
            self.read(parts, self.document)
        return tuple(part for part in parts.found if not (self.trusting and part.kind == DEFINITION))

    @cached_property
    def history(self) -> History | None:
        """The turns of the conversation; None where it is none."""
        return None if self.turns is None else self.turns(self.document)
