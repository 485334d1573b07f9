"""A dying upstream is left alone: a breaker in front of it, a budget for what is tried again."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from guardrail.breaker import Breaker, BreakerSettings
from guardrail.errors import UpstreamError
from guardrail.upstream.answer import Limits, Timeouts
from guardrail.upstream.breaking import BreakingUpstream
from guardrail.upstream.client import UpstreamClient
from guardrail.upstream.retry import RESERVE, RetryBudget


class Scripted:
    """An upstream that does as it is told: a status, or an error's code."""

    def __init__(self) -> None:
        self.answer: int | str = 200
        self.asked = 0
        self.closed = False

    @asynccontextmanager
    async def send(self, *_: Any) -> AsyncIterator[Any]:
        self.asked += 1
        if isinstance(self.answer, str):
            raise UpstreamError(self.answer, "as told")
        yield type("Answer", (), {"status": self.answer})()

    async def aclose(self) -> None:
        self.closed = True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def made() -> tuple[BreakingUpstream, Scripted, Clock]:
    inner, clock = Scripted(), Clock()
    return BreakingUpstream(inner, Breaker(BreakerSettings(2, 10, 5), clock=clock)), inner, clock


async def asked(upstream: BreakingUpstream) -> int | str:
    try:
        async with upstream.send("POST", "/v1/x", (), b"") as answer:
            return answer.status
    except UpstreamError as error:
        return error.code


@pytest.mark.parametrize("failure", ["connect", "timeout", "disconnect", 502, 503, 504, 529])
async def test_an_upstream_that_fails_is_not_asked_until_one_trial_worked(failure: int | str) -> None:
    upstream, inner, clock = made()
    inner.answer = failure
    assert [await asked(upstream) for _ in range(4)] == [failure, failure, "circuit_open", "circuit_open"]
    assert inner.asked == 2
    clock.now = 5.0
    inner.answer = 200
    assert [await asked(upstream) for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("failure", [400, 429, 500, "malformed", "too_large"])
async def test_what_may_be_the_requests_own_fault_opens_nothing(failure: int | str) -> None:
    upstream, inner, _ = made()
    inner.answer = failure
    assert [await asked(upstream) for _ in range(5)] == [failure] * 5


async def test_a_break_within_an_answer_and_a_client_that_leaves_are_no_failures() -> None:
    upstream, inner, _ = made()
    for error in (UpstreamError("disconnect", "midway"), asyncio.CancelledError()):
        for _ in range(3):
            with pytest.raises(type(error)):
                async with upstream.send("POST", "/v1/x", (), b""):
                    raise error
    assert await asked(upstream) == 200
    await upstream.aclose()
    assert inner.closed


def test_further_tries_are_a_share_of_the_requests_beside_the_reserve() -> None:
    budget = RetryBudget(0.1)
    tries = 0
    for _ in range(1_000):
        budget.request()
        tries += sum(budget.take() for _ in range(2))
    assert tries <= RESERVE + 100
    assert tries >= 100
    none = RetryBudget(0)
    none.request()
    assert not none.take()


async def test_a_dead_upstream_is_not_tried_again_without_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        client = UpstreamClient(f"http://127.0.0.1:{port}/v1", timeouts=Timeouts(connect_s=60), limits=Limits(retry_budget=0.0))
        tries = 0
        request = client._request

        async def counted(*args: Any) -> Any:
            nonlocal tries
            tries += 1
            return await request(*args)

        monkeypatch.setattr(client, "_request", counted)
        for _ in range(3):
            with pytest.raises(UpstreamError, match="connected"):
                async with client.send("POST", "/v1/x", (), b""):
                    pass
        await client.aclose()
    assert tries == 3


async def test_each_further_try_is_taken_from_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    client = UpstreamClient("http://127.0.0.1:9/v1", timeouts=Timeouts(connect_s=60))
    client._retries = budget = RetryBudget(1e-9)
    while budget.take():
        pass
    budget._held = 1.0  # one further try, and hardly more with each request
    tries = 0

    async def failing(*_: Any) -> Any:
        nonlocal tries
        tries += 1
        raise UpstreamError("connect", "no")

    monkeypatch.setattr(client, "_request", failing)
    for _ in range(3):
        with pytest.raises(UpstreamError):
            async with client.send("POST", "/v1/x", (), b""):
                pass
    await client.aclose()
    assert tries == 4  # three requests, and the one further try there was


async def test_nothing_is_tried_again_after_the_time_of_one_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    client = UpstreamClient("http://127.0.0.1:9/v1", timeouts=Timeouts(connect_s=0.05))
    tries = 0

    async def failing(*_: Any) -> Any:
        nonlocal tries
        tries += 1
        raise UpstreamError("connect", "no")

    monkeypatch.setattr(client, "_request", failing)
    with pytest.raises(UpstreamError):
        async with client.send("POST", "/v1/x", (), b""):
            pass
    await client.aclose()
    assert tries == 1
