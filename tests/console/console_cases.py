"""A guarded proxy with its console, in this process, and a client that is signed in to it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette

from guardrail.assembly import build_app
from guardrail.config.models import Config
from guardrail.config.tenants import hash_key
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


@asynccontextmanager
async def consoled(
    settings: Config | None = None, *, signed_in: bool = True, classifier: ScriptedClassifier | None = None
) -> AsyncIterator[Consoled]:
    """The proxy and its console, running."""
    settings = settings or config()
    classifier = classifier or ScriptedClassifier({"harassment": contains("forbidden")})
    sink = RecordingSink()
    app = build_app(
        settings,
        classifiers=dict.fromkeys(settings.classifiers, classifier),
        upstreams=dict.fromkeys(settings.upstreams, InProcessUpstream(EmbeddedUpstream())),
        sinks=[sink],
    )
    async with app.router.lifespan_context(app), here(app) as client:
        made = Consoled(app, client, classifier, sink)
        if signed_in:
            assert (await made.sign_in()).status_code == 303
        yield made


def here(app: Any, *, address: str = "127.0.0.1", base_url: str = HERE) -> httpx.AsyncClient:
    """A client of the app at an address."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 50_000)), base_url=base_url)
