"""A guarded proxy with its console, in this process, and a client that is signed in to it."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette

from guardrail.asgi.app import make_app
from guardrail.assembly import open_guard
from guardrail.audit.chain import Chains
from guardrail.audit.keys import StoreKeys
from guardrail.audit.ledger import Ledger, connect
from guardrail.audit.made import record_of
from guardrail.audit.record import Content
from guardrail.audit.store import AuditReader
from guardrail.config.models import Config
from guardrail.config.tenants import hash_key
from guardrail.console.app import Console
from guardrail.events import DecisionMade, Event
from guardrail.testing import RecordingSink, ScriptedClassifier, contains
from guardrail.upstream.embedded import EmbeddedUpstream
from guardrail.upstream.in_process import InProcessUpstream

HERE = "http://127.0.0.1:8080"
KEY = "admin-key-of-the-tests"
FORM = {"origin": HERE}
CHAT = "/v1/chat/completions"
POLICIES = {"folder": str(Path(__file__).parents[1] / "asgi" / "policies"), "shipped": False}  # one small policy: quick to read


def config(console: Mapping[str, Any] | None = None, **sections: Any) -> Config:
    """One small policy on one route, with a console."""
    return Config.model_validate({"console": {"admin_key": hash_key(KEY), **(console or {})}, "policies": POLICIES, **sections})


@dataclass
class Consoled:
    """What a test looks at. `client` comes from this machine and keeps its cookies."""

    app: Starlette
    client: httpx.AsyncClient
    classifier: ScriptedClassifier
    sink: RecordingSink

    async def sign_in(self, key: str = KEY, **fields: str) -> httpx.Response:
        """Send the form."""
        return await self.client.post("/console/login", data={"key": key, **fields}, headers=FORM)

    async def page(self, path: str) -> str:
        """A page's document; it must be there."""
        response = await self.client.get(f"/console/{path}")
        assert response.status_code == 200, (path, response.status_code, response.text)
        return response.text

    async def twin(self, path: str) -> Any:
        """What its twin says."""
        response = await self.client.get(f"/console/{path}")
        assert response.status_code == 200, (path, response.status_code, response.text)
        return response.json()

    async def send(self, path: str, **fields: str) -> httpx.Response:
        """A form of ours, with its token."""
        found = (await self.page("health")).partition('name="token" value="')[2].partition('"')[0]
        return await self.client.post(f"/console/{path}", data={"token": found, **fields}, headers=FORM)

    async def ask(self, text: str, **headers: str) -> httpx.Response:
        """A chat completion through the guard."""
        body = {"model": "embedded-chat", "messages": [{"role": "user", "content": text}]}
        return await self.client.post(CHAT, json=body, headers=headers)


class Keeping:
    """An event sink that has each decision in a store before anything else happens, with its text where `content` says so."""

    def __init__(self, path: Path, content: Content = "none") -> None:
        self.content: Content = content
        self.keys = StoreKeys(Chains(), (b"t" * 32,))
        self._ledger = Ledger(connect(path, synchronous="off"), self.keys)
        self.at: float | None = None

    def emit(self, event: Event) -> None:
        """Write a decision."""
        if isinstance(event, DecisionMade):
            record = record_of(event, b"t" * 32, time=self.at or time.time(), trace=("ab" * 16, "cd" * 8))
            kept = replace(record, keeps=self.content, content=event.parts if self.content == "full" else None)
            self._ledger.append([kept])

    def close(self) -> None:
        """Close the store."""
        self._ledger.close()


@asynccontextmanager
async def consoled(
    settings: Config | None = None,
    *,
    signed_in: bool = True,
    classifier: ScriptedClassifier | None = None,
    store: Path | None = None,
    content: Content = "none",
) -> AsyncIterator[Consoled]:
    """The proxy and its console, running; with an audit store where `store` names a file."""
    settings = settings or config()
    classifier = classifier or ScriptedClassifier({"harassment": contains("forbidden")})
    sink = RecordingSink()
    keeping = None if store is None else Keeping(store, content)
    upstreams = dict.fromkeys(settings.upstreams, InProcessUpstream(EmbeddedUpstream()))
    sinks: list[Any] = [sink] if keeping is None else [sink, keeping]
    beside: list[Any] = []
    console = None if settings.console is None else Console(settings.console)
    if console is not None:
        sinks.append(console.history)
    service = open_guard(settings, classifiers=dict.fromkeys(settings.classifiers, classifier), sinks=sinks)
    if console is not None:
        beside = console.routes(service, None if keeping is None or store is None else AuditReader(store, keeping.keys))
    app = make_app(service, upstreams, beside=beside)
    async with app.router.lifespan_context(app), here(app) as client:
        made = Consoled(app, client, classifier, sink)
        if signed_in:
            assert (await made.sign_in()).status_code == 303
        yield made
        if keeping is not None:
            keeping.close()


def here(app: Any, *, address: str = "127.0.0.1", base_url: str = HERE) -> httpx.AsyncClient:
    """A client of the app at an address."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 50_000)), base_url=base_url)
