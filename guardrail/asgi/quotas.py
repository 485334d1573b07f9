"""Each tenant's quota on this process, and what a caller is told when it is used up."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from guardrail.asgi.messages import RawHeaders
from guardrail.config.limits import LimitsConfig
from guardrail.config.models import Config
from guardrail.errors import LimitError, WireError
from guardrail.quota import Allowance, Ceilings, Excess, Quota
from guardrail.types import Part
from guardrail.wire.ceiling import refuse_more

_MESSAGES: Mapping[str, str] = {
    "requests": "Too many requests in a short time; try again after the time in retry-after.",
    "concurrency": "Too many requests of this caller are being served; try again shortly.",
    "characters": "Too much text in a short time; try again after the time in retry-after.",
}


class Quotas:
    """The quotas of the configured tenants. For the event loop's own thread.

    `workers`: how many processes share the limits; each allows its part, so that together they never allow more (but one request at once
    and, after a pause, one longest prompt each). `clock` is in seconds.
    """

    def __init__(self, config: Config, *, workers: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        now = clock()
        self._clock = clock
        self._quotas = {name: Quota(ceilings_of(config.limits_of(name)).share(workers), now=now) for name in config.tenant_names}

    @contextmanager
    def entered(self, tenant: str) -> Iterator[None]:
        """Count a request for the length of a `with`. Raises LimitError, and then nothing of the request was counted."""
        quota = self._quotas[tenant]
        _refuse(quota.enter(self._clock()))
        try:
            yield
        finally:
            quota.leave()

    def body_bytes(self, tenant: str, most: int) -> int:
        """The largest body that a tenant may send where the server takes `most`."""
        own = self._quotas[tenant].ceilings.body_bytes
        return most if own is None else min(own, most)

    def reads(self, tenant: str) -> bool:
        """Whether a tenant's texts are counted."""
        return self._quotas[tenant].ceilings.longest_prompt is not None

    def read(self, tenant: str, parts: Iterable[Part]) -> None:
        """Count the text of a request. Raises LimitError, and WireError (400) for one that is longer than could ever be taken."""
        quota = self._quotas[tenant]
        longest = quota.ceilings.longest_prompt
        if longest is None:
            return
        characters = _characters(parts)
        if characters > longest:
            error = WireError(400, "prompt_too_long", f"The prompt is too long: {characters} characters; this caller may send {longest}.")
            error.limit = "prompt"
            raise error
        _refuse(quota.read(characters, self._clock()))

    def read_more(self, tenant: str, read: Iterable[Part], more: Iterable[Part]) -> None:
        """Count the rest of a prompt of which a part was `read` before, as one prompt. Raises as `read`, and then neither is counted."""
        read = tuple(read)
        self._quotas[tenant].unread(_characters(read), self._clock())
        self.read(tenant, (*read, *more))

    def answer(self, tenant: str, path: str, document: Mapping[str, object]) -> None:
        """Raises WireError (400) for a request that asks for more tokens than the tenant may, or leaves their number open."""
        most = self._quotas[tenant].ceilings.answer_tokens
        if most is not None:
            refuse_more(path, document, most)

    def headers(self, tenant: str) -> RawHeaders:
        """What is left of the tenant's limits, in the words of OpenAI's headers; empty where nothing is limited in time."""
        quota = self._quotas.get(tenant)
        return [] if quota is None else [pair for left in quota.allowances(self._clock()) for pair in _told(left)]


def ceilings_of(limits: LimitsConfig) -> Ceilings:
    """Configured limits as a quota takes them. Without a burst it is what one second brings."""
    return Ceilings(
        requests_per_s=limits.requests_per_s,
        burst=max(1.0, limits.requests_per_s or 1.0) if limits.burst is None else float(limits.burst),
        concurrency=limits.concurrency,
        body_bytes=limits.max_body_bytes,
        prompt_characters=limits.prompt_characters,
        characters_per_minute=limits.characters_per_minute,
        answer_tokens=limits.max_tokens,
    )


def _characters(parts: Iterable[Part]) -> int:
    return sum(len(part.text) for part in parts if part.text)


def _refuse(excess: Excess | None) -> None:
    if excess is not None:
        raise LimitError(excess.kind, excess.retry_after_s, _MESSAGES[excess.kind])


def _told(left: Allowance) -> RawHeaders:
    said = {"limit": str(left.limit), "remaining": str(left.remaining), "reset": spelled(left.reset_s)}
    return [(f"x-ratelimit-{what}-{left.kind}".encode(), value.encode()) for what, value in said.items()]


def spelled(seconds: float) -> str:
    """A duration as OpenAI's headers have it: `20ms`, `1s`, `6m0s`; rounded up."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
