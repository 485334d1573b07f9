"""What a user could run instead, out of transformers: generate one by one, generate in padded batches, one kept cache a policy.

All of them use eager attention: transformers' own default for this architecture has been one that leaves the soft cap out and answers
wrongly. One forward pass gives the answer, so one new token is asked for.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from guardrail.evaluation.engine_work import CONTENTS, ONE, ZERO, Answers, Ids, Work


class Transformers:
    """`judge_*` answer requests (policy 0) chosen by the number of the round, so that over the rounds many answers are compared."""

    def __init__(self, model: Any, work: Work) -> None:
        from transformers import GenerationConfig  # noqa: PLC0415  (an extra, and seconds of import)

        self._model = model
        self._work = work
        self._device = next(model.parameters()).device
        untyped: Any = GenerationConfig
        self._settings = untyped(
            max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True, eos_token_id=None, pad_token_id=0
        )
        self._caches: dict[int, Any] = {}

    def judge(self, policy: int, content: int) -> float:
        """One answer, the plain way."""
        return self.answer(self._work.prompt(policy, content))

    def answer(self, prompt: Ids) -> float:
        """The answer to a whole prompt."""
        return self._generate([prompt])[0]

    def judge_one_by_one(self, number: int, *, requests: int) -> Answers:
        """`generate` for each request."""
        return {(0, content): self.judge(0, content) for content in chosen(number, requests)}

    def judge_padded(self, number: int, *, requests: int) -> Answers:
        """One `generate` for all of them, padded to the longest."""
        contents = chosen(number, requests)
        found = self._generate([self._work.prompt(0, content) for content in contents])
        return {(0, content): answer for content, answer in zip(contents, found, strict=True)}

    def judge_cached(self, number: int, *, requests: int) -> Answers:
        """The documented way to re-use a prefix: its cache is filled once and deep-copied for each request."""
        return {(0, content): self._generate([self._work.prompt(0, content)], self._kept(0))[0] for content in chosen(number, requests)}

    def cache_bytes(self) -> int:
        """What the kept cache of one policy measures, and each request copies."""
        layers = self._kept(0).layers
        return sum(part.numel() * part.element_size() for layer in layers for part in (layer.keys, layer.values))

    def _kept(self, policy: int) -> Any:
        if policy not in self._caches:
            from transformers import DynamicCache  # noqa: PLC0415

            cache = DynamicCache(config=self._model.config)
            ids = torch.from_numpy(self._work.policies[policy]).long()[None].to(self._device)
            with torch.inference_mode():
                self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            self._caches[policy] = cache
        return self._caches[policy]

    def _generate(self, prompts: Sequence[Ids], kept: Any = None) -> list[float]:
        ids, mask = padded(prompts, self._device)
        extra = {} if kept is None else {"past_key_values": copy.deepcopy(kept)}
        with torch.inference_mode():
            found = self._model.generate(ids, attention_mask=mask, generation_config=self._settings, **extra)
        return probabilities(found.logits[0])


def chosen(number: int, requests: int) -> list[int]:
    """The contents of a round: the next `requests` of them, round and round."""
    return [(number * requests + place) % CONTENTS for place in range(requests)]


def padded(prompts: Sequence[Ids], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, filled up on the left as a decoder needs it."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, prompt in enumerate(prompts):
        ids[number, longest - len(prompt) :] = torch.from_numpy(prompt)
        mask[number, longest - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def probabilities(logits: Tensor) -> list[float]:
    """p1 / (p0 + p1) of each row of final logits [rows, vocabulary]."""
    pair = logits[:, [ZERO, ONE]].float()
    found: list[float] = torch.softmax(pair, -1)[:, 1].tolist()
    return found
