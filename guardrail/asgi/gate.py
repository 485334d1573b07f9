"""The answer's way to the client: it is withheld until it is judged, whatever shape it has."""

import asyncio
import time
from collections.abc import Mapping

from guardrail.asgi.exchange import Exchange
from guardrail.asgi.hold import EVENT_STREAM, Bystander, WholeAnswer, holder
from guardrail.asgi.intake import ClientGoneError
from guardrail.asgi.messages import Message, RawHeaders, header, raw_headers
from guardrail.asgi.outlet import Outlet, foreign
from guardrail.asgi.streamed import StreamedAnswer, UnjudgedError, Ways, redacts, streams_live
from guardrail.asgi.upstream_error import MAX_BYTES, error_reply
from guardrail.errors import UpstreamError
from guardrail.telemetry.tracing import UpstreamSpan, said_of
from guardrail.types import Action, Decision, Mode, Stage
from guardrail.wire.dialect import Collector
from guardrail.wire.refusal import blocked_choices, unavailable, upstream_failure

NOTICE = "This answer was withheld by content policy."

# What describes the upstream's own bytes, which may be replaced, or the connection to it.
_DROPPED = frozenset(
    {b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"etag", b"content-md5", b"digest", b"trailer"}
)


class Halted(asyncio.CancelledError):
    """Raised into the app behind the guard when its answer is of no further use; it unwinds as a cancellation does."""


