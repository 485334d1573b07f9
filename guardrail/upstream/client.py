"""An OpenAI-shaped upstream over HTTP: one pooled aiohttp session, bytes passed through."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import aiohttp
from yarl import URL

from guardrail.errors import UpstreamError
from guardrail.upstream.answer import Headers, Limits, Timeouts, UpstreamAnswer
from guardrail.upstream.bounded import bounded, joined
from guardrail.upstream.headers import forwarded, returned
from guardrail.upstream.retry import FIRST_PAUSE_S, RetryBudget, connect_retry, may_retry

MOST_PATHS = 16  # addresses kept ready
_PATH = re.compile(r"(?:/[A-Za-z0-9._~:@!$&'()*+,;=-]+)+/?(?:\?[^#\s]*)?")


class UpstreamClient:
    """`base_url` is the API's root as OpenAI clients write it (`https://host/v1`); a leading `/v1` of a path is not repeated.

    With `api_key` set, the client's credentials are replaced by it (in `key_header`), otherwise passed through. Raises ValueError for a
    `base_url` that is not http(s). Redirects are not followed and not passed on (they would lead clients around the guard),
    cookies are neither kept nor sent, proxies from the environment are not used.
    One client belongs to one event loop; its session opens with the first request and lives until `aclose`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        key_header: str = "authorization",
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
    ) -> None:
        url = URL(base_url)
        if url.scheme not in {"http", "https"} or not url.host or url.query or url.fragment or url.user:
            raise ValueError("an upstream's base_url is http(s)://host[:port][/path], without user, query or fragment")
        self._root = str(url).rstrip("/")
        self._api_key = api_key
        self._key_header = key_header
        self._timeouts = timeouts or Timeouts()
        self._limits = limits or Limits()
        self._retries = RetryBudget(self._limits.retry_budget)
        self._urls: dict[str, URL] = {}
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    @asynccontextmanager
    async def send(self, method: str, path: str, headers: Headers, body: bytes) -> AsyncIterator[UpstreamAnswer]:
        """See `Upstream.send`. A failed connect is retried (nothing was sent), within the time for one connect and the retry
        budget; a request that reached the upstream never is."""
        url = self._url(path)
        sent = forwarded(headers, self._api_key, key_header=self._key_header)
        response = await self._connected(method, url, sent, body)
        try:
            if 300 <= response.status < 400:
                raise UpstreamError("malformed", f"the upstream answered with a redirect ({response.status}), which is not followed")
            yield _HttpAnswer(response, self._limits.answer_bytes)
        finally:
            response.close()  # back to the pool if it was read to its end, cut off otherwise

    async def aclose(self) -> None:
        """Close the pool. Idempotent."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _connected(self, method: str, url: URL, headers: list[tuple[str, str]], body: bytes) -> aiohttp.ClientResponse:
        """The first try goes straight, since nearly all succeed and setting up retries costs as much as the request."""
        connect_s, began = self._timeouts.connect_s, time.monotonic()
        self._retries.request()
        try:
            return await self._request(method, url, headers, body)
        except UpstreamError as error:
            left_s = connect_s - (time.monotonic() - began) - FIRST_PAUSE_S
            if not may_retry(error) or left_s <= 0 or not self._retries.take():
                raise
        await asyncio.sleep(FIRST_PAUSE_S)
        again = connect_retry(self._retries, within_s=left_s)
        response: aiohttp.ClientResponse = await again(self._request, method, url, headers, body)
        return response

    async def _request(self, method: str, url: URL, headers: list[tuple[str, str]], body: bytes) -> aiohttp.ClientResponse:
        with _translated():
            return await self._open_session().request(method, url, headers=headers, data=body or None, allow_redirects=False)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise UpstreamError("connect", "the upstream client is closed")
        if self._session is None:
            connect, read = self._timeouts.connect_s, self._timeouts.read_s
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._limits.connections),
                timeout=aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=connect, sock_read=read),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Content-Type", "Accept"),
                trust_env=False,
            )
        return self._session

    def _url(self, path: str) -> URL:
        """The address under the root, and under nothing else: a path with dot segments, doubled slashes or escapes is refused."""
        if path in self._urls:
            return self._urls[path]
        if not _PATH.fullmatch(path) or any(segment in {".", ".."} for segment in path.partition("?")[0].split("/")):
            raise UpstreamError("malformed", "the path to the upstream is not a plain path")
        url = URL(self._root + (path.removeprefix("/v1") if path.startswith("/v1/") else path), encoded=True)
        if len(self._urls) < MOST_PATHS:
            self._urls[path] = url
        return url


class _HttpAnswer:
    def __init__(self, response: aiohttp.ClientResponse, max_bytes: int) -> None:
        self._response = response
        self._max_bytes = max_bytes
        self.status = response.status
        self.headers = returned(list(response.headers.items()))

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, once."""
        return bounded(self._body(), self._max_bytes)

    async def read(self) -> bytes:
        """The whole body."""
        return await joined(self.chunks())

    async def _body(self) -> AsyncIterator[bytes]:
        with _translated():
            async for chunk in self._response.content.iter_any():
                yield chunk


@contextmanager
def _translated() -> Iterator[None]:
    """aiohttp's errors as ours, most specific first. No message quotes an address, which may hold a key."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise UpstreamError("connect", "the upstream could not be connected to in time") from error
    except TimeoutError as error:
        raise UpstreamError("timeout", "the upstream did not send anything in time") from error
    except aiohttp.ClientConnectorError as error:
        raise UpstreamError("connect", "the upstream could not be connected to") from error
    except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError) as error:
        raise UpstreamError("disconnect", "the upstream broke off") from error
    except (aiohttp.ClientError, ValueError) as error:
        raise UpstreamError("malformed", "the upstream's answer is not HTTP that can be read") from error
