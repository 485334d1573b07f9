"""A tiny random model behind HTTP, in the shapes of vLLM, SGLang, llama.cpp's server and Zentropi's label API.

Each shape spells its request's prompt by itself, with the tokenizer that lies beside the weights, as the real servers do.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from aiohttp import web
from remote_server import Asked, says
from transformers import AutoTokenizer, Gemma2ForCausalLM

from guardrail.policy.prompt import render

DIGITS_LIKELY = 45.0  # added to both digits' logits, whose difference it leaves alone: a random model would sooner say something else


class ServedModel:
    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = Gemma2ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        self.zero, self.one = (self.tokenizer.encode(digit, add_special_tokens=False)[0] for digit in "01")
        self.prompts: list[list[int]] = []

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """At the last token, by transformers' own eager forward over the whole prompt."""
        found: torch.Tensor = self.model(input_ids=torch.tensor([list(ids)])).logits[0, -1].double()
        return found

    def probability(self, ids: Sequence[int]) -> float:
        """p("1") / (p("0") + p("1"))."""
        logits = self.logits(ids)
        return float(torch.sigmoid(logits[self.one] - logits[self.zero]))

    def logprobs(self, ids: Sequence[int]) -> torch.Tensor:
        self.prompts.append(list(ids))
        logits = self.logits(ids).clone()
        logits[[self.zero, self.one]] += DIGITS_LIKELY
        return torch.log_softmax(logits, dim=-1)

    def spelled(self, prompt: str | list[int]) -> list[int]:
        ids: list[int] = prompt if isinstance(prompt, list) else self.tokenizer(prompt)["input_ids"]
        return ids

    def top(self, ids: Sequence[int], k: int) -> list[tuple[int, str, float]]:
        likeliest = self.logprobs(ids).topk(k)
        pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
        return [(token, self.tokenizer.decode([token]), logprob) for token, logprob in pairs]


def vllm(served: ServedModel) -> Any:
    """`/generative_scoring`, `/completions` in the legacy shape with ids for names where asked, `/chat/completions`."""

    def reply(asked: Asked) -> web.Response:
        body = asked.body
        if asked.path == "/generative_scoring":
            ids = body["query"] + body["items"][0]
            found = served.logprobs(ids)[body["label_token_ids"]]
            score = float((torch.softmax(found, 0) if body["apply_softmax"] else found.exp())[0])
            return say(data=[{"index": 0, "object": "score", "score": score}], usage={"prompt_tokens": len(ids)})
        if asked.path == "/chat/completions":
            spoken = served.tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, tokenize=False)
            ids = served.tokenizer(spoken, add_special_tokens=False)["input_ids"]
            listed = [{"token": text, "logprob": logprob, "bytes": []} for _, text, logprob in served.top(ids, body["top_logprobs"])]
            return say(choices=[{"index": 0, "logprobs": {"content": [{**listed[0], "top_logprobs": listed}]}}])
        ids = served.spelled(body["prompt"])
        found = served.top(ids, body["logprobs"])
        if wanted := body.get("logprob_token_ids"):
            logprobs = served.logprobs(ids)
            found = [found[0], *((token, "", float(logprobs[token])) for token in wanted)]
        numbered = bool(body.get("return_tokens_as_token_ids"))
        named = {f"token_id:{token}" if numbered else text: max(logprob, -9999.0) for token, text, logprob in found}
        return say(choices=[{"text": "", "logprobs": {"top_logprobs": [named]}}], usage={"prompt_tokens": len(ids)})

    def say(**parts: Any) -> web.Response:
        response: web.Response = says({"object": "list", "model": "tiny"} | parts)(Asked("", {}, {}, 0))
        return response

    return reply


def llama_cpp(served: ServedModel) -> Any:
    """`/completions` with `content` and an `id` for each token, other parameters overlooked."""

    def reply(asked: Asked) -> web.Response:
        ids = served.spelled(asked.body["prompt"])
        top = served.top(ids, asked.body["logprobs"])
        listed = [{"id": token, "token": text, "bytes": [], "logprob": logprob} for token, text, logprob in top]
        choice = {"text": listed[0]["token"], "index": 0, "logprobs": {"content": [{**listed[0], "top_logprobs": listed}]}}
        told = {"choices": [choice], "model": "tiny.gguf", "system_fingerprint": "b1-tiny", "usage": {"prompt_tokens": len(ids)}}
        response: web.Response = says(told)(asked)
        return response

    return reply


def label_server(served: ServedModel) -> Any:
    """`/label`: the prompt is the server's own business."""

    def reply(asked: Asked) -> web.Response:
        found = served.logprobs(served.spelled(render(asked.body["criteria_text"], asked.body["content_text"])))
        zero, one = math.exp(found[served.zero]), math.exp(found[served.one])
        p = one / (zero + one)
        response: web.Response = says({"label": int(p >= 0.5), "confidence": max(p, 1 - p), "explanation": None, "model": "tiny"})(asked)
        return response

    return reply
