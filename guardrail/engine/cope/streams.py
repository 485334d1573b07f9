"""Growing answers: what was said already stays resident behind its policy, so that a re-check runs the new tokens only."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from guardrail.engine.cope.eviction import StreamKV
from guardrail.engine.cope.kv import PAGE, KVPool, KVSpan, OutOfPages
from guardrail.engine.cope.messages import Ask
from guardrail.engine.cope.prefixes import PrefixStore, common_length
from guardrail.engine.cope.rows import Row


@dataclass(frozen=True, slots=True)
class StreamCounters:
    """`streams` with KV, and its `bytes`, now. Since the start: `fallbacks` (rows that could not keep all that they should), `dropped`
    (streams whose KV gave way to something else), `tokens_run` in streams' rows, `tokens_streamed` by which contents have grown.
    """

    streams: int
    bytes: int
    fallbacks: int
    dropped: int
    tokens_run: int
    tokens_streamed: int


@dataclass(slots=True, eq=False)
class _Stream:
    """`kv` is None while nothing is resident, and then nothing is pinned. `flying` counts rows handed out and not settled yet."""

    kv: StreamKV | None = None
    flying: int = 0
    longest: int = 0
    spoiled: bool = False
    forgotten: bool = False


class StreamStore:
    """KV of streams, by (stream, prefix key). Not thread-safe: the engine's thread owns it.

    It takes `budget_bytes` of the pool at most: beyond that the KV of the longest idle streams is dropped, and their next step runs them
    whole and builds it anew. A stream with KV pins its policy; idle ones give up both where room is needed for something else.
    `most_streams` bounds the streams that are remembered at all.
    """

    def __init__(self, prefixes: PrefixStore, *, budget_bytes: int, most_streams: int = 65_536) -> None:
        self._prefixes = prefixes
        self._pool: KVPool = prefixes.pool
        self._budget = budget_bytes // self._pool.page_bytes
        self._most = most_streams
        self._streams: OrderedDict[tuple[str, str], _Stream] = OrderedDict()
        self._prefixes_of: dict[str, set[str]] = {}
        self._resident: dict[int, _Stream] = {}  # by the identity of its span
        self._fallbacks = self._dropped = self._tokens_run = self._tokens_streamed = 0
        prefixes.yields_to(self)

    @property
    def counters(self) -> StreamCounters:
        """A snapshot."""
        return StreamCounters(
            streams=len(self._resident),
            bytes=self._pages() * self._pool.page_bytes,
            fallbacks=self._fallbacks,
            dropped=self._dropped,
            tokens_run=self._tokens_run,
            tokens_streamed=self._tokens_streamed,
        )

    def row(self, ask: Ask, prefix_span: KVSpan) -> Row:
        """A stream's next step behind its (acquired) policy; `settle` it after its pass, whatever became of that.

        It runs what differs from the longest common token prefix with what is resident. Where pages cannot be had it keeps what fits, at
        worst nothing, and the next step runs that again: the answer is the same. While a step of the same stream is out, another one
        is run whole. Raises ValueError for an ask that names no stream.
        """
        if ask.stream is None:
            raise ValueError("an ask without a stream has no KV to grow")
        stream = self._remember(ask.stream, ask.prefix)
        stream.flying += 1
        self._tokens_streamed += max(0, ask.keep - stream.longest)
        stream.longest = max(stream.longest, ask.keep)
        row = self._step(stream, ask, prefix_span) if stream.flying == 1 else Row(ask.tokens, (prefix_span,))
        self._tokens_run += len(row.tokens)
        self._fallbacks += row.start + row.keep < prefix_span.length + ask.keep
        return row

    def settle(self, stream: str, prefix: str, *, sound: bool = True) -> None:
        """A row's pass is over: computed, failed or never run. `sound=False`: its KV is not to be used again (it gave no number)."""
        state = self._streams.get((stream, prefix))
        if state is None or not state.flying:
            return
        state.flying -= 1
        state.spoiled = state.spoiled or not sound
        if state.flying:
            return
        if state.kv is not None:
            state.kv.span.truncate(state.kv.span.length)  # pages that were reserved for a pass that failed
            if state.forgotten or state.spoiled or not state.kv.span.length:
                self._give_up(state)
        state.spoiled = False
        if state.forgotten:
            self._erase(stream, prefix)

    def forget(self, stream: str) -> None:
        """Give a stream's pages back, under every prefix; what is out in a pass, when it settles. Idempotent."""
        for prefix in list(self._prefixes_of.get(stream, ())):
            state = self._streams[stream, prefix]
            state.forgotten = True
            if not state.flying:
                self._give_up(state)
                self._erase(stream, prefix)

    def idle(self) -> Sequence[StreamKV]:
        """KV of the streams whose last step is settled, the longest unused first."""
        idle = [stream.kv for stream in self._resident.values() if stream.kv is not None and not stream.flying]
        return sorted(idle, key=lambda kv: kv.used)

    def drop(self, stream: StreamKV) -> None:
        """Give an idle stream's pages back and unpin its policy; its next step builds its KV anew."""
        self._give_up(self._resident[id(stream.span)])
        self._dropped += 1

    def _remember(self, name: str, prefix: str) -> _Stream:
        stream = self._streams.setdefault((name, prefix), _Stream())
        self._prefixes_of.setdefault(name, set()).add(prefix)
        self._streams.move_to_end((name, prefix))
        if len(self._streams) > self._most:
            oldest = next((names for names, other in self._streams.items() if not other.flying and other is not stream), None)
            if oldest is not None:
                self._give_up(self._streams[oldest])
                self._erase(*oldest)
        return stream

    def _step(self, stream: _Stream, ask: Ask, prefix: KVSpan) -> Row:
        if stream.kv is not None and stream.kv.prefix is not prefix:
            self._give_up(stream)  # its policy left and came back elsewhere; what it pinned is not what this step reads
        span = self._begin(stream, prefix)
        wanted = min(ask.keep, len(ask.tokens))
        same = min(common_length(span.tokens, ask.tokens[:wanted]), len(ask.tokens) - 1)  # something must run for the answer
        span.truncate(same)
        self._grow(span, wanted, ask.tenant)
        keep = min(wanted, len(span.pages) * PAGE) - same
        chain = (prefix, span) if same else (prefix,)
        return Row(ask.tokens[same:], chain, into=span if keep else None, keep=keep, probe=ask.probe)

    def _begin(self, stream: _Stream, prefix: KVSpan) -> KVSpan:
        if stream.kv is None:
            stream.kv = StreamKV(KVSpan(self._pool, first=prefix.length), prefix, 0)
            prefix.pins += 1
            self._resident[id(stream.kv.span)] = stream
        stream.kv.used = self._prefixes.tick()
        return stream.kv.span

    def _grow(self, span: KVSpan, length: int, tenant: str) -> None:
        """Own pages for `length` tokens, or as many as the budget holds, or, where the pool cannot give those, no more than now."""
        missing = span.pages_for(length)
        if not missing:
            return
        for other in self.idle():
            if self._pages() + missing <= self._budget:
                break
            self.drop(other)
        missing = min(missing, self._budget - self._pages())
        if missing <= 0:
            return
        try:
            self._prefixes.make_room(missing, tenant=tenant)
        except OutOfPages:
            return
        span.reserve((len(span.pages) + missing) * PAGE)

    def _pages(self) -> int:
        return sum(len(stream.kv.span.pages) for stream in self._resident.values() if stream.kv is not None)

    def _give_up(self, stream: _Stream) -> None:
        if stream.kv is not None:
            del self._resident[id(stream.kv.span)]
            stream.kv.span.drop()
            self._prefixes.release(stream.kv.prefix)
            stream.kv = None

    def _erase(self, stream: str, prefix: str) -> None:
        del self._streams[stream, prefix]
        self._prefixes_of[stream].discard(prefix)
        if not self._prefixes_of[stream]:
            del self._prefixes_of[stream]
