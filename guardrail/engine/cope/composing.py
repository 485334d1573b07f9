"""From a scheduled portion to the row that the pass runs, and what is held for it until it ends."""

from dataclasses import dataclass
from enum import Enum

from guardrail.engine.cope.jobs import Job, cut
from guardrail.engine.cope.kv import KVSpan, OutOfPages
from guardrail.engine.cope.prefixes import PrefixStore
from guardrail.engine.cope.rows import Row
from guardrail.engine.cope.runner import Runner
from guardrail.engine.cope.schedule import Portion
from guardrail.engine.cope.streams import StreamStore


@dataclass(frozen=True, slots=True)
class Parts:
    """What an engine is put together from. From the moment its thread runs they belong to that thread alone."""

    runner: Runner
    prefixes: PrefixStore
    streams: StreamStore


class Refusal(Enum):
    """Why a portion does not run now: its prefix is not resident; there are no pages for it; it is larger than was thought."""

    COLD = "cold"
    PAGES = "pages"
    SIZE = "size"


class Composer:
    """Makes rows."""

    def __init__(self, parts: Parts) -> None:
        self._prefixes = parts.prefixes
        self._streams = parts.streams

    def compose(self, portion: Portion[Job], spare: int) -> Row | Refusal:
        """The portion's row. `spare`: tokens by which it may be larger than was thought when it was scheduled.

        `job.rest` is what remains behind it, None when nothing does. A refusal leaves nothing held but, for `SIZE`, what it has.
        """
        job = portion.work
        if not self.pin(job):
            return Refusal.COLD
        row = self._begun(job)
        size = len(row.tokens)
        if size <= portion.tokens or (portion.last and size <= portion.tokens + spare):
            job.rest = None
            return row
        if portion.last:
            return Refusal.SIZE
        try:
            first, job.rest = cut(row, portion.tokens, self._scratch(job, row))
        except OutOfPages:
            self.release(job)
            return Refusal.PAGES
        return first

    def pin(self, job: Job) -> bool:
        """Hold its prefix, if that is resident. What a batch needs is held before room is made for any part of it."""
        if job.span is None:
            job.span = self._prefixes.acquire(job.prefix, job.tenant)
        return job.span is not None

    def release(self, job: Job, *, sound: bool = True) -> None:
        """Give back whatever is held for a job; it could begin again. Idempotent."""
        if job.stepping and job.ask is not None and job.ask.stream is not None:
            self._streams.settle(job.ask.stream, job.prefix, sound=sound)
        if job.scratch is not None:
            job.scratch.drop()
        if job.span is not None:
            self._prefixes.release(job.span)
        job.stepping, job.scratch, job.span, job.rest, job.probe, job.ran = False, None, None, None, (), 0

    def _begun(self, job: Job) -> Row:
        if job.rest is not None:
            return job.rest
        ask = job.ask
        if ask is None or job.span is None:
            raise ValueError("a job has a row when it asks something under a prefix that it holds")
        if ask.stream is None:
            job.rest = Row(ask.tokens, (job.span,))
        else:
            job.rest = self._streams.row(ask, job.span)
            job.stepping = True
        return job.rest

    def _scratch(self, job: Job, row: Row) -> KVSpan:
        """Where a long row's portions leave what the next ones need. All of it is taken at once: two half-run rows never wait for
        each other. Nothing while the row keeps its tokens itself. Raises OutOfPages.
        """
        if job.scratch is None:
            job.scratch = KVSpan(self._prefixes.pool, first=row.start)
        if not row.keep and not job.scratch.length:
            job.scratch.first = row.start
            self._prefixes.make_room(job.scratch.pages_for(len(row.tokens)), tenant=job.tenant)
            job.scratch.reserve(len(row.tokens))
        return job.scratch
