"""Unmodified clients of the other protocols, each behind the same small face: text in, what the caller holds in the end out."""

import os
from collections.abc import Callable
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise importing litellm reaches for the network

import anthropic
import litellm
import openai
from contract_clients import Got
from langchain_openai import ChatOpenAI


def completions_with_openai(url: str, text: str, model: str, stream: bool) -> Got:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=2) as client:
        if not stream:
            choice = client.completions.create(model=model, prompt=text).choices[0]
            return Got(choice.text, choice.finish_reason)
        choices = [chunk.choices[0] for chunk in client.completions.create(model=model, prompt=text, stream=True)]
        return Got("".join(choice.text for choice in choices), choices[-1].finish_reason)


def completions_with_litellm(url: str, text: str, model: str, stream: bool) -> Got:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=2) as inner:  # litellm would make one, and leave it open
        options: dict[str, Any] = {"api_base": url, "api_key": "none", "max_retries": 2, "prompt": text, "stream": stream, "client": inner}
        answer: Any = litellm.text_completion(model=f"text-completion-openai/{model}", **options)
        choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    return Got("".join(choice.text or "" for choice in choices), next(c.finish_reason for c in reversed(choices) if c.finish_reason))


def responses_with_openai(url: str, text: str, model: str, stream: bool) -> Got:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=2) as client:
        if not stream:
            whole = client.responses.create(model=model, input=text)
        else:
            last: Any = list(client.responses.create(model=model, input=text, stream=True))[-1]
            whole = last.response
    return Got(whole.output_text, whole.incomplete_details.reason if whole.incomplete_details else whole.status)


def responses_with_the_helper(url: str, text: str, model: str, stream: bool) -> Got:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=2) as client:
        if not stream:
            whole: Any = client.responses.parse(model=model, input=text)
            return Got(whole.output_text, whole.incomplete_details.reason if whole.incomplete_details else whole.status)
        with client.responses.stream(model=model, input=text) as events:
            told: Any = list(events)
        said = "".join(event.delta for event in told if event.type == "response.output_text.delta")
        whole = told[-1].response
        return Got(said, whole.incomplete_details.reason if whole.incomplete_details else whole.status)


def responses_with_langchain(url: str, text: str, model: str, stream: bool) -> Got:
    client = ChatOpenAI(base_url=url, api_key="none", model=model, max_retries=2, use_responses_api=True)  # type: ignore[arg-type]
    if stream:
        message: Any = None
        for chunk in client.stream(text):
            message = chunk if message is None else message + chunk
    else:
        message = client.invoke(text)
    details = message.response_metadata.get("incomplete_details")
    return Got(message.text, details["reason"] if details else message.response_metadata.get("status"))


def messages_with_anthropic(url: str, text: str, model: str, stream: bool) -> Got:
    messages: Any = [{"role": "user", "content": text}]
    with anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key="none", max_retries=2) as client:
        if not stream:
            whole = client.messages.create(model=model, max_tokens=64, messages=messages)
        else:
            with client.messages.stream(model=model, max_tokens=64, messages=messages) as events:
                said = "".join(events.text_stream)
                whole = events.get_final_message()
            assert said == "".join(block.text for block in whole.content if block.type == "text")
    return Got("".join(block.text for block in whole.content if block.type == "text"), whole.stop_reason)


def messages_with_anthropic_raw(url: str, text: str, model: str, stream: bool) -> Got:
    messages: Any = [{"role": "user", "content": text}]
    with anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key="none", max_retries=2) as client:
        if not stream:
            return messages_with_anthropic(url, text, model, stream)
        events: Any = list(client.messages.create(model=model, max_tokens=64, messages=messages, stream=True))
    said = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    return Got(said, next(event.delta.stop_reason for event in events if event.type == "message_delta"))


def messages_with_litellm(url: str, text: str, model: str, stream: bool) -> Got:
    options: dict[str, Any] = {"api_base": url.removesuffix("/v1"), "api_key": "none", "max_retries": 2, "max_tokens": 64}
    messages = [{"role": "user", "content": text}]
    answer: Any = litellm.completion(model=f"anthropic/{model}", messages=messages, stream=stream, **options)
    if not stream:
        return Got(answer.choices[0].message.content or "", answer.choices[0].finish_reason)
    choices = [chunk.choices[0] for chunk in answer]
    return Got("".join(c.delta.content or "" for c in choices), next(c.finish_reason for c in reversed(choices) if c.finish_reason))


Client = Callable[[str, str, str, bool], Got]
OTHERS: dict[str, tuple[Client, str, str]] = {
    "completions-openai": (completions_with_openai, "stop", "content_filter"),
    "completions-litellm": (completions_with_litellm, "stop", "content_filter"),
    "responses-openai": (responses_with_openai, "completed", "content_filter"),
    "responses-helper": (responses_with_the_helper, "completed", "content_filter"),
    "responses-langchain": (responses_with_langchain, "completed", "content_filter"),
    "messages-anthropic": (messages_with_anthropic, "end_turn", "refusal"),
    "messages-anthropic-raw": (messages_with_anthropic_raw, "end_turn", "refusal"),
    "messages-litellm": (messages_with_litellm, "stop", "content_filter"),
}
"""Each client with what it calls an answer that ended by itself, and one that was withheld."""