class Gate:
    """Takes the ASGI messages of the app behind the guard. One per exchange.

    `permit` holds everything back until it is set (the prompt is being judged beside the upstream); None needs no permission.
    A 2xx answer is collected and judged where the route enforces something on answers. Where it only watches them they pass as
    they come and are judged afterwards; where it checks nothing they just pass. An error status is passed on with a safe body.
    A redirect, an unknown content type or a content-encoding cannot be judged: 502.
    """

    def __init__(self, exchange: Exchange, outlet: Outlet, *, max_bytes: int, permit: asyncio.Event | None = None) -> None:
        self._exchange = exchange
        self._outlet = outlet
        self._max_bytes = max_bytes
        self._permit = permit
        self._head: tuple[int, RawHeaders] | None = None
        self._held: Collector | None = None
        self._bystander: Bystander | None = None
        self._live: StreamedAnswer | None = None
        self._cutting: asyncio.Task[None] | None = None
        self._busy = asyncio.Lock()  # the app's messages and the end that does not wait for them, one at a time
        self._error_body: bytearray | None = None
        self._enforcing = exchange.moderation is not None or any(check.mode is Mode.ENFORCE for check in exchange.route.output)
        self.span: UpstreamSpan | None = None
        self.closed = False
        """Nothing more is taken from the app."""
        self.over = asyncio.Event()
        """The client has its answer: the app is told that the client has left, so that it does not wait for it."""

    async def send(self, message: Message) -> None:
        """Take one message. What comes after the answer is settled is dropped."""
        async with self._busy:
            await self._take(message)

    async def _take(self, message: Message) -> None:
        if self.closed:
            return
        try:
            if message["type"] == "http.response.start":
                await self._start(message["status"], list(message.get("headers", ())))
            elif message["type"] == "http.response.body":
                await self._body(message.get("body", b""), more=message.get("more_body", False))
            elif message["type"] in ("http.response.pathsend", "http.response.zerocopysend"):
                raise UpstreamError("malformed", "the answer came in a form that cannot be judged")
        except UpstreamError as error:
            await self._fail(error)
            raise Halted from error
        except ClientGoneError as error:
            self.closed = True
            raise Halted from error
        finally:
            if self.closed:
                self.over.set()

    async def fail(self, error: UpstreamError) -> None:
        """The upstream broke. Once, and before anything was released: 502 or 504. Later the stream is ended as broken."""
        async with self._busy:
            await self._fail(error)

    async def _fail(self, error: UpstreamError) -> None:
        if self.closed:
            return
        if self._outlet.status is None:
            await self._stop_judging()
        elif self._live is not None:
            await self._live.stop()  # what is out is judged once the client knows that nothing more comes
        self.closed = True
        self._answered()
        self._exchange.upstream_failed(error)
        await self._permitted()
        if self._outlet.status is None:
            await self._outlet.reply(upstream_failure(error), self._exchange.headers())
        elif self._streams():
            await self._outlet.write(self._exchange.dialect.error_event(upstream_failure(error)))
        # Any other half-sent body is left incomplete, so that the server cuts the connection and the client notices.

    async def settled(self) -> None:
        """Wait for the end that came before the upstream's, if one did. Raises what went wrong with it."""
        if self._cutting is not None and self._live is not None and self._live.ended.is_set():
            await self._cutting

    async def aclose(self) -> None:
        """Stop judging what will not be let out, and judge what is out without having been. Idempotent."""
        if self._cutting is not None:
            self._cutting.cancel()
            await asyncio.wait((self._cutting,))
            if not self._cutting.cancelled():
                self._cutting.exception()  # it was raised by `settled`, or is of no use to anybody
        await self._stop_judging()

    async def _stop_judging(self) -> None:
        if self._live is not None and (decision := await self._live.aclose()) is not None:
            self._exchange.decisions.append(decision)
        if self._bystander is not None:
            await self._bystand(self._bystander, whole=False)

    async def _bystand(self, bystander: Bystander, *, whole: bool) -> None:
        """Judge an answer that was only watched, as far as it is out."""
        self._bystander = None
        if parts := bystander.parts(whole=whole):
            await self._exchange.judge(Stage.OUTPUT, parts, released=True)

    async def _start(self, status: int, headers: RawHeaders) -> None:
        if self._head is not None:
            raise UpstreamError("malformed", "the answer has two heads")
        headers = [(name.lower(), value) for name, value in headers]
        self._head = (status, headers)
        if status < 200 or 300 <= status < 400:
            raise UpstreamError("malformed", f"the upstream answered with status {status}, which is neither an answer nor an error")
        if status >= 400:
            self._exchange.upstream_failed(status)
        if not self._enforcing:
            if (self._exchange.route.output or self._exchange.handed_out) and status < 400:
                self._bystander = Bystander(headers, self._exchange.dialect, max_bytes=self._max_bytes)
            await self._permitted()
            self._answered()
            await self._outlet.open(status, self._head_out(keep_length=True))
        elif status >= 400:
            self._error_body = bytearray()
        elif (release := self._exchange.dialect.release) is not None and self._streams_live(headers):
            self._live = self._exchange.streamed(Ways(self._write, NOTICE), release(self._max_bytes))
            self._cutting = asyncio.create_task(self._cut_off(self._live))
        else:
            self._held = holder(headers, self._exchange.dialect, max_bytes=self._max_bytes)

    async def _body(self, content: bytes, *, more: bool) -> None:
        if self._head is None:
            raise UpstreamError("malformed", "the answer has no head")
        if content and self.span is not None:
            self.span.chunk()
        if self._held is not None:
            if content:
                self._held.receive(content)
            self._exchange.whole = self._held.done
            if not more or (self._held.done and not self._exchange.attentive):
                await self._settle(self._held)
        elif self._live is not None:
            await self._stream(self._live, content, more=more)
        elif self._error_body is not None:
            if len(self._error_body) <= MAX_BYTES:
                self._error_body += content
            if not more:
                await self._settle_error(bytes(self._error_body))
        else:
            await self._pass(content, more=more)

    async def _pass(self, content: bytes, *, more: bool) -> None:
        if self._bystander is not None:
            self._bystander.receive(content)
        self.closed = not more
        if self.closed and self._bystander is not None:
            self._hand_out(self._bystander.head())
        await self._outlet.write(content, more=more)
        if self.closed and self.span is not None:
            self.span.answered(self._status())
        if self.closed and self._bystander is not None:
            await self._bystand(self._bystander, whole=True)

    async def _stream(self, live: StreamedAnswer, content: bytes, *, more: bool) -> None:
        """More of an answer that is let out while it is judged."""
        await self._permitted()
        try:
            if content:
                await live.receive(content)
            self._exchange.whole = live.over
            if not more or (live.over and not self._exchange.attentive):
                await self._conclude(live)
        except UnjudgedError as error:
            await self._unjudged()
            raise Halted from error

    async def _cut_off(self, live: StreamedAnswer) -> None:
        """End an answer of which nothing more can go out while the upstream takes its time, and have the app let go of that."""
        await live.ended.wait()
        async with self._busy:
            try:
                if not self.closed:
                    await self._conclude(live)
            except UnjudgedError:
                await self._unjudged()
            except UpstreamError as error:
                await self._fail(error)
            finally:
                self.closed = True
                self.over.set()
        if self._exchange.hang_up is not None:
            self._exchange.hang_up()

    async def _conclude(self, live: StreamedAnswer) -> None:
        """Judge and write what is left of an answer that was let out while it was judged."""
        decision = await live.finish()
        self.closed = True
        self._answered()
        if self.span is not None:
            self.span.answered(self._status(), live.usage, live.finish_reasons, **said_of(live.head))
        self._exchange.decisions.append(decision)
        self._exchange.held(live.most_held)
        if decision.action < Action.REDACT:
            self._hand_out(live.head)
        await live.let_out()
        await self._outlet.write(b"")

    async def _unjudged(self) -> None:
        """The rest of an answer cannot be judged, and the route blocks what is not."""
        await self._stop_judging()
        self.closed = True
        self._answered()
        decision = self._exchange.decisions[-1] if self._exchange.decisions else None
        if self._outlet.status is None:
            await self._outlet.reply(unavailable(decision), self._exchange.headers())
        else:
            await self._outlet.write(self._exchange.dialect.error_event(unavailable(decision)))

    async def _write(self, content: bytes) -> None:
        if self._outlet.status is None:
            await self._outlet.open(self._status(), self._head_out())
        await self._outlet.write(content, more=True)

    async def _settle(self, held: Collector) -> None:
        """The answer is whole: judge it, then let it or its replacement out."""
        held.finish()
        self.closed = True
        self._answered()
        status = self._status()
        if self.span is not None:
            reasons = [reason for reason in held.finish_reasons.values() if reason]
            self.span.answered(status, held.usage, reasons, **said_of(held.head))
        await self._permitted()
        parts = held.parts()
        self._exchange.held(sum(len(part.text or "") for part in parts))
        if isinstance(held, WholeAnswer) and redacts(self._exchange.route):
            await self._redact(held)
            return
        decision = await self._exchange.judge(Stage.OUTPUT, parts)
        if decision is not None and decision.action >= Action.REDACT:
            await self._withhold(held, decision)
            return
        self._hand_out(held.head)
        await self._release(held.release())

    def _hand_out(self, head: Mapping[str, object]) -> None:
        """The client is given the answer as it is."""
        if self._exchange.handed_out is not None:
            self._exchange.handed_out(head)

    async def _withhold(self, held: Collector, decision: Decision) -> None:
        if decision.outcome.unavailable:
            await self._outlet.reply(unavailable(decision), self._exchange.headers())
            return
        # A block that names no choice is one of the whole answer.
        blocked = blocked_choices(decision) or {choice: {} for choice in held.finish_reasons}
        await self._release(held.replaced(blocked, NOTICE))

    def _streams_live(self, headers: RawHeaders) -> bool:
        """What moderation found stands at the end of an answer, so one that is to tell it is judged whole."""
        return self._exchange.moderation is None and streams_live(self._exchange.route, headers)

    async def _redact(self, held: WholeAnswer) -> None:
        """Let out what is left of a whole answer once what violates is taken out of it."""
        answer, dialect = held.answer, self._exchange.dialect
        try:
            left = await self._exchange.redacted(answer)
        except UnjudgedError:
            await self._unjudged()
            return
        if left.document is answer.document and not left.blocked:
            self._hand_out(held.head)
            await self._release(held.release())
            return
        content = dialect.replace_blocked(dialect.read_answer(left.document), left.blocked, NOTICE)
        await self._release((content,))

    async def _release(self, pieces: tuple[bytes, ...]) -> None:
        pieces = self._exchange.told(pieces, streamed=self._streams())
        content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        headers = self._head_out()
        headers.append((b"content-length", str(len(content)).encode()))
        await self._outlet.open(self._status(), headers)
        await self._outlet.write(content)

    async def _settle_error(self, content: bytes) -> None:
        self.closed = True
        self._answered()
        status = self._status()
        if self.span is not None:
            self.span.answered(status)
        await self._permitted()
        reply = self._exchange.dialect.shape(error_reply(status, content))
        headers = [pair for pair in self._head_out() if pair[0] not in (b"content-type", b"content-encoding")]
        headers += [*raw_headers(reply.headers), (b"content-length", str(len(reply.body)).encode())]
        await self._outlet.open(status, headers)
        await self._outlet.write(reply.body)

    def _head_out(self, *, keep_length: bool = False) -> RawHeaders:
        theirs = foreign(self._head[1] if self._head else (), without=_DROPPED - {b"content-length"} if keep_length else _DROPPED)
        return theirs + raw_headers(self._exchange.headers(self._taken()))

    def _taken(self) -> Action | None:
        """What was done so far to an answer whose head goes out before its decision; None where that is there, or none is to come."""
        if self._live is not None and not self.closed:
            return self._live.taken
        return Action.PASS if self._bystander is not None and self._exchange.route.output else None

    def _status(self) -> int:
        return self._head[0] if self._head else 0

    def _streams(self) -> bool:
        headers = self._head[1] if self._head else []
        return (header(headers, b"content-type") or b"").lower().startswith(EVENT_STREAM)

    def _answered(self) -> None:
        if self._exchange.answered is None:
            self._exchange.answered = time.monotonic()

    async def _permitted(self) -> None:
        if self._permit is not None:
            await self._permit.wait()
