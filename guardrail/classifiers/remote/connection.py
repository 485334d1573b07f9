"""One server that classifies, over HTTP: pooled connections, JSON in and out, nothing believed that cannot be read."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

from guardrail.classifiers.remote.faults import TryError, refusal
from guardrail.classifiers.remote.retry import persistent
from guardrail.wire.document import UnreadableError, parse_object

EXCERPT_BYTES = 16_384  # of an error's body


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is and how hard it may be asked: `connections` questions at once, `answer_bytes` at most in each answer.

    Raises ValueError for a `base_url` that is not http(s), or holds a user, query or fragment, and for a key that no header can hold.
    """

    base_url: str
    api_key: str | None = field(default=None, repr=False)
    connections: int = 32
    connect_timeout_s: float = 5.0
    answer_bytes: int = 1_048_576

    def __post_init__(self) -> None:
        url = URL(self.base_url)
        if url.scheme not in {"http", "https"} or not url.host or url.query or url.fragment or url.user:
            raise ValueError("a classifier's base_url is http(s)://host[:port][/path], without user, query or fragment")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ValueError("the API key holds characters that an HTTP header cannot; set its variable to the key alone")


class Connection:
    """POSTs questions to an endpoint. For one event loop; its session opens with the first question and lives until `aclose`.

    Certificates are verified, redirects refused, cookies neither kept nor sent, proxies of the environment not used. The key is in the
    Authorization header only: no error, log or repr holds it.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._root = endpoint.base_url.rstrip("/")
        self._places = asyncio.Semaphore(endpoint.connections)  # aiohttp's own queue would cancel who waits in it when it is closed
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    @property
    def width(self) -> int:
        """Questions that are put at once at most; further ones wait."""
        return self._endpoint.connections

    async def post(self, path: str, question: Mapping[str, object], *, deadline: float) -> dict[str, object]:
        """The JSON object that a question is answered with.

        Raises ClassifierError: crash, timeout, overloaded and too_long for what the server refuses or breaks off, malformed for an
        answer that is too large or no JSON object. Retries (see `persistent`) end by `deadline`, a `time.monotonic()` instant; the try
        under way is not ended by it: the caller bounds the time.
        """
        body = json.dumps(question, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        answer: dict[str, object] = await persistent(deadline)(self._try, path, body)
        return answer

    async def aclose(self) -> None:
        """Close the pool; questions under way fail. Idempotent."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _try(self, path: str, body: bytes) -> dict[str, object]:
        url = URL(self._root + path)
        place = f"POST {url.path} at {url.host}:{url.port}"
        async with self._places:
            with _translated(place):
                async with self._open_session().post(url, data=body, allow_redirects=False) as response:
                    if response.status != 200:
                        excerpt = await response.content.read(EXCERPT_BYTES)
                        raise refusal(place, response.status, response.headers, excerpt)
                    _require_json(place, response)
                    received = await self._bounded(place, response)
        try:
            return parse_object(received)
        except UnreadableError as error:
            raise TryError("malformed", f"{place} gave an answer that cannot be read: {error}") from None

    async def _bounded(self, place: str, response: aiohttp.ClientResponse) -> bytes:
        """The whole body, which must arrive whole and small: it is a few numbers."""
        received = bytearray()
        try:
            async for chunk in response.content.iter_any():
                received += chunk
                if len(received) > self._endpoint.answer_bytes:
                    raise TryError("malformed", f"{place} answered with more than {self._endpoint.answer_bytes:,} bytes")
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, ConnectionError) as error:
            raise TryError("malformed", f"{place} broke off in the middle of its answer") from error
        return bytes(received)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise TryError("crash", "this classifier is closed")
        if self._session is None:
            headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
            if self._endpoint.api_key is not None:
                headers["Authorization"] = f"Bearer {self._endpoint.api_key}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._endpoint.connections),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._endpoint.connect_timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=headers,
                auto_decompress=False,  # an answer is small; one that unpacks to gigabytes is not unpacked
                trust_env=False,
            )
        return self._session


def _require_json(place: str, response: aiohttp.ClientResponse) -> None:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise TryError("malformed", f"{place} compressed its answer, which was not asked for")
    if response.content_type != "application/json" and not response.content_type.endswith("+json"):
        raise TryError("malformed", f"{place} answered with another type than application/json; is base_url the API's address?")


@contextmanager
def _translated(place: str) -> Iterator[None]:
    """aiohttp's errors as ours, most specific first. What never reached the server, or was dropped unanswered, may be tried again."""
    try:
        yield
    except aiohttp.ClientSSLError as error:
        raise TryError("crash", f"{place} could not be trusted: its TLS certificate or protocol is not accepted") from error
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise TryError("crash", f"{place} could not be connected to", again=True) from error
    except (aiohttp.ClientConnectionError, ConnectionError) as error:
        raise TryError("crash", f"{place} dropped the connection before it answered", again=True) from error
    except (aiohttp.ClientError, ValueError) as error:
        raise TryError("malformed", f"{place} gave no HTTP that can be read") from error
