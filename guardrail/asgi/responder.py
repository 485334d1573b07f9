"""One guarded request from its first byte to its last: admit, judge, call the app behind, let the answer through the gate."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

from guardrail.asgi.exchange import SCOPE_KEY, Exchange
from guardrail.asgi.gate import Gate, Halted
from guardrail.asgi.intake import LARGE_BODY, ClientGoneError, check_headers, read_body, request_id
from guardrail.asgi.messages import ASGIApp, Message, RawHeaders, Receive, Scope, Send
from guardrail.asgi.outlet import Outlet
from guardrail.asgi.paths import local_path
from guardrail.asgi.service import GuardService
from guardrail.asgi.stored import refused
from guardrail.asgi.tenant import caller
from guardrail.context import asks
from guardrail.errors import GuardrailError, UpstreamError, WireError
from guardrail.events import RequestRefused
from guardrail.telemetry.tracing import RequestSpan
from guardrail.types import Action, Decision
from guardrail.wire.dialect import Dialect
from guardrail.wire.dialects import DIALECTS
from guardrail.wire.moderated import without_moderation
from guardrail.wire.refusal import Reply, failure, input_block, unavailable, wire_error
from guardrail.wire.request import Request

logger = logging.getLogger("guardrail")

NOTICE = "This request was blocked by content policy."
BACKGROUND_S = 60.0
"""How long an app may go on after the client has its answer."""
_UNWINDING_S = 10.0  # how long a cancelled app may take to let go
_REPLACED = frozenset({b"accept-encoding", b"x-request-id"})


class GuardResponder:
    """Holds one request's state, so that the middleware that made it need hold none."""

    def __init__(self, app: ASGIApp, service: GuardService, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = app
        self._service = service
        self._scope = scope
        self._receive = receive
        self._started = time.monotonic()
        self._request_id = request_id(scope["headers"])
        self._tenant = ""
        self._dialect = DIALECTS.get(local_path(scope))
        shape = self._dialect.shape if self._dialect is not None else None
        self._outlet = Outlet(send, request_id=self._request_id, timeout_s=service.limits.client_timeout_s, shape=shape)
        self._span: RequestSpan | None = None
        self._exchange: Exchange | None = None

    async def __call__(self) -> None:
        """Answer the request. Nothing of it is left running afterwards."""
        tracing = self._service.tracing
        if tracing is None:
            await self._answer()
            self._served()
            return
        scope = self._scope
        with tracing.request(scope["headers"], scope["method"], local_path(scope), scheme=scope.get("scheme", "http")) as self._span:
            await self._answer()
            if self._outlet.status is not None:
                self._span.answered(self._outlet.status)
            self._served()

    def _served(self) -> None:
        """What guarding added to the request, told to the observers."""
        if self._exchange is not None:
            overhead_s = self._exchange.overhead_s()
            if self._span is not None:
                self._span.took(overhead_s)
            self._service.served(self._exchange.route.name, overhead_s)

    async def refuse(self, error: WireError) -> None:
        """Answer with an error of our own, and tell the observers: nothing was judged. A client that does not take it is left."""
        self._refused(error.status, error.code, error.limit)
        self._outlet.allowance = self._service.quotas.headers(self._tenant)
        allow = (("allow", "POST"),) if error.status == 405 else ()
        with contextlib.suppress(ClientGoneError):
            await self._outlet.reply(self._spelled(error), allow)

    async def _answer(self) -> None:
        try:
            await self._respond()
        except WireError as error:
            await self.refuse(error)
        except ClientGoneError:
            return
        except Exception:  # border: a defect is logged and answered; nothing unjudged leaves because of it
            logger.exception("request %s failed unexpectedly", self._request_id)
            reply = self._defect()
            self._refused(reply.status, "internal_error")
            if self._outlet.status is not None:
                raise
            with contextlib.suppress(ClientGoneError):
                await self._outlet.reply(reply, (("x-should-retry", "false"),))

    async def _respond(self) -> None:
        dialect = self._identify()
        with self._service.admitted(self._tenant):
            self._outlet.allowance = self._service.quotas.headers(self._tenant)
            self._exchange = exchange = await self._admit(dialect)
            await self._until_gone(self._serve(exchange), exchange.route.deadline_s)

    def _spelled(self, error: WireError) -> Reply:
        return wire_error(error)

    def _defect(self) -> Reply:
        """The answer in place of one that a defect prevented."""
        return failure(500, "internal_error", "The guard failed unexpectedly; nothing was passed on.")

    def _identify(self) -> Dialect:
        """What is asked, and by whom, without a look at the body. Raises WireError."""
        if self._dialect is None:
            raise WireError(404, "not_found", "This path is not served here.")
        if self._service.table is None:
            raise WireError(503, "guardrail_unavailable", "The guard is not running.")
        if self._scope["method"] != "POST":
            raise WireError(405, "method_not_allowed", "Only POST is served here.")
        self._tenant = caller(self._service.tenants, self._scope["headers"])
        return self._dialect

    async def _body(self) -> bytes:
        """The body, in the one form that is read. Raises WireError or ClientGoneError."""
        limits = self._service.limits
        most = self._service.quotas.body_bytes(self._tenant, limits.max_body_bytes)
        check_headers(self._scope["headers"], max_bytes=most)
        return await read_body(self._receive, max_bytes=most, timeout_s=limits.client_timeout_s)

    async def _admit(self, dialect: Dialect) -> Exchange:
        """Everything that can be refused before anything is judged. Raises WireError or ClientGoneError."""
        service = self._service
        body = await self._body()
        parse = dialect.parse_request
        request: Request = parse(body) if len(body) < LARGE_BODY else await asyncio.to_thread(parse, body)
        table = service.table
        if table is None:
            raise WireError(503, "guardrail_unavailable", "The guard is not running.")
        service.quotas.answer(self._tenant, dialect.path, request.document)
        route = table.match(dialect.path, request.model, self._tenant)
        if route is None:
            raise WireError(404, "model_not_found", "No route serves this model.", param="model")
        moderation = dialect.moderation.read(request.document) if dialect.moderation is not None else None
        if moderation is not None:
            route, body = moderation.widened(route), without_moderation(request.document)
        if route.definitions == "trust":
            request = replace(request, trusting=True)
        if route.input or asks(route) or service.quotas.reads(self._tenant):
            service.quotas.read(self._tenant, request.parts)  # what cannot be taken apart is refused before anything is called
        if self._span is not None:
            self._span.routed(route, self._tenant, self._request_id)
        exchange = Exchange(self._request_id, self._tenant, route, dialect, request, body, service.judgement, self._started)
        exchange.moderation = moderation
        await self._continue(exchange)
        return exchange

    async def _continue(self, exchange: Exchange) -> None:
        """Fetch and count the stored turns that the request continues. Raises WireError where the route does not, they cannot be read, or
        the prompt is too long with them."""
        turns, route, wanted = self._service.stored, exchange.route, exchange.request.stored
        if turns is not None and route.stored_turns == "resolve":
            exchange.handed_out = partial(turns.handed_out.add, self._tenant)
            if wanted is not None:
                exchange.stored = await turns.parts(wanted, route, self._tenant, self._scope["headers"])
                if exchange.stored:
                    self._service.quotas.read_more(self._tenant, exchange.request.parts, exchange.stored)
        elif wanted is not None:
            raise refused()

    async def _serve(self, exchange: Exchange) -> None:
        if exchange.route.timing == "parallel" and exchange.route.input:
            await self._beside(exchange)
            return
        refusal = None
        if exchange.route.input:
            refusal = self._refusal(exchange, await exchange.judge_request())
        if refusal is not None:
            await self._outlet.reply(refusal, exchange.headers())
            return
        await self._call(exchange, Gate(exchange, self._outlet, max_bytes=self._service.limits.max_answer_bytes))

    async def _beside(self, exchange: Exchange) -> None:
        """`timing: parallel`: the app is called while the prompt is judged, and cancelled when that blocks."""
        permit = asyncio.Event()
        gate = Gate(exchange, self._outlet, max_bytes=self._service.limits.max_answer_bytes, permit=permit)
        call = asyncio.create_task(self._call(exchange, gate))
        judging = asyncio.create_task(exchange.judge_request())
        try:
            await asyncio.wait((judging,))
            refusal = self._refusal(exchange, judging.result())
            if refusal is None:
                permit.set()
                await call
        finally:
            gate.closed = True
            try:
                await _stop(call)
                await asyncio.wait((judging,))  # until its deadline: the upstream has the prompt, whether or not the client has left
            finally:
                judging.cancel()
        if refusal is not None:
            await self._outlet.reply(refusal, exchange.headers())

    def _refusal(self, exchange: Exchange, decision: Decision | None) -> Reply | None:
        """What the client gets instead of an answer; None when the prompt may go on."""
        if decision is None or decision.action < Action.REDACT or (decision.history and decision.action is Action.REDACT):
            return None
        if decision.outcome.unavailable:
            return unavailable(decision)
        if exchange.route.on_block == "reply" and exchange.dialect.block_reply is not None:
            return exchange.dialect.block_reply(decision, exchange.request, NOTICE, int(time.time()))
        return input_block(decision, param=exchange.dialect.param)

    async def _call(self, exchange: Exchange, gate: Gate) -> None:
        """Run the app behind the guard until it has answered."""
        asked, operation = exchange.request, exchange.dialect.operation
        target = self._service.target(exchange.route, asked, operation)
        exchange.called = time.monotonic()
        if target is None:
            await self._run(exchange, gate, [])
            return
        span = self._service.tracing.upstream(target) if self._service.tracing is not None else None
        with contextlib.nullcontext() if span is None else span:
            gate.span = span
            await self._run(exchange, gate, [] if span is None else [*span.inject({}).items()])
        if span is not None:
            self._service.observe(span.call)

    async def _run(self, exchange: Exchange, gate: Gate, trace: list[tuple[str, str]]) -> None:
        scope = {**self._scope, "headers": self._headers(trace, exchange.body), "extensions": {}, SCOPE_KEY: exchange}
        try:
            await self._app(scope, _Replay(exchange.body, gate.over), gate.send)
            await gate.settled()
            if not gate.closed:
                raise UpstreamError("disconnect", "the answer ended before it was whole")
            if self._outlet.status is None:
                raise GuardrailError("the answer was judged, but the app behind the guard hid why it was not sent")
        except Halted:
            return
        except UpstreamError as error:
            await gate.fail(error)
        except ClientGoneError:
            raise
        except Exception:  # border: the app behind the guard is foreign code; its failure is an upstream's failure
            if gate.closed and not self._outlet.complete:
                raise  # the app has answered: what failed is the sending, which is ours
            logger.exception("request %s: the app behind the guard failed", self._request_id)
            await gate.fail(UpstreamError("crash", "the app behind the guard failed"))
        finally:
            await gate.aclose()

    def _headers(self, trace: list[tuple[str, str]], body: bytes) -> RawHeaders:
        """The client's headers as the app sees them: an answer must come unencoded; trace, request id and length are ours."""
        names = _REPLACED | {name.encode() for name, _ in trace}
        length = str(len(body)).encode()
        kept = [(name, length if name == b"content-length" else value) for name, value in self._scope["headers"] if name not in names]
        kept += [(b"accept-encoding", b"identity"), (b"x-request-id", self._request_id.encode())]
        return kept + [(name.encode(), value.encode()) for name, value in trace]

    async def _until_gone(self, work: Coroutine[Any, Any, None], judging_s: float) -> None:
        """Do the work, or stop it as soon as the client leaves; what is out by then is judged, which takes `judging_s` at most."""
        serving = asyncio.create_task(work)
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait((serving, watching), return_when=asyncio.FIRST_COMPLETED)
            if self._outlet.complete and not serving.done():  # what the app still does in the background is its own, within bounds
                await asyncio.wait((serving,), timeout=BACKGROUND_S)
            if serving.done():
                await serving
        finally:
            watching.cancel()  # it only waits, so it is gone at once
            await _stop(serving, within_s=judging_s + 2 * _UNWINDING_S)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _refused(self, status: int, code: str, limit: str = "") -> None:
        path = local_path(self._scope)[:256]
        self._service.events.emit(RequestRefused(status, code, self._request_id, self._tenant, path, limit))


class _Replay:
    """The `receive` of the app behind the guard: the body once, then nothing until its answer is settled."""

    def __init__(self, body: bytes, over: asyncio.Event) -> None:
        self._body: bytes | None = body
        self._over = over

    async def __call__(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._over.wait()
        return {"type": "http.disconnect"}


async def _stop(task: asyncio.Task[None], *, within_s: float = _UNWINDING_S) -> None:
    """Cancel what still runs and wait until it has let go."""
    if not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=within_s)
    if task.done() and not task.cancelled():
        task.exception()
