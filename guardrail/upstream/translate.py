"""Other providers through litellm: an OpenAI request in, OpenAI bytes out. litellm is imported only when this is used."""

import asyncio
import importlib
import importlib.util
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

from guardrail.config.environment import keep_litellm_offline
from guardrail.errors import GuardrailError, UpstreamError
from guardrail.upstream.answer import Headers, Limits, Timeouts, UpstreamAnswer
from guardrail.upstream.bounded import bounded, joined

# What a request may say to litellm. Its call takes much more by the same way (api_base, api_key, credentials, fallbacks, mocks):
# no client may choose those, so the list names what travels and everything else stays here.
_FORWARDED = frozenset(
    {
        "messages",
        "n",
        "stream",
        "stream_options",
        "tools",
        "tool_choice",
        "functions",
        "function_call",
        "response_format",
        "temperature",
        "top_p",
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "user",
        "seed",
        "reasoning_effort",
        "modalities",
        "audio",
        "parallel_tool_calls",
        "prediction",
        "service_tier",
    }
)
_MODULES = {"litellm": "litellm", "errors": "openai"}
_PREFIX = re.compile(r"([A-Za-z0-9._-]+/)+")
_JSON = (("content-type", "application/json"),)
_EVENTS = (("content-type", "text/event-stream; charset=utf-8"),)


class LitellmUpstream:
    """`model_prefix` (`anthropic/`) is put before the request's model. Same interface as `UpstreamClient`.

    Raises ValueError for a prefix that does not name the provider: the client would choose it, and be served with your key.
    Only OpenAI's own chat parameters are passed on, and nothing is retried. `api_base` overrides the provider's address (a server
    of your own). Raises GuardrailError where the extra is not installed. A stream that ends cleanly but too early cannot be told
    from a whole one, because litellm then reports `stop` itself.
    """

    def __init__(
        self,
        model_prefix: str,
        *,
        api_key: str | None = None,
        api_base: str | None = None,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
    ) -> None:
        if importlib.util.find_spec(_MODULES["litellm"]) is None:
            raise GuardrailError("an upstream of kind litellm needs the litellm extra: pip install 'guardrail[litellm]'")
        if not _PREFIX.fullmatch(model_prefix):
            raise ValueError("a model_prefix names the provider and ends in /, like anthropic/")
        self._prefix = model_prefix
        self._settings = {
            "api_key": api_key,
            "api_base": api_base,
            "timeout": (timeouts or Timeouts()).read_s,
            "max_retries": 0,
            "num_retries": 0,
        }
        self._read_s = (timeouts or Timeouts()).read_s
        self._max_bytes = (limits or Limits()).answer_bytes
        self._litellm: Any = None
        self._errors: Any = None

    async def load(self) -> None:
        """Import litellm (seconds) in a thread, so that the first request does not wait for it. Idempotent."""
        if self._litellm is None:
            self._litellm, self._errors = await asyncio.to_thread(_import)

    @asynccontextmanager
    async def send(self, method: str, path: str, headers: Headers, body: bytes) -> AsyncIterator[UpstreamAnswer]:  # noqa: ARG002
        """See `Upstream.send`. Only `POST /v1/chat/completions` is served; others are answered 404. No client header travels."""
        if method != "POST" or path.partition("?")[0] != "/v1/chat/completions":
            yield _Answer(404, _JSON, _once(_error(404)), self._max_bytes)
            return
        await self.load()
        request = json.loads(body)
        known = {key: value for key, value in request.items() if key in _FORWARDED and value is not None}
        try:
            with self._translated():
                async with asyncio.timeout(self._read_s):
                    answer = await self._litellm.acompletion(model=f"{self._prefix}{request.get('model')}", **known, **self._settings)
        except _StatusError as refused:
            yield _Answer(refused.status, _JSON, _once(_error(refused.status)), self._max_bytes)
            return
        if known.get("stream") is True:
            async with aclosing(self._events(answer)) as events:
                yield _Answer(200, _EVENTS, events, self._max_bytes)
        else:
            yield _Answer(200, _JSON, _once(json.dumps(answer.model_dump(mode="json")).encode()), self._max_bytes)

    async def aclose(self) -> None:
        """Idempotent; litellm keeps its own connection pools."""

    async def _events(self, answer: Any) -> AsyncGenerator[bytes, None]:
        stream = aiter(answer)
        try:
            while True:
                with self._translated():
                    async with asyncio.timeout(self._read_s):
                        chunk = await anext(stream, None)
                if chunk is None:
                    break
                for frame in frames(chunk.model_dump(mode="json", exclude_none=True)):
                    yield b"data: " + json.dumps(frame).encode() + b"\n\n"
        except _StatusError as refused:
            raise UpstreamError("disconnect", f"the provider answered {refused.status} within the stream") from refused
        finally:
            close = getattr(answer, "aclose", None)
            if close is not None:
                await close()
        yield b"data: [DONE]\n\n"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """litellm's errors (all are OpenAI's) as ours; their messages may quote prompts and keys, so they stay here."""
        try:
            yield
        except (TimeoutError, self._errors.APITimeoutError) as error:
            raise UpstreamError("timeout", "the provider did not answer in time") from error
        except self._errors.OpenAIError as error:
            if any(isinstance(cause, self._errors.APIConnectionError) for cause in _causes(error)):
                raise UpstreamError("disconnect", "the provider could not be reached or broke off") from error
            raise _StatusError(int(getattr(error, "status_code", 502))) from error


class _StatusError(Exception):
    """The provider answered with an error status."""

    def __init__(self, status: int) -> None:
        self.status = status if 400 <= status <= 599 else 502
        super().__init__(f"status {self.status}")


class _Answer:
    def __init__(self, status: int, headers: tuple[tuple[str, str], ...], body: AsyncIterator[bytes], max_bytes: int) -> None:
        self.status = status
        self.headers = headers
        self._body = body
        self._max_bytes = max_bytes

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, once."""
        return bounded(self._body, self._max_bytes)

    async def read(self) -> bytes:
        """The whole body."""
        return await joined(self.chunks())


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was made from; litellm gives a failed connection the status 500."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _import() -> tuple[Any, Any]:
    keep_litellm_offline()  # before the import, which otherwise fetches a price list
    litellm: Any = importlib.import_module(_MODULES["litellm"])
    errors: Any = importlib.import_module(_MODULES["errors"])
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    return litellm, errors


def frames(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """litellm's chunk as OpenAI writes it: usage on a frame of its own, finish_reason and delta always there."""
    said = {key: value for key, value in document.items() if key != "usage"}
    choices = document.get("choices", ())
    if "choices" in document:
        said["choices"] = [{"delta": {}, "finish_reason": None} | choice for choice in choices]
    if not document.get("usage"):
        yield said
        return
    if any(any(value for key, value in choice.items() if key != "index") for choice in choices):
        yield said
    yield {**said, "choices": [], "usage": document["usage"]}


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _error(status: int) -> bytes:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": f"The provider answered with status {status}.", "type": kind, "param": None, "code": f"provider_{status}"}
    return json.dumps({"error": error}).encode()
