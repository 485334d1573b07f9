"""Every inference protocol that is guarded, by its path. A path that is not here is answered 404."""

from collections.abc import Mapping
from types import MappingProxyType

from guardrail.wire.chat import read_answer, read_request, replace_blocked
from guardrail.wire.chat_release import TEXT, ChatRelease
from guardrail.wire.chat_stream import ChatStreamCollector
from guardrail.wire.completions import collect_completion, completion_block_reply, read_completion, read_completion_request, replace_texts
from guardrail.wire.dialect import Dialect, Moderated
from guardrail.wire.embeddings import read_embeddings, read_embeddings_request, without_embeddings
from guardrail.wire.messages import (
    message_block_reply,
    message_error,
    message_error_event,
    read_message,
    read_messages_request,
    replace_message,
)
from guardrail.wire.messages_release import MessageRelease
from guardrail.wire.messages_stream import MessageStreamCollector
from guardrail.wire.moderated import chat_moderation, moderated_chat, moderated_response, read_moderation, response_moderation
from guardrail.wire.refusal import input_block_reply
from guardrail.wire.responses import (
    read_response,
    read_responses_request,
    replace_response,
    response_block_reply,
    response_error_event,
)
from guardrail.wire.responses_release import ResponseRelease
from guardrail.wire.responses_stream import ResponseStreamCollector

CHAT = Dialect(
    name="openai.chat",
    path="/v1/chat/completions",
    operation="chat",
    param="messages",
    read_request=read_request,
    read_answer=read_answer,
    replace_blocked=replace_blocked,
    collector=lambda most: ChatStreamCollector(max_bytes=most),
    release=lambda most: ChatRelease(max_bytes=most),
    block_reply=input_block_reply,
    moderation=Moderated(read_moderation, chat_moderation, moderated_chat),
)

COMPLETIONS = Dialect(
    name="openai.completions",
    path="/v1/completions",
    operation="text_completion",
    param="prompt",
    read_request=read_completion_request,
    read_answer=read_completion,
    replace_blocked=replace_texts,
    collector=collect_completion,
    release=lambda most: ChatRelease(max_bytes=most, shape=TEXT),
    block_reply=completion_block_reply,
)
EMBEDDINGS = Dialect(
    name="openai.embeddings",
    path="/v1/embeddings",
    operation="embeddings",
    param="input",
    read_request=read_embeddings_request,
    read_answer=read_embeddings,
    replace_blocked=without_embeddings,
)
MESSAGES = Dialect(
    name="anthropic.messages",
    path="/v1/messages",
    operation="chat",
    param="messages",
    read_request=read_messages_request,
    read_answer=read_message,
    replace_blocked=replace_message,
    collector=lambda most: MessageStreamCollector(max_bytes=most),
    release=lambda most: MessageRelease(max_bytes=most),
    block_reply=message_block_reply,
    shape=message_error,
    error_event=message_error_event,
)
RESPONSES = Dialect(
    name="openai.responses",
    path="/v1/responses",
    operation="chat",
    param="input",
    read_request=read_responses_request,
    read_answer=read_response,
    replace_blocked=replace_response,
    collector=lambda most: ResponseStreamCollector(max_bytes=most),
    release=lambda most: ResponseRelease(max_bytes=most),
    block_reply=response_block_reply,
    moderation=Moderated(read_moderation, response_moderation, moderated_response),
    error_event=response_error_event,
)

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {dialect.path: dialect for dialect in (CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES)}
)
"""The dialect of each guarded path."""
