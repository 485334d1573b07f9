"""A question inside the engine: what the scheduler knows of it, who waits for it, and what is held for it."""

from dataclasses import dataclass, replace

from guardrail.engine.cope.admission import Ticket
from guardrail.engine.cope.delivery import Call
from guardrail.engine.cope.kv import KVSpan
from guardrail.engine.cope.messages import Ask
from guardrail.engine.cope.rows import Row
from guardrail.engine.cope.work import Work
from guardrail.errors import ClassifierError


@dataclass(slots=True, eq=False)
class Job(Work):
    """`ask` is None for one that only wants its prefix resident; `call` is None for the engine's own question.

    While it is under way: `span` is its prefix, pinned; `rest` the row as far as it has yet to be run; `scratch` holds the keys of a
    long row's earlier portions; `stepping` says that its stream's step is out; `probe` and `ran` add up over portions.
    """

    ask: Ask | None = None
    call: Call | None = None
    number: int = 0
    ticket: Ticket | None = None  # of the engine's own questions there is none
    span: KVSpan | None = None
    rest: Row | None = None
    scratch: KVSpan | None = None
    stepping: bool = False
    probe: tuple[float, ...] = ()
    ran: int = 0
    short: bool = False  # it had to wait for pages

    @property
    def size(self) -> int:
        """Its tokens, were they all run."""
        return 0 if self.ask is None else len(self.ask.tokens)

    def lateness(self) -> ClassifierError:
        """What it is told when its deadline has passed."""
        if self.short:
            return ClassifierError("overloaded", "no KV pages came free before the deadline; raise kv_bytes or ask again later")
        waited = "its policy was resident" if self.ask is None else "the engine had judged the text"
        return ClassifierError("timeout", f"the deadline passed before {waited}")


def cut(row: Row, count: int, scratch: KVSpan) -> tuple[Row, Row]:
    """About the first `count` tokens of a row, fewer than all, and the rest behind them.

    What the row does not keep itself stays in `scratch` for the rest. Only rows that read bring probe scores back, so a portion that
    is probed reads, too.
    """
    count = min(count, row.keep or count)
    into = scratch if row.into is None or not row.keep else row.into
    first = replace(row, tokens=row.tokens[:count], into=into, keep=count, read=row.probe and into is row.into)
    chain = row.chain if any(span is into for span in row.chain) else (*row.chain, into)
    keep = max(0, row.keep - count)
    return first, replace(row, tokens=row.tokens[count:], chain=chain, into=row.into if keep else None, keep=keep)
