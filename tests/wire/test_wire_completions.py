"""Text completions and embeddings: everything that somebody could read is a part, and a blocked choice leaves nothing behind."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.errors import UpstreamError, WireError
from guardrail.wire.completions import collect_completion, completion_block_reply, replace_texts
from guardrail.wire.dialects import COMPLETIONS, EMBEDDINGS
from guardrail.wire.embeddings import without_embeddings

RESULTS = {"p": {"filtered": True, "detected": True, "score": 0.9}}
CHOICES: list[dict[str, Any]] = [
    {"text": " a kind word", "index": 0, "logprobs": None, "finish_reason": "stop"},
    {"text": " a rude word", "index": 1, "logprobs": None, "finish_reason": "length"},
]
HEAD = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "gpt-3.5-turbo-instruct"}
USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
ANSWER = json.dumps({**HEAD, "choices": CHOICES, "usage": USAGE}).encode()
STREAM = b"".join(
    b"data: " + json.dumps(frame).encode() + b"\n\n"
    for frame in [
        {**HEAD, "choices": [{"index": 0, "text": " a kind", "logprobs": None, "finish_reason": None}]},
        {**HEAD, "choices": [{"index": 1, "text": " a rude", "logprobs": None, "finish_reason": None}]},
        {**HEAD, "choices": [{"index": 0, "text": " word", "logprobs": None, "finish_reason": "stop"}]},
        {**HEAD, "choices": [{"index": 1, "text": " word", "logprobs": None, "finish_reason": "length"}]},
        {**HEAD, "choices": [], "usage": USAGE},
    ]
) + b"data: [DONE]\n\n"  # fmt: skip


def request(**fields: Any) -> Any:
    return COMPLETIONS.parse_request(json.dumps({"model": "m", **fields}).encode())


def texts(parts: Any) -> list[tuple[str, str | None]]:
    return [(part.path, part.text) for part in parts]


class TestRequest:
    @pytest.mark.parametrize(
        ("prompt", "found"),
        [
            ("one", [("prompt", "one")]),
            (["one", "two"], [("prompt[0]", "one"), ("prompt[1]", "two")]),
            ([1, 2], [("prompt", None)]),
            ([[1, 2], [3]], [("prompt", None)]),
            (["one", [1, 2]], [("prompt[0]", "one"), ("prompt[1]", None)]),
            (["12", "7"], [("prompt[0]", "12"), ("prompt[1]", "7"), ("prompt", None)]),
            (["2 + 2 ="], [("prompt[0]", "2 + 2 =")]),
            ([7.5], [("prompt[0]", None)]),
            (5, [("prompt", None)]),
            (False, [("prompt", None)]),
            ({"prompt_token_ids": [1, 2, 3]}, [("prompt", None), ("prompt", None)]),
            ({"prompt": "one"}, [("prompt", "one"), ("prompt", None)]),
            ([{"prompt_token_ids": [1, 2, 3]}], [("prompt[0][0]", None), ("prompt[0][0]", None)]),
            (None, []),
            ([], []),
        ],
    )
    def test_each_prompt_is_a_part_and_token_ids_cannot_be_read(self, prompt: Any, found: Any) -> None:
        assert texts(request(prompt=prompt).parts) == found

    def test_all_else_that_a_model_could_read_is_a_part_too(self) -> None:
        asked = request(prompt="p", suffix="s", prompt_embeds="AAAA", unknown={"deep": ["u"]}, user="me", stop=["x"], echo=True)
        assert texts(asked.parts) == [("prompt", "p"), ("suffix", "s"), ("prompt_embeds", None), ("body.unknown", "u")]

    @pytest.mark.parametrize("given", [5, {"prompt_token_ids": [1, 2, 3]}, [{"tokens": [1]}], {"a": 1}])
    def test_an_input_to_embed_that_is_no_text_cannot_be_read(self, given: Any) -> None:
        parts = EMBEDDINGS.parse_request(json.dumps({"model": "m", "input": given}).encode()).parts
        assert None in [part.text for part in parts]

    @pytest.mark.parametrize(
        "fields",
        [{"prompt": "x", "n": 129}, {"prompt": ["x"] * 65, "n": 2}, {"prompt": "x", "stream": 1}, {"Prompt": "x"}, {"model": 5}],
    )
    def test_what_could_be_read_otherwise_is_refused(self, fields: Any) -> None:
        with pytest.raises(WireError):
            request(**fields)

    def test_a_blocked_prompt_is_answered_once_for_each_choice(self, blocked: Any) -> None:
        asked = request(prompt=["a", "b"], n=2)
        told = json.loads(completion_block_reply(blocked, asked, "No.", 7).body)
        assert [(c["index"], c["text"], c["finish_reason"]) for c in told["choices"]] == [(i, "No.", "content_filter") for i in range(4)]
        streamed = completion_block_reply(blocked, request(prompt="a", stream=True, stream_options={"include_usage": True}), "No.", 7)
        assert streamed.body.count(b"data: ") == 3
        assert streamed.body.endswith(b"data: [DONE]\n\n")


@pytest.fixture
def blocked() -> Any:
    from guardrail.types import Action, Decision, Outcome, Stage

    return Decision("d", Stage.INPUT, Outcome(Action.BLOCK, Action.BLOCK, {}, False, False), (), (), "r", "t", 1, 0.0)


class TestAnswer:
    def test_each_choice_is_judged_by_itself_with_its_log_probabilities(self) -> None:
        choice = {**CHOICES[0], "logprobs": {"tokens": [" another", " word"], "text_offset": [0, 1]}}
        answer = COMPLETIONS.parse_answer(json.dumps({**HEAD, "choices": [choice, CHOICES[1]], "extra": "e"}).encode())
        assert [(part.choice, part.path, part.text) for part in answer.parts] == [
            (0, "choices[0].text", " a kind word"),
            (0, "choices[0].logprobs.tokens", " another word"),
            (1, "choices[1].text", " a rude word"),
            (0, "answer.extra", "e"),
        ]

    def test_only_the_blocked_choice_is_replaced_and_usage_is_kept(self) -> None:
        told = json.loads(replace_texts(COMPLETIONS.parse_answer(ANSWER), {1: RESULTS}, "No."))
        assert told["choices"][0] == CHOICES[0]
        assert (told["choices"][1]["text"], told["choices"][1]["finish_reason"]) == ("No.", "content_filter")
        assert (told["usage"], b"rude" in json.dumps(told).encode()) == (USAGE, False)

    @pytest.mark.parametrize("body", [b"{}", b"[]", b'{"choices": 1}', b'{"choices": ["x"]}', b'{"choices": [{"index": -1}]}'])
    def test_what_is_no_completion_is_an_error(self, body: bytes) -> None:
        with pytest.raises(UpstreamError):
            COMPLETIONS.parse_answer(body)

    @settings(deadline=None)
    @given(st.lists(st.integers(0, len(STREAM)), max_size=8))
    def test_a_stream_in_any_chunking_is_judged_as_the_whole_answer(self, cuts: list[int]) -> None:
        collector = collect_completion(10**6)
        places = [0, *sorted(cuts), len(STREAM)]
        for start, end in itertools.pairwise(places):
            collector.receive(STREAM[start:end])
        collector.finish()
        assert collector.parts() == COMPLETIONS.parse_answer(ANSWER).parts
        assert b"".join(collector.release()) == STREAM
        assert (collector.usage, collector.finish_reasons) == (USAGE, {0: "stop", 1: "length"})

    def test_a_blocked_choice_of_a_stream_is_replaced_alone(self) -> None:
        collector = collect_completion(10**6)
        collector.receive(STREAM)
        collector.finish()
        told = b"".join(collector.replaced({1: RESULTS}, "No."))
        frames = [json.loads(event.removeprefix(b"data: ")) for event in told.split(b"\n\n")[:-2]]
        said = {0: "", 1: ""}
        for frame in frames:
            for choice in frame["choices"]:
                said[choice["index"]] += choice["text"]
        assert said == {0: " a kind word", 1: "No."}
        assert (frames[-1]["usage"], b"rude" in told, told.endswith(b"data: [DONE]\n\n")) == (USAGE, False, True)

    def test_a_stream_that_ends_early_is_an_error(self) -> None:
        collector = collect_completion(10**6)
        collector.receive(STREAM[: STREAM.index(b" word")])
        with pytest.raises(UpstreamError):
            collector.finish()


class TestEmbeddings:
    @pytest.mark.parametrize(
        ("fields", "found"),
        [
            ({"input": "one"}, [("input", "one")]),
            ({"input": ["one", "two"], "dimensions": 2}, [("input[0]", "one"), ("input[1]", "two")]),
            ({"input": [1, 2]}, [("input", None)]),
            ({"input": [[1], [2]]}, [("input", None)]),
            ({"input": [{"type": "text", "text": "t"}]}, [("input[0][0].text", "t")]),
            ({"input": [{"type": "image_url", "image_url": {"url": "http://x"}}]}, [("input[0][0]", None)]),
            ({"messages": [{"role": "user", "content": "m"}]}, [("messages[0].content", "m")]),
            ({"input": "one", "instruction": "two"}, [("input", "one"), ("body.instruction", "two")]),
        ],
    )
    def test_every_input_is_judged(self, fields: Any, found: Any) -> None:
        assert texts(EMBEDDINGS.parse_request(json.dumps({"model": "m", **fields}).encode()).parts) == found

    def test_vectors_say_nothing_and_all_beside_them_is_judged(self) -> None:
        data = [
            {"object": "embedding", "index": 0, "embedding": [0.5, -1]},
            {"object": "embedding", "index": 1, "embedding": "AACAPw=="},
            {"object": "embedding", "index": 2, "embedding": "a sentence!", "note": "n"},
        ]
        answer = EMBEDDINGS.parse_answer(json.dumps({"object": "list", "data": data, "model": "m", "usage": USAGE}).encode())
        assert texts(answer.parts) == [("data[2].embedding", "a sentence!"), ("data[2].note", "n")]
        told = json.loads(without_embeddings(answer, {0: RESULTS}, None))
        assert (told["data"], told["usage"]) == ([], USAGE)
