"""The turns that a request continues but does not hold: fetched of the upstream that stored them, so that they can be judged."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from guardrail.asgi.tenant import CREDENTIALS
from guardrail.errors import UpstreamError, WireError
from guardrail.types import Part, Route
from guardrail.upstream.answer import Headers, Upstream
from guardrail.wire.document import UnreadableError
from guardrail.wire.stored import FIELD, StoredPage, is_id, read_stored_page, read_stored_response, stored_parts

LONGEST_CHAIN = 32
MOST_FETCHES = 96
MOST_BYTES = 8 * 1024 * 1024
WITHIN_S = 10.0
IDS_PER_TENANT = 4_096

_PATH = "/v1/responses"
_ACCOUNT = CREDENTIALS | {b"openai-organization", b"openai-project"}


class HandedOut:
    """The ids of the answers that each tenant was given, the latest `most` of them, so that nobody continues another tenant's.

    They are remembered in this process alone: after a restart, and in another worker, a turn is not continued.
    """

    def __init__(self, *, most: int = IDS_PER_TENANT) -> None:
        self._most = most
        self._ids: dict[str, OrderedDict[str, None]] = {}

    def add(self, tenant: str, answer: Mapping[str, object]) -> None:
        """Remember the id of an answer that a tenant was given, if it has one."""
        name = answer.get("id")
        if not isinstance(name, str) or not is_id(name):
            return
        ids = self._ids.setdefault(tenant, OrderedDict())
        ids[name] = None
        ids.move_to_end(name)
        if len(ids) > self._most:
            ids.popitem(last=False)

    def has(self, tenant: str, name: str) -> bool:
        """Whether the tenant was given the answer of this id."""
        return name in self._ids.get(tenant, ())


class StoredTurns:
    """Fetches stored turns, bounded in number, bytes, length of the chain and time.

    `private`: the client's credentials are ours and stay here, and an answer may be continued by the tenant it was given to, alone.
    """

    def __init__(self, upstreams: Mapping[str, Upstream], *, private: bool) -> None:
        self._upstreams = upstreams
        self._private = private
        self.handed_out = HandedOut()

    async def parts(self, name: str, route: Route, tenant: str, headers: Iterable[tuple[bytes, bytes]]) -> tuple[Part, ...]:
        """Everything in the turn of this id and in those before it. Raises WireError (400, or 502 or 504) where any of it cannot be had."""
        if self._private and not self.handed_out.has(tenant, name):
            raise _unresolved("It is not the id of an answer that this caller was given here, or that was too long ago.")
        if not route.input:
            return ()
        sent = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in headers if key in _ACCOUNT and not self._private]
        fetching = _Fetching(self._upstreams[route.upstream], [*sent, ("accept-encoding", "identity")])
        try:
            async with asyncio.timeout(WITHIN_S):
                return await fetching.chain(name)
        except TimeoutError:
            raise WireError(504, "upstream_error", "The stored turns could not be fetched in time.", param=FIELD) from None
        except UnreadableError:
            raise _unresolved("What it stands for cannot be read.") from None
        except UpstreamError as error:
            if error.code in ("malformed", "too_large"):
                raise _unresolved("What it stands for cannot be read.") from None
            raise WireError(502, "upstream_error", "The stored turns could not be fetched of the upstream.", param=FIELD) from None


class _Fetching:
    """One chain of turns being fetched."""

    def __init__(self, upstream: Upstream, headers: Headers) -> None:
        self._upstream = upstream
        self._headers = headers
        self._fetches = 0
        self._bytes = 0

    async def chain(self, name: str) -> tuple[Part, ...]:
        """The parts of every turn up to this one, the first turn's first."""
        found: list[tuple[Part, ...]] = []
        seen = set[str]()
        following: str | None = name
        while following is not None:
            if len(seen) >= LONGEST_CHAIN or following in seen:
                raise UnreadableError(f"the chain of stored turns is longer than {LONGEST_CHAIN}")
            seen.add(following)
            turn = read_stored_response(await self._get(f"{_PATH}/{following}"), following)
            found.append(stored_parts(len(seen) - 1, await self._input(following), turn.items))
            following = turn.previous
        return tuple(part for parts in reversed(found) for part in parts)

    async def _input(self, name: str) -> tuple[object, ...]:
        items: list[object] = []
        page = StoredPage((), "")
        while page.after is not None:
            start = f"&after={page.after}" if page.after else ""
            page = read_stored_page(await self._get(f"{_PATH}/{name}/input_items?limit=100&order=asc{start}"))
            items += page.items
        return tuple(items)

    async def _get(self, path: str) -> bytes:
        self._fetches += 1
        if self._fetches > MOST_FETCHES:
            raise UnreadableError(f"the stored turns take more than {MOST_FETCHES} requests")
        content = bytearray()
        async with self._upstream.send("GET", path, self._headers, b"") as answer:
            if answer.status != 200:
                raise UnreadableError(f"the upstream answered with status {answer.status}")
            async for chunk in answer.chunks():
                self._bytes += len(chunk)
                if self._bytes > MOST_BYTES:
                    raise UnreadableError(f"the stored turns are larger than {MOST_BYTES} bytes")
                content += chunk
        return bytes(content)


def refused() -> WireError:
    """Where a route does not resolve stored turns."""
    message = f"{FIELD} is not served here: what it stands for cannot be judged. Send the turns themselves."
    return WireError(400, "unsupported_parameter", message, param=FIELD)


def _unresolved(why: str) -> WireError:
    return WireError(400, "unresolved_turns", f"{FIELD} cannot be judged, so it is refused. {why} Send the turns themselves.", param=FIELD)
