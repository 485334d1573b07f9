"""A policy on its way to being resident, a chunk at a time."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from guardrail.engine.cope.kv import KVSpan, OutOfPages
from guardrail.engine.cope.rows import Row


class Filling:
    """For each chunk: `row(chunk)`, `execute`, `settle()`; until `done`. After a failed pass `row` gives the same chunk again.

    Its span is pinned meanwhile. Every way out gives all pages back or hands them over to the store. `begin` makes room for all of it,
    perhaps with a head that need not be computed (or the whole of it); `end` hears that it is done or cancelled.
    """

    def __init__(
        self,
        tokens: NDArray[np.int32],
        span: KVSpan,
        *,
        begin: Callable[["Filling"], None],
        end: Callable[["Filling"], None],
    ) -> None:
        self.tokens = tokens
        self.span = span
        self.done = False
        self.cancelled = False
        self.shared = 0  # tokens whose KV an older version gave
        self._begin = begin
        self._end = end

    @property
    def remaining(self) -> int:
        """Tokens that have yet to be run."""
        return len(self.tokens) - self.span.length

    def row(self, chunk: int) -> Row | None:
        """The next `chunk` tokens, or None when there is nothing (more) to run: it is done, or was cancelled.

        Room for the whole policy is made at once, and given back where that fails: two half-filled ones never wait for each other.
        Raises OutOfPages when everything else is in use; it may be called again later.
        """
        if self.done or self.cancelled:
            return None
        try:
            self._begin(self)
        except OutOfPages:
            self.span.drop()
            raise
        if not self.remaining:
            self.settle()
            return None
        tokens = self.tokens[self.span.length : self.span.length + max(1, chunk)]
        chain = (self.span,) if self.span.length else ()
        return Row(tokens, chain, into=self.span, keep=len(tokens), read=False)

    def settle(self) -> None:
        """After its pass, whether it succeeded or failed: `done` once all tokens are resident."""
        if self.cancelled:
            self.span.drop()  # what a pass that was under way when it was cancelled has put there
        elif not self.done and not self.remaining:
            self.done = True
            self._end(self)

    def cancel(self) -> None:
        """Give every page back; the policy is cold again. A row that is out should not be run any more, and if it is, `settle`.

        Does nothing once it is done. Idempotent.
        """
        if not self.done and not self.cancelled:
            self.cancelled = True
            self.span.drop()
            self._end(self)
