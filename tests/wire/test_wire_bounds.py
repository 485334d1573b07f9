"""What a stream may take of memory is bounded, however little its events say: tiny ones count as more than they are long."""

import contextlib
import json
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable

import pytest

from guardrail.errors import UpstreamError
from guardrail.wire.chat_release import ChatRelease
from guardrail.wire.chat_stream import ChatStreamCollector
from guardrail.wire.completions import collect_completion
from guardrail.wire.dialects import DIALECTS
from guardrail.wire.messages_stream import MessageStreamCollector
from guardrail.wire.responses_stream import ResponseStreamCollector

MOST = 65_536
BLOCK = b'data: {"type":"message_start","message":{}}\n\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text"}}\n\n'
STREAMS = {
    "comments": b":\n\n" * (MOST // 3),
    "empty lines of data": b"data:\n" * (MOST // 6),
    "tiny deltas": b'data: {"choices":[{"delta":{"content":"ab"}}]}\n\n' * (MOST // 48),
    "tiny fields of deltas": b"".join(b'data: {"choices":[{"delta":{"x%d":1}}]}\n\n' % i for i in range(MOST // 44)),
    "tiny fields of frames": b"".join(b'data: {"q%d":"a"}\n\n' % i for i in range(MOST // 21)),
    "many fields": b'data: {"choices":[{"delta":{' + b",".join(b'"a%d":""' % i for i in range(MOST // 12)) + b"}}]}\n\n",
    "many items": b'data: {"choices":[{"delta":{"q":[' + b",".join([b'"ab"'] * (MOST // 6)) + b"]}}]}\n\n",
    "many objects": b'data: {"choices":[{"delta":{"q":[' + b",".join([b"{}"] * (MOST // 4)) + b"]}}]}\n\n",
    "usage": b'data: {"usage":{}}\n\n' * (MOST // 20),
    "pings": b'data: {"type":"ping"}\n\n' * (MOST // 24),
    "blocks": BLOCK + b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"ab"}}\n\n' * (MOST // 90),
    "places": b"".join(b'data: {"type":"response.a","delta":"ab","output_index":%d}\n\n' % i for i in range(MOST // 66)),
}
READERS: dict[str, Callable[[], object]] = {
    "chat": lambda: ChatStreamCollector(max_bytes=MOST),
    "chat, live": lambda: ChatRelease(max_bytes=MOST),
    "completions": lambda: collect_completion(MOST),
    "messages": lambda: MessageStreamCollector(max_bytes=MOST),
    "responses": lambda: ResponseStreamCollector(max_bytes=MOST),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_of_tiny_things_takes_no_more_than_some_times_its_bound(reader: str, kind: str) -> None:
    made = READERS[reader]()
    tracemalloc.start()
    with contextlib.suppress(UpstreamError):  # too large, or another protocol's
        for start in range(0, len(STREAMS[kind]), 4_096):
            made.receive(STREAMS[kind][start : start + 4_096])  # type: ignore[attr-defined]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * MOST


def test_an_ordinary_stream_is_taken_up_to_its_bytes() -> None:
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "model", "choices": [{"index": 0, "delta": {}}]}
    frame["choices"] = [{"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}]
    event = b"data: " + json.dumps(frame).encode() + b"\n\n"
    collector = ChatStreamCollector(max_bytes=MOST)
    for _ in range(MOST // len(event)):
        collector.receive(event)
    with pytest.raises(UpstreamError, match="longer than"):
        collector.receive(event)


def test_the_work_on_references_within_references_grows_with_their_size_and_not_their_depth() -> None:
    def calls(depth: int) -> int:
        value: object = {**{f"k{number}": "name" for number in range(500)}, "last": "some words"}
        for _ in range(depth):
            value = {"id": value}
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "note": value}).encode()
        counted = Counter[str]()
        request = DIALECTS["/v1/chat/completions"].parse_request(body)
        sys.setprofile(lambda frame, event, argument: counted.update((event,)))
        try:
            parts = request.parts
        finally:
            sys.setprofile(None)
        assert any(part.text and "some words" in part.text for part in parts)
        return counted["call"] + counted["c_call"]

    assert calls(40) < 2 * calls(4)
