"""A FastAPI app that guards its own chat completions.

Run it with `uvicorn middleware_fastapi:app`, then ask it something:

    curl -i localhost:8000/v1/chat/completions -H 'content-type: application/json' \
         -d '{"model": "parrot", "messages": [{"role": "user", "content": "Hello"}]}'
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

from guardrail.asgi import GuardMiddleware
from guardrail.assembly import open_guard

guard = open_guard()  # or open_guard("guardrail.yaml"); the classifier is opened when the app starts


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with guard:
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(GuardMiddleware, guard=guard)


@app.post("/v1/chat/completions")
async def chat(request: Request) -> dict[str, object]:
    """The app's own model: it repeats what it is told. It is reached only by prompts that violate nothing."""
    body = await request.json()
    message = {"role": "assistant", "content": f"You said: {body['messages'][-1]['content']}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
