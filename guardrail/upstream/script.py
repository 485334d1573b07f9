"""What the embedded upstream says, and how it is spelled in OpenAI's wire format, whole and in chunks."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

INSULT = "You are a worthless idiot, and everybody in this room despises you."
CREATED = 1_700_000_000
_MAX_CHOICES = 8
_PIECE = re.compile(r"\s*\S+\s*")


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice: a text, or a call of a tool by name with its arguments as JSON."""

    text: str | None
    tool: str | None = None
    arguments: str = ""

    @property
    def spoken(self) -> str:
        """What it says where there are no tools."""
        return self.text or self.arguments

    @property
    def finish_reason(self) -> str:
        """OpenAI's word for how it ended."""
        return "stop" if self.tool is None else "tool_calls"


@dataclass(frozen=True, slots=True)
class Script:
    """A whole answer before it is spelled."""

    id: str
    model: str
    choices: tuple[Choice, ...]
    prompt_tokens: int
    include_usage: bool

    @property
    def usage(self) -> dict[str, int]:
        """Tokens, counted as words."""
        spoken = sum(len((choice.text or choice.arguments).split()) for choice in self.choices)
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": spoken, "total_tokens": self.prompt_tokens + spoken}


def write_script(request: Mapping[str, object], answer_id: str) -> Script:
    """What is answered to a request: the same to the same request, whatever was asked before."""
    model = str(request.get("model"))
    prompt = _last_prompt(request) if "prompt" in request else _last_user_text(request)
    number = request.get("n")
    count = min(number, _MAX_CHOICES) if isinstance(number, int) and number > 0 else 1
    choice = Choice(_small_talk(prompt))
    if model in ("embedded-echo", "embedded-paced"):
        choice = Choice(prompt)
    elif model == "embedded-violating":
        choice = Choice(INSULT)
    elif model == "embedded-tools":
        choice = Choice(None, _first_tool(request), json.dumps({"query": prompt}))
    choices = (choice,) * count
    if model == "embedded-mixed":
        choices = (choice, Choice(INSULT))
    options = request.get("stream_options")
    include_usage = isinstance(options, dict) and options.get("include_usage") is True
    return Script(answer_id, model, choices, len(prompt.split()), include_usage)


def completion(script: Script) -> bytes:
    """The answer as one `chat.completion`."""
    choices = [
        {"index": index, "message": _message(choice), "logprobs": None, "finish_reason": choice.finish_reason}
        for index, choice in enumerate(script.choices)
    ]
    return json.dumps({**_head(script, "chat.completion"), "choices": choices, "usage": script.usage}).encode()


def text_completion(script: Script) -> bytes:
    """The answer as one `text_completion`."""
    choices = [
        {"index": index, "text": choice.spoken, "logprobs": None, "finish_reason": "stop"} for index, choice in enumerate(script.choices)
    ]
    return json.dumps({**_head(script, "text_completion"), "choices": choices, "usage": script.usage}).encode()


def text_chunks(script: Script) -> list[bytes]:
    """The same as the events of a stream, the choices taking turns, `[DONE]` last."""
    waiting = [[*((piece, None) for piece in pieces(choice.spoken)), ("", "stop")] for choice in script.choices]
    frames: list[bytes] = []
    head = _head(script, "text_completion")
    while any(waiting):
        for index, left in enumerate(waiting):
            if left:
                piece, reason = left.pop(0)
                choice = {"index": index, "text": piece, "logprobs": None, "finish_reason": reason}
                frames.append(event({**head, "choices": [choice]}))
    if script.include_usage:
        frames.append(event({**head, "choices": [], "usage": script.usage}))
    return [*frames, b"data: [DONE]\n\n"]


