"""Unmodified client libraries, each behind the same small face."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise importing litellm reaches for the network

import litellm
import openai
from langchain_openai import ChatOpenAI


@dataclass
class Got:
    """What the caller of the library holds in the end."""

    text: str
    finish: str | None


def with_openai(url: str, text: str, model: str, stream: bool) -> Got:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=2)
    messages: Any = [{"role": "user", "content": text}]
    with client:
        if not stream:
            choice = client.chat.completions.create(model=model, messages=messages).choices[0]
            return Got(choice.message.content or "", choice.finish_reason)
        chunks = [
            chunk.choices[0] for chunk in client.chat.completions.create(model=model, messages=messages, stream=True) if chunk.choices
        ]
        return Got(
            "".join(chunk.delta.content or "" for chunk in chunks), next(c.finish_reason for c in reversed(chunks) if c.finish_reason)
        )


def with_langchain(url: str, text: str, model: str, stream: bool) -> Got:
    client = ChatOpenAI(base_url=url, api_key="none", model=model, max_retries=2)  # type: ignore[arg-type]
    if not stream:
        message = client.invoke(text)
        return Got(str(message.content), message.response_metadata.get("finish_reason"))
    chunks = list(client.stream(text))
    finish = [chunk.response_metadata["finish_reason"] for chunk in chunks if chunk.response_metadata.get("finish_reason")]
    return Got("".join(str(chunk.content) for chunk in chunks), finish[-1])


def with_litellm(url: str, text: str, model: str, stream: bool) -> Got:
    options: dict[str, Any] = {"api_base": url, "api_key": "none", "max_retries": 2, "messages": [{"role": "user", "content": text}]}
    if not stream:
        choice = litellm.completion(model=f"openai/{model}", **options).choices[0]
        return Got(choice.message.content or "", choice.finish_reason)
    chunks = [chunk.choices[0] for chunk in litellm.completion(model=f"openai/{model}", stream=True, **options)]
    return Got("".join(chunk.delta.content or "" for chunk in chunks), next(c.finish_reason for c in reversed(chunks) if c.finish_reason))


def with_the_helper(url: str, text: str, model: str, stream: bool) -> Got:
    """`.parse()` and `.stream()`, which raise an error of their own for an answer that was withheld."""
    messages: Any = [{"role": "user", "content": text}]
    with openai.OpenAI(base_url=url, api_key="none", max_retries=2) as client:
        if not stream:
            choice = client.chat.completions.parse(model=model, messages=messages).choices[0]
            return Got(choice.message.content or "", choice.finish_reason)
        with client.chat.completions.stream(model=model, messages=messages) as events:
            last = events.get_final_completion().choices[0]
    return Got(last.message.content or "", last.finish_reason)


Client = Callable[[str, str, str, bool], Got]
CLIENTS: dict[str, Client] = {"openai": with_openai, "langchain": with_langchain, "litellm": with_litellm}
HELPERS: dict[str, Client] = {"openai-helpers": with_the_helper}