def embeddings(request: Mapping[str, object]) -> bytes:
    """Two numbers for each input: its length in characters and in words."""
    given = request.get("input")
    inputs = given if isinstance(given, list) else [given]
    texts = [item if isinstance(item, str) else "" for item in inputs]
    data = [
        {"object": "embedding", "index": index, "embedding": [float(len(text)), float(len(text.split()))]}
        for index, text in enumerate(texts)
    ]
    words = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": words, "total_tokens": words}
    return json.dumps({"object": "list", "data": data, "model": str(request.get("model")), "usage": usage}).encode()


def chunks(script: Script) -> list[bytes]:
    """The answer as the events of a stream, the choices taking turns, `[DONE]` last."""
    waiting = [_deltas(choice) for choice in script.choices]
    frames: list[bytes] = []
    while any(waiting):
        for index, deltas in enumerate(waiting):
            if deltas:
                delta, reason = deltas.pop(0)
                frames.append(_frame(script, [{"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}]))
    if script.include_usage:
        frames.append(_frame(script, [], usage=script.usage))
    return [*frames, b"data: [DONE]\n\n"]


def _deltas(choice: Choice) -> list[tuple[dict[str, object], str | None]]:
    found: list[tuple[dict[str, object], str | None]] = [({"role": "assistant", "content": "" if choice.tool is None else None}, None)]
    if choice.tool is None:
        found += [({"content": piece}, None) for piece in pieces(choice.text or "")]
    else:
        call = {"index": 0, "id": "call_embedded", "type": "function", "function": {"name": choice.tool, "arguments": ""}}
        found.append(({"tool_calls": [call]}, None))
        found += [({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}, None) for piece in pieces(choice.arguments)]
    return [*found, ({}, choice.finish_reason)]


def _message(choice: Choice) -> dict[str, object]:
    message: dict[str, object] = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.tool is not None:
        function = {"name": choice.tool, "arguments": choice.arguments}
        message["tool_calls"] = [{"id": "call_embedded", "type": "function", "function": function}]
    return message


def _head(script: Script, kind: str) -> dict[str, object]:
    return {"id": script.id, "object": kind, "created": CREATED, "model": script.model}


def _frame(script: Script, choices: list[dict[str, object]], **more: object) -> bytes:
    return event({**_head(script, "chat.completion.chunk"), "choices": choices, **more})


def event(document: Mapping[str, object]) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def pieces(text: str) -> list[str]:
    """Words with their spaces; joined again they are the text."""
    return _PIECE.findall(text) or ([text] if text else [])


def _last_user_text(request: Mapping[str, object]) -> str:
    messages = request.get("messages", request.get("input"))
    if isinstance(messages, str):
        return messages
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            return "".join(_texts(message.get("content")))
    return ""


def _last_prompt(request: Mapping[str, object]) -> str:
    prompt = request.get("prompt")
    last = prompt[-1] if isinstance(prompt, list) and prompt else prompt
    return last if isinstance(last, str) else ""


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for item in content:
            if isinstance(item, dict) and isinstance(item.get("text"), str):
                yield item["text"]


def _first_tool(request: Mapping[str, object]) -> str:
    tools = request.get("tools")
    first = tools[0] if isinstance(tools, list) and tools else None
    function = first.get("function") if isinstance(first, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    name = first.get("name") if isinstance(first, dict) and name is None else name
    return name if isinstance(name, str) else "lookup"


def _small_talk(prompt: str) -> str:
    lowered = prompt.lower()
    if re.search(r"\b(hello|hi|hey|good (morning|evening|afternoon))\b", lowered):
        return "Hello! I am the embedded demo model. Nice to meet you. What would you like to talk about?"
    if re.search(r"\b(thanks|thank you)\b", lowered):
        return "You are welcome. It was a pleasure to help."
    if "weather" in lowered:
        return "I cannot look outside, but I hope the sun is shining where you are."
    if lowered.rstrip().endswith("?"):
        return "That is a good question. I am only a small demo model, so a real upstream will answer it better than I can."
    return f"Thank you for your message of {len(prompt.split())} words. I am a small demo model, and I enjoyed reading it."
